"""Failure domains of one endpoint when they differ: one is silent, refuses, or is no longer in the settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from capn.build.claim_report import ClaimReport
from capn.build.kubeconfig import ServerAddress, build_kubeconfig
from capn.build.pki import issue_client
from capn.errors import CapnError, InvalidSpecError, UnreachableError
from capn.providers import failure_domains, follow
from capn.providers.base import (
    ClusterRequest,
    FailureDomain,
    MachineRef,
    MachineRequest,
    ObservedCluster,
    Problem,
    Provider,
)
from capn.providers.failure_domains import DomainProvider
from capn.providers.memory import MemoryProvider
from capn.providers.memory_world import MemoryWorld
from capn.settings import MemoryEndpoint
from tests.contract.provider_rigs import VERSION, cluster_ref, cluster_request, pki, worker

SILENT = Problem("HypervisorUnreachable", "the hypervisor does not answer", passes=True)
REPORT = ClaimReport()


class Bench:
    """Three hosts, and the provider over them."""

    def __init__(self, **settings: MemoryEndpoint) -> None:
        self.world = MemoryWorld(lambda: datetime.now(UTC))
        self.hosts = {name: MemoryProvider(settings.get(name), world=self.world, host=name) for name in ("a", "b", "c")}
        self.provider = DomainProvider(self.hosts)

    def down(self, *names: str) -> None:
        for name, host in self.hosts.items():
            host.set_down(name in names)

    async def made(self, domain: str, ordinal: int = 0) -> MachineRequest:
        """A machine of that domain that runs."""
        await self.provider.ensure_cluster(cluster_request(cluster_ref()))
        request = within(worker(cluster_ref(), ordinal), domain)
        await self.provider.ensure_machine(request)
        return request


def within(request: MachineRequest, domain: str) -> MachineRequest:
    return replace(request, ref=replace(request.ref, failure_domain=domain))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.down()
    await bench.provider.close()


async def test_each_domain_says_whether_it_can_be_used(bench: Bench) -> None:
    bench.down("a")
    seen = await bench.provider.ensure_cluster(cluster_request(cluster_ref()))
    domains = (FailureDomain("a", SILENT), FailureDomain("b"), FailureDomain("c"))
    assert seen.failure_domains == domains
    assert await bench.provider.observe_cluster(cluster_ref()) == seen
    assert bench.world.clusters[cluster_ref().uid].hosts == {"b", "c"}
    bench.down()
    again = await bench.provider.ensure_cluster(cluster_request(cluster_ref()))
    assert again == replace(seen, failure_domains=(FailureDomain("a"), FailureDomain("b"), FailureDomain("c")))
    assert bench.world.clusters[cluster_ref().uid].hosts == {"a", "b", "c"}


async def test_when_no_domain_answers_the_first_error_is_raised_with_its_name(bench: Bench) -> None:
    bench.down("a", "b", "c")
    for call in (
        bench.provider.ensure_cluster(cluster_request(cluster_ref())),
        bench.provider.observe_cluster(cluster_ref()),
        bench.provider.plan_machine(worker(cluster_ref())),
        bench.provider.open_child(cluster_ref(), kubeconfig()),
    ):
        with pytest.raises(UnreachableError, match="failure domain a: the hypervisor does not answer") as caught:
            await call
        assert caught.value.reason == "HypervisorUnreachable"


class Hanging(MemoryProvider):
    """A host that takes calls about clusters and never answers."""

    async def ensure_cluster(self, request: ClusterRequest) -> ObservedCluster:
        await asyncio.sleep(3600)
        return await super().ensure_cluster(request)


async def test_a_domain_that_hangs_holds_the_others_up_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_domains, "PATIENCE_S", 0.2)
    provider = DomainProvider({"a": Hanging(), "b": MemoryProvider()})
    async with asyncio.timeout(10):
        seen = await provider.ensure_cluster(cluster_request(cluster_ref()))
    first, second = seen.failure_domains
    assert first.problem is not None
    assert (first.problem.reason, first.problem.passes, second.problem) == ("HypervisorUnreachable", True, None)


async def test_a_silent_domain_keeps_no_cluster_from_being_made(bench: Bench) -> None:
    bench.down("a")
    assert await bench.provider.observe_cluster(cluster_ref()) is None


async def test_what_all_domains_refuse_is_refused_by_field(bench: Bench) -> None:
    with pytest.raises(InvalidSpecError, match=r"^spec\.network\.podCIDR: ") as caught:
        await bench.provider.ensure_cluster(cluster_request(cluster_ref(), pod_cidr="10.0.0.0/8"))
    assert caught.value.reason == "CIDRCollision"


class Stubborn(MemoryProvider):
    """A host with an endpoint of its own choice, unless it is told one and listens."""

    def __init__(self, address: str, *, listens: bool) -> None:
        super().__init__()
        self.address, self.listens = address, listens

    async def ensure_cluster(self, request: ClusterRequest) -> ObservedCluster:
        seen = await super().ensure_cluster(request)
        told = request.endpoint_host if self.listens else None
        return replace(seen, endpoint_host=told or self.address)


async def test_all_domains_have_the_endpoint_that_the_first_one_chose() -> None:
    hosts = {
        "a": Stubborn("192.0.2.1", listens=True),
        "b": Stubborn("192.0.2.2", listens=True),
        "c": Stubborn("192.0.2.3", listens=False),
    }
    provider = DomainProvider(hosts)
    seen = await provider.ensure_cluster(cluster_request(cluster_ref()))
    assert seen.endpoint_host == "192.0.2.1"
    first, second, third = seen.failure_domains
    assert (first.problem, second.problem) == (None, None)
    assert third.problem is not None
    assert third.problem.reason == "EndpointDiffers"
    assert "192.0.2.3" in third.problem.message
    hosts["a"].set_down(True)
    known = replace(cluster_request(cluster_ref()), endpoint_host="192.0.2.1")
    assert (await provider.ensure_cluster(known)).endpoint_host == "192.0.2.1"


async def test_a_machine_is_made_in_its_domain_and_nowhere_else(bench: Bench) -> None:
    request = await bench.made("b")
    assert bench.world.machines[request.ref.uid].host == "b"
    assert await bench.hosts["a"].observe_machine(request.ref) is None
    bench.down("a", "c")
    assert await bench.provider.observe_machine(request.ref) is not None
    assert await bench.provider.delete_machine(request.ref)


Call = Callable[[DomainProvider, MachineRequest], Coroutine[Any, Any, object]]


@pytest.mark.parametrize(
    "call",
    [
        lambda provider, request: provider.observe_machine(request.ref),
        lambda provider, request: provider.plan_machine(request),
        lambda provider, request: provider.ensure_machine(request),
        lambda provider, request: provider.ensure_address(request.ref),
        lambda provider, request: provider.release_bootstrap_data(request.ref),
        lambda provider, request: provider.stop_machine(request.ref, force=True),
        lambda provider, request: provider.delete_machine(request.ref),
        lambda provider, request: anext(provider.console(request.ref)),
    ],
)
@pytest.mark.parametrize("left", ["several", "whole"])
async def test_a_machine_of_a_domain_that_the_settings_lost_is_unknown_and_not_gone(call: Call, left: str) -> None:
    bench = Bench()
    request = await bench.made("b")
    remaining = {"a": bench.hosts["a"], "c": bench.hosts["c"]} if left == "several" else {"": bench.hosts["b"]}
    provider = DomainProvider(remaining)
    offered = "a, c" if left == "several" else "none"
    with pytest.raises(UnreachableError, match=rf"no failure domain b \(it has: {offered}\)") as caught:
        await call(provider, request)
    assert caught.value.reason == "DomainNotFound"
    assert list(bench.world.machines) == [request.ref.uid]
    await bench.provider.close()


async def test_an_endpoint_that_is_one_whole_is_its_provider() -> None:
    host = MemoryProvider()
    provider = DomainProvider({"": host})
    assert await provider.ensure_cluster(cluster_request(cluster_ref())) == await host.observe_cluster(cluster_ref())
    request = worker(cluster_ref())
    assert await provider.ensure_machine(request) == await host.observe_machine(request.ref)
    host.set_down(True)
    with pytest.raises(UnreachableError, match=r"^the hypervisor does not answer$"):
        await provider.ensure_cluster(cluster_request(cluster_ref()))
    await provider.close()


async def test_a_machine_of_before_there_were_domains_is_where_it_is_found(bench: Bench) -> None:
    request = within(await bench.made("b"), "")
    assert await bench.provider.observe_machine(request.ref) is not None
    bench.down("a", "c")
    assert await bench.provider.observe_machine(request.ref) is not None
    assert (await bench.provider.ensure_machine(request)).seed_attached
    bench.down("b")
    with pytest.raises(UnreachableError, match="failure domain b"):
        await bench.provider.observe_machine(request.ref)
    with pytest.raises(UnreachableError, match="failure domain b"):
        await bench.provider.ensure_machine(request)
    assert len(bench.world.machines) == 1


async def test_such_a_machine_is_deleted_in_every_domain(bench: Bench) -> None:
    request = within(await bench.made("b"), "")
    bench.down("c")
    with pytest.raises(UnreachableError, match="failure domain c"):
        await bench.provider.delete_machine(request.ref)
    assert not bench.world.machines
    bench.down()
    assert await bench.provider.delete_machine(request.ref)


async def test_a_plan_without_a_domain_holds_in_all_that_answer() -> None:
    bench = Bench(b=MemoryEndpoint(versions=("v1.98.0",)))
    with pytest.raises(InvalidSpecError, match="no node image") as caught:
        await bench.provider.plan_machine(worker(cluster_ref()))
    assert caught.value.reason == "ImageNotFound"
    bench.down("b")
    await bench.provider.plan_machine(worker(cluster_ref()))
    with pytest.raises(UnreachableError):
        await bench.provider.plan_machine(within(worker(cluster_ref()), "b"))
    assert worker(cluster_ref()).version == VERSION


async def test_a_silent_domain_holds_up_only_its_own_part_of_a_deletion(bench: Bench) -> None:
    for ordinal, domain in enumerate(("a", "b", "c")):
        await bench.made(domain, ordinal)
    bench.down("b")
    with pytest.raises(UnreachableError, match="failure domain b: "):
        await bench.provider.delete_cluster(cluster_ref())
    assert [machine.host for machine in bench.world.machines.values()] == ["b"]
    bench.down()
    assert await bench.provider.delete_cluster(cluster_ref())
    assert not bench.world.machines
    assert not bench.world.clusters


class Breaking(MemoryProvider):
    """A host whose stream of changes breaks each time before it is listened to a second time."""

    def __init__(self, *args: Any, error: Exception, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.error: Exception | None = error

    async def changes(self) -> AsyncIterator[MachineRef]:
        if (error := self.error) is not None:
            self.error = None
            raise error
        async for ref in super().changes():
            yield ref


@pytest.mark.parametrize("error", [CapnError("broke"), ValueError("broke")])
async def test_a_stream_of_changes_that_breaks_ends_no_other(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "REOPEN_S", 0.01)
    bench = Bench()
    bench.hosts["a"] = Breaking(world=bench.world, host="a", error=error)
    bench.provider = DomainProvider(bench.hosts)
    made = [await bench.made("a", 0), await bench.made("b", 1)]
    changes = bench.provider.changes()
    told = asyncio.ensure_future(_take(changes, 2))
    async with asyncio.timeout(10):
        while not (bench.hosts["a"]._listeners and bench.hosts["b"]._listeners):
            await asyncio.sleep(0.01)
    for request in made:
        # What a provider finds by itself does not say in which domain it is.
        bench.hosts[request.ref.failure_domain]._announce(replace(request.ref, failure_domain=""))
    async with asyncio.timeout(10):
        assert await told == {request.ref for request in made}
    await changes.aclose()  # type: ignore[attr-defined]
    assert not bench.hosts["b"]._listeners
    await bench.provider.close()


async def _take(changes: AsyncIterator[Any], count: int) -> set[Any]:
    return {await anext(changes) for _number in range(count)}


def kubeconfig() -> bytes:
    client = issue_client(
        pki().ca,
        common_name="admin",
        organizations=("system:masters",),
        now=datetime.now(UTC),
        valid=timedelta(days=1),
    )
    server = ServerAddress("https://10.100.0.10:6443")
    return build_kubeconfig(cluster="demo", server=server, ca_pem=pki().ca.cert_pem, client=client).encode()


async def test_the_child_is_reached_by_any_domain(bench: Bench) -> None:
    await bench.made("c")
    bench.down("a", "b")
    client = await bench.provider.open_child(cluster_ref(), kubeconfig())
    await client.close()
    await bench.provider.tell_cluster(cluster_ref(), REPORT, paused=True)


def test_a_domain_provider_is_a_provider() -> None:
    provider: Provider = Bench().provider
    assert (provider.kind, provider.keeps_addresses) == ("memory", False)
