from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capn.build.diagnosis import _RULES, describe_retry, diagnose
from capn.build.report import Report, ReportState

CASES = [
    ("write /var/lib/etcd/x: no space left on device", "DiskFull"),
    ("Error: expected sha256 [1 2 3], got [4 5 6]", "RestoreFailed"),
    ("/usr/local/lib/capn/bootstrap.sh: 154: etcdutl: not found", "RestoreFailed"),
    ("Error: unknown flag: --no-such-flag", "InvalidArgument"),
    ("2026-11-23T13:00:00.123456789Z stderr F flag provided but not defined: -no-such-flag", "InvalidArgument"),
    (
        'E1123 13:35:22.8 19324 run.go:72] "command failed" err="failed to parse kubelet flag: unknown flag"',
        "InvalidArgument",
    ),
    ('error: strict decoding error: unknown field "spec.foo"', "InvalidConfiguration"),
    ("\t[ERROR ImagePull]: failed to pull image registry.k8s.io/pause:3.10", "ImageMissing"),
    ("\t[ERROR Port-6443]: Port 6443 is in use", "PortInUse"),
    ("\t[ERROR NumCPU]: the number of available CPUs 1 is less than the required 2", "TooFewCPUs"),
    ("\t[ERROR Mem]: the system RAM (900 MB) is less than the minimum 1700 MB", "TooLittleMemory"),
    ("\t[ERROR Swap]: running with swap on is not supported", "SwapEnabled"),
    ('could not find a JWS signature in the cluster-info ConfigMap for token ID "abcdef"', "TokenExpired"),
    (
        'cluster CA found in cluster-info ConfigMap is invalid: none of the public keys "x" are pinned',
        "CertificateMismatch",
    ),
    ("x509: certificate has expired or is not yet valid: current time is before", "CertificateMismatch"),
    ("tls: certificate is not yet valid", "ClockSkew"),
    ('a Node with name "demo-pool-0" and status "Ready" already exists in the cluster', "NodeNameTaken"),
    ("error: no network: no interface got an address (DHCP) within 300 s", "NetworkUnavailable"),
    ("dial tcp: lookup x: no such host", "NetworkUnavailable"),
    ("error: containerd does not answer after 300 s", "RuntimeUnavailable"),
    ("[kubelet-check] The kubelet is not healthy after 4m0.000509985s", "KubeletUnhealthy"),
    ("dial tcp 10.89.0.10:6443: connect: connection refused", "Timeout"),
    ("error: kube-scheduler does not start; the end of its log:", "ComponentUnhealthy"),
    ("error: cloud-init did not write /etc/capn/kubeadm.yaml", "CloudInitFailed"),
    ("\t[ERROR SystemVerification]: missing required cgroups: memory", "PreflightFailed"),
    ("something that nobody foresaw", "BootstrapFailed"),
]


def fail(tail: str, stage: str = "kubeadm/preflight") -> Report:
    return Report(stage, ReportState.FAILED, 7, tail)


@pytest.mark.parametrize(("line", "reason"), CASES)
def test_each_kind_of_failure_is_told_apart(line: str, reason: str) -> None:
    diagnosis = diagnose(fail(f"[init] Using Kubernetes version: v1.37.2\n{line}\n"))
    assert diagnosis.reason == reason
    assert "kubeadm/preflight" in diagnosis.message
    assert diagnosis.message.endswith((".", ")."))
    assert line.strip().split(" ")[-1].rstrip(".") in diagnosis.message or "<time>" in diagnosis.message


def test_every_rule_has_a_case() -> None:
    assert {rule.reason for rule in _RULES} == {reason for _, reason in CASES} - {"BootstrapFailed"}


def test_the_special_cause_wins_over_the_general() -> None:
    tail = "error: deadline exceeded\n[ERROR Port-10250]: Port 10250 is in use\n"
    assert diagnose(fail(tail)).reason == "PortInUse"


def test_messages_do_not_change_with_time() -> None:
    first = 'E1123 13:35:22.839453   19324 run.go:72] "command failed" err="waited 4m0.1s at 0xc0001"'
    second = 'E1124 01:02:03.000001     7 run.go:72] "command failed" err="waited 31.5s at 0xdead"'
    assert diagnose(fail(first)) == diagnose(fail(second))


def test_an_unknown_failure_shows_its_failing_line() -> None:
    message = diagnose(fail("all is well\nerror: the moon is down\nTo see the stack trace\n")).message
    assert message.startswith("Bootstrap failed in stage kubeadm/preflight: error: the moon is down. See status.")


def test_an_unknown_failure_without_a_failing_line_shows_the_last() -> None:
    assert ": bye. See" in diagnose(fail("hello\nbye\n")).message


def test_an_empty_tail_is_said() -> None:
    assert diagnose(fail("")).message.startswith("Bootstrap failed in stage kubeadm/preflight without a message. ")


@given(st.text(max_size=3000))
def test_any_tail_gives_a_short_message(tail: str) -> None:
    diagnosis = diagnose(fail(tail))
    assert diagnosis.reason.isalnum()
    assert len(diagnosis.message) < 900


def test_an_attempt_that_is_made_again_is_quoted_as_a_failure_is() -> None:
    tail = "[etcd] Announced new etcd member\nerror: error execution phase etcd-join: context deadline exceeded\nbye"
    said = describe_retry(fail(tail, "kubeadm/etcd"))
    assert said == (
        "Bootstrap failed in stage kubeadm/etcd: error: error execution phase etcd-join: context deadline exceeded."
        " The guest tries again."
    )


def test_what_etcds_client_logs_hides_no_error() -> None:
    noise = '{"level":"warn","logger":"etcd-client","call":"MemberList","error":"rpc error: context deadline exceeded"}'
    told = diagnose(fail(f"{noise}\n{noise}\nerror: error execution phase etcd-join: etcdserver: request timed out"))
    assert told.reason == "Timeout"
    assert "error: error execution phase etcd-join" in told.message
    assert "MemberList" in diagnose(fail(noise)).message
