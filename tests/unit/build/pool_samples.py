"""Workers as a cluster's reconciler sees them, for the tests of the pure choices about pools."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from capn.api.machine import NestedMachine

BEGIN = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


def at(seconds: float) -> str:
    """The time so long after BEGIN, as Kubernetes writes it."""
    return (BEGIN + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_worker(  # noqa: PLR0913 - what a test may want to differ
    ordinal: int,
    *,
    cpus: int = 2,
    version: str = "v1.37.2",
    deleting: bool = False,
    failure: str | None = None,
    conditions: dict[str, tuple[str, float]] | None = None,
    annotations: tuple[str, ...] = (),
    created: float = 0,
    pool: str = "md",
    **spec: Any,
) -> NestedMachine:
    """A worker that is Ready unless `conditions` (type: status, seconds since BEGIN) say otherwise."""
    name = f"demo-{pool}-{ordinal}"
    metadata = {
        "name": name,
        "namespace": "team-a",
        "uid": name,
        "creationTimestamp": at(created),
        "annotations": dict.fromkeys(annotations, ""),
        **({"deletionTimestamp": at(0)} if deleting else {}),
    }
    told = {
        "InfrastructureReady": ("True", 10),
        "BootstrapSucceeded": ("True", 20),
        "NodeHealthy": ("True", 30),
        "Ready": ("True", 30),
    } | (conditions or {})
    status = {
        "nodeRef": {"name": name, "uid": "n"},
        "failureReason": failure,
        "conditions": [
            {"type": kind, "status": value, "reason": "Told", "lastTransitionTime": at(since)}
            for kind, (value, since) in told.items()
        ],
    }
    fields = {
        "clusterName": "demo",
        "role": "worker",
        "pool": pool,
        "ordinal": ordinal,
        "version": version,
        "machine": {"cpus": cpus},
        **spec,
    }
    return NestedMachine.model_validate({"metadata": metadata, "spec": fields, "status": status})


UNREADY: dict[str, tuple[str, float]] = {"NodeHealthy": ("False", 100), "Ready": ("False", 100)}
STARTING: dict[str, tuple[str, float]] = {"NodeHealthy": ("False", 20), "Ready": ("False", 5)}
