"""What one part of the assurance room knows and another judges by: read from the tables, never told.

Windows are ``since < t <= until``. Everything here is a reading of rows: where there are none, there is no data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from bailiwick.app.assurance.secrets import inventory_of
from bailiwick.app.house import House
from bailiwick.assurance.books import Books
from bailiwick.assurance.capacity import CAPACITY
from bailiwick.assurance.dead_man import JobRuns
from bailiwick.assurance.ports import (
    Automated,
    Automatic,
    CapacityFact,
    Drill,
    Found,
    OpenWaiver,
    Risk,
    SloFact,
)
from bailiwick.assurance.rhythm.occurrences import utc
from bailiwick.assurance.secrets import state_of
from bailiwick.assurance.slo.openslo import SLO
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.verdicts import Verdict, worst

FULL_DAY = 1440 * 95 // 100
"""Minutes of a day that must have been counted for it to be one of valid samples: 95 of 100."""

_RISK: Mapping[str, Risk] = {"LOW": "LOW", "MEDIUM": "MED", "HIGH": "HIGH", "CRITICAL": "CRITICAL"}


class ProbeVerdicts:
    """The newest runs of probes: the port ``Verdicts``."""

    async def newest(self, tx: Transaction, zone: str, check: str, at: datetime) -> Found | None:
        """The newest run that had ended at ``at``; STALE where its evidence has expired by then."""
        row = await tx.one(
            "SELECT verdict, value, finished_at, expires_at FROM probe_runs WHERE zone = :zone AND probe = :check"
            " AND finished_at <= :at ORDER BY finished_at DESC LIMIT 1",
            zone=zone,
            check=check,
            at=at,
        )
        if row is None:
            return None
        verdict = Verdict.STALE if row["expires_at"] <= at else Verdict(row["verdict"])
        return Found(verdict, row["value"], row["finished_at"])


class WaiversInForce:
    """The register of waivers: the port ``WaiverFacts``."""

    async def open_at(self, tx: Transaction, zone: str, at: datetime) -> Sequence[OpenWaiver]:
        """Those that were in force at ``at``, also where they have ended since."""
        rows = await tx.all(
            "SELECT id, control, risk, valid_until FROM waivers WHERE zone = :zone AND valid_from <= :at"
            " AND valid_until > :at AND (state = 'approved'"
            "   OR state IN ('closed', 'revoked', 'renewed') AND decided_at <= :at AND changed_at > :at) ORDER BY id",
            zone=zone,
            at=at,
        )
        return [OpenWaiver(row["id"], row["control"], _RISK[row["risk"]], row["valid_until"]) for row in rows]


class AlarmDrills:
    """The drills that were held: the port ``DrillFacts``."""

    async def drills(self, tx: Transaction, zone: str, since: datetime, until: datetime) -> Sequence[Drill]:
        """Those injected in the window, with what had come of them at its end."""
        rows = await tx.all(
            "SELECT id, rule, injected_at, fired_at, delivered_at, acknowledged_at FROM alert_drills"
            " WHERE zone = :zone AND injected_at > :since AND injected_at <= :until ORDER BY injected_at, id",
            zone=zone,
            since=since,
            until=until,
        )
        return [
            Drill(row["id"], row["rule"], row["injected_at"], *(_by(row[step], until) for step in _STEPS))
            for row in rows
        ]


class ServiceLevels:
    """How far service levels are measured: the port ``SloFacts``."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def measured(self, tx: Transaction, zone: str, since: datetime, until: datetime) -> Sequence[SloFact]:
        """One fact for each objective in force; a day counts where nearly all its minutes were."""
        book = await self._books.current(tx, zone)
        days = await tx.all(
            "SELECT slo, count(*) FILTER (WHERE minutes >= :full) AS days FROM ("
            " SELECT b.slo, date_trunc('day', b.minute, 'UTC') AS day, count(DISTINCT b.minute) AS minutes"
            " FROM sli_buckets b JOIN slo_states s USING (zone, slo, definition)"
            " WHERE b.zone = :zone AND b.minute >= :since AND b.minute < :until GROUP BY 1, 2) AS d GROUP BY slo",
            zone=zone,
            since=since,
            until=until,
            full=FULL_DAY,
        )
        counted = {row["slo"]: int(row["days"]) for row in days}
        reports = await _reports(tx, zone, ("slo-weekly", "slo-30d"), since, until)
        return [SloFact(name, counted.get(name, 0), reports) for name in book.of(SLO)]


class CapacityTrends:
    """How far capacity is measured: the port ``CapacityFacts``."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def trends(self, tx: Transaction, zone: str, since: datetime, until: datetime) -> Sequence[CapacityFact]:
        """One fact for each resource in force; a week counts where it has a point."""
        resources = (await self._books.current(tx, zone)).of(CAPACITY)
        rows = await tx.all(
            "SELECT resource, definition, count(DISTINCT date_trunc('week', at, 'UTC'))"
            " FILTER (WHERE value IS NOT NULL) AS weeks FROM capacity_points"
            " WHERE zone = :zone AND at > :since AND at <= :until GROUP BY 1, 2",
            zone=zone,
            since=since,
            until=until,
        )
        weeks = {(row["resource"], row["definition"]): int(row["weeks"]) for row in rows}
        reports = await _reports(tx, zone, ("capacity-weekly",), since, until)
        return [CapacityFact(name, weeks.get((name, spec.definition), 0), reports) for name, spec in resources.items()]


async def _reports(tx: Transaction, zone: str, kinds: Sequence[str], since: datetime, until: datetime) -> int:
    """How many reports of ``kinds`` were made and signed in the window: one that nobody signed is not published."""
    return int(
        await tx.value(
            "SELECT count(DISTINCT r.id) FROM assurance_reports r JOIN assurance_report_signatures s ON s.report = r.id"
            " WHERE r.zone = :zone AND r.kind = ANY (:kinds) AND r.produced_at > :since AND s.signed_at <= :until",
            zone=zone,
            kinds=list(kinds),
            since=since,
            until=until,
        )
    )


_STEPS = ("fired_at", "delivered_at", "acknowledged_at")


def _by(moment: datetime | None, until: datetime) -> datetime | None:
    return moment if moment is not None and moment <= until else None


# ---------------------------------------------------------------------- automatic parts of ceremonies


def automatic(house: House) -> Mapping[str, Automatic]:
    """What ceremonies are shown of other parts, by the names that they ask for it."""
    waivers, levels, trends = WaiversInForce(), ServiceLevels(house.books), CapacityTrends(house.books)

    async def open_waivers(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
        found = await waivers.open_at(tx, zone, until)
        by_risk = {risk.lower(): sum(each.risk == risk for each in found) for risk in _RISK.values()}
        grave = by_risk["high"] + by_risk["critical"]
        return Automated(_failing(grave), "waivers/open-by-risk/1", {"open": len(found), **by_risk})

    async def slo_state(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
        facts = await levels.measured(tx, zone, since, until)
        wrong = await tx.value("SELECT count(*) FROM slo_states WHERE zone = :zone AND error <> ''", zone=zone)
        unmeasured = sum(fact.valid_days == 0 for fact in facts)
        figures = {"objectives": len(facts), "without_a_valid_day": unmeasured, "not_counted": int(wrong)}
        verdict = Verdict.NO_DATA if not facts or unmeasured else _failing(int(wrong))
        return Automated(verdict, "slo/measured/1", figures)

    async def capacity(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
        facts = await trends.trends(tx, zone, since, until)
        unmeasured = sum(fact.weekly_points == 0 for fact in facts)
        verdict = Verdict.NO_DATA if not facts or unmeasured else Verdict.PASS
        return Automated(verdict, "capacity/measured/1", {"resources": len(facts), "without_a_point": unmeasured})

    async def secrets_due(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
        found = await inventory_of(house).found(tx, zone)
        states = [state_of(secret, until) for secret in found]
        late = sum(secret.rotate_by <= until for secret in found)
        figures = {"secrets": len(found), "past": late, "blocked": states.count("blocked")}
        verdict = _failing(late + states.count("blocked")) if found else Verdict.NO_DATA
        return Automated(verdict, "secrets/due/1", {**figures, "rotate_due": states.count("rotate_due") - late})

    return {
        "waivers.open": open_waivers,
        "slo.state": slo_state,
        "capacity.trends": capacity,
        "kpi.figures": _counted(_KPI, "kpi_values/by-verdict/1", wrong="failed", seen="figures"),
        "alerts.recent": _counted(_ALERTS, "alerts/recent/1", wrong="open"),
        "incidents.recent": _counted(_INCIDENTS, "alert_happenings/incidents/1", wrong="missed"),
        "probes.readiness": _probes,
        "backups.age": _one_probe("backup-age"),
        "revocation.freshness": _one_probe("revocation-freshness"),
        "secrets.due": secrets_due,
        "reconciliation.state": _counted(_RECONCILIATION, "reconciliation/newest/1", wrong="red", seen="runs"),
        "stuck.state": _counted(_STUCK, "stuck/newest/1", wrong="red", seen="runs"),
        "overrides.figures": _counted(_OVERRIDES, "overrides/by-kind/1", wrong="unreviewed"),
    }


def _failing(wrong: int) -> Verdict:
    return Verdict.FAIL if wrong else Verdict.PASS


def _counted(sql: str, query: str, *, wrong: str, seen: str = "") -> Automatic:
    """One row of counts: FAIL where ``wrong`` is not zero, NO_DATA where nothing was ``seen``."""

    async def part(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
        row = await tx.one(sql, zone=zone, since=since, until=until)
        figures = {name: int(value or 0) for name, value in (row or {}).items()}
        verdict = Verdict.NO_DATA if seen and not figures[seen] else _failing(figures[wrong])
        return Automated(verdict, query, figures)

    return part


def _one_probe(name: str) -> Automatic:
    """The newest run of a probe by the end of the window; NO_DATA where it never ran."""

    async def part(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
        found = await ProbeVerdicts().newest(tx, zone, name, until)
        if found is None:
            return Automated(Verdict.NO_DATA, f"probe_runs/newest/{name}/1", told=f"The probe {name} never ran.")
        figures: dict[str, int | str | bool] = {"at": utc(found.at)}
        if found.value is not None:
            figures["value"] = f"{found.value:g}"
        return Automated(found.verdict, f"probe_runs/newest/{name}/1", figures)

    return part


async def _probes(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
    rows: Sequence[Row] = await tx.all(
        "SELECT DISTINCT ON (probe) probe, verdict, expires_at FROM probe_runs WHERE zone = :zone"
        " AND finished_at <= :until ORDER BY probe, finished_at DESC",
        zone=zone,
        until=until,
    )
    verdicts = [Verdict.STALE if row["expires_at"] <= until else Verdict(row["verdict"]) for row in rows]
    figures = {str(verdict).lower(): verdicts.count(verdict) for verdict in Verdict}
    return Automated(worst(verdicts), "probe_runs/newest-by-verdict/1", {"probes": len(rows), **figures})


_KPI = """
SELECT count(*) AS figures, count(*) FILTER (WHERE verdict <> 'PASS') AS failed FROM (
  SELECT DISTINCT ON (kpi, since, until) verdict FROM kpi_values
  WHERE zone = :zone AND built_at > :since AND built_at <= :until ORDER BY kpi, since, until, version DESC) AS newest
"""
_ALERTS = """
SELECT count(*) FILTER (WHERE fired_at > :since AND fired_at <= :until) AS fired,
       count(*) FILTER (WHERE severity IN ('P0', 'P1') AND fired_at > :since AND fired_at <= :until) AS grave,
       count(*) FILTER (WHERE fired_at <= :until AND coalesce(resolved_at, closed_at, 'infinity') > :until) AS open,
       count(*) FILTER (WHERE closed_as = 'false' AND closed_at > :since AND closed_at <= :until) AS false
FROM alerts WHERE zone = :zone
"""
_INCIDENTS = """
SELECT count(*) AS incidents, count(*) FILTER (WHERE alert IS NULL) AS missed FROM alert_happenings
WHERE zone = :zone AND kind = 'incident' AND began_at > :since AND began_at <= :until
"""
_RECONCILIATION = """
SELECT count(*) AS runs, count(*) FILTER (WHERE verdict <> 'PASS') AS red, sum(open_findings) AS open_findings FROM (
  SELECT DISTINCT ON (reconciliation) verdict, open_findings FROM reconciliation_runs
  WHERE zone = :zone AND finished_at <= :until ORDER BY reconciliation, finished_at DESC) AS newest
"""
_STUCK = """
SELECT count(*) AS runs, count(*) FILTER (WHERE verdict <> 'PASS') AS red FROM (
  SELECT DISTINCT ON (machine) verdict FROM stuck_runs
  WHERE zone = :zone AND finished_at <= :until ORDER BY machine, finished_at DESC) AS newest
"""
_OVERRIDES = """
SELECT count(*) AS requested, count(*) FILTER (WHERE break_glass) AS break_glass,
       count(*) FILTER (WHERE break_glass AND reviewed_at IS NULL AND review_due <= :until) AS unreviewed
FROM overrides WHERE zone = :zone AND requested_at > :since AND requested_at <= :until
"""


def install(house: House) -> None:
    """Put the facts in their places."""
    house.verdicts = ProbeVerdicts()
    house.runs = JobRuns()
    house.waiver_facts = WaiversInForce()
    house.drill_facts = AlarmDrills()
    house.slo_facts = ServiceLevels(house.books)
    house.capacity_facts = CapacityTrends(house.books)
    house.automatic.update(automatic(house))
