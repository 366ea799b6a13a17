"""Prometheus metrics, with controller-runtime's names so that existing dashboards work.

Role: one registry a process, made by the composition root and passed down. Must not: have labels that grow with the
number of objects.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """All of the runtime's metrics. Labels are as controller-runtime has them."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._build_queue()
        self._build_reconcile()
        self._build_rest()

    def observe_request(self, method: str, code: str) -> None:
        """Count one API request; the `on_request` of `capn.kube.connect`."""
        self.rest_requests.labels(code, method).inc()

    def _build_queue(self) -> None:
        registry, name = self.registry, ["name"]
        self.depth = Gauge("workqueue_depth", "Keys that wait for a worker.", name, registry=registry)
        self.adds = Counter("workqueue_adds", "Keys added.", name, registry=registry)
        self.retries = Counter("workqueue_retries", "Keys added again after a failure.", name, registry=registry)
        self.queue_seconds = Histogram(
            "workqueue_queue_duration_seconds", "Wait before work.", name, registry=registry, buckets=_SECONDS
        )
        self.work_seconds = Histogram(
            "workqueue_work_duration_seconds", "Work on a key.", name, registry=registry, buckets=_SECONDS
        )

    def _build_reconcile(self) -> None:
        registry, label = self.registry, ["controller"]
        prefix = "controller_runtime"
        self.reconciles = Counter(f"{prefix}_reconcile", "Reconciles by result.", [*label, "result"], registry=registry)
        self.errors = Counter(f"{prefix}_reconcile_errors", "Failed reconciles.", label, registry=registry)
        self.terminal = Counter(
            f"{prefix}_terminal_reconcile_errors", "Reconciles that need a person.", label, registry=registry
        )
        self.reconcile_seconds = Histogram(
            f"{prefix}_reconcile_time_seconds", "Length of a reconcile.", label, registry=registry, buckets=_SECONDS
        )
        self.active = Gauge(f"{prefix}_active_workers", "Workers that reconcile now.", label, registry=registry)
        self.workers = Gauge(f"{prefix}_max_concurrent_reconciles", "Workers.", label, registry=registry)

    def _build_rest(self) -> None:
        registry = self.registry
        self.rest_requests = Counter(
            "rest_client_requests", "API requests by code and method.", ["code", "method"], registry=registry
        )
        self.leader = Gauge("leader_election_master_status", "1 while this process leads.", ["name"], registry=registry)
        self.informer_objects = Gauge("capn_informer_objects", "Cached objects.", ["resource"], registry=registry)
        self.informer_age = Gauge(
            "capn_informer_age_seconds", "Since the last sign of life of the watch.", ["resource"], registry=registry
        )
        self.informer_lists = Counter("capn_informer_lists", "Full lists.", ["resource"], registry=registry)
        self.informer_events = Counter(
            "capn_informer_events", "Watch events by type.", ["resource", "type"], registry=registry
        )
        self.events_dropped = Counter("capn_events_dropped", "Events that could not be written.", registry=registry)
