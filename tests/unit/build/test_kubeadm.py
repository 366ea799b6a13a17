from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from capn.api.machine_template import Taint
from capn.build.kubeadm import build_init_config, build_join_config, join_host_port, kubelet_labels
from capn.errors import InvalidSpecError
from tests.unit.build.samples import CA_HASH, TOKEN, make_arguments, make_init_input, make_join_input, make_node


def load_init(**fields: object) -> dict[str, dict[str, Any]]:
    documents = yaml.safe_load_all(build_init_config(make_init_input(**fields)))
    return {document["kind"]: document for document in documents}


def load_join(**fields: object) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(build_join_config(make_join_input(**fields)))
    return document


def arguments_of(registration: dict[str, Any]) -> dict[str, str]:
    return {argument["name"]: argument["value"] for argument in registration["kubeletExtraArgs"]}


def test_init_has_the_values_given() -> None:
    documents = load_init(arguments=make_arguments(["demo.example", "10.89.0.10"]))
    cluster = documents["ClusterConfiguration"]
    assert cluster["kubernetesVersion"] == "v1.37.2"
    assert cluster["clusterName"] == "demo"
    assert cluster["controlPlaneEndpoint"] == "10.89.0.10:6443"
    assert cluster["networking"] == {
        "podSubnet": "10.244.0.0/16", "serviceSubnet": "10.96.0.0/16", "dnsDomain": "cluster.local"
    }  # fmt: skip
    assert cluster["apiServer"]["certSANs"] == ["10.89.0.10", "127.0.0.1", "localhost", "demo.example"]
    assert cluster["encryptionAlgorithm"] == "ECDSA-P256"
    init = documents["InitConfiguration"]
    assert init["localAPIEndpoint"] == {"advertiseAddress": "10.89.0.10", "bindPort": 6443}
    assert init["nodeRegistration"]["name"] == "demo-cp-0"
    assert "taints" not in init["nodeRegistration"], "kubeadm's own default taint"
    assert arguments_of(init["nodeRegistration"]) == {"provider-id": "capn-libvirt://team-a/demo/demo-cp-0/0000"}
    assert documents["KubeletConfiguration"]["cgroupDriver"] == "systemd"
    assert documents["KubeProxyConfiguration"]["mode"] == "iptables"


def test_init_makes_the_one_short_lived_token_that_it_is_given() -> None:
    [token] = load_init()["InitConfiguration"]["bootstrapTokens"]
    assert (token["token"], token["ttl"]) == (TOKEN, "15m0s")


def test_a_named_endpoint_is_not_advertised() -> None:
    assert load_init(endpoint_host="demo.example")["InitConfiguration"]["localAPIEndpoint"] == {"bindPort": 6443}
    assert join_host_port("fd00::1", 6443) == "[fd00::1]:6443"


def test_extra_arguments_reach_their_component() -> None:
    cluster = load_init(
        arguments=make_arguments(
            api_server={"v": "2", "audit-log-path": "-"},
            controller_manager={"a": "1"},
            scheduler={"b": "1e3"},
            etcd={"c": "no"},
        )
    )["ClusterConfiguration"]
    assert {"name": "audit-log-path", "value": "-"} in cluster["apiServer"]["extraArgs"]
    assert {"name": "v", "value": "2"} in cluster["apiServer"]["extraArgs"]
    assert {"name": "a", "value": "1"} in cluster["controllerManager"]["extraArgs"]
    assert {"name": "b", "value": "1e3"} in cluster["scheduler"]["extraArgs"]
    assert {"name": "c", "value": "no"} in cluster["etcd"]["local"]["extraArgs"]


def test_users_arguments_win_over_the_calm_ones() -> None:
    cluster = load_init(arguments=make_arguments(scheduler={"leader-elect-lease-duration": "15s"}))[
        "ClusterConfiguration"
    ]
    lease = [entry for entry in cluster["scheduler"]["extraArgs"] if entry["name"] == "leader-elect-lease-duration"]
    assert lease == [{"name": "leader-elect-lease-duration", "value": "15s"}]
    assert {"name": "leader-elect-lease-duration", "value": "60s"} in cluster["controllerManager"]["extraArgs"]


def test_join_pins_the_ca_and_uses_the_token() -> None:
    join = load_join()
    assert join["discovery"]["bootstrapToken"] == {
        "apiServerEndpoint": "10.89.0.10:6443", "token": TOKEN, "caCertHashes": [CA_HASH]
    }  # fmt: skip
    assert "controlPlane" not in join
    assert join["nodeRegistration"]["taints"] == [{"key": "dedicated", "value": "web", "effect": "NoSchedule"}]
    assert arguments_of(join["nodeRegistration"])["node-labels"] == "tier=web"
    assert TOKEN not in repr(make_join_input())


def test_a_worker_without_taints_says_so() -> None:
    assert load_join(node=make_node())["nodeRegistration"]["taints"] == []


def test_a_joining_control_plane_has_a_local_endpoint() -> None:
    join = load_join(control_plane=True, node=make_node("demo-cp-1", node_ip="10.89.0.11"))
    assert join["controlPlane"] == {"localAPIEndpoint": {"advertiseAddress": "10.89.0.11", "bindPort": 6443}}
    assert arguments_of(join["nodeRegistration"])["node-ip"] == "10.89.0.11"
    assert "taints" not in join["nodeRegistration"]


def test_only_labels_that_a_kubelet_may_set_are_its_own() -> None:
    allowed = {
        "tier": "web",
        "example.com/x": "",
        "node.kubernetes.io/instance-type": "a",
        "sub.node.kubernetes.io/x": "a",
        "topology.kubernetes.io/zone": "z",
    }
    refused = {"node-role.kubernetes.io/web": "", "kubernetes.io/x": "1", "x.k8s.io/y": "1"}
    assert kubelet_labels({**allowed, **refused}) == allowed


@pytest.mark.parametrize(
    "labels",
    [{"a=b,c": "d"}, {"x": "a,b=c"}, {"": "x"}, {"/x": "y"}, {"A_b.example/x": "y"}, {"x": "y" * 64}, {"x": "-"}],
)
def test_a_label_that_could_become_another_is_refused(labels: dict[str, str]) -> None:
    with pytest.raises(InvalidSpecError, match=r"^spec\.workers\[\]\.labels"):
        build_join_config(make_join_input(node=make_node(labels=labels)))


def test_a_line_break_in_a_value_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match=r"etcd\.local\.extraArgs.*: holds control"):
        build_init_config(make_init_input(arguments=make_arguments(etcd={"x": "a\nb: c"})))
    with pytest.raises(InvalidSpecError, match=r"networking\.dnsDomain: holds control"):
        build_init_config(make_init_input(dns_domain="a\nb: c"))
    with pytest.raises(InvalidSpecError, match=r"holds control"):
        build_join_config(make_join_input(token="a\nb: c"))


HOSTILE = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029\ufeff"), max_size=40)
TEXT_FIELDS = {
    "version": ("ClusterConfiguration", "kubernetesVersion"),
    "cluster": ("ClusterConfiguration", "clusterName"),
    "pod_cidr": ("ClusterConfiguration", "networking", "podSubnet"),
    "service_cidr": ("ClusterConfiguration", "networking", "serviceSubnet"),
    "dns_domain": ("ClusterConfiguration", "networking", "dnsDomain"),
}


@given(st.sampled_from(sorted(TEXT_FIELDS)), HOSTILE)
def test_no_value_becomes_structure(field: str, text: str) -> None:
    clean, changed = load_init(), load_init(**{field: text})
    kind, *path = TEXT_FIELDS[field]
    place: Any = clean[kind]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = text
    assert changed == clean


@given(HOSTILE, HOSTILE, HOSTILE)
def test_no_node_value_becomes_structure(name: str, argument: str, key: str) -> None:
    taint = Taint.model_construct(key=key, value=argument, effect="NoSchedule")
    documents = load_init(
        node=make_node(name, taints=(taint,)),
        arguments=make_arguments([key], api_server={"x": argument}),
        endpoint_host=name or "h",
    )
    registration = documents["InitConfiguration"]["nodeRegistration"]
    assert registration["name"] == name
    assert registration["taints"] == [{"key": key, "value": argument, "effect": "NoSchedule"}]
    assert {"name": "x", "value": argument} in documents["ClusterConfiguration"]["apiServer"]["extraArgs"]
    assert len(documents) == 4
