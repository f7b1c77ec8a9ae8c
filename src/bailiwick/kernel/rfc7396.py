"""JSON merge patch (RFC 7396), which is what every PATCH of the API speaks."""

from __future__ import annotations

from typing import Any


def merge(target: Any, patch: Any) -> Any:
    """``target`` changed by ``patch``: objects are merged member by member, null removes, all else replaces.

    Neither argument is changed.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def difference(before: Any, after: Any) -> Any:
    """The patch by which ``merge(before, patch)`` is ``after``, empty where they are equal.

    A member that ``after`` holds as null is removed, which is all that a merge patch can say of it.
    """
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    patch: dict[str, Any] = {key: None for key in before if after.get(key) is None and before[key] is not None}
    for key, value in after.items():
        if value is not None and (key not in before or before[key] != value):
            patch[key] = difference(before.get(key), value)
    return patch
