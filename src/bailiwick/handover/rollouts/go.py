"""Go or No-Go: computed, never said. A pure function of facts; each line has a verdict, and one that fails is NO-GO.

The canary and the signatures are lines that nothing stands in for: no waiver, no role, no class of change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.book import canonical
from bailiwick.assurance.ports import GateAnswer
from bailiwick.handover.ports import OpenIncident, Standing
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict, worst

LIFE = timedelta(hours=24)
"""How long an answer, a signature, a preflight and a canary count."""

URGENT = (Severity.P0, Severity.P1)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a person said, in which role."""

    by: str
    role: str
    says: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Preflight:
    """The newest preflight of this rollout."""

    verdict: Verdict
    at: datetime
    record: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that an answer is computed from. ``frozen``: why nothing goes out now; empty where nothing stands against it.

    None where there is nothing: no canary, no preflight. ``same``: of who signed, the accounts that count as the same
    person; ``gone``: who signed and has the role or an active account no more.
    """

    digest: str
    planned_by: str
    required: Sequence[str]
    readiness: Standing
    canary: Standing
    budget: GateAnswer
    incidents: Sequence[OpenIncident]
    frozen: str
    preflight: Preflight | None
    signatures: Sequence[Signature] = ()
    same: Mapping[str, Set[str]] = field(default_factory=dict)
    gone: Set[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Line:
    """One condition. ``passes`` is true of a verdict that is not green only by ``waiver`` or ``exception``."""

    name: str
    verdict: Verdict
    passes: bool
    told: str
    exception: str = ""

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Answer:
    """GO or NO-GO, line by line, at a moment; ``until`` when a GO stops counting."""

    go: bool
    at: datetime
    until: datetime
    lines: Sequence[Line]

    @property
    def signed_only(self) -> bool:
        """Whether nothing but signatures is missing."""
        return all(line.passes for line in self.lines if not line.name.startswith("signature"))

    def passes(self, name: str) -> bool:
        """Whether the line of that name holds."""
        return any(line.passes for line in self.lines if line.name == name)

    def document(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON form; ``about`` says what it is of."""
        return {
            **about,
            "answer": "GO" if self.go else "NO-GO",
            "at": self.at.isoformat(),
            "until": self.until.isoformat(),
            "lines": [line.document() for line in self.lines],
        }


def sha256_of(document: Mapping[str, Any]) -> str:
    """The digest by which an answer is stored."""
    return hashlib.sha256(canonical(document)).hexdigest()


def answer(facts: Facts, now: datetime) -> Answer:
    """What the facts amount to at ``now``."""
    lines = [
        _readiness(facts.readiness, now),
        _canary(facts, now),
        _budget(facts.budget),
        _incidents(facts.incidents),
        _frozen(facts.frozen),
        _preflight(facts.preflight, now),
        *_signatures(facts, now),
    ]
    until = min(
        [now + LIFE]
        + [each.until for each in (facts.readiness, facts.canary) if each.until is not None]
        + ([facts.preflight.at + LIFE] if facts.preflight is not None else [])
        + [each.at + LIFE for each in facts.signatures if each.says == "GO"]
    )
    return Answer(all(line.passes for line in lines), now, max(until, now), lines)


def _readiness(standing: Standing, now: datetime) -> Line:
    """Every must-item; what a waiver lets pass counts, by its id."""
    verdict = _still(standing, now)
    passes = verdict.green and not standing.blockers
    if not passes:
        told = "; ".join(f"{point.name} {point.verdict}" for point in standing.blockers[:10])
        return Line("readiness", verdict, False, told or f"readiness is {verdict}")
    waived = [f"{point.name} by waiver {point.waiver}" for point in standing.waived]
    told = f"every must-item passes, {', '.join(waived[:10])}" if waived else "every must-item is PASS"
    return Line("readiness", verdict, True, told, "waiver" if waived else "")


def _canary(facts: Facts, now: datetime) -> Line:
    """PASS of this very digest within a day, and nothing beside it."""
    standing = facts.canary
    verdict = _still(standing, now)
    if verdict.green and now - standing.at >= LIFE:
        verdict = Verdict.STALE
    against = [*standing.blockers, *standing.waived]  # a waiver on a point changes nothing here
    if verdict.green and against:
        verdict = worst([point.verdict for point in against if not point.verdict.green] or [Verdict.FAIL])
    told = f"canary of {facts.digest[:19]} is {verdict}"
    if not verdict.green and against:
        told += ": " + "; ".join(f"{point.name} {point.verdict}" for point in against[:5])
    return Line("canary", verdict, verdict.green, told)


def _budget(found: GateAnswer) -> Line:
    told = "; ".join(found.because[:5]) or "the error budgets are not spent"
    if found.waiver:
        told = f"waiver {found.waiver}: {told}"
    return Line("error budget", found.verdict, found.passes, told, found.exception)


def _incidents(incidents: Sequence[OpenIncident]) -> Line:
    urgent = [each for each in incidents if each.severity in URGENT]
    told = "; ".join(f"{each.id} {each.severity} {each.title}" for each in urgent[:5]) or "no P0 or P1 is open"
    return Line("incidents", Verdict.FAIL if urgent else Verdict.PASS, not urgent, told)


def _frozen(why: str) -> Line:
    return Line("freeze", Verdict.FAIL if why else Verdict.PASS, not why, why or "nothing is frozen")


def _preflight(found: Preflight | None, now: datetime) -> Line:
    if found is None:
        return Line("preflight", Verdict.NO_DATA, False, "no preflight was made")
    verdict = Verdict.STALE if now - found.at >= LIFE else found.verdict
    told = f"preflight of {found.at:%Y-%m-%d %H:%M} UTC is {verdict}"
    if verdict is Verdict.STALE:
        told += ": decide retry makes it anew"
    return Line("preflight", verdict, verdict.green, told)


def _signatures(facts: Facts, now: datetime) -> list[Line]:
    """A line for each role. A person counts once, by whatever account, who planned never, an old signature not; one
    NO-GO ends it."""
    against = [each for each in facts.signatures if each.says != "GO"]
    lines = [Line(f"signature of {each.role}", Verdict.FAIL, False, f"{each.by} says NO-GO") for each in against]
    taken = {facts.planned_by}
    for role in facts.required:
        signed = [each for each in facts.signatures if each.says == "GO" and each.role == role]
        signed = [each for each in signed if now - each.at < LIFE]
        counts = [
            each
            for each in signed
            if each.by not in facts.gone and taken.isdisjoint({each.by, *facts.same.get(each.by, ())})
        ]
        if counts:
            taken.add(counts[0].by)
            lines.append(Line(f"signature of {role}", Verdict.PASS, True, f"{counts[0].by} says GO"))
        else:
            told = f"{signed[0].by} signed, which does not count" if signed else f"nobody of {role} has signed"
            lines.append(Line(f"signature of {role}", Verdict.NO_DATA, False, told))
    return lines


def _still(standing: Standing, now: datetime) -> Verdict:
    return Verdict.STALE if standing.until is not None and now >= standing.until else standing.verdict
