"""From an add-on's text to manifests: order, bounds, and mistakes that are named without being quoted."""

from __future__ import annotations

import base64

import pytest

from capn.build.addon_inventory import Inventory, build_inventory, read_inventory
from capn.build.addons import MAX_BYTES, MAX_OBJECTS, ObjectId, order_for_pruning, parse_content, project
from capn.errors import TerminalError

MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: x}\n"
SPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n"
CRD = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: y}\nstatus: {a: 1}\n"


def kinds(text: str) -> list[str]:
    return [which.kind for which, _ in parse_content("a", {"all": text.encode()}).objects]


def test_namespaces_and_crds_come_first_and_go_last() -> None:
    assert kinds(f"{MAP}---\n{CRD}---\n---\n{SPACE}") == ["Namespace", "CustomResourceDefinition", "ConfigMap"]
    objects = [which for which, _ in parse_content("a", {"all": f"{SPACE}---\n{CRD}---\n{MAP}".encode()}).objects]
    assert [which.kind for which in order_for_pruning(objects)] == [
        "ConfigMap",
        "CustomResourceDefinition",
        "Namespace",
    ]


def test_lists_are_taken_apart() -> None:
    assert kinds("apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: p}}") == ["Pod"]


def test_what_only_the_server_writes_is_left_out_and_dates_stay_text() -> None:
    text = (
        MAP.replace("x}", "x, uid: u, resourceVersion: '1', managedFields: []}")
        + "data: {day: 2024-01-01}\n"
        + "status: {}"
    )
    (_, manifest), *_ = parse_content("net", {"a": text.encode()}).objects
    assert manifest == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "a", "namespace": "x", "annotations": {"capn.dev/addon": "net"}},
        "data": {"day": "2024-01-01"},
    }


def test_the_text_of_a_secret_becomes_data() -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {k: v}\n"
    (_, manifest), *_ = parse_content("a", {"a": text.encode()}).objects
    assert manifest["data"] == {"k": base64.b64encode(b"v").decode()}
    assert "stringData" not in manifest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{MAP}---\nhunter2: [", "key all, document 2: is not YAML"),
        (f"{MAP}---\nhunter2", "document 2: is not a Kubernetes object"),
        (f"{MAP}---\n{MAP}", "document 2: ConfigMap x/a is there twice"),
        ("a: &x hunter2\nb: *x", "uses YAML anchors"),
        ("[" * 70 + "]" * 70, "nested too deeply"),
        ("apiVersion: v1/../x\nkind: A\nmetadata: {name: a}", "no usable apiVersion"),
        ("apiVersion: v1\nkind: a/b\nmetadata: {name: a}", "no usable kind"),
        ("apiVersion: v1\nkind: A\nmetadata: {name: 7}", "no usable name"),
        ("apiVersion: v1\nkind: A\nmetadata: {name: a, namespace: ../b}", "no usable namespace"),
        ("a: !!binary hunter2=", "document 1: holds what JSON cannot"),
        ("a: !unknown hunter2", "document 1: is not YAML"),
        ("a: .nan", "document 1: holds what JSON cannot"),
        ("# nothing", "hold no manifest"),
        ("\x00hunter2", "is not YAML"),
    ],
)
def test_mistakes_are_named_and_not_quoted(text: str, words: str) -> None:
    with pytest.raises(TerminalError, match=words) as caught:
        parse_content("a", {"all": text.encode()})
    assert caught.value.reason == "AddonContentInvalid"
    assert "hunter2" not in str(caught.value)


def test_size_number_and_encoding_are_bounded() -> None:
    many = "---\n".join(MAP.replace("name: a", f"name: a{n}") for n in range(MAX_OBJECTS + 1))
    for data, words in (
        (b"#" * (MAX_BYTES + 1), "more than 512 KiB"),
        (many.encode(), "256 objects"),
        (b"\xff", "UTF-8"),
    ):
        with pytest.raises(TerminalError, match=words):
            parse_content("a", {"k": data})


def test_only_what_the_manifest_speaks_of_is_compared() -> None:
    live = {"spec": {"a": 1, "default": 2, "list": [{"n": 1, "d": 2}]}, "status": {}}
    assert project({"spec": {"a": 5, "list": [{"n": 1}]}}, live) == {"spec": {"a": 1, "list": [{"n": 1}]}}
    assert project({"spec": {"list": [{"n": 1}, {"n": 2}]}}, live) == {"spec": {"list": [{"n": 1, "d": 2}]}}
    assert project({"spec": {"gone": 1}}, {}) == {"spec": None}


def test_an_inventory_is_read_back_and_damage_lists_nothing() -> None:
    inventory = Inventory("net", "d", {ObjectId("v1", "Pod", "x", "p"): "s"})
    manifest = build_inventory(inventory)
    assert read_inventory(manifest) == inventory
    assert read_inventory({**manifest, "data": {"objects": "{["}}) == Inventory("net")
    assert read_inventory({"metadata": {"name": "other", "labels": manifest["metadata"]["labels"]}}) is None
