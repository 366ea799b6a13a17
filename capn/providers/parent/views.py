"""From claims as the parent has them to what the Protocol tells.

Role: pure. Inputs: NestedClusters and NestedMachines of the parent; outputs: observed values, errors, the guest's
report. Must not: raise for a status that is not there yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from capn import names
from capn.api.conditions import find_condition
from capn.build.report import Report, ReportState
from capn.errors import ApiStatusError, CapnError, InvalidSpecError, TerminalError, TransientError
from capn.providers.base import FailureDomain, MachineState, ObservedCluster, Problem, Route

Json = Mapping[str, Any]
_POWERED_OFF = "PoweredOff"
_STATES = {"MachinePaused": MachineState.PAUSED}
# What the parent says of a VM that it will not make again: to the child it is gone.
_LOST = frozenset({"MachineLost", "MachineVanished"})
# The guest's stage once kubeadm has succeeded (capn/build/guest/bootstrap.sh).
_DONE = "done"


def read_endpoint(cluster: Json) -> ObservedCluster | None:
    """Where the claimed cluster's API will answer; None until the parent knows."""
    endpoint = _status(cluster).get("endpoint")
    if not endpoint:
        return None
    access = _status(cluster).get("access")
    route = Route(access["host"], access["port"], access["serverName"]) if access else None
    return ObservedCluster(
        endpoint_host=endpoint["host"],
        endpoint_port=endpoint["port"],
        machine_cidr=None,
        route=route,
        virtual=endpoint.get("virtual") is True,
        failure_domains=_read_domains(cluster),
    )


def _read_domains(cluster: Json) -> tuple[FailureDomain, ...]:
    """The parent's failure domains; claimed machines name them as it does."""
    return tuple(
        FailureDomain(
            row["name"],
            None
            if row.get("available")
            else Problem("DomainUnavailable", f"the parent: {row.get('message') or ''}", passes=True),
        )
        for row in _status(cluster).get("failureDomains") or ()
    )


def find_refusal(cluster: Json) -> CapnError | None:
    """Why the parent will not give what was claimed, as the error that its own provider raised."""
    status = _status(cluster)
    reason, message = status.get("failureReason"), str(status.get("failureMessage") or "")
    if not reason:
        return None
    field, colon, rest = message.partition(": ")
    if colon and field.startswith("spec."):
        return InvalidSpecError(field, rest, reason=reason)
    return TerminalError(message, reason=reason)


def is_lost(machine: Json) -> bool:
    """Whether the parent says that the machine's VM is gone for good."""
    return _status(machine).get("failureReason") in _LOST


def compute_state(machine: Json) -> MachineState:
    """The VM's state; the parent starts one that has stopped, so that is on its way too."""
    if (find_condition(machine, _POWERED_OFF) or {}).get("status") == "True":
        return MachineState.STOPPED
    running = find_condition(machine, "InfrastructureReady") or {}
    if running.get("status") == "True":
        return MachineState.RUNNING
    return _STATES.get(str(running.get("reason")), MachineState.CREATING)


def find_problem(machine: Json) -> Problem | None:
    """What keeps the VM from running, as the parent explains it."""
    if compute_state(machine) in (MachineState.RUNNING, MachineState.STOPPED):
        return None
    status = _status(machine)
    if reason := status.get("failureReason"):
        return Problem(str(reason), f"the parent: {status.get('failureMessage') or ''}")
    running = find_condition(machine, "InfrastructureReady") or {}
    if running.get("status") == "False" and running.get("reason") not in {"MachineStarting", "MachinePaused"}:
        return Problem(str(running.get("reason")), f"the parent: {running.get('message') or ''}", passes=True)
    return None


def read_power_off(machine: Json) -> str | None:
    """What the claim says of its VM's power; None when it shall run."""
    said = (machine["metadata"].get("annotations") or {}).get(names.ANNOTATION_POWER_OFF)
    return None if said is None else str(said)


def find_stop_refusal(machine: Json) -> TerminalError | None:
    """Why the parent will not switch the VM off."""
    status, off = _status(machine), find_condition(machine, _POWERED_OFF) or {}
    if off.get("status") != "False" or not status.get("failureReason") or off.get("reason") != status["failureReason"]:
        return None
    return TerminalError(f"the parent: {status.get('failureMessage') or ''}", reason=str(status["failureReason"]))


def has_seed(machine: Json) -> bool:
    """Whether the VM may still have its bootstrap data."""
    return (find_condition(machine, "BootstrapSucceeded") or {}).get("status") != "True"


def read_addresses(machine: Json) -> tuple[str, ...]:
    """The machine's addresses."""
    addresses = _status(machine).get("addresses") or ()
    return tuple(entry["address"] for entry in addresses if entry.get("type") == "InternalIP")


def read_report(machine: Json) -> Report | None:
    """What the guest last said; the parent has cleaned and cut it, and the reader does so again."""
    said = _status(machine).get("bootstrap")
    if not isinstance(said, Mapping) or not said.get("stage"):
        return None
    state = ReportState.FAILED if said.get("failed") else ReportState.RUNNING
    if said["stage"] == _DONE and not said.get("failed"):
        state = ReportState.SUCCEEDED
    revision = str(machine["metadata"].get("resourceVersion", "0"))
    seq = int(revision) % (1 << 31) if revision.isdigit() else 1
    return Report(stage=str(said["stage"]), state=state, seq=seq, tail=str(said.get("logTail") or ""))


def read_essence(machine: Json) -> object:
    """What of a claimed machine matters to the one that claims it."""
    deleting = bool(machine["metadata"].get("deletionTimestamp"))
    refusal = find_stop_refusal(machine)
    return (
        compute_state(machine),
        find_problem(machine),
        None if refusal is None else str(refusal),
        has_seed(machine),
        is_lost(machine),
        read_addresses(machine),
        deleting,
    )


def explain_refusal(error: ApiStatusError) -> CapnError:
    """What the parent's API server said to a claim, as an error that says what comes of it."""
    message = f"the parent: {error}"
    if error.reason == "NamespaceTerminating":
        return TransientError(f"{message}; this cluster is being deleted", reason=error.reason)
    if error.code not in {HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY}:
        return error
    if "exceeded quota" in message:
        return TransientError(message, reason="BudgetExceeded")
    return TerminalError(message, reason="ClaimRefused")


def read_cluster_essence(cluster: Json) -> object:
    """What of a claimed cluster matters to the one that claims it."""
    status = _status(cluster)
    refusal = (status.get("failureReason"), status.get("failureMessage"))
    return (read_endpoint(cluster), refusal, bool(cluster["metadata"].get("deletionTimestamp")))


def _status(obj: Json) -> Json:
    status = obj.get("status")
    return status if isinstance(status, Mapping) else {}
