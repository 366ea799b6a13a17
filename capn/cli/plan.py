"""`capn plan`: what an apply of a file would do to each NestedCluster in it.

Role: read the file and the parent, print. Must not: write to a cluster, or decide anything (`capn.plan`).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from capn.api.resources import NESTED_CLUSTER
from capn.cli import exits
from capn.cli.read import choose_kubeconfig, connected, format_table, write_data
from capn.errors import InvalidSpecError, NotFoundError, UnreachableError
from capn.plan.cluster import PlanRequest, compute_plan
from capn.plan.model import Action, ClusterPlan, Needs, Verdict, format_mib
from capn.plan.read import read_requests

_SIGNS = {Action.ADD: "+", Action.REPLACE: "-/+", Action.UPDATE: "~", Action.REMOVE: "-"}
_OFFLINE = "`capn plan --offline` shows everything as new"


def show_plan(path: Path, kubeconfig: Path | None, *, namespace: str | None, offline: bool, output: str) -> int:
    """Print the plan; the exit code: 0 nothing changes, 5 something does, 1 something is refused."""
    manifests = read_manifests(path, namespace=namespace or "default")
    requests = [PlanRequest(wanted=manifest) for manifest in manifests]
    if not offline:
        requests = asyncio.run(_read_live(kubeconfig, manifests))
    plans = [compute_plan(request) for request in requests]
    now, after = _sum(plans)
    data = {"clusters": [asdict(plan) for plan in plans], "now": asdict(now), "after": asdict(after)}
    write_data(data, output, lambda: draw_plans(plans, offline=offline))
    return choose_exit_code(plans)


def choose_exit_code(plans: Sequence[ClusterPlan]) -> int:
    """What a script wants to know first."""
    verdicts = {plan.verdict for plan in plans}
    if Verdict.REFUSED in verdicts:
        return exits.FAILED
    return exits.OK if verdicts <= {Verdict.UNCHANGED} else exits.CHANGES


async def _read_live(kubeconfig: Path | None, manifests: Sequence[dict[str, Any]]) -> list[PlanRequest]:
    try:
        async with connected(choose_kubeconfig(kubeconfig)) as client:
            return await read_requests(client, manifests)
    except UnreachableError as error:
        raise UnreachableError(f"{error}; {_OFFLINE}", reason=error.reason) from error
    except NotFoundError as error:
        raise NotFoundError(f"{error}; {_OFFLINE}", reason=error.reason) from error


def read_manifests(path: Path, *, namespace: str) -> list[dict[str, Any]]:
    """The NestedClusters of a file (`-`: of standard input), each with its namespace. InvalidSpecError without any."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
        documents = [document for document in yaml.safe_load_all(text) if isinstance(document, dict)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSpecError("-f", f"cannot read {path}: {error}") from error
    items = [
        item
        for document in documents
        for item in ((document.get("items") or ()) if document.get("kind") == "List" else [document])
    ]
    wanted = [item for item in items if isinstance(item, dict) and item.get("kind") == NESTED_CLUSTER.kind]
    if not wanted:
        raise InvalidSpecError("-f", f"{path} holds no {NESTED_CLUSTER.kind}")
    return [_locate(item, namespace) for item in wanted]


def _locate(manifest: dict[str, Any], namespace: str) -> dict[str, Any]:
    meta = manifest.get("metadata")
    if not isinstance(meta, dict) or not meta.get("name"):
        raise InvalidSpecError("metadata.name", "is missing in a NestedCluster")
    return {**manifest, "metadata": {"namespace": namespace, **meta}, "spec": manifest.get("spec") or {}}


def _sum(plans: Iterable[ClusterPlan]) -> tuple[Needs, Needs]:
    found = list(plans)
    return sum((plan.now for plan in found), Needs()), sum((plan.after for plan in found), Needs())


def draw_plans(plans: Sequence[ClusterPlan], *, offline: bool) -> Iterable[str]:
    """The plan for people."""
    for plan in plans:
        yield f"{plan.namespace}/{plan.name}: {plan.verdict}"
        yield from (f"  ! {_cite(refusal.field, refusal.message)} ({refusal.by})" for refusal in plan.refusals)
        yield from (f"  {change}" for change in plan.fields)
        yield from _draw_machines(plan)
        yield from (
            f"  depth {use.depth or 'all'}: {use.what} {use.used}"
            + (f" of {use.limit}" if use.limit is not None else "")
            + (" (more than the budget: nothing new is made)" if use.exceeded else "")
            for use in plan.budget
        )
        yield from (f"  note: {note}" for note in plan.notes)
        yield ""
    now, after = _sum(plans)
    rows = [(name, *_row(needs)) for name, needs in (("now", now), ("after", after))]
    yield from format_table(("HOST", "MACHINES", "CPUS", "MEMORY", "DISK"), rows)
    if offline:
        yield "without a look at the parent: everything is shown as new"


def _draw_machines(plan: ClusterPlan) -> Iterable[str]:
    kept = sum(machine.action is Action.KEEP for machine in plan.machines)
    for machine in plan.machines:
        if machine.action is not Action.KEEP:
            why = f" ({', '.join(map(str, machine.why))})" if machine.why else ""
            yield f"  {_SIGNS[machine.action]:<3} {machine.action} {machine.name}{why}"
    if kept:
        yield f"      keep {kept} machine(s)"


def _row(needs: Needs) -> tuple[str, str, str, str]:
    return str(needs.machines), str(needs.cpus), format_mib(needs.memory_mib), format_mib(needs.disk_mib)


def _cite(field: str, message: str) -> str:
    return f"{field}: {message}" if field else message
