"""The simulated guests: they do what a real guest would, and refuse what it would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from capn import names
from capn.api.resources import CONFIG_MAP, NODE, SECRET
from capn.build.cloudinit import BootstrapMode, UserDataInput, build_user_data
from capn.build.kubeadm import JoinInput, NodeInput, build_join_config
from capn.build.kubeconfig import ServerAddress, build_kubeconfig
from capn.build.pki import issue_client
from capn.build.report import Report, ReportParser, ReportState
from capn.build.tokens import build_token_secret
from capn.errors import InvalidSpecError, TerminalError, UnreachableError
from capn.kube.client import KubeClient
from capn.providers.base import MachineRef, MachineRequest, MachineState
from capn.providers.memory import MemoryProvider
from capn.settings import MemoryEndpoint
from tests.contract.provider_rigs import cluster_ref, cluster_request, control_plane, pki, worker

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TOKEN = "abcdef.0123456789abcdef"


class Clock:
    """Virtual time: sleeping takes none, and moves it on."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        await asyncio.sleep(0)


async def test_an_image_that_is_not_there_is_said_of_the_field_that_asks_for_it() -> None:
    provider = MemoryProvider(MemoryEndpoint(versions=("v1.37.2",)))
    for changes, field in (
        ({"version": "v1.98.0"}, "spec.version"),
        ({"version": "v1.37.2", "image": "v1.98.0"}, "spec.machine.image"),
    ):
        with pytest.raises(InvalidSpecError, match=r"no node image v1\.98\.0") as caught:
            await provider.plan_machine(worker(cluster_ref(), 0, **changes))
        assert caught.value.field == field


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider(clock: Clock) -> AsyncIterator[MemoryProvider]:
    provider = MemoryProvider(MemoryEndpoint(boot_s=30), now=clock, sleep=clock.sleep)
    await provider.ensure_cluster(cluster_request(cluster_ref()))
    yield provider
    await provider.close()


async def last_word(provider: MemoryProvider, ref: MachineRef) -> Report:
    """The report that ends the bootstrap."""
    parser = ReportParser()
    async with asyncio.timeout(10):
        async for chunk in provider.console(ref):
            for report in parser.feed(chunk):
                if report.state is not ReportState.RUNNING:
                    return report
    raise AssertionError("the console ended first")


def kubeconfig() -> bytes:
    client = issue_client(
        pki().ca, common_name="admin", organizations=("system:masters",), now=NOW, valid=timedelta(days=1)
    )
    return build_kubeconfig(
        cluster="demo", server=ServerAddress("https://10.100.0.10:6443"), ca_pem=pki().ca.cert_pem, client=client
    ).encode()


async def open_child(provider: MemoryProvider) -> KubeClient:
    return await provider.open_child(cluster_ref(), kubeconfig())


def joining(ordinal: int = 0) -> MachineRequest:
    request = worker(cluster_ref(), ordinal)
    provider_id = names.build_provider_id(
        "memory", namespace="tenant", cluster="demo", machine=request.ref.name, machine_uid=request.ref.uid
    )
    config = build_join_config(
        JoinInput(
            node=NodeInput(name=request.ref.name, provider_id=provider_id),
            endpoint_host="10.100.0.10",
            endpoint_port=6443,
            ca_cert_hash="sha256:" + "0" * 64,
            token=TOKEN,
        )
    )
    data = build_user_data(
        UserDataInput(
            hostname=request.ref.name,
            mode=BootstrapMode.JOIN_WORKER,
            endpoint_host="10.100.0.10",
            endpoint_port=6443,
            service_cidr="10.96.0.0/16",
            kubeadm_config=config,
        )
    )
    return worker(cluster_ref(), ordinal, bootstrap_data=data)


async def boot_control_plane(provider: MemoryProvider) -> KubeClient:
    request = control_plane(cluster_ref())
    await provider.ensure_machine(request)
    assert (await last_word(provider, request.ref)).state is ReportState.SUCCEEDED
    return await open_child(provider)


def token_secret(clock: Clock, minutes: int) -> dict[str, object]:
    return build_token_secret(
        TOKEN, expires=clock() + timedelta(minutes=minutes), description="test", machine_uid="uid"
    )


async def test_init_leaves_kubeadms_record_and_a_ready_node(provider: MemoryProvider, clock: Clock) -> None:
    child = await boot_control_plane(provider)
    assert clock.now >= NOW + timedelta(seconds=30)
    assert await child.get(CONFIG_MAP, "kubeadm-config", "kube-system") is not None
    node = await child.get(NODE, "demo-cp-0")
    assert node is not None
    assert node["spec"]["providerID"].startswith("capn-memory://tenant/demo/demo-cp-0/")
    assert {item["type"]: item["status"] for item in node["status"]["conditions"]} == {
        "NetworkUnavailable": "False",
        "Ready": "True",
    }
    assert '"v1.99.0"' in (await child.get_raw("/version"))[1]


async def test_a_worker_joins_with_its_token(provider: MemoryProvider, clock: Clock) -> None:
    child = await boot_control_plane(provider)
    await child.create(SECRET, token_secret(clock, 15))
    request = joining()
    await provider.ensure_machine(request)
    assert (await last_word(provider, request.ref)).state is ReportState.SUCCEEDED
    assert await child.get(NODE, "demo-pool-0") is not None


@pytest.mark.parametrize("minutes", [None, -1])
async def test_without_a_live_token_it_fails_and_says_so(
    provider: MemoryProvider, clock: Clock, minutes: int | None
) -> None:
    child = await boot_control_plane(provider)
    if minutes is not None:
        await child.create(SECRET, token_secret(clock, minutes))
    request = joining()
    await provider.ensure_machine(request)
    report = await last_word(provider, request.ref)
    assert report.state is ReportState.FAILED
    assert "bootstrap token" in report.tail
    assert await child.get(NODE, "demo-pool-0") is None


async def test_a_worker_waits_for_a_token_that_comes_late(provider: MemoryProvider, clock: Clock) -> None:
    child = await boot_control_plane(provider)
    request = joining()
    await provider.ensure_machine(request)
    await asyncio.sleep(0)
    await child.create(SECRET, token_secret(clock, 15))
    assert (await last_word(provider, request.ref)).state is ReportState.SUCCEEDED


async def test_user_data_that_makes_no_node_fails_as_in_a_real_guest(provider: MemoryProvider) -> None:
    request = control_plane(cluster_ref(), bootstrap_data=b"#cloud-config\nwrite_files: []\n")
    await provider.ensure_machine(request)
    report = await last_word(provider, request.ref)
    assert (report.state, report.stage) == (ReportState.FAILED, "cloud-init")


async def test_a_failure_that_a_test_asked_for(provider: MemoryProvider) -> None:
    provider.fail_bootstrap("demo-cp-0", "[ERROR Port-6443]: Port 6443 is in use")
    request = control_plane(cluster_ref())
    await provider.ensure_machine(request)
    report = await last_word(provider, request.ref)
    assert (report.state, report.stage) == (ReportState.FAILED, "kubeadm/preflight")
    assert "Port 6443" in report.tail


async def test_the_child_is_silent_before_init_and_while_its_control_plane_is_down(provider: MemoryProvider) -> None:
    early = await open_child(provider)
    with pytest.raises(UnreachableError):
        await early.get(NODE, "demo-cp-0")
    child = await boot_control_plane(provider)
    await child.get(NODE, "demo-cp-0")
    request = control_plane(cluster_ref())
    provider.crash(request.ref)
    for call in (child.get(NODE, "demo-cp-0"), child.list(NODE), child.get_raw("/version")):
        with pytest.raises(UnreachableError):
            await call
    assert (await provider.ensure_machine(request)).state is MachineState.RUNNING
    assert await child.get(NODE, "demo-cp-0") is not None


async def test_a_kubeconfig_is_checked_as_for_a_real_child(provider: MemoryProvider) -> None:
    with pytest.raises(TerminalError):
        await provider.open_child(cluster_ref(), b"users: [{user: {exec: {command: sh}}}]")


async def test_a_hypervisor_that_is_down_answers_nothing(provider: MemoryProvider) -> None:
    request = control_plane(cluster_ref())
    await provider.ensure_machine(request)
    provider.set_down(True)
    for call in (
        provider.observe_machine(request.ref),
        provider.ensure_machine(request),
        provider.delete_machine(request.ref),
        provider.observe_cluster(cluster_ref()),
        provider.delete_cluster(cluster_ref()),
    ):
        with pytest.raises(UnreachableError):
            await call
    provider.set_down(False)
    assert await provider.observe_machine(request.ref) is not None


async def test_memory_that_machines_have_is_not_free() -> None:
    provider = MemoryProvider(MemoryEndpoint(memory_mib=100))
    await provider.ensure_cluster(cluster_request(cluster_ref()))
    await provider.plan_machine(joining(1))
    await provider.ensure_machine(joining(0))
    with pytest.raises(TerminalError, match="lower the memory"):
        await provider.plan_machine(joining(1))
    await provider.plan_machine(joining(0))  # what is there already needs nothing more
    await provider.close()


async def test_a_controller_that_starts_anew_gives_a_cluster_the_endpoint_that_it_had() -> None:
    seen = []
    for order in (("demo", "other"), ("other", "demo")):
        provider = MemoryProvider()
        made = {name: await provider.ensure_cluster(cluster_request(cluster_ref(name))) for name in order}
        seen.append({name: cluster.endpoint_host for name, cluster in made.items()})
        await provider.close()
    assert seen[0] == seen[1]
    assert len(set(seen[0].values())) == 2
