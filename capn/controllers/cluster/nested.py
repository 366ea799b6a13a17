"""`status.nested`: the clusters below one, at every depth, as their claims here and the children's reports tell.

Role: pure. Each claim of a whole branch is in the one namespace of the cluster that the branch begins with, so no level
but this is asked. Must not: need a secret of any of them, or believe more than counts and words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from capn.api.cluster import NestedSummary, WorstNested
from capn.build.claim_report import ClaimReport, read_report
from capn.build.claims import PARTS_A_LEVEL

_UNHEARD = ClaimReport()


def compute_nested(path: str, claims: Sequence[Mapping[str, Any]]) -> NestedSummary:
    """Sums over the claims below `path`; the worst is one that has failed, else one that is not ready."""
    reports = {_path(claim): read_report(claim) or _UNHEARD for claim in claims}
    return NestedSummary(
        clusters=len(reports),
        ready_clusters=sum(report.ready for report in reports.values()),
        machines=sum(report.machines for report in reports.values()),
        ready_machines=sum(report.ready_machines for report in reports.values()),
        depth=max((_depth(below) - _depth(path) for below in reports), default=0),
        worst=_find_worst(reports),
    )


def _find_worst(reports: Mapping[str, ClaimReport]) -> WorstNested | None:
    failed = sorted(path for path, report in reports.items() if report.reason and not report.ready)
    waiting = sorted(path for path, report in reports.items() if not report.ready)
    for path in [*failed, *waiting][:1]:
        report = reports[path]
        reason = report.reason or report.phase or "Unknown"
        return WorstNested(path=path, reason=reason, message=report.message)
    return None


def _path(claim: Mapping[str, Any]) -> str:
    return str(((claim.get("spec") or {}).get("claim") or {}).get("path", ""))


def _depth(path: str) -> int:
    return (path.count("/") + 1) // PARTS_A_LEVEL
