"""`spec.addons` and `status.addons` of a NestedCluster: manifests that capn applies to the child and keeps there.

Role: pure models, used by `capn.api.cluster`. Must not: do I/O, or know what a manifest is.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from capn.api import crd_rules as rules
from capn.api.meta import Model
from capn.api.rule import Rule


class ContentRef(Model):
    """An object in the NestedCluster's own namespace; every key of its data holds YAML manifests."""

    name: Annotated[str, Field(min_length=1, max_length=253), rules.OBJECT_NAME] = Field(description="Its name.")


class Addon(Model):
    """Manifests from one ConfigMap or Secret."""

    RULES: ClassVar[tuple[Rule, ...]] = rules.ADDON_RULES

    name: Annotated[str, Field(max_length=40), rules.LABEL_NAME] = Field(description="Name of the add-on; unique.")
    config_map_ref: ContentRef | None = Field(default=None, description="The ConfigMap with the manifests.")
    secret_ref: ContentRef | None = Field(
        default=None, description="The Secret with the manifests; its type is capn.dev/addon."
    )


class AddonStatus(Model):
    """What became of one add-on."""

    name: str = Field(max_length=63, description="Name of the add-on.")
    ready: bool = Field(default=False, description="True when all of it is in the child, as its content says.")
    applied: int = Field(default=0, description="Objects that are in the child for it.")
    message: str = Field(default="", max_length=1024, description="What is lacking, and what to do.")
