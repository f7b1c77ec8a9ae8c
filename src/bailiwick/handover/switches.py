"""Kill switches, freeze and read-only mode: thrown by one person, lifted by two.

Throwing narrows, so it is an operation that one person does by breaking the glass: with step-up, reviewed by another
within a day (``assurance/overrides.py``). Lifting widens: it is asked for, somebody else agrees, then it is done; the
schema holds to that too. The kernel knows what a switch means (``kernel/modes.py``); this keeps which are thrown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import Field

from bailiwick.assurance.gateway_switch import Settle
from bailiwick.assurance.operations import Claim, Target
from bailiwick.assurance.override_rules import Class
from bailiwick.assurance.ports import Alerts, Raised
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject, rfc3339
from bailiwick.kernel import feed, modes
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.fields import Body, Line
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.modes import Switch
from bailiwick.kernel.severity import Severity

LEFT_ON = timedelta(hours=4)
"""How long a switch may stay thrown, and a gateway closed, before somebody is reminded; then again twice as long after
that, each time a severity higher."""

RUNBOOK = "docs/how-to/incidents.md"


class Throw(Body):
    """Which switch, and why."""

    switch: Switch
    why: Annotated[Line, Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Thrown:
    """A switch that stands. ``thrown_as``: the override by which it was thrown."""

    id: str
    name: str
    reason: str
    thrown_by: str
    thrown_at: datetime
    thrown_as: str

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        told = {name: getattr(self, name) for name in self.__slots__}
        told["thrown_at"] = rfc3339(self.thrown_at)
        return told


def severity_left(thrown_for: timedelta) -> Severity | None:
    """How urgent it is to look at a switch that is thrown for so long; None while that is usual."""
    if thrown_for < LEFT_ON:
        return None
    if thrown_for < 2 * LEFT_ON:
        return Severity.P2
    return Severity.P1 if thrown_for < 6 * LEFT_ON else Severity.P0


class Switches:
    """Keeps what is thrown, in every zone."""

    def __init__(self, clock: Clock, ids: Ids, recorder: Recorder) -> None:
        self._clock = clock
        self._ids = ids
        self._recorder = recorder

    async def standing(self, tx: Transaction, zone: str) -> Sequence[Thrown]:
        """What is thrown in a zone, oldest first."""
        rows = await tx.all(f"{_SELECT} WHERE zone = :zone AND lifted_at IS NULL ORDER BY thrown_at, id", zone=zone)
        return [_thrown(row) for row in rows]

    async def find(self, tx: Transaction, zone: str, wanted: Throw) -> Thrown | None:
        """The one that stands; None where it is not thrown."""
        row = await tx.one(
            f"{_SELECT} WHERE zone = :zone AND name = :name AND lifted_at IS NULL",
            zone=zone,
            name=wanted.switch.value,
        )
        return _thrown(row) if row is not None else None

    async def throw(self, tx: Transaction, context: Context, wanted: Throw, by: str, override: str) -> int:
        """Throw it; the feed's revision that every worker must have."""
        await tx.run(
            "INSERT INTO switches (id, zone, name, reason, thrown_by, thrown_at, thrown_as)"
            " VALUES (:id, :zone, :name, :reason, :by, :now, :override)",
            id=self._ids(),
            zone=context.zone,
            name=wanted.switch.value,
            reason=wanted.why,
            by=by,
            now=self._clock.now(),
            override=override,
        )
        await self._record(tx, codes.SWITCH_THROWN, context, wanted, override)
        return await feed.announce(tx, context.zone, modes.FEED, wanted.switch.value)

    async def lift(self, tx: Transaction, context: Context, wanted: Throw, override: str) -> int:
        """Lift it by an override that is being done; the feed's revision."""
        await tx.run(
            "UPDATE switches SET lifted_at = :now, lifted_by = :override"
            " WHERE zone = :zone AND name = :name AND lifted_at IS NULL",
            now=self._clock.now(),
            override=override,
            zone=context.zone,
            name=wanted.switch.value,
        )
        await self._record(tx, codes.SWITCH_LIFTED, context, wanted, override)
        return await feed.announce(tx, context.zone, modes.FEED, wanted.switch.value)

    async def _record(
        self, tx: Transaction, kind: codes.EventType, context: Context, wanted: Throw, override: str
    ) -> None:
        subject = Subject(id=wanted.switch.value, type="switch")
        await self._recorder.record(tx, kind, "success", context, subject=subject, reason=wanted.why, override=override)


class _Switching:
    external = False
    reversible = False
    arguments = Throw

    def __init__(self, database: Database, switches: Switches, settle: Settle) -> None:
        self._database = database
        self._switches = switches
        self._settle = settle

    def amount(self, arguments: Throw) -> int:
        return 1

    async def undo(self, context: Context, arguments: Throw, key: str) -> bool:
        return False  # of a throw it would widen, which is nobody's to do alone, the clock's least


class SwitchThrow(_Switching):
    """A capability taken away, changes frozen, or the zone made read-only."""

    name = "switch.throw"
    title = "switch a capability off, freeze changes, or make the zone read-only"
    class_: Class = "narrowing"

    async def target(self, tx: Transaction, zone: str, arguments: Throw) -> Target:
        if await self._switches.find(tx, zone, arguments) is not None:
            raise Conflict("It is switched off already.")
        return Target(f"switch/{arguments.switch.value}", "on")

    async def perform(self, context: Context, arguments: Throw, claim: Claim, key: str) -> Mapping[str, Any]:
        async with self._database.begin() as tx:
            # whoever asked before is done when this is ours, and whoever asks later sees the switch
            await modes.hold(tx, context.zone)
            await claim(tx)
            revision = await self._switches.throw(tx, context, arguments, context.actor.user, key)
        settled = await self._settle.settle(revision, context)
        return {"thrown": arguments.switch.value, "took_ms": getattr(settled, "took_ms", 0)}


class SwitchLift(_Switching):
    """What was switched off, on again."""

    name = "switch.lift"
    title = "lift a switch, a freeze or read-only mode"
    class_: Class = "widening"

    async def target(self, tx: Transaction, zone: str, arguments: Throw) -> Target:
        standing = await self._switches.find(tx, zone, arguments)
        if standing is None:
            raise Conflict("It is not switched off.")
        return Target(f"switch/{standing.name}", standing.id)

    async def perform(self, context: Context, arguments: Throw, claim: Claim, key: str) -> Mapping[str, Any]:
        async with self._database.begin() as tx:
            await claim(tx)
            revision = await self._switches.lift(tx, context, arguments, key)
        await self._settle.settle(revision, context)
        return {"lifted": arguments.switch.value}


class LeftOn:
    """Reminds of what was thrown and forgotten: switches, and gateways that are still closed."""

    def __init__(self, database: Database, clock: Clock, alerts: Alerts) -> None:
        self._database = database
        self._clock = clock
        self._alerts = alerts

    async def run(self, due: datetime) -> dict[str, int]:
        """Raise and clear the alerts of every zone; how many stand."""
        now, left = self._clock.now(), 0
        async with self._database.begin() as tx:
            for row in await tx.all(_THROWN_OR_LIFTED, since=now - timedelta(days=7)):
                context, key = Context(row["zone"]), f"left-on/{row['key']}"
                severity = severity_left(now - row["since"]) if row["stands"] else None
                if severity is None:
                    await self._alerts.clear(tx, context, key)
                    continue
                left += 1
                hours = (now - row["since"]) // timedelta(hours=1)
                await self._alerts.fire(
                    tx,
                    context,
                    Raised(
                        key,
                        "SwitchLeftOn",
                        severity,
                        f"{row['key']} is switched off for {hours} hours, by {row['by']}",
                        "incident-response",
                        RUNBOOK,
                        {"component": "switches"},
                        {"description": "Lift it with another person, or say in the incident why it stays."},
                    ),
                )
        return {"left_on": left}


def _thrown(row: Row) -> Thrown:
    return Thrown(**{name: row[name] for name in Thrown.__slots__})


_SELECT = f"SELECT {', '.join(Thrown.__slots__)} FROM switches"  # noqa: S608 - names from the class

# of each switch the newest throw: the one that stands, or the last one, whose alert is to be cleared
_THROWN_OR_LIFTED = """
SELECT DISTINCT ON (zone, key) zone, key, since, by, stands FROM (
  SELECT zone, name AS key, thrown_at AS since, thrown_by AS by, lifted_at IS NULL AS stands FROM switches
    WHERE lifted_at IS NULL OR lifted_at > :since
  UNION ALL
  SELECT zone, CASE server WHEN '' THEN 'gateway' ELSE 'gateway/' || server END,
    closed_at, closed_by, opened_at IS NULL FROM gateway_closures
    WHERE opened_at IS NULL OR opened_at > :since
) AS each ORDER BY zone, key, since DESC
"""
