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
