"""What a rule of admission is: a CEL expression and the same test in Python, and lists of distinct items.

Role: pydantic's hooks that run the Python half and carry the CEL half in the JSON schema, from where `capn.api.crd`
writes it into the CRD. Of a transition (CEL with oldSelf) the Python half is `allows`, which who knows the old object
asks (`capn.api.transitions`). Must not: hold a rule (`capn.api.crd_rules`) or do I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from capn.api import checks

CEL_KEY = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: of a value (`holds`) or, with oldSelf in its CEL, of old and new (`allows`).

    `field` is a path below the value, '.a.b'.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool] | None = None
    field: str = ""
    forbidden: bool = False
    allows: Callable[[Any, Any], bool] | None = None

    def check(self, value: Any) -> Any:  # noqa: ANN401 - pydantic hands over whatever the annotated type is
        """Return the value, or raise pydantic's error with the rule's message."""
        if self.holds is not None and not self.holds(value):
            raise PydanticCustomError("rule", "{text}", {"text": self.message, "field": self.field})
        return value

    def to_schema(self) -> dict[str, str]:
        """The entry of `x-kubernetes-validations`."""
        entry = {"rule": self.cel, "message": self.message}
        if self.field:
            entry["fieldPath"] = self.field
        if self.forbidden:
            entry["reason"] = "FieldValueForbidden"
        return entry

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Pydantic's hook: run `check` after the type's own validation."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Pydantic's hook: carry the CEL half in the JSON schema."""
        built = handler(schema)
        built.setdefault(CEL_KEY, []).append(self.to_schema())
        return built


@dataclass(frozen=True, slots=True)
class Unique:
    """A list of distinct items: by these keys (`x-kubernetes-list-type: map`) or, with none, as values (`set`)."""

    keys: tuple[str, ...] = ()

    def check(self, items: list[Any]) -> list[Any]:
        """Return the list, or raise pydantic's error when something occurs twice."""
        seen = [tuple(getattr(item, key) for key in self.keys) if self.keys else item for item in items]
        if not checks.are_distinct(seen):
            raise PydanticCustomError(
                "unique", "name each {what} only once", {"what": " and ".join(self.keys) or "value"}
            )
        return items

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Pydantic's hook: run `check` after the type's own validation."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Pydantic's hook: carry the list type in the JSON schema; the API server refuses duplicates by it."""
        built = handler(schema)
        built["x-kubernetes-list-type"] = "map" if self.keys else "set"
        if self.keys:
            built["x-kubernetes-list-map-keys"] = list(self.keys)
        return built
