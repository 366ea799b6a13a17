"""Phases CertificatesAvailable and KubeconfigReady: PKI and kubeconfig exist as Secrets before any VM does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from capn import names
from capn.api.conditions import ClusterCondition
from capn.api.resources import SECRET
from capn.build.kubeconfig import ServerAddress, build_kubeconfig
from capn.build.pki import ClusterPki, generate_pki, issue_client
from capn.build.secrets import build_kubeconfig_secret, build_pki_secrets, pki_from_secrets, read_secret_value
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.credentials import Credentials, refuse_former_owner
from capn.controllers.phases import Wait
from capn.errors import ConflictError, TerminalError, TransientError
from capn.providers.base import ObservedCluster

KUBECONFIG_VALID = timedelta(days=365)


async def reconcile_certificates(scope: ClusterScope) -> Wait | None:
    """Read the PKI, or make what was never there. A CA that was there once and is lost is never made again."""
    ref, store = scope.ref, scope.deps.credentials
    scope.credentials = await store.load(ref.namespace, ref.name, ref.uid)
    if scope.credentials.pki is None:
        pki = await _create_missing(scope, dict(scope.credentials.found))
        scope.credentials = Credentials(pki=pki, kubeconfig=scope.credentials.kubeconfig)
    return None


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
    """The administrator's kubeconfig, signed by the cluster's CA; an existing one is taken as it is."""
    credentials = scope.credentials
    if credentials is None or credentials.pki is None:
        raise TransientError("the certificates are not there yet")
    if credentials.kubeconfig is None:
        kubeconfig = await _create_kubeconfig(scope, credentials.pki)
        scope.credentials = Credentials(pki=credentials.pki, kubeconfig=kubeconfig)
        scope.deps.credentials.keep(scope.ref.uid, scope.credentials)
    return None


async def _create_kubeconfig(scope: ClusterScope, pki: ClusterPki) -> bytes:
    infrastructure = scope.require_infrastructure()
    client = issue_client(
        pki.ca,
        common_name="kubernetes-admin",
        organizations=("system:masters",),
        now=scope.deps.now(),
        valid=KUBECONFIG_VALID,
    )
    kubeconfig = build_kubeconfig(
        cluster=scope.ref.name,
        server=_build_server(infrastructure),
        ca_pem=pki.ca.cert_pem,
        client=client,
    )
    try:
        await scope.deps.client.create(SECRET, build_kubeconfig_secret(scope.cluster, kubeconfig))
    except ConflictError:
        existing = await scope.deps.client.get(SECRET, names.secret_kubeconfig(scope.ref.name), scope.ref.namespace)
        if existing is None:
            raise
        refuse_former_owner(existing, scope.ref.uid)
        return read_secret_value(existing, "value", remakeable=True)
    return kubeconfig.encode()


def _build_server(infrastructure: ObservedCluster) -> ServerAddress:
    """The endpoint, or the way to it that the provider has where there is no other from here."""
    if (route := infrastructure.route) is not None:
        return ServerAddress(f"https://{route.host}:{route.port}", route.server_name)
    return ServerAddress(f"https://{infrastructure.endpoint_host}:{infrastructure.endpoint_port}")
