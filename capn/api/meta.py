"""Parts that both kinds share: model base, conditions, object metadata.

Role: pure models, aliases in camelCase as Kubernetes has them. Inputs: JSON-shaped dicts. Must not: do I/O or read the
clock.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from capn.api.rule import CEL_KEY, Rule, Unique


class RuledModel(BaseModel):
    """A model with rules over several of its fields (`RULES`); pydantic and the API server both hold them."""

    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:  # noqa: ANN401 - pydantic hands over any input
        """Null in a known field is absent, as the API server has it; an unknown field stays unknown."""
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if item is not None or not cls._knows(key)}

    @classmethod
    def _knows(cls, key: object) -> bool:
        return any(key in {name, field.alias} for name, field in cls.model_fields.items())

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        for rule in self.RULES:
            rule.check(self)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Pydantic's hook: carry the rules and the defaults that pydantic leaves out (default_factory)."""
        built = handler(schema)
        target = handler.resolve_ref_schema(built)
        if cls.RULES:
            target[CEL_KEY] = [rule.to_schema() for rule in cls.RULES]
        for field in cls.model_fields.values():
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            if isinstance(default, BaseModel):
                # Empty: the defaults of its own fields fill it in.
                target["properties"][field.alias]["default"] = {}
        return built


class Model(RuledModel):
    """Base of every API type: immutable, camelCase outside, unknown fields refused (the API server prunes them)."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid", use_enum_values=False
    )

    def to_json(self) -> dict[str, Any]:
        """JSON-shaped dict with camelCase names; unset optional fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Condition(Model):
    """metav1.Condition: one observation. `message` is deterministic (no UID, time or random text) and names the fix."""

    type: str = Field(max_length=316, description="Kind of observation, in CamelCase.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(min_length=1, max_length=1024, description="Machine-readable reason, in CamelCase.")
    message: str = Field(default="", max_length=32768, description="What it means and what to do, for people.")
    last_transition_time: str = Field(
        description="When the status last changed (RFC 3339, UTC).",
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,18}Z$",
        max_length=32,
        json_schema_extra={"format": "date-time"},
    )
    observed_generation: int | None = Field(
        default=None, ge=0, description="The metadata.generation this was computed from."
    )


Conditions = Annotated[list[Condition], Field(max_length=32), Unique(("type",))]


class OwnerReference(BaseModel):
    """metav1.OwnerReference, as far as reconcilers read it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str
    name: str
    uid: str
    controller: bool = False


class ObjectMeta(BaseModel):
    """The metadata fields that reconcilers read; the rest is ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()

    @property
    def controller_uid(self) -> str | None:
        """The UID of the controlling owner, or None."""
        return next((owner.uid for owner in self.owner_references if owner.controller), None)

    @property
    def deleting(self) -> bool:
        """True once somebody asked for deletion."""
        return self.deletion_timestamp is not None
