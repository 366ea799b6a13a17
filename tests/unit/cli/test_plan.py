"""`capn plan`: files in, a table or data out, and the exit code that a script wants."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from capn.cli import exits
from capn.cli.app import main
from capn.cli.plan import read_manifests
from capn.errors import InvalidSpecError

GOOD = """
apiVersion: capn.dev/v1alpha1
kind: NestedCluster
metadata: {name: demo}
spec: {version: v1.37.2, workers: [{name: md, replicas: 2}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: team}
"""


def run_plan(monkeypatch: pytest.MonkeyPatch, *args: str) -> object:
    monkeypatch.setattr(sys, "argv", ["capn", "plan", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


def test_offline_all_is_new(good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_plan(monkeypatch, "-f", str(good), "--offline", "-n", "team") == exits.CHANGES
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["team/demo: new", "  +   add demo-cp-0", "  +   add demo-md-0", "  +   add demo-md-1"]
    assert "after  3         6     7680Mi  30Gi" in lines
    assert lines[-1].startswith("without a look at the parent")


@pytest.mark.parametrize(("output", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_the_same_as_data(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str, load: object
) -> None:
    assert run_plan(monkeypatch, "-f", str(good), "--offline", "-o", output) == exits.CHANGES
    assert callable(load)
    data = load(capsys.readouterr().out)
    [cluster] = data["clusters"]
    assert (cluster["name"], cluster["verdict"], len(cluster["machines"])) == ("demo", "new", 3)
    assert data["after"] == {"machines": 3, "cpus": 6, "memory_mib": 7680, "disk_mib": 30720}


def test_a_refusal_is_exit_code_1_and_names_the_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(GOOD.replace("version: v1.37.2", "version: v1.37.2, powerState: Off"))
    assert run_plan(monkeypatch, "-f", str(path), "--offline") == exits.FAILED
    assert 'spec.powerState: write "Off" in quotes: YAML reads Off as false (rule)' in capsys.readouterr().out


def test_without_a_cluster_the_way_out_is_named(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_plan(monkeypatch, "-f", str(good), "--kubeconfig", str(tmp_path / "none")) == exits.NOT_FOUND
    assert "capn plan --offline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no NestedCluster"),
        ("kind: Pod", "holds no NestedCluster"),
        ("kind: [", "cannot read"),
        ("kind: NestedCluster", "metadata.name"),
    ],
)
def test_a_file_that_says_nothing_is_an_error_with_the_reason(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSpecError, match=words):
        read_manifests(path, namespace="default")


def test_lists_are_read_and_a_namespace_in_the_file_wins(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    item = {"kind": "NestedCluster", "metadata": {"name": "a", "namespace": "mine"}, "spec": {"version": "v1.37.2"}}
    path.write_text(yaml.safe_dump({"kind": "List", "items": [item, {"kind": "Pod"}]}))
    [found] = read_manifests(path, namespace="default")
    assert found["metadata"]["namespace"] == "mine"
