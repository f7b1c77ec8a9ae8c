"""The reports on service levels, of a week and of 30 days: what was promised, and what was counted and measured."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.books import Books
from bailiwick.assurance.report.model import Block, Chart, Heading, Paragraph, Report, Table, number
from bailiwick.assurance.reports import ReportKind
from bailiwick.assurance.slo import buckets
from bailiwick.assurance.slo.budgets import FLAGGED_COVERAGE, LEAST_COVERAGE, Tally, exhausted
from bailiwick.assurance.slo.levels import Level, levels_of
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.verdicts import Verdict, worst

_STEPS = 60


class SloReports:
    """Builds them from the buckets."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def kinds(self) -> list[ReportKind]:
        """The weekly and the 30-day one."""
        return [ReportKind(name, self.build, show) for name in ("slo-weekly", "slo-30d")]

    async def build(
        self, tx: Transaction, zone: str, since: datetime, until: datetime, cutoff: int | None, revision: int | None
    ) -> dict[str, Any]:
        """What was counted between two instants, as it was known at ``cutoff``."""
        known = await buckets.cutoff(tx, zone) if cutoff is None else cutoff
        if revision is None:
            book = await self._books.current(tx, zone)
        else:
            book = await self._books.at(tx, zone, revision)
        levels = [await self._level(tx, zone, level, since, until, known) for level in levels_of(book)]
        verdict = worst(Verdict(each["verdict"]) for each in levels)
        coverage = min((each["coverage"] for each in levels), default=0.0)
        return {
            "zone": zone,
            "since": since.isoformat(),
            "until": until.isoformat(),
            "cutoff": known,
            "revision": book.revision,
            "verdict": str(verdict),
            "coverage": coverage,
            "flagged": [each["name"] for each in levels if each["coverage"] < FLAGGED_COVERAGE],
            "levels": levels,
        }

    async def _level(
        self, tx: Transaction, zone: str, level: Level, since: datetime, until: datetime, known: int
    ) -> dict[str, Any]:
        keys = (tx, zone, level.name, level.definition)
        (tally,) = await buckets.tallies(*keys, [since], until, **level.slices, upto=known)
        minutes = int((until - since).total_seconds() // 60)
        step = max(timedelta(minutes=1), (until - since) / _STEPS)
        series = await buckets.series(*keys, since, until, step, known)
        share = {int((at - since) / step): good / total if total else None for at, good, total in series}
        coverage = round(tally.minutes / minutes, 6) if minutes else 0.0
        verdict, reason = _judge(level, tally, coverage)
        return {
            **level.document(),
            "target": level.spec.objective.share,
            "good": tally.good,
            "total": tally.total,
            "bad": tally.bad,
            "events": tally.events,
            "sli": round(tally.good / tally.total, 9) if tally.total else None,
            "budget_left": _left(level, tally),
            "minutes": tally.minutes,
            "coverage": coverage,
            "verdict": str(verdict),
            "reason": reason,
            "series": [[(since + place * step).isoformat(), _rounded(share.get(place))] for place in range(_STEPS)],
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _left(level: Level, tally: Tally) -> float | None:
    allowed = float(level.terms.allowed) * tally.total
    return round(1 - tally.bad / allowed, 6) if allowed else None


def _judge(level: Level, tally: Tally, coverage: float) -> tuple[Verdict, str]:
    if tally.minutes == 0:
        return Verdict.NO_DATA, "absent"
    if tally.impossible:
        return Verdict.ERROR, "impossible"
    if tally.total == 0 or tally.events < level.terms.least:
        return Verdict.NO_DATA, "too_few_events"
    if exhausted(level.spec.objective.share, tally):
        return Verdict.FAIL, "budget_exhausted"
    if coverage < LEAST_COVERAGE:
        return Verdict.NO_DATA, "window_not_covered"
    return Verdict.PASS, "budget_kept"


def show(data: Mapping[str, Any]) -> Report:
    """The report for people."""
    rows = [
        (
            each["name"],
            Verdict(each["verdict"]),
            number(each["sli"], "%", 5),
            number(each["target"], "%", 5),
            f"{each['bad']:,} of {each['total']:,}",
            number(each["budget_left"], "%", 3),
            number(each["coverage"], "%", 4),
        )
        for each in data["levels"]
    ]
    blocks: list[Block] = [
        Heading("Service levels"),
        Table(("level", "verdict", "good", "target", "bad", "budget left", "measured"), rows, (2, 3, 4, 5, 6)),
    ]
    if data["flagged"]:
        told = f"Less than {FLAGGED_COVERAGE:.0%} of the window was measured of: {', '.join(data['flagged'])}."
        blocks.append(Paragraph(told))
    for each in data["levels"]:
        points = [(datetime.fromisoformat(at), value) for at, value in each["series"]]
        blocks += [
            Heading(each["name"]),
            Paragraph(f"{each['description']} {each['reason'].replace('_', ' ').capitalize()}.".strip()),
            Chart("Share that was good", points, "%", each["target"], "target"),
        ]
    facts = [("Zone", data["zone"]), ("Measured", number(data["coverage"], "%", 4) + " of the window at least")]
    days = (datetime.fromisoformat(data["until"]) - datetime.fromisoformat(data["since"])).days
    return Report(f"Service levels of {days} days", facts, Verdict(data["verdict"]), blocks)
