"""How each contestant is started: always a process of its own, told only a kubeconfig.

Role: argv and files. Inputs: a directory and a kubeconfig; outputs: command lines. Must not: run them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

FLOOR = "floor"
KOPF = "kopf"
CAPN = "capn"
# capn again, in a process that can restart its manager without losing the simulated machines: for B3 alone.
CAPN_HOST = "capn-host"
NAMES = (FLOOR, KOPF, CAPN)
REPO = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Contestant:
    """One program that makes NestedClusters Ready."""

    name: str
    argv: tuple[str, ...]


def build_contestant(name: str, *, directory: Path, kubeconfig: Path) -> Contestant:
    """The named contestant for this parent. KeyError for an unknown name."""
    settings = directory / "settings.yaml"
    argv = {
        FLOOR: ("-m", "bench.floor", str(kubeconfig)),
        KOPF: ("-m", "bench.kopf_operator", str(kubeconfig)),
        CAPN: ("-m", "capn", "run", "--kubeconfig", str(kubeconfig), "--settings", str(settings)),
        CAPN_HOST: ("-m", "bench.capn_host", str(kubeconfig), str(settings)),
    }[name]
    if name in {CAPN, CAPN_HOST}:
        settings.write_text(yaml.safe_dump(build_settings()))
    return Contestant(name, (sys.executable, *argv))


def build_settings() -> dict[str, object]:
    """Settings for capn: simulated machines that boot at once; no Lease, so that only the job's writes are counted."""
    return {
        "endpoints": {"memory": {"bench": {"kind": "memory", "boot_s": 0}}},
        "leader_elect": False,
        "port": 0,
        "log_level": "warning",
    }
