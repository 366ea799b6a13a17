"""`python -m capn.parts build [names...]`: make parts without the rest of the command line."""

from __future__ import annotations

import argparse
import asyncio
import sys

from capn.errors import CapnError
from capn.parts.catalogue import DEFAULT_VERSION, select_parts
from capn.parts.ensure import ensure_parts
from capn.parts.gobuild import GoBuildSource
from capn.settings import cache_dir


def _report(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is the command's output


def main() -> int:
    """Parse the command line and build; the exit status is 1 with a line on stderr if a part fails."""
    parser = argparse.ArgumentParser(prog="python -m capn.parts")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build what is missing in the cache and print where it is")
    build.add_argument("--version", default=DEFAULT_VERSION, help="Kubernetes version (default: %(default)s)")
    build.add_argument("names", nargs="*", help="parts to build (default: all)")
    arguments = parser.parse_args()
    try:
        parts = select_parts(arguments.names, arguments.version)
        paths = asyncio.run(ensure_parts(parts, source=GoBuildSource(), cache=cache_dir(), report=_report))
    except CapnError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    for name, path in paths.items():
        _report(f"{name}\t{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
