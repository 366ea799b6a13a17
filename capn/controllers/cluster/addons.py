"""Phase AddonsReady: what `spec.addons` names is in the child as its content says, and what it no longer names is gone.

Runs as soon as the child's API is initialized, since an add-on may be the network itself; nothing that it meets stops
another add-on or another phase. Per add-on: inventory of old and new objects, apply, prune, inventory as it is. A
settled one is compared by reads of the child alone. Must not: write to the parent, or wait for pods to run.
"""

from __future__ import annotations

from collections.abc import Mapping

from capn import names
from capn.api.addons import Addon, AddonStatus
from capn.api.resources import CONFIG_MAP
from capn.build.addon_inventory import NAMESPACE, SELECTOR, Inventory, build_inventory, read_inventory
from capn.build.addons import AddonContent, ObjectId, compute_digest, order_for_pruning, project
from capn.controllers.child_pool import Child
from capn.controllers.cluster.scope import ClusterScope
from capn.controllers.phases import Wait
from capn.errors import ApiStatusError, CapnError, NotFoundError, TransientError, UnreachableError

# A content that a person must mend, or a webhook, a CRD or a namespace of the child that is not there yet.
RETRY_S = 60.0
_SOON_S = 5.0
_DEFAULT_NAMESPACE = "default"


async def reconcile_addons(scope: ClusterScope) -> Wait | None:
    """Bring each add-on to what its content says; the rows of `status.addons` are left in the scope."""
    wanted, spec = {addon.name: addon for addon in scope.cluster.spec.addons}, scope.cluster.spec.addons
    if not spec and not scope.cluster.status.addons:
        scope.addons = []
        return None
    child = scope.require_child()
    inventories = await _read_inventories(child)
    scope.addons = [await _reconcile_one(scope, child, addon, inventories.get(addon.name)) for addon in spec]
    for name, inventory in inventories.items():
        if name not in wanted and (row := await _remove(child, inventory)) is not None:
            scope.addons.append(row)
    lacking = next((row for row in scope.addons if not row.ready), None)
    if lacking is None:
        return None
    soon = lacking.message.endswith(_NOT_SERVED)
    return Wait("AddonsNotApplied", f"{lacking.name}: {lacking.message}", _SOON_S if soon else RETRY_S, blocks=False)


_NOT_SERVED = "is not served by the child (yet)"


async def _read_inventories(child: Child) -> dict[str, Inventory]:
    listed = await child.client.list(CONFIG_MAP, namespace=NAMESPACE, label_selector=SELECTOR)
    found = (read_inventory(obj) for obj in listed.items)
    return {inventory.addon: inventory for inventory in found if inventory is not None}


async def _reconcile_one(scope: ClusterScope, child: Child, addon: Addon, known: Inventory | None) -> AddonStatus:
    known = known or Inventory(addon.name)
    converger = _Converger(child, addon.name, quotes=addon.secret_ref is None)
    try:
        content = await scope.deps.addons.load(scope.cluster.metadata, addon)
        await converger.converge(content, known)
    except UnreachableError:
        raise
    except CapnError as error:
        message = converger.explain(error)[:1024]
        return AddonStatus(name=addon.name, applied=len(known.seen), message=message)
    return AddonStatus(name=addon.name, ready=True, applied=len(content.objects))


async def _remove(child: Child, inventory: Inventory) -> AddonStatus | None:
    """Prune everything of an add-on that the spec no longer names, the inventory last."""
    converger = _Converger(child, inventory.addon, quotes=False)
    try:
        await converger.prune(list(inventory.seen))
        await child.client.delete(CONFIG_MAP, names.addon_inventory(inventory.addon), NAMESPACE)
    except UnreachableError:
        raise
    except CapnError as error:
        message = f"being removed: {converger.explain(error)}"[:1024]
        return AddonStatus(name=inventory.addon, applied=len(inventory.seen), message=message)
    return None


class _Converger:
    """One add-on in one child. `quotes`: whether the child's own words may be shown; they may repeat the content."""

    def __init__(self, child: Child, addon: str, *, quotes: bool) -> None:
        self._child = child
        self._addon = addon
        self._quotes = quotes
        self._at: ObjectId | None = None

    def explain(self, error: CapnError) -> str:
        """What to show of an error: which object, and the child's words where they cannot hold a secret."""
        if self._at is None or not isinstance(error, ApiStatusError | NotFoundError):
            return str(error)
        return f"{self._at}: {error if self._quotes else f'the child refuses it ({error.reason})'}"

    async def converge(self, content: AddonContent, known: Inventory) -> None:
        """Apply what differs, then prune; the inventory never lists less than there is."""
        wanted = {which.key for which, _ in content.objects}
        gone = [which for which in known.seen if which.key not in wanted]
        if known.digest != content.digest:
            await self._note("", {which: "" for which, _ in content.objects} | dict.fromkeys(gone, ""))
        seen = {}
        for which, manifest in content.objects:
            before = known.seen.get(which, "") if known.digest == content.digest else ""
            seen[which] = await self._keep(which, manifest, before)
        await self.prune(gone)
        if known.digest != content.digest or dict(known.seen) != seen:
            await self._note(content.digest, seen)

    async def _keep(self, which: ObjectId, manifest: dict[str, object], before: str) -> str:
        """Apply the object unless it is as it was left (`before`); how it is now."""
        self._at = which
        resource = await self._child.discovery.find(which.api_version, which.kind)
        if resource is None:
            raise TransientError(f"{which}: kind {which.kind} of {which.api_version} {_NOT_SERVED}", reason="NotServed")
        meta = {key: value for key, value in dict(manifest["metadata"]).items() if key != "namespace"}  # type: ignore[call-overload]
        namespace = (which.namespace or _DEFAULT_NAMESPACE) if resource.namespaced else None
        obj = {**manifest, "metadata": meta | ({"namespace": namespace} if namespace else {})}
        live = await self._child.client.get(resource, which.name, namespace) if before else None
        if live is not None and compute_digest(project(obj, live)) == before:
            return before
        try:
            answer = await self._child.client.apply(resource, obj, manager=names.addon_manager(self._addon))
        except NotFoundError:
            self._child.discovery.forget(which.api_version, which.kind)
            raise
        return compute_digest(project(obj, answer))

    async def prune(self, objects: list[ObjectId]) -> None:
        """Delete these from the child, unless somebody has taken the add-on's mark off them."""
        for which in order_for_pruning(objects):
            self._at = which
            resource = await self._child.discovery.find(which.api_version, which.kind)
            if resource is None:
                continue  # with its CRD, the object is gone
            namespace = (which.namespace or _DEFAULT_NAMESPACE) if resource.namespaced else None
            live = await self._child.client.get(resource, which.name, namespace)
            meta = (live or {}).get("metadata") or {}
            if (meta.get("annotations") or {}).get(names.ANNOTATION_ADDON) == self._addon:
                await self._child.client.delete(resource, which.name, namespace, uid=meta["uid"])

    async def _note(self, digest: str, seen: Mapping[ObjectId, str]) -> None:
        self._at = None
        await self._child.client.apply(CONFIG_MAP, build_inventory(Inventory(self._addon, digest, seen)))
