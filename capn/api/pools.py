"""How pools of machines are changed and healed: rollout, health check, and the record of past remediations.

Role: pure models; parts of `NestedCluster`. Must not: do I/O.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from capn.api import crd_rules as rules
from capn.api.meta import Model
from capn.api.rule import Rule


class Rollout(Model):
    """How a pool's machines are replaced when a change needs new ones."""

    RULES: ClassVar[tuple[Rule, ...]] = rules.ROLLOUT_RULES

    max_surge: int = Field(
        default=1, ge=0, le=1000, strict=True, description="Machines that may exist beyond the number asked for."
    )
    max_unavailable: int = Field(
        default=0, ge=0, le=1000, strict=True, description="Machines of that number that may be missing or not Ready."
    )


class HealthCheck(Model):
    """When a machine counts as unhealthy, and how it is replaced then.

    Control planes count as a pool of their own. One of them is replaced only while the others are a quorum without it;
    the only one is not.
    """

    RULES: ClassVar[tuple[Rule, ...]] = rules.HEALTH_CHECK_RULES

    enabled: bool = Field(default=True, strict=True, description="False leaves unhealthy machines to people.")
    node_startup_timeout_seconds: int = Field(
        default=1800,
        ge=1,
        le=86400,
        strict=True,
        description="How long after its VM began to run a machine's node may take to become Ready.",
    )
    unhealthy_timeout_seconds: int = Field(
        default=300, ge=1, le=86400, strict=True, description="How long a node that was Ready may be not Ready."
    )
    max_unhealthy: Annotated[str, Field(max_length=4), rules.MAX_UNHEALTHY] = Field(
        default="40%",
        description="A number or a percentage (rounded up) of all workers, and likewise of all control planes; if more"
        " are unhealthy, none is replaced.",
    )
    max_retries: int = Field(
        default=5, ge=0, le=100, strict=True, description="How often in a row machines of a pool are replaced."
    )
    retry_period_seconds: int = Field(
        default=60, ge=1, le=86400, strict=True, description="Pause after the first replacement; doubled each time."
    )
    min_healthy_period_seconds: int = Field(
        default=3600,
        ge=1,
        le=604800,
        strict=True,
        description="A pool that was healthy for so long after a replacement starts to count retries anew.",
    )


class Remediation(Model):
    """What was done for the health of one pool."""

    pool: str = Field(max_length=24, description="Name of the pool; cp: the control planes.")
    count: int = Field(ge=0, description="How often in a row unhealthy machines of the pool were replaced.")
    last_time: str = Field(
        description="When that was last decided (RFC 3339, UTC).",
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,18}Z$",
        max_length=32,
        json_schema_extra={"format": "date-time"},
    )
