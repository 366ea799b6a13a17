"""When kubeadm's certificates on a control plane end: what its guest put on the node, and what to say of it.

Role: pure. Inputs: nodes (a child's, so hostile), the time; outputs: fields of a status, a message. The guest renews by
itself from the last third of a year on (`guest/certificates.sh`), so whatever is near its end has failed for months.
Must not: raise for whatever a node says.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from capn import names
from capn.api.machine import LeafCertificates
from capn.build.report import clean_tail

NOTICE = timedelta(days=30)
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_MAX_FAILURE = 512


def read_leaf_certificates(node: Mapping[str, Any]) -> LeafCertificates | None:
    """What the node's annotations say; None when they say nothing that can be read."""
    annotations = node["metadata"].get("annotations") or {}
    end = _parse(annotations.get(names.ANNOTATION_CERTIFICATES_END))
    failure = annotations.get(names.ANNOTATION_CERTIFICATES_FAILURE)
    text = " ".join(clean_tail(failure).split())[:_MAX_FAILURE] if isinstance(failure, str) else ""
    if end is None and not text:
        return None
    return LeafCertificates(end=None if end is None else end.strftime(_FORMAT), failure=text or None)


def find_ending_leaf(machines: Mapping[str, LeafCertificates | None], *, now: datetime) -> str | None:
    """What to say of the control plane (by name) whose certificates end first, when that is within a month."""
    known = [(end, name) for name, said in machines.items() if said is not None and (end := _parse(said.end))]
    if not known or min(known)[0] - now > NOTICE:
        return None
    end, name = min(known)
    said = machines[name]
    why = f": {said.failure}" if said is not None and said.failure else ""
    return (
        f"kubeadm's certificates on {name} end on {end:%Y-%m-%d} and the machine has not renewed them{why}; renew them"
        " as docs/certificates.md says, or replace the machine"
    )


def _parse(value: object) -> datetime | None:
    try:
        return datetime.strptime(value, _FORMAT).replace(tzinfo=UTC) if isinstance(value, str) else None
    except ValueError:
        return None
