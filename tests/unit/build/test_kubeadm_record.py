from __future__ import annotations

from typing import Any

import pytest
import yaml

from capn.build.kubeadm import build_init_config
from capn.build.kubeadm_components import ComponentsInput, build_components
from capn.build.kubeadm_record import build_components_patch, build_version_patch, read_version
from capn.errors import CapnError
from tests.unit.build.samples import make_arguments, make_init_input, make_node

TEXT = """apiServer:
  certSANs: [10.89.0.10]
  extraArgs:
  - name: v
    value: "2"
apiVersion: kubeadm.k8s.io/v1beta4
controlPlaneEndpoint: 10.89.0.10:6443
dns: {}
etcd:
  local:
    dataDir: /var/lib/etcd
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
"""


def record(text: object = TEXT) -> dict[str, Any]:
    return {"metadata": {"uid": "u", "resourceVersion": "7"}, "data": {"ClusterConfiguration": text}}


def changed(config_map: dict[str, Any], version: str) -> dict[str, Any]:
    patch = build_version_patch(config_map, version)
    assert patch["metadata"] == {"uid": "u", "resourceVersion": "7"}
    found: dict[str, Any] = yaml.safe_load(patch["data"]["ClusterConfiguration"])
    return found


def test_only_the_version_changes() -> None:
    assert read_version(record()) == "v1.36.3"
    before = yaml.safe_load(TEXT)
    assert changed(record(), "v1.37.2") == before | {"kubernetesVersion": "v1.37.2"}


def test_pinned_image_tags_follow_and_their_neighbours_stay() -> None:
    pinned = TEXT.replace("dns: {}", "dns: {imageRepository: r.test, imageTag: v1.14.2}").replace(
        "dataDir: /var/lib/etcd", "dataDir: /var/lib/etcd\n    imageTag: 3.6.8-0"
    )
    found = changed(record(pinned), "v1.37.2")
    assert found["dns"] == {"imageRepository": "r.test", "imageTag": "v1.14.6"}
    assert found["etcd"] == {"local": {"dataDir": "/var/lib/etcd", "imageTag": "3.7.0-0"}}
    assert changed(record("kubernetesVersion: v1.37.2\netcd: {external: {}}"), "v1.99.0") == {
        "kubernetesVersion": "v1.99.0",
        "etcd": {"external": {}},
    }
    assert changed(record("etcd: {external: {}}"), "v1.37.2")["etcd"] == {"external": {}}


COMPONENTS = ComponentsInput("10.89.0.10", make_arguments(["a.test"], api_server={"v": "4"}), keeps_addresses=True)


def test_arguments_and_names_are_replaced_and_their_neighbours_stay() -> None:
    text = TEXT.replace("  certSANs:", "  extraVolumes: [{name: audit}]\n  certSANs:")
    patch = build_components_patch(record(text), build_components(COMPONENTS))
    assert patch is not None
    assert patch["metadata"] == {"uid": "u", "resourceVersion": "7"}
    found = yaml.safe_load(patch["data"]["ClusterConfiguration"])
    assert found["apiServer"]["certSANs"] == ["10.89.0.10", "127.0.0.1", "localhost", "a.test"]
    assert {"name": "v", "value": "4"} in found["apiServer"]["extraArgs"]
    assert found["apiServer"]["extraVolumes"] == [{"name": "audit"}]
    assert found["etcd"]["local"]["dataDir"] == "/var/lib/etcd"
    assert {"name": "listen-peer-urls", "value": "https://0.0.0.0:2380"} in found["etcd"]["local"]["extraArgs"]
    assert (found["dns"], found["kubernetesVersion"]) == ({}, "v1.36.3")


def test_a_record_of_the_same_in_any_order_is_not_written() -> None:
    wanted = build_components(COMPONENTS)
    shuffled = {**wanted, "apiServer": {name: found[::-1] for name, found in wanted["apiServer"].items()}}
    assert shuffled != wanted
    assert build_components_patch(record(yaml.safe_dump(shuffled)), wanted) is None
    # What `kubeadm init` was told is what it records.
    config = make_init_input(node=make_node(node_ip="10.89.0.10"), arguments=COMPONENTS.arguments)
    told = next(text for text in build_init_config(config).split("---") if "kind: ClusterConfiguration" in text)
    assert build_components_patch(record(told), wanted) is None


@pytest.mark.parametrize("text", [None, 7, "[", "- a", "x" * (300 << 10), "[" * 50, "a: &b 1\nc: *b"])
def test_what_cannot_be_read_is_said_and_never_overwritten(text: object) -> None:
    assert read_version(record(text)) is None
    with pytest.raises(CapnError, match="restore it"):
        build_version_patch(record(text), "v1.37.2")
    with pytest.raises(CapnError, match="restore it"):
        build_components_patch(record(text), build_components(COMPONENTS))


@pytest.mark.parametrize("version", ["1.37", "latest", 1.37, "v1.37.2\n"])
def test_odd_versions_are_none(version: object) -> None:
    assert read_version(record(yaml.safe_dump({"kubernetesVersion": version}))) is None
    assert read_version({"metadata": {}}) is None
