"""The one YAML serialiser for everything that leaves capn as text (kubeadm config, cloud-config, kubeconfig).

Role: JSON-shaped values in, YAML out that PyYAML (cloud-init) and Go (kubeadm, client-go) read back as the same values.
Must not: build YAML by string formatting, which is how values turn into structure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from capn.errors import InvalidSpecError

# PyYAML resolves YAML 1.1; Go's parser reads more words as booleans and numbers (`y`, `1e3`, `0o7`). So only text that
# no parser takes for anything else stays plain, and all other text is quoted.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./@-]*(?: [A-Za-z0-9_./@-]+)*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf", "infinity"})
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff]")
_CONTROL_OR_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff]")
_WIDTH = 1_000_000  # never fold a line: diffs stay readable and no parser has to unfold


class _Dumper(yaml.CSafeDumper):
    """Quotes all that is not plainly text; multi-line text becomes a literal block."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ANN401 - signature of PyYAML
        """Never write anchors: each value stands where it is used."""
        del data
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    if "\n" in text:
        style: str | None = "|"
    elif _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        style = None
    else:
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def build_yaml(document: Any) -> str:  # noqa: ANN401 - any JSON-shaped value
    """One YAML document for a JSON-shaped value. InvalidSpecError names the path of text with control characters."""
    refuse_control_characters(document, multiline=True)
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=_WIDTH)
    return text


def build_yaml_documents(documents: Iterable[Any]) -> str:
    """Several documents, separated by `---`."""
    return "---\n".join(build_yaml(document) for document in documents)


def refuse_control_characters(value: Any, *, multiline: bool, path: str = "") -> None:  # noqa: ANN401
    """InvalidSpecError, with its path, if any text holds control characters (or, unless `multiline`, a line break)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            refuse_control_characters(str(key), multiline=False, path=f"{path}.{key!r}")
            refuse_control_characters(inner, multiline=multiline, path=f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            refuse_control_characters(inner, multiline=multiline, path=f"{path}[{index}]")
    elif isinstance(value, str) and (_CONTROL if multiline else _CONTROL_OR_LINE).search(value):
        raise InvalidSpecError(path or "text", "holds control characters; remove them")
