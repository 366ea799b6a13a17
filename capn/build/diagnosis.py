"""What a failed bootstrap means and what to do about it.

Role: pure and deterministic: the same report gives the same text, without times or random parts, so that it can stand
in a condition. Inputs: a report (untrusted, already cleaned); outputs: a CamelCase reason and a message of the stage,
the failing line and the fix. Must not: raise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from capn.build.report import Report

_MAX_LINE = 400
# klog headers and container log headers hold times and process ids, which would make the message change for ever.
_HEADERS = (
    re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-][\d:]+) (?:stdout|stderr) [FP] "),
    re.compile(r"^[IWEF]\d{4} [\d:.]+ +\d+ "),
    re.compile(r"^(?:\[ *\d+\.\d+\] )"),
)
_VARYING = re.compile(r"\b\d+(?:\.\d+)?(?:ms|s)\b|\b\d{1,2}m\d+(?:\.\d+)?s\b|0x[0-9a-f]+")
# kubeadm's etcd client logs each attempt; kubeadm's own last word comes after them.
_NOISE = re.compile(r'\{"level":"(?:debug|info|warn)"')
_FAILING = re.compile(r"\[ERROR |\berror:|^error |^Error: |fatal|cannot |unable to |failed|panic:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`reason` for a condition or event, `message` for people."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    reason: str
    fix: str


def _rule(pattern: str, reason: str, fix: str) -> _Rule:
    return _Rule(re.compile(pattern, re.IGNORECASE), reason, fix)


# In order: the first that matches any line of the tail wins, so the more special come first.
_RULES = (
    _rule(
        r"no space left on device",
        "DiskFull",
        "Give the machine a larger disk (spec.machine.disk) and delete this machine.",
    ),
    _rule(
        r"snapshot missing hash|expected sha256 |snapshot file integrity check failed|etcdutl: (not found|command not)",
        "RestoreFailed",
        "Restore another snapshot, or use a node image with etcdutl (`capn image build`); then delete this machine.",
    ),
    _rule(
        r"unknown (shorthand )?flag|flag provided but not defined|invalid argument .* for .*flag"
        r"|failed to parse kubelet flag|\"command failed\" err=",
        "InvalidArgument",
        "Correct the component's extraArgs in the NestedCluster (spec.controlPlane.<component>.extraArgs):"
        " the machine is then made again.",
    ),
    _rule(
        r"strict decoding error|unable to load config|error unmarshaling|couldn't parse|invalid configuration"
        r"|unknown field|: invalid value",
        "InvalidConfiguration",
        "Correct the field of the NestedCluster that the line names; the configuration is made from its spec.",
    ),
    _rule(
        r"\[ERROR ImagePull\]|failed to pull (and unpack )?image|ErrImage|ImagePullBackOff|failed to resolve reference",
        "ImageMissing",
        "Build a node image for this version (`capn image build`), or give the machines access to the registry.",
    ),
    _rule(
        r"\[ERROR Port-\d+\]|address already in use|port \d+ is in use",
        "PortInUse",
        "Use a node image on which no other program listens on that port.",
    ),
    _rule(
        r"\[ERROR NumCPU\]",
        "TooFewCPUs",
        "Give control-plane machines at least 2 CPUs (spec.controlPlane.machine.cpus or spec.machine.cpus).",
    ),
    _rule(
        r"\[ERROR Mem\]|out of memory|oom-kill",
        "TooLittleMemory",
        "Give the machine more memory (spec.machine.memory); a control plane needs at least 1700Mi.",
    ),
    _rule(
        r"\[ERROR Swap\]|running with swap on",
        "SwapEnabled",
        "Use a node image without swap.",
    ),
    _rule(
        r"JWS signature|token id .* (invalid|expired)|invalid bootstrap token|bootstrap token .*expired|unauthorized",
        "TokenExpired",
        "Delete the machine: its successor gets a new bootstrap token.",
    ),
    _rule(
        r"none of the public keys .* are pinned|x509: certificate signed by unknown authority|certificate has expired",
        "CertificateMismatch",
        "Check that the Secret <cluster>-ca is the one the control plane was made with, then delete the machine.",
    ),
    _rule(
        r"is not yet valid|clock|certificate is not valid until",
        "ClockSkew",
        "Correct the clock of the hypervisor; the guest takes its time from it.",
    ),
    _rule(
        r"a Node with name .* already exists",
        "NodeNameTaken",
        "Delete the stale Node in the child, then delete the machine.",
    ),
    _rule(
        r"no network:|network is unreachable|no route to host|no such host|temporary failure in name resolution"
        r"|unable to select an IP",
        "NetworkUnavailable",
        "Check the hypervisor's network (DHCP, NAT, firewall) and that no CIDR of the cluster overlaps it.",
    ),
    _rule(
        r"containerd does not answer|container runtime is not running|\[ERROR CRI\]|unknown service runtime",
        "RuntimeUnavailable",
        "Check containerd in the node image (`capn image build` makes one that works).",
    ),
    _rule(
        r"kubelet is not (running|healthy)|the kubelet does not start|kubelet-check.*unhealthy",
        "KubeletUnhealthy",
        "Check the kubelet's lines in the log tail; wrong extra args or a wrong cgroup driver are the usual causes.",
    ),
    _rule(
        r"connection refused|i/o timeout|deadline exceeded|handshake timeout|timed out|Client\.Timeout",
        "Timeout",
        "Something did not answer in time: check the control plane and the hypervisor's load; delete this machine.",
    ),
    _rule(
        r"does not start; the end of its log|not healthy after|control plane component",
        "ComponentUnhealthy",
        "Check the component's lines in the log tail; wrong extraArgs are the usual cause.",
    ),
    _rule(
        r"cloud-init did not write|CAPN_MODE is",
        "CloudInitFailed",
        "Use a node image with cloud-init 22.4 or later and its NoCloud data source (`capn image build` makes one).",
    ),
    _rule(
        r"\[ERROR [A-Za-z0-9-]+\]",
        "PreflightFailed",
        "Meet the requirement that the line names, in the node image or the machine's size.",
    ),
)
_DEFAULT_FIX = "See status.bootstrap.logTail of the NestedMachine for the end of the log."


def diagnose(report: Report) -> Diagnosis:
    """Reason and message of a failed report. Deterministic; at most about 800 characters."""
    lines = _read_lines(report)
    for rule in _RULES:
        for line in lines:
            if rule.pattern.search(line):
                return Diagnosis(rule.reason, _build_message(report.stage, line, rule.fix))
    return Diagnosis("BootstrapFailed", _build_message(report.stage, _find_failing(lines), _DEFAULT_FIX))


def describe_retry(report: Report) -> str:
    """What ended an attempt that the guest makes again, for an event. Deterministic; at most about 500 characters."""
    return _build_message(report.stage, _find_failing(_read_lines(report)), "The guest tries again.")


def _read_lines(report: Report) -> list[str]:
    """The tail's lines; what etcd's client logs on the way only when there is nothing else."""
    lines = [cleaned for line in report.tail.splitlines() if (cleaned := _clean(line))]
    return [line for line in lines if not _NOISE.match(line)] or lines


def _find_failing(lines: list[str]) -> str:
    return next((line for line in lines if _FAILING.search(line)), lines[-1] if lines else "")


def _clean(line: str) -> str:
    text = line.strip()
    for header in _HEADERS:
        text = header.sub("", text)
    return _VARYING.sub("<time>", text)[:_MAX_LINE].strip()


def _build_message(stage: str, line: str, then: str) -> str:
    said = f": {line.rstrip('.')}" if line else " without a message"
    return f"Bootstrap failed in stage {stage}{said}. {then}"
