"""Building a pack: every chapter says what is so of the window, and each statement is shown by an evidence record.

A statement that names none gets one of what it says, so that it stands in the ledger like any other finding. One that
names a record says no better than that does: what expired is STALE, what failed is FAIL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bailiwick import __version__
from bailiwick.assurance.book import canonical, check
from bailiwick.assurance.books import Books, plan
from bailiwick.assurance.ports import Waivers
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject, rfc3339
from bailiwick.evidence.evidence_records import EvidenceRecord, EvidenceRecords, Producer
from bailiwick.handover.handovers import transfers
from bailiwick.handover.handovers.document import (
    FORMAT,
    LIFE,
    MOST_FIGURES,
    Shown,
    chapters_of,
    digest,
    overall,
    standing_json,
    waivers_of,
)
from bailiwick.handover.handovers.plan import PLAN, TEAMS, HandoverPlan, Who
from bailiwick.handover.handovers.records import Handover, find
from bailiwick.handover.handovers.signing import Keys
from bailiwick.handover.ports import Chapter, Environments, Readiness, Standing, Statement
from bailiwick.identity.holders import holders
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Conflict, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.modes import Switch, require_on
from bailiwick.kernel.redaction import scrub
from bailiwick.kernel.verdicts import Verdict, worst

CONTROL = "handover-statement"
"""The control that a waiver of a statement is of; its scope is environment, chapter and name."""

PROGRAM = "bailiwick handover build"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a pack is built of, and of whom it is asked."""

    books: Books
    records: EvidenceRecords
    waivers: Waivers
    readiness: Readiness
    environments: Environments
    chapters: Mapping[str, Chapter]  # filled by all parts while they are built
    keys: Keys


class Packer:
    """Builds packs."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, asked: Asked) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._asked = asked

    async def build(self, context: Context, name: str, *, by: str) -> Handover:
        """The pack of the plan ``name``, in place of one of its environment that is not accepted yet.

        Raises ``not_found`` for a plan or an environment that nobody declared, ``handover_evidence_missing``.
        """
        zone, now, identifier = context.zone, self._clock.now(), self._ids()
        async with self._database.begin() as tx:
            await require_on(tx, zone, Switch.READ_ONLY)
            said = await self._asked.books.read(tx, zone, PLAN, name)
            if said is None:
                raise NotFound(f"The book has no HandoverPlan {name}.")
            if await self._asked.environments.get(tx, zone, said.environment) is None:
                raise NotFound(f"Nobody declared the environment {said.environment}.")
            await tx.run(
                "SELECT pg_advisory_xact_lock(hashtext('bailiwick.handovers'), hashtext(:key))",
                key=f"{zone}/{said.environment}",
            )
            since = now - timedelta(days=said.window_days)
            shown = await self._shown(tx, context, said, since, now)
            readiness = await self._asked.readiness.standing(tx, zone, said.environment)
            if readiness.passes:
                for waiver in readiness.waivers:
                    await self._asked.waivers.used(tx, context, waiver, f"handover/{said.environment}/readiness")
            document = await self._document(tx, identifier, zone, name, said, since, now, by, shown, readiness)
            await self._store(tx, context, identifier, name, document)
            return await find(tx, zone, identifier)

    # ------------------------------------------------------------------ statements

    async def _shown(
        self, tx: Transaction, context: Context, said: HandoverPlan, since: datetime, now: datetime
    ) -> list[Shown]:
        shown: list[Shown] = []
        missing: list[str] = []
        for chapter, tell in sorted(self._asked.chapters.items()):
            names: set[str] = set()
            for statement in await tell(tx, context.zone, said.environment, since, now):
                if statement.name in names:
                    raise ValueError(f"chapter {chapter} makes the statement {statement.name} twice")
                names.add(statement.name)
                proven = await self._proven(tx, context, said.environment, chapter, statement, now)
                if proven is None:
                    missing.append(f"{chapter}/{statement.name}: {statement.record}")
                    continue
                shown.append(await self._waived(tx, context, said.environment, Shown(chapter, proven), now))
        if missing:
            raise Conflict(reason="handover_evidence_missing", records=missing[:50])
        return shown

    async def _proven(
        self, tx: Transaction, context: Context, environment: str, chapter: str, statement: Statement, now: datetime
    ) -> Statement | None:
        """The statement with its record, no greener than that; None where there is no such record."""
        if not statement.record:
            return await self._recorded(tx, context, environment, chapter, statement, now)
        identifier, *beside = [each.removeprefix("sha256:") for each in (statement.record, *statement.beside)]
        verdicts = [statement.verdict]
        try:
            for each in (identifier, *beside):
                found = (await self._asked.records.get(tx, context.zone, each)).record.verdict(now)
                verdicts += [found] if found is not None else []
        except NotFound:
            return None
        clean, _ = _clean(statement)
        until = min(statement.until, now)
        return replace(statement, **clean, verdict=worst(verdicts), record=identifier, beside=beside, until=until)

    async def _recorded(
        self, tx: Transaction, context: Context, environment: str, chapter: str, statement: Statement, now: datetime
    ) -> Statement:
        """The statement with a record of its own."""
        clean, output = _clean(statement)
        until = min(statement.until, now)
        stored = await self._asked.records.probe(
            tx,
            context,
            _check_name(environment, chapter, statement.name),
            output,
            exit_code=statement.verdict.exit_code,
            since=min(statement.since, until),
            until=until,
            producer=Producer(name=statement.producer[:200] or "bailiwick", program=PROGRAM, version=__version__),
            expires_at=now + LIFE,
        )
        return replace(statement, **clean, record=stored.id, until=until, since=min(statement.since, until))

    async def _waived(self, tx: Transaction, context: Context, environment: str, shown: Shown, now: datetime) -> Shown:
        """With the waiver that lets it pass in this environment: its own, or else one of the statement."""
        said, waivers = shown.statement, self._asked.waivers
        if said.verdict.green or not said.waivable:
            return shown
        scope = f"{environment}/{shown.name}"
        waiver = said.waiver or await waivers.covering(tx, context.zone, CONTROL, scope, now)
        granted = await waivers.granted(tx, context.zone, waiver, now) if waiver else None
        if granted is None:
            return shown
        await waivers.used(tx, context, granted.id, "handover")
        return replace(shown, waiver=granted)

    # ------------------------------------------------------------------ the document

    async def _document(
        self,
        tx: Transaction,
        identifier: str,
        zone: str,
        name: str,
        said: HandoverPlan,
        since: datetime,
        now: datetime,
        by: str,
        shown: Sequence[Shown],
        readiness: Standing,
    ) -> dict[str, Any]:
        book = await self._asked.books.current(tx, zone)
        kinds = self._asked.books.kinds
        planned = transfers.require_one(plan(book, check(zone, transfers.wanted(book, said), kinds), kinds))
        differences = [each.document() for each in planned.differences]
        party = self._asked.keys.party()
        producers = {by, *(each.statement.producer for each in shown)}
        for each in shown:
            producers.add(await self._producer(tx, zone, each.statement.record))
        return {
            "format": FORMAT,
            "handover": identifier,
            "zone": zone,
            "plan": name,
            "plan_version": book.documents[PLAN.name, name].version,
            "platform": said.platform,
            "environment": said.environment,
            "from": said.begins,
            "to": said.to,
            "since": _at(since),
            "until": _at(now),
            "built_at": _at(now),
            "good_until": _at(now + LIFE),
            "built_by": by,
            "version": __version__,
            "simulated_clock": self._clock.simulated,
            "book": {"revision": book.revision, "sha256": book.sha256},
            "relying_party": {"id": party.id, "origin": party.origin} if party else None,
            "teams": {team: await self._team(tx, zone, said.teams[team]) for team in TEAMS},
            "receives": said.receives.told(),
            "transfer": {"sha256": digest({"differences": differences})[1], "differences": differences},
            "readiness": standing_json(readiness),
            "producers": sorted(producer for producer in producers if producer),
            "waivers": waivers_of(shown),
            "chapters": chapters_of(shown),
            "verdict": str(overall(shown, readiness)),
        }

    async def _team(self, tx: Transaction, zone: str, who: Who) -> dict[str, Any]:
        """Who signs for a team, with the keys that he may do it by."""
        names = sorted({*who.people, *(await holders(tx, zone, [who.role]) if who.role else [])})
        keys = [{"person": name, **key} for name in names for key in await self._asked.keys.named(tx, zone, name)]
        return {**who.told(), "keys": keys}

    async def _producer(self, tx: Transaction, zone: str, record: str) -> str:
        stored: EvidenceRecord = (await self._asked.records.get(tx, zone, record)).record
        return stored.producer.name

    async def _store(
        self, tx: Transaction, context: Context, identifier: str, name: str, document: Mapping[str, Any]
    ) -> None:
        zone, now, by = context.zone, self._clock.now(), str(document["built_by"])
        body, sha256 = digest(document)
        await tx.run(
            "UPDATE handovers SET state = 'superseded', ended_at = :now, ended_by = :by"
            " WHERE zone = :zone AND environment = :environment AND state IN ('proposed', 'signed')",
            zone=zone,
            environment=document["environment"],
            now=now,
            by=by,
        )
        event = await self._recorder.record(
            tx,
            codes.HANDOVER_BUILT,
            "success",
            context,
            subject=Subject(id=identifier, type="handover"),
            environment=document["environment"],
            sha256=sha256,
            verdict=document["verdict"],
            statements=sum(len(chapter["statements"]) for chapter in document["chapters"]),
        )
        await tx.run(
            "INSERT INTO handovers (id, zone, plan, environment, since, until, good_until, verdict, sha256, document,"
            " built_by, built_at, event, state) VALUES (:id, :zone, :plan, :environment, :since, :until, :good_until,"
            " :verdict, :sha256, :document, :by, :until, :event, 'proposed')",
            id=identifier,
            zone=zone,
            plan=name,
            environment=document["environment"],
            since=datetime.fromisoformat(document["since"]),
            until=datetime.fromisoformat(document["until"]),
            good_until=datetime.fromisoformat(document["good_until"]),
            verdict=document["verdict"],
            sha256=sha256,
            document=body,
            by=by,
            event=event.id,
        )


def _clean(statement: Statement) -> tuple[dict[str, Any], bytes]:
    """What a statement says without secrets, as its record keeps it."""
    figures = _plain(statement.figures)
    body = canonical({"told": statement.told[:2000], "figures": figures})
    if len(body) > MOST_FIGURES:
        body = canonical({"told": statement.told[:2000], "figures": {"left_out": f"{len(body)} bytes of figures"}})
    text, _ = scrub(body.decode())
    try:
        said = json.loads(text)
        return {"told": said["told"], "figures": said["figures"]}, canonical(said)
    except (ValueError, KeyError, TypeError):  # what was taken out took the form with it
        said = {"told": scrub(statement.told[:2000])[0], "figures": {"left_out": "figures with the form of a secret"}}
        return said, canonical(said)


def _plain(value: Any) -> Any:
    """As JSON: instants as text, names and texts without secrets, numbers that are none as nothing."""
    if isinstance(value, Verdict):
        return str(value)
    if isinstance(value, str):
        return scrub(value.replace("\x00", "\ufffd"))[0]
    if isinstance(value, datetime):
        return _at(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _check_name(*parts: str) -> str:
    """What the record of a statement is of."""
    slugs = [re.sub(r"[^a-z0-9._-]+", "-", part.lower()).strip("-.") or "x" for part in parts]
    return "/".join(["handover", *slugs])[:128].rstrip("/")


def _at(moment: datetime) -> str:
    return rfc3339(moment.astimezone(UTC))
