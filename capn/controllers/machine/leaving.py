"""A step of a control plane's deletion: it gives the endpoint to another one before anything of it is taken away.

Role: asks the machine by a mark in a directory that etcd's pod shares with it, and looks until the guest says that it
is done (capn/build/guest/leave.sh). Whoever calls the child's API all the while meets a control plane that serves.
Must not: hold a removal up for longer than a few minutes: one whose guest knows nothing of this goes all the same.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from capn.build.virtual_address import LEAVING_MARK, LEFT_MARK
from capn.controllers.machine.node import open_child
from capn.controllers.machine.scope import MachineScope
from capn.controllers.phases import Wait
from capn.errors import CapnError
from capn.kube.etcd import EtcdClient

log = structlog.get_logger(__name__)

POLL_S = 3.0
LIMIT = timedelta(minutes=3)


async def leave_endpoint(scope: MachineScope) -> Wait | None:
    """Wait until the machine neither has the endpoint's address nor serves the API. Only for one that lives."""
    if scope.cluster is None or scope.cluster.status.endpoint is None or not scope.cluster.status.endpoint.virtual:
        return None
    key = f"{scope.machine.metadata.uid}/leaving"
    trouble = "the control plane hands the endpoint's address over and ends its API server"
    try:
        etcd = EtcdClient((await open_child(scope)).client)
        await etcd.touch(scope.name, LEAVING_MARK)
        if await etcd.has_file(scope.name, LEFT_MARK):
            scope.deps.patience.renew(key)
            return None
    except CapnError as error:
        trouble = f"the control plane cannot be told that it is to leave: {error}"
    if scope.deps.patience.lasts(key, scope.deps.now(), LIMIT):
        return Wait("LeavingEndpoint", trouble, POLL_S)
    log.warning("removed without having left the endpoint", machine=scope.name, why=trouble)
    scope.deps.patience.renew(key)
    return None
