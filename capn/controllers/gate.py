"""Where the gate leads: from the name of a cluster to its endpoint, as its status has it.

Role: the gate's only source of targets. Must not: lead to what is no cluster's endpoint.
"""

from __future__ import annotations

from pydantic import ValidationError

from capn.api.cluster import NestedCluster
from capn.controllers.deps import INDEX_GATE, Cache
from capn.controllers.parse import parse
from capn.gate.server import Gate
from capn.settings import GateSettings


def build_gate(settings: GateSettings, clusters: Cache) -> Gate:
    """The gate to every cluster in the cache."""
    return Gate(
        lambda name: find_target(clusters, name),
        bind=settings.bind,
        port=settings.bind_port or settings.port,
        connections=settings.connections,
    )


def find_target(clusters: Cache, server_name: str) -> tuple[str, int] | None:
    """Host and port of the cluster's endpoint; None when there is no such cluster, or no endpoint yet."""
    for raw in clusters.by_index(INDEX_GATE, server_name):
        try:
            endpoint = parse(NestedCluster, raw).status.endpoint
        except ValidationError:
            continue
        if endpoint is not None:
            return endpoint.host, endpoint.port
    return None
