"""Whether a secret is one that nobody guesses. Its value goes nowhere."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

_KNOWN = ("password", "passwort", "changeme", "change-me", "secret", "admin", "example", "default", "test", "12345")
_LEAST_BITS = 80.0


def weakness(value: str, least: int) -> str:
    """Why ``value`` is weak, in words that do not tell it; empty where it is not. ``least``: characters it must have.

    Estimated by how its characters are spread, which finds ``aaaa…`` and words, and cannot prove a good one good.
    """
    if not value:
        return "it is empty"
    if len(value) < least:
        return f"it has fewer than {least} characters"
    lower = value.lower()
    if any(word in lower for word in _KNOWN) and len(value) < 2 * least:
        return "it holds a word that everybody tries"
    if len(value) >= _SHORT and _is_patterned(value):
        return "its characters follow a pattern"
    counts = Counter(value)
    bits = -sum(count * math.log2(count / len(value)) for count in counts.values())
    if bits < min(_LEAST_BITS, least * 2.5):
        return "its characters are too few or too alike"
    return ""


_SHORT = 8


def _is_patterned(value: str) -> bool:
    """Whether one piece of it is said again and again, or most characters just follow the one before."""
    if value in (value + value)[1:-1]:
        return True
    steps = sum(abs(ord(after) - ord(before)) <= 1 for before, after in pairwise(value))
    return steps > len(value) // 2
