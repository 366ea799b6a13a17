"""libvirt XML as files to read and to review. `make golden` rewrites them."""

from __future__ import annotations

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from tests.unit.build.libvirt_samples import SAMPLES


class XmlFile(SingleFileSnapshotExtension):
    """One readable .xml file a case."""

    _write_mode = WriteMode.TEXT
    file_extension = "xml"

    def serialize(self, data: object, **_: object) -> str:
        """The text itself, not its repr."""
        return str(data)


@pytest.mark.parametrize("name", SAMPLES)
def test_xml(snapshot: SnapshotAssertion, name: str) -> None:
    assert SAMPLES[name][1] == snapshot.use_extension(XmlFile)
