"""Incidents over a real database: real alerts, overrides, packs asked for, and probes that say what a test wants."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from stage import Stage

import bailiwick.assurance
from bailiwick.assurance.alerting.alerts import AlertDesk
from bailiwick.assurance.book import read_text
from bailiwick.assurance.gateway_switch import GatewaySwitch
from bailiwick.assurance.operations import GatewayClose, GatewayOpen
from bailiwick.assurance.override_rules import KINDS as OVERRIDE_KINDS
from bailiwick.assurance.overrides import Overrides
from bailiwick.assurance.overrides_api import routes as override_routes
from bailiwick.assurance.ports import Found, Level, Notices, Person, Raised
from bailiwick.evidence.evidence_records import Producer
from bailiwick.evidence.pack_requests import PackRequests
from bailiwick.handover.incidents import api, drills_api, runbooks_api, status_api
from bailiwick.handover.incidents.documents import KINDS, Expected
from bailiwick.handover.incidents.drills import IncidentDrills
from bailiwick.handover.incidents.operations import RevokeAuthority
from bailiwick.handover.incidents.recovery import PROBES, Recovery
from bailiwick.handover.incidents.runbooks import Runbooks
from bailiwick.handover.incidents.service import Incidents, Ports
from bailiwick.handover.incidents.watch import IncidentWatch
from bailiwick.handover.switches import Switches, SwitchLift, SwitchThrow
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

HERE = Path(bailiwick.assurance.__file__).parent / "shipped"
KNOWN = """---
apiVersion: bailiwick/v1
kind: ExpectedDecision
metadata: {name: may}
spec: {application: bot, server: pay, scope: "items:read", expect: allow}
---
apiVersion: bailiwick/v1
kind: ExpectedDecision
metadata: {name: may-not}
spec: {application: bot, server: pay, scope: "items:write", expect: deny}
---
apiVersion: bailiwick/v1
kind: DrillZone
metadata: {name: here}
spec: {sandbox: true}
"""
SHIPPED = (HERE / "overrides.yaml").read_text() + (HERE / "incidents.yaml").read_text() + KNOWN


class Desk:
    """jane contains (admin), kim is another administrator, olga operates, viv looks."""

    def __init__(self, stage: Stage, directory: Path, notices: Notices | None = None) -> None:
        self.stage = stage
        shared = (stage.database, stage.clock, stage.ids, stage.recorder)
        settle = stage.people.authority
        self.alerts = AlertDesk(*shared, stage.heard)
        switches = Switches(stage.clock, stage.ids, stage.recorder)
        gateway = GatewaySwitch(stage.clock, stage.ids, stage.recorder)
        self.overrides = Overrides(
            *shared, stage.quorum, stage.books, self.alerts, environment="production",
            operations=[
                SwitchThrow(stage.database, switches, settle), SwitchLift(stage.database, switches, settle),
                GatewayClose(stage.database, gateway, settle), GatewayOpen(stage.database, gateway, settle),
                RevokeAuthority(stage.database, settle),
            ],
        )  # fmt: skip
        self.found: dict[str, Found] = {}
        self.answers = {"may": "allow", "may-not": "deny"}
        self.at_gateway = {"allow": "allow", "deny": "deny"}  # by what is expected
        self.called: dict[str, str] = {"primary": "olga", "secondary": "kim"}
        recovery = Recovery(stage.clock, stage.books, self, self.decide, self.ask)
        self.packs = PackRequests(*shared, directory, "here")
        self.incidents = Incidents(
            *shared, stage.books, stage.records, self.overrides, self.packs, recovery,
            Ports(self.alerts, notices or stage.heard, stage.heard, self), mandates_live=timedelta(minutes=15),
        )  # fmt: skip
        self.watch = IncidentWatch(
            stage.database, stage.clock, stage.recorder, stage.books, self.incidents, self, self.alerts
        )
        self.drills = IncidentDrills(*shared, stage.books, self.alerts)
        runbooks = Runbooks(*shared, stage.books, stage.records, self.incidents, recovery)
        stage.serve(
            override_routes(stage.database, stage.books, self.overrides, gateway),
            drills_api.routes(stage.database, self.drills),
            api.routes(stage.database, stage.clock, self.incidents),
            runbooks_api.routes(stage.database, runbooks),
            status_api.routes(stage.database, stage.clock),
        )

    async def open(self, more: str = "") -> Desk:
        """``more``: documents that are in force beside the shipped ones."""
        await self.stage.books.ship(self.stage.context("bailiwick"), read_text(SHIPPED + more, "shipped"))
        people = (
            ("jane", "admin"),
            ("kim", "admin"),
            ("olga", "operator"),
            ("viv", "viewer"),
            ("fay", "finance_owner"),
        )
        for name, role in people:
            await self.stage.people.user(name, role)
        await self.stage.people.server("pay")
        return self

    # --- ports

    async def on_call(self, tx: Transaction, zone: str, level: Level, at: datetime) -> Person | None:
        name = self.called.get(level)
        return Person(name, name, f"{name}@example.com") if name else None

    async def uncovered(
        self, tx: Transaction, zone: str, level: Level, since: datetime, until: datetime
    ) -> datetime | None:
        return since if await self.on_call(tx, zone, level, since) is None else None

    async def newest(self, tx: Transaction, zone: str, check: str, at: datetime) -> Found | None:
        return self.found.get(check)

    async def decide(self, tx: Transaction, zone: str, expected: Expected) -> str:
        return self.answers["may" if expected.expect == "allow" else "may-not"]

    async def ask(self, tx: Transaction, zone: str, expected: Expected) -> str:
        return self.at_gateway[expected.expect]

    # --- what tests do

    async def say(self, who: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        token = await self.stage.people.signed_in(who)
        answer = await self.stage.call(method, f"/api/v1{path}", body, token=token)
        return answer.status, answer.json()

    async def opened(self, **more: Any) -> str:
        status, said = await self.say("olga", "POST", "/incidents", {"title": "it hurts", "severity": "P1", **more})
        assert status == 201, said
        return str(said["name"])

    async def fires(self, rule: str, severity: Severity = Severity.P0, key: str = "") -> str:
        async with self.stage.database.begin() as tx:
            raised = Raised(key or f"rule/{rule}", rule, severity, f"{rule} is so", "incident-response", "docs")
            return await self.alerts.fire(tx, self.stage.context("bailiwick"), raised)

    async def look(self) -> dict[str, int]:
        return await self.watch.run(self.stage.clock.now())

    async def ongoing(self) -> list[Any]:
        return list((await self.say("jane", "GET", "/incidents?state=ongoing"))[1]["incidents"])

    async def contain(self, incident: str, action: str, who: str = "jane", **arguments: str) -> tuple[int, Any]:
        body = {"action": action, "arguments": arguments}
        status, seen = await self.say(who, "POST", f"/incidents/{incident}/preview", body)
        assert status == 200, seen
        return await self.say(
            who, "POST", f"/incidents/{incident}/contain", {**body, "why": "drill", "sha256": seen["sha256"]}
        )

    async def all_green(self) -> None:
        """Every probe of recovery measured now, and a worker that lives."""
        now = self.stage.clock.now()
        for probes in PROBES.values():
            for probe in probes:
                self.found[probe] = Found(Verdict.PASS, 0.0, now)
        async with self.stage.database.begin() as tx:
            await tx.run("DELETE FROM workers")
            await tx.run(
                "INSERT INTO workers (id, host, slot, pid, revision, started_at, seen_at)"
                " VALUES ('w', 'h', 's', 1, 1000000, :now, :now)",
                now=now,
            )

    async def packed(self, name: str) -> None:
        """Ask for the pack, and have it built as the work role would."""
        status, said = await self.say("olga", "POST", f"/incidents/{name}/preserve")
        assert status == 202 and said["pack"], said
        async with self.stage.database.begin() as tx:
            await tx.run(
                "UPDATE evidence_packs SET state = 'built', sha256 = 'ab', finished_at = :now WHERE id = :id",
                now=self.stage.clock.now(),
                id=said["pack"],
            )

    async def closed(self, name: str) -> None:
        """Bring it to its end as people would."""
        self.stage.clock.advance(1)
        assert (await self.contain(name, "freeze"))[0] == 200
        self.stage.clock.advance(1)
        await self.packed(name)
        await self.all_green()
        for step, body in (("recover", None), ("review", {"summary": "s", "cause": "c"}), ("close", None)):
            status, said = await self.say("jane", "POST", f"/incidents/{name}/{step}", body)
            assert status == 200, said

    async def evidence(self, check: str, exit_code: int = 0) -> str:
        now = self.stage.clock.now()
        async with self.stage.database.begin() as tx:
            stored = await self.stage.records.probe(
                tx, self.stage.context(), check, b"looked", exit_code=exit_code, since=now, until=now,
                producer=Producer(name="root", program="test", version="1"),
            )  # fmt: skip
        return str(stored.id)


def kinds() -> list[Any]:
    return [*OVERRIDE_KINDS, *KINDS]
