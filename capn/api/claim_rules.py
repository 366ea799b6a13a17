"""What a claim may not have: a cluster that stands in the parent for one in a child, which has all else itself.

Role: rules of NestedCluster's spec, as those in `capn.api.crd_rules`. What would be ignored is refused, and the message
says where it belongs. Must not: import the models, do I/O.
"""

from __future__ import annotations

from capn.api.rule import Rule

CLAIM_RULES = (
    Rule(
        "!has(self.claim) || !has(self.nesting) || !self.nesting.enabled",
        "a claim has no nesting of its own: the cluster that it is made for has it, in the child",
        holds=lambda spec: spec.claim is None or not spec.nests,
        field=".nesting",
    ),
    Rule(
        "!has(self.claim) || !has(self.powerState) || self.powerState == 'On'",
        "a claim is switched off from the cluster that it is made for, in the child",
        holds=lambda spec: spec.claim is None or spec.power_state == "On",
        field=".powerState",
    ),
    Rule(
        "!has(self.claim) || !has(self.restoreFrom)",
        "a claim is restored by the child that it is made for",
        holds=lambda spec: spec.claim is None or spec.restore_from is None,
        field=".restoreFrom",
    ),
    Rule(
        "!has(self.claim) || !has(self.backup)",
        "a claim has no etcd of its own: set the backup of the cluster that it is made for, in the child",
        holds=lambda spec: spec.claim is None or spec.backup is None,
        field=".backup",
    ),
    Rule(
        "!has(self.claim) || !has(self.addons) || size(self.addons) == 0",
        "a claim takes no add-ons: set those of the cluster that it is made for, in the child",
        holds=lambda spec: spec.claim is None or not spec.addons,
        field=".addons",
    ),
)
