"""Incidents in an installation."""

from __future__ import annotations

from datetime import datetime, timedelta

from bailiwick.app.handover.backups import store_of
from bailiwick.app.handover.gateway_canary import AtGateway
from bailiwick.app.handover.live_streams import Streams
from bailiwick.app.house import House, Part
from bailiwick.app.packs import pack_requests
from bailiwick.assurance.incident_states import INCIDENT
from bailiwick.authority.rfc8693 import Principal, granted_scopes, policy_input
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Subject
from bailiwick.handover.backups.api import BACKUP_JOB
from bailiwick.handover.incidents import api, drills_api, runbooks_api, status_api
from bailiwick.handover.incidents.chapter import WATCH_JOB, IncidentChapter
from bailiwick.handover.incidents.documents import KINDS, Expected
from bailiwick.handover.incidents.drills import IncidentDrills
from bailiwick.handover.incidents.recovery import Recovery
from bailiwick.handover.incidents.runbooks import Runbooks
from bailiwick.handover.incidents.service import BackUp, Incidents, Ports, nowhere
from bailiwick.handover.incidents.standing import StandingIncidents
from bailiwick.handover.incidents.watch import IncidentWatch
from bailiwick.identity.loader import load_applications, load_users
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.jobs import JobDefinition, make_due
from bailiwick.policy.decisions import Decider
from bailiwick.policy.loader import load_decider


def build(house: House) -> Part:
    """Built after the overrides, by which containment is done."""
    base = house.base
    assert house.overrides is not None, "the overrides are built before"
    recovery = Recovery(base.clock, house.books, house.verdicts, Known(), AtGateway(base.settings, house.mint))
    incidents = Incidents(
        base.database,
        base.clock,
        base.ids,
        base.recorder,
        house.books,
        house.records,
        house.overrides,
        pack_requests(base),
        recovery,
        Ports(house.alerts, house.notices, house.tasks, house.on_call),
        mandates_live=timedelta(seconds=base.settings.mandate_ttl_s),
        streams=Streams(base.layout),
        back_up=_backing_up(house),
    )
    runbooks = Runbooks(
        base.database, base.clock, base.ids, base.recorder, house.books, house.records, incidents, recovery
    )
    drills = IncidentDrills(base.database, base.clock, base.ids, base.recorder, house.books, house.alerts)
    watch = IncidentWatch(
        base.database, base.clock, base.recorder, house.books, incidents, house.verdicts, house.alerts
    )

    house.open_incidents = StandingIncidents()
    house.chapters["incidents"] = IncidentChapter(house.runs)

    async def look(due: datetime) -> dict[str, int]:
        found = await watch.run(due)
        return {**found, "drills_ended": await drills.follow()}

    return Part(
        routers=lambda: [
            drills_api.routes(base.database, drills),
            api.routes(base.database, base.clock, incidents),
            runbooks_api.routes(base.database, runbooks),
            status_api.routes(base.database, base.clock),
        ],
        jobs=[JobDefinition(WATCH_JOB, timedelta(seconds=30), look, grace=timedelta(minutes=10))],
        machines=[INCIDENT],
    )


def _backing_up(house: House) -> BackUp:
    """Has the work role make a base backup, where there is a place for it. It is of the whole installation."""
    base = house.base
    if base.settings.backup_url is None:
        return nowhere

    async def ask(tx: Transaction, context: Context) -> str:
        await make_due(tx, BACKUP_JOB, base.clock.now())
        place = store_of(base.settings).place
        subject = Subject(id=place, type="backup")
        await base.recorder.record(
            tx, codes.BACKUP_ASKED, "success", context, subject=subject, place=place, job=BACKUP_JOB
        )
        return f"a base backup is asked for at {place}"

    return ask


class Known:
    """Puts known questions to the grants and the active policies of a zone, as the gateway would."""

    def __init__(self) -> None:
        self._deciders: dict[str, Decider] = {}

    async def __call__(self, tx: Transaction, zone: str, expected: Expected) -> str:
        """``allow``, ``deny``, or why there is no answer."""
        applications = await load_applications(tx, zone, expected.application)
        application = next(iter(applications.values()), None)
        if application is None:
            return f"there is no application {expected.application}"
        tags = await tx.value(
            "SELECT tags FROM servers WHERE zone = :zone AND name = :name", zone=zone, name=expected.server
        )
        if tags is None:
            return f"there is no server {expected.server}"
        subject = Principal("application", application.name, application.role)
        if expected.user is not None:
            user = (await load_users(tx, zone, expected.user)).get(expected.user)
            if user is None:
                return f"there is no user {expected.user}"
            if not user.is_active:
                return "deny"
            subject = Principal("user", user.username, user.role)
        if not application.is_active or expected.scope not in granted_scopes(application, expected.server):
            return "deny"
        decider = self._deciders.setdefault(zone, Decider(cache_entries=0))
        loaded = await load_decider(tx, zone, decider)
        if loaded.fault is not None:
            return f"the active policies do not run: {loaded.fault}"
        decision = decider.decide(
            policy_input(
                stage="request",
                zone=zone,
                subject=subject,
                application=application,
                server_name=expected.server,
                server_tags=tags,
                scopes=[expected.scope],
                scope=expected.scope,
            )
        )
        if decision.error is not None:
            return f"the policies fail: {decision.error}"
        return "allow" if decision.allowed else "deny"


__all__ = ["KINDS", "build"]
