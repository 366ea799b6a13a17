"""KubeVirt on the parent's node, all of it made here: a machine's containerDisk boots and is heard on its console."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import pytest

from capn.api.machine_template import Infrastructure, InfrastructureKind
from capn.api.resources import SECRET
from capn.build.kubeadm import API_PORT
from capn.build.kubevirt_objects import INITRD_PATH, KERNEL_PATH
from capn.build.report import encode_report
from capn.cli.doctor_kubevirt import examine_kubevirt
from capn.errors import TransientError
from capn.image.containerdisk import containerdisk_name
from capn.image.images import TOOLBOX_IMAGE
from capn.kube.connect import connect_kubeconfig
from capn.kube.http import HttpKubeClient, Observer
from capn.providers.base import MachineState
from capn.providers.kubevirt.place import Place
from capn.providers.kubevirt.provider import KubeVirtProvider
from capn.providers.registry import ProviderRegistry
from capn.settings import KubeVirtEndpoint, SecretKey, Settings
from tests.contract.provider_guest import REPORT, build_image
from tests.contract.provider_rigs import cluster_ref, cluster_request, control_plane
from tests.harness.kubevirt_ground import Ground

pytestmark = [pytest.mark.kubevirt, pytest.mark.timeout(900)]
VERSION = "v1.98.0"
LAUNCHER = "vm.kubevirt.io/name=tiny"


def guest() -> dict[str, Any]:
    image = {"image": containerdisk_name(VERSION), "imagePullPolicy": "IfNotPresent"}
    boot = {"container": {**image, "kernelPath": KERNEL_PATH, "initrdPath": INITRD_PATH}, "kernelArgs": "console=ttyS0"}
    devices = {
        "disks": [{"name": "root", "disk": {"bus": "virtio"}}],
        "interfaces": [{"name": "default", "masquerade": {}}],
    }
    spec = {
        "terminationGracePeriodSeconds": 0,
        "domain": {"memory": {"guest": "64Mi"}, "firmware": {"kernelBoot": boot}, "devices": devices},
        "networks": [{"name": "default", "pod": {}}],
        "volumes": [{"name": "root", "containerDisk": image}],
    }
    meta = {"name": "tiny", "namespace": "default"}
    return {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": meta, "spec": spec}


def boot(ground: Ground) -> dict[str, Any]:
    """The VMI once it runs."""
    ground.kubectl.apply(guest())
    ground.kubectl("wait", "--for=jsonpath={.status.phase}=Running", "vmi/tiny", "--timeout=120s", timeout_s=130)
    found: dict[str, Any] = ground.kubectl.json("get", "vmi", "tiny")
    return found


def await_console(ground: Ground, text: str, *, limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while text not in (log := ground.kubectl("logs", "-l", LAUNCHER, "-c", "guest-console-log", "--tail=50")):
        assert time.monotonic() < deadline, f"not on the console after {limit_s:.0f} s: {text}\n{log}"
        time.sleep(0.5)


def test_a_containerdisk_boots_its_own_kernel_and_is_heard(ground: Ground) -> None:
    """Twice, with another image of the same name in between: what is mounted then must be known by its new content."""
    for digest in ("ab" * 32, "cd" * 32):
        image = build_image(ground.directory / digest[:8], version=VERSION, digest=digest)
        image.initrd.write_text(digest)
        ground.load(image)
        vmi = boot(ground)
        assert vmi["status"]["nodeName"] == "node"
        assert vmi["status"]["interfaces"][0]["ipAddress"]
        await_console(ground, encode_report(REPORT).decode().strip())
        ground.kubectl("delete", "vmi", "tiny", timeout_s=90)


async def test_machines_in_another_cluster_by_the_kubeconfig_that_the_administrator_named(
    ground: Ground, client: HttpKubeClient, namespace: str
) -> None:
    """The NestedCluster is in one cluster, its VM in another: by that one's least rights, in a namespace for all."""
    kubeconfig = base64.b64encode(ground.make_account("elsewhere").read_bytes()).decode()
    secret = {"metadata": {"name": "vms", "namespace": namespace}, "data": {"value": kubeconfig}}
    settings = Settings(
        endpoints={
            "kubevirt": {
                "default": KubeVirtEndpoint(
                    kubeconfig=SecretKey(namespace=namespace, name="vms"),
                    namespace="vms",
                    image_pull_policy="Never",
                    kernel_args="console=ttyS0",
                    grace_s=0,
                )
            }
        }
    )
    registry = ProviderRegistry(settings, client=client)
    provider = registry.get(Infrastructure(kind=InfrastructureKind.KUBEVIRT, endpoint="default"))
    request = control_plane(cluster_ref())
    ground.kubectl("create", "namespace", "vms")
    try:
        with pytest.raises(TransientError, match="put the kubeconfig"):
            await provider.ensure_cluster(cluster_request(cluster_ref()))
        await client.create(SECRET, secret)
        await provider.ensure_cluster(cluster_request(cluster_ref()))
        async with asyncio.timeout(120):
            while (await provider.ensure_machine(request)).state is not MachineState.RUNNING:
                await asyncio.sleep(0.5)
        assert (
            ground.kubectl("get", "vmi", "-n", "vms", "-o", "name").strip().endswith(Place("vms").machine(request.ref))
        )
        async with asyncio.timeout(60):
            while not await provider.delete_machine(request.ref) or not await provider.delete_cluster(cluster_ref()):
                await asyncio.sleep(0.5)
        left = ground.kubectl("get", "vm,vmi,pod,service,secret,pvc", "-n", "vms", "-o", "name").split()
        assert left == []
    finally:
        await registry.close()
        ground.kubectl("delete", "namespace", "vms", timeout_s=90)


async def test_the_doctor_finds_it_well_as_the_administrator_and_with_capns_own_rights(ground: Ground) -> None:
    endpoint = KubeVirtEndpoint(namespace="default")
    for kubeconfig in (ground.parent.kubeconfig, ground.make_account("doctor")):
        client = await connect_kubeconfig(kubeconfig)
        try:
            findings = await examine_kubevirt("default", endpoint, client)
        finally:
            await client.close()
        assert [finding for finding in findings if not finding.ok] == []
        found = {finding.check.rpartition(": ")[2]: finding.found for finding in findings}
        assert "Deployed" in found["version"]
        assert "emulation on" in found["acceleration"]


async def test_a_node_port_leads_to_the_control_planes_that_accept_connections(ground: Ground) -> None:
    """By real kube-proxy; a pod that carries a control plane's labels stands for its VM."""
    account = await connect_kubeconfig(ground.make_account("port"))
    node = str(ground.node.link.block.node)

    async def connect(_told: Observer) -> HttpKubeClient:
        return account

    provider = KubeVirtProvider(KubeVirtEndpoint(service_type="NodePort", endpoint_host=node), connect)
    try:
        cluster = await provider.ensure_cluster(cluster_request(cluster_ref()))
        host, port = cluster.endpoint_host, cluster.endpoint_port
        assert (host, port >= 30000) == (node, True)
        assert not await accepts(host, port)
        service = ground.kubectl.json("get", "service", "api-demo", "-n", "tenant")
        for name in ("one", "two"):
            ground.kubectl.apply(stand_in(name, service["spec"]["selector"]))
        ground.kubectl(
            "wait", "--for=condition=Ready", "pod/one", "pod/two", "-n", "tenant", "--timeout=60s", timeout_s=70
        )
        await until_accepts(host, port, expected=True)
        ground.kubectl("delete", "pod", "one", "-n", "tenant", timeout_s=60)
        await until_accepts(host, port, expected=True)
        ground.kubectl("delete", "pod", "two", "-n", "tenant", timeout_s=60)
        await until_accepts(host, port, expected=False)
    finally:
        while not await provider.delete_cluster(cluster_ref()):
            await asyncio.sleep(0.2)
        await provider.close()
        await account.close()


def stand_in(name: str, labels: dict[str, str]) -> dict[str, Any]:
    command = ["httpd", "-f", "-p", str(API_PORT), "-h", "/www"]
    container = {"name": "api", "image": TOOLBOX_IMAGE, "imagePullPolicy": "Never", "command": command}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "tenant", "labels": labels},
        "spec": spec,
    }


async def accepts(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(2):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def until_accepts(host: str, port: int, *, expected: bool) -> None:
    async with asyncio.timeout(30):
        while await accepts(host, port) is not expected:
            await asyncio.sleep(0.2)


def test_a_bad_machine_is_refused_with_the_field(ground: Ground) -> None:
    bad = guest()
    bad["spec"]["domain"]["devices"]["disks"][0]["name"] = "nowhere"
    done = ground.kubectl.run("create", "-f", "-", stdin=json.dumps(bad))
    assert done.returncode != 0
    assert "spec.domain.devices.disks[0].Name 'nowhere' not found" in done.stderr
