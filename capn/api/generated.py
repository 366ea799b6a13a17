"""Writes generated files, or says how they differ from what the code would write.

Role: the one place of `capn.api` that touches files; used by the thin mains of `capn.api.crd` and `capn.api.docs`.
Inputs: path -> text. Must not: know what the text is.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def generate(files: Mapping[Path, str], *, arguments: Sequence[str]) -> int:
    """Write each file below --root, or with --check print a diff and return 1 when one differs."""
    parser = argparse.ArgumentParser(description="Generate files from the models in capn/api.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail with a diff when a file is out of date"
    )
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the repository (default: the current directory)")
    options = parser.parse_args(arguments)
    if options.check:
        return check_files(options.root, files)
    for path, text in files.items():
        target = options.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return 0


def check_files(root: Path, files: Mapping[Path, str]) -> int:
    """0 when every file is as generated; else 1, with the differences on stderr."""
    status = 0
    for path, text in files.items():
        target = root / path
        present = target.read_text() if target.is_file() else ""
        if present == text:
            continue
        status = 1
        lines = difflib.unified_diff(
            present.splitlines(keepends=True), text.splitlines(keepends=True), f"{path} (here)", f"{path} (generated)"
        )
        sys.stderr.writelines([*lines, f"{path} is out of date: run `make generate`\n"])
    return status
