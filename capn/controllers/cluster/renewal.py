"""Renews the client certificate in the kubeconfig's Secret, once two thirds of its life are over.

The child must have accepted the new certificate before it replaces the old one. So a controller whose clock is wrong
changes nothing: what it would write is not valid yet, or not any more, and the child says so. One patch of one key
writes it, with the resource version as precondition: the Secret can be read all the while, and whoever has the old
certificate keeps it until it ends. Must not: renew what is not capn's own, or fail a cluster that works.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta

import structlog

from capn import names
from capn.api.conditions import ClusterCondition
from capn.api.resources import CONFIG_MAP, NESTED_CLUSTER, SECRET
from capn.build import kubeadm_record
from capn.build.kubeconfig_renewal import compute_renewal, issue_admin, renew_kubeconfig
from capn.build.owners import build_subject
from capn.build.pki import ClusterPki
from capn.build.secrets import read_secret_value
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.credentials import Credentials, find_controller
from capn.errors import CapnError

log = structlog.get_logger(__name__)

# When the child does not answer, or refuses the certificate. Far apart: months are left, and somebody has to look.
RETRY = timedelta(minutes=10)
EVENT_FAILED = "KubeconfigRenewalFailed"


async def renew_if_due(scope: ClusterScope, credentials: Credentials, pki: ClusterPki) -> Credentials:
    """The credentials to go on with: the same, or with a new kubeconfig that the child accepts."""
    if credentials.renew_at is None:
        message = (
            f"the client certificate in Secret {names.secret_kubeconfig(scope.ref.name)} is not capn's own, so capn"
            " does not renew it; delete the Secret to have one made that it does"
        )
        scope.notices[ClusterCondition.KUBECONFIG_READY] = ("UserProvided", message)
        return credentials
    if scope.deps.now() < credentials.renew_at:
        return credentials
    try:
        renewed = await _renew(scope, pki)
    except CapnError as error:
        _tell(scope, error)
        renewed = replace(credentials, renew_at=scope.deps.now() + RETRY)
    scope.deps.credentials.keep(scope.ref.uid, renewed)
    return renewed


async def _renew(scope: ClusterScope, pki: ClusterPki) -> Credentials:
    """From the Secret as it is now, not as it is remembered: another controller may have been faster."""
    client, ref, now = scope.deps.client, scope.ref, scope.deps.now()
    name = names.secret_kubeconfig(ref.name)
    secret = await client.get(SECRET, name, ref.namespace)
    if secret is None:
        return Credentials(pki=pki, kubeconfig=None)
    current = read_secret_value(secret, "value", remakeable=True)
    due = compute_renewal(current, pki.ca) if find_controller(secret) == ref.uid else None
    if due is None or now < due:
        return Credentials(pki=pki, kubeconfig=current, renew_at=due)
    renewed = renew_kubeconfig(current, issue_admin(pki.ca, now=now))
    if scope.initialized:
        await _try(scope, renewed)
    patch = {
        "metadata": {"resourceVersion": secret["metadata"]["resourceVersion"]},
        "data": {"value": base64.b64encode(renewed).decode()},
    }
    if await client.merge_patch(SECRET, name, ref.namespace, patch) is None:
        return Credentials(pki=pki, kubeconfig=None)
    log.info("kubeconfig renewed", namespace=ref.namespace, cluster=ref.name)
    return Credentials(pki=pki, kubeconfig=renewed, renew_at=compute_renewal(renewed, pki.ca))


async def _try(scope: ClusterScope, kubeconfig: bytes) -> None:
    """A read that only an administrator may make. Raises what the child answers to it."""
    client = await scope.provider.open_child(scope.ref, kubeconfig)
    try:
        await client.get(CONFIG_MAP, kubeadm_record.NAME, kubeadm_record.NAMESPACE)
    finally:
        await client.close()


def _tell(scope: ClusterScope, error: CapnError) -> None:
    log.warning("the kubeconfig cannot be renewed yet", cluster=scope.ref.name, reason=error.reason, error=str(error))
    scope.deps.recorder.event(
        build_subject(NESTED_CLUSTER, scope.cluster.metadata),
        "Warning",
        EVENT_FAILED,
        f"the child does not accept a new client certificate yet ({error.reason}); the old one is kept. If this lasts,"
        " look at the clocks of the controller and of the child's machines",
    )
