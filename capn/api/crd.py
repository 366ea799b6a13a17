"""CustomResourceDefinitions from the models.

Role: rewrites pydantic's JSON schema into the structural schema that an API server takes, adds what only a CRD has
(printer columns, subresources), and writes `crds/`. Inputs: the models. Outputs: YAML, the same bytes each time. Must
not: know anything about a field that the model could say; add a keyword that structural schemas refuse.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from capn import names
from capn.api.cluster import NestedCluster
from capn.api.generated import generate
from capn.api.machine import NestedMachine
from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE, Resource
from capn.api.rule import CEL_KEY

Schema = dict[str, Any]

# Keywords of pydantic's output that mean the same in a structural schema; everything else is rewritten or dropped.
_KEPT = (
    "type", "format", "description", "default", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern",
    "minItems", "maxItems", "maxProperties", "required", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
)  # fmt: skip
_METADATA_NAME = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 253}},
}


@dataclass(frozen=True, slots=True)
class Column:
    """One printer column of `kubectl get`; priority 10 shows with -o wide."""

    name: str
    path: str
    description: str
    type: str = "string"
    priority: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As the CRD has it."""
        column = {"name": self.name, "type": self.type, "jsonPath": self.path, "description": self.description}
        return {**column, "priority": self.priority} if self.priority else column


_AGE = Column("Age", ".metadata.creationTimestamp", "Time since creation.", type="date")
_WIDE = 10
_REASON = Column("Reason", ".status.failureReason", "Why it cannot get on.", priority=_WIDE)


@dataclass(frozen=True, slots=True)
class Definition:
    """What a CRD says beyond its schema."""

    resource: Resource
    model: type[BaseModel]
    short_name: str
    columns: tuple[Column, ...]
    scale: dict[str, str] | None = None


DEFINITIONS = (
    Definition(
        NESTED_CLUSTER,
        NestedCluster,
        "nc",
        (
            Column("Phase", ".status.phase", "One word for the state."),
            Column("Version", ".spec.version", "Kubernetes version asked for."),
            Column("Machines", ".status.machines.desired", "Machines that the spec asks for.", type="integer"),
            Column("Ready", ".status.machines.ready", "Machines whose node is Ready.", type="integer"),
            Column("Endpoint", ".status.endpoint.host", "Where the child's API server answers.", priority=_WIDE),
            _REASON,
            _AGE,
        ),
        scale={
            "specReplicasPath": ".spec.controlPlane.replicas",
            "statusReplicasPath": ".status.controlPlane.created",
            "labelSelectorPath": ".status.selector",
        },
    ),
    Definition(
        NESTED_MACHINE,
        NestedMachine,
        "nm",
        (
            Column("Cluster", ".spec.clusterName", "The NestedCluster."),
            Column("Role", ".spec.role", "Role in the child."),
            Column("Phase", ".status.phase", "One word for the state."),
            Column("Stage", ".status.bootstrap.stage", "Stage of the bootstrap."),
            Column("Address", ".status.addresses[0].address", "First address.", priority=_WIDE),
            Column("ProviderID", ".status.providerID", "The machine's ID, as its node has it.", priority=_WIDE),
            _REASON,
            _AGE,
        ),
    ),
)


def build_structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """One node of pydantic's JSON schema as a structural schema: references in place, null alternatives gone."""
    rules: list[dict[str, str]] = []
    merged: Schema = {}
    node: Schema | None = schema
    while node is not None:  # What stands nearer to the field (its description, default) wins over what it refers to.
        rules = [rule for rule in node.get(CEL_KEY, ()) if rule not in rules] + rules
        merged = {**node, **merged}
        node = _target(node, definitions)
    if "propertyNames" in merged:
        # Structural schemas cannot say it: pydantic would refuse keys that the API server takes.
        raise ValueError(f"limit the keys of {merged.get('description', 'a map')!r} by a Rule, not by their type")
    built = {key: merged[key] for key in _KEPT if merged.get(key) is not None}
    _close_number_enum(built)
    if "items" in merged:
        built["items"] = build_structural(merged["items"], definitions)
    if "properties" in merged:
        built["properties"] = {
            name: build_structural(field, definitions) for name, field in merged["properties"].items()
        }
    elif isinstance(merged.get("additionalProperties"), dict):
        built["additionalProperties"] = build_structural(merged["additionalProperties"], definitions)
    if rules:
        built[CEL_KEY] = rules
    return _fill_default(built)


def _target(node: Schema, definitions: dict[str, Schema]) -> Schema | None:
    if "$ref" in node:
        return definitions[node["$ref"].removeprefix("#/$defs/")]
    alternatives = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
    if len(alternatives) > 1:
        message = f"a structural schema cannot hold the alternatives {alternatives}: give the field one type"
        raise ValueError(message)
    return alternatives[0] if alternatives else None


def _close_number_enum(schema: Schema) -> None:
    # The API server prints an enum's values but not why; bounds and the field's own rule say it better.
    if schema.get("type") == "integer" and "enum" in schema:
        values = schema.pop("enum")
        schema["minimum"], schema["maximum"] = min(values), max(values)


def _fill_default(schema: Schema) -> Schema:
    # The API server tests a default against the rules just as it is written, so it must hold those of the fields.
    # An empty list or map means the same as none and stays out.
    if schema.get("default") in ({}, []):
        fields = schema.get("properties", {})
        schema["default"] = {name: field["default"] for name, field in fields.items() if "default" in field}
        if not schema["default"]:
            del schema["default"]
    return schema


def _without_defaults(schema: Schema) -> Schema:
    # Status is the controller's: a default there would be a write that nobody made.
    return {
        key: {name: _without_defaults(field) for name, field in value.items()}
        if key == "properties"
        else _without_defaults(value)
        if key in {"items", "additionalProperties"}
        else value
        for key, value in schema.items()
        if key != "default"
    }


def build_object_schema(model: type[BaseModel]) -> Schema:
    """The schema of a whole object of this kind."""
    source = model.model_json_schema(by_alias=True, mode="validation")
    schema = build_structural(source, source.get("$defs", {}))
    fields = schema["properties"]
    schema["properties"] = {
        "apiVersion": {"type": "string", "maxLength": 253, "description": "Version of this kind's schema."},
        "kind": {"type": "string", "maxLength": 63, "description": "Kind of the object."},
        "metadata": _METADATA_NAME,
        "spec": fields["spec"],
        "status": _without_defaults(fields["status"]),
    }
    schema["required"] = ["spec"]
    return schema


def build_crd(definition: Definition) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    resource = definition.resource
    subresources: dict[str, Any] = {"status": {}}
    if definition.scale:
        subresources["scale"] = definition.scale
    version = {
        "name": resource.version,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [column.to_dict() for column in definition.columns],
        "subresources": subresources,
        "schema": {"openAPIV3Schema": build_object_schema(definition.model)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}", "labels": {"app.kubernetes.io/name": "capn"}},
        "spec": {
            "group": resource.group,
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": [definition.short_name],
                "categories": ["capn"],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


class _Dumper(yaml.SafeDumper):
    """YAML without aliases, lists indented below their key."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401, ARG002 - signature of the base class
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        super().increase_indent(flow, False)  # noqa: FBT003 - positional in the base class


def build_files() -> dict[str, str]:
    """File name -> content of everything in `crds/` that is generated."""
    header = "# Generated from capn/api by `make generate`; do not edit.\n"
    return {
        f"{names.GROUP}_{definition.resource.plural}.yaml": header
        + yaml.dump(build_crd(definition), Dumper=_Dumper, sort_keys=False, width=120)
        for definition in DEFINITIONS
    }


def main(arguments: list[str] | None = None) -> int:
    """Write `crds/` (or with --check compare); the exit status."""
    return generate(
        {Path("crds") / name: text for name, text in build_files().items()},
        arguments=sys.argv[1:] if arguments is None else arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
