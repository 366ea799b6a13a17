"""Field sets: which leaves of an object a manager applied. The pure half of the memory client's server-side apply.

Role: good enough for what capn applies: maps merge by key, the lists in `_LIST_KEYS` by their items' keys, `_SETS` by
value, all other lists are atomic. Inputs and outputs are JSON-shaped values and sets of paths. The real rules are the
API server's; the contract suite compares the two. Must not: do I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

Segment = str | tuple[Literal["item"], tuple[tuple[str, Any], ...]] | tuple[Literal["value"], Any]
Path = tuple[Segment, ...]
Fields = frozenset[Path]

# Keys of associative lists, by the name of the list's field (their OpenAPI x-kubernetes-list-map-keys).
_LIST_KEYS: Mapping[str, tuple[str, ...]] = {
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "env": ("name",),
    "ports": ("containerPort", "protocol"),
}
_SETS = frozenset({"finalizers"})
# Never owned by anybody: identity and what the server keeps itself.
_UNOWNED = frozenset({
    ("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace"), ("metadata", "uid"),
    ("metadata", "resourceVersion"), ("metadata", "generation"), ("metadata", "creationTimestamp"),
    ("metadata", "deletionTimestamp"), ("metadata", "managedFields"),
})  # fmt: skip


def build_fields(obj: Mapping[str, Any]) -> Fields:
    """The leaves that `obj` has, as paths."""
    return frozenset(path for path in _leaves(obj, ()) if path not in _UNOWNED)


def read_field(obj: Any, path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """The value at `path`, or None when there is none."""
    for segment in path:
        obj = _step(obj, segment)
        if obj is None:
            return None
    return obj


def merge(live: Any, applied: Any, name: str = "") -> Any:  # noqa: ANN401 - any JSON value
    """`live` with the values of `applied` in it; new containers, the inputs stay as they are."""
    if isinstance(live, dict) and isinstance(applied, dict):
        return live | {key: merge(live.get(key), value, key) for key, value in applied.items()}
    if isinstance(live, list) and isinstance(applied, list) and _is_associative(name):
        return _merge_list(live, applied, name)
    return applied


def remove_fields(obj: Mapping[str, Any], paths: Iterable[Path]) -> dict[str, Any]:
    """`obj` without these leaves; list items and maps that become empty by it go too."""
    tree: dict[Segment, Any] = {}
    for path in paths:
        node = tree
        for segment in path:
            node = node.setdefault(segment, {})
    return _prune(obj, tree) or {} if tree else dict(obj)


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> Fields:
    """Leaves of `after` whose value `before` does not have."""
    return frozenset(path for path in build_fields(after) if read_field(before, path) != read_field(after, path))


def _is_associative(name: str) -> bool:
    return name in _LIST_KEYS or name in _SETS


def _segment(name: str, item: Any) -> Segment:  # noqa: ANN401 - any JSON value
    if name in _SETS or not isinstance(item, dict):
        return ("value", item)
    return ("item", tuple((key, item.get(key)) for key in _LIST_KEYS[name]))


def _leaves(value: Any, path: Path) -> Iterator[Path]:  # noqa: ANN401 - any JSON value
    name = path[-1] if path and isinstance(path[-1], str) else ""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _leaves(child, (*path, key))
    elif isinstance(value, list) and value and _is_associative(name):
        for item in value:
            yield from _leaves(item, (*path, _segment(name, item)))
    else:
        yield path


def _step(value: Any, segment: Segment) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(segment, str):
        return value.get(segment) if isinstance(value, dict) else None
    if not isinstance(value, list):
        return None
    kind, wanted = segment
    if kind == "value":
        return wanted if wanted in value else None
    return next((item for item in value if all(item.get(key) == expected for key, expected in wanted)), None)


def _merge_list(live: list[Any], applied: list[Any], name: str) -> list[Any]:
    new = {_segment(name, item): item for item in applied}
    merged = [merge(item, new.pop(segment)) if (segment := _segment(name, item)) in new else item for item in live]
    return merged + list(new.values())


def _prune(value: Any, tree: Mapping[Segment, Any]) -> Any:  # noqa: ANN401 - any JSON value
    if not tree:
        return None
    if isinstance(value, dict):
        kept = {}
        for key, child in value.items():
            pruned = _prune(child, tree[key]) if key in tree else child
            if pruned is not None:
                kept[key] = pruned
        return kept or None
    if isinstance(value, list):
        return [kept for item in value if (kept := _prune_item(item, tree)) is not None] or None
    return value


def _prune_item(item: Any, tree: Mapping[Segment, Any]) -> Any:  # noqa: ANN401 - any JSON value
    for segment, branch in tree.items():
        if segment[0] == "value" and segment[1] == item:
            return None
        if segment[0] == "item" and isinstance(item, dict):
            keys: Any = segment[1]
            if all(item.get(key) == expected for key, expected in keys):
                return _prune(item, branch)
    return item
