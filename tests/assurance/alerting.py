"""What the tests of alerts and notices stand on: the services over a real database, and servers that speak for real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from stage import Stage

from bailiwick.app.siem import reach_of
from bailiwick.assurance.alerting.alerts import Alert, AlertDesk, find
from bailiwick.assurance.alerting.dispatch import Dispatcher
from bailiwick.assurance.alerting.drills import Drills, KillPart, StopJob
from bailiwick.assurance.alerting.figures import AlertFigures
from bailiwick.assurance.alerting.receiver import Receiver
from bailiwick.assurance.alerting.rules import ALERT_RULE, Evaluator
from bailiwick.assurance.alerting.silences import Silences
from bailiwick.assurance.notices.channels import CHANNEL, ChannelSecrets
from bailiwick.assurance.notices.delivery import Deliveries
from bailiwick.assurance.notices.notices import Outbox
from bailiwick.assurance.notices.routes import ROUTE
from bailiwick.assurance.oncall.rota import ROTA
from bailiwick.assurance.ports import Found, Level, Person, Raised
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.severity import Severity
from people_fixtures import House

KINDS = (CHANNEL, ROUTE, ALERT_RULE, ROTA)


@dataclass
class Rota:
    """Who is on call, by level; and what probes found, by name."""

    people: dict[str, Person] = field(default_factory=dict)
    found: dict[str, Found] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for level in ("primary", "secondary", "manager", "lead", "management"):
            self.people[level] = Person(f"{level}-person", level, f"{level}@example.com")

    async def on_call(self, tx: Transaction, zone: str, level: Level, at: datetime) -> Person | None:
        return self.people.get(level)

    async def uncovered(
        self, tx: Transaction, zone: str, level: Level, since: datetime, until: datetime
    ) -> datetime | None:
        return since if await self.on_call(tx, zone, level, since) is None else None

    async def newest(self, tx: Transaction, zone: str, check: str, at: datetime) -> Found | None:
        return self.found.get(check)


class Alerting:
    """The whole part on a stage. ``random`` is the middle, so that waits are known."""

    def __init__(self, house: House, export: Callable[[], bytes] = lambda: b"") -> None:
        self.stage = stage = Stage(house, KINDS)
        self.clock, self.database = house.clock, house.database
        self.rota = Rota()
        shared = (stage.database, stage.clock, stage.ids, stage.recorder)
        self.desk = AlertDesk(*shared, stage.heard)
        self.outbox, self.silences = Outbox(*shared), Silences(*shared)
        self.secrets = ChannelSecrets(stage.database, stage.clock, stage.recorder, house.sealer)
        self.figures = AlertFigures(*shared)
        self.killed: list[tuple[int, int]] = []
        faults = (StopJob(), KillPart({"w1": 4242}.get, lambda pid, sign: self.killed.append((pid, sign))))
        self.drills = Drills(*shared, self.figures, {each.name: each for each in faults})
        self.receiver = Receiver(stage.database, stage.clock, self.desk)
        self.evaluator = Evaluator(stage.database, stage.clock, self.desk, self.rota, export)
        self.dispatcher = self.new_dispatcher()
        self.deliveries = self.new_deliveries()

    def new_dispatcher(self) -> Dispatcher:
        """Another process that dispatches."""
        stage = self.stage
        return Dispatcher(
            stage.database, stage.clock, stage.recorder, stage.books, self.desk, self.silences, self.outbox, self.rota,
            lambda zone: "https://bailiwick.example.com",
        )  # fmt: skip

    def new_deliveries(self, **options: Any) -> Deliveries:
        """Another process that delivers."""
        stage, house = self.stage, self.stage.people
        near = house.settings.model_copy(update={"allow_upstream_networks": ("127.0.0.0/8",)})
        reach = reach_of(Resolver(stage.database, stage.clock, stage.recorder, near, house.names))
        return Deliveries(
            stage.database, stage.clock, stage.ids, stage.recorder, stage.books, self.secrets, stage.heard, self.desk,
            options.pop("reach", reach), lambda: 0.5, **options,
        )  # fmt: skip

    async def fire(self, key: str = "pay/down", severity: Severity = Severity.P1, **fields: Any) -> str:
        async with self.database.begin() as tx:
            return await self.desk.fire(tx, self.stage.context("checker"), raised(key, severity, **fields))

    async def clear(self, key: str = "pay/down") -> bool:
        async with self.database.begin() as tx:
            return await self.desk.clear(tx, self.stage.context("checker"), key)

    async def alert(self, identifier: str) -> Alert:
        async with self.database.begin() as tx:
            return await find(tx, "default", identifier)

    async def rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        async with self.database.begin() as tx:
            return [dict(row) for row in await tx.all(sql, **values)]

    async def notices(self) -> list[tuple[str, str, str]]:
        """Recipient, action and subject of every notice, oldest first."""
        found = await self.rows("SELECT recipient, action, subject FROM notices ORDER BY id")
        return [(row["recipient"], row["action"], row["subject"]) for row in found]

    async def told(self) -> list[tuple[str, str, str]]:
        """Those to channels."""
        return [each for each in await self.notices() if each[0].startswith("channel:")]

    async def deliver(self) -> None:
        """Dispatch and deliver until nothing is due."""
        for _ in range(20):
            await self.dispatcher.run_once()
            if not await self.deliveries.run_once():
                return


def raised(key: str = "pay/down", severity: Severity = Severity.P1, **fields: Any) -> Raised:
    """An alert that says everything it has to."""
    values: dict[str, Any] = {
        "rule": "PayDown", "summary": "payments are down", "owner": "uptime", "runbook": "https://runs.example.com/pay",
        "labels": {"service": "pay", "team": "ops_owner"}, "annotations": {"description": "No payment goes through."},
    }  # fmt: skip
    return Raised(key, severity=severity, **{**values, **fields})


# ---------------------------------------------------------------------- documents


def channel(name: str, way: str, more: str = "") -> str:
    return f"apiVersion: bailiwick/v1\nkind: Channel\nmetadata: {{name: {name}}}\nspec: {{{way}{more}}}\n---\n"


def route(name: str, spec: str) -> str:
    return f"apiVersion: bailiwick/v1\nkind: Route\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n"


# ---------------------------------------------------------------------- servers


@dataclass
class Said:
    """One scripted answer. ``hang_s``: how long it takes to come."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hang_s: float = 0.0


class Web:
    """An HTTP server on loopback that speaks as ``answer`` says, or first as scripted, and remembers what it got."""

    def __init__(self, answer: Callable[[str, Any], Said]) -> None:
        self.got: list[Any] = []
        self.script: list[Said] = []
        self.stopping = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                try:
                    body = json.loads(raw)
                except ValueError:
                    body = None
                outer.got.append(body)
                said = outer.script.pop(0) if outer.script else answer(self.path, body)
                if said.hang_s:
                    outer.stopping.wait(said.hang_s)
                with contextlib.suppress(OSError):
                    self.send_response(said.status)
                    for name, value in {"Content-Length": str(len(said.body)), **said.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(said.body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()


def slack(path: str, body: Any) -> Said:
    """As Slack's incoming webhooks answer."""
    if path != "/services/T0/B0/token":
        return Said(404, b"no_service", {"Content-Type": "text/html"})
    if not isinstance(body, dict) or not isinstance(body.get("text"), str) or not body["text"]:
        return Said(400, b"invalid_payload", {"Content-Type": "text/html"})
    return Said(200, b"ok", {"Content-Type": "text/html"})


class Pager:
    """As PagerDuty's Events API v2 answers, with the incidents it keeps by key."""

    def __init__(self, routing_key: str = "R" * 32) -> None:
        self.routing_key = routing_key
        self.incidents: dict[str, list[str]] = {}

    def answer(self, path: str, body: Any) -> Said:
        wrong = []
        if path != "/v2/enqueue":
            return Said(404)
        if not isinstance(body, dict) or body.get("routing_key") != self.routing_key:
            wrong.append("'routing_key' is invalid")
        elif body.get("event_action") not in ("trigger", "acknowledge", "resolve"):
            wrong.append("'event_action' is invalid")
        elif body["event_action"] == "trigger":
            payload = body.get("payload") or {}
            wrong += [
                f"'payload.{each}' is missing" for each in ("summary", "source", "severity") if not payload.get(each)
            ]
            if payload.get("severity") not in ("critical", "error", "warning", "info"):
                wrong.append("'payload.severity' is invalid")
        elif not body.get("dedup_key"):
            wrong.append("'dedup_key' is missing")
        if wrong:
            told = {"status": "invalid event", "message": "Event object is invalid", "errors": wrong}
            return Said(400, json.dumps(told).encode(), {"Content-Type": "application/json"})
        key = body["dedup_key"]
        self.incidents.setdefault(key, []).append(body["event_action"])
        told = {"status": "success", "message": "Event processed", "dedup_key": key}
        return Said(202, json.dumps(told).encode(), {"Content-Type": "application/json"})


@contextlib.contextmanager
def web(answer: Callable[[str, Any], Said]) -> Iterator[Web]:
    server = Web(answer)
    try:
        yield server
    finally:
        server.close()


async def at_once(*doing: Any) -> Sequence[Any]:
    return await asyncio.gather(*doing)
