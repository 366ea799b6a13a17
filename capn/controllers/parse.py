"""From a cached object to its model, or a condition that says why not.

The CRD refuses what the models refuse; this is for objects that were stored before a rule existed, or whose status a
newer capn wrote. Must not: stop others from being reconciled (the error is terminal for this key only), or keep an
object from being deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from capn.api.meta import ObjectMeta
from capn.api.resources import Resource
from capn.controllers.deps import Deps
from capn.errors import InvalidSpecError

ModelT = TypeVar("ModelT", bound=BaseModel)

# All that deletion reads of a spec; the rest is replaced by what is valid.
_DELETION_FIELDS = ("clusterName", "role", "infrastructure", "deletionPolicy", "paused")
_ANY_VERSION = "v1.0.0"


def parse(model: type[ModelT], raw: dict[str, Any]) -> ModelT:
    """The model; without its status if only that is wrong; only as far as needed if it is being deleted.

    ValidationError (of the object as it is) when none of that is possible.
    """
    first: ValidationError | None = None
    for candidate in _candidates(raw):
        try:
            return model.model_validate(candidate)
        except ValidationError as error:
            first = first or error
    if first is None:
        raise InvalidSpecError("metadata", "the object is empty")
    raise first


def parse_leniently(model: type[ModelT], raw: dict[str, Any]) -> ModelT | None:
    """As `parse`, as if the object were being deleted; None when not even that can be read."""
    metadata = {"deletionTimestamp": "1970-01-01T00:00:00Z"} | raw["metadata"]
    try:
        found = parse(model, raw | {"metadata": metadata})
        return found.model_copy(update={"metadata": ObjectMeta.model_validate(raw["metadata"])})
    except ValidationError:
        return None


def _candidates(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield raw
    bare = {key: value for key, value in raw.items() if key != "status"}
    yield bare
    if raw["metadata"].get("deletionTimestamp"):
        spec = raw.get("spec") or {}
        kept = {key: spec[key] for key in _DELETION_FIELDS if key in spec}
        # That it nests is all that matters: there may be a namespace of claims to delete.
        nests: dict[str, Any] = {"nesting": {}} if spec.get("nesting") is not None else {}
        yield bare | {"spec": kept | nests | {"version": _ANY_VERSION}}


async def parse_or_explain(deps: Deps, resource: Resource, model: type[ModelT], raw: dict[str, Any]) -> ModelT:
    """The model. InvalidSpecError with the first field that is wrong; an event tells the user."""
    try:
        return parse(model, raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = f"{first['msg']}; mend the field, or delete the object"
        deps.recorder.event(
            {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": raw["metadata"]},
            "Warning",
            "InvalidSpec",
            f"{field}: {message}",
        )
        raise InvalidSpecError(field, message) from error
