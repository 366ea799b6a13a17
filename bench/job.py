"""The job that all three contestants do: one NestedCluster, from the user's object to Ready.

Role: pure content (objects, statuses, events), shared by the floor and kopf, and of the size of what capn writes.
Inputs: live objects and the time; outputs: dicts to write. Must not: do I/O, or save work that capn has to do: keys,
cloud-init and kubeadm configuration come from capn's own builders.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from capn import names
from capn.api.cluster import Endpoint, NestedCluster
from capn.api.machine import NestedMachine
from capn.build.kubeconfig import ServerAddress, build_kubeconfig
from capn.build.machines import desired_machines
from capn.build.pki import ClusterPki, generate_pki, issue_client
from capn.build.secrets import build_bootstrap_secret, build_kubeconfig_secret, build_pki_secrets
from capn.build.tokens import generate_token
from capn.controllers.machine.user_data import build_machine_user_data

NAMESPACE = "default"
VERSION = "v1.37.2"
ENDPOINT = Endpoint(host="10.89.0.10", port=6443)
_VALID = timedelta(days=365)

CLUSTER_PARTS = (
    "InfrastructureReady",
    "CertificatesAvailable",
    "KubeconfigReady",
    "ControlPlaneInitialized",
    "CNIReady",
    "ControlPlaneReady",
    "WorkersReady",
)
MACHINE_PARTS = ("BootstrapDataReady", "InfrastructureReady", "BootstrapSucceeded", "NodeHealthy", "NodeConfigured")
# Sums of other conditions: no event of their own.
_QUIET = frozenset({"ControlPlaneReady", "WorkersReady"})


def build_manifest(name: str) -> dict[str, Any]:
    """What the user applies: one control plane and one worker on simulated machines that boot at once."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "NestedCluster",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "version": VERSION,
            "workers": [build_pool(0)],
            "infrastructure": {"kind": "memory", "endpoint": "bench"},
        },
    }


def build_pool(number: int) -> dict[str, Any]:
    """The worker pool; how it would be rolled out is what B6 changes, which is no work for anybody."""
    return {"name": "w", "replicas": 1, "rollout": {"maxSurge": 1 + number % 997}}


def format_now() -> str:
    """The time as a condition has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Job:
    """All objects of one cluster. `live` is the NestedCluster as the API server has it."""

    def __init__(self, live: dict[str, Any]) -> None:
        self.cluster = NestedCluster.model_validate(live)
        self.pki: ClusterPki = generate_pki(now=datetime.now(UTC), cluster=self.cluster.metadata.name)

    def build_secrets(self) -> list[dict[str, Any]]:
        """The PKI's four Secrets and the kubeconfig's."""
        name = self.cluster.metadata.name
        client = issue_client(
            self.pki.ca,
            common_name="kubernetes-admin",
            organizations=("system:masters",),
            now=datetime.now(UTC),
            valid=_VALID,
        )
        server = f"https://{ENDPOINT.host}:{ENDPOINT.port}"
        kubeconfig = build_kubeconfig(
            cluster=name, server=ServerAddress(server), ca_pem=self.pki.ca.cert_pem, client=client
        )
        return [*build_pki_secrets(self.cluster, self.pki), build_kubeconfig_secret(self.cluster, kubeconfig)]

    def build_machines(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The control plane's NestedMachine and the worker's."""
        control_plane, worker = desired_machines(self.cluster)
        return control_plane, worker

    def build_bootstrap_secret(self, live: dict[str, Any]) -> dict[str, Any]:
        """The machine's user-data in its Secret."""
        machine = NestedMachine.model_validate(live)
        joins = machine.spec.role == names.ROLE_WORKER
        user_data = build_machine_user_data(
            cluster=self.cluster,
            machine=machine,
            endpoint=ENDPOINT,
            pki=self.pki,
            provider_id=build_provider_id(machine),
            token=generate_token(uuid.uuid4().bytes * 2),
            joins=joins,
        )
        return build_bootstrap_secret(machine, user_data)


def build_provider_id(machine: NestedMachine) -> str:
    """The machine's provider ID."""
    meta = machine.metadata
    return names.build_provider_id(
        "memory",
        namespace=meta.namespace,
        cluster=machine.spec.cluster_name,
        machine=meta.name,
        machine_uid=meta.uid,
    )


def build_finalizer(live: dict[str, Any]) -> dict[str, Any]:
    """A merge patch that adds our finalizer to an object that has none."""
    meta = live["metadata"]
    keys = ("name", "namespace", "resourceVersion")
    return {"metadata": {**{key: meta[key] for key in keys}, "finalizers": [names.FINALIZER]}}


def build_identity(live: dict[str, Any]) -> dict[str, Any]:
    """Kind, name and UID: what every apply begins with."""
    meta = live["metadata"]
    identity = {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}
    return {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": identity}


def build_cluster_status(generation: int, true: Sequence[str], *, ready: int) -> dict[str, Any]:
    """The cluster's status in which the conditions in `true` hold and `ready` of two machines are Ready."""
    done = len(true) == len(CLUSTER_PARTS)
    return {
        "observedGeneration": generation,
        "phase": "Ready" if done else "Provisioning",
        "endpoint": ENDPOINT.to_json(),
        "version": VERSION,
        "machines": {"desired": 2, "created": 2, "ready": ready},
        "controlPlane": {"desired": 1, "created": 1, "ready": min(ready, 1)},
        "workers": {"desired": 1, "created": 1, "ready": max(ready - 1, 0), "updated": 1},
        "selector": f"{names.LABEL_CLUSTER}=x,{names.LABEL_ROLE}={names.ROLE_CONTROL_PLANE}",
        "conditions": _build_conditions(CLUSTER_PARTS, true, generation, ("Paused", "Stalled", "Reconciling")),
    }


def build_machine_status(live: dict[str, Any], true: Sequence[str]) -> dict[str, Any]:
    """The machine's status in which the conditions in `true` hold."""
    machine = NestedMachine.model_validate(live)
    generation = machine.metadata.generation
    return {
        "observedGeneration": generation,
        "phase": "Running" if len(true) == len(MACHINE_PARTS) else "Bootstrapping",
        "providerID": build_provider_id(machine),
        "addresses": [
            {"type": "Hostname", "address": machine.metadata.name},
            {"type": "InternalIP", "address": ENDPOINT.host},
        ],
        "bootstrap": {"stage": "done"},
        "conditions": _build_conditions(MACHINE_PARTS, true, generation, ("Paused",)),
    }


def _build_conditions(
    parts: Iterable[str], true: Sequence[str], generation: int, false: Iterable[str]
) -> list[dict[str, Any]]:
    now = format_now()
    missing = [part for part in parts if part not in true]
    message = f"{missing[0]}: waiting for the step before it" if missing else ""

    def build(kind: str, *, holds: bool, text: str = "") -> dict[str, Any]:
        return {
            "type": kind,
            "status": "True" if holds else "False",
            "reason": "Done" if holds else "Waiting",
            "message": text,
            "lastTransitionTime": now,
            "observedGeneration": generation,
        }

    return [
        *(build(part, holds=part in true, text="" if part in true else message) for part in parts),
        *(build(kind, holds=False) for kind in false),
        build("Ready", holds=not missing, text=message),
    ]


def build_events(live: dict[str, Any], kinds: Iterable[str]) -> list[dict[str, Any]]:
    """One event for each condition that became true."""
    meta = live["metadata"]
    reference = {key: meta[key] for key in ("name", "namespace", "uid")}
    return [
        {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{meta['name']}.{uuid.uuid4().hex[:16]}", "namespace": meta["namespace"]},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "capn.dev/bench",
            "reportingInstance": "bench",
            "action": "Reconcile",
            "reason": "Done",
            "regarding": {"apiVersion": live["apiVersion"], "kind": live["kind"], **reference},
            "note": f"{kind}: Done",
            "type": "Normal",
        }
        for kind in kinds
        if kind not in _QUIET
    ]
