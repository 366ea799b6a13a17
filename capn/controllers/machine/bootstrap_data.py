"""Phase BootstrapDataReady: the machine's cloud-init user-data is in its Secret, and its join token is alive.

The token is derived from the CA's key and the machine's UID: one a machine, nothing to store, the same after any crash,
and nobody without the CA's key can guess it. It lives 15 minutes, is prolonged while the machine boots and revoked when
it has joined. The machine that initializes the cluster has one as well: else kubeadm makes one that lives for a day.
Must not: run once the machine has joined.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from capn import names
from capn.api.cluster import NestedCluster
from capn.api.conditions import MachineCondition
from capn.api.resources import SECRET
from capn.build.pki import ClusterPki, KeyPair, issue_server
from capn.build.secrets import build_bootstrap_secret, read_secret_value
from capn.build.tokens import NAMESPACE, TOKEN_VALID, build_token_secret, generate_token, token_secret_name
from capn.controllers.credentials import find_controller, refuse_former_owner
from capn.controllers.machine.live import refuse_if_deleting
from capn.controllers.machine.scope import MachineScope
from capn.controllers.machine.user_data import build_machine_user_data
from capn.controllers.phases import Wait
from capn.errors import ConflictError, TerminalError, TransientError, UnreachableError
from capn.kube.client import KubeClient

log = structlog.get_logger(__name__)

TOKEN_RENEW_BEFORE = timedelta(minutes=7)
# However long a restore is paused; the machine has the CA's key anyway.
SERVING_VALID = timedelta(days=365)
_TOKEN_PURPOSE = b"capn bootstrap token v1\0"


async def reconcile_bootstrap_data(scope: MachineScope) -> Wait | None:
    """Wait for what the data needs, then read or make the Secret; keep the join token alive."""
    if scope.superseded:
        return Wait("WaitingForRestore", "this control plane is replaced by one that begins with a snapshot")
    if scope.bootstrapped:
        return None
    cluster = scope.cluster
    if cluster is None or cluster.status.endpoint is None:
        return Wait("WaitingForCluster", "the cluster has no endpoint yet")
    if not (scope.initializes or scope.cluster_initialized):
        return Wait("WaitingForControlPlane", "joins once the first control plane is initialized")
    meta = cluster.metadata
    credentials = await scope.deps.credentials.load(meta.namespace, meta.name, meta.uid)
    if credentials.pki is None or credentials.kubeconfig is None:
        return Wait("WaitingForCertificates", "the cluster's certificates are being made", 5.0)
    if not scope.initializes:
        child = await scope.deps.children.open(scope.provider, scope.ref.cluster, credentials.kubeconfig)
        await _prolong_token(scope, child.client, derive_token(credentials.pki, scope.ref.uid))
    if not scope.was_true(MachineCondition.BOOTSTRAP_DATA_READY):
        scope.bootstrap_data = await ensure_secret(scope, credentials.pki)
    return None


async def load_bootstrap_data(scope: MachineScope) -> bytes:
    """The user-data, for a VM that is to be made; from this reconcile, from the Secret, or built anew."""
    if scope.bootstrap_data is not None:
        return scope.bootstrap_data
    ref = scope.ref.cluster
    credentials = await scope.deps.credentials.load(ref.namespace, ref.name, ref.uid)
    if credentials.pki is None:
        raise TransientError("the cluster's certificates are not there")
    scope.bootstrap_data = await ensure_secret(scope, credentials.pki)
    return scope.bootstrap_data


async def ensure_secret(scope: MachineScope, pki: ClusterPki) -> bytes:
    """What the machine's bootstrap Secret holds, made if it is missing. TerminalError when it is another's."""
    client, namespace = scope.deps.client, scope.machine.metadata.namespace
    name = names.secret_bootstrap(scope.name)
    existing = await client.get(SECRET, name, namespace)
    if existing is None:
        secret = build_bootstrap_secret(scope.machine, build_user_data_for(scope, pki, await _ensure_address(scope)))
        try:
            existing = await client.create(SECRET, secret)
        except ConflictError:
            existing = await client.get(SECRET, name, namespace)
    if existing is None:
        raise TransientError(f"Secret {name} came and went while it was being made")
    refuse_former_owner(existing, scope.machine.metadata.uid)
    if find_controller(existing) is None:
        raise TerminalError(
            f"Secret {name} exists and is not this machine's; delete it or rename the cluster", reason="OwnedByAnother"
        )
    return read_secret_value(existing, "value", remakeable=True)


async def _ensure_address(scope: MachineScope) -> str | None:
    """The node's address where the provider keeps one; it may make something for it, so the look before is uncached."""
    if not scope.provider.keeps_addresses:
        return None
    await refuse_if_deleting(scope)
    return await scope.provider.ensure_address(scope.ref)


def build_user_data_for(scope: MachineScope, pki: ClusterPki, node_address: str | None) -> bytes:
    """The machine's user-data; the same bytes for the same cluster, machine, PKI and address, unless it is restored."""
    cluster = scope.cluster
    if cluster is None or cluster.status.endpoint is None:
        raise TransientError("the cluster has no endpoint yet")
    return build_machine_user_data(
        cluster=cluster,
        machine=scope.machine,
        endpoint=cluster.status.endpoint,
        pki=pki,
        provider_id=scope.provider_id,
        token=derive_token(pki, scope.ref.uid),
        joins=not scope.initializes,
        node_address=node_address,
        serving=_issue_serving(scope, cluster, pki) if scope.machine.spec.bootstrap.restore is not None else None,
    )


def _issue_serving(scope: MachineScope, cluster: NestedCluster, pki: ClusterPki) -> KeyPair:
    """What the guest shows of itself until its API server has a certificate: all the names that lead to it."""
    endpoint, access = cluster.status.endpoint, cluster.status.access
    known = [*([endpoint.host] if endpoint is not None else []), *([access.server_name] if access is not None else [])]
    return issue_server(pki.ca, common_name="capn-restore", sans=known, now=scope.deps.now(), valid=SERVING_VALID)


def derive_token(pki: ClusterPki, machine_uid: str) -> str:
    """The machine's bootstrap token (`[a-z0-9]{6}.[a-z0-9]{16}`)."""
    digest = hmac.new(pki.ca.key_pem, _TOKEN_PURPOSE + machine_uid.encode(), hashlib.sha256).digest()
    return generate_token(digest)


async def _prolong_token(scope: MachineScope, client: KubeClient, token: str) -> None:
    """Needed before the data goes out; later a child that is silent for a while must not hide what the guest says."""
    try:
        await keep_token_alive(scope, client, token)
    except UnreachableError:
        if not scope.was_true(MachineCondition.BOOTSTRAP_DATA_READY):
            raise
        log.info("the child is silent; the token is prolonged when it answers", machine=scope.name)


async def keep_token_alive(scope: MachineScope, client: KubeClient, token: str) -> None:
    """Make the token in the child, or prolong it; never past the machine's own deadline."""
    now = scope.deps.now()
    deadline = scope.deadline()
    if deadline is not None and now >= deadline:
        return
    live = await client.get(SECRET, token_secret_name(token), NAMESPACE)
    if live is not None and _expiry(live) - now > TOKEN_RENEW_BEFORE:
        return
    secret = build_token_secret(
        token, expires=now + TOKEN_VALID, description=f"capn: {scope.name} joins", machine_uid=scope.ref.uid
    )
    await client.apply(SECRET, secret)


def _expiry(secret: dict[str, Any]) -> datetime:
    """When the live token ends; one that cannot be read counts as ended, so that it is written anew."""
    try:
        return datetime.fromisoformat(base64.b64decode(secret["data"]["expiration"]).decode()).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        return datetime.min.replace(tzinfo=UTC)


async def revoke_token(client: KubeClient, pki: ClusterPki, machine_uid: str) -> None:
    """Delete the machine's token in the child; gone already is fine."""
    await client.delete(SECRET, token_secret_name(derive_token(pki, machine_uid)), NAMESPACE)
