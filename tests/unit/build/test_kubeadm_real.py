"""The configurations, as the real kubeadm sees them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from capn.api.machine_template import Taint
from capn.build.calm import PATCHES_PATH, PROBES, build_patches
from capn.build.kubeadm import build_init_config, build_join_config
from tests.unit.build.samples import make_arguments, make_init_input, make_join_input, make_node

pytestmark = pytest.mark.integration
TAINT = Taint(key="dedicated", value="1e3", effect="NoExecute")
ARGUMENTS = {"v": "2", "feature-gates": "A=true,B=false", "x": "yes"}

CONFIGURATIONS = {
    "init": build_init_config(make_init_input()),
    "init-named-endpoint": build_init_config(
        make_init_input(endpoint_host="demo.example", arguments=make_arguments(["192.0.2.1", "a.b"]))
    ),
    "init-everything": build_init_config(
        make_init_input(
            node=make_node(labels={"tier": "1e3", "on": "y"}, taints=(TAINT,), node_ip="10.89.0.10"),
            arguments=make_arguments(
                api_server=ARGUMENTS, controller_manager=ARGUMENTS, scheduler=ARGUMENTS, etcd=ARGUMENTS
            ),
        )
    ),
    "join": build_join_config(make_join_input()),
    "join-no-taints": build_join_config(make_join_input(node=make_node("demo-pool-1"))),
    "join-control-plane": build_join_config(make_join_input(control_plane=True, node=make_node("demo-cp-1"))),
}


def validate(binaries: Mapping[str, Path], config: str, path: Path) -> subprocess.CompletedProcess[str]:
    path.write_text(config)
    argv = [str(binaries["kubeadm"]), "config", "validate", "--config", str(path)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_kubeadm_accepts_it_without_a_word_of_doubt(name: str, binaries: Mapping[str, Path], tmp_path: Path) -> None:
    result = validate(binaries, CONFIGURATIONS[name], tmp_path / "kubeadm.yaml")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "ok"
    assert "W" not in {line[:1] for line in result.stderr.splitlines()}, result.stderr


def test_kubeadm_would_refuse_a_field_that_does_not_exist(binaries: Mapping[str, Path], tmp_path: Path) -> None:
    broken = CONFIGURATIONS["init"].replace("clusterName:", "clusterNames:")
    result = validate(binaries, broken, tmp_path / "kubeadm.yaml")
    assert result.returncode != 0
    assert 'unknown field "clusterNames"' in result.stderr


def test_patched_control_plane_has_only_probes_with_a_handler(binaries: Mapping[str, Path], tmp_path: Path) -> None:
    """The kubelet refuses a static pod whose probe has no handler, and nobody is told but its own log."""
    patches, out = tmp_path / "patches", tmp_path / "manifests"
    patches.mkdir()
    out.mkdir()
    for name, patch in build_patches().items():
        (patches / name).write_text(patch)
    config = tmp_path / "kubeadm.yaml"
    config.write_text(CONFIGURATIONS["init"].replace(PATCHES_PATH, str(patches)))
    environment = {"KUBEADM_INIT_DRYRUN_DIR": str(out), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    for phase in (["control-plane", "all"], ["etcd", "local"]):
        argv = [str(binaries["kubeadm"]), "init", "phase", *phase, "--config", str(config), "--dry-run"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=environment)
        assert done.returncode == 0, done.stderr
    manifests = {path.stem: yaml.safe_load(path.read_text()) for path in out.rglob("*.yaml")}
    assert set(manifests) >= set(PROBES)
    for component in PROBES:
        container = manifests[component]["spec"]["containers"][0]
        probes = {name: probe for name, probe in container.items() if name.endswith("Probe")}
        assert all("httpGet" in probe for probe in probes.values()), component
        assert container["livenessProbe"]["periodSeconds"] == 30
        if "readinessProbe" in probes:
            assert container["readinessProbe"]["periodSeconds"] == 10
