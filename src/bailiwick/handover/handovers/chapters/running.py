"""How it is run: what is watched, which runbooks were gone through, what is waived, how well it does, what recurs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.alerting.rules import ALERT_RULE
from bailiwick.assurance.books import Books
from bailiwick.assurance.notices.channels import CHANNEL
from bailiwick.assurance.notices.routes import ROUTE
from bailiwick.assurance.ports import SloFacts
from bailiwick.assurance.rhythm.ceremonies import CEREMONY, in_force, occurrences
from bailiwick.handover.handovers.chapters.look import Look, cut, fails, judged
from bailiwick.handover.handovers.service import cadence_of
from bailiwick.handover.incidents.documents import RUNBOOK
from bailiwick.handover.ports import Statement
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

RUNBOOK_LIFE = timedelta(days=90)
DRILL_LIFE = timedelta(days=90)
EVALUATED = timedelta(hours=1)
SETTLED = timedelta(days=1)  # by when it is known whether a ceremony was held
CADENCES = {"daily": timedelta(days=2), "weekly": timedelta(days=8), "monthly": timedelta(days=40)}


class Observability:
    """Dashboards and alerts: rules, the ways by which they reach somebody, and that they were seen to go off.

    ``logs``: where log lines go.
    """

    def __init__(self, books: Books, logs: str) -> None:
        self._books = books
        self._logs = logs

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """The chapter."""
        look = Look(tx, zone, environment, since, until)
        return [
            await self._rules(look),
            await self._evaluated(look),
            await self._ways(look),
            await self._drills(look),
            await self._open(look),
            look.says("log-access", self._logs, Verdict.PASS),
        ]

    async def _rules(self, look: Look) -> Statement:
        rules = (await self._books.current(look.tx, look.zone)).of(ALERT_RULE)
        rows = [
            {"rule": name, "severity": str(each.severity), "owner": each.owner, "runbook": each.runbook}
            for name, each in rules.items()
        ]
        return look.says("alert-rules", f"{len(rows)} rules", judged(True, there=bool(rows)), cut(rows))

    async def _evaluated(self, look: Look) -> Statement:
        row = await look.tx.one(
            "SELECT count(DISTINCT rule) AS rules, count(*) FILTER (WHERE verdict = 'ERROR') AS errors,"
            " max(at) AS newest FROM alert_evaluations WHERE zone = :zone AND at >= :since AND at <= :until",
            zone=look.zone,
            since=look.until - EVALUATED,
            until=look.until,
        )
        assert row is not None
        told = f"{row['rules']} rules were evaluated in the last hour; {row['errors']} times that failed"
        verdict = judged(not row["errors"], there=bool(row["rules"]))
        return look.says("alert-evaluation", told, verdict, dict(row), since=look.until - EVALUATED)

    async def _ways(self, look: Look) -> Statement:
        """Every route, and whether the most urgent alerts have one."""
        book = await self._books.current(look.tx, look.zone)
        routes, channels = book.of(ROUTE), book.of(CHANNEL)
        rows = [
            {"route": name, "severities": [str(each) for each in route.severities] or ["all"],
             "channels": route.channels}
            for name, route in routes.items()
        ]  # fmt: skip
        urgent = any(not route.severities or Severity.P0 in route.severities for route in routes.values())
        told = f"{len(routes)} routes to {len(channels)} channels" + ("" if urgent else "; none is for P0")
        return look.says("alert-routes", told, judged(urgent, there=bool(routes)), cut(rows))

    async def _drills(self, look: Look) -> Statement:
        row = await look.tx.one(
            "SELECT id, rule, state, started_by, injected_at, fired_at, delivered_at, acknowledged_at FROM alert_drills"
            " WHERE zone = :zone AND injected_at <= :until AND state IN ('acknowledged', 'missed')"
            " ORDER BY injected_at DESC LIMIT 1",
            zone=look.zone,
            until=look.until,
        )
        if row is None:
            return look.says("alarm-drill", "no alarm drill came to its end yet", Verdict.NO_DATA)
        stale = look.until - row["injected_at"] > DRILL_LIFE
        verdict = fails(row["state"] != "acknowledged")
        told = f"{row['rule']} on {row['injected_at']:%Y-%m-%d}: {row['state']}"
        return look.says(
            "alarm-drill",
            told,
            Verdict.STALE if stale and verdict.green else verdict,
            dict(row),
            producer=row["started_by"],
            since=row["injected_at"],
        )

    async def _open(self, look: Look) -> Statement:
        rows = await look.tx.all(
            "SELECT id, rule, severity, summary, owner_person, began_at FROM alerts WHERE zone = :zone"
            " AND state IN ('firing', 'acknowledged') ORDER BY severity, began_at",
            zone=look.zone,
        )
        grave = [row for row in rows if row["severity"] in ("P0", "P1")]
        told = f"{len(rows)} alerts are open, {len(grave)} of them P0 or P1"
        return look.says("open-alerts", told, fails(bool(grave)), cut([dict(row) for row in rows]))


class Runbooks:
    """Each runbook, and when it was last gone through to its end, of an incident or dry: within 90 days."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """The chapter."""
        look = Look(tx, zone, environment, since, until)
        book = await self._books.current(tx, zone)
        rows = await tx.all(
            "SELECT DISTINCT ON (runbook) runbook, id, version, dry, started_by, started_at, ended_at FROM runbook_runs"
            " WHERE zone = :zone AND outcome = 'done' AND ended_at <= :until ORDER BY runbook, ended_at DESC",
            zone=zone,
            until=until,
        )
        runs = {row["runbook"]: row for row in rows}
        found = []
        for name in book.of(RUNBOOK):
            run = runs.get(name)
            if run is None:
                found.append(look.says(name, "was never gone through to its end", Verdict.NO_DATA))
                continue
            stale = until - run["ended_at"] > RUNBOOK_LIFE
            told = f"{'dry' if run['dry'] else 'in earnest'}, done on {run['ended_at']:%Y-%m-%d} by {run['started_by']}"
            found.append(
                look.says(
                    name,
                    told,
                    Verdict.STALE if stale else Verdict.PASS,
                    dict(run),
                    producer=run["started_by"],
                    since=run["started_at"],
                )
            )
        return found or [look.says("runbooks", "the book has no runbook", Verdict.NO_DATA)]


class OpenWaivers:
    """Every waiver that is in force, and those past their end that nobody remedied."""

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """The chapter."""
        look = Look(tx, zone, environment, since, until)
        rows = await tx.all(
            "SELECT id, control, scope, risk, owner, plan, valid_until FROM waivers WHERE zone = :zone"
            " AND state = 'approved' AND valid_from <= :until AND (valid_until > :until OR settled_at IS NULL)"
            " ORDER BY valid_until",
            zone=zone,
            until=until,
        )
        lapsed = [row["id"] for row in rows if row["valid_until"] <= until]
        grave = [row["id"] for row in rows if row["risk"] in ("HIGH", "CRITICAL")]
        told = f"{len(rows)} waivers, {len(grave)} of high risk" + (f"; {len(lapsed)} past their end" if lapsed else "")
        return [look.says("register", told, fails(bool(lapsed)), cut([dict(row) for row in rows]))]


class ServiceLevels:
    """The history of service levels: how far they are measured, and the newest report of each kind."""

    def __init__(self, facts: SloFacts) -> None:
        self._facts = facts

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """The chapter."""
        look = Look(tx, zone, environment, since, until)
        facts = await self._facts.measured(tx, zone, since, until) or ()
        rows = [{"slo": each.slo, "valid_days": each.valid_days, "reports": each.reports} for each in facts]
        unmeasured = [each.slo for each in facts if not each.valid_days]
        told = f"{len(rows)} objectives" + (f"; {', '.join(unmeasured[:5])} is not measured" if unmeasured else "")
        reports = await tx.all(
            "SELECT DISTINCT ON (kind) id, kind, since, until, verdict, coverage, sha256, produced_by"
            " FROM assurance_reports WHERE zone = :zone AND kind LIKE 'slo-%' AND until <= :until"
            " ORDER BY kind, until DESC",
            zone=zone,
            until=until,
        )
        found = [look.says("measured", told, judged(not unmeasured, there=bool(rows)), cut(rows))]
        if not reports:
            found.append(look.says("reports", "no report on service levels was made yet", Verdict.NO_DATA))
        for row in reports:
            told = f"{row['since']:%Y-%m-%d} to {row['until']:%Y-%m-%d}: {row['verdict']}"
            found.append(
                look.says(
                    row["kind"],
                    told,
                    Verdict(row["verdict"]),
                    dict(row),
                    producer=row["produced_by"],
                    since=row["since"],
                )
            )
        return found


class Cadence:
    """Day two: what is done daily, weekly and monthly, whether it was the last time, and when it is next."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def __call__(
        self, tx: Transaction, zone: str, environment: str, since: datetime, until: datetime
    ) -> Sequence[Statement]:
        """The chapter."""
        look = Look(tx, zone, environment, since, until)
        book = await self._books.current(tx, zone)
        ceremonies = in_force(book)
        rows = await tx.all(
            "SELECT DISTINCT ON (ceremony) ceremony, starts_at, state FROM rhythm_occurrences WHERE zone = :zone"
            " AND ends_at <= :until AND state IN ('held', 'done', 'signed', 'overdue', 'missed')"
            " ORDER BY ceremony, starts_at DESC",
            zone=zone,
            until=until,
        )
        last = {row["ceremony"]: row for row in rows}
        found = []
        for cadence, ahead in CADENCES.items():
            named = {name: each for name, each in ceremonies.items() if cadence_of(each) == cadence}
            shown, came = [], []
            for name, each in named.items():
                coming = occurrences(each, until, until + ahead)
                row = last.get(name)
                shown.append(
                    {
                        "what": each.title,
                        "owner": each.owner,
                        "last": row["starts_at"] if row else None,
                        "state": row["state"] if row else "",
                        "next": coming[0] if coming else None,
                    }
                )
                applied = book.documents[CEREMONY.name, name].applied_at or since
                if row is None and occurrences(each, max(applied, since), until - SETTLED):
                    came.append(each.title)
            found.append(_held(look, cadence, shown, came))
        return found


def _held(look: Look, cadence: str, shown: list[dict[str, Any]], came: Sequence[str]) -> Statement:
    """How the ceremonies of a cadence went. ``came``: those whose day came, and of which nothing is known."""
    bad = [str(row["what"]) for row in shown if row["state"] in ("missed", "overdue") or row["next"] is None]
    first = [row for row in shown if not row["state"]]
    told = f"{len(shown)} things"
    if bad:
        told += f"; not as they should be: {', '.join(bad[:5])}"
    elif came:
        told += f"; never held, though the day came: {', '.join(came[:5])}"
    elif first:
        told += f", {len(first)} for the first time to come"
    verdict = judged(not bad, there=bool(shown) and (bool(bad) or not came))
    return look.says(cadence, told, verdict, cut(shown))
