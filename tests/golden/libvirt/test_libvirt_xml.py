"""libvirt XML as files to read and to review. `make golden` rewrites them."""

from __future__ import annotations

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.golden.snapshots import XmlFile
from tests.unit.build.libvirt_samples import SAMPLES


@pytest.mark.parametrize("name", SAMPLES)
def test_xml(snapshot: SnapshotAssertion, name: str) -> None:
    assert SAMPLES[name][1] == snapshot.use_extension(XmlFile)
