"""One readable file a case instead of one file for all."""

from __future__ import annotations

from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode


class TextFile(SingleFileSnapshotExtension):
    """The text itself, not its repr."""

    _write_mode = WriteMode.TEXT

    def serialize(self, data: object, **_: object) -> str:
        """What is written."""
        return str(data)


class YamlFile(TextFile):
    """A .yaml file."""

    file_extension = "yaml"


class XmlFile(TextFile):
    """An .xml file."""

    file_extension = "xml"
