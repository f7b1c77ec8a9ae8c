"""Rollouts over a real database with real programs; what other parts of the room know is what a test says."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from stage import Stage

from bailiwick.assurance.alerting.alerts import AlertDesk
from bailiwick.assurance.book import read_text
from bailiwick.assurance.ports import Found, GateAnswer, Raised
from bailiwick.assurance.probes.means import Means
from bailiwick.assurance.probes.spec import PROBE
from bailiwick.assurance.thresholds import THRESHOLD
from bailiwick.evidence.events import Context
from bailiwick.handover.ports import Environment, OpenIncident, Point, Standing
from bailiwick.handover.rollouts import api
from bailiwick.handover.rollouts.actions import Actions, Tools
from bailiwick.handover.rollouts.engine import Engine, Ports
from bailiwick.handover.rollouts.evidence import KeptRenderings, Proof
from bailiwick.handover.rollouts.plans import KINDS
from bailiwick.handover.rollouts.programs import Programs
from bailiwick.handover.rollouts.records import Ledger
from bailiwick.handover.rollouts.service import Rollouts, Sources
from bailiwick.identity.persons import Persons
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

DIGEST = "sha256:" + "ab" * 32
PREFLIGHT = """
      steps:
        - name: preflight
          title: Preflight
          do: {kind: preflight, render: [render], migrations: [migrations], smoke: [smoke]}"""
PLAN = f"""---
apiVersion: bailiwick/v1
kind: Probe
metadata: {{name: error-rate}}
spec:
  summary: errors
  owner: uptime
  check: {{type: http, url: "http://127.0.0.1:1/"}}
---
apiVersion: bailiwick/v1
kind: RolloutPlan
metadata: {{name: release}}
spec:
  title: A release
  service: pay
  variables: {{who: world}}
  signatures: [ops_owner, security_owner]
  rollback_within: 30m
  review: Post-mortem
  gate: {{name: any, title: Any time, timer: 10m, triggers: [{{name: p0, severities: [P0]}}]}}
  phases:
    - name: before
      title: Before
      owner: ops_owner
      before_go: true{PREFLIGHT}
    - name: deploy
      title: Deploy
      owner: operator
      steps:
        - name: one
          title: One
          do: {{kind: command, argv: [step, one, "hello ${{who}} ${{digest}}"]}}
          verify: [{{command: [verify, one]}}]
          back: {{title: Undo one, do: {{kind: command, argv: [step, undo-one]}}}}
        - name: two
          title: Two
          proves: true
          do: {{kind: command, argv: [step, two]}}
          verify: [{{command: [verify, two]}}]
          back: {{title: Undo two, idempotent: true, do: {{kind: command, argv: [step, undo-two]}}}}
      gate:
        name: point-1
        title: If anything fails, STOP
        owner: ops_owner
        timer: 10m
        triggers:
          - {{name: errors, probe: error-rate, fires_on: [FAIL, ERROR]}}
          - {{name: api, alerts: [APIDown]}}
    - name: traffic
      title: Traffic
      owner: operator
      steps:
        - name: weights
          title: Half
          do: {{kind: weights, server: pay, percent: 50}}
          back: {{title: None, do: {{kind: weights, server: pay, percent: 0}}}}
        - name: look
          title: A person looks
          owner: security_owner
          do: {{kind: manual, statement: It looks well}}
        - name: again
          title: Another looks
          owner: ops_owner
          distinct_from: [look]
          do: {{kind: manual, statement: It does}}
        - {{name: rest, title: Wait, do: {{kind: wait, lasting: 10m}}}}
      gate:
        name: point-2
        title: No candidate worse than what stands
        owner: ops_owner
        timer: 5m
        triggers: [{{name: canary, canary: true}}]
  closing:
    - {{name: old, title: The old one answers, do: {{kind: command, argv: [step, old]}}}}
"""
# each program notes that it was run, does what a file of its name says, and ends as that says
PROGRAM = """#!/bin/sh
name=$(basename "$0")
echo "$name $*" >> "$HOME/done"
key="$name${1:+-$1}"
[ -f "$HOME/$key.sh" ] && . "$HOME/$key.sh"
case "$name" in
  render) cat "$HOME/rendered" ;;
  verify) grep -q "^step $1" "$HOME/done" ;;
  *) : ;;
esac
"""
PEOPLE = (
    ("pat", "operator"),
    ("pam", "operator"),
    ("olga", "ops_owner"),
    ("omar", "ops_owner"),
    ("sue", "security_owner"),
    ("fay", "finance_owner"),
    ("viv", "viewer"),
    ("aud", "auditor"),
    ("ada", "admin"),
)


class Known:
    """What the rest of the room knows: all is well until a test says otherwise."""

    def __init__(self, now: datetime) -> None:
        self.ready = Standing(Verdict.PASS, now)
        self.canary = Standing(Verdict.PASS, now)
        self.budget = GateAnswer(Verdict.PASS, True)
        self.incidents: list[OpenIncident] = []
        self.found: dict[str, Found] = {"error-rate": Found(Verdict.PASS, 0.0, now)}
        self.weights: list[tuple[str, int]] = []
        self.live: list[tuple[str, str]] = []
        self.fails_to_split = False


class ReadinessOf:
    def __init__(self, known: Known) -> None:
        self.known = known

    async def standing(self, tx: Transaction, zone: str, environment: str) -> Standing:
        return self.known.ready


class CanariesOf(ReadinessOf):
    async def standing(self, tx: Transaction, zone: str, digest: str) -> Standing:
        return self.known.canary if digest == DIGEST else Standing(Verdict.NO_DATA, self.known.canary.at)


class Others(ReadinessOf):
    """Incidents, environments, error budgets, probes and weights."""

    async def open(self, tx: Transaction, zone: str) -> Sequence[OpenIncident]:
        return self.known.incidents

    async def get(self, tx: Transaction, zone: str, name: str) -> Environment | None:
        return Environment(name, "planned") if name in ("production", "staging") else None

    async def went_live(self, tx: Transaction, context: Context, name: str, digest: str, rollout: str) -> None:
        self.known.live.append((name, digest))

    async def hypercare(self, tx: Transaction, zone: str, name: str) -> Standing:
        raise NotImplementedError

    async def gate(
        self, tx: Transaction, context: Context, action: str, service: str, change_class: str = "normal"
    ) -> GateAnswer:
        assert (action, service) == ("deploy", "pay")
        return self.known.budget

    async def newest(self, tx: Transaction, zone: str, check: str, at: datetime) -> Found | None:
        return self.known.found.get(check)

    async def set(self, zone: str, server: str, digest: str, candidate_percent: int) -> None:
        if self.known.fails_to_split:
            raise OSError("the gateway does not answer")
        assert digest == DIGEST
        self.known.weights.append((server, candidate_percent))


async def reach(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def programs_in(home: Path) -> Programs:
    """Real programs, that note what they do in ``home``/done."""
    (home / "bin").mkdir(exist_ok=True)
    made = []
    for name in ("render", "migrations", "smoke", "step", "verify", "kubectl"):
        path = home / "bin" / name
        path.write_text(PROGRAM)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        made.append(path)
    (home / "done").touch()
    (home / "rendered").write_text("replicas: 4\n")
    return Programs(made, home)


class Desk:
    """pat plans and works, olga and sue sign, ada administers."""

    def __init__(self, stage: Stage, home: Path) -> None:
        self.stage, self.home = stage, home
        self.known = Known(stage.clock.now())
        self.alerts = AlertDesk(stage.database, stage.clock, stage.ids, stage.recorder, stage.heard)
        self.programs = programs_in(home)
        self.engine = self.engine_on(stage.database)
        self.rollouts = self.service_on(stage.database)
        stage.serve(api.routes(stage.database, stage.books, self.rollouts))

    def engine_on(self, database: Database, **more: Any) -> Engine:
        stage, others = self.stage, Others(self.known)
        renderings = KeptRenderings(database, stage.clock, stage.records)
        means = Means(reach, stage.clock, "", self.home)
        tools = Tools(
            database, stage.clock, self.programs, means, stage.books, others, renderings, None, others, stage.quorum
        )
        ports = Ports(self.alerts, stage.heard, others, CanariesOf(self.known), others)
        ledger = Ledger(stage.clock, stage.recorder)
        more = {"poll_s": 0.05, "lease_s": 5.0, **more}
        return Engine(
            database, stage.clock, ledger, stage.books, Proof(stage.clock, stage.records), Actions(tools), ports, **more
        )

    def service_on(self, database: Database) -> Rollouts:
        stage, others = self.stage, Others(self.known)
        ledger, proof = Ledger(stage.clock, stage.recorder), Proof(stage.clock, stage.records)
        sources = Sources(ReadinessOf(self.known), CanariesOf(self.known), others, others, others, stage.heard)
        return Rollouts(
            database, stage.clock, stage.ids, stage.books, ledger, proof, self.engine, stage.heard, sources, Persons()
        )

    async def open(self, book: str = PLAN) -> Desk:
        await self.stage.books.ship(self.stage.context("bailiwick"), read_text(book, "shipped"))
        for name, role in PEOPLE:
            await self.stage.people.user(name, role)
        return self

    # --- what tests do

    async def say(self, who: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        token = await self.stage.people.signed_in(who)
        answer = await self.stage.call(method, f"/api/v1/rollouts{path}", body, token=token)
        return answer.status, answer.json()

    async def do(self, who: str, path: str, body: Any = None) -> Any:
        status, said = await self.say(who, "POST", path, body)
        assert status < 300, said
        return said

    async def shown(self, name: str) -> Any:
        return (await self.say("aud", "GET", f"/{name}"))[1]

    async def planned(self, **more: Any) -> str:
        body = {"plan": "release", "environment": "production", "digest": DIGEST, **more}
        name = str((await self.do("pat", "", body))["name"])
        await self.engine.tick()
        return name

    async def pending(self, **more: Any) -> str:
        """Planned, its preflight read by another."""
        name = await self.planned(**more)
        (step,) = [each for phase in (await self.shown(name))["phases"] for each in phase["steps"]
                   if each["name"] == "preflight"]  # fmt: skip
        if step["state"] == "acted":
            body = {"statement": "read", "record": step["record"]}
            await self.do("pam", f"/{name}/steps/preflight/confirm", body)
        await self.engine.tick()
        assert (await self.shown(name))["state"] == "pending"
        return name

    async def go(self, **more: Any) -> str:
        name = await self.pending(**more)
        await self.do("olga", f"/{name}/go", {})
        said = await self.do("sue", f"/{name}/go", {})
        assert said["answer"] == "GO", said
        return name

    async def started(self, **more: Any) -> str:
        name = await self.go(**more)
        await self.do("pat", f"/{name}/start")
        return name

    async def state(self, name: str) -> str:
        return str((await self.shown(name))["state"])

    async def confirm(self, name: str, step: str, who: str, **more: Any) -> Any:
        return await self.do(who, f"/{name}/steps/{step}/confirm", {"statement": "I did", **more})

    async def finish(self, name: str) -> None:
        """From the start to the end, with the people whose turn it is."""
        await self.engine.tick()
        await self.confirm(name, "look", "sue")
        await self.engine.tick()
        await self.confirm(name, "again", "olga")
        await self.engine.tick()
        self.stage.clock.advance(601)
        self.fresh()
        await self.engine.tick()

    async def records(self, name: str, step: str) -> list[tuple[Any, bytes]]:
        """The evidence records of a step and what they keep, in order. Other tests' stay in the ledger."""
        shown = await self.shown(name)
        async with self.stage.database.begin() as tx:
            found = await self.stage.records.list(tx, "default", check=f"rollout/release/{step}")
            mine = [each for each in found if each.record.inputs["rollout"] == shown["id"]]
            return [(each.record, await self.stage.records.output(tx, each)) for each in reversed(mine)]

    def fresh(self) -> None:
        """What is measured by the clock is measured again."""
        now = self.stage.clock.now()
        self.known.canary = replace(self.known.canary, at=now)

    def script(self, name: str, text: str) -> None:
        """What a program does when it is called so: ``step-two``."""
        (self.home / f"{name}.sh").write_text(text)

    def done(self, program: str = "step") -> list[str]:
        """What programs were run, with what."""
        lines = (self.home / "done").read_text().splitlines()
        return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]

    async def fires(self, rule: str, severity: Severity = Severity.P2) -> None:
        async with self.stage.database.begin() as tx:
            raised = Raised(f"rule/{rule}", rule, severity, f"{rule} is so", "uptime", "docs")
            await self.alerts.fire(tx, self.stage.context("bailiwick"), raised)

    async def freeze(self, switch: str = "freeze") -> None:
        """The row that throwing a switch leaves; how it is thrown is tested with the switches."""
        async with self.stage.people.owner.begin() as tx:
            await tx.run("SET LOCAL session_replication_role = replica")
            await tx.run(
                "INSERT INTO bailiwick.switches (id, zone, name, reason, thrown_by, thrown_at, thrown_as)"
                " VALUES (:id, 'default', :switch, 'test', 'ada', now(), 'none')",
                id=self.stage.ids(),
                switch=switch,
            )

    async def thaw(self) -> None:
        """The row goes."""
        async with self.stage.people.owner.begin() as tx:
            await tx.run("DELETE FROM bailiwick.switches")

    async def replan(self, book: str) -> None:
        """Another book in force, past the second person that a plan takes."""
        async with self.stage.people.owner.begin() as tx:
            await tx.run("DELETE FROM bailiwick.assurance_documents")
        await self.stage.books.ship(self.stage.context("bailiwick"), read_text(book, "shipped"))

    async def names(self) -> list[str]:
        return [event.name for event in await self.stage.people.events() if event.name.startswith("rollout.")]


def kinds() -> list[Any]:
    return [*KINDS, PROBE, THRESHOLD]


__all__ = ["DIGEST", "PLAN", "Desk", "Known", "Point", "kinds", "timedelta"]
