"""`docs/api.md`, generated from the same definitions as the CRDs.

Role: pure text from the structural schema, so that the page says what the API server does. Inputs: `capn.api.crd`.
Outputs: Markdown. Must not: describe a field in words of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from capn.api.crd import DEFINITIONS, Definition, Schema, build_object_schema
from capn.api.generated import generate
from capn.api.rule import CEL_KEY

_INTRODUCTION = """\
# API reference

Generated from the models in `capn/api` by `make generate`; do not edit. The same text is in `kubectl explain`.

Every object is checked by the API server itself (CEL in the CRD; no webhook). A refusal names the field and says what
to write instead. "Fixed" means that the value cannot be changed once the object exists.

What an API server cannot see shows as a condition: an endpoint that the administrator
has not defined, a version without a node image, a host without room, networks that collide with the parent's.
"""

_LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "maxItems": "at most {} items",
    "maxProperties": "at most {} entries",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One field of the page."""

    path: str
    type: str
    default: str
    text: str


def build_rows(path: str, schema: Schema, *, required: bool = False) -> Iterator[Row]:
    """The field at `path` and all below it, depth first."""
    yield Row(path, _describe_type(schema), "required" if required else _describe_default(schema), _describe(schema))
    inner, below = schema, path
    if schema.get("type") == "array":
        inner, below = schema["items"], f"{path}[]"
    for name, field in inner.get("properties", {}).items():
        yield from build_rows(f"{below}.{name}", field, required=name in inner.get("required", ()))


def _describe_type(schema: Schema) -> str:
    if schema["type"] == "array":
        return f"list of {_describe_type(schema['items'])}"
    if "additionalProperties" in schema:
        return f"map of {_describe_type(schema['additionalProperties'])}"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    return "time" if schema.get("format") == "date-time" else str(schema["type"])


def _describe_default(schema: Schema) -> str:
    if "default" not in schema or isinstance(schema["default"], dict):
        return ""
    default = schema["default"]
    return f"`{default or json.dumps(default)}`" if isinstance(default, str) else f"`{json.dumps(default)}`"


def _describe(schema: Schema) -> str:
    parts = [schema["description"], *_describe_limits(schema)]
    element = schema.get("items") or schema.get("additionalProperties") or {}
    parts += _describe_rules(schema)
    if "properties" not in element:
        parts += [f"Each: {text}" for text in _describe_rules(element)]
    return "<br>".join(part.replace("|", "\\|") for part in parts)


def _describe_limits(schema: Schema) -> list[str]:
    limits = [text.format(schema[key]) for key, text in _LIMITS.items() if key in schema]
    if "x-kubernetes-list-map-keys" in schema:
        limits.append("one each " + " and ".join(f"`{key}`" for key in schema["x-kubernetes-list-map-keys"]))
    return [", ".join(limits).capitalize() + "."] if limits else []


def _describe_rules(schema: Schema) -> list[str]:
    texts = []
    for rule in schema.get(CEL_KEY, ()):
        if rule["rule"] == "self == oldSelf":
            texts.append("Fixed.")
        else:
            where = f"`{rule['fieldPath'].removeprefix('.')}`: " if "fieldPath" in rule else ""
            texts.append(f"Rule: {where}{rule['message']}.")
    return list(dict.fromkeys(texts))


def build_section(definition: Definition) -> str:
    """The part of the page for one kind."""
    resource = definition.resource
    schema = build_object_schema(definition.model)
    lines = [
        f"## {resource.kind}",
        "",
        f"`{resource.api_version}`, short name `{definition.short_name}`, category `capn`. {schema['description']}",
    ]
    if definition.scale:
        paths = ", ".join(f"`{path}`" for path in definition.scale.values())
        lines += ["", f"`kubectl scale` works on it: {paths}."]
    if rules := _describe_rules(schema):
        lines += ["", *(f"- {text}" for text in rules)]
    for part in ("spec", "status"):
        required = part in schema["required"]
        lines += [
            "",
            f"### {resource.kind} {part}",
            "",
            "| Field | Type | Default | Description |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| `{row.path}` | {row.type} | {row.default} | {row.text} |"
            for row in build_rows(part, schema["properties"][part], required=required)
        ]
    return "\n".join(lines) + "\n"


def build_page() -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *(build_section(definition) for definition in DEFINITIONS)])


def main(arguments: list[str] | None = None) -> int:
    """Write `docs/api.md` (or with --check compare); the exit status."""
    return generate({Path("docs/api.md"): build_page()}, arguments=sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
