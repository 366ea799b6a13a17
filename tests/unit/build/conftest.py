"""cloud-init's own JSON schema, out of Debian's package of cloud-init."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from capn.settings import cache_dir

# Test machines run virtual machines beside the tests: how long one example takes says nothing about the code.
settings.register_profile("capn", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("capn")

_SCHEMA = "usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json"


@pytest.fixture(scope="session")
def cloud_config_schema() -> dict[str, Any]:
    """The schema that the node image's cloud-init checks user-data with; fetched once, then kept in the cache."""
    directory = cache_dir() / "debian" / "cloud-init"
    if not (directory / _SCHEMA).is_file():
        fetch_cloud_init(directory)
    schema: dict[str, Any] = json.loads((directory / _SCHEMA).read_text())
    return schema


def fetch_cloud_init(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    download = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "cloud-init"]
    for attempt in ([download], [["apt-get", "update"], download]):
        results = [subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False) for argv in attempt]
        packages = sorted(directory.glob("cloud-init_*.deb"))
        if packages:
            subprocess.run(["dpkg-deb", "-x", packages[-1], directory], check=True)
            return
    pytest.fail(f"cannot download Debian's cloud-init package: {results[-1].stderr.strip()}")
