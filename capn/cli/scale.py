"""`capn scale`: the number of machines of an autoscaled worker pool.

Role: writes the annotation that a scaler writes, after the checks that admission cannot make of an annotation. Must
not: change a spec; that is the manifest's, wherever it is kept.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from capn import names
from capn.api.resources import NESTED_CLUSTER
from capn.cli.read import choose_kubeconfig, connected
from capn.errors import InvalidSpecError, NotFoundError
from capn.kube.child import connect_child
from capn.kube.client import KubeClient
from capn.tree.hops import Step, parse_path, reach


def scale(kubeconfig: Path | None, *, namespace: str, cluster: str, pool: str, replicas: int) -> None:
    """Set the size of a pool of the cluster at the end of the path, and say what it was."""
    steps = parse_path(cluster, namespace=namespace)

    async def work() -> str:
        async with connected(choose_kubeconfig(kubeconfig)) as client:
            if len(steps) == 1:
                return await set_size(client, steps[0], pool, replicas)
            above = await connect_child((await reach(client, steps[:-1])).credentials)
            try:
                return await set_size(above, steps[-1], pool, replicas)
            finally:
                await above.close()

    sys.stdout.write(f"{asyncio.run(work())}\n")


async def set_size(client: KubeClient, step: Step, pool: str, replicas: int) -> str:
    """Write the annotation; what changed, for people. InvalidSpecError when it would have no effect."""
    found = await client.get(NESTED_CLUSTER, step.name, step.namespace)
    if found is None:
        raise NotFoundError(f"no NestedCluster {step.namespace}/{step.name}; look at `capn tree`")
    _check(found, pool, replicas)
    patch = {"metadata": {"annotations": {names.annotation_replicas(pool): str(replicas)}}}
    await client.merge_patch(NESTED_CLUSTER, step.name, step.namespace, patch)
    counts = (found.get("status") or {}).get("pools") or ()
    before = next((f" ({known['desired']} before)" for known in counts if known["name"] == pool), "")
    return f"{step.namespace}/{step.name}: pool {pool} shall have {replicas} machines{before}"


def _check(cluster: dict[str, Any], pool: str, replicas: int) -> None:
    pools = {entry["name"]: entry for entry in cluster["spec"].get("workers") or ()}
    if pool not in pools:
        known = ", ".join(pools) or "none"
        raise NotFoundError(f"{cluster['metadata']['name']} has no worker pool {pool}; there are: {known}")
    limits = pools[pool].get("autoscaling")
    field = f"spec.workers[{pool}]"
    if limits is None:
        raise InvalidSpecError(
            f"{field}.autoscaling",
            "is not set, so only the manifest says how many machines there are: change replicas there, or set"
            " autoscaling {min, max} once and scale as you like",
            reason="NotAutoscaled",
        )
    if not limits["min"] <= replicas <= limits["max"]:
        raise InvalidSpecError(
            f"{field}.autoscaling", f"allows {limits['min']} to {limits['max']} machines", reason="ReplicasOutOfRange"
        )
