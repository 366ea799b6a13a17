from __future__ import annotations

import json
from typing import Any

import pytest

from capn.api.resources import BY_KIND
from capn.build.flannel import FLANNEL_IMAGE, build_flannel
from tests.unit.build.samples import make_flannel_input


def by_kind(*, vni: int = 1, port: int = 8472, mtu: int | None = None) -> dict[str, dict[str, Any]]:
    manifests = build_flannel(make_flannel_input(vni=vni, port=port, mtu=mtu))
    return {manifest["kind"]: manifest for manifest in manifests}


def test_network_settings_reach_the_configuration() -> None:
    data = by_kind(vni=7, port=8473, mtu=1400)["ConfigMap"]["data"]
    network = json.loads(data["net-conf.json"])
    assert network["Network"] == "10.244.0.0/16"
    assert network["Backend"] == {"Type": "vxlan", "VNI": 7, "Port": 8473, "MTU": 1400}
    assert "MTU" not in json.loads(by_kind()["ConfigMap"]["data"]["net-conf.json"])["Backend"]


def test_every_object_can_be_applied_and_comes_after_what_it_needs() -> None:
    kinds = [manifest["kind"] for manifest in build_flannel(make_flannel_input())]
    assert kinds == ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet"]
    for manifest in build_flannel(make_flannel_input()):
        resource = BY_KIND[manifest["apiVersion"], manifest["kind"]]
        assert ("namespace" in manifest["metadata"]) == resource.namespaced


def test_only_the_image_of_the_node_is_used() -> None:
    pod = by_kind()["DaemonSet"]["spec"]["template"]["spec"]
    containers = pod["initContainers"] + pod["containers"]
    assert {(container["image"], container["imagePullPolicy"]) for container in containers} == {
        (FLANNEL_IMAGE, "IfNotPresent")
    }


@pytest.mark.parametrize("position", [0, 1])
def test_copies_go_to_a_mounted_directory_that_does_not_hide_their_source(position: int) -> None:
    pod = by_kind()["DaemonSet"]["spec"]["template"]["spec"]
    container = pod["initContainers"][position]
    source, target = container["command"][-2:]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    target_volume = next(name for path, name in mounts.items() if target.startswith(f"{path}/"))
    assert target_volume in {volume["name"] for volume in pod["volumes"] if "hostPath" in volume}
    assert not any(source.startswith(f"{path}/") for path, name in mounts.items() if name == target_volume)


def test_no_wildcard_permissions() -> None:
    for rule in by_kind()["ClusterRole"]["rules"]:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert not {"secrets", "configmaps"} & set(rule["resources"])
