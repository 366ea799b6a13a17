from __future__ import annotations

import pytest

from capn.api.cluster import Access, Endpoint, NestedCluster
from capn.api.machine import NestedMachine
from capn.build.pki import generate_pki
from capn.controllers.machine.user_data import build_machine_user_data
from tests.unit.build.samples import NOW, TOKEN, make_cluster, make_machine

PKI = generate_pki(now=NOW, cluster="demo")
NAME = "0b0e.gate.capn.dev"


def build(cluster: NestedCluster, machine: NestedMachine, *, joins: bool) -> str:
    return build_machine_user_data(
        cluster=cluster,
        machine=machine,
        endpoint=Endpoint(host="10.89.0.10", port=6443),
        pki=PKI,
        provider_id="capn-libvirt://team-a/demo/demo-cp-0/x",
        token=TOKEN,
        joins=joins,
    ).decode()


@pytest.mark.parametrize("access", [None, Access(host="198.18.0.1", port=8443, server_name=NAME)])
def test_the_api_servers_certificate_has_the_name_by_which_the_gate_knows_it(access: Access | None) -> None:
    cluster = make_cluster(controlPlane={"extraSANs": ["api.example.org"]})
    cluster = cluster.model_copy(update={"status": cluster.status.model_copy(update={"access": access})})
    data = build(cluster, make_machine(), joins=False)
    assert "api.example.org" in data
    assert (NAME in data) is (access is not None)


def test_the_first_machine_is_made_with_what_it_is_marked_with_whatever_the_cluster_says_by_then() -> None:
    cluster = make_cluster(controlPlane={"scheduler": {"extraArgs": {"v": "7"}}})
    marked = make_machine(kubeadm={"scheduler": {"extraArgs": {"profiling": "false"}}, "extraSANs": ["a.test"]})
    data = build(cluster, marked, joins=False)
    assert "name: profiling" in data
    assert "a.test" in data
    assert "name: v\n" not in data
    assert "name: v\n" in build(cluster, make_machine(), joins=False)  # a machine of an earlier release


@pytest.mark.parametrize("domain", [None, "rack-a"])
def test_a_node_registers_with_its_failure_domain_as_zone(domain: str | None) -> None:
    data = build(make_cluster(), make_machine(failureDomain=domain), joins=True)
    assert "capn.dev/kubernetes-version=v1.37.2" in data
    assert ("topology.kubernetes.io/zone=rack-a" in data) is (domain is not None)
