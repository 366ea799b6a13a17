"""kopf doing the same job, in kopf's own way: a handler a change, status through its `patch`, children by a client.

Role: the contestant that stands for a Python framework. It has the same builders as the floor, and its children are
written by the floor's bare client, so that only the framework differs. Must not: be slowed down on purpose: kopf's
Events for log lines and its scanning for resources are off, and facts that become known together are written together.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import kopf
import msgspec

from bench.api import Api, connect
from bench.job import (
    CLUSTER_PARTS,
    MACHINE_PARTS,
    NAMESPACE,
    Job,
    build_cluster_status,
    build_events,
    build_machine_status,
)
from capn import names
from capn.api.resources import EVENT, NESTED_CLUSTER, NESTED_MACHINE, SECRET

CLUSTERS = (NESTED_CLUSTER.group, NESTED_CLUSTER.version, NESTED_CLUSTER.plural)
MACHINES = (NESTED_MACHINE.group, NESTED_MACHINE.version, NESTED_MACHINE.plural)
# What capn keeps in memory too: the PKI of a cluster, so that a machine's handler need not read four Secrets.
JOBS: dict[str, Job] = {}
APIS: list[Api] = []
_OPEN: list[Any] = []


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, **_: Any) -> None:  # noqa: ANN401 - kopf's calling convention
    """Settings that favour kopf: nothing is posted or scanned that the job does not need."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.finalizer = names.FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="kopf.capn.dev")
    session = connect(Path(os.environ["KUBECONFIG"]))
    APIS.append(await session.__aenter__())
    _OPEN.append(session)


@kopf.on.login()
def login(**kwargs: Any) -> kopf.ConnectionInfo | None:  # noqa: ANN401 - kopf's calling convention
    """The kubeconfig's client certificate."""
    return kopf.login_with_kubeconfig(**kwargs)


@kopf.on.cleanup()
async def stop(**_: Any) -> None:  # noqa: ANN401 - kopf's calling convention
    """Close the client's session."""
    await _OPEN.pop().__aexit__(None, None, None)


@kopf.on.delete(*CLUSTERS)
@kopf.on.delete(*MACHINES)
async def delete_nothing(**_: Any) -> None:  # noqa: ANN401
    """Nothing to remove; it is here so that kopf holds a finalizer, as the job asks."""


@kopf.on.create(*CLUSTERS)
async def create_cluster(body: kopf.Body, patch: kopf.Patch, **_: Any) -> None:  # noqa: ANN401
    """Secrets and the first machine."""
    live = _live(body, NESTED_CLUSTER.kind)
    job = JOBS[body["metadata"]["name"]] = Job(live)
    for secret in job.build_secrets():
        await APIS[0].create(SECRET, secret)
    await APIS[0].create(NESTED_MACHINE, job.build_machines()[0])
    patch.status.update(build_cluster_status(1, CLUSTER_PARTS[:3], ready=0))
    await _post_events(live, CLUSTER_PARTS[:3])


@kopf.on.update(*CLUSTERS, field="spec")
async def observe_cluster(body: kopf.Body, patch: kopf.Patch, **_: Any) -> None:  # noqa: ANN401
    """B6: a changed spec is answered by a status of that generation."""
    patch.status.update(build_cluster_status(body["metadata"]["generation"], CLUSTER_PARTS, ready=2))


@kopf.on.create(*MACHINES)
async def create_machine(body: kopf.Body, patch: kopf.Patch, **_: Any) -> None:  # noqa: ANN401
    """The bootstrap Secret; a control plane waits for its cluster, a worker is Ready."""
    live = _live(body, NESTED_MACHINE.kind)
    await APIS[0].create(SECRET, JOBS[body["spec"]["clusterName"]].build_bootstrap_secret(live))
    worker = body["spec"]["role"] == names.ROLE_WORKER
    patch.status.update(build_machine_status(live, MACHINE_PARTS if worker else MACHINE_PARTS[:3]))
    await _post_events(live, (*MACHINE_PARTS, "Ready") if worker else MACHINE_PARTS[:3])


@kopf.on.field(*MACHINES, field="status.phase")
async def follow_machine(body: kopf.Body, patch: kopf.Patch, new: Any, **_: Any) -> None:  # noqa: ANN401
    """The first machine's bootstrap initializes the cluster and brings the worker; the worker's makes it Ready."""
    name, role = body["spec"]["clusterName"], body["spec"]["role"]
    live, job = _live(body, NESTED_MACHINE.kind), JOBS[name]
    cluster = {
        "apiVersion": names.API_VERSION,
        "kind": NESTED_CLUSTER.kind,
        "metadata": job.cluster.metadata.model_dump(by_alias=True),
    }
    if role == names.ROLE_CONTROL_PLANE and new == "Bootstrapping":
        await _patch_cluster(name, build_cluster_status(1, CLUSTER_PARTS[:5], ready=0))
        await APIS[0].create(NESTED_MACHINE, job.build_machines()[1])
        patch.status.update(build_machine_status(live, MACHINE_PARTS))
        await _post_events(live, (MACHINE_PARTS[3], "Ready"))
        await _post_events(cluster, CLUSTER_PARTS[3:5])
    elif role == names.ROLE_WORKER and new == "Running":
        await _patch_cluster(name, build_cluster_status(1, CLUSTER_PARTS, ready=2))
        await _post_events(cluster, ("Ready",))


async def _patch_cluster(name: str, status: dict[str, Any]) -> None:
    path = f"/apis/{names.API_VERSION}/namespaces/{NAMESPACE}/{NESTED_CLUSTER.plural}/{name}/status"
    await APIS[0].call("PATCH", path, {"status": status}, content_type="application/merge-patch+json")


async def _post_events(live: dict[str, Any], kinds: tuple[str, ...]) -> None:
    for event in build_events(live, kinds):
        await APIS[0].create(EVENT, event)


def _live(body: kopf.Body, kind: str) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins({key: dict(body[key]) for key in ("metadata", "spec")})
    return {"apiVersion": names.API_VERSION, "kind": kind, **plain}


def main() -> None:
    """Run until SIGTERM; the kubeconfig is the argument."""
    os.environ["KUBECONFIG"] = sys.argv[1]
    logging.basicConfig(level=logging.WARNING)
    kopf.run(standalone=True, namespaces=[NAMESPACE])


if __name__ == "__main__":
    main()
