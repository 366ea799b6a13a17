"""The NestedCluster's reconcile: finalizer, phases in order, then always the status.

Role: the order of things and nothing else. Inputs: a key; output: a Result. Must not: hold what a phase does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from capn import names
from capn.api.cluster import NestedCluster, NestedClusterStatus, PowerState
from capn.api.conditions import ClusterCondition
from capn.api.machine import NestedMachine
from capn.api.resources import NESTED_CLUSTER
from capn.build.nesting import claims_namespace
from capn.controllers.cluster import claim, power
from capn.controllers.cluster.addons import reconcile_addons
from capn.controllers.cluster.backup import reconcile_backup
from capn.controllers.cluster.certificates import reconcile_certificates, reconcile_kubeconfig
from capn.controllers.cluster.cni import reconcile_cni
from capn.controllers.cluster.control_planes import reconcile_control_planes, reconcile_first_control_plane
from capn.controllers.cluster.deletion import reconcile_deletion
from capn.controllers.cluster.infrastructure import reconcile_infrastructure
from capn.controllers.cluster.initialized import reconcile_initialized
from capn.controllers.cluster.machines import read_machines
from capn.controllers.cluster.nesting import reconcile_nesting
from capn.controllers.cluster.power_status import compute_off_status
from capn.controllers.cluster.restore import reconcile_restore, reconcile_upload
from capn.controllers.cluster.restored import reconcile_restored
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.cluster.status import compute_deleting_status, compute_paused_status, compute_status
from capn.controllers.cluster.told import compute_told
from capn.controllers.cluster.upgrade import reconcile_upgrade
from capn.controllers.cluster.workers import reconcile_workers
from capn.controllers.deps import INDEX_CLUSTER, INDEX_NAMESPACE, Deps
from capn.controllers.finalizer import add_finalizer
from capn.controllers.parse import parse_or_explain
from capn.controllers.phases import Phase, Progress, run_phases
from capn.controllers.status_writer import write_status
from capn.controllers.timestamps import format_time
from capn.errors import CapnError
from capn.runtime.controller import Key
from capn.runtime.result import Result

# A phase without a condition of its own is named by the one that it serves; the status sums machines up itself.
PHASES: tuple[Phase[ClusterScope], ...] = (
    Phase(ClusterCondition.POWERED_OFF, power.reconcile_power_on),
    Phase(ClusterCondition.INFRASTRUCTURE_READY, reconcile_infrastructure),
    Phase(ClusterCondition.CERTIFICATES_AVAILABLE, reconcile_certificates),
    Phase(ClusterCondition.KUBECONFIG_READY, reconcile_kubeconfig),
    Phase(ClusterCondition.RESTORED, reconcile_restore),
    Phase(ClusterCondition.CONTROL_PLANE_READY, reconcile_first_control_plane),
    Phase(ClusterCondition.RESTORED, reconcile_upload),
    Phase(ClusterCondition.CONTROL_PLANE_INITIALIZED, reconcile_initialized),
    Phase(ClusterCondition.RESTORED, reconcile_restored),
    Phase(ClusterCondition.UPGRADED, reconcile_upgrade),
    Phase(ClusterCondition.CONTROL_PLANE_READY, reconcile_control_planes),
    Phase(ClusterCondition.CNI_READY, reconcile_cni),
    Phase(ClusterCondition.BACKUP_READY, reconcile_backup),
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
            self._deps.chores.forget(cluster.metadata.uid)
            await self._write(scope, compute_paused_status(scope, now=self._now()))
            await self._tell(scope, scope.cluster.status.model_copy(update={"phase": "Paused"}))
            return Result.done()
        if names.FINALIZER not in cluster.metadata.finalizers:
            written = await add_finalizer(self._deps.client, NESTED_CLUSTER, cluster.metadata)
            self._deps.clusters.note_write(written)
        if cluster.spec.power_state is PowerState.OFF:
            return await self._power_off(scope)
        progress = await run_phases(PHASES if cluster.spec.claim is None else claim.PHASES, scope)
        status = compute_status(scope, progress, now=self._now())
        await self._write(scope, status)
        await self._tell_beside(scope, status, progress)
        return self._conclude(progress, scope.backup_due_s)

    async def _power_off(self, scope: ClusterScope) -> Result:
        """Only what switches the machines off; then nothing, until something changes."""
        progress = await run_phases(power.PHASES, scope)
        status = compute_off_status(scope, progress.outcomes[ClusterCondition.POWERED_OFF], now=self._now())
        await self._write(scope, status)
        await self._tell_beside(scope, status, progress)
        if progress.error is not None:
            raise progress.error
        return Result.done()

    async def _tell_beside(self, scope: ClusterScope, status: NestedClusterStatus, progress: Progress) -> None:
        """Tell; when a phase has failed, its own error is the one to raise."""
        if progress.error is None:
            await self._tell(scope, status)
        else:
            with contextlib.suppress(CapnError):
                await self._tell(scope, status)

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
        return read_machines(self._deps.machines.by_index(INDEX_CLUSTER, f"{key.namespace}/{key.name}"), uid)

    async def _delete(self, scope: ClusterScope) -> Result:
        # Whoever makes the machines must know whether to stand still: what waits there would hold this up for ever.
        with contextlib.suppress(CapnError):  # what is wrong there the deletion itself says
            await self._tell(scope, scope.cluster.status.model_copy(update={"phase": "Deleting"}))
        progress = await run_phases(DELETION, scope)
        outcome = progress.outcomes[ClusterCondition.DELETING]
        if outcome is None:
            return Result.done()
        await self._write(scope, compute_deleting_status(scope, outcome, now=self._now()))
        return self._conclude(progress)

    def _conclude(self, progress: Progress, due_s: float | None = None) -> Result:
        if progress.error is not None:
            raise progress.error
        times = [time_s for time_s in (progress.requeue_after_s, due_s) if time_s is not None]
        if progress.stopped_at is None:
            times.append(CHILD_CHECK_S)
        return Result(requeue_after_s=min(times, default=None))

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
