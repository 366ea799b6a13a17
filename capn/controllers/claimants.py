"""Whose claims a namespace has: the cluster with `spec.nesting` that the namespace was made for.

Role: lookups in the caches. Must not: believe a label or an annotation; the namespace's name is made from the UID.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from capn.api.cluster import NestedCluster
from capn.api.machine import NestedMachine
from capn.controllers.deps import INDEX_CLAIMS, INDEX_NAMESPACE, Deps
from capn.controllers.parse import parse
from capn.errors import TerminalError


def find_claimant(deps: Deps, namespace: str) -> NestedCluster:
    """The cluster whose children claim in this namespace. TerminalError (NoClaimant) when there is none."""
    for raw in deps.clusters.by_index(INDEX_CLAIMS, namespace):
        cluster = parse(NestedCluster, raw)
        if cluster.spec.nests:
            return cluster
    raise TerminalError(
        "claims are taken only in the namespace that a cluster with spec.nesting has for them: delete this one",
        reason="NoClaimant",
    )


def list_claimed_machines(deps: Deps, namespace: str) -> Sequence[NestedMachine]:
    """Every machine in the namespace that can be read, the oldest first."""
    found = []
    for raw in deps.machines.by_index(INDEX_NAMESPACE, namespace):
        try:
            found.append((str(raw["metadata"].get("creationTimestamp")), raw["metadata"]["name"], raw))
        except KeyError:
            continue
    machines = []
    for _created, _name, raw in sorted(found, key=lambda entry: entry[:2]):
        try:
            machines.append(parse(NestedMachine, raw))
        except ValidationError:
            continue  # its own reconciler explains it
    return machines
