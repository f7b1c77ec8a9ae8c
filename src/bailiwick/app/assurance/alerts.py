"""Alerts and notices of an installation: built for every process, dispatched and delivered by the work role, and by
serve workers too, so that somebody is told when the work role is dead."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from bailiwick.app.house import House, Part
from bailiwick.app.siem import reach_of
from bailiwick.assurance.alerting.alerts import ALERT, AlertDesk
from bailiwick.assurance.alerting.dispatch import Dispatcher
from bailiwick.assurance.alerting.drills import Drills, KillPart, StopJob
from bailiwick.assurance.alerting.figures import AlertFigures
from bailiwick.assurance.alerting.receiver import Receiver
from bailiwick.assurance.alerting.rules import ALERT_RULE, Evaluator
from bailiwick.assurance.alerting.silences import Silences
from bailiwick.assurance.book import Book
from bailiwick.assurance.notices.channels import CHANNEL, ChannelSecrets
from bailiwick.assurance.notices.delivery import Deliveries
from bailiwick.assurance.notices.notices import DELIVERY, Outbox
from bailiwick.assurance.notices.routes import ROUTE
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError, Unavailable
from bailiwick.kernel.jobs import Handler, JobDefinition
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.severity import Severity

KINDS = (CHANNEL, ROUTE, ALERT_RULE)

POLL_S = 1.0
STAND_IN_POLL_S = 5.0
"""How often serve workers look. What they find is claimed as by the work role: each is told of once."""
OVERDUE = timedelta(minutes=5)
"""How long something may have been due before the loop that should have done it counts as stuck."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Alerting:
    """The services of this part."""

    desk: AlertDesk
    silences: Silences
    outbox: Outbox
    secrets: ChannelSecrets
    figures: AlertFigures
    drills: Drills
    receiver: Receiver
    evaluator: Evaluator
    dispatcher: Dispatcher
    deliveries: Deliveries


def services(house: House) -> Alerting:
    """Build them upon the house, and lend it the two ports that they implement."""
    base = house.base
    shared = (base.database, base.clock, base.ids, base.recorder)
    desk = AlertDesk(*shared, house.owners)
    outbox, silences = Outbox(*shared), Silences(*shared)
    house.alerts, house.notices = desk, outbox
    secrets = ChannelSecrets(base.database, base.clock, base.recorder, base.sealer)
    figures = AlertFigures(*shared)
    faults = (StopJob(), KillPart(pid_of_part(base.layout)))
    metrics = base.metrics

    def observe(way: str, outcome: str, took_s: float) -> None:
        metrics.notice_deliveries.labels(way, outcome).inc()
        if outcome == "delivered":
            metrics.notice_seconds.observe(took_s)

    return Alerting(
        desk,
        silences,
        outbox,
        secrets,
        figures,
        Drills(*shared, figures, {fault.name: fault for fault in faults}),
        Receiver(base.database, base.clock, desk),
        Evaluator(base.database, base.clock, desk, house.verdicts, metrics.collect_text),
        Dispatcher(
            base.database,
            base.clock,
            base.recorder,
            house.books,
            desk,
            silences,
            outbox,
            house.on_call,
            base.settings.zone_issuer,
        ),
        Deliveries(
            *shared,
            house.books,
            secrets,
            house.owners,
            desk,
            reach_of(Resolver(base.database, base.clock, base.recorder, base.settings)),
            random.SystemRandom().random,
            observe=observe,
        ),
    )


def build(house: House) -> Part:
    """The part: routes for the API; for the work role a job a rule, a watch over the loop, and the loop."""
    from bailiwick.assurance.alerting import api as alerts_api
    from bailiwick.assurance.notices import api as notices_api

    base, built = house.base, services(house)
    house.on_sealer.append(built.secrets.replace_sealer)
    api = alerts_api.AlertServices(
        base.database, built.desk, built.silences, built.receiver, built.figures, built.drills, built.evaluator
    )

    def scheduled(zone: str, book: Book) -> Iterable[JobDefinition]:
        return built.evaluator.jobs(zone, book)

    return Part(
        routers=lambda: [
            alerts_api.routes(api),
            notices_api.routes(base.database, base.recorder, house.books, built.outbox, built.secrets),
        ],
        jobs=[
            JobDefinition("watch-alerts", timedelta(minutes=1), watch(base.database, base.clock.now, base.metrics)),
            JobDefinition("forget-storms", "29 3 * * *", forget(base.database), grace=timedelta(hours=12)),
        ],
        scheduled=scheduled,
        loops={"alerts and notices": lambda: keep_telling(built)},
        watches={"alerts and notices": lambda: keep_telling(built, STAND_IN_POLL_S)},
        machines=[ALERT, DELIVERY],
    )


async def keep_telling(built: Alerting, poll_s: float = POLL_S) -> None:
    """Dispatch, deliver and follow drills until cancelled."""
    away = False
    while True:
        tried = 0
        try:
            await built.dispatcher.run_once()
            tried = await built.deliveries.run_once()
            await built.drills.follow()
            away = False
        except Unavailable:
            if not away:
                log.warning("alerts wait for the database")
            away = True
        except BailiwickError as error:
            log.error("alerts could not be told", reason=error.reason, detail=error.detail)
        except Exception:
            log.exception("alerts could not be told")
        if not tried:
            await asyncio.sleep(poll_s)


class LoopStuck(Exception):
    """What is due is not done: nobody would be told of an alert."""


def watch(database: Database, now: Callable[[], datetime], metrics: Metrics) -> Handler:
    """The handler that shows how alerting stands, and fails where the loop that tells does not keep up."""

    async def run(due: datetime) -> dict[str, int]:
        moment = now()
        async with database.begin() as tx:
            rows = await tx.all(
                "SELECT severity, count(*) AS alerts FROM alerts WHERE state IN ('firing', 'acknowledged')"
                " GROUP BY severity"
            )
            states = await tx.all(
                "SELECT state, count(*) AS n FROM notice_deliveries WHERE state <> 'delivered' GROUP BY state"
            )
            oldest = await tx.value(
                "SELECT min(created_at) FROM (SELECT created_at FROM notices WHERE spread_at IS NULL"
                " UNION ALL SELECT created_at FROM notice_deliveries WHERE state = 'due') waiting"
            )
            overdue = await tx.value(_OVERDUE, before=moment - OVERDUE)
        standing = {row["severity"]: row["alerts"] for row in rows}
        for severity in Severity:
            metrics.alerts_open.labels(str(severity)).set(standing.get(str(severity), 0))
        undelivered = {row["state"]: row["n"] for row in states}
        for state in ("due", "dead", "not_set_up"):
            metrics.notices_undelivered.labels(state).set(undelivered.get(state, 0))
        metrics.notices_oldest_seconds.set((moment - oldest).total_seconds() if oldest is not None else 0)
        if overdue:
            raise LoopStuck(f"{overdue} changes, steps or notices are due for more than {OVERDUE}")
        return {**{f"open_{name}": count for name, count in standing.items()}, **undelivered}

    return run


_OVERDUE = """
SELECT (SELECT count(*) FROM alert_changes WHERE at < :before)
     + (SELECT count(*) FROM alert_tellings WHERE done_at IS NULL AND due_at < :before)
     + (SELECT count(*) FROM escalation_steps s JOIN alerts a ON a.id = s.alert
        WHERE s.state = 'due' AND s.due_at < :before AND a.state = 'firing')
     + (SELECT count(*) FROM notices WHERE spread_at IS NULL AND created_at < :before)
     + (SELECT count(*) FROM notice_deliveries WHERE state = 'due' AND next_at < :before)
"""


def forget(database: Database) -> Handler:
    """The handler that drops the counts of storms that are over."""

    async def run(due: datetime) -> dict[str, int]:
        async with database.begin() as tx:
            storms = await tx.run("DELETE FROM alert_storms WHERE since < :before", before=due - timedelta(days=2))
        return {"storms": storms}

    return run


def pid_of_part(layout: Layout) -> Callable[[str], int | None]:
    """Finds the process of a part in the supervisor's status file."""

    def find(name: str) -> int | None:
        try:
            parts = json.loads(layout.status_file.read_text())["parts"]
            return next((int(part["pid"]) for part in parts if part["name"] == name and part.get("pid")), None)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    return find
