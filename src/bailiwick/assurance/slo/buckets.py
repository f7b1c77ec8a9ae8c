"""The buckets: what was counted of a service level in each minute, and sums over them.

A bucket is only ever added to. A recount of a minute enters the difference from what is known of it, so counting the
same minute again changes nothing, events that came late are taken up, and what was known at an earlier time (the
entries up to a number) can be summed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from bailiwick.assurance.slo.budgets import Tally
from bailiwick.kernel.db import Transaction

Counts = Mapping[datetime, tuple[int, int]]
"""Good and total by minute, of the minutes that could be measured."""

_UTMOST = (1 << 63) - 1


async def lock(tx: Transaction, zone: str) -> None:
    """Enter alone: entries of a zone become visible in the order of their numbers."""
    await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.slo'), hashtext(:zone))", zone=zone)


async def enter(tx: Transaction, zone: str, slo: str, definition: str, counts: Counts, now: datetime) -> int:
    """Let the buckets say what ``counts`` says; how many entries that took."""
    if not counts:
        return 0
    await lock(tx, zone)
    minutes = sorted(counts)
    return await tx.run(
        _ENTER,
        zone=zone,
        slo=slo,
        definition=definition,
        # as PostgreSQL writes arrays: turning lists of thousands into parameters takes longer than all the rest
        minutes=_array(minute.isoformat() for minute in minutes),
        first=minutes[0],
        last=minutes[-1],
        goods=_array(counts[minute][0] for minute in minutes),
        totals=_array(counts[minute][1] for minute in minutes),
        now=now,
    )


def _array(values: Iterable[object]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


async def cutoff(tx: Transaction, zone: str) -> int:
    """The number of the newest entry of a zone; nothing will be entered below it."""
    await lock(tx, zone)
    return int(await tx.value("SELECT coalesce(max(number), 0) FROM sli_buckets WHERE zone = :zone", zone=zone))


async def measured_until(
    tx: Transaction, zone: str, slo: str, definition: str, *, until: datetime | None = None, upto: int = _UTMOST
) -> datetime | None:
    """The end of the newest minute that was measured (before ``until``); None where none was."""
    minute = await tx.value(
        "SELECT max(minute) FROM sli_buckets WHERE zone = :zone AND slo = :slo AND definition = :definition"
        " AND (CAST(:until AS timestamptz) IS NULL OR minute < :until) AND number <= :upto",
        zone=zone,
        slo=slo,
        definition=definition,
        until=until,
        upto=upto,
    )
    return minute + timedelta(minutes=1) if minute is not None else None


async def tallies(
    tx: Transaction,
    zone: str,
    slo: str,
    definition: str,
    begins: Sequence[datetime],
    until: datetime,
    *,
    slice_minutes: int = 0,
    slice_target: float = 0.0,
    upto: int = _UTMOST,
) -> list[Tally]:
    """One tally per beginning, each up to ``until``, of the entries numbered up to ``upto``.

    With ``slice_minutes`` good and total are slices of that many minutes: one is good where ``slice_target`` of its
    events were; one without events is none.
    """
    rows = await tx.all(
        _SLICED if slice_minutes else _SUMMED,
        zone=zone,
        slo=slo,
        definition=definition,
        begins=list(begins),
        first=min(begins),
        until=until,
        upto=upto,
        **({"slice": timedelta(minutes=slice_minutes), "target": slice_target} if slice_minutes else {}),
    )
    found = {
        row["place"]: Tally(
            begins[row["place"] - 1],
            row["minutes"],
            int(row["good"]),
            int(row["total"]),
            int(row["events"]),
            row["impossible"],
        )
        for row in rows
    }
    return [found.get(place, Tally(begin)) for place, begin in enumerate(begins, 1)]


async def series(
    tx: Transaction,
    zone: str,
    slo: str,
    definition: str,
    since: datetime,
    until: datetime,
    step: timedelta,
    upto: int = _UTMOST,
) -> list[tuple[datetime, int, int]]:
    """Good and total in steps from ``since`` on; steps in which nothing was measured are left out."""
    rows = await tx.all(
        "SELECT date_bin(:step, minute, :since) AS begin, sum(good) AS good, sum(total) AS total FROM sli_buckets"
        " WHERE zone = :zone AND slo = :slo AND definition = :definition AND minute >= :since AND minute < :until"
        " AND number <= :upto GROUP BY 1 ORDER BY 1",
        zone=zone,
        slo=slo,
        definition=definition,
        since=since,
        until=until,
        step=step,
        upto=upto,
    )
    return [(row["begin"], int(row["good"]), int(row["total"])) for row in rows]


_ENTER = """
WITH given AS (
  SELECT * FROM unnest(CAST(:minutes AS timestamptz[]), CAST(:goods AS bigint[]), CAST(:totals AS bigint[]))
    AS g (minute, good, total)
), known AS (
  SELECT minute, sum(good) AS good, sum(total) AS total FROM sli_buckets
  WHERE zone = :zone AND slo = :slo AND definition = :definition AND minute BETWEEN :first AND :last GROUP BY minute
)
INSERT INTO sli_buckets (zone, slo, definition, minute, good, total, counted_at)
SELECT :zone, :slo, :definition, g.minute, g.good - coalesce(k.good, 0), g.total - coalesce(k.total, 0), :now
FROM given g LEFT JOIN known k USING (minute)
WHERE k.minute IS NULL OR (k.good, k.total) IS DISTINCT FROM (g.good, g.total)
ORDER BY g.minute
"""
_MINUTES = """
WITH m AS MATERIALIZED (
  SELECT minute, sum(good) AS good, sum(total) AS total FROM sli_buckets
  WHERE zone = :zone AND slo = :slo AND definition = :definition AND minute >= :first AND minute < :until
    AND number <= :upto GROUP BY minute
), w AS (
  SELECT begin, place FROM unnest(CAST(:begins AS timestamptz[])) WITH ORDINALITY AS b (begin, place)
)
"""
_SUMMED = f"""{_MINUTES}
SELECT place, count(*) AS minutes, sum(good) AS good, sum(total) AS total, sum(total) AS events,
  count(*) FILTER (WHERE good > total OR good < 0) AS impossible
FROM w JOIN m ON m.minute >= w.begin GROUP BY place
"""  # noqa: S608 - nothing of a caller's is in it
_SLICED = f"""{_MINUTES}, s AS MATERIALIZED (
  SELECT place, date_bin(:slice, minute, '2000-01-01 00:00:00+00') AS slice, count(*) AS minutes,
    sum(good) AS good, sum(total) AS total, count(*) FILTER (WHERE good > total OR good < 0) AS impossible
  FROM w JOIN m ON m.minute >= w.begin GROUP BY place, slice
)
SELECT place, sum(minutes)::bigint AS minutes, sum(total) AS events, sum(impossible)::bigint AS impossible,
  count(*) FILTER (WHERE total > 0 AND good >= CAST(:target AS numeric) * total) AS good,
  count(*) FILTER (WHERE total > 0) AS total
FROM s GROUP BY place
"""  # noqa: S608 - as above
