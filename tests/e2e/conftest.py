"""What the stories share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from capn.dev.parent import Parent
from tests.conftest import REPO, Kubectl


@pytest.fixture(scope="session")
def account(kubectl: Kubectl, crds: list[str], parent: Parent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig with the rights of config/rbac and nothing else."""
    assert crds
    kubectl("apply", "-f", str(REPO / "config/default/namespace.yaml"))
    kubectl("apply", "-k", str(REPO / "config/rbac"))
    config = yaml.safe_load(parent.kubeconfig.read_text())
    token = kubectl("create", "token", "capn-controller", "-n", "capn-system", "--duration=6h").strip()
    config["users"][0]["user"] = {"token": token}
    path = tmp_path_factory.mktemp("account") / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def in_order(request: pytest.FixtureRequest) -> Iterator[None]:
    """A story has no second half without its first: what follows a failed test is not told."""
    module = request.node.parent
    earlier = getattr(module, "story_broken", None)
    if earlier:
        pytest.fail(f"not told: {earlier} failed before")
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        module.story_broken = request.node.name
