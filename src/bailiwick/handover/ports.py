"""What the parts of this room ask of each other, so that each can be read and tested by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from bailiwick.evidence.events import Context
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Point:
    """One thing that is as it should be, or not.

    ``told`` is one line for people; ``waiver`` the id of the one that lets it pass though it is not green; ``record``
    the evidence record that shows it, empty where there is none yet.
    """

    name: str
    verdict: Verdict
    told: str = ""
    waiver: str = ""
    record: str = ""

    @property
    def passes(self) -> bool:
        """Whether a gate may open as far as this goes."""
        return self.verdict.green or bool(self.waiver)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is so of something at a moment: the worst of its points, and those that stand in the way.

    ``until``: when it stops counting. ``figures`` are for reports and set nothing. ``waived``: points that are not
    green and stand in nobody's way by a waiver alone; a gate that opens on them notes their use.
    """

    verdict: Verdict
    at: datetime
    until: datetime | None = None
    blockers: Sequence[Point] = ()
    figures: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    waived: Sequence[Point] = ()

    @property
    def passes(self) -> bool:
        """Whether a gate may open on it."""
        return self.verdict.green and not self.blockers

    @property
    def waivers(self) -> list[str]:
        """The waivers that it stands on."""
        return sorted({point.waiver for point in self.waived})


class Readiness(Protocol):
    """Whether an environment may go live."""

    async def standing(self, tx: Transaction, zone: str, environment: str) -> Standing:
        """Its checklists now: PASS when every must-item passes (a waiver counts); NO_DATA where it has none."""
        ...


class Canaries(Protocol):
    """What the canary found of a release. No waiver and no role changes it."""

    async def standing(self, tx: Transaction, zone: str, digest: str) -> Standing:
        """The newest judgement of ``digest`` (``sha256:`` and 64 hex): NO_DATA without one, STALE after 24 h."""
        ...


class Weights(Protocol):
    """How much of a server's traffic the candidate of its canary gets."""

    async def set(self, zone: str, server: str, digest: str, candidate_percent: int) -> None:
        """From now on a step of the plan of the canary of this release; 0 withdraws it, and again does nothing.

        Raises ``canary_unproven`` (403) for more than it was judged fit for, ``not_found`` without an open canary,
        ``canary_other`` (409) where that of another release goes on, ``canary_upstream`` (409) where the candidate is
        the server's own upstream by now, which no weight takes back.
        """
        ...


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """An incident that is not closed."""

    id: str
    severity: Severity
    title: str
    opened_at: datetime


class OpenIncidents(Protocol):
    """What is on fire."""

    async def open(self, tx: Transaction, zone: str) -> Sequence[OpenIncident]:
        """Every incident that is not closed, the worst first."""
        ...

    async def since(self, tx: Transaction, zone: str, moment: datetime) -> Sequence[OpenIncident]:
        """Every incident that was opened since, those that are closed by now among them, the oldest first."""
        ...


Stage = Literal["planned", "live", "hypercare", "bau_active"]


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a platform runs, and how far it is in changing hands. ``digest``: the release that went live last."""

    name: str
    stage: Stage
    digest: str = ""
    live_at: datetime | None = None


class Environments(Protocol):
    """The operating state of each environment."""

    async def get(self, tx: Transaction, zone: str, name: str) -> Environment | None:
        """It as it stands; None where nobody declared it."""
        ...

    async def went_live(self, tx: Transaction, context: Context, name: str, digest: str, rollout: str) -> None:
        """A rollout of ``digest`` is done: planned becomes live, and what counts from go-live counts from now."""
        ...

    async def hypercare(self, tx: Transaction, zone: str, name: str) -> Standing:
        """Whether hypercare may end: every slot to 72 h filled and PASS; NOT_DUE before."""
        ...

    async def handed_over(self, tx: Transaction, context: Context, name: str, pack_hash: str) -> None:
        """The receiving team accepted the pack of that SHA-256 (hex): hypercare becomes bau_active."""
        ...


@dataclass(frozen=True, slots=True)
class Rollout:
    """A release on its way. ``outcome`` is empty while it goes on."""

    id: str
    environment: str
    digest: str
    state: str
    outcome: Literal["", "done", "rolled_back", "abandoned"]
    began_at: datetime
    ended_at: datetime | None


class Rollouts(Protocol):
    """What was rolled out."""

    async def of(self, tx: Transaction, zone: str, environment: str, since: datetime) -> Sequence[Rollout]:
        """Those begun since, newest first."""
        ...


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a handover pack, with what shows it.

    ``figures`` is JSON of at most a few kilobytes that a reader sees as a table; ``producer`` the job, probe or person
    it comes from; ``record`` the evidence record (``sha256:…``) or, where it was computed from the ledger, ``""``;
    ``beside`` further records without which it would not hold, as the review of an attestation. ``waivable`` false: no
    waiver lets it pass; ``waiver``: the one that does already, of what it is about.
    """

    name: str
    told: str
    verdict: Verdict
    producer: str
    since: datetime
    until: datetime
    figures: Mapping[str, object] = field(default_factory=dict)
    record: str = ""
    beside: Sequence[str] = ()
    waivable: bool = True
    waiver: str = ""


class Chapter(Protocol):
    """A chapter of the handover pack, by whoever knows. A part puts its chapters into the house's ``chapters``."""

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """What is so of the window, which ends no later than now."""
        ...


class Notebook(Protocol):
    """Where announcements and the rooms of incidents go: chat, tickets, mail."""

    async def announce(self, tx: Transaction, context: Context, template: str, values: Mapping[str, str]) -> str:
        """Send what a template of the book says to its list; the announcement's id, whose receipts can be read."""
        ...
