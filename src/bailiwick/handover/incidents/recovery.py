"""Whether an incident is over: five conditions, each measured after it was contained, none of them said.

They are those of the system we take over: the installation is ready; the backlogs of evidence are drained; revocation
and policy are fresh; decisions come out as expected; evidence and timeline are preserved. A condition without a
measurement is NO_DATA and keeps the incident open.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.books import Books
from bailiwick.assurance.ports import Verdicts
from bailiwick.assurance.shipped import INSTALLATION_ZONE
from bailiwick.handover.incidents.documents import EXPECTED, Expected
from bailiwick.handover.incidents.records import Incident, lines
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.verdicts import Verdict, worst

PROBES: Mapping[str, Sequence[str]] = {
    "ready": ("database-answers", "schema-at-head", "disk-free"),
    "backlogs": ("dead-letters", "outbox-age", "spool-backlog-age", "sequencer-lag", "ledger-intact"),
    "fresh": ("revocation-freshness",),
}
"""By which probes a condition is measured, beside what is looked at here."""

# what shows that a worker lives; it writes every few seconds
_ALIVE = timedelta(seconds=60)

Decide = Callable[[Transaction, str, Expected], Awaitable[str]]
"""Puts a known question to the active policies of a zone, or to its gateway: ``allow``, ``deny``, or why there is no
answer."""

_AT_GATEWAY = ("security", "availability")
"""Classes of incidents whose recovery is measured at the gateway, whatever they were contained by."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One of the five, and what was found: ``told`` has a line for each measurement."""

    name: str
    title: str
    verdict: Verdict
    told: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {"name": self.name, "title": self.title, "verdict": self.verdict.value, "told": list(self.told)}


def overall(conditions: Sequence[Condition]) -> Verdict:
    """What all of them amount to; only PASS is over."""
    return worst(each.verdict for each in conditions)


class Recovery:
    """Measures."""

    def __init__(self, clock: Clock, books: Books, verdicts: Verdicts, decide: Decide, at_gateway: Decide) -> None:
        self._at_gateway = at_gateway
        self._clock = clock
        self._books = books
        self._verdicts = verdicts
        self._decide = decide

    async def measure(self, tx: Transaction, incident: Incident) -> list[Condition]:
        """The five conditions as they are now."""
        return [
            await self._condition(tx, incident, "ready", "The installation is ready", await self._workers(tx)),
            await self._condition(tx, incident, "backlogs", "Backlogs of evidence are drained", []),
            await self._condition(
                tx, incident, "fresh", "Revocation and policy are fresh", await self._policy(tx, incident)
            ),
            await self._canary(tx, incident),
            await self._preserved(tx, incident),
        ]

    async def _condition(
        self, tx: Transaction, incident: Incident, name: str, title: str, found: list[tuple[Verdict, str]]
    ) -> Condition:
        found = [*found, *[await self.probe(tx, incident, probe) for probe in PROBES[name]]]
        return Condition(name, title, worst(verdict for verdict, _ in found), tuple(told for _, told in found))

    async def probe(self, tx: Transaction, incident: Incident, probe: str) -> tuple[Verdict, str]:
        """What a probe of the zone, else of the installation, found since it was contained."""
        return await self.newest(tx, incident.zone, probe, incident.measured_from)

    async def newest(self, tx: Transaction, zone: str, probe: str, since: datetime) -> tuple[Verdict, str]:
        """What a probe of the zone, else of the installation, found since a moment."""
        now = self._clock.now()
        found = await self._verdicts.newest(tx, zone, probe, now)
        if found is None and zone != INSTALLATION_ZONE:
            found = await self._verdicts.newest(tx, INSTALLATION_ZONE, probe, now)
        if found is None:
            return Verdict.NO_DATA, f"{probe}: never measured"
        if found.at < since:
            return Verdict.STALE, f"{probe}: {found.verdict} before it counts"
        value = "" if found.value is None else f" {found.value:g}"
        return found.verdict, f"{probe}: {found.verdict}{value} at {found.at.isoformat(timespec='seconds')}"

    async def _workers(self, tx: Transaction) -> list[tuple[Verdict, str]]:
        alive = await tx.value(
            "SELECT count(*) FROM workers WHERE fenced_at IS NULL AND seen_at > :since",
            since=self._clock.now() - _ALIVE,
        )
        return [(Verdict.PASS if alive else Verdict.FAIL, f"workers that live: {alive}")]

    async def _policy(self, tx: Transaction, incident: Incident) -> list[tuple[Verdict, str]]:
        """Every live worker has taken in what last changed the zone's policy."""
        row = await tx.one(
            "SELECT count(*) AS alive, min(revision) AS least, (SELECT max(revision) FROM feed WHERE zone = :zone"
            " AND kind IN ('policy', 'zone', 'modes')) AS wanted FROM workers"
            " WHERE fenced_at IS NULL AND seen_at > :since",
            zone=incident.zone,
            since=self._clock.now() - _ALIVE,
        )
        if row is None or not row["alive"]:
            return [(Verdict.NO_DATA, "policy: no worker lives")]
        fresh = row["wanted"] is None or row["least"] >= row["wanted"]
        told = f"policy: workers are at {row['least']}, the zone's last change is {row['wanted'] or 'long ago'}"
        return [(Verdict.PASS if fresh else Verdict.FAIL, told)]

    async def _canary(self, tx: Transaction, incident: Incident) -> Condition:
        """By grants and policies; and at the gateway, where the incident concerns what goes through it."""
        title = "Known decisions come out as expected"
        expected = await self._books.read_all(tx, incident.zone, EXPECTED)
        found = []
        for name, each in expected.items():
            found.append(_held(name, "", each, await self._decide(tx, incident.zone, each)))
        if len({each.expect for each in expected.values()}) < 2:
            found.append((Verdict.NO_DATA, "at least one ExpectedDecision must allow and one deny"))
        if await _concerns_gateway(tx, incident):
            asked = {name: each for name, each in expected.items() if each.user is None}
            for name, each in asked.items():
                answer = await self._at_gateway(tx, incident.zone, each)
                found.append(_held(name, " at the gateway", each, answer))
            if len({each.expect for each in asked.values()}) < 2:
                told = "at the gateway at least one ExpectedDecision without a user must allow and one deny"
                found.append((Verdict.NO_DATA, told))
        return Condition("canary", title, worst(verdict for verdict, _ in found), tuple(told for _, told in found))

    async def _preserved(self, tx: Transaction, incident: Incident) -> Condition:
        title = "Evidence and timeline are preserved"
        state = await tx.value("SELECT state FROM evidence_packs WHERE id = :id", id=incident.pack)
        told = len(await lines(tx, incident.id))
        if state != "built":
            return Condition("preserved", title, Verdict.FAIL, (f"evidence pack: {state or 'not asked for'}",))
        return Condition("preserved", title, Verdict.PASS, (f"evidence pack {incident.pack}", f"{told} lines"))


def _held(name: str, where: str, expected: Expected, answer: str) -> tuple[Verdict, str]:
    """An answer beside what is expected."""
    if answer not in ("allow", "deny"):
        return Verdict.ERROR, f"{name}{where}: {answer}"
    right = answer == expected.expect
    return Verdict.PASS if right else Verdict.FAIL, f"{name}{where}: {answer}, expected {expected.expect}"


async def _concerns_gateway(tx: Transaction, incident: Incident) -> bool:
    """Whether requests went wrong, or were stopped or let through otherwise to contain it."""
    return incident.class_ in _AT_GATEWAY or bool(
        await tx.value(
            "SELECT EXISTS (SELECT FROM incident_containments WHERE incident = :id AND action = ANY(:actions))",
            id=incident.id,
            actions=["fail-closed", "fail-closed-server", "last-known-good", "switch-off", "rotate-key", "revoke"],
        )
    )


async def unmet_exits(tx: Transaction, incident: Incident) -> list[str]:
    """What must still be so before the severity may drop. Being recovered is one; it never drops before."""
    found = []
    if incident.ongoing:
        found.append("not recovered: the five conditions are not measured PASS")
    if "secret-rotated" in incident.exits and not await tx.value(
        "SELECT EXISTS (SELECT FROM secret_rotations WHERE zone = :zone AND rotated_at >= :since AND verdict = 'PASS')"
        " OR EXISTS (SELECT FROM overrides WHERE zone = :zone AND operation = 'keys.rotate-emergency'"
        "   AND executed_at >= :since)",
        zone=incident.zone,
        since=incident.opened_at,
    ):
        found.append("no rotation since it was opened whose old secret was proven refused")
    if "blast-radius" in incident.exits and not await tx.value(
        "SELECT EXISTS (SELECT FROM incident_entries WHERE incident = :id AND what = 'blast-radius')", id=incident.id
    ):
        found.append("the blast radius is not recorded")
    return found


def refuse_unmet(conditions: Sequence[Condition]) -> None:
    """Refuse where not all are PASS. Raises ``recovery_unproven``."""
    if not overall(conditions).green:
        raise BailiwickError(reason="recovery_unproven", conditions=[each.document() for each in conditions])
