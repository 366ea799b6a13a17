"""`python -m capn.image build [version]`: make a node image without the rest of the command line."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from capn.errors import CapnError
from capn.image.build import ensure_image
from capn.parts.catalogue import DEFAULT_VERSION
from capn.parts.gobuild import GoBuildSource
from capn.settings import cache_dir


def _report(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is the command's output


def main() -> int:
    """Parse the command line and build; the exit status is 1 with a line on stderr if a step fails."""
    parser = argparse.ArgumentParser(prog="python -m capn.image")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build what is missing in the cache and print where it is")
    build.add_argument("version", nargs="?", default=DEFAULT_VERSION, help="Kubernetes version (default: %(default)s)")
    arguments = parser.parse_args()
    mirror = os.environ.get("CAPN_DEBIAN_MIRROR") or None
    try:
        image = asyncio.run(
            ensure_image(arguments.version, source=GoBuildSource(), cache=cache_dir(), report=_report, mirror=mirror)
        )
    except CapnError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    _report(str(image.disk.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
