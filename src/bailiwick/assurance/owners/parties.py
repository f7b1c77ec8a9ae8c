"""How owners are named, in whatever declares one, and what is no name at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from bailiwick.kernel.permissions import Role

PartyKind = Literal["person", "role", "rota", "contact", "activity"]

_KINDS: tuple[PartyKind, ...] = ("person", "role", "rota", "contact", "activity")
_NOBODY = (
    "tbd|tba|tbc|todo|fixme|xxx+|someone|somebody|anyone|anybody|nobody|no ?one|changeme|unassigned|your[ ._-]?name"
)
_NO_NAME = (
    "n/?a|none|null|nil|unknown|vacant|owner|name|placeholder|team|example|foo|bar|(john|jane)[ ._-]?doe"
    "|to be (determined|defined|decided|announced|confirmed|assigned)|change me|[?._…-]+"
)
_PLACEHOLDER = re.compile(rf"({_NOBODY})(@.*)?|({_NO_NAME})(@)?", re.IGNORECASE)
_BRACKETED = re.compile(r"[\[<{(].*[\]>})]", re.DOTALL)
_ADDRESS = re.compile(r"([^@\s]+)@([^@\s]*)")
_ZEROS = re.compile(r"\+?[0() .-]+")
# RFC 2606 and RFC 6761: nobody is reached there
_RESERVED = re.compile(r"(.*\.)?(example(\.(com|net|org))?|invalid|test|localhost)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Party:
    """Whom a text names: ``level`` only of a rota."""

    kind: PartyKind
    name: str
    level: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}{'/' + self.level if self.level else ''}"


def party(text: str) -> Party:
    """Whom ``text`` names: ``person:jane``, ``role:ops_owner``, ``rota:default/secondary``, ``contact:dba``,
    ``activity:alerting``; without a word before the colon a role if there is one of that name, else an activity."""
    head, colon, tail = text.strip().partition(":")
    for kind in _KINDS:
        if colon and head == kind:
            if kind == "rota":
                name, _, level = tail.partition("/")
                return Party(kind, name.strip(), level.strip() or "primary")
            return Party(kind, tail.strip())
    return Party("role" if text.strip() in set(Role) else "activity", text.strip())


def is_placeholder(text: str) -> bool:
    """Whether ``text`` stands where a name is still to be written: empty, ``TBD``, ``[Name]``, ``someone@``."""
    told = party(text).name if ":" in text else text.strip()
    return not told or _PLACEHOLDER.fullmatch(told) is not None or _BRACKETED.fullmatch(told) is not None


def reaches_nobody(text: str) -> bool:
    """Whether a way to reach somebody is none: a placeholder, an address of a reserved domain, a number of zeros."""
    told = text.strip().removeprefix("mailto:").removeprefix("tel:")
    if is_placeholder(told) or is_placeholder(told.split("//")[-1]):
        return True
    if found := _ADDRESS.fullmatch(told):
        return not found[2] or _RESERVED.fullmatch(found[2]) is not None
    if "//" in told:
        return _RESERVED.fullmatch(told.split("//", 1)[1].split("/")[0].split(":")[0]) is not None
    return _ZEROS.fullmatch(told) is not None
