"""What a person needs to see when a cluster did not become Ready.

Role: gathers conditions that are not True, the guests' last words and the controller's last lines. Inputs: a client and
the controller's directory. Output: lines. Must not: fail because a part of the evidence is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE
from capn.dev import processes
from capn.dev.environment import CONTROLLER
from capn.dev.state import DevState
from capn.errors import CapnError
from capn.kube.client import KubeClient

_NEGATIVE = {"Stalled", "Reconciling", "Paused", "Deleting"}
_TAIL_LINES = 40
_LOG_LINES = 25


async def gather_evidence(client: KubeClient, state: DevState) -> list[str]:
    """Conditions, consoles' tails, the controller's log."""
    lines = await describe_all(client)
    lines.append(f"--- the end of {processes.log_path(state.controller, CONTROLLER)}")
    return [*lines, *processes.read_tail(state.controller, CONTROLLER, lines=_LOG_LINES).splitlines()]


async def describe_all(client: KubeClient) -> list[str]:
    """Every cluster and machine of an API, or a line that says why it does not answer."""
    lines: list[str] = []
    try:
        for resource in (NESTED_CLUSTER, NESTED_MACHINE):
            for item in (await client.list(resource)).items:
                lines += describe_object(item)
    except CapnError as error:
        lines.append(f"the API does not answer: {error}")
    return lines


def describe_object(obj: Mapping[str, Any]) -> list[str]:
    """The conditions that keep an object from being Ready, and the tail of a machine's bootstrap log."""
    meta, status = obj["metadata"], obj.get("status", {})
    lines = [f"--- {obj.get('kind', 'object')} {meta['namespace']}/{meta['name']}: {status.get('phase', 'no status')}"]
    for condition in status.get("conditions", []):
        wanted = "False" if condition["type"] in _NEGATIVE else "True"
        if condition["status"] != wanted:
            why = f"{condition.get('reason', '')}: {condition.get('message', '')}"
            lines.append(f"    {condition['type']}={condition['status']} {why}")
    bootstrap = status.get("bootstrap", {})
    if bootstrap:
        lines.append(f"    last bootstrap stage: {bootstrap.get('stage', '?')}")
    tail = bootstrap.get("logTail", "").splitlines()[-_TAIL_LINES:]
    return [*lines, *(f"    | {line}" for line in tail)]
