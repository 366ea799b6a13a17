"""What the commands of README and docs name exists: files, directories and objects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What kustomizations and the like say of themselves in comments is documentation, too.
SHIPPED = [path for path in sorted((ROOT / "config").rglob("*")) if path.is_file()]
CODE = re.compile(r"```.*?\n(.*?)```|`([^`\n]+)`", re.DOTALL)
OURS = re.compile(r"(?<![\w./~-])(?:config|crds|docs|hack|requirements|tests)/[\w./-]*")
APPLIED = re.compile(r"kubectl[^\n`|;&]*? -[kf]\s+([\w.~-]*/[\w./-]*)")
COMMAND = re.compile(r"kubectl [^\n`]*")


def _snippets() -> Iterator[tuple[str, str]]:
    """Where it is, and the text: code of pages, comments of what is shipped."""
    for page in PAGES:
        for block, inline in CODE.findall(page.read_text()):
            yield page.name, block or inline
    for file in SHIPPED:
        for comment in re.findall(r"#(.*)", file.read_text()):
            yield str(file.relative_to(ROOT)), comment


SNIPPETS = list(_snippets())


def _generated() -> set[str]:
    """Names of ConfigMaps that get a hash of their content on a cluster."""
    found = [yaml.safe_load(path.read_text()) for path in SHIPPED if path.stem.lower() == "kustomization"]
    return {one["name"] for content in found for one in content.get("configMapGenerator") or ()}


def test_every_path_that_is_named_exists() -> None:
    named = [(place, path.rstrip(".")) for place, text in SNIPPETS for path in OURS.findall(text)]
    named += [(place, path) for place, text in SNIPPETS for path in APPLIED.findall(text)]
    assert len(named) > 20
    assert [(place, path) for place, path in named if not (ROOT / path).exists()] == []


def test_what_is_applied_as_a_kustomization_is_one_and_what_as_a_directory_has_manifests() -> None:
    for _place, text in SNIPPETS:
        for flag, path in re.findall(r"kubectl apply[^\n`|;&]*? -([kf])\s+([\w.-]+/[\w./-]*)", text):
            files = [found.name.lower() for found in (ROOT / path).glob("*")]
            wanted = "kustomization" if flag == "k" else ".yaml"
            assert (ROOT / path).is_file() or any(wanted in name for name in files), path


def test_no_command_names_an_object_that_has_another_name_on_the_cluster() -> None:
    generated = _generated()
    assert generated
    commands = [command for _place, text in SNIPPETS for command in COMMAND.findall(text)]
    assert len(commands) > 10
    assert [command for command in commands if any(re.search(rf"\b{name}\b(?!-)", command) for name in generated)] == []
