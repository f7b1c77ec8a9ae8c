"""What the pages of handovers show, computed of a handover and of whoever looks at it. Without I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bailiwick.handover.handovers.document import changes, minute
from bailiwick.handover.handovers.plan import TEAMS, Team
from bailiwick.handover.handovers.records import Handover
from bailiwick.handover.handovers.service import Chance, unheeded
from bailiwick.kernel.errors import REASONS
from bailiwick.kernel.verdicts import Verdict, worst

STATES = {
    "proposed": "waits for signatures",
    "signed": "signed by all four teams, waits to be accepted",
    "refused": "a team said no",
    "superseded": "another pack came in its place",
    "accepted": "everything has changed hands",
}
_HOW = {"webauthn": "by a passkey over the SHA-256", "step-up": "by a second factor, with a receipt in the ledger"}


@dataclass(frozen=True, slots=True)
class Seat:
    """One team at the table: ``state`` is ``signed``, ``refused``, ``yours`` or ``due``; ``told`` says it in words."""

    team: Team
    state: str
    told: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A handover in the list. ``yours``: the teams for which the reader can sign it now."""

    id: str
    title: str
    state: str
    told: str
    verdict: str
    built: str
    yours: Sequence[Team]


@dataclass(frozen=True, slots=True)
class Chapter:
    """A chapter of the pack. ``verdict`` is its worst; a waived statement passes."""

    name: str
    verdict: str
    told: str
    statements: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Shown:
    """One handover as somebody sees it.

    ``sign``: the teams he can sign for, with the number of his keys that the pack names; ``refuse``: those he can say
    no for; ``stopped``: why he cannot sign for a team he speaks for. ``over``: what it came to, when it is over.
    """

    handover: Handover
    document: Mapping[str, Any]
    told: str
    facts: Sequence[tuple[str, str]]
    seats: Sequence[Seat]
    sign: Mapping[Team, int]
    refuse: Sequence[Team]
    stopped: Mapping[Team, tuple[str, str]]
    red: Sequence[str]
    chapters: Sequence[Chapter]
    changes: Sequence[Sequence[str]]
    over: bool
    stale: bool


def title(document: Mapping[str, Any]) -> str:
    """What a handover is called."""
    return f"Handover of {document['environment']}: {document['from']} to {document['to']}"


def listed(found: Handover, chances: Mapping[Team, Chance]) -> Listed:
    """``found`` in the list of whoever has ``chances``."""
    document = found.document
    yours = [team for team, chance in chances.items() if not chance.reason]
    waits = f", {len(found.missing)} of {len(TEAMS)} missing" if found.state == "proposed" else ""
    told = f"{STATES[found.state]}{waits}"
    return Listed(found.id, title(document), found.state, told, str(found.verdict), minute(document["built_at"]), yours)


def unreadable(found: Handover, reason: str) -> Listed:
    """``found`` in the list where what is stored is not what its SHA-256 says."""
    told = f"{REASONS[reason].meaning} ({reason})"
    return Listed(found.id, f"Handover of {found.environment}", "changed", told, "ERROR", _minute(found.built_at), ())


def shown(found: Handover, chances: Mapping[Team, Chance], now: datetime, *, may_sign: bool) -> Shown:
    """``found`` as whoever has ``chances`` sees it. ``may_sign``: whether he holds the permission to."""
    document = found.document
    over = found.ended_at is not None
    stale = not over and now >= found.good_until
    return Shown(
        found,
        document,
        STATES[found.state],
        _facts(found, document),
        [_seat(found, document, team, chances) for team in TEAMS],
        {team: chance.keys for team, chance in chances.items() if may_sign and not chance.reason},
        [] if over or not may_sign else list(chances),
        {} if over else _stopped(chances, may_sign=may_sign),
        [] if over else unheeded(document),
        [_chapter(each) for each in document["chapters"]],
        changes(document["transfer"]),
        over,
        stale,
    )


def _stopped(chances: Mapping[Team, Chance], *, may_sign: bool) -> dict[Team, tuple[str, str]]:
    if not may_sign:
        return dict.fromkeys(chances, ("permission_denied", REASONS["permission_denied"].meaning))
    return {
        team: (chance.reason, REASONS[chance.reason].meaning)
        for team, chance in chances.items()
        if chance.reason and chance.reason != "handover_signed_already"
    }


def _facts(found: Handover, document: Mapping[str, Any]) -> list[tuple[str, str]]:
    told = [
        ("Environment", f"{document['environment']} of platform {document['platform']}"),
        ("Window", f"{minute(document['since'])} to {minute(document['until'])} UTC"),
        ("Built", f"{minute(document['built_at'])} UTC by {document['built_by']}, bailiwick {document['version']}"),
        ("Good until", f"{minute(document['good_until'])} UTC"),
        ("Accepts", _who(document["receives"])),
    ]
    if document["simulated_clock"]:
        told.append(("Clock", "SIMULATED: this proves nothing about the world"))
    if found.acceptance is not None:
        told.append(("Accepted", f"{_minute(found.acceptance.at)} UTC by {found.acceptance.person}"))
    return told


def _seat(found: Handover, document: Mapping[str, Any], team: Team, chances: Mapping[Team, Chance]) -> Seat:
    if (refusal := found.refusal) is not None and refusal.team == team:
        return Seat(team, "refused", f"{refusal.person} refused, {_minute(refusal.at)} UTC: {refusal.reason}")
    for each in found.signatures:
        if each.team == team:
            return Seat(team, "signed", f"{each.person} signed, {_minute(each.at)} UTC, {_HOW[each.how]}")
    if found.ended_at is not None:
        return Seat(team, "due", "did not sign")
    yours = team in chances and not chances[team].reason
    return Seat(team, "yours" if yours else "due", f"waits for {_who(document['teams'][team])}")


def _chapter(chapter: Mapping[str, Any]) -> Chapter:
    said = chapter["statements"]
    passing = sum(each["verdict"] == "PASS" or bool(each["waiver"]) for each in said)
    waived = sum(bool(each["waiver"]) and each["verdict"] != "PASS" for each in said)
    verdict = worst([Verdict.PASS if each["waiver"] else Verdict(each["verdict"]) for each in said])
    told = f"{passing} of {len(said)} pass" + (f", {waived} by a waiver" if waived else "")
    return Chapter(str(chapter["name"]).replace("-", " ").capitalize(), str(verdict), told, said)


def _who(who: Mapping[str, Any]) -> str:
    return f"whoever is {who['role']}" if who["role"] else ", ".join(who["people"])


def _minute(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


__all__ = ["Listed", "Seat", "Shown", "listed", "shown", "title", "unreadable"]
