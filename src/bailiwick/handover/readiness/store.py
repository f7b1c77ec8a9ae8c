"""Runs, results, attestations and their reviews: rows that are only ever added."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bailiwick.handover.readiness.rules import Attested, Result
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class ReadinessRun:
    """One run. ``score`` is that of its moment."""

    id: str
    environment: str
    profile: str
    revision: int
    asked_by: str
    started_at: datetime
    finished_at: datetime
    verdict: Verdict
    score: dict[str, int]
    record: str

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run leaves of one item. ``looked``: whether a probe did, now."""

    item: str
    sha256: str
    looked: bool
    verdict: Verdict
    detail: str
    at: datetime
    expires_at: datetime | None
    value: float | None = None
    unit: str = ""
    waiver: str = ""
    took_ms: int = 0
    record: str = ""


async def add_run(tx: Transaction, zone: str, run: ReadinessRun, results: Sequence[Kept]) -> None:
    """Write a run down with everything it found."""
    await tx.run(
        "INSERT INTO readiness_runs (id, zone, environment, profile, revision, asked_by, started_at, finished_at,"
        " verdict, score, record) VALUES (:id, :zone, :environment, :profile, :revision, :asked_by, :started,"
        " :finished, :verdict, cast(:score AS jsonb), :record)",
        id=run.id,
        zone=zone,
        environment=run.environment,
        profile=run.profile,
        revision=run.revision,
        asked_by=run.asked_by,
        started=run.started_at,
        finished=run.finished_at,
        verdict=str(run.verdict),
        score=json.dumps(run.score),
        record=run.record,
    )
    for each in results:
        await tx.run(
            "INSERT INTO readiness_results (run, zone, environment, item, sha256, looked, verdict, value, unit, detail,"
            " waiver, took_ms, at, expires_at, record) VALUES (:run, :zone, :environment, :item, :sha256, :looked,"
            " :verdict, :value, :unit, :detail, :waiver, :took, :at, :expires, :record)",
            run=run.id,
            zone=zone,
            environment=run.environment,
            item=each.item,
            sha256=each.sha256,
            looked=each.looked,
            verdict=str(each.verdict),
            value=each.value,
            unit=each.unit,
            detail=each.detail.replace("\x00", "\ufffd")[:1000],
            waiver=each.waiver,
            took=each.took_ms,
            at=each.at,
            expires=each.expires_at,
            record=each.record,
        )


async def runs(
    tx: Transaction, zone: str, environment: str, *, until: datetime | None = None, limit: int = 30
) -> list[ReadinessRun]:
    """The runs of an environment, newest first; none that ended after ``until``."""
    rows = await tx.all(
        "SELECT id, environment, profile, revision, asked_by, started_at, finished_at, verdict, score, record"
        " FROM readiness_runs WHERE zone = :zone AND environment = :environment"
        " AND (CAST(:until AS timestamptz) IS NULL OR finished_at <= :until)"
        " ORDER BY finished_at DESC, id DESC LIMIT :limit",
        zone=zone,
        environment=environment,
        until=until,
        limit=limit,
    )
    return [ReadinessRun(**{**row, "verdict": Verdict(row["verdict"])}) for row in rows]


async def newest_results(tx: Transaction, zone: str, environment: str, now: datetime) -> dict[str, Result]:
    """What the newest look at each item before ``now`` found."""
    rows = await tx.all(
        "SELECT DISTINCT ON (item) item, verdict, at, expires_at, detail, value, unit, took_ms, sha256, record"
        " FROM readiness_results WHERE zone = :zone AND environment = :environment AND looked AND at <= :now"
        " ORDER BY item, at DESC, run DESC",
        zone=zone,
        environment=environment,
        now=now,
    )
    return {row["item"]: _result(row) for row in rows}


async def history(tx: Transaction, zone: str, environment: str, item: str, limit: int = 10) -> list[Result]:
    """What was found of one item, newest first."""
    rows = await tx.all(
        "SELECT item, verdict, at, expires_at, detail, value, unit, took_ms, sha256, record FROM readiness_results"
        " WHERE zone = :zone AND environment = :environment AND item = :item AND looked"
        " ORDER BY at DESC, run DESC LIMIT :limit",
        zone=zone,
        environment=environment,
        item=item,
        limit=limit,
    )
    return [_result(row) for row in rows]


async def add_attestation(tx: Transaction, zone: str, environment: str, made: Attested) -> None:
    """Write down what somebody states."""
    await tx.run(
        "INSERT INTO readiness_attestations (id, zone, environment, item, sha256, statement, attachment,"
        " attachment_sha256, author, made_at, expires_at, record) VALUES (:id, :zone, :environment, :item, :sha256,"
        " :statement, :attachment, :attachment_sha256, :author, :made_at, :expires_at, :record)",
        id=made.id,
        zone=zone,
        environment=environment,
        item=made.item,
        sha256=made.sha256,
        statement=made.statement,
        attachment=made.attachment,
        attachment_sha256=made.attachment_sha256,
        author=made.author,
        made_at=made.made_at,
        expires_at=made.expires_at,
        record=made.record,
    )


async def add_review(
    tx: Transaction, attestation: str, outcome: str, reviewer: str, note: str, at: datetime, record: str
) -> bool:
    """Write down what another person said to it; False where somebody did before."""
    return bool(
        await tx.run(
            "INSERT INTO readiness_reviews (attestation, outcome, reviewer, note, reviewed_at, record)"
            " VALUES (:attestation, :outcome, :reviewer, :note, :at, :record) ON CONFLICT DO NOTHING",
            attestation=attestation,
            outcome=outcome,
            reviewer=reviewer,
            note=note,
            at=at,
            record=record,
        )
    )


async def attestation(tx: Transaction, zone: str, environment: str, identifier: str) -> Attested | None:
    """One attestation; None where there is none by that id."""
    row = await tx.one(f"{_ATTESTED} AND a.id = :id", zone=zone, environment=environment, id=identifier, now=None)
    return _attested(row) if row is not None else None


async def attestations(
    tx: Transaction, zone: str, environment: str, now: datetime | None = None
) -> dict[str, list[Attested]]:
    """What was stated of each item, newest first; as it was at ``now``, where that is said."""
    rows = await tx.all(
        f"{_ATTESTED} AND (CAST(:now AS timestamptz) IS NULL OR a.made_at <= :now)"
        " ORDER BY a.made_at DESC, a.id DESC LIMIT 5000",
        zone=zone,
        environment=environment,
        now=now,
    )
    found: dict[str, list[Attested]] = {}
    for row in rows:
        found.setdefault(row["item"], []).append(_attested(row))
    return found


async def reviews(tx: Transaction, zone: str, environment: str, now: datetime) -> dict[str, str]:
    """The evidence record of each review by which something stated was accepted by ``now``, by that of what was."""
    rows = await tx.all(
        "SELECT a.record AS stated, r.record FROM readiness_attestations a JOIN readiness_reviews r"
        " ON r.attestation = a.id WHERE a.zone = :zone AND a.environment = :environment AND r.outcome = 'accepted'"
        " AND r.reviewed_at <= :now ORDER BY r.reviewed_at",
        zone=zone,
        environment=environment,
        now=now,
    )
    return {row["stated"]: row["record"] for row in rows}


_ATTESTED = (
    "SELECT a.id, a.item, a.sha256, a.statement, a.attachment, a.attachment_sha256, a.author, a.made_at, a.expires_at,"
    " a.record, coalesce(r.outcome, '') AS outcome, coalesce(r.reviewer, '') AS reviewer, r.reviewed_at,"
    " coalesce(r.note, '') AS note,"
    " a.attachment_sha256 = '' OR EXISTS (SELECT FROM readiness_attachments k"
    " WHERE k.zone = a.zone AND k.sha256 = a.attachment_sha256) AS attachment_kept"
    " FROM readiness_attestations a LEFT JOIN readiness_reviews r"
    " ON r.attestation = a.id AND (CAST(:now AS timestamptz) IS NULL OR r.reviewed_at <= :now)"
    " WHERE a.zone = :zone AND a.environment = :environment"
)


def _attested(row: Row) -> Attested:
    return Attested(**row)


def _result(row: Row) -> Result:
    return Result(**{**{name: row[name] for name in row if name != "item"}, "verdict": Verdict(row["verdict"])})
