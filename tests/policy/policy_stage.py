"""The policy room on its real parts: PostgreSQL, regorus, subprocesses, FastAPI; a zone of its own for each test."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import msgspec
from asgi_client import Answer, Client
from fastapi import FastAPI, Request

from bailiwick.app.quorum import quorum_of
from bailiwick.evidence import codes
from bailiwick.evidence.approvals import routes as approval_routes
from bailiwick.evidence.events import Actor, Context, Event, Recorder, decode
from bailiwick.evidence.inputs import digest_of, input_aad
from bailiwick.kernel import problems
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError, Unauthenticated, Unavailable
from bailiwick.kernel.feed import Change, FeedReader
from bailiwick.kernel.http import Caller
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.quorum import Approval
from bailiwick.policy import api, sets
from bailiwick.policy.admission import Admission
from bailiwick.policy.comparison import KnownPrincipal, KnownServer, Surroundings
from bailiwick.policy.decisions import Decider
from bailiwick.policy.evaluate import PATH, Evaluate
from bailiwick.policy.figures import newly_allowed
from bailiwick.policy.known_good import KnownGood
from bailiwick.policy.loader import Loaded, load_decider
from bailiwick.policy.policies import Change as SetChange
from bailiwick.policy.policies import Policies, Upload
from bailiwick.policy.trial import Trials

SEED = """package sark.authz

allow {
  input.user.role == "admin"
}

allow {
  input.action == "read"
  input.user.role == "viewer"
}
"""
"""The first seed's authorization.rego, byte for byte."""

NOBODY = "package nobody\nimport rego.v1\nallow := false\n"


def allowing(package: str, condition: str) -> bytes:
    return f"package {package}\nimport rego.v1\nallow if {condition}\n".encode()


class FoundEntry:
    def __init__(self, event: Event) -> None:
        self.event = event


class Found:
    def __init__(self, event: Event, document: bytes | None) -> None:
        self.entry = FoundEntry(event)
        self.input = document


class Memory:
    """Keeps what is recorded, in order, and fails when told to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.while_writing: list[Callable[[], None]] = []
        self.inputs: dict[str, bytes] = {}
        self.full = False

    async def event(self, zone: str, body: bytes) -> None:
        if self.full:
            raise Unavailable(reason="evidence_unavailable")
        self.events.append(decode(body))
        if self.while_writing:
            self.while_writing.pop(0)()

    def decision_input(self, zone: str, digest: str, body: bytes) -> None:
        assert digest_of(body) == digest
        self.inputs[digest] = body

    async def find(self, zone: str, decision_id: UUID) -> Found | None:
        for event in self.events:
            if event.decision_id == str(decision_id) and event.zone == zone:
                return Found(event, self.inputs.get(str(event.details["input"])))
        return None


class Worker:
    """What a serve worker does: follows the feed and keeps a decider."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.decider = Decider()
        self.loaded: list[Loaded] = []
        self.reader = FeedReader(stage.database, stage.url, stage.clock, self._apply, poll_s=1)

    async def start(self) -> None:
        await self._load()
        async with self._stage.database.begin() as tx:
            revision = await tx.value("SELECT coalesce(max(revision), 0) FROM feed")
        self.reader.start_from(int(revision), 0.0)

    async def settle(self, revision: int, context: Context) -> object:
        await self.reader.poll()
        assert self.reader.revision >= revision
        return None

    async def _apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.zone == self._stage.zone and change.kind == "policy":
                await self._load()
            elif change.zone == self._stage.zone and change.kind == "cache":
                self.decider.flush()

    async def _load(self) -> None:
        async with self._stage.database.begin() as tx:
            self.loaded.append(await load_decider(tx, self._stage.zone, self.decider))


class Stage:
    """Callers are named by their token: ``Bearer admin:alice`` is alice, an administrator."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.zone = f"t{secrets.token_hex(5)}"
        self.clock = FakeClock()
        self.ids = Ids()
        self.recorder = Recorder(self.clock, self.ids)
        self.sealer = Sealer({"k": b"k" * 32}, "k")
        self.database = Database(url, pool_size=10)
        self.memory = Memory()
        self.surroundings = Surroundings()
        self.users = {
            "alice": ("admin", True),
            "otto": ("operator", True),
            "aude": ("auditor", True),
            "test.user": ("viewer", True),
            "bob": ("viewer", True),
            "gone": ("viewer", False),
        }
        self.observed: list[tuple[str, str, bool]] = []
        self.changes = 0  # of revocations and principals
        self.ended: set[str] = set()
        self.stale = False
        self.limited: set[str] = set()
        self.worker = Worker(self)
        self.quorum = quorum_of(self.database, self.clock, self.ids, self.recorder)
        self.policies = self.service()
        self.known_good = KnownGood(self.database, self.recorder, self.clock, self.quorum)
        self.context = Context(self.zone, Actor(user="alice", session="session-1"))
        self.app = self._app()
        self.evaluate = Evaluate(
            authenticate=self.authenticate,
            principal=lambda zone, user: self.users.get(user),
            decider=lambda zone: self.worker.decider,
            evidence=self.memory,
            recorder=self.recorder,
            ids=self.ids,
            monotonic=self.clock.monotonic,
            observe=lambda outcome, reason, cached, seconds: self.observed.append((outcome, reason, cached)),
            limit=lambda caller: self.limit(caller),
            moved=lambda: self.changes,
            require_fresh=self.require_fresh,
        )

    def service(self) -> Policies:
        """Another process's service over the same database."""
        return Policies(
            self.database,
            self.recorder,
            self.clock,
            self.sealer,
            Admission(),
            Trials(),
            self.quorum,
            settle=self.worker,
            surroundings=lambda zone: self.surroundings,
        )

    async def newly_allowed(self) -> int:
        """What the figure says of the zone."""
        async with self.database.begin() as tx:
            return (await newly_allowed(tx))[self.zone]

    async def open(self) -> None:
        async with self.database.begin() as tx:
            await tx.run(
                "INSERT INTO zones (name, created_at) VALUES (:zone, :at)", zone=self.zone, at=self.clock.now()
            )
        for name in ("alice", "ada"):
            await self.person(name)
        await self.worker.start()

    async def close(self) -> None:
        await self.database.close()

    def authenticate(self, token: str, zone: str) -> Caller:
        role, _, name = token.partition(":")
        if not name:
            raise Unauthenticated(reason="invalid_token")
        if token in self.ended:
            raise Unauthenticated(reason="session_ended")
        return Caller(zone, name, role, "session-1", must_change_password=role == "new")

    def require_fresh(self) -> None:
        if self.stale:
            raise Unavailable(reason="revocation_stale")

    def limit(self, caller: Caller) -> None:
        if caller.name in self.limited:
            raise BailiwickError(reason="rate_limited", headers={"Retry-After": "7"})

    def _app(self) -> FastAPI:
        app = FastAPI()
        problems.install(app)
        app.include_router(approval_routes(self.quorum))
        app.include_router(api.routes(self.policies, self.known_good, self.database, self.recorder, self.memory.find))

        async def authenticate(request: Request) -> Caller:
            return self.authenticate(request.headers.get("authorization", "").removeprefix("Bearer "), self.zone)

        app.state.authenticate = authenticate
        return app

    async def asgi(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """The app behind a front: what names the request, and the hot endpoint."""
        if scope["type"] == "http":
            scope["state"] = {"zone": self.zone, "request_id": self.ids(), "path": scope["path"]}
            if (scope["method"], scope["path"]) == ("POST", PATH):
                await self.evaluate(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def client(self, token: str | None = "admin:alice") -> Client:
        return Client(self.asgi, token)

    # --- two persons

    async def person(self, name: str, role: str = "admin", email: str = "") -> None:
        async with self.database.begin() as tx:
            await tx.run(
                "INSERT INTO users (id, zone, username, email, role, created_at, updated_at)"
                " VALUES (:id, :zone, :name, :email, :role, :at, :at)",
                id=self.ids(),
                zone=self.zone,
                name=name,
                email=email,
                role=role,
                at=self.clock.now(),
            )

    async def approve(self, approval: Approval | dict[str, Any], who: str = "ada", role: str = "admin") -> Approval:
        document = approval.document() if isinstance(approval, Approval) else approval
        return await self.quorum.vote(
            Context(self.zone, Actor(user=who)),
            self.zone,
            document["id"],
            person=who,
            role=role,
            approves=True,
            payload_sha256=document["payload_sha256"],
        )

    async def agreed(self, change: Callable[[], Awaitable[SetChange | Approval]]) -> SetChange:
        """What alice asks for, after ada approved it where that is needed."""
        done = await change()
        if isinstance(done, Approval):
            await self.approve(done)
            done = await change()
        assert isinstance(done, SetChange), done
        return done

    async def activate(self, name: str, version: int | None = None) -> SetChange:
        return await self.agreed(lambda: self.policies.activate(self.context, name, version))

    async def said(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """The same over HTTP."""
        answer = await call()
        if answer.status_code == 202:
            await self.approve(answer.json()["approval"])
            answer = await call()
        assert answer.status_code != 202, answer.text
        return answer

    # --- short cuts

    async def put(self, name: str, source: bytes | str, *, activate: bool = True) -> str:
        """Upload; answers the hash of what is active then."""
        content = source.encode() if isinstance(source, str) else source
        upload = Upload(name, f"{name}.rego", content)
        done = await self.policies.upload(self.context, upload, activate=activate)
        if done.waits is not None:
            await self.activate(name, done.version.version)
        return await self.active_hash()

    async def active_hash(self) -> str:
        async with self.database.begin() as tx:
            active = await sets.read_active(tx, self.zone)
        return active.hash if active else ""

    async def history(self) -> list[sets.Activation]:
        async with self.database.begin() as tx:
            return await sets.read_history(tx, self.zone, None, 100)

    async def outbox(self, kind: Any = None) -> list[Event]:
        async with self.database.begin() as tx:
            rows = await tx.all("SELECT event FROM outbox WHERE zone = :zone ORDER BY id", zone=self.zone)
        events = [decode(bytes(row["event"])) for row in rows]
        return [event for event in events if kind is None or event.code == kind.code]

    async def remember_input(self, document: dict[str, Any]) -> None:
        body = msgspec.json.encode(document)
        digest = digest_of(body)
        async with self.database.begin() as tx:
            await tx.run(
                "INSERT INTO decision_inputs (zone, digest, sealed, created_at, expires_at)"
                " VALUES (:zone, :digest, :sealed, :now, :now + interval '30 days')",
                zone=self.zone,
                digest=digest,
                sealed=self.sealer.seal(body, input_aad(self.zone, digest)),
                now=self.clock.now(),
            )

    async def ask(
        self, body: bytes | dict[str, Any], token: str | None = "admin:alice", **headers: str
    ) -> tuple[int, dict[str, Any]]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.client(token) as client:
            answer = await client.post(PATH, content=content, headers={"content-type": "application/json", **headers})
        return answer.status_code, answer.json()


PAYMENTS = Surroundings(
    principals=(
        KnownPrincipal("user", "u1", "vera", "viewer", {}),
        KnownPrincipal("user", "u2", "olga", "operator", {}),
        KnownPrincipal("application", "a1", "agent", "viewer", {"payments": ("payments:read",)}),
    ),
    servers=(KnownServer("payments", {}, (("GET", "/pay/{id}", "payments:read"), ("POST", "/pay", "payments:write"))),),
)

__all__ = ["NOBODY", "PAYMENTS", "SEED", "Stage", "allowing", "codes"]
