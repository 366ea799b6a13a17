from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from capn.build.yaml_text import build_yaml, build_yaml_documents, refuse_control_characters
from capn.errors import InvalidSpecError

CLEAN_TEXT = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029\ufeff"), max_size=60
)
LINES = st.lists(CLEAN_TEXT, max_size=5).map("\n".join)


@given(st.dictionaries(CLEAN_TEXT, LINES | st.integers() | st.booleans() | st.none(), max_size=5))
def test_whatever_goes_in_comes_out(value: dict[str, object]) -> None:
    assert yaml.safe_load(build_yaml(value)) == value


@given(CLEAN_TEXT)
def test_only_plain_text_stays_unquoted(text: str) -> None:
    written = build_yaml({"k": text}).removeprefix("k: ").rstrip("\n")
    assert written[0] == '"' or written == text


AMBIGUOUS = [
    "y",
    "No",
    "1e3",
    "0o17",
    "0x1f",
    "1_000",
    "12:30",
    "~",
    "null",
    "NaN",
    "",
    " x",
    "x: y",
    "- x",
    "*a",
    "&a",
    "!!x",
    "#",
    "2026-11-23",
    "<<",
    "=",
    "v1.37 # x",
]


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_text_that_some_parser_takes_for_another_type_is_quoted(text: str) -> None:
    assert build_yaml({"k": text}) == f'k: "{text}"\n'


def test_repeated_values_are_written_out() -> None:
    shared = {"a": "b"}
    assert build_yaml([shared, shared]) == "- a: b\n- a: b\n"


def test_documents_are_separated() -> None:
    assert build_yaml_documents([{"a": 1}, {"b": 2}]) == "a: 1\n---\nb: 2\n"


@pytest.mark.parametrize("bad", ["\x00", "\x1b[2J", "\r", "\x85", "\u2028", "\ud800", "\ufeff", "\x7f"])
def test_control_characters_are_refused_with_their_path(bad: str) -> None:
    with pytest.raises(InvalidSpecError, match=r"^spec\.list\[1\]\.name: holds control characters"):
        build_yaml({"spec": {"list": [{}, {"name": f"x{bad}"}]}})


def test_control_characters_in_keys_and_bare_text_are_refused() -> None:
    with pytest.raises(InvalidSpecError, match="holds control characters"):
        build_yaml({"a\nb": 1})
    with pytest.raises(InvalidSpecError, match=r"^text: "):
        refuse_control_characters("a\nb", multiline=False)
    refuse_control_characters(("a\nb", 1, None), multiline=True)
