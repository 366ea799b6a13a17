from __future__ import annotations

import os

import pytest

from bench.counting import Call, Cpu, parse_cpu, parse_machine_cpu, parse_requests


def build_total(  # noqa: PLR0913 - labels of one line
    code: int, verb: str, resource: str, value: int, *, sub: str = "", group: str = ""
) -> str:
    labels = f'code="{code}",component="apiserver",dry_run="",group="{group}",resource="{resource}",scope="resource"'
    return f'apiserver_request_total{{{labels},subresource="{sub}",verb="{verb}",version="v1"}} {value}\n'


def build_watches(resource: str, value: int) -> str:
    labels = f'component="apiserver",group="capn.dev",resource="{resource}",scope="cluster",subresource="",verb="WATCH"'
    return f'apiserver_longrunning_requests{{{labels},version="v1alpha1"}} {value}\n'


BEFORE = build_total(201, "POST", "secrets", 10) + build_watches("nestedmachines", 1)
AFTER = "".join(
    [
        "# HELP apiserver_request_total Counter of apiserver requests.\n",
        build_total(201, "POST", "secrets", 17),
        build_total(409, "POST", "secrets", 2),
        build_total(200, "APPLY", "nestedclusters", 3, sub="status", group="capn.dev"),
        build_total(200, "LIST", "nestedclusters", 1, group="capn.dev"),
        build_total(404, "GET", "secrets", 1),
        build_total(201, "POST", "events", 5, group="events.k8s.io"),
        build_total(200, "PUT", "leases", 9, group="coordination.k8s.io"),
        build_total(200, "GET", "", 4, sub="/metrics"),
        build_watches("nestedmachines", 2),
    ]
)


def test_what_came_between_two_looks() -> None:
    made = parse_requests(AFTER).since(parse_requests(BEFORE))
    assert made.writes() == {"APPLY nestedclusters/status": 3, "POST secrets": 7, "POST secrets (refused)": 2}
    assert made.writes(events=True) == {"POST events": 5}
    assert made.reads("GET") == {"GET secrets (refused)": 1}
    assert made.reads("LIST") == {"LIST nestedclusters": 1}
    assert made.watches["nestedmachines"] == 2


def test_what_does_not_change_is_not_there() -> None:
    assert parse_requests(AFTER).since(parse_requests(AFTER)).ended == {}


def test_a_refused_call_is_named_so() -> None:
    assert str(Call("POST", "secrets", refused=True)) == "POST secrets (refused)"


def test_cpu_of_a_process_with_a_name_full_of_traps() -> None:
    fields = ["S", *["0"] * 10, "250", "50", *["0"] * 30]
    stat = f"42 (a) b (c) {' '.join(fields)}"
    assert parse_cpu(stat) == pytest.approx(300 / os.sysconf("SC_CLK_TCK"))


def test_idle_and_stolen_time_is_not_busy() -> None:
    stat = "cpu  100 20 30 99999 88888 4 6 77777 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n"
    assert parse_machine_cpu(stat) == pytest.approx(160 / os.sysconf("SC_CLK_TCK"))


def test_cpu_since_counts_every_part() -> None:
    before = Cpu(controller=1, api_server=2, etcd=3, harness=4, machine=20)
    after = Cpu(controller=2, api_server=4, etcd=6, harness=8, machine=40)
    assert after.since(before) == Cpu(controller=1, api_server=2, etcd=3, harness=4, machine=20)
    assert after.since(before).ours == 10
