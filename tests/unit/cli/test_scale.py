from __future__ import annotations

from typing import Any

import pytest

from capn.api.resources import NESTED_CLUSTER
from capn.cli.scale import set_size
from capn.errors import CapnError, InvalidSpecError, NotFoundError
from capn.kube.memory import MemoryKubeClient
from capn.tree.hops import Step

DEMO = Step("team", "demo")


async def make(**pool: Any) -> MemoryKubeClient:
    client = MemoryKubeClient()
    spec = {"version": "v1.37.2", "workers": [{"name": "md", "replicas": 1, **pool}]}
    where = {"name": DEMO.name, "namespace": DEMO.namespace}
    await client.create(NESTED_CLUSTER, {"metadata": where, "spec": spec})
    status = {"pools": [{"name": "md", "desired": 2, "created": 2, "ready": 2}]}
    await client.apply(NESTED_CLUSTER, {"metadata": where, "status": status}, subresource="status")
    return client


async def written(client: MemoryKubeClient) -> dict[str, str]:
    found = await client.get(NESTED_CLUSTER, DEMO.name, DEMO.namespace)
    assert found is not None
    kept: dict[str, str] = found["metadata"].get("annotations") or {}
    return kept


async def test_the_annotation_is_written_and_the_spec_left_alone() -> None:
    client = await make(autoscaling={"min": 1, "max": 5})
    before = await client.get(NESTED_CLUSTER, DEMO.name, DEMO.namespace)
    assert await set_size(client, DEMO, "md", 3) == "team/demo: pool md shall have 3 machines (2 before)"
    assert await written(client) == {"replicas.capn.dev/md": "3"}
    after = await client.get(NESTED_CLUSTER, DEMO.name, DEMO.namespace)
    assert before is not None
    assert after is not None
    assert after["spec"] == before["spec"]


@pytest.mark.parametrize(
    ("pool", "name", "count", "error", "words"),
    [
        ({}, "md", 3, InvalidSpecError, "change replicas there"),
        ({"autoscaling": {"min": 1, "max": 2}}, "md", 3, InvalidSpecError, "allows 1 to 2"),
        ({"autoscaling": {"min": 1, "max": 2}}, "md", 0, InvalidSpecError, "allows 1 to 2"),
        ({"autoscaling": {"min": 1, "max": 2}}, "other", 1, NotFoundError, "there are: md"),
    ],
)
async def test_what_would_have_no_effect_is_refused_with_the_fix(
    pool: dict[str, Any], name: str, count: int, error: type[CapnError], words: str
) -> None:
    client = await make(**pool)
    with pytest.raises(error, match=words):
        await set_size(client, DEMO, name, count)
    assert await written(client) == {}


async def test_a_cluster_that_is_not_there() -> None:
    with pytest.raises(NotFoundError, match="team/demo"):
        await set_size(MemoryKubeClient(), DEMO, "md", 1)
