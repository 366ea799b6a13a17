"""KubeVirt's objects as files to read and to review. `make golden` rewrites them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from syrupy.assertion import SnapshotAssertion

from capn import names
from capn.build.kubevirt_objects import (
    Exposure,
    VirtualMachineInput,
    build_api_service,
    build_node_service,
    build_release_patch,
    build_seed_secret,
    build_virtual_machine,
    build_volume_claim,
)
from capn.build.stamps import Stamp
from capn.build.yaml_text import build_yaml
from tests.golden.snapshots import YamlFile

_STAMP = Stamp(namespace="team", cluster="demo", cluster_uid="c-uid", machine="demo-cp-0", machine_uid="00000000-m-uid")
_CONTROL_PLANE = VirtualMachineInput(
    namespace="team",
    name="demo-cp-0",
    stamp=_STAMP,
    role=names.ROLE_CONTROL_PLANE,
    cpus=2,
    memory_mib=2560,
    disk_gib=10,
    image="registry.example.com/capn-node:v1.37.2",
    pull_policy="IfNotPresent",
    kernel_args="root=/dev/vda rw console=ttyS0",
    root_disk="containerDisk",
    seed="demo-cp-0-seed",
    volume="demo-cp-0-3f2a1b-root",
)
_PERSISTENT = replace(
    _CONTROL_PLANE,
    role=names.ROLE_WORKER,
    root_disk="dataVolume",
    storage_class="fast",
    pull_secret="registry-login",
    node_selector={"disk": "ssd"},
)
_GOLDEN = {
    "metadata": {"name": "node-v1.37.2", "namespace": "team", "uid": "g"},
    "spec": {
        "accessModes": ["ReadWriteMany"],
        "volumeMode": "Block",
        "storageClassName": "fast",
        "volumeName": "pv-1",
        "resources": {"requests": {"storage": "4G"}},
    },
}
_VM = build_virtual_machine(_CONTROL_PLANE)
_CLUSTER = replace(_STAMP, machine="", machine_uid="")
CASES = {
    "vm_container_disk": _VM,
    "vm_data_volume": build_virtual_machine(_PERSISTENT),
    "vm_volume_claim": build_virtual_machine(replace(_PERSISTENT, root_disk="persistentVolumeClaim")),
    "volume_claim": build_volume_claim("team", "demo-cp-0-3f2a1b-root", _STAMP, _GOLDEN, disk_gib=10),
    "release_patch": build_release_patch(_VM),
    "seed_secret": build_seed_secret("team", "demo-cp-0-seed", _STAMP, b"#cloud-config\n"),
    "api_service": build_api_service("team", "api-demo", _CLUSTER, Exposure("ClusterIP", cluster_ip="10.0.0.9")),
    "node_service": build_node_service("team", "node-demo-cp-0", _STAMP),
}


@pytest.mark.parametrize("name", CASES)
def test_object(snapshot: SnapshotAssertion, name: str) -> None:
    assert build_yaml(CASES[name]) == snapshot.use_extension(YamlFile)


def test_a_vm_without_seed_has_nothing_to_release() -> None:
    assert build_release_patch(build_virtual_machine(replace(_CONTROL_PLANE, seed=None))) is None
