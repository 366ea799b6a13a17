"""The NestedCluster's reconcile: finalizer, phases in order, then always the status.

Role: the order of things and nothing else. Inputs: a key; output: a Result. Must not: hold what a phase does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import structlog
from pydantic import ValidationError

from capn import names
from capn.api.cluster import NestedCluster, NestedClusterStatus
from capn.api.conditions import ClusterCondition
from capn.api.machine import NestedMachine
from capn.api.resources import NESTED_CLUSTER
from capn.build.nesting import claims_namespace
from capn.controllers.cluster import claim
from capn.controllers.cluster.addons import reconcile_addons
from capn.controllers.cluster.certificates import reconcile_certificates, reconcile_kubeconfig
from capn.controllers.cluster.cni import reconcile_cni
from capn.controllers.cluster.control_planes import reconcile_control_planes
from capn.controllers.cluster.deletion import reconcile_deletion
from capn.controllers.cluster.infrastructure import reconcile_infrastructure
from capn.controllers.cluster.initialized import reconcile_initialized
from capn.controllers.cluster.nesting import reconcile_nesting
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.cluster.status import compute_deleting_status, compute_paused_status, compute_status
from capn.controllers.cluster.told import compute_told
from capn.controllers.cluster.workers import reconcile_workers
from capn.controllers.deps import INDEX_CLUSTER, INDEX_NAMESPACE, Deps
from capn.controllers.finalizer import add_finalizer
from capn.controllers.parse import parse, parse_or_explain
from capn.controllers.phases import Phase, Progress, run_phases
from capn.controllers.status_writer import write_status
from capn.controllers.timestamps import format_time
from capn.errors import CapnError
from capn.runtime.controller import Key
from capn.runtime.result import Result

log = structlog.get_logger(__name__)

# A phase without a condition of its own is named by the one that it serves; the status sums machines up itself.
PHASES: tuple[Phase[ClusterScope], ...] = (
    Phase(ClusterCondition.INFRASTRUCTURE_READY, reconcile_infrastructure),
    Phase(ClusterCondition.CERTIFICATES_AVAILABLE, reconcile_certificates),
    Phase(ClusterCondition.KUBECONFIG_READY, reconcile_kubeconfig),
    Phase(ClusterCondition.CONTROL_PLANE_READY, reconcile_control_planes),
    Phase(ClusterCondition.CONTROL_PLANE_INITIALIZED, reconcile_initialized),
    Phase(ClusterCondition.CNI_READY, reconcile_cni),
    Phase(ClusterCondition.WORKERS_READY, reconcile_workers),
    Phase(ClusterCondition.ADDONS_READY, reconcile_addons),
    Phase(ClusterCondition.NESTING_READY, reconcile_nesting),
)
DELETION: tuple[Phase[ClusterScope], ...] = (Phase(ClusterCondition.DELETING, reconcile_deletion),)
# How often a settled cluster's child is asked whether it still answers. No request to the parent is made for it.
CHILD_CHECK_S = 120.0


class ClusterReconciler:
    """Reconciles one NestedCluster a call."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    async def reconcile(self, key: Key) -> Result:
        """One attempt. Raises the phase's error after its status is written, so that the queue backs off."""
        raw = self._deps.clusters.get(key.namespace, key.name)
        if raw is None:
            return Result.done()
        cluster = await parse_or_explain(self._deps, NESTED_CLUSTER, NestedCluster, raw)
        scope = ClusterScope(
            deps=self._deps,
            cluster=cluster,
            machines=self._machines(key, cluster.metadata.uid),
            claims=self._claims(cluster),
        )
        if cluster.metadata.deleting:
            return await self._delete(scope)
        if cluster.spec.paused:
            await self._write(scope, compute_paused_status(scope, now=self._now()))
            await self._tell(scope, scope.cluster.status.model_copy(update={"phase": "Paused"}))
            return Result.done()
        if names.FINALIZER not in cluster.metadata.finalizers:
            written = await add_finalizer(self._deps.client, NESTED_CLUSTER, cluster.metadata)
            self._deps.clusters.note_write(written)
        progress = await run_phases(PHASES if cluster.spec.claim is None else claim.PHASES, scope)
        status = compute_status(scope, progress, now=self._now())
        await self._write(scope, status)
        if progress.error is None:
            await self._tell(scope, status)
        else:
            with contextlib.suppress(CapnError):  # the phase's own error is the one to tell of
                await self._tell(scope, status)
        return self._conclude(progress)

    async def _tell(self, scope: ClusterScope, status: NestedClusterStatus) -> None:
        report = compute_told(scope.cluster, status)
        await scope.provider.tell_cluster(scope.ref, report, paused=scope.cluster.spec.paused)

    def _claims(self, cluster: NestedCluster) -> Sequence[dict[str, Any]]:
        """What the clusters below claim here."""
        if not cluster.spec.nests:
            return ()
        namespace = claims_namespace(cluster.metadata.name, cluster.metadata.uid)
        return self._deps.clusters.by_index(INDEX_NAMESPACE, namespace)

    def _machines(self, key: Key, uid: str) -> list[NestedMachine]:
        """Machines that name this cluster and are not another's."""
        machines = []
        for raw in self._deps.machines.by_index(INDEX_CLUSTER, f"{key.namespace}/{key.name}"):
            try:
                machine = parse(NestedMachine, raw)
            except ValidationError:
                # Its own reconciler explains it; one broken machine must not stop the cluster.
                log.warning("machine cannot be read", machine=raw["metadata"]["name"])
                continue
            if machine.metadata.controller_uid in {None, uid}:
                machines.append(machine)
        return machines

    async def _delete(self, scope: ClusterScope) -> Result:
        progress = await run_phases(DELETION, scope)
        outcome = progress.outcomes[ClusterCondition.DELETING]
        if outcome is None:
            return Result.done()
        await self._write(scope, compute_deleting_status(scope, outcome, now=self._now()))
        return self._conclude(progress)

    def _conclude(self, progress: Progress) -> Result:
        if progress.error is not None:
            raise progress.error
        if progress.stopped_at is None and progress.requeue_after_s is None:
            return Result.after(CHILD_CHECK_S)
        return Result(requeue_after_s=progress.requeue_after_s)

    async def _write(self, scope: ClusterScope, status: Any) -> None:  # noqa: ANN401 - narrowed by write_status
        await write_status(
            self._deps.client,
            self._deps.clusters,
            self._deps.recorder,
            NESTED_CLUSTER,
            scope.cluster.metadata,
            before=scope.cluster.status,
            after=status,
        )

    def _now(self) -> str:
        return format_time(self._deps.now())
