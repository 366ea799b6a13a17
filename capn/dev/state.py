"""Where a development environment keeps its files: one directory a name.

Role: paths only. Inputs: a name, `XDG_STATE_HOME`. Must not: create anything.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from capn.errors import InvalidSpecError

DEFAULT_NAME = "demo"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?")


def state_home() -> Path:
    """$XDG_STATE_HOME/capn, or ~/.local/state/capn."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "capn"


@dataclass(frozen=True, slots=True)
class DevState:
    """Paths of the environment `name`."""

    name: str
    directory: Path

    @classmethod
    def of(cls, name: str) -> DevState:
        """The environment of that name. InvalidSpecError when it cannot be a directory's and a host's name."""
        if not _NAME.fullmatch(name):
            raise InvalidSpecError("--name", f"{name!r} must be 1 to 20 of a-z, 0-9 and '-', no '-' at either end")
        return cls(name, state_home() / name)

    @property
    def parent(self) -> Path:
        """The embedded parent's directory."""
        return self.directory / "parent"

    @property
    def hypervisor(self) -> Path:
        """The private hypervisor's directory."""
        return self.directory / "hypervisor"

    @property
    def node(self) -> Path:
        """The parent's node; there is none without this directory."""
        return self.directory / "node"

    @property
    def controller(self) -> Path:
        """Pid file and log of the controller."""
        return self.directory / "controller"

    @property
    def settings(self) -> Path:
        """The controller's settings."""
        return self.directory / "settings.yaml"

    @property
    def nesting(self) -> Path:
        """There when children may have clusters of their own."""
        return self.directory / "nesting"

    @property
    def commands(self) -> Path:
        """`capn` and `kubectl` as this environment uses them."""
        return self.directory / "bin"

    @property
    def port_file(self) -> Path:
        """Port of the controller's health endpoint."""
        return self.controller / "port"

    def child_kubeconfig(self, cluster: str) -> Path:
        """Where the kubeconfig of a child is written for people."""
        return self.directory / f"{cluster}.kubeconfig"
