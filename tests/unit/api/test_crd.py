"""Properties of the generated schemas that an API server needs and that people read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, Field

from capn.api import crd, docs
from capn.api.crd import DEFINITIONS, build_crd, build_files, build_object_schema, build_structural
from capn.api.generated import generate

REPO = Path(__file__).resolve().parents[3]
ALLOWED = {
    "type", "format", "description", "default", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern",
    "minItems", "maxItems", "maxProperties", "required", "properties", "items", "additionalProperties",
    "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
}  # fmt: skip


def _nodes(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        if (path, name) != ("", "metadata"):  # the API server has its own schema for it
            yield from _nodes(f"{path}.{name}", field)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from _nodes(f"{path}[]", schema[key])


NODES = [
    pytest.param(node, id=f"{definition.short_name}{path}")
    for definition in DEFINITIONS
    for path, node in _nodes("", build_object_schema(definition.model))
]
FIELDS = [param for param in NODES if not str(param.id).endswith("[]")]


@pytest.mark.parametrize("node", FIELDS)
def test_every_field_is_described(node: dict[str, Any]) -> None:
    assert len(node["description"]) >= 5
    assert node["description"][0].isupper() or node["description"].startswith("kubeadm")
    assert node["description"].endswith(".")


@pytest.mark.parametrize("node", NODES)
def test_structural_schemas_know_every_keyword(node: dict[str, Any]) -> None:
    assert set(node) <= ALLOWED
    assert isinstance(node["type"], str)


@pytest.mark.parametrize("node", NODES)
def test_everything_has_a_limit(node: dict[str, Any]) -> None:
    if node["type"] == "string":
        assert "maxLength" in node or "enum" in node
    if node["type"] == "array":
        assert "maxItems" in node
    if "additionalProperties" in node:
        assert "maxProperties" in node


@pytest.mark.parametrize("node", NODES)
def test_rules_have_a_message_and_lists_a_type(node: dict[str, Any]) -> None:
    for rule in node.get("x-kubernetes-validations", ()):
        assert rule["message"]
        assert "\n" not in rule["message"]
    if node["type"] == "array" and node["items"]["type"] == "object" and "x-kubernetes-list-type" in node:
        assert set(node["x-kubernetes-list-map-keys"]) <= set(node["items"]["required"])


def _schema(kind: str) -> dict[str, Any]:
    (definition,) = (each for each in DEFINITIONS if each.resource.kind == kind)
    schema: dict[str, Any] = build_crd(definition)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def test_conditions_workers_and_taints_are_keyed_lists() -> None:
    fields = _schema("NestedCluster")["properties"]
    assert fields["status"]["properties"]["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    workers = fields["spec"]["properties"]["workers"]
    assert workers["x-kubernetes-list-map-keys"] == ["name"]
    assert workers["items"]["properties"]["taints"]["x-kubernetes-list-map-keys"] == ["key", "effect"]


def test_nested_defaults_are_written_out() -> None:
    # The API server tests defaults against CEL as written: `{}` would fail the overlap rule.
    network = _schema("NestedCluster")["properties"]["spec"]["properties"]["network"]
    assert network["default"]["podCIDR"] == network["properties"]["podCIDR"]["default"] == "10.244.0.0/16"


def test_status_has_no_defaults() -> None:
    for kind in ("NestedCluster", "NestedMachine"):
        status = _schema(kind)["properties"]["status"]
        assert [path for path, node in _nodes("", status) if "default" in node] == []


def test_the_control_plane_scales() -> None:
    version = build_crd(DEFINITIONS[0])["spec"]["versions"][0]
    assert version["subresources"]["scale"]["specReplicasPath"] == ".spec.controlPlane.replicas"
    assert "scale" not in build_crd(DEFINITIONS[1])["spec"]["versions"][0]["subresources"]


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.short_name)
def test_columns_point_at_fields(definition: crd.Definition) -> None:
    schema = build_object_schema(definition.model)
    for column in definition.columns:
        if column.path.startswith(".metadata"):
            continue
        node = schema
        for part in column.path.removeprefix(".").replace("[0]", ".[]").split("."):
            node = node["items"] if part == "[]" else node["properties"][part]
        assert node["type"] == column.type


def test_output_is_the_same_each_time_and_valid_yaml() -> None:
    assert build_files() == build_files()
    assert all(yaml.safe_load(text)["kind"] == "CustomResourceDefinition" for text in build_files().values())


def test_the_checked_in_files_are_up_to_date() -> None:
    assert crd.main(["--check", "--root", str(REPO)]) == 0
    assert docs.main(["--check", "--root", str(REPO)]) == 0


def test_check_shows_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {Path("a/b.txt"): "one\ntwo\n"}
    assert generate(files, arguments=["--root", str(tmp_path), "--check"]) == 1
    assert generate(files, arguments=["--root", str(tmp_path)]) == 0
    assert generate(files, arguments=["--root", str(tmp_path), "--check"]) == 0
    (tmp_path / "a/b.txt").write_text("one\nthree\n")
    capsys.readouterr()
    assert generate(files, arguments=["--root", str(tmp_path), "--check"]) == 1
    shown = capsys.readouterr().err
    assert "-three" in shown
    assert "+two" in shown
    assert "make generate" in shown


def test_a_field_of_two_types_is_not_guessed() -> None:
    class Loose(BaseModel):
        size: int | str

    source = Loose.model_json_schema()
    with pytest.raises(ValueError, match="one type"):
        build_structural(source, {})


def test_limits_of_keys_must_be_rules() -> None:
    class Keyed(BaseModel):
        labels: dict[Annotated[str, Field(max_length=3)], str]

    with pytest.raises(ValueError, match="by a Rule"):
        build_structural(Keyed.model_json_schema(), {})


def test_numbers_to_choose_from_become_bounds() -> None:
    class Odd(BaseModel):
        size: Literal[1, 3]

    built = build_structural(Odd.model_json_schema(), {})
    assert built["properties"]["size"] == {"type": "integer", "minimum": 1, "maximum": 3}


def test_the_page_names_every_field() -> None:
    page = docs.build_page()
    for path in ("spec.network.podCIDR", "spec.workers[].taints[].effect", "status.conditions[].observedGeneration"):
        assert f"| `{path}` |" in page
    assert "| `spec.version` | string | required |" in page
