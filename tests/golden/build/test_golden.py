"""Everything that capn.build writes, as files to read and to review. `make golden` rewrites them."""

from __future__ import annotations

import pytest
from syrupy.assertion import SnapshotAssertion

from capn.api.machine_template import Taint
from capn.build.cloudinit import BootstrapMode, build_meta_data, build_user_data
from capn.build.flannel import build_flannel
from capn.build.kubeadm import build_init_config, build_join_config
from capn.build.kubeconfig import ServerAddress, build_kubeconfig
from capn.build.machines import desired_machines
from capn.build.secrets import build_bootstrap_secret, build_kubeconfig_secret, build_pki_secrets
from capn.build.tokens import build_token_secret
from capn.build.yaml_text import build_yaml_documents
from tests.golden.snapshots import YamlFile
from tests.unit.build.samples import (
    NOW,
    TOKEN,
    make_arguments,
    make_cluster,
    make_fixed_pair,
    make_fixed_pki,
    make_flannel_input,
    make_init_input,
    make_join_input,
    make_machine,
    make_node,
    make_user_data_input,
)


@pytest.fixture
def golden(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    return snapshot.use_extension(YamlFile)


@pytest.mark.parametrize("mode", BootstrapMode)
def test_user_data(golden: SnapshotAssertion, mode: BootstrapMode) -> None:
    assert build_user_data(make_user_data_input(mode)).decode() == golden


def test_meta_data(golden: SnapshotAssertion) -> None:
    assert build_meta_data("3b8f6a1e-0000-4000-8000-000000000002", "demo-cp-0").decode() == golden


def test_kubeadm_init(golden: SnapshotAssertion) -> None:
    assert build_init_config(make_init_input()) == golden


def test_kubeadm_init_with_everything(golden: SnapshotAssertion) -> None:
    taint = Taint(key="dedicated", value="cp", effect="NoExecute")
    config = make_init_input(
        node=make_node(labels={"tier": "cp"}, taints=(taint,), node_ip="10.89.0.10"),
        arguments=make_arguments(
            ["demo.example", "192.0.2.7"],
            api_server={"audit-log-path": "-", "v": "2"},
            controller_manager={"node-monitor-grace-period": "1m0s"},
            scheduler={"v": "1e3"},
            etcd={"heartbeat-interval": "500"},
        ),
    )
    assert build_init_config(config) == golden


def test_kubeadm_join_worker(golden: SnapshotAssertion) -> None:
    assert build_join_config(make_join_input()) == golden


def test_kubeadm_join_control_plane(golden: SnapshotAssertion) -> None:
    assert build_join_config(make_join_input(node=make_node("demo-cp-1"), control_plane=True)) == golden


def test_flannel(golden: SnapshotAssertion) -> None:
    assert build_yaml_documents(build_flannel(make_flannel_input(mtu=1400))) == golden


def test_secrets(golden: SnapshotAssertion) -> None:
    cluster = make_cluster()
    secrets = [
        *build_pki_secrets(cluster, make_fixed_pki()),
        build_kubeconfig_secret(cluster, "apiVersion: v1\n"),
        build_bootstrap_secret(make_machine(), b"#cloud-config\n"),
        build_token_secret(TOKEN, expires=NOW, description="demo-pool-0", machine_uid="uid-1"),
    ]
    assert build_yaml_documents(secrets) == golden


def test_kubeconfig(golden: SnapshotAssertion) -> None:
    pair = make_fixed_pair("admin")
    text = build_kubeconfig(
        cluster="demo",
        server=ServerAddress("https://10.89.0.10:6443"),
        ca_pem=make_fixed_pair("ca").cert_pem,
        client=pair,
    )
    assert text == golden


def test_machines(golden: SnapshotAssertion) -> None:
    pool = {
        "name": "web",
        "replicas": 2,
        "labels": {"tier": "web"},
        "taints": [{"key": "dedicated", "value": "web", "effect": "NoSchedule"}],
        "machine": {"cpus": 4, "memory": "4Gi", "disk": "20Gi"},
    }
    assert build_yaml_documents(desired_machines(make_cluster(workers=[pool]))) == golden
