"""From a cached object to its model, or a condition that says why not.

The CRD refuses what the models refuse; this is for objects that were stored before a rule existed. Must not: stop
others from being reconciled (the error is terminal for this key only).
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from capn.api.resources import Resource
from capn.controllers.deps import Deps
from capn.errors import InvalidSpecError

ModelT = TypeVar("ModelT", bound=BaseModel)


async def parse_or_explain(deps: Deps, resource: Resource, model: type[ModelT], raw: dict[str, Any]) -> ModelT:
    """The model. InvalidSpecError with the first field that is wrong; an event tells the user."""
    try:
        return model.model_validate(raw)
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
