"""Which events a sink gets, and what of them: filters and redaction, rules only."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

Redactions = Mapping[str, str]
"""By field (``network.ip``, ``details.query``, ``reasons``): ``remove``, ``mask`` or ``hash``."""

KEPT = frozenset({"id", "at", "code", "name", "outcome", "v", "zone", "simulated_clock"})
"""Without these an event is no longer that event: no sink may take them out."""
MASK = "[redacted]"


@dataclass(frozen=True, slots=True)
class Selection:
    """What a sink wants: empty means everything. Names may end in ``*``; ``exclude`` wins over ``names``."""

    codes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def takes(self, code: str, name: str, outcome: str) -> bool:
        """Whether an event of that kind is wanted. An event whose name is not known is excluded by code only."""
        if any(_matches(pattern, name) or pattern == code for pattern in self.exclude):
            return False
        if self.outcomes and outcome not in self.outcomes:
            return False
        if not self.codes and not self.names:
            return True
        return code in self.codes or any(_matches(pattern, name) for pattern in self.names)


def _matches(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def redact(event: dict[str, Any], redactions: Redactions, key: bytes) -> dict[str, Any]:
    """A copy of ``event`` with fields taken out.

    ``hash`` puts a keyed digest in the value's place, the same for the same value: it can be correlated, not read.
    """
    changed = dict(event)
    for path, how in redactions.items():
        *parents, last = path.split(".")
        place: Any = changed
        for parent in parents:
            below = place.get(parent) if isinstance(place, dict) else None
            if not isinstance(below, dict):
                place = None
                break
            place[parent] = below = dict(below)
            place = below
        if not isinstance(place, dict) or last not in place:
            continue
        if how == "remove":
            del place[last]
        else:
            place[last] = MASK if how == "mask" else _digest(place[last], key)
    return changed


def _digest(value: Any, key: bytes) -> Any:
    if isinstance(value, list):
        return [_digest(each, key) for each in value]
    data = value.encode() if isinstance(value, str) else msgspec.json.encode(value, order="deterministic")
    return "h:" + hmac.new(key, data, hashlib.sha256).hexdigest()[:32]
