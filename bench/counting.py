"""What the API server and the kernel say of a run: requests by verb and resource, CPU seconds, memory.

Role: reads the API server's `/metrics` and `/proc`; the parsing and the differences are pure. Inputs: metrics text,
pids; outputs: counters. Must not: count what is not the controller's (Leases, the API server's own kinds).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WRITE_VERBS = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"})
# All kinds that the job touches in the parent. Events are shown apart: they tell people, no state hangs on them.
STATE_RESOURCES = ("nestedclusters", "nestedmachines", "secrets")
EVENT_RESOURCE = "events"
_LINE = re.compile(r"^(apiserver_request_total|apiserver_longrunning_requests)\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_FIRST_REFUSAL = 400
_UTIME, _STIME = 11, 12  # fields 14 and 15 of proc(5) stat, counted after the name
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, order=True)
class Call:
    """One kind of request. `resource` holds the subresource after a slash; `refused` means an answer of 4xx or 5xx."""

    verb: str
    resource: str
    refused: bool = False

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (" (refused)" if self.refused else "")


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests that have ended, by kind, and watches that are open now, by resource."""

    ended: Counter[Call]
    watches: Counter[str]

    def since(self, before: Requests) -> Requests:
        """What came after `before`; the watches are those of now."""
        return Requests(self.ended - before.ended, self.watches)

    def writes(self, *, events: bool = False) -> dict[str, int]:
        """Writes of state (or of events), refused ones included and named so."""
        return self._select(WRITE_VERBS, (EVENT_RESOURCE,) if events else STATE_RESOURCES)

    def reads(self, verb: str) -> dict[str, int]:
        """Requests of a reading verb (GET, LIST, WATCH) for the job's kinds."""
        return self._select(frozenset({verb}), STATE_RESOURCES)

    def _select(self, verbs: frozenset[str], resources: tuple[str, ...]) -> dict[str, int]:
        chosen = {
            str(call): count
            for call, count in self.ended.items()
            if call.verb in verbs and call.resource.partition("/")[0] in resources
        }
        return dict(sorted(chosen.items()))


def parse_requests(text: str) -> Requests:
    """Counters from the text of `/metrics`."""
    ended: Counter[Call] = Counter()
    watches: Counter[str] = Counter()
    for metric, labels, value in _LINE.findall(text):
        fields = dict(_LABEL.findall(labels))
        resource = fields.get("resource", "")
        if fields.get("subresource"):
            resource += f"/{fields['subresource']}"
        if metric == "apiserver_request_total":
            code = int(fields["code"]) if fields.get("code", "").isdigit() else _FIRST_REFUSAL
            ended[Call(fields["verb"], resource, code >= _FIRST_REFUSAL)] += round(float(value))
        elif fields.get("verb") == "WATCH":
            watches[resource] += round(float(value))
    return Requests(ended, watches)


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds, user and system, since each process (or, for the whole machine, the system) began."""

    controller: float
    api_server: float
    etcd: float
    harness: float
    machine: float

    @property
    def ours(self) -> float:
        """Of the measurement's own processes."""
        return self.controller + self.api_server + self.etcd + self.harness

    def since(self, before: Cpu) -> Cpu:
        """What was used after `before`."""
        return Cpu(
            controller=self.controller - before.controller,
            api_server=self.api_server - before.api_server,
            etcd=self.etcd - before.etcd,
            harness=self.harness - before.harness,
            machine=self.machine - before.machine,
        )


def read_cpu(pids: Mapping[str, int]) -> Cpu:
    """CPU seconds of the processes named controller, api_server and etcd. OSError when one has ended."""
    used = {name: parse_cpu(Path(f"/proc/{pid}/stat").read_text()) for name, pid in pids.items()}
    machine = parse_machine_cpu(Path("/proc/stat").read_text())
    return Cpu(**used, harness=parse_cpu(Path("/proc/self/stat").read_text()), machine=machine)


def parse_cpu(stat: str) -> float:
    """User and system seconds of a line of /proc/<pid>/stat."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_S


def parse_machine_cpu(stat: str) -> float:
    """Busy seconds of all CPUs, from the first line of /proc/stat."""
    user, nice, system, _idle, _iowait, irq, softirq = (int(word) for word in stat.split()[1:8])
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


def read_rss_mib(pid: int) -> float:
    """Resident memory. OSError when the process has ended."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES / 2**20
