"""The history of runs: one row a run, which is only ever added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bailiwick.assurance.probes.reading import LastRun, Reading
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class ProbeRun:
    """One run as it is kept. ``asked_by`` is empty for the schedule; ``record`` the id of its evidence."""

    id: str
    probe: str
    due_at: datetime
    asked_by: str
    started_at: datetime
    finished_at: datetime
    expires_at: datetime
    verdict: Verdict
    value: float | None
    threshold: float | None
    comparison: str
    unit: str
    window_s: float | None
    detail: str
    record: str

    @property
    def last(self) -> LastRun:
        """What matters of it for how the probe stands."""
        return LastRun(self.verdict, self.finished_at, self.expires_at)

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


async def add(
    tx: Transaction,
    zone: str,
    probe: str,
    reading: Reading,
    *,
    id: str,
    due: datetime,
    asked_by: str,
    started: datetime,
    finished: datetime,
    expires: datetime,
    record: str,
) -> bool:
    """Write a run down; False where that occurrence has left its row already."""
    limit = reading.threshold
    return bool(
        await tx.run(
            "INSERT INTO probe_runs (id, zone, probe, due_at, asked_by, started_at, finished_at, expires_at, verdict,"
            " value, threshold, comparison, unit, window_s, detail, record) VALUES (:id, :zone, :probe, :due,"
            " :asked_by, :started, :finished, :expires, :verdict, :value, :threshold, :comparison, :unit, :window_s,"
            " :detail, :record) ON CONFLICT (zone, probe, due_at) DO NOTHING",
            id=id,
            zone=zone,
            probe=probe,
            due=due,
            asked_by=asked_by,
            started=started,
            finished=finished,
            expires=expires,
            verdict=str(reading.verdict),
            value=reading.value,
            threshold=limit.value if limit else None,
            comparison=str(limit.comparison) if limit else "",
            unit=str(reading.unit),
            window_s=reading.window.total_seconds() if reading.window else None,
            detail=reading.detail.replace("\x00", "\ufffd")[:1000],
            record=record,
        )
    )


async def of_due(tx: Transaction, zone: str, probe: str, due: datetime) -> ProbeRun | None:
    """The row that an occurrence has left."""
    row = await tx.one(
        f"{_SELECT} WHERE zone = :zone AND probe = :probe AND due_at = :due", zone=zone, probe=probe, due=due
    )
    return _run(row) if row is not None else None


async def newest(
    tx: Transaction, zone: str, probe: str = "", *, before: datetime | None = None, limit: int = 50
) -> list[ProbeRun]:
    """The newest runs, of one probe or of all."""
    rows = await tx.all(
        f"{_SELECT} WHERE zone = :zone AND (:probe = '' OR probe = :probe)"
        " AND (CAST(:before AS timestamptz) IS NULL OR finished_at < :before)"
        " ORDER BY finished_at DESC, id DESC LIMIT :limit",
        zone=zone,
        probe=probe,
        before=before,
        limit=limit,
    )
    return [_run(row) for row in rows]


async def latest(tx: Transaction, zone: str, probes: Sequence[str], each: int = 20) -> dict[str, list[ProbeRun]]:
    """The newest runs of each of ``probes``, newest first."""
    rows = await tx.all(
        f"SELECT r.* FROM unnest(CAST(:probes AS text[])) AS names (name) CROSS JOIN LATERAL ({_SELECT}"  # noqa: S608
        " WHERE zone = :zone AND probe = names.name ORDER BY finished_at DESC, id DESC LIMIT :each) r",
        zone=zone,
        probes=list(probes),
        each=each,
    )
    found: dict[str, list[ProbeRun]] = {name: [] for name in probes}
    for row in rows:
        found[row["probe"]].append(_run(row))
    return found


_SELECT = (
    "SELECT id, probe, due_at, asked_by, started_at, finished_at, expires_at, verdict, value, threshold, comparison,"
    " unit, window_s, detail, record FROM probe_runs"
)


def _run(row: Row) -> ProbeRun:
    return ProbeRun(**{**row, "verdict": Verdict(row["verdict"])})
