"""What the clock does about ceremonies: writes their dates down, gives notice, builds packs, tells what is overdue.

Everything is a step from what is stored and the present moment, each in a transaction of its own: stopped at any time
and run again, by one process or two, it neither loses nor doubles anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import structlog
from sqlalchemy.exc import IntegrityError

from bailiwick.assurance.book import Book, Document
from bailiwick.assurance.books import Books
from bailiwick.assurance.checkpoints.golive import GoLive, newest_go_lives
from bailiwick.assurance.durations import span
from bailiwick.assurance.ports import Alerts, Automatic, Notice, Notices, Owners, Raised
from bailiwick.assurance.rhythm import automatic, packs
from bailiwick.assurance.rhythm import occurrences as dates
from bailiwick.assurance.rhythm.actions import Actions
from bailiwick.assurance.rhythm.ceremonies import CEREMONY, Ceremony, in_force, occurrences
from bailiwick.assurance.rhythm.occurrences import Occurrence, utc
from bailiwick.assurance.rhythm.packs import Pack
from bailiwick.assurance.windows import require_over
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, Unavailable
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

CLOCK = "bailiwick"
"""Who built a pack that nobody asked for."""

RUNBOOK = "docs/how-to/rhythm-and-checkpoints.md"

log = structlog.get_logger(__name__)


class Clockwork:
    """Keeps the rhythm of all zones. ``parts``: who answers to the names of automatic parts; asked when one runs."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        books: Books,
        records: EvidenceRecords,
        actions: Actions,
        alerts: Alerts,
        notices: Notices,
        owners: Owners,
        parts: Mapping[str, Automatic],
        producer: Producer,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._books = books
        self._records = records
        self._actions = actions
        self._alerts = alerts
        self._notices = notices
        self._owners = owners
        self._parts = parts
        self._producer = producer

    async def keep(self) -> dict[str, int]:
        """Do everything that is due in all zones; how much of what was done. Raises when a zone could not be kept."""
        async with self._database.begin() as tx:
            zones = [row["name"] for row in await tx.all("SELECT name FROM zones WHERE state = 'active' ORDER BY name")]
        done = {"scheduled": 0, "noticed": 0, "packs": 0, "overdue": 0, "missed": 0}
        broken = []
        for zone in zones:
            try:
                for what, count in (await self.keep_zone(zone)).items():
                    done[what] += count
            except Unavailable:
                raise
            except Exception:
                # what is wrong in one zone keeps no other from its rhythm; the run has failed all the same
                log.exception("the rhythm of a zone is not kept", zone=zone)
                broken.append(zone)
        if broken:
            raise RuntimeError(f"the rhythm is not kept in {', '.join(broken[:5])}")
        return done

    async def keep_zone(self, zone: str) -> dict[str, int]:
        """The same for one zone."""
        async with self._database.begin() as tx:
            book = await self._books.current(tx, zone)
            scheduled = await self._schedule(tx, zone, book)
            due = await dates.waiting(tx, zone)
        ceremonies = in_force(book)
        counts = {"scheduled": scheduled, "noticed": 0, "packs": 0, "overdue": 0, "missed": 0}
        for each in due:
            ceremony = ceremonies.get(each.ceremony) or await self._former(each)
            now = self._clock.now()
            counts["noticed"] += await self._notice(each, ceremony, now)
            if each.state == "scheduled" and _pack_due(each, ceremony) <= now < _too_late(each, ceremony):
                counts["packs"] += await self._pack_quietly(each)
            if became := await self._settle(each, ceremony):
                counts[became] += 1
        return counts

    # ------------------------------------------------------------------ dates

    async def _schedule(self, tx: Transaction, zone: str, book: Book) -> int:
        await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.rhythm'), hashtext(:zone))", zone=zone)
        now = self._clock.now()
        lives = await newest_go_lives(tx, zone)
        counts = 0
        ceremonies = in_force(book)
        for name, ceremony in ceremonies.items():
            document = book.documents[(CEREMONY.name, name)]
            live = lives.get(ceremony.platform)
            made_by = f"{document.version}/{live.version if live is not None else 0}"
            counts += await self._write(tx, zone, name, ceremony, document, live, made_by, now)
        await self._cancel(tx, zone, "ceremony <> ALL(:names)", now, names=list(ceremonies))
        return counts

    async def _write(
        self,
        tx: Transaction,
        zone: str,
        name: str,
        ceremony: Ceremony,
        document: Document,
        live: GoLive | None,
        made_by: str,
        now: datetime,
    ) -> int:
        newest = await tx.value(
            "SELECT max(starts_at) FROM rhythm_occurrences"
            " WHERE zone = :zone AND ceremony = :name AND made_by = :made_by",
            zone=zone,
            name=name,
            made_by=made_by,
        )
        applied = document.applied_at or now
        begun = max(applied, live.first_recorded_at) if live is not None else applied
        starts = occurrences(ceremony, max(newest or begun, begun), now + ceremony.lead, live.at if live else None)
        context, counts = Context(zone), 0
        for start in starts:
            identifier = self._ids()
            values = {
                "id": identifier,
                "zone": zone,
                "ceremony": name,
                "starts_at": start,
                "ends_at": start + span(ceremony.duration),
                "made_by": made_by,
                "now": now,
            }
            if await dates.add(tx, values):
                counts += 1
                await dates.tell(tx, self._recorder, context, await dates.find(tx, zone, identifier), "scheduled")
            else:  # an earlier version had it at the same instant, and people may have been told
                await tx.run(
                    "UPDATE rhythm_occurrences SET made_by = :made_by, ends_at = :ends_at WHERE zone = :zone"
                    " AND ceremony = :ceremony AND starts_at = :starts_at AND state = 'scheduled'",
                    **{key: values[key] for key in ("made_by", "ends_at", "zone", "ceremony", "starts_at")},
                )
        await self._cancel(
            tx, zone, "ceremony = :name AND made_by <> :made_by AND starts_at > :begun", now,
            name=name, made_by=made_by, begun=applied,
        )  # fmt: skip
        return counts

    async def _cancel(self, tx: Transaction, zone: str, which: str, now: datetime, **values: object) -> None:
        """What an earlier version had planned and nobody plans any more; what has begun stays owed."""
        rows = await tx.all(
            f"SELECT id FROM rhythm_occurrences WHERE zone = :zone AND state IN ('scheduled', 'pack_built')"  # noqa: S608
            f" AND starts_at > :now AND {which} FOR UPDATE",
            zone=zone,
            now=now,
            **values,
        )
        for row in rows:
            found = await dates.find(tx, zone, row["id"])
            await dates.move(tx, self._recorder, Context(zone), found, "cancelled", now)

    # ------------------------------------------------------------------ notices

    async def _notice(self, occurrence: Occurrence, ceremony: Ceremony, now: datetime) -> int:
        """Leave the newest notice that came due; one that was overtaken by another is not sent late."""
        moments = [occurrence.starts_at - span(each) for each in ceremony.notice]
        due = max((each for each in moments if each <= now), default=None)
        stale = occurrence.noticed is not None and due is not None and occurrence.noticed >= due
        if due is None or stale or now >= occurrence.starts_at or occurrence.state not in {"scheduled", "pack_built"}:
            return 0
        async with self._database.begin() as tx:
            await tx.run("UPDATE rhythm_occurrences SET noticed = :due WHERE id = :id", due=due, id=occurrence.id)
            person = await self._owners.accountable(tx, occurrence.zone, ceremony.owner, now)
            to = [f"role:{role}" for role in ceremony.roles]
            to += [f"person:{person.username}"] if person is not None else []
            for each in to:
                await self._notices.send(tx, occurrence.zone, _notice_of(occurrence, ceremony, each, due))
        return len(to)

    # ------------------------------------------------------------------ packs

    async def build_pack(self, context: Context, identifier: str, *, by: str) -> Pack:
        """Run the automatic parts and build the pack, unless it is built.

        Raises ``not_found``, and ``window_not_over`` before its time has come: a pack tells of what was.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            occurrence = await dates.find(tx, context.zone, identifier, lock=True)
            if occurrence.state not in {"scheduled", "overdue"} or await _has_pack(tx, identifier):
                return await packs.load(tx, identifier)
            definition = await packs.definition_of(tx, occurrence)
            ceremony = CEREMONY.read(definition.spec)
            require_over(_pack_due(occurrence, ceremony), now)
            # kept, so that whoever goes on after a death builds the same pack
            cut_off = occurrence.cut_off or now
            await tx.run("UPDATE rhythm_occurrences SET cut_off = :at WHERE id = :id", at=cut_off, id=identifier)
        await self._run_parts(context, occurrence, ceremony, cut_off)
        async with self._database.begin() as tx:
            occurrence = await dates.find(tx, context.zone, identifier, lock=True)
            if await _has_pack(tx, identifier):
                return await packs.load(tx, identifier)
            await self._actions.count_misses(tx, context, occurrence.ceremony, cut_off - packs.INSTANT_BEFORE)
            facts = await packs.gather(tx, occurrence, cut_off, definition, simulated=self._clock.simulated)
            pack = await packs.store(tx, identifier, packs.build(facts), self._clock.now(), by)
            await self._recorder.record(
                tx,
                codes.RHYTHM_PACK_BUILT,
                "success",
                context,
                subject=Subject(id=identifier, type="ceremony"),
                ceremony=occurrence.ceremony,
                cut_off=utc(cut_off),
                sha256=pack.sha256,
                verdict=str(pack.verdict),
            )
            if occurrence.state == "scheduled":
                occurrence = await dates.move(tx, self._recorder, context, occurrence, "pack_built", self._clock.now())
            if not ceremony.attended and occurrence.state == "pack_built":
                await dates.move(tx, self._recorder, context, occurrence, "done", self._clock.now())
                await self._alerts.clear(tx, context, _overdue_key(occurrence))
            await self._tell_verdict(tx, context, occurrence, ceremony, pack)
        return pack

    async def _run_parts(self, context: Context, occurrence: Occurrence, ceremony: Ceremony, cut_off: datetime) -> None:
        since = cut_off - span(ceremony.window)
        async with self._database.begin() as tx:
            there = {run.name for run in await automatic.runs_of(tx, occurrence.id)}
        for name in ceremony.automatic:
            if name in there:
                continue
            found = await automatic.run_part(self._database, self._parts, name, context.zone, since, cut_off)
            try:
                async with self._database.begin() as tx:
                    await automatic.keep(
                        tx, self._records, context, occurrence.id, name, found, self._producer, since, cut_off,
                        self._clock.now(),
                    )  # fmt: skip
            except IntegrityError:
                log.info("automatic part was run by another process too", part=name, occurrence=occurrence.id)

    async def _pack_quietly(self, occurrence: Occurrence) -> int:
        try:
            await self.build_pack(Context(occurrence.zone), occurrence.id, by=CLOCK)
        except BailiwickError as error:
            if error.status >= 500:
                raise
            log.warning("no pack could be built", occurrence=occurrence.id, reason=error.reason)
            return 0
        return 1

    async def _tell_verdict(
        self, tx: Transaction, context: Context, occurrence: Occurrence, ceremony: Ceremony, pack: Pack
    ) -> None:
        key = f"rhythm/{occurrence.ceremony}/automatic"
        if pack.verdict.green:
            await self._alerts.clear(tx, context, key)
            return
        wrong = pack.verdict in {Verdict.FAIL, Verdict.ERROR}
        parts = [run.name for run in await automatic.runs_of(tx, occurrence.id) if not run.verdict.green]
        await self._alerts.fire(
            tx,
            context,
            Raised(
                key,
                "rhythm.automatic",
                Severity.P2 if wrong else Severity.P3,
                f"{ceremony.title}: {pack.verdict} in {', '.join(parts)}",
                ceremony.owner,
                RUNBOOK,
                labels={"ceremony": occurrence.ceremony, "verdict": str(pack.verdict)},
                annotations={"occurrence": occurrence.id, "pack": pack.sha256},
            ),
        )

    # ------------------------------------------------------------------ what was not held

    async def _former(self, occurrence: Occurrence) -> Ceremony:
        """A ceremony that is in force no more, as it was: what had begun is owed still."""
        async with self._database.begin() as tx:
            return CEREMONY.read((await packs.definition_of(tx, occurrence)).spec)

    async def _settle(self, seen: Occurrence, ceremony: Ceremony) -> str:
        """Call overdue what was not held or signed in time, and missed what the next one has overtaken."""
        async with self._database.begin() as tx:
            now = self._clock.now()
            occurrence = await dates.find(tx, seen.zone, seen.id, lock=True)
            next_start = await tx.value(
                "SELECT min(starts_at) FROM rhythm_occurrences WHERE zone = :zone AND ceremony = :ceremony"
                " AND starts_at > :start AND state <> 'cancelled'",
                zone=seen.zone,
                ceremony=seen.ceremony,
                start=seen.starts_at,
            )
            became = standing(occurrence, ceremony, next_start, now)
            if became is None:
                return ""
            context = Context(seen.zone)
            await dates.move(tx, self._recorder, context, occurrence, became, now)
            await self._tell_overdue(tx, context, occurrence, ceremony, became, now)
        return became

    async def _tell_overdue(
        self, tx: Transaction, context: Context, occurrence: Occurrence, ceremony: Ceremony, state: str, now: datetime
    ) -> None:
        person = await self._owners.accountable(tx, occurrence.zone, ceremony.owner, now)
        owed = "its minutes are not signed" if occurrence.held_at else "it was not held"
        summary = f"OVERDUE: {ceremony.title} of {occurrence.starts_at:%Y-%m-%d %H:%M} UTC, {owed}"
        await self._alerts.fire(
            tx,
            context,
            Raised(
                _overdue_key(occurrence),
                "rhythm.overdue",
                Severity.P2,
                summary,
                ceremony.owner,
                RUNBOOK,
                labels={"ceremony": occurrence.ceremony, "state": state},
                annotations={
                    "occurrence": occurrence.id,
                    "accountable": person.username if person is not None else "nobody",
                },
            ),
        )
        if person is not None:
            text = f"{summary}.\n\nYou answer for {ceremony.owner}.\n"
            key = f"rhythm/{occurrence.id}/{state}"
            await self._notices.send(
                tx, occurrence.zone, Notice(f"person:{person.username}", key, summary[:200], text, Severity.P2)
            )


def standing(
    occurrence: Occurrence, ceremony: Ceremony, next_start: datetime | None, now: datetime
) -> dates.State | None:
    """What an occurrence has to become by ``now``; None where it stays. ``next_start``: when the next one began."""
    if occurrence.held_at is not None:
        late = occurrence.state == "held" and now >= occurrence.held_at + span(ceremony.grace)
        return "overdue" if late else None
    if occurrence.state not in {"scheduled", "pack_built", "overdue"} or now < _too_late(occurrence, ceremony):
        return None
    if not ceremony.attended or (next_start is not None and next_start <= now):
        return "missed"
    return None if occurrence.state == "overdue" else "overdue"


def _pack_due(occurrence: Occurrence, ceremony: Ceremony) -> datetime:
    # the clock looks when it is to look
    return occurrence.starts_at - span(ceremony.pack_lead if ceremony.attended else "0s")


def _too_late(occurrence: Occurrence, ceremony: Ceremony) -> datetime:
    return occurrence.ends_at + span(ceremony.grace)


def _overdue_key(occurrence: Occurrence) -> str:
    return f"rhythm/{occurrence.ceremony}/overdue"


def _notice_of(occurrence: Occurrence, ceremony: Ceremony, to: str, due: datetime) -> Notice:
    lines = [f"{ceremony.title} begins {utc(occurrence.starts_at)} and takes {ceremony.duration}."]
    if ceremony.roles:
        lines.append(f"Must be there: {', '.join(ceremony.roles)}.")
    lines += ["", *(f"- {line}" for line in ceremony.agenda)]
    subject = f"{ceremony.title}: {occurrence.starts_at:%a %d %b %H:%M} UTC"
    return Notice(to, f"rhythm/{occurrence.id}/{utc(due)}/{to}", subject[:200], "\n".join(lines) + "\n")


async def _has_pack(tx: Transaction, occurrence: str) -> bool:
    return bool(await tx.value("SELECT 1 FROM rhythm_packs WHERE occurrence = :id", id=occurrence))
