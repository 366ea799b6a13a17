"""Phases CertificatesAvailable and KubeconfigReady: PKI and kubeconfig exist as Secrets before any VM does.

PKI Secrets that a user made are taken as they are, as long as a cluster can be built on them: they are neither owned
nor changed nor deleted. Must not: make a CA in place of one that was there.
"""

from __future__ import annotations

from typing import Any

from capn import names
from capn.api.conditions import ClusterCondition
from capn.api.resources import SECRET
from capn.build.ca_check import check_new_pki, find_ending_ca
from capn.build.kubeconfig import ServerAddress, build_kubeconfig
from capn.build.kubeconfig_renewal import compute_renewal, issue_admin
from capn.build.leaf_expiry import find_ending_leaf
from capn.build.pki import ClusterPki, generate_pki
from capn.build.secrets import build_kubeconfig_secret, build_pki_secrets, pki_from_secrets, read_secret_value
from capn.controllers.cluster.renewal import renew_if_due
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.credentials import Credentials, find_controller, refuse_former_owner
from capn.controllers.phases import Wait
from capn.errors import ConflictError, TerminalError, TransientError
from capn.providers.base import ObservedCluster


async def reconcile_certificates(scope: ClusterScope) -> Wait | None:
    """Read the PKI, or make what was never there. A CA that was there once and is lost is never made again."""
    ref, store = scope.ref, scope.deps.credentials
    scope.credentials = await store.load(ref.namespace, ref.name, ref.uid)
    pki = scope.credentials.pki
    if pki is None:
        pki = await _create_missing(scope, dict(scope.credentials.found))
        scope.credentials = Credentials(pki=pki, kubeconfig=scope.credentials.kubeconfig)
    if not was_complete(scope):
        check_new_pki(ref.name, pki, now=scope.deps.now())
    else:
        _notice_endings(scope, pki)
    return None


def _notice_endings(scope: ClusterScope, pki: ClusterPki) -> None:
    """The end of a CA first, since nothing but another cluster helps against it."""
    now = scope.deps.now()
    leaves = {machine.metadata.name: machine.status.certificates for machine in scope.control_planes()}
    if (ending := find_ending_ca(scope.ref.name, pki, now=now)) is not None:
        scope.notices[ClusterCondition.CERTIFICATES_AVAILABLE] = ("CAExpiring", ending)
    elif (ending := find_ending_leaf(leaves, now=now)) is not None:
        scope.notices[ClusterCondition.CERTIFICATES_AVAILABLE] = ("LeafCertificateExpiring", ending)


async def _create_missing(scope: ClusterScope, present: dict[str, dict[str, Any]]) -> ClusterPki:
    ref, deps = scope.ref, scope.deps
    wanted = build_pki_secrets(scope.cluster, generate_pki(now=deps.now(), cluster=ref.name))
    missing = [secret for secret in wanted if secret["metadata"]["name"] not in present]
    if missing and was_complete(scope):
        lost = ", ".join(secret["metadata"]["name"] for secret in missing)
        raise TerminalError(
            f"Secret {lost} is gone; capn never replaces the keys of a running cluster, since its nodes would no longer"
            " trust it: restore the Secret from a backup, or delete the NestedCluster and make it anew",
            reason="CertificatesLost",
        )
    for secret in missing:
        name = secret["metadata"]["name"]
        try:
            present[name] = await deps.client.create(SECRET, secret)
        except ConflictError:
            existing = await deps.client.get(SECRET, name, ref.namespace)
            if existing is None:
                raise TransientError(f"Secret {name} came and went while it was being made") from None
            refuse_former_owner(existing, ref.uid)
            present[name] = existing
    return pki_from_secrets(ref.name, present)


def was_complete(scope: ClusterScope) -> bool:
    """Whether the PKI was whole once: the kubeconfig and the first machine are made after it and need it.

    Not the condition CertificatesAvailable: that turns False with the loss, or with one failed read.
    """
    has_kubeconfig = scope.credentials is not None and scope.credentials.kubeconfig is not None
    return (
        has_kubeconfig or scope.initialized or bool(scope.machines) or scope.was_true(ClusterCondition.KUBECONFIG_READY)
    )


async def reconcile_kubeconfig(scope: ClusterScope) -> Wait | None:
    """The administrator's kubeconfig, signed by the cluster's CA; an existing one is taken; ours is renewed."""
    credentials = scope.credentials
    if credentials is None or (pki := credentials.pki) is None:
        raise TransientError("the certificates are not there yet")
    if credentials.kubeconfig is not None:
        credentials = await renew_if_due(scope, credentials, pki)
    if credentials.kubeconfig is None:
        credentials = await _create_kubeconfig(scope, pki)
        scope.deps.credentials.keep(scope.ref.uid, credentials)
    scope.credentials = credentials
    return None


async def _create_kubeconfig(scope: ClusterScope, pki: ClusterPki) -> Credentials:
    infrastructure = scope.require_infrastructure()
    text = build_kubeconfig(
        cluster=scope.ref.name,
        server=_build_server(infrastructure),
        ca_pem=pki.ca.cert_pem,
        client=issue_admin(pki.ca, now=scope.deps.now()),
    )
    try:
        secret = await scope.deps.client.create(SECRET, build_kubeconfig_secret(scope.cluster, text))
    except ConflictError:
        existing = await scope.deps.client.get(SECRET, names.secret_kubeconfig(scope.ref.name), scope.ref.namespace)
        if existing is None:
            raise
        refuse_former_owner(existing, scope.ref.uid)
        secret = existing
    kubeconfig = read_secret_value(secret, "value", remakeable=True)
    renew_at = compute_renewal(kubeconfig, pki.ca) if find_controller(secret) == scope.ref.uid else None
    return Credentials(pki=pki, kubeconfig=kubeconfig, renew_at=renew_at)


def _build_server(infrastructure: ObservedCluster) -> ServerAddress:
    """The endpoint, or the way to it that the provider has where there is no other from here."""
    if (route := infrastructure.route) is not None:
        return ServerAddress(f"https://{route.host}:{route.port}", route.server_name)
    return ServerAddress(f"https://{infrastructure.endpoint_host}:{infrastructure.endpoint_port}")
