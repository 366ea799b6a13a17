"""`config/`: what `kubectl apply -k` puts on a cluster, against a real kube-apiserver."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from capn.settings import load_settings
from tests.conftest import REPO, Kubectl

CONFIG = REPO / "config"
FORBIDDEN_VERBS = {"*", "escalate", "bind", "impersonate"}


@pytest.fixture(scope="module")
def built(kubectl: Kubectl) -> list[dict[str, Any]]:
    """Everything of config/default."""
    return [obj for obj in yaml.safe_load_all(kubectl("kustomize", str(CONFIG / "default"))) if obj]


def _of_kind(built: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    found = [obj for obj in built if obj["kind"] in kinds]
    assert found, kinds
    return found


def test_default_is_taken_by_the_api_server(kubectl: Kubectl, crds: list[str]) -> None:
    assert crds
    # A dry run cannot see a namespace that the same dry run would make.
    kubectl("apply", "-f", str(CONFIG / "default/namespace.yaml"))
    told = kubectl("apply", "--server-side", "--dry-run=server", "-k", str(CONFIG / "default"))
    for name in (
        "nestedclusters.capn.dev",
        "deployment.apps/capn-controller",
        "capn-leader-election",
        "capn-settings-",
    ):
        assert name in told


def test_the_pod_is_restricted(kubectl: Kubectl, built: list[dict[str, Any]], crds: list[str]) -> None:
    assert crds
    kubectl("apply", "-f", str(CONFIG / "default/namespace.yaml"))
    (deployment,) = _of_kind(built, "Deployment")
    warned = kubectl.run("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(deployment))
    assert warned.returncode == 0, warned.stderr
    assert "would violate PodSecurity" not in warned.stderr
    # The same template with one thing less is seen, so the silence above means something.
    del deployment["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    warned = kubectl.run("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(deployment))
    assert "would violate PodSecurity" in warned.stderr


def test_a_pod_on_a_slow_node_is_given_time_to_start(built: list[dict[str, Any]]) -> None:
    (deployment,) = _of_kind(built, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    startup, liveness = container["startupProbe"], container["livenessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 900
    assert liveness["timeoutSeconds"] >= 30
    assert liveness["failureThreshold"] >= 4


def test_rbac_has_no_wildcard_and_lists_no_secrets(built: list[dict[str, Any]]) -> None:
    for role in _of_kind(built, "ClusterRole", "Role"):
        for rule in role["rules"]:
            assert not FORBIDDEN_VERBS & set(rule["verbs"]), role["metadata"]["name"]
            assert "*" not in rule["resources"] + rule["apiGroups"]
            if "secrets" in rule["resources"]:
                assert not {"list", "watch", "deletecollection"} & set(rule["verbs"])


ALLOWED = (
    ("get", "nestedclusters.capn.dev"),
    ("watch", "nestedmachines.capn.dev"),
    ("patch", "nestedclusters.capn.dev/status"),
    ("create", "nestedmachines.capn.dev"),
    ("get", "secrets"),
    ("create", "events.events.k8s.io"),
)
DENIED = (
    ("list", "secrets"),
    ("create", "nestedclusters.capn.dev"),
    ("delete", "nestedclusters.capn.dev"),
    ("get", "pods"),
    ("create", "leases.coordination.k8s.io"),
)


@pytest.fixture(scope="module")
def account(kubectl: Kubectl, crds: list[str]) -> list[str]:
    """kubectl's arguments for acting as the controller, with the roles of config/rbac in place."""
    assert crds
    kubectl("apply", "-f", str(CONFIG / "default/namespace.yaml"))
    kubectl("apply", "-k", str(CONFIG / "rbac"))
    return ["--as=system:serviceaccount:capn-system:capn-controller"]


@pytest.mark.parametrize(("verb", "resource"), ALLOWED)
def test_the_controller_may(kubectl: Kubectl, account: list[str], verb: str, resource: str) -> None:
    assert kubectl.run(*account, "auth", "can-i", verb, *_target(resource), "-n", "default").stdout.strip() == "yes"


@pytest.mark.parametrize(("verb", "resource"), DENIED)
def test_the_controller_may_not(kubectl: Kubectl, account: list[str], verb: str, resource: str) -> None:
    assert kubectl.run(*account, "auth", "can-i", verb, *_target(resource), "-n", "default").stdout.strip() == "no"


def _target(resource: str) -> list[str]:
    name, _, subresource = resource.partition("/")
    return [name, f"--subresource={subresource}"] if subresource else [name]


def test_the_controller_keeps_its_lease(kubectl: Kubectl, account: list[str]) -> None:
    for verb in ("get", "create", "patch"):
        can = kubectl.run(*account, "auth", "can-i", verb, "leases.coordination.k8s.io", "-n", "capn-system")
        assert can.stdout.strip() == "yes", verb


def test_the_settings_are_the_controllers(built: list[dict[str, Any]], tmp_path: Path) -> None:
    (config_map,) = _of_kind(built, "ConfigMap")
    file = tmp_path / "settings.yaml"
    file.write_text(config_map["data"]["settings.yaml"])
    settings = load_settings(file)
    (deployment,) = _of_kind(built, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["ports"][0]["containerPort"] == settings.port
    assert settings.bind == "0.0.0.0"  # noqa: S104 - the NetworkPolicy says who may come in
    assert settings.lease_namespace == deployment["metadata"]["namespace"] == "capn-system"
    assert set(settings.endpoints) == {"libvirt", "memory"}
    assert pod["volumes"][0]["configMap"]["name"] == config_map["metadata"]["name"]
    mount = container["volumeMounts"][0]["mountPath"]
    assert container["args"] == ["run", f"--settings={mount}/settings.yaml"]


def test_samples_are_taken_as_files_and_as_a_kustomization(kubectl: Kubectl, crds: list[str], namespace: str) -> None:
    assert crds
    samples = str(CONFIG / "samples")
    for argument in ("-f", "-k"):
        assert "nestedcluster.capn.dev/demo" in kubectl("-n", namespace, "apply", "--dry-run=server", argument, samples)


NESTING = {"capn-controller-nesting", "capn-child", "capn-claims"}
KUBEVIRT = {"capn-kubevirt"}


@pytest.mark.parametrize(
    ("directory", "more", "gate", "kinds"),
    [
        ("default", set(), False, {"libvirt", "memory"}),
        ("kubevirt", KUBEVIRT, False, {"kubevirt"}),
        ("nesting", NESTING, True, {"libvirt", "memory"}),
        ("nesting/kubevirt", NESTING | KUBEVIRT, False, {"kubevirt"}),
    ],
)
def test_every_combination_builds(  # noqa: PLR0913, PLR0917 - a table
    kubectl: Kubectl,
    tmp_path: Path,
    directory: str,
    more: set[str],
    gate: bool,  # noqa: FBT001
    kinds: set[str],
) -> None:
    built = [obj for obj in yaml.safe_load_all(kubectl("kustomize", str(CONFIG / directory))) if obj]
    names = {obj["metadata"]["name"] for obj in built}
    assert {"capn-controller", *more} <= names
    assert not (NESTING | KUBEVIRT) - more & names
    assert ("capn-gate" in names) is gate
    (config_map,) = _of_kind(built, "ConfigMap")
    (tmp_path / "settings.yaml").write_text(config_map["data"]["settings.yaml"])
    assert set(load_settings(tmp_path / "settings.yaml").endpoints) == kinds
    (deployment,) = _of_kind(built, "Deployment")
    assert config_map["metadata"]["name"] in json.dumps(deployment)


def _lets_out(policy: dict[str, Any], port: int) -> bool:
    allowed = [entry for rule in policy["spec"]["egress"] for entry in rule["ports"] if entry["protocol"] == "TCP"]
    return any(entry["port"] <= port <= entry.get("endPort", entry["port"]) for entry in allowed)


@pytest.mark.parametrize(
    ("directory", "port", "reached"),
    [
        ("default", 6443, True),
        ("default", 22, True),
        ("default", 31000, False),
        ("kubevirt", 6443, True),
        ("kubevirt", 30000, True),
        ("kubevirt", 32767, True),
        ("nesting/kubevirt", 31000, True),
    ],
)
def test_the_controller_reaches_what_its_provider_needs(
    kubectl: Kubectl,
    directory: str,
    port: int,
    reached: bool,  # noqa: FBT001
) -> None:
    built = [obj for obj in yaml.safe_load_all(kubectl("kustomize", str(CONFIG / directory))) if obj]
    (deployment,) = _of_kind(built, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    policies = _of_kind(built, "NetworkPolicy")
    assert all(policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items() for policy in policies)
    assert any(_lets_out(policy, port) for policy in policies) is reached


def test_optional_parts_build(kubectl: Kubectl) -> None:
    (monitor,) = yaml.safe_load_all(kubectl("kustomize", str(CONFIG / "prometheus")))
    assert monitor["spec"]["endpoints"][0]["port"] == "metrics"
    (config_map,) = yaml.safe_load_all(kubectl("kustomize", str(CONFIG / "argocd")))
    assert set(config_map["data"]) == {
        "resource.customizations.health.capn.dev_NestedCluster",
        "resource.customizations.health.capn.dev_NestedMachine",
    }
