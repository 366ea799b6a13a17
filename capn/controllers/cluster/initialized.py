"""Phase ControlPlaneInitialized: the child's API answers and holds kubeadm's own record of a finished init.

What counts is the ConfigMap `kubeadm-config`, which kubeadm uploads after the control plane is healthy (Cluster API's
criterion too). Must not: write to the child.
"""

from __future__ import annotations

import json
import re

import structlog

from capn.api.conditions import MachineCondition, find
from capn.api.machine import NestedMachine
from capn.api.resources import CONFIG_MAP
from capn.build import kubeadm_record
from capn.controllers.child_pool import Child
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Wait
from capn.errors import ApiStatusError, CapnError, TransientError, UnreachableError
from capn.kube.client import KubeClient

log = structlog.get_logger(__name__)

# The guest's report of success wakes this phase at once; the poll is for a guest whose console cannot be read.
POLL_S = 15.0
_VERSION = re.compile(r"v[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}[-+.a-z0-9]{0,20}")


async def reconcile_initialized(scope: ClusterScope) -> Wait | None:
    """Open the child and look; wait while the first machine boots, and say what it is waiting for."""
    credentials = scope.credentials
    if credentials is None or credentials.kubeconfig is None:
        raise TransientError("the kubeconfig is not there yet")
    if not scope.initialized and (wait := compute_machine_wait(scope.control_planes())) is not None:
        return wait
    scope.child = await scope.deps.children.open(scope.provider, scope.ref, credentials.kubeconfig)
    return await _look(scope, scope.child)


async def _look(scope: ClusterScope, child: Child) -> Wait | None:
    try:
        config = await child.client.get(CONFIG_MAP, kubeadm_record.NAME, kubeadm_record.NAMESPACE)
        version = await read_version(child.client)
    except (UnreachableError, ApiStatusError) as error:
        if scope.initialized:
            raise
        log.debug("the child's API server does not answer yet", error=str(error))
        return Wait("WaitingForAPIServer", "the child's API server does not answer yet", POLL_S)
    if config is None:
        return Wait("WaitingForKubeadm", "the child's API answers; kubeadm has not finished its init yet", POLL_S)
    scope.child_version = version
    scope.kubeadm_config = config
    await scope.deps.children.sync_nodes(scope.ref)
    return None


def compute_machine_wait(control_planes: list[NestedMachine]) -> Wait | None:
    """Why it is too early to call the child at all: no machine, or one that has no VM yet."""
    if not control_planes:
        return Wait("WaitingForMachine", "the first control-plane machine is being created")
    first = control_planes[0]
    infrastructure = find(first.status.conditions, MachineCondition.INFRASTRUCTURE_READY)
    if infrastructure is None or infrastructure.status != "True":
        why = "" if infrastructure is None else f": {infrastructure.message}"
        return Wait("WaitingForMachine", f"{first.metadata.name} has no running VM yet{why}")
    bootstrap = find(first.status.conditions, MachineCondition.BOOTSTRAP_SUCCEEDED)
    if bootstrap is not None and bootstrap.status == "False" and first.status.failure_reason:
        return Wait("BootstrapFailed", f"{first.metadata.name}: {bootstrap.message}", POLL_S)
    return None


async def read_version(client: KubeClient) -> str:
    """The child's version, from its /version; untrusted, so anything odd is refused."""
    status, body = await client.get_raw("/version")
    if status != 200:  # noqa: PLR2004 - HTTP's OK
        raise ApiStatusError(status, "the child's /version does not answer")
    try:
        version = json.loads(body)["gitVersion"]
    except (ValueError, KeyError, TypeError) as error:
        raise CapnError("the child's /version is not what an API server says", reason="ChildAnswerInvalid") from error
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise CapnError("the child's /version holds no version", reason="ChildAnswerInvalid")
    return version
