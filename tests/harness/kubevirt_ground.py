"""A parent with a node and real KubeVirt, for tests: everything from the cache, nothing left at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from capn.dev.kubectl import Kubectl as DevKubectl
from capn.dev.kubevirt import KubeVirt
from capn.dev.node import Node
from capn.dev.node_parent import running_node
from capn.dev.parent import Parent
from capn.dev.supplies import choose_source
from capn.image.containerdisk import build_containerdisk
from capn.image.kubevirt import find_kubevirt_images
from capn.providers.images import NodeImage
from capn.settings import cache_dir
from tests.conftest import REPO, Kubectl


@dataclass(frozen=True)
class Ground:
    """What runs. `directory` is the tests' own."""

    parent: Parent
    node: Node
    kubectl: Kubectl
    runner: asyncio.Runner
    directory: Path

    def load(self, image: NodeImage, *, cache: Path | None = None) -> None:
        """Make a node image known to the node as the containerDisk of its version."""
        archive = self.runner.run(build_containerdisk(image, cache=cache or self.directory / "cache", report=print))
        self.runner.run(self.node.import_images(archive, print))

    def make_account(self, name: str, *, volumes: bool = False) -> Path:
        """A kubeconfig with the rights of config/rbac and config/kubevirt (and role_volumes.yaml) and no others."""
        self.kubectl("apply", "-f", str(REPO / "config/default/namespace.yaml"))
        self.kubectl("apply", "-k", str(REPO / "config/rbac"))
        for part in ("role.yaml", "role_binding.yaml"):
            self.kubectl("apply", "-f", str(REPO / "config/kubevirt" / part))
        optional = str(REPO / "config/kubevirt/role_volumes.yaml")
        self.kubectl(*(("apply",) if volumes else ("delete", "--ignore-not-found")), "-f", optional)
        config = yaml.safe_load(self.parent.kubeconfig.read_text())
        token = self.kubectl("create", "token", "capn-controller", "-n", "capn-system", "--duration=6h").strip()
        config["users"][0]["user"] = {"token": token}
        path = self.directory / f"{name}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path


@contextmanager
def kubevirt_ground(binaries: Mapping[str, Path], directory: Path) -> Iterator[Ground]:
    """Start all of it; skips, saying why, where KubeVirt is not in the cache."""
    found = find_kubevirt_images(source=choose_source(), cache=cache_dir())
    if found is None:
        pytest.skip("KubeVirt takes minutes to build and is built when asked for: `make kubevirt`")
    images, parts = found
    entered = running_node(directory / "one", binaries, print, audit=True)
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        parent, node = runner.run(entered.__aenter__())
        try:
            kubevirt = KubeVirt(DevKubectl(binaries["kubectl"], parent.kubeconfig), parts, images)
            runner.run(kubevirt.install(node, print))
            yield Ground(parent, node, Kubectl(binaries["kubectl"], parent.kubeconfig), runner, directory)
        finally:
            runner.run(entered.__aexit__(None, None, None))
    assert node.leaks() == []
