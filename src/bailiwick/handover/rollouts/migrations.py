"""What a release would do to the schema, for whoever reviews it: its statements, and those that take something away.

While the old release still runs, a statement that removes, renames or narrows what it reads breaks it; such belong
into a later release (expand, then contract).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$([A-Za-z_]*)\$.*?\$\1\$", re.DOTALL)
_DANGERS = re.compile(
    r"\b(drop|truncate|rename)\b|\bdelete\s+from\b|\bset\s+not\s+null\b|\balter\s+column\s+\S+\s+(set\s+data\s+)?type\b"
    r"|\badd\s+(column\s+)?(if\s+not\s+exists\s+)?(?!constraint\b)\S+\s+[^,;]*\bnot\s+null\b(?![^,;]*\bdefault\b)"
    r"|\badd\s+constraint\b(?!.*\bnot\s+valid\b)|\brevoke\b|\bupdate\s+\S+\s+set\b",
    re.IGNORECASE | re.DOTALL,
)
_CUT = 300


def statements(sql: str) -> list[str]:
    """The statements of a script, each in one line of at most 300 characters, without comments."""
    held: list[str] = []

    def hold(found: re.Match[str]) -> str:
        held.append(found[0])
        return f"\x00{len(held) - 1}\x00"

    # a quoted text may hold what looks like a comment or an end
    bare = _COMMENT.sub(" ", _QUOTED.sub(hold, sql.replace("\x00", "")))
    told = []
    for each in bare.split(";"):
        whole = re.sub(r"\x00(\d+)\x00", lambda found: held[int(found[1])], " ".join(each.split()))
        if whole:
            told.append(" ".join(whole.split())[:_CUT])
    return told


def dangers(found: Sequence[str]) -> list[str]:
    """Those that take something away from who uses the schema as it is."""
    return [each for each in found if _DANGERS.search(_QUOTED.sub("''", each))]
