"""KubeVirt on the parent's node, all of it made here: a machine's containerDisk boots and is heard on its console."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from capn.build.kubevirt_objects import INITRD_PATH, KERNEL_PATH
from capn.build.report import encode_report
from capn.image.containerdisk import containerdisk_name
from tests.contract.provider_guest import REPORT, build_image
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


def test_a_bad_machine_is_refused_with_the_field(ground: Ground) -> None:
    bad = guest()
    bad["spec"]["domain"]["devices"]["disks"][0]["name"] = "nowhere"
    done = ground.kubectl.run("create", "-f", "-", stdin=json.dumps(bad))
    assert done.returncode != 0
    assert "spec.domain.devices.disks[0].Name 'nowhere' not found" in done.stderr
