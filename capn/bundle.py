"""The manifests that are shipped with capn: CRDs and what `config/` holds of the controller.

Role: the one place that knows where they are, in a checkout or in an installed wheel. Must not: change them.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

from capn import names
from capn.errors import NotFoundError

_PACKAGE = Path(__file__).resolve().parent
# What a controller in a child is made of; its settings and its image are the child's own.
_CONTROLLER = (
    "config/default/namespace.yaml",
    "config/rbac/service_account.yaml",
    "config/rbac/role.yaml",
    "config/rbac/role_binding.yaml",
    "config/rbac/leader_election_role.yaml",
    "config/rbac/leader_election_role_binding.yaml",
    "config/nesting/component/child_role.yaml",
    "config/nesting/component/role.yaml",
    "config/nesting/component/role_binding.yaml",
    "config/manager/deployment.yaml",
)


def find_shipped(name: str) -> Path:
    """A file or directory of the checkout, or of the wheel, which has it under `_`. NotFoundError if it is missing."""
    for candidate in (_PACKAGE.parent / name, _PACKAGE / f"_{name}"):
        if candidate.exists():
            return candidate
    raise NotFoundError(f"{name} is missing: install capn from its wheel or run it from a complete checkout")


@functools.cache
def load_controller() -> tuple[dict[str, Any], ...]:
    """CRDs and the controller's manifests, in the order in which they are applied."""
    paths = [*sorted(find_shipped("crds").glob("*.yaml")), *map(find_shipped, _CONTROLLER)]
    found = [document for path in paths for document in yaml.safe_load_all(path.read_text()) if document]
    for document in found:
        if document["kind"] in {"Deployment", "ServiceAccount", "Role", "RoleBinding"}:
            document["metadata"].setdefault("namespace", names.SYSTEM_NAMESPACE)
    return tuple(found)
