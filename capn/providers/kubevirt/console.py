"""A guest's serial console, from the log of its launcher pod's console container.

KubeVirt writes the console to a file that the container `guest-console-log` prints, so any number of readers may
follow it: `virtctl console` takes the console from whoever has it, and capn must not fight a person for it. Role: find
the pod, follow the log. Must not: interpret what the guest prints.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from capn import names
from capn.api.resources import POD, VIRTUAL_MACHINE
from capn.build.stamps import LABEL_VM
from capn.errors import NotFoundError, TransientError
from capn.kube.client import KubeClient
from capn.providers.base import MachineRef
from capn.providers.kubevirt.place import Place
from capn.providers.stamps import is_owned

CONTAINER = "guest-console-log"
# A guest repeats its last word every few seconds; what it said longer ago does not matter.
_TAIL_LINES = 50


class LogReader(Protocol):
    """A client that can follow a container's log."""

    def follow_log(
        self, pod: str, namespace: str, *, container: str, tail_lines: int, silence_s: float = 600.0
    ) -> AsyncIterator[bytes]:
        """The log's last lines and then what is added, in chunks, until the container ends."""
        ...


class KubeVirtClient(KubeClient, LogReader, Protocol):
    """What this provider needs of a connection to the cluster that runs the VMs."""


async def read_console(client: KubeVirtClient, place: Place, ref: MachineRef) -> AsyncIterator[bytes]:
    """Yield the console. NotFoundError without a VM, TransientError while its pod does not print yet."""
    namespace = place.of(ref.cluster)
    vm = await client.get(VIRTUAL_MACHINE, place.machine(ref), namespace)
    if vm is None or not is_owned(vm, ref.uid):
        raise NotFoundError(f"{ref.name} has no VM")
    pod = choose_pod(await list_pods(client, namespace, ref))
    if pod is None:
        raise TransientError(f"the VM of {ref.name} does not run yet")
    async for chunk in client.follow_log(
        pod["metadata"]["name"], namespace, container=CONTAINER, tail_lines=_TAIL_LINES
    ):
        yield chunk


async def list_pods(client: KubeClient, namespace: str, ref: MachineRef) -> list[dict[str, Any]]:
    """The machine's launcher pods; there are two while it migrates."""
    selector = f"{LABEL_VM}={names.build_domain_uuid(ref.uid)}"
    return (await client.list(POD, namespace=namespace, label_selector=selector)).items


def choose_pod(pods: list[dict[str, Any]]) -> Mapping[str, Any] | None:
    """The newest pod whose console container has begun to print."""
    printing = [pod for pod in pods if _prints(pod)]
    return max(printing, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)


def _prints(pod: Mapping[str, Any]) -> bool:
    status = pod.get("status") or {}
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return any(
        container.get("name") == CONTAINER and "running" in (container.get("state") or {}) for container in containers
    )
