"""Puts the controllers together: informers, queues, reconcilers, and what wakes what.

Role: the wiring, in one place. Inputs: a client, settings, providers; output: controllers that are ready to run.
Must not: read settings from anywhere else, or hold behaviour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from capn.api.resources import NESTED_CLUSTER, NESTED_MACHINE
from capn.backup.registry import StoreRegistry
from capn.build.nesting import claims_namespace
from capn.controllers.addon_content import AddonContents
from capn.controllers.backups import Backups
from capn.controllers.child_pool import ChildPool
from capn.controllers.chores import Chores
from capn.controllers.cluster.reconciler import ClusterReconciler
from capn.controllers.console_watch import ConsoleWatch
from capn.controllers.credentials import CredentialStore
from capn.controllers.deps import INDEX_CLAIMS, INDEX_CLUSTER, INDEX_GATE, INDEX_NAMESPACE, Deps, Providers, Recorder
from capn.controllers.gate import build_gate
from capn.controllers.machine.reconciler import MachineReconciler
from capn.controllers.provider_changes import ProviderChanges
from capn.controllers.wakers import (
    cluster_of,
    has_new_report,
    index_by_claims,
    index_by_cluster,
    index_by_gate_name,
    index_by_namespace,
    on_removal,
    only_when,
    opens_gate,
)
from capn.kube.client import KubeClient
from capn.kube.decode import Object
from capn.kube.http import HttpKubeClient
from capn.providers.base import ClusterRef, MachineRef
from capn.runtime.clock import utc_now
from capn.runtime.controller import Controller, Key
from capn.runtime.events import EventRecorder
from capn.runtime.guard import GuardedKubeClient
from capn.runtime.handlers import enqueue_mapped, enqueue_self, has_new_spec
from capn.runtime.health import HealthServer
from capn.runtime.informer import Informer
from capn.runtime.lease import LeaderElector, LeaseTimes, build_identity
from capn.runtime.manager import Manager
from capn.runtime.metrics import Metrics
from capn.settings import BackupStore, GateSettings, NestingSettings, Settings


class Controllers:
    """The two controllers with everything that they share."""

    def __init__(  # noqa: PLR0913 - the wiring's inputs
        self,
        client: KubeClient,
        providers: Providers,
        recorder: Recorder,
        *,
        metrics: Metrics | None = None,
        workers: int = 8,
        bootstrap_timeout_s: float = 1800.0,
        shutdown_timeout_s: float = 180.0,
        namespace: str | None = None,
        nesting: NestingSettings | None = None,
        gate: GateSettings | None = None,
        backup_stores: Mapping[str, BackupStore] | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.clusters = Informer(client, NESTED_CLUSTER, namespace=namespace, metrics=metrics)
        self.machines = Informer(client, NESTED_MACHINE, namespace=namespace, metrics=metrics)
        self.machines.add_index(INDEX_CLUSTER, index_by_cluster)
        self.machines.add_index(INDEX_NAMESPACE, index_by_namespace)
        self.clusters.add_index(INDEX_NAMESPACE, index_by_namespace)
        self.clusters.add_index(INDEX_CLAIMS, index_by_claims)
        self.clusters.add_index(INDEX_GATE, index_by_gate_name)
        self.children = ChildPool(self._wake_node)
        self.consoles = ConsoleWatch(self._wake_later)
        self.changes = ProviderChanges(providers, self._wake_ref)
        self.deps = Deps(
            client=client,
            clusters=self.clusters,
            machines=self.machines,
            providers=self.changes,
            children=self.children,
            consoles=self.consoles,
            credentials=CredentialStore(client, now),
            addons=AddonContents(client, now),
            recorder=recorder,
            now=now,
            bootstrap_timeout_s=bootstrap_timeout_s,
            shutdown_timeout_s=shutdown_timeout_s,
            backups=Backups(StoreRegistry(backup_stores or {}, client, now)),
            chores=Chores(self._wake_ref),
            nesting=nesting,
            gate=gate,
        )
        self.cluster_controller = Controller(
            "nestedcluster", ClusterReconciler(self.deps), workers=workers, metrics=metrics
        )
        self.machine_controller = Controller(
            "nestedmachine", MachineReconciler(self.deps), workers=workers, metrics=metrics
        )
        self._wire()

    def _wire(self) -> None:
        """A kind's own status write wakes only the other kind, so that it never resets its own backoff."""
        self.clusters.add_handler(enqueue_self(self.cluster_controller.queue))
        machines = enqueue_mapped(self.machine_controller.queue, self._machines_of)
        self.clusters.add_handler(only_when(opens_gate, machines))
        # A budget that was raised has room for machines that wait.
        claimed = enqueue_mapped(self.machine_controller.queue, self._machines_claimed_by)
        self.clusters.add_handler(only_when(has_new_spec, claimed))
        # What the clusters below report shows in the status of the one above.
        claimants = enqueue_mapped(self.cluster_controller.queue, self._claimant_of)
        self.clusters.add_handler(only_when(has_new_report, claimants))
        self.clusters.add_handler(on_removal(self._forget_cluster))
        self.machines.add_handler(enqueue_self(self.machine_controller.queue))
        self.machines.add_handler(enqueue_mapped(self.cluster_controller.queue, cluster_of))
        self.machines.add_handler(on_removal(self.consoles.forget))
        self.machines.add_handler(on_removal(self.deps.patience.renew))

    def _machines_of(self, cluster: Object) -> Iterable[Key]:
        index = str(Key(*cluster.key))
        return [Key(*machine.key) for machine in self.machines.objects_by_index(INDEX_CLUSTER, index)]

    def _machines_claimed_by(self, cluster: Object) -> Iterable[Key]:
        namespace = claims_namespace(cluster.metadata.name, cluster.metadata.uid)
        return [Key(*machine.key) for machine in self.machines.objects_by_index(INDEX_NAMESPACE, namespace)]

    def _claimant_of(self, claim: Object) -> Iterable[Key]:
        claimants = self.clusters.objects_by_index(INDEX_CLAIMS, claim.metadata.namespace)
        return [Key(*cluster.key) for cluster in claimants]

    def _forget_cluster(self, uid: str) -> None:
        self.deps.credentials.forget(uid)
        self.deps.backups.forget(uid)
        self.deps.addons.forget(uid)
        self.deps.chores.forget(uid)
        self.children.drop_soon(uid)

    def _wake_later(self, ref: MachineRef, delay_s: float) -> None:
        key = Key(ref.cluster.namespace, ref.name)
        if delay_s:
            self.machine_controller.queue.add_after(key, delay_s)
        else:
            self.machine_controller.queue.add(key)

    def _wake_ref(self, ref: MachineRef | ClusterRef) -> None:
        if isinstance(ref, MachineRef):
            self._wake_machine(ref.cluster.namespace, ref.name)
        else:
            self.cluster_controller.queue.add(Key(ref.namespace, ref.name))

    def _wake_node(self, ref: ClusterRef, node: str) -> None:
        """The node's machine, and the cluster: that a node has its network shows in no machine's status."""
        self._wake_machine(ref.namespace, node)
        self._wake_ref(ref)

    def _wake_machine(self, namespace: str, name: str) -> None:
        self.machine_controller.queue.add(Key(namespace, name))

    async def hold(self) -> None:
        """Run until cancelled, then end the work beside, and close consoles, children and the providers' streams."""
        try:
            await asyncio.Event().wait()
        finally:
            await self.deps.chores.close()
            await self.changes.close()
            await self.consoles.close()
            await self.children.close()


def build_manager(client: KubeClient, settings: Settings, providers: Providers) -> Manager:
    """Everything that `capn run` runs. `client` and `providers` stay the caller's to close."""
    metrics = Metrics()
    if isinstance(client, HttpKubeClient):
        client.on_request = metrics.observe_request
    elector = None
    if settings.leader_elect:
        elector = LeaderElector(
            client,
            namespace=settings.lease_namespace,
            identity=settings.lease_identity,
            times=LeaseTimes.of(settings.lease_duration_s),
            metrics=metrics,
        )
        client = GuardedKubeClient(client, elector.remaining_s)
    recorder = EventRecorder(client, instance=elector.identity if elector else build_identity(), metrics=metrics)
    controllers = Controllers(
        client,
        providers,
        recorder,
        metrics=metrics,
        workers=settings.workers,
        bootstrap_timeout_s=settings.bootstrap_timeout_s,
        shutdown_timeout_s=settings.shutdown_timeout_s,
        nesting=settings.nesting,
        gate=settings.gate,
        backup_stores=settings.backup_stores,
        namespace=settings.namespace,
    )
    return Manager(
        informers=[controllers.clusters, controllers.machines],
        controllers=[controllers.cluster_controller, controllers.machine_controller],
        health=HealthServer(bind=settings.bind, port=settings.port, registry=metrics.registry),
        elector=elector,
        always=[] if settings.gate is None else [build_gate(settings.gate, controllers.clusters).run],
        leading=[controllers.hold, recorder.run],
    )
