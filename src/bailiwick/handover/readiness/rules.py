"""How the items of an environment stand: pure functions of what was found and stated, and of the moment of asking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import takewhile
from typing import Any, Literal

from bailiwick.assurance.durations import told as length
from bailiwick.handover.ports import Point, Standing
from bailiwick.handover.readiness.documents import Placed, ReadinessProfile, referred
from bailiwick.kernel.verdicts import Verdict, worst


@dataclass(frozen=True, slots=True)
class Result:
    """What the newest look at an item found. ``sha256``: of the item as it was then."""

    verdict: Verdict
    at: datetime
    expires_at: datetime
    detail: str = ""
    value: float | None = None
    unit: str = ""
    took_ms: int = 0
    sha256: str = ""
    record: str = ""


@dataclass(frozen=True, slots=True)
class Attested:
    """What a person stated of an item, and what another said to it. ``outcome`` is empty while nobody did;
    ``attachment_kept``: whether the document that it rests on is there, if there is one."""

    id: str
    item: str
    statement: str
    author: str
    made_at: datetime
    expires_at: datetime
    attachment: str = ""
    attachment_sha256: str = ""
    sha256: str = ""
    record: str = ""
    outcome: Literal["", "accepted", "refused"] = ""
    reviewer: str = ""
    reviewed_at: datetime | None = None
    note: str = ""
    attachment_kept: bool = True

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "sha256"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an environment, by the key of the item; of ``attested`` the newest first."""

    results: Mapping[str, Result] = field(default_factory=dict)
    attested: Mapping[str, Sequence[Attested]] = field(default_factory=dict)
    waivers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judged:
    """How one item stands. ``at``: when its evidence was made; ``until``: when it stops counting; ``applies``: whether
    the environment's profile holds it to the item."""

    placed: Placed
    verdict: Verdict
    told: str
    applies: bool = True
    waiver: str = ""
    record: str = ""
    at: datetime | None = None
    until: datetime | None = None

    @property
    def must(self) -> bool:
        """Whether it can stand in the way."""
        return self.applies and self.placed.item.requirement == "must"

    @property
    def passes(self) -> bool:
        """Whether a gate may open as far as this goes."""
        return self.verdict.green or bool(self.waiver)

    @property
    def point(self) -> Point:
        """The same for whoever asks the port."""
        return Point(self.placed.key, self.verdict, f"{self.placed.item.title}: {self.told}", self.waiver, self.record)

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        item = self.placed.item
        return {
            "item": self.placed.key,
            "area": self.placed.area.key,
            "title": item.title,
            "owner": self.placed.owner,
            "requirement": item.requirement,
            "profile": item.profile,
            "applies": self.applies,
            "shown_by": "probe" if item.probe else "attestation" if item.attest else "other items",
            "verdict": str(self.verdict),
            "told": self.told,
            "waiver": self.waiver,
            "record": self.record,
            "at": self.at,
            "until": self.until,
        }


def judge(
    lines: Sequence[Placed], profile: ReadinessProfile, values: Mapping[str, Any], facts: Facts, now: datetime
) -> list[Judged]:
    """Every item as it stands at ``now``, in the order of ``lines``."""
    found: dict[str, Judged] = {}
    for line in lines:
        if not line.applies(profile.profile):
            found[line.key] = Judged(line, Verdict.NOT_DUE, f"for a {line.item.profile} alone", applies=False)
        elif line.item.probe is not None:
            found[line.key] = _probed(line, values, facts.results.get(line.key), now)
        elif line.item.attest is not None:
            found[line.key] = _attested(line, values, facts.attested.get(line.key, ()), now)
    for key, each in found.items():
        found[key] = _waived(each, facts)
    waiting = [line for line in lines if line.key not in found]
    while waiting:  # what is computed from others, once those are known; a book with a circle is refused
        ready = [line for line in waiting if not _needs(line, lines) & {each.key for each in waiting}]
        for line in ready or waiting:
            found[line.key] = _waived(_computed(line, lines, found), facts)
        waiting = [line for line in waiting if line.key not in found]
    return [found[line.key] for line in lines]


def _waived(judged: Judged, facts: Facts) -> Judged:
    waiver = facts.waivers.get(judged.placed.key, "")
    if not waiver or not judged.placed.item.waivable or not judged.applies or judged.verdict.green:
        return judged
    return replace(judged, waiver=waiver)


def _probed(line: Placed, values: Mapping[str, Any], result: Result | None, now: datetime) -> Judged:
    if result is None:
        return Judged(line, Verdict.NO_DATA, "never looked at")
    until = min(result.expires_at, result.at + line.item.lives)
    if result.sha256 != line.digest(values):
        return Judged(line, Verdict.NO_DATA, "what is asked is not what was looked at; run it", at=result.at)
    if now >= until:
        told = f"was {result.verdict} {length(now - result.at)} ago, which no longer counts"
        return Judged(line, Verdict.STALE, told, record=result.record, at=result.at, until=until)
    return Judged(line, result.verdict, result.detail, record=result.record, at=result.at, until=until)


def _attested(line: Placed, values: Mapping[str, Any], stated: Sequence[Attested], now: datetime) -> Judged:
    if not stated:
        return Judged(line, Verdict.NO_DATA, "nobody has attested it")
    digest = line.digest(values)
    counting = [each for each in stated if each.sha256 == digest]
    if not counting:
        return Judged(line, Verdict.NO_DATA, "what was attested is not what is asked now")
    newest = counting[0]
    if newest.outcome == "refused":
        told = f"{newest.reviewer} refused what {newest.author} states: {newest.note}"
        return Judged(line, Verdict.FAIL, told[:500], record=newest.record, at=newest.made_at)
    # what somebody agreed to before another refused it counts no longer: stating it anew is not agreeing to it
    since = list(takewhile(lambda each: each.outcome != "refused", counting))
    accepted = next((each for each in since if each.outcome == "accepted"), None)
    if accepted is None:
        return Judged(line, Verdict.NO_DATA, f"{newest.author} states it; it waits for review", at=newest.made_at)
    if not accepted.attachment_kept:
        told = "the document that its attestation rests on is not kept any more"
        return Judged(line, Verdict.NO_DATA, told, record=accepted.record, at=accepted.made_at)
    until = min(accepted.expires_at, accepted.made_at + line.item.lives)
    verdict = Verdict.PASS if now < until else Verdict.STALE
    told = f"{accepted.author} states it, {accepted.reviewer} agrees"
    if verdict is Verdict.STALE:
        told = f"{told}; {length(now - accepted.made_at)} ago, which no longer counts"
    return Judged(line, verdict, told, record=accepted.record, at=accepted.made_at, until=until)


def _needs(line: Placed, lines: Sequence[Placed]) -> set[str]:
    return {each.key for reference in line.item.requires or () for each in referred(reference, lines)}


def _computed(line: Placed, lines: Sequence[Placed], found: Mapping[str, Judged]) -> Judged:
    """Of the must-items it refers to, all have to pass; the waiver of one counts there as well."""
    needed = [found[key] for key in sorted(_needs(line, lines)) if key in found]
    musts = [each for each in needed if each.must]
    if not musts or any(not any(e.must for e in _of(r, lines, found)) for r in line.item.requires or ()):
        return Judged(line, Verdict.NO_DATA, "nothing that it is computed from is asked of this environment")
    open_ = [each for each in musts if not each.passes]
    verdict = worst(Verdict.PASS if each.passes else each.verdict for each in musts)
    told = f"{len(musts) - len(open_)} of {len(musts)}"
    if open_:
        told += f"; not {', '.join(each.placed.key for each in open_[:3])}{' …' if len(open_) > 3 else ''}"
    return Judged(line, verdict, told, at=_least(e.at for e in musts), until=_least(e.until for e in musts))


def _of(reference: str, lines: Sequence[Placed], found: Mapping[str, Judged]) -> list[Judged]:
    return [found[each.key] for each in referred(reference, lines) if each.key in found]


def _least(moments: Iterable[datetime | None]) -> datetime | None:
    return min((each for each in moments if each is not None), default=None)


# ---------------------------------------------------------------------- all of them


@dataclass(frozen=True, slots=True)
class Score:
    """How many items there are of each sort. ``outside``: those that the profile does not hold the environment to."""

    applicable: int
    green: int
    waived: int
    open_must: int
    open_should: int
    outside: int

    @property
    def percent(self) -> int:
        """Green items of a hundred, rounded down: 100 only where all are. Waived ones are not green."""
        return self.green * 100 // self.applicable if self.applicable else 0

    def document(self) -> dict[str, int]:
        """The JSON form."""
        return {**{name: getattr(self, name) for name in self.__slots__}, "percent": self.percent}


def score(judged: Sequence[Judged]) -> Score:
    """The score."""
    applicable = [each for each in judged if each.applies]
    return Score(
        applicable=len(applicable),
        green=sum(each.verdict.green for each in applicable),
        waived=sum(bool(each.waiver) for each in applicable),
        open_must=sum(each.must and not each.passes for each in applicable),
        open_should=sum(not each.must and not each.passes for each in applicable),
        outside=len(judged) - len(applicable),
    )


_WORST = (Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA, Verdict.STALE, Verdict.NOT_DUE)


def blockers(judged: Iterable[Judged]) -> list[Judged]:
    """What stands in the way, the worst first: must-items that neither are green nor waived."""
    open_ = [each for each in judged if each.must and not each.passes]
    return sorted(open_, key=lambda each: _WORST.index(each.verdict))


def standing(judged: Sequence[Judged], now: datetime) -> Standing:
    """What all amount to. PASS when every must-item passes; NO_DATA where there is none."""
    musts = [each for each in judged if each.must]
    open_ = blockers(judged)
    verdict = worst(each.verdict for each in open_) if open_ else Verdict.PASS if musts else Verdict.NO_DATA
    until = _least(each.until for each in musts if each.verdict.green) if verdict.green else None
    waived = [each.point for each in musts if each.passes and not each.verdict.green]
    return Standing(verdict, now, until, [each.point for each in open_], score(judged).document(), waived)


def by_area(judged: Iterable[Judged]) -> dict[tuple[str, str], Counter[str]]:
    """How many items of each checklist and area are green, waived, open, outside."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for each in judged:
        counted = found.setdefault((each.placed.checklist, each.placed.area.key), Counter())
        state = (
            "outside" if not each.applies
            else "green" if each.verdict.green
            else "waived" if each.waiver
            else "open" if each.must
            else "should"
        )  # fmt: skip
        counted[state] += 1
    return found
