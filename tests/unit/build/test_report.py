from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from capn.build.report import (
    MAX_LINE,
    MAX_STAGE,
    MAX_TAIL,
    Report,
    ReportParser,
    ReportState,
    clean_tail,
    encode_report,
)

REPORTS = st.builds(
    Report,
    stage=st.from_regex(r"[A-Za-z0-9/_.-]{1,40}", fullmatch=True),
    state=st.sampled_from(ReportState),
    seq=st.integers(0, 2**31 - 1),
    tail=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=200),
)
DONE = Report("done", ReportState.SUCCEEDED, 12)


def encode_payload(payload: bytes) -> bytes:
    return f"CAPN1 {hashlib.sha256(payload).hexdigest()[:12]} {base64.b64encode(payload).decode()}\n".encode()


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    chunks = []
    for size in sizes:
        chunks.append(data[:size])
        data = data[size:]
    return [*chunks, data]


@given(st.lists(REPORTS, max_size=6), st.lists(st.integers(0, 300), max_size=30))
def test_reports_survive_any_cutting(reports: list[Report], sizes: list[int]) -> None:
    parser = ReportParser()
    stream = b"".join(map(encode_report, reports))
    assert [found for chunk in cut(stream, sizes) for found in parser.feed(chunk)] == reports


@given(REPORTS, st.lists(st.binary(max_size=200), max_size=8))
def test_noise_between_reports_does_no_harm(report: Report, noise: list[bytes]) -> None:
    parser = ReportParser()
    found = []
    for junk in noise:
        found += parser.feed(junk)
        found += parser.feed(encode_report(report))
    assert found == [report] * len(noise)


@given(st.binary(max_size=400), st.lists(st.integers(0, 100), max_size=10))
def test_noise_alone_yields_nothing(noise: bytes, sizes: list[int]) -> None:
    parser = ReportParser()
    assert [found for chunk in cut(noise + b"\n", sizes) for found in parser.feed(chunk)] == []


@given(REPORTS, st.data())
def test_a_damaged_line_never_yields_a_wrong_report(report: Report, data: st.DataObject) -> None:
    line = bytearray(encode_report(report))
    for _ in range(data.draw(st.integers(1, 3))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    assert set(ReportParser().feed(bytes(line) + b"\n")) <= {report}


@given(REPORTS, st.binary(min_size=1, max_size=40), st.integers(0, 200))
@example(report=DONE, junk=b"[   12.3] random: crng init done\r\n", at=30)
def test_a_message_inside_the_line_never_yields_a_wrong_report(report: Report, junk: bytes, at: int) -> None:
    line = encode_report(report)
    assert set(ReportParser().feed(line[:at] + junk + line[at:] + b"\n")) <= {report}


def test_a_line_is_found_behind_a_prompt_and_with_terminal_line_ends() -> None:
    line = encode_report(DONE).strip()
    assert ReportParser().feed(b"[   12.3] systemd[1]: " + line + b"\r\n") == [DONE]


def test_a_well_formed_payload_with_the_digest_of_another_is_no_report() -> None:
    digest = encode_report(DONE).split()[1]
    other = encode_report(Report("done", ReportState.SUCCEEDED, 13)).split()[2]
    assert ReportParser().feed(b"CAPN1 " + digest + b" " + other + b"\n") == []


def test_memory_is_bounded() -> None:
    parser = ReportParser()
    for _ in range(1000):
        assert parser.feed(b"A" * 5000) == []
        assert len(parser._line) <= MAX_LINE
    assert parser.feed(b"\n" + encode_report(DONE)) == [DONE]


def test_the_longest_report_that_a_guest_makes_fits() -> None:
    report = Report("kubeadm/wait-control-plane", ReportState.FAILED, 99, '"\\' * 1450)
    assert len(encode_report(report)) <= MAX_LINE
    assert ReportParser().feed(encode_report(report)) == [report]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"x",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 5000,
        b"{}",
        b'{"stage":1,"state":"running","seq":1,"tail":""}',
        b'{"stage":"a","state":"dancing","seq":1,"tail":""}',
        b'{"stage":"a","state":["running"],"seq":1,"tail":""}',
        b'{"stage":"a","state":"running","seq":-1,"tail":""}',
        b'{"stage":"a","state":"running","seq":true,"tail":""}',
        b'{"stage":"a","state":"running","seq":1e99,"tail":""}',
        b'{"stage":"a","state":"running","seq":99999999999,"tail":""}',
        b'{"stage":"a","state":"running","seq":1,"tail":["x"]}',
        b'{"stage":"a","state":"running","seq":' + b"9" * 5000 + b',"tail":""}',
    ],
)
def test_a_payload_of_another_shape_is_no_report(payload: bytes) -> None:
    assert ReportParser().feed(encode_payload(payload)) == []


def test_a_missing_tail_is_empty() -> None:
    assert ReportParser().feed(encode_payload(b'{"stage":"a","state":"running","seq":1}')) == [
        Report("a", ReportState.RUNNING, 1, "")
    ]


def test_bad_base64_padding_is_no_report() -> None:
    assert ReportParser().feed(b"CAPN1 000000000000 AAAAA\n") == []


@given(st.text(max_size=300), st.text(max_size=300))
def test_fields_are_cleaned_and_cut(stage: str, tail: str) -> None:
    payload = json.dumps({"stage": stage, "state": "failed", "seq": 1, "tail": tail * 20}).encode()
    for report in ReportParser().feed(encode_payload(payload)):
        assert 1 <= len(report.stage) <= MAX_STAGE
        assert report.stage.isascii()
        assert " " not in report.stage
        assert len(report.tail) <= MAX_TAIL
        assert all(character == "\n" or ord(character) >= 32 for character in report.tail)
        report.tail.encode()


def test_escape_sequences_are_removed_whole() -> None:
    assert clean_tail("\x1b[31mred\x1b[0m \x1b]0;title\x07x\x1b(By\x1b") == "red xy"
    assert clean_tail("a\u202eb\x07\tc\n\u200b\ud800d") == "a b  c\n  d"
