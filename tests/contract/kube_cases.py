"""What the contract suite of `KubeClient` works with: the clients under test and small objects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from capn import names
from capn.api.resources import CONFIG_MAP, NESTED_CLUSTER
from capn.kube.client import KubeClient

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One client under test, a namespace of its own, and the same API server for another field manager."""

    client: KubeClient
    namespace: str
    other: KubeClient
    is_real: bool


def config_map(case: Case, name: str, **fields: Any) -> Manifest:
    meta = {"name": name, "namespace": case.namespace, **fields.pop("metadata", {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, **fields}


def nested_cluster(case: Case, name: str, **fields: Any) -> Manifest:
    meta = {"name": name, "namespace": case.namespace, **fields.pop("metadata", {})}
    spec = {"version": "v1.37.2", **fields.pop("spec", {})}
    return {"apiVersion": names.API_VERSION, "kind": "NestedCluster", "metadata": meta, "spec": spec, **fields}


def status_of(case: Case, name: str, **status: Any) -> Manifest:
    manifest = nested_cluster(case, name)
    del manifest["spec"]
    return {**manifest, "status": status}


def revision(obj: Manifest) -> int:
    return int(obj["metadata"]["resourceVersion"])


async def apply_map(case: Case, name: str, **fields: Any) -> Manifest:
    return await case.client.apply(CONFIG_MAP, config_map(case, name, **fields))


async def apply_cluster(case: Case, name: str, **fields: Any) -> Manifest:
    return await case.client.apply(NESTED_CLUSTER, nested_cluster(case, name, **fields))


async def eventually(check: Callable[[], Any]) -> Any:
    """The first truthy answer of an async check within 20 s."""
    async with asyncio.timeout(20):
        while not (found := await check()):
            await asyncio.sleep(0.05)
    return found
