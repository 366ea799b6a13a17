"""Finds the source of a pinned Go module in Go's own module cache, fetching it where it is missing.

Role: for files that come with a module and are not Go. Output: a path, read-only by Go's convention. Must not: change
anything there, or take another version than the `go.mod` says.
"""

from __future__ import annotations

import json
from pathlib import Path

from capn.errors import TerminalError
from capn.parts.process import run

REASON = "PartBuildFailed"


async def find_module(path: str, *, pinned_by: Path) -> Path:
    """Directory of the module `path` in the version that the `go.mod` in `pinned_by` requires.

    Raises TerminalError with Go's last lines, NotFoundError without Go.
    """
    # `go mod download` would also do, but `go list -m` after it tells of replacements as well.
    environment = {"GOWORK": "off", "GOFLAGS": "-mod=readonly"}
    downloaded = await run(["go", "mod", "download", path], cwd=pinned_by, env=environment)
    downloaded.require_success(f"fetching the module {path}", reason=REASON)
    listed = await run(["go", "list", "-m", "-json", path], cwd=pinned_by, env=environment, tail_lines=200)
    listed.require_success(f"finding the module {path}", reason=REASON)
    try:
        return Path(json.loads("\n".join(listed.tail))["Dir"])
    except (ValueError, KeyError) as error:
        raise TerminalError(f"`go list -m -json {path}` named no directory: {error!r}", reason=REASON) from error
