"""Where a cluster's objects go: namespace and names.

Role: pure. Inputs: references and the endpoint's namespace setting. Outputs: names that fit Kubernetes' limits. Must
not: do I/O, or read anything from a name (stamps say whose an object is).
"""

from __future__ import annotations

from dataclasses import dataclass

from capn import names
from capn.providers.base import ClusterRef, MachineRef

_LIMIT = 63


@dataclass(frozen=True, slots=True)
class Place:
    """`namespace` None: each object goes where its NestedCluster is; else all of them go into that one."""

    namespace: str | None

    def of(self, ref: ClusterRef) -> str:
        """The namespace of a cluster's objects."""
        return self.namespace or ref.namespace

    def machine(self, ref: MachineRef) -> str:
        """Name of a machine's VM: the machine's own, with a mark where namespaces share one."""
        return self._name(ref.name, ref.uid)

    def seed(self, ref: MachineRef) -> str:
        """Name of the Secret with a machine's bootstrap data for its seed disk."""
        return f"{self.machine(ref)}-seed"

    def volume(self, ref: MachineRef) -> str:
        """Name of a machine's volume: always with a mark, so a successor never finds its predecessor's disk."""
        return f"{names.build_marked_name(ref.name, ref.uid, limit=_LIMIT - len('-root'))}-root"

    def node_service(self, ref: MachineRef) -> str:
        """Name of the Service whose address is the machine's node address (a letter first: RFC 1035)."""
        return self._name(f"node-{ref.name}", ref.uid)

    def api_service(self, ref: ClusterRef) -> str:
        """Name of the Service in front of the cluster's API servers."""
        return self._name(f"api-{ref.name}", ref.uid)

    def _name(self, name: str, uid: str) -> str:
        if self.namespace is None and len(name) <= _LIMIT:
            return name
        return names.build_marked_name(name, uid, limit=_LIMIT)
