"""A cluster that a child claims: its network and endpoint are made here, everything else is the child's.

Role: which phases and conditions such a cluster has. Must not: read a Secret of it, there is none here.
"""

from __future__ import annotations

from capn.api.conditions import ClusterCondition
from capn.controllers.cluster.infrastructure import reconcile_infrastructure
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Phase

PHASES: tuple[Phase[ClusterScope], ...] = (Phase(ClusterCondition.INFRASTRUCTURE_READY, reconcile_infrastructure),)
CONDITIONS = (ClusterCondition.INFRASTRUCTURE_READY,)
