"""The detector: looks at every machine of the book, tells of what is stuck, and does what is safe."""

from __future__ import annotations

import asyncio
import csv
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from bailiwick.assurance.book import Book
from bailiwick.assurance.books import Books
from bailiwick.assurance.durations import span, told
from bailiwick.assurance.ports import Alerts, Raised
from bailiwick.assurance.reconciliation.matching import TooMany, Unreachable, Unreadable, Window
from bailiwick.assurance.reconciliation.sources import Sources
from bailiwick.assurance.reconciliation.spec import CONNECTION, ConnectionSpec
from bailiwick.assurance.stuck.judging import Judged, Known, Seen, Summary, judge, silent, summary
from bailiwick.assurance.stuck.own import OWN_MACHINES
from bailiwick.assurance.stuck.spec import MACHINE, MachineSpec
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

Action = Literal["recheck", "requeue", "dead-letter"]

LISTED = 200
KEPT = timedelta(days=90)
_GONE_KEPT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Look:
    """One look at one machine. ``items``: the worst, oldest first, at most 200."""

    id: str
    machine: str
    verdict: Verdict
    at: datetime
    counts: Mapping[str, int]
    oldest_s: int | None
    items: Sequence[Judged] = ()
    silent: Sequence[str] = ()
    error: str | None = None

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "id": self.id,
            "machine": self.machine,
            "verdict": self.verdict,
            "at": self.at.astimezone(UTC).isoformat(),
            "counts": dict(self.counts),
            "oldest_s": self.oldest_s,
            "items": [each.document() for each in self.items],
            "silent_workers": list(self.silent),
            "error": self.error,
        }


class Detector:
    """Looks, tells and acts. ``sources`` knows the queries of :data:`OWN_MACHINES`."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        books: Books,
        alerts: Alerts,
        sources: Sources,
        scratch: Path,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._books = books
        self._alerts = alerts
        self._sources = sources
        self._scratch = scratch

    # --- what there is

    async def standing(self, zone: str) -> list[dict[str, Any]]:
        """Every machine of the book, and how the newest look at it ended."""
        async with self._database.begin() as tx:
            book = await self._books.current(tx, zone)
            newest = {row["machine"]: row for row in await tx.all(_NEWEST, zone=zone)}
        listed = []
        for name, spec in book.of(MACHINE).items():
            row = newest.get(name)
            listed.append(
                {
                    "name": name,
                    "description": spec.description,
                    "owner": spec.owner,
                    "verdict": row["verdict"] if row else Verdict.NO_DATA,
                    "counts": row["counts"] if row else {},
                    "oldest_s": row["oldest_s"] if row else None,
                    "looked_at": row["finished_at"].astimezone(UTC).isoformat() if row else None,
                    "error": row["error"] if row else None,
                }
            )
        return listed

    async def items(self, zone: str, name: str) -> dict[str, Any]:
        """One machine with its items as they were last seen, judged as of now."""
        async with self._database.begin() as tx:
            spec, _ = await self._spec(tx, zone, name)
            rows = await tx.all(
                "SELECT * FROM stuck_transitions WHERE zone = :zone AND machine = :name AND gone_at IS NULL"
                " ORDER BY entered_at, item LIMIT :most",
                zone=zone,
                name=name,
                most=spec.cap,
            )
            actions = await tx.all(
                "SELECT item, state, action, by, at, outcome FROM stuck_actions WHERE zone = :zone AND machine = :name"
                " ORDER BY id DESC LIMIT 50",
                zone=zone,
                name=name,
            )
        seen = [Seen(row["item"], row["state"], row["entered_at"], row["owner"]) for row in rows]
        judged = judge(spec, seen, _known(rows), self._clock.now())
        return {
            "name": name,
            "owner": spec.owner,
            "states": {state: each.limit for state, each in spec.states.items()},
            "final": sorted(spec.final),
            "items": [each.document() for each in judged[:LISTED]],
            "actions": [{**row, "at": row["at"].astimezone(UTC).isoformat()} for row in actions],
        }

    def scheduled(self, zone: str, book: Book) -> list[JobDefinition]:
        """A job for every machine of the book."""
        jobs = []
        for name, spec in book.of(MACHINE).items():

            async def handler(due: datetime, name: str = name) -> Mapping[str, Any]:
                look = await self.detect(Context(zone), name)
                return {"run": look.id, "verdict": look.verdict, "counts": dict(look.counts)}

            since = book.documents[(MACHINE.name, name)].applied_at
            jobs.append(JobDefinition(f"stuck:{name}@{zone}", span(spec.every), handler, timeout_s=900.0, since=since))
        return jobs

    async def beat(self, zone: str, name: str, worker: str) -> None:
        """A worker of a machine lives. Raises ``not_found`` for a machine that is not in the book."""
        async with self._database.begin() as tx:
            await self._spec(tx, zone, name)
            await tx.run(
                "INSERT INTO stuck_heartbeats (zone, machine, worker, at) VALUES (:zone, :name, :worker, :now)"
                " ON CONFLICT (zone, machine, worker) DO UPDATE SET at = excluded.at",
                zone=zone,
                name=name,
                worker=worker,
                now=self._clock.now(),
            )

    # --- looking

    async def detect(self, context: Context, name: str) -> Look:
        """Look at one machine now, keep the look, and tell of what is stuck. Raises ``not_found``."""
        zone, begun = context.zone, self._clock.now()
        async with self._database.begin() as tx:
            spec, connections = await self._spec(tx, zone, name)
        try:
            rows = await self._read(zone, spec, connections)
        except (Unreachable, Unreadable, TooMany) as error:
            return await self._fail(context, name, spec, begun, str(error))
        async with self._database.begin() as tx:
            lock = f"{zone}/{name}"
            await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.stuck'), hashtext(:lock))", lock=lock)
            now = self._clock.now()
            known = _known(await tx.all(_KNOWN, zone=zone, name=name))
            judged = judge(spec, rows, known, now)
            await self._log(tx, zone, name, judged, now)
            beats = {row["worker"]: row["at"] for row in await tx.all(_BEATS, zone=zone, name=name)}
            heartbeat = span(spec.heartbeat) if spec.heartbeat else None
            found = summary(spec, judged, silent(heartbeat, beats, now))
            await self._tell(tx, context, name, spec, found, now)
            oldest = int((now - found.oldest.entered_at).total_seconds()) if found.oldest else None
            worst = [each for each in judged if each.band not in ("final", "fine")][:LISTED]
            look = Look(self._ids(), name, found.verdict, now, found.counts, oldest, worst, found.silent)
            await self._keep(tx, context, look, begun)
        return look

    async def detect_all(self, context: Context) -> list[Look]:
        """Look at every machine of the book."""
        async with self._database.begin() as tx:
            names = list((await self._books.current(tx, context.zone)).of(MACHINE))
        return [await self.detect(context, name) for name in names]

    async def _spec(self, tx: Transaction, zone: str, name: str) -> tuple[MachineSpec, Mapping[str, ConnectionSpec]]:
        book = await self._books.current(tx, zone)
        spec = book.of(MACHINE).get(name)
        if spec is None:
            raise NotFound("There is no state machine by that name.")
        return spec, book.of(CONNECTION)

    async def _read(self, zone: str, spec: MachineSpec, connections: Mapping[str, ConnectionSpec]) -> list[Seen]:
        now = self._clock.now()
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = await asyncio.to_thread(tempfile.TemporaryDirectory, dir=self._scratch, prefix="stuck-")
        try:
            target = Path(directory.name) / "items.csv"
            window = Window(now - KEPT, now)
            laid = await self._sources.lay(zone, spec.source, connections, target, window, spec.cap)
            if laid.path.suffix != ".csv":
                raise Unreadable("items are read of CSV, not of Parquet")
            return await asyncio.to_thread(_seen, laid.path, spec, laid.columns)
        finally:
            await asyncio.to_thread(directory.cleanup)

    async def _log(self, tx: Transaction, zone: str, name: str, judged: Sequence[Judged], now: datetime) -> None:
        rows = [
            {
                "item": each.item,
                "state": each.state,
                "entered_at": each.entered_at.isoformat(),
                "owner": each.owner,
                "band": each.band,
            }
            for each in judged
        ]
        await tx.run(_LOG, zone=zone, name=name, rows=json.dumps(rows, ensure_ascii=False), now=now)
        await tx.run(
            "UPDATE stuck_transitions SET gone_at = :now"
            " WHERE zone = :zone AND machine = :name AND gone_at IS NULL AND item <> ALL(:items)",
            zone=zone,
            name=name,
            now=now,
            items=[each.item for each in judged],
        )
        await tx.run(
            "DELETE FROM stuck_transitions WHERE zone = :zone AND gone_at < :old", zone=zone, old=now - _GONE_KEPT
        )

    async def _tell(
        self, tx: Transaction, context: Context, name: str, spec: MachineSpec, found: Summary, now: datetime
    ) -> None:
        key = f"stuck/{name}"
        await self._alerts.clear(tx, context, f"{key}/error")
        if found.verdict is Verdict.PASS:
            await self._alerts.clear(tx, context, key)
            return
        if found.verdict is Verdict.NO_DATA:
            text = f"{name}: the source has no items at all"
        else:
            parts = [f"{found.counts[band]} {band}" for band in ("critical", "stuck", "unknown") if found.counts[band]]
            parts += [f"no heartbeat of {', '.join(found.silent)[:80]}"] if found.silent else []
            oldest = f"; oldest {told(now - found.oldest.entered_at)} in {found.oldest.state}" if found.oldest else ""
            text = f"{name}: {', '.join(parts)}{oldest}"
        await self._fire(tx, context, key, name, spec, found.severity(spec.severity), text)

    async def _fire(
        self, tx: Transaction, context: Context, key: str, name: str, spec: MachineSpec, severity: Severity, text: str
    ) -> None:
        raised = Raised(key, f"stuck/{name}", severity, text[:300], spec.owner, spec.runbook, {"machine": name})
        await self._alerts.fire(tx, context, raised)

    async def _fail(self, context: Context, name: str, spec: MachineSpec, begun: datetime, error: str) -> Look:
        look = Look(self._ids(), name, Verdict.ERROR, self._clock.now(), {}, None, error=error[:500])
        async with self._database.begin() as tx:
            text = f"{name} cannot be looked at: {error}"
            await self._fire(tx, context, f"stuck/{name}/error", name, spec, Severity.P1, text)
            await self._keep(tx, context, look, begun)
        return look

    async def _keep(self, tx: Transaction, context: Context, look: Look, begun: datetime) -> None:
        await tx.run(
            "INSERT INTO stuck_runs (id, zone, machine, started_at, finished_at, verdict, error, counts, oldest_s)"
            " VALUES (:id, :zone, :name, :begun, :now, :verdict, :error, cast(:counts AS jsonb), :oldest)",
            id=look.id,
            zone=context.zone,
            name=look.machine,
            begun=begun,
            now=look.at,
            verdict=look.verdict,
            error=look.error,
            counts=json.dumps(dict(look.counts)),
            oldest=look.oldest_s,
        )
        await self._recorder.record(
            tx,
            codes.STUCK_RUN,
            "success" if look.verdict is Verdict.PASS else "failure",
            context,
            subject=Subject(id=look.machine, type="machine"),
            run=look.id,
            verdict=str(look.verdict),
            approaching=look.counts.get("approaching", 0),
            stuck=look.counts.get("stuck", 0),
            critical=look.counts.get("critical", 0) + look.counts.get("unknown", 0),
        )

    # --- acting

    async def act(self, context: Context, name: str, item: str, action: Action, by: str) -> dict[str, Any]:
        """Do one of the safe things about an item. Everything else takes two persons and is asked for as an override.

        Raises ``not_idempotent``, ``attempts_left`` (409) and ``not_found``.
        """
        zone = context.zone
        if action == "recheck":
            await self.detect(context, name)
        async with self._database.begin() as tx:
            spec, connections = await self._spec(tx, zone, name)
            row = await tx.one(
                "SELECT * FROM stuck_transitions WHERE zone = :zone AND machine = :name AND item = :item FOR UPDATE",
                zone=zone,
                name=name,
                item=item,
            )
            if row is None or (row["gone_at"] is not None and action != "recheck"):
                raise NotFound("There is no item by that name that waits.")
            path = _allowed(spec, row, action)
            identifier = self._ids()
            outcome = await self._own_action(tx, spec, row, action)
            if path is not None:
                outcome = "asked"
            await self._noted(tx, context, identifier, name, row, action, by, outcome)
        if path is not None:
            outcome = await self._post(zone, spec, connections, path, identifier, row, action)
            async with self._database.begin() as tx:
                await tx.run(
                    "UPDATE stuck_actions SET outcome = :outcome WHERE id = :id", outcome=outcome, id=identifier
                )
        return {
            "id": identifier,
            "machine": name,
            "item": item,
            "state": row["state"],
            "action": action,
            "outcome": outcome,
        }

    async def _own_action(self, tx: Transaction, spec: MachineSpec, row: Row, action: Action) -> str:
        if action == "recheck":
            return "gone" if row["gone_at"] is not None else f"{row['state']}, {row['band']}"
        own = OWN_MACHINES.get(spec.source.own or "")
        if action == "requeue" and own is not None and own.requeue is not None:
            return await own.requeue(tx, row["item"], row["state"], self._clock.now())
        return "asked"

    async def _post(
        self,
        zone: str,
        spec: MachineSpec,
        connections: Mapping[str, ConnectionSpec],
        path: str,
        identifier: str,
        row: Row,
        action: Action,
    ) -> str:
        body = {"id": identifier, "action": action, "item": row["item"], "state": row["state"]}
        try:
            status = await self._sources.tell(zone, connections[spec.source.connection or ""], path, identifier, body)
        except (Unreachable, BailiwickError) as error:
            return f"no answer: {error}"[:200]
        return f"answered {status}"

    async def _noted(
        self,
        tx: Transaction,
        context: Context,
        identifier: str,
        name: str,
        row: Row,
        action: Action,
        by: str,
        outcome: str,
    ) -> None:
        now = self._clock.now()
        await tx.run(
            "INSERT INTO stuck_actions (id, zone, machine, item, state, action, by, at, outcome)"
            " VALUES (:id, :zone, :name, :item, :state, :action, :by, :now, :outcome)",
            id=identifier,
            zone=context.zone,
            name=name,
            item=row["item"],
            state=row["state"],
            action=action,
            by=by,
            now=now,
            outcome=outcome,
        )
        if action == "requeue":
            await tx.run(
                "UPDATE stuck_transitions SET attempts = attempts + 1"
                " WHERE zone = :zone AND machine = :name AND item = :item",
                zone=context.zone,
                name=name,
                item=row["item"],
            )
        await self._recorder.record(
            tx,
            codes.STUCK_ACTED,
            "success",
            context,
            subject=Subject(id=row["item"], type="work"),
            machine=name,
            action=action,
            state=row["state"],
            result=outcome,
        )


def _allowed(spec: MachineSpec, row: Row, action: Action) -> str | None:
    """Where the owner of the item is told of ``action``; None where it is ours to do. Raises what refuses it."""
    override = "ask for it as an override, which a second person approves"
    if action == "recheck":
        return None
    if row["state"] in spec.final:
        raise Conflict(f"It is {row['state']}, which is final.", reason="illegal_transition")
    if action == "requeue":
        if spec.requeue is None or not spec.requeue.idempotent:
            raise Conflict(f"Starting this again is not declared idempotent: {override}.", reason="not_idempotent")
        own = OWN_MACHINES.get(spec.source.own or "")
        if spec.requeue.path is None and (own is None or own.requeue is None):
            raise Conflict(f"Nobody is named who starts this again: {override}.", reason="not_idempotent")
        return spec.requeue.path
    if spec.dead_letter is None:
        raise Conflict(f"This machine has no dead letters: {override}.", reason="not_idempotent")
    if row["attempts"] < spec.dead_letter.after:
        left = spec.dead_letter.after - row["attempts"]
        raise Conflict(f"{left} more attempts at starting it again come first.", reason="attempts_left", left=left)
    return spec.dead_letter.path


def _known(rows: Sequence[Row]) -> dict[str, Known]:
    return {row["item"]: Known(row["state"], row["entered_at"], row["attempts"]) for row in rows}


def _seen(path: Path, spec: MachineSpec, columns: Mapping[str, str]) -> list[Seen]:
    def name(wanted: str | None) -> str | None:
        return columns.get(wanted, wanted) if wanted is not None else None

    item, state = name(spec.item) or "", name(spec.state) or ""
    own = spec.source.own is not None
    at, owner = name("entered_at" if own else spec.entered_at), name("owner" if own else spec.item_owner)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        header = reader.fieldnames or ()
        if absent := {each for each in (item, state, at, owner) if each is not None and each not in header}:
            raise Unreadable(f"there is no column {', '.join(sorted(absent))}")
        found: dict[str, Seen] = {}
        for row in reader:
            if len(found) >= spec.cap:
                raise TooMany(f"the source has more than {spec.cap} items")
            if not row[item] or not row[state]:
                raise Unreadable("an item has no name, or no state")
            if row[item] in found:
                raise Unreadable("an item stands in the source twice")
            entered_at = _instant(row[at]) if at is not None else None
            found[row[item]] = Seen(row[item][:300], row[state][:100], entered_at, (row[owner] or "") if owner else "")
    return list(found.values())


def _instant(text: str | None) -> datetime:
    try:
        moment = datetime.fromisoformat((text or "").strip())
    except ValueError:
        raise Unreadable("an instant of a transition cannot be read") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


_NEWEST = "SELECT DISTINCT ON (machine) * FROM stuck_runs WHERE zone = :zone ORDER BY machine, id DESC"
_KNOWN = """
SELECT item, state, entered_at, attempts FROM stuck_transitions
WHERE zone = :zone AND machine = :name AND gone_at IS NULL
"""
_BEATS = "SELECT worker, at FROM stuck_heartbeats WHERE zone = :zone AND machine = :name"
# who came back after it was gone has begun anew; the attempts are those of the state it is in
_LOG = """
INSERT INTO stuck_transitions AS t (zone, machine, item, state, entered_at, seen_at, owner, band)
SELECT :zone, :name, r.item, r.state, r.entered_at, :now, r.owner, r.band
FROM jsonb_to_recordset(cast(:rows AS jsonb)) AS r
  (item text, state text, entered_at timestamptz, owner text, band text)
ON CONFLICT (zone, machine, item) DO UPDATE
SET state = excluded.state, entered_at = excluded.entered_at, seen_at = excluded.seen_at, owner = excluded.owner,
    band = excluded.band, gone_at = NULL,
    attempts = CASE WHEN t.gone_at IS NULL THEN t.attempts ELSE 0 END
"""
