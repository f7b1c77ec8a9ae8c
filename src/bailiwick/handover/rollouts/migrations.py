"""What a release would do to the schema, for whoever reviews it: its statements, and those that take something away.

While the old release still runs, a statement that removes, renames or narrows what it reads breaks it; such belong
into a later release (expand, then contract). The marks help who reads; they are no verdict, since a function that a
statement calls may do anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_CUT = 300
# what begins something in which a `;` ends no statement, and the `;` itself; a `$` within a name begins nothing
_BEGINS = re.compile(r"--|/\*|[eE]?'|\"|(?<![\w$])\$(?:[^\W\d]\w*)?\$|;")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_ESCAPED_END = re.compile(r"\\.|''|'", re.DOTALL)
_WORD_BEFORE = re.compile(r"[\w$]")

_ANYWHERE = re.compile(
    r"\b(drop|truncate|rename|revoke|detach|call|merge into|delete from|set not null|set schema|create unique index)\b"
    r"|\balter (column )?\S+ (set data )?type\b"
    r"|\bupdate (only )?\S+ (\* )?(as )?(\S+ )?set\b"
    r"|\bexecute\b(?! (on|function|procedure)\b)"  # not GRANT EXECUTE ON, nor what a trigger executes
)
# a block does what its text says, and a command of psql what stands elsewhere
_ELSEWHERE = re.compile(r"^do\b|\\")
_ADDS_A_RULE = re.compile(r"\badd (constraint|check|foreign|unique|primary|exclude)\b")
_EDGE = re.compile(r"[(),]")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, in one line of at most 300 characters without its comments. ``danger``: it takes something away
    from who uses the schema as it is, or cannot be told to be harmless; judged by all of it."""

    text: str
    danger: bool


@dataclass(slots=True)
class _Text:
    """A statement as it is read: ``shown`` to people, and ``bare``, whose quoted texts are empty."""

    shown: list[str]
    bare: list[str]
    code: list[str]  # what stands between dollars, which is run sooner or later
    whole: bool = True  # its last quotation has an end

    def add(self, plain: str) -> None:
        self.shown.append(plain)
        self.bare.append(plain)


def statements(sql: str) -> list[Statement]:
    """The statements of a script, in its order. Reads it once, as PostgreSQL would; what has no end goes to its end."""
    found = []
    for each in _split(sql.replace("\x00", "")):
        shown = " ".join("".join(each.shown).split())
        if shown:
            found.append(Statement(shown[:_CUT], not each.whole or _takes_away("".join(each.bare), each.code)))
    return found


def _split(sql: str) -> Iterator[_Text]:
    current, at = _Text([], [], []), 0
    while begins := _BEGINS.search(sql, at):
        start, mark = begins.start(), begins[0]
        if mark in ("e'", "E'") and start and _WORD_BEFORE.match(sql[start - 1]):
            start, mark = start + 1, "'"  # the last letter of a name
        current.add(sql[at:start])
        if mark == ";":
            yield current
            current, at = _Text([], [], []), start + 1
            continue
        inside = start + len(mark)
        end = _end(sql, mark, inside)
        at = len(sql) if end is None else end
        if mark in ("--", "/*"):
            current.add(" ")
        else:
            current.shown.append(sql[start:at])
            current.bare.append('""' if mark == '"' else "''")
            if mark.startswith("$"):
                current.code.append(sql[inside : at - len(mark)])
        if end is None:
            current.whole = current.whole and mark == "--"
    current.add(sql[at:])
    yield current


def _end(sql: str, mark: str, start: int) -> int | None:
    """Where what ``mark`` begins ends; None where it does not."""
    if mark == "--":
        found = sql.find("\n", start)
        return found if found >= 0 else None
    if mark == "/*":  # they nest
        depth = 1
        for edge in _COMMENT_EDGE.finditer(sql, start):
            depth += 1 if edge[0] == "/*" else -1
            if not depth:
                return edge.end()
        return None
    if mark in ("e'", "E'"):
        return next((edge.end() for edge in _ESCAPED_END.finditer(sql, start) if edge[0] == "'"), None)
    # a doubled quote ends one text and begins the next, which comes to the same
    found = sql.find(mark, start)
    return found + len(mark) if found >= 0 else None


def _takes_away(bare: str, code: list[str]) -> bool:
    """Judged by words; every pattern looks a few words ahead at most, so that no script takes long."""
    plain = _plain(bare)
    if _ELSEWHERE.search(plain) or _ANYWHERE.search(plain) or any(_ANYWHERE.search(_plain(each)) for each in code):
        return True
    for clause in _clauses(plain):
        narrows = "not null" in clause and not re.search(r"\bdefault\b|\bgenerated\b", clause)
        if (narrows and re.search(r"\badd\b", clause)) or (_ADDS_A_RULE.search(clause) and "not valid" not in clause):
            return True
    return False


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _clauses(plain: str) -> Iterator[str]:
    """What the commas of a statement part, without what stands in brackets."""
    depth, at = 0, 0
    parts: list[str] = []
    for edge in _EDGE.finditer(plain):
        if not depth:
            parts.append(plain[at : edge.start()])
        at = edge.end()
        if edge[0] == ",":
            if not depth:
                yield "".join(parts)
                parts = []
        else:
            depth = depth + 1 if edge[0] == "(" else max(0, depth - 1)
            parts.append(" " * (depth == 0))
    yield "".join([*parts, plain[at:] if not depth else ""])
