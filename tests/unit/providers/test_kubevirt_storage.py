"""What a KubeVirt machine's disk is made of: the choice, the clone, and that what exists keeps what it has."""

from __future__ import annotations

from typing import Any

import pytest

from capn.api.resources import PERSISTENT_VOLUME_CLAIM, STORAGE_CLASS, VIRTUAL_MACHINE
from capn.build.kubevirt_objects import is_persistent
from capn.errors import ApiStatusError, TransientError
from capn.providers.base import MachineRef
from capn.providers.kubevirt.place import Place
from capn.settings import KubeVirtEndpoint, Settings
from tests.contract.provider_rigs import SimulatedKubeVirtRig, cluster_ref, cluster_request, control_plane
from tests.harness.cloning_driver import SOURCE, build_source
from tests.harness.kubevirt_world import KubeVirtWorld

DEFAULT = {"storageclass.kubernetes.io/is-default-class": "true"}


async def open_world(*, imports: bool = True, classes: dict[str, dict[str, str]] | None = None) -> KubeVirtWorld:
    world = KubeVirtWorld()
    await world.prepare()
    world.imports = imports
    for name, marks in (classes or {}).items():
        await world.create(STORAGE_CLASS, {"metadata": {"name": name, "annotations": marks}})
    return world


async def make_machine(world: KubeVirtWorld, endpoint: KubeVirtEndpoint) -> dict[str, Any]:
    """The VirtualMachine of a control plane."""
    provider = SimulatedKubeVirtRig(world, endpoint).provider
    await provider.ensure_cluster(cluster_request(cluster_ref()))
    request = control_plane(cluster_ref())
    await provider.ensure_machine(request)
    vm = await world.get(VIRTUAL_MACHINE, request.ref.name, "tenant")
    assert vm is not None
    return vm


@pytest.mark.parametrize(
    ("imports", "classes", "wanted", "persists"),
    [
        (True, {"fast": DEFAULT}, None, True),
        (True, {"fast": {}}, "fast", True),
        (True, {"fast": {}}, None, False),
        (True, {"fast": DEFAULT}, "other", False),
        (True, {}, None, False),
        (False, {"fast": DEFAULT}, None, False),
    ],
)
async def test_a_disk_persists_where_storage_exists(
    *, imports: bool, classes: dict[str, dict[str, str]], wanted: str | None, persists: bool
) -> None:
    vm = await make_machine(await open_world(imports=imports, classes=classes), KubeVirtEndpoint(storage_class=wanted))
    assert is_persistent(vm) is persists
    assert vm["spec"]["runStrategy"] == ("Always" if persists else "Once")
    assert ("dataVolumeTemplates" in vm["spec"]) is persists


async def test_a_volume_is_not_smaller_than_the_image() -> None:
    world = await open_world(classes={"fast": DEFAULT})
    vm = await make_machine(world, KubeVirtEndpoint(image_gib=8))
    [template] = vm["spec"]["dataVolumeTemplates"]
    assert template["spec"]["storage"]["resources"]["requests"]["storage"] == "8Gi"


async def test_a_server_that_will_not_say_is_no_answer() -> None:
    world = await open_world(classes={"fast": DEFAULT})

    async def refuse(*_: object, **__: object) -> None:
        raise ApiStatusError(403, "storageclasses is forbidden", reason="Forbidden")

    rig = SimulatedKubeVirtRig(world, KubeVirtEndpoint())
    await rig.provider.ensure_cluster(cluster_request(cluster_ref()))
    world.list = refuse  # type: ignore[assignment,method-assign]
    with pytest.raises(ApiStatusError, match="forbidden"):
        await rig.provider.ensure_machine(control_plane(cluster_ref()))
    assert await world.get(VIRTUAL_MACHINE, "demo-cp-0", "tenant") is None


async def test_a_machine_keeps_its_kind_of_disk_when_the_settings_change() -> None:
    world = await open_world()
    made = SimulatedKubeVirtRig(world, KubeVirtEndpoint(root_disk="dataVolume"))
    await make_machine(world, made.endpoint)
    changed = SimulatedKubeVirtRig(world, KubeVirtEndpoint(root_disk="containerDisk"))
    request = control_plane(cluster_ref())
    await changed.provider.release_bootstrap_data(request.ref)
    vm = await world.get(VIRTUAL_MACHINE, request.ref.name, "tenant")
    assert vm is not None
    assert vm["spec"]["runStrategy"] == "Always"


async def test_a_source_that_is_missing_is_named_and_waited_for() -> None:
    world = await open_world()
    endpoint = KubeVirtEndpoint(root_disk="persistentVolumeClaim", volume_source=SOURCE)
    with pytest.raises(TransientError, match="tenant/golden to clone") as caught:
        await make_machine(world, endpoint)
    assert caught.value.reason == "VolumeSourceMissing"
    await world.create(PERSISTENT_VOLUME_CLAIM, build_source("tenant"))
    assert is_persistent(await make_machine(world, endpoint))


async def test_a_clone_needs_its_source() -> None:
    with pytest.raises(ValueError, match="volume_source must name"):
        Settings(endpoints={"kubevirt": {"default": {"kind": "kubevirt", "root_disk": "persistentVolumeClaim"}}})


def test_a_successor_has_another_volume() -> None:
    one, two = (MachineRef(cluster=cluster_ref(), name="d" * 63, uid=uid) for uid in ("u1", "u2"))
    assert Place(None).machine(one) == Place(None).machine(two)
    assert Place(None).volume(one) != Place(None).volume(two)
    assert len(Place(None).volume(one)) <= 63
