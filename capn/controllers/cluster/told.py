"""What is told of a cluster to whoever makes its machines.

Role: pure; from the status just computed, or, for a claim, what the child below has said, unchanged. Must not: tell
of each step: three or four words in a cluster's whole bootstrap.
"""

from __future__ import annotations

from capn.api.cluster import NestedCluster, NestedClusterStatus
from capn.api.conditions import ClusterCondition, find
from capn.build.claim_report import ClaimReport, cut_message, read_report


def compute_told(cluster: NestedCluster, status: NestedClusterStatus) -> ClaimReport:
    """The report of a cluster with this status."""
    if cluster.spec.claim is not None:
        passed_on = read_report({"metadata": {"annotations": cluster.metadata.annotations}})
        return passed_on or ClaimReport()
    machines, ready = status.machines, find(status.conditions, ClusterCondition.READY)
    return ClaimReport(
        phase=status.phase or "",
        ready=ready is not None and ready.status == "True",
        since=ready.last_transition_time if ready is not None else "",
        version=status.version or "",
        machines=machines.desired if machines else 0,
        ready_machines=machines.ready if machines else 0,
        reason=status.failure_reason or "",
        message=cut_message(status.failure_message or ""),
    )
