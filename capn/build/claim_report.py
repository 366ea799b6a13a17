"""What a child says of a cluster whose machines it claims; the claim carries it, level by level up to the root.

Role: pure; text of an annotation from and to a value. A child's word is hostile input: lengths are bounded and what
cannot be read is nothing. Must not: hold a secret, or anything that changes while nothing happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from capn import names

_MAX_BYTES = 4096
_MAX_MESSAGE = 512


class ClaimReport(BaseModel):
    """How the cluster is. `reason` and `message` only of one that cannot get on."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    phase: str = Field(default="", max_length=64)
    ready: bool = False
    version: str = Field(default="", max_length=32)
    machines: int = Field(default=0, ge=0, le=100_000)
    ready_machines: int = Field(default=0, ge=0, le=100_000)
    # When it became, or ceased to be, ready (RFC 3339).
    since: str = Field(default="", pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,18}Z)?$")
    reason: str = Field(default="", max_length=256)
    message: str = Field(default="", max_length=_MAX_MESSAGE)

    def encode(self) -> str:
        """The annotation's value: the same value for the same report."""
        return self.model_dump_json(by_alias=True, exclude_defaults=True)


def cut_message(message: str) -> str:
    """A message as long as a report may have it."""
    return message[:_MAX_MESSAGE]


def read_report(claim: Mapping[str, Any]) -> ClaimReport | None:
    """The report on a claim; None when there is none, or none that can be read."""
    text = ((claim.get("metadata") or {}).get("annotations") or {}).get(names.ANNOTATION_REPORTED)
    if not isinstance(text, str) or len(text) > _MAX_BYTES:
        return None
    try:
        return ClaimReport.model_validate_json(text)
    except ValidationError:
        return None
