"""The automatic parts of ceremonies that this part brings itself, and how any of them is run and its finding kept.

Every part runs by itself: what one cannot find out is its own ERROR, and a name that nobody answers to is NO_DATA. Each
finding is an evidence record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from bailiwick.assurance.book import canonical
from bailiwick.assurance.ports import Automated, Automatic
from bailiwick.assurance.rhythm.actions import actions
from bailiwick.evidence.events import Context
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer
from bailiwick.identity import reports
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.verdicts import Verdict

TIMEOUT_S = 60.0
OUTBOX_LIMIT = timedelta(minutes=1)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a part found, as it is kept: see :class:`~bailiwick.assurance.ports.Automated`."""

    name: str
    query: str
    since: datetime
    until: datetime
    verdict: Verdict
    told: str
    figures: Mapping[str, int | str | bool]
    record: str


def verdict_of(*, wrong: int, seen: int | None = None) -> Verdict:
    """FAIL when something is ``wrong``, NO_DATA when nothing was ``seen``."""
    if wrong:
        return Verdict.FAIL
    return Verdict.NO_DATA if seen == 0 else Verdict.PASS


async def _events(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
    row = await tx.one(
        "SELECT count(*) AS events, count(*) FILTER (WHERE outcome = 'deny') AS denied,"
        " count(*) FILTER (WHERE outcome IN ('failure', 'error')) AS failed FROM ledger.events"
        " WHERE zone = :zone AND recorded_at > :since AND recorded_at <= :until",
        zone=zone,
        since=since,
        until=until,
    )
    figures = _figures(row)
    return Automated(verdict_of(wrong=0, seen=figures["events"]), "ledger.events/by-outcome/1", figures)


async def _actions(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
    found = await actions(tx, zone, until)
    overdue = sum(each.overdue(until) for each in found)
    return Automated(verdict_of(wrong=overdue), "rhythm.actions/1", {"open": len(found), "overdue": overdue})


async def _sessions(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
    row = await tx.one(
        "SELECT count(*) AS live, count(DISTINCT s.username) AS persons,"
        " count(*) FILTER (WHERE NOT u.is_active) AS of_disabled FROM sessions s"
        " JOIN users u ON u.zone = s.zone AND u.username = s.username"
        " WHERE s.zone = :zone AND s.ended_at IS NULL AND s.expires_at > :until AND s.created_at <= :until",
        zone=zone,
        until=until,
    )
    figures = _figures(row)
    return Automated(verdict_of(wrong=figures["of_disabled"]), "identity.sessions/live/1", figures)


def _report(name: reports.Name) -> Automatic:
    async def run(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
        days = min(7, max(1, (until - since).days))
        made = await reports.make(tx, name, zone, until, days=days)
        figures = {"rows": len(made.rows), "findings": made.findings}
        seen = figures["rows"] if name == "access" else None  # a zone that has nobody was not looked at
        return Automated(verdict_of(wrong=made.findings, seen=seen), f"identity.reports/{name}/1", figures)

    return run


async def _dead_letters(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
    row = await tx.one(
        "SELECT count(*) AS waiting, count(*) FILTER (WHERE d.at > :since) AS new FROM ledger.dead_letters d"
        " LEFT JOIN ledger.replays r ON r.dead_letter = d.id"
        " WHERE d.zone IN (:zone, '') AND d.at <= :until AND (r.at IS NULL OR r.at > :until)",
        zone=zone,
        since=since,
        until=until,
    )
    figures = _figures(row)
    return Automated(verdict_of(wrong=figures["waiting"]), "ledger.dead-letters/1", figures)


async def _outbox(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
    # written and read by the database's clock, as the events wait by it
    row = await tx.one(
        "SELECT count(*) AS waiting,"
        " CAST(coalesce(ceil(extract(epoch FROM clock_timestamp() - min(at))), 0) AS int) AS oldest_s FROM outbox"
        " WHERE zone = :zone",
        zone=zone,
    )
    figures = _figures(row)
    late = int(figures["oldest_s"] > OUTBOX_LIMIT.total_seconds())
    return Automated(verdict_of(wrong=late), "evidence.outbox/age/1", figures)


def _jobs(beginning: str, query: str) -> Automatic:
    async def run(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
        row = await tx.one(
            "SELECT count(*) FILTER (WHERE state = 'succeeded') AS succeeded,"
            " count(*) FILTER (WHERE state = 'failed') AS failed, count(*) FILTER (WHERE state = 'missed') AS missed"
            " FROM job_occurrences WHERE due_at > :since AND due_at <= :until AND job ~ :beginning",
            since=since,
            until=until,
            beginning=beginning,
        )
        figures = _figures(row)
        return Automated(
            verdict_of(wrong=figures["failed"] + figures["missed"], seen=sum(figures.values())), query, figures
        )

    return run


async def _approvals(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
    row = await tx.one(
        "SELECT count(*) AS asked, count(*) FILTER (WHERE ended = 'executed') AS executed,"
        " count(*) FILTER (WHERE ended IS NULL AND expires_at > :until) AS waiting FROM approvals"
        " WHERE zone = :zone AND requested_at > :since AND requested_at <= :until",
        zone=zone,
        since=since,
        until=until,
    )
    return Automated(Verdict.PASS, "approvals/by-end/1", _figures(row))


async def _changes(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
    row = await tx.one(
        "SELECT count(*) AS documents, count(DISTINCT revision) AS changes FROM assurance_documents"
        " WHERE zone = :zone AND applied_at > :since AND applied_at <= :until",
        zone=zone,
        since=since,
        until=until,
    )
    return Automated(Verdict.PASS, "assurance.documents/changed/1", _figures(row))


async def _policy_changes(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
    row = await tx.one(
        "SELECT count(*) AS changes, count(*) FILTER (WHERE outcome <> 'success') AS refused FROM ledger.events"
        " WHERE zone = :zone AND recorded_at > :since AND recorded_at <= :until AND code LIKE 'BW20%'",
        zone=zone,
        since=since,
        until=until,
    )
    return Automated(Verdict.PASS, "ledger.events/policy/1", _figures(row))


OWN: Mapping[str, Automatic] = {
    "policy.changes": _policy_changes,
    "audit.figures": _events,
    "rhythm.actions": _actions,
    "access.sessions": _sessions,
    "access.review": _report("access"),
    "access.orphans": _report("orphans"),
    "access.failed-logins": _report("failed-logins"),
    "evidence.dead-letters": _dead_letters,
    "evidence.outbox": _outbox,
    "jobs.runs": _jobs("^", "jobs/by-state/1"),
    "archive.runs": _jobs("archive", "jobs/archive/by-state/1"),
    "approvals.figures": _approvals,
    "assurance.changes": _changes,
}
"""What this part can find out itself, by name."""


async def run_part(
    database: Database, parts: Mapping[str, Automatic], name: str, zone: str, since: datetime, until: datetime
) -> Automated:
    """Run one part by itself. Whatever goes wrong in it is its verdict; raises only ``Unavailable``."""
    part = parts.get(name)
    if part is None:
        return Automated(Verdict.NO_DATA, f"{name}/none", told="Nothing here answers to this name.")
    try:
        async with asyncio.timeout(TIMEOUT_S), database.begin() as tx:
            return await part(tx, zone, since, until)
    except Unavailable:
        raise
    except TimeoutError:
        return Automated(Verdict.ERROR, f"{name}/failed", told=f"It did not end within {TIMEOUT_S:g} s.")
    except Exception as error:
        log.exception("automatic part failed", part=name, zone=zone)
        return Automated(Verdict.ERROR, f"{name}/failed", told=f"It failed: {type(error).__name__}.")


async def keep(
    tx: Transaction,
    records: EvidenceRecords,
    context: Context,
    occurrence: str,
    name: str,
    found: Automated,
    producer: Producer,
    since: datetime,
    until: datetime,
    now: datetime,
) -> Ran:
    """Keep what a part found for ``occurrence``, as an evidence record. An integrity error where another did."""
    told = {"figures": dict(found.figures), "query": found.query, "told": found.told, "verdict": str(found.verdict)}
    record = found.record
    if not record:
        stored = await records.probe(
            tx,
            context,
            name,
            canonical(told) + b"\n",
            exit_code=found.verdict.exit_code,
            since=since,
            until=until,
            producer=producer,
            inputs={"occurrence": occurrence, "query": found.query},
        )
        record = stored.id
    await tx.run(
        "INSERT INTO rhythm_runs (occurrence, name, query, since, until, verdict, told, figures, record, ran_at)"
        " VALUES (:occurrence, :name, :query, :since, :until, :verdict, :told, CAST(:figures AS jsonb), :record, :now)",
        occurrence=occurrence,
        name=name,
        query=found.query,
        since=since,
        until=until,
        verdict=str(found.verdict),
        told=found.told,
        figures=canonical(dict(found.figures)).decode(),
        record=record,
        now=now,
    )
    return Ran(name, found.query, since, until, found.verdict, found.told, found.figures, record)


async def runs_of(tx: Transaction, occurrence: str) -> list[Ran]:
    """What the parts found for an occurrence, by their names."""
    rows = await tx.all(
        "SELECT name, query, since, until, verdict, told, figures, record FROM rhythm_runs"
        " WHERE occurrence = :occurrence ORDER BY name",
        occurrence=occurrence,
    )
    return [Ran(**{**row, "verdict": Verdict(row["verdict"])}) for row in rows]


def _figures(row: Row | None) -> dict[str, Any]:
    return {name: int(value) for name, value in dict(row or {}).items()}
