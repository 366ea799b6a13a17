"""The way from one API to a cluster any number of levels below it.

Role: reads at each level the kubeconfig of the next, and takes the way that is open from here: the endpoint, or the
gate (`status.access`). Inputs: a client and a path such as `a/b` or `team:a/b`. Outputs: a kubeconfig. Must not: trust
a child's kubeconfig with more than server, CA and client certificate, or keep one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from capn import names
from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE, SECRET
from capn.build.kubeconfig import ChildCredentials, ServerAddress, build_kubeconfig, parse_kubeconfig
from capn.build.pki import KeyPair
from capn.build.secrets import read_secret_value
from capn.errors import InvalidSpecError, NotFoundError, UnreachableError
from capn.kube.child import connect_child
from capn.kube.client import KubeClient
from capn.tree.explain import Seen, find_owner

_CONNECT_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Step:
    """One cluster of a path, in the API of the one before."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Reached:
    """A cluster that was found: its object, its kubeconfig as it is stored, and the credentials for the way to it."""

    cluster: dict[str, Any]
    kubeconfig: bytes
    credentials: ChildCredentials

    def build_kubeconfig(self) -> str:
        """A kubeconfig for the way that is open from here."""
        known = self.credentials
        return build_kubeconfig(
            cluster=self.cluster["metadata"]["name"],
            server=ServerAddress(known.server, known.server_name),
            ca_pem=known.ca_pem,
            client=KeyPair(cert_pem=known.cert_pem, key_pem=known.key_pem),
        )


def parse_path(text: str, *, namespace: str = "default") -> list[Step]:
    """`a/b` is cluster b in cluster a; a name may have its namespace before it (`team:a`). InvalidSpecError else."""
    steps = []
    for part in text.split("/"):
        before, colon, after = part.partition(":")
        where, name = (before, after) if colon else (namespace, before)
        if not where or not name or ":" in name:
            raise InvalidSpecError("CLUSTER", f"{text!r} is no path: write NAME/NAME, or NAMESPACE:NAME/NAMESPACE:NAME")
        steps.append(Step(where, name))
    return steps


async def read_step(client: KubeClient, step: Step, *, where: str) -> tuple[dict[str, Any], bytes]:
    """A cluster and its kubeconfig. NotFoundError names the API (`where`) that was asked."""
    cluster = await client.get(NESTED_CLUSTER, step.name, step.namespace)
    if cluster is None:
        raise NotFoundError(f"{where} has no NestedCluster {step.namespace}/{step.name}; look at `capn tree`")
    secret = await client.get(SECRET, names.secret_kubeconfig(step.name), step.namespace)
    if secret is None:
        raise NotFoundError(
            f"no kubeconfig for {step.namespace}/{step.name} in {where} (yet); look at `capn tree -n {step.namespace}`"
        )
    return cluster, read_secret_value(secret, "value", remakeable=True)


async def reach(client: KubeClient, steps: Sequence[Step], *, where: str = "this cluster") -> Reached:
    """Walk the path. NotFoundError or UnreachableError names the level at which it ends."""
    opened: list[KubeClient] = []
    try:
        for number, step in enumerate(steps):
            cluster, kubeconfig = await read_step(opened[-1] if opened else client, step, where=where)
            where = f"{step.namespace}/{step.name}"
            credentials = await choose_way(parse_kubeconfig(kubeconfig), cluster, where=where)
            if number == len(steps) - 1:
                return Reached(cluster, kubeconfig, credentials)
            opened.append(await connect_child(credentials))
    finally:
        for child in opened:
            await child.close()
    raise InvalidSpecError("CLUSTER", "is empty")


async def look(client: KubeClient, steps: Sequence[Step]) -> Seen:
    """What is known of the cluster at the end of the path, with its claim in the API above that one.

    A level that does not answer ends the path at its own cluster: that is where the chain is broken.
    """
    opened: list[KubeClient] = []
    above: KubeClient | None = None
    here, where = client, "this cluster"
    try:
        for number, step in enumerate(steps):
            cluster = await here.get(NESTED_CLUSTER, step.name, step.namespace)
            if cluster is None:
                raise NotFoundError(f"{where} has no NestedCluster {step.namespace}/{step.name}; look at `capn tree`")
            if number < len(steps) - 1:
                try:
                    _cluster, kubeconfig = await read_step(here, step, where=where)
                    where = f"{step.namespace}/{step.name}"
                    credentials = await choose_way(parse_kubeconfig(kubeconfig), cluster, where=where)
                    opened.append(await connect_child(credentials))
                    above, here = here, opened[-1]
                    continue
                except (UnreachableError, NotFoundError):
                    pass
            return await _gather(here, above, cluster)
    finally:
        for child in opened:
            await child.close()
    raise InvalidSpecError("CLUSTER", "is empty")


async def _gather(here: KubeClient, above: KubeClient | None, cluster: dict[str, Any]) -> Seen:
    meta = cluster["metadata"]
    machines = [
        machine
        for machine in (await here.list(NESTED_MACHINE, namespace=meta["namespace"])).items
        if machine.get("spec", {}).get("clusterName") == meta["name"]
    ]
    if above is None:
        return Seen(cluster, machines)
    claims = (await above.list(NESTED_CLUSTER)).items
    claimed = next((claim for claim in claims if find_owner(claim) == meta["uid"]), None)
    uids = {machine["metadata"]["uid"] for machine in machines}
    claimed_machines = [claim for claim in (await above.list(NESTED_MACHINE)).items if find_owner(claim) in uids]
    return Seen(cluster, machines, claimed, claimed_machines)


async def choose_way(credentials: ChildCredentials, cluster: dict[str, Any], *, where: str) -> ChildCredentials:
    """Credentials for the endpoint if it can be reached from here, else for the gate. UnreachableError if neither."""
    url = urlsplit(credentials.server)
    ways = [(url.hostname or "", url.port or 443, credentials)]
    access = (cluster.get("status") or {}).get("access")
    if access:
        server = f"https://{access['host']}:{access['port']}"
        by_gate = replace(credentials, server=server, server_name=access["serverName"])
        ways.append((access["host"], access["port"], by_gate))
    tried = []
    for host, port, found in ways:
        if (trouble := await _try(host, port)) is None:
            return found
        tried.append(f"{host}:{port} ({trouble})")
    raise UnreachableError(
        f"{where} cannot be reached from here: {', '.join(tried)}; does it run, and is there a route or a gate?",
        reason="ChildUnreachable",
    )


async def _try(host: str, port: int) -> str | None:
    """None if a connection can be made, else why not."""
    try:
        async with asyncio.timeout(_CONNECT_LIMIT_S):
            _reader, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        return str(error) or "no answer"
    writer.close()
    return None
