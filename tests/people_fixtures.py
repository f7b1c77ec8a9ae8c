"""What the tests of identity and inventory stand on: a real database, the rooms' services, and their routes in an app.

The authority room above them is stood in for: tokens are readable, revocations are rows, settling is noted.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

import psycopg
import pytest
from argon2 import PasswordHasher
from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bailiwick.app.quorum import quorum_of
from bailiwick.app.siem import reach_of
from bailiwick.evidence.events import Actor, Context, Event, Recorder, decode
from bailiwick.identity.api_keys import ApiKeys
from bailiwick.identity.applications import Applications
from bailiwick.identity.cookie_sessions import CookieSessions
from bailiwick.identity.groups import Groups
from bailiwick.identity.imports import Imports
from bailiwick.identity.invitations import Invitations
from bailiwick.identity.ldap.walk import walk as walk_directory
from bailiwick.identity.login.admission import Admissions
from bailiwick.identity.login.ldap import Directories, LdapLogin
from bailiwick.identity.login.local import LocalLogin
from bailiwick.identity.login.oidc import OidcLogin
from bailiwick.identity.login.oidc_client import ProviderClients
from bailiwick.identity.login.oidc_walk import walk as walk_openid
from bailiwick.identity.login.passkeys import Passkeys
from bailiwick.identity.login.saml import SamlLogin
from bailiwick.identity.login.saml_walk import walk as walk_saml
from bailiwick.identity.login.sign_ins import SignIns
from bailiwick.identity.login.throttle import SignInThrottle
from bailiwick.identity.passwords import Passwords, VerifiedSecrets
from bailiwick.identity.persons import Persons
from bailiwick.identity.providers import Providers
from bailiwick.identity.refresh_lane import RefreshLane
from bailiwick.identity.reports import Reports
from bailiwick.identity.scim.groups import ScimGroups
from bailiwick.identity.scim.users import ScimUsers
from bailiwick.identity.sessions import Sessions
from bailiwick.identity.testing import Testers
from bailiwick.identity.users import Users
from bailiwick.inventory.credentials import Credentials
from bailiwick.inventory.resolver import LookupFailed, Resolver
from bailiwick.inventory.servers import Servers
from bailiwick.inventory.zones import Zones
from bailiwick.kernel import feed
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Unauthenticated
from bailiwick.kernel.http import Caller
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.quorum import Approval
from bailiwick.kernel.ratelimit import HotLimits, MachineCounters
from bailiwick.kernel.settings import Settings
from databases import FILLED, fresh
from standing_routes import application, behind

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    """A migrated database for this module, which need not wait for its disk."""
    with fresh("people") as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {connection.info.dbname} SET synchronous_commit = off")
        yield url


@dataclass
class StandInAuthority:
    """Tokens anybody can read, revocations as rows, and a note of what was waited for."""

    settled: list[int] = field(default_factory=list)
    keyed: list[str] = field(default_factory=list)

    def session_token(
        self, zone: str, username: str, session_id: str, expires_at: float, amr: tuple[str, ...], auth_time: int
    ) -> str:
        claims = [zone, username, session_id, list(amr), auth_time]
        return f"stand.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.in"

    async def revoke(self, tx: Transaction, context: Context, kind: str, key: str, reason: str) -> int:
        revision = await feed.announce(tx, context.zone, "revocation", f"{kind}/{key}")
        await tx.run(
            "INSERT INTO revocations (revision, zone, kind, key, reason, revoked_by, revoked_at, expires_at)"
            " VALUES (:revision, :zone, :kind, :key, :reason, :by, now(), now())",
            revision=revision,
            zone=context.zone,
            kind=kind,
            key=key,
            reason=reason,
            by=context.actor.user,
        )
        return revision

    async def settle(self, revision: int, context: Context) -> object:
        self.settled.append(revision)
        return None

    async def create(self, tx: Transaction, zone: str, context: Context) -> None:
        self.keyed.append(zone)


@dataclass
class Names:
    """A name server of the test's choosing. Unknown names do not exist; ``None`` does not answer."""

    known: dict[str, list[str] | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.known:
            raise LookupFailed(transient=False)
        addresses = self.known[host]
        if addresses is None:
            raise LookupFailed(transient=True)
        return addresses


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. ``cookies``: the Set-Cookie fields."""

    status: int
    headers: dict[str, str]
    body: bytes
    cookies: tuple[str, ...] = ()

    def json(self) -> Any:
        return json.loads(self.body)


class House:
    """The two rooms over one database, and a client of their routes."""

    def __init__(self, url: str, clock: FakeClock, **settings: Any) -> None:
        self.clock = clock
        self._home = TemporaryDirectory(prefix="bw-house-")
        self.ids = Ids()
        self.settings = Settings(
            data_dir=Path("/tmp"),
            public_url="https://bailiwick.example.com",
            allow_upstream_networks=("10.1.0.0/16",),
            mfa_roles=(),
            **settings,
        )
        self.database = Database(url, pool_size=8)
        self.owner = Database(url, pool_size=2, role=None)
        self.recorder = Recorder(clock, self.ids)
        self.sealer = Sealer({"k1": b"k" * 32}, "k1")
        self.authority = StandInAuthority()
        self.names = Names({"web-01.example.com": ["93.184.216.34"], "pay.example.com": ["93.184.216.35"]})
        self.passwords = Passwords()
        self.secrets = VerifiedSecrets(self.passwords, b"p" * 32)
        shared = (self.database, clock)
        self.zones = Zones(*shared, self.recorder, self.authority, self.authority)
        self.resolver = Resolver(*shared, self.recorder, self.settings, self.names)
        self.credentials = Credentials(*shared, self.ids, self.recorder, self.sealer)
        self.servers = Servers(*shared, self.ids, self.recorder, self.settings, self.resolver, self.authority)
        self.invitations = Invitations(*shared, self.recorder, self.passwords, self.authority)
        self.quorum = quorum_of(*shared, self.ids, self.recorder)
        self.users = Users(*shared, self.ids, self.recorder, self.settings, self.passwords, self.authority, self.quorum)
        self.sessions = Sessions(*shared, self.recorder, self.authority)
        self.sign_ins = SignIns(
            *shared, self.ids, self.recorder, self.settings, self.sealer, self.authority, self.authority
        )
        self.cookies = CookieSessions(self.settings, self.ids)
        self.passkeys = Passkeys(*shared, self.ids, self.recorder, self.settings, self.sign_ins)
        self.login = LocalLogin(*shared, self.recorder, self.passwords, self.sign_ins, self.authority)
        self.providers = Providers(*shared, self.ids, self.recorder, self.sealer)
        self.admissions = Admissions(*shared, self.ids, self.recorder, self.sign_ins, self.authority)
        self.directories = Directories(self.providers, self.resolver, clock)
        self.ldap_login = LdapLogin(*shared, self.recorder, self.providers, self.admissions, self.directories)
        # providers of tests stand on loopback; no request of theirs is waited for as long as in earnest
        near = self.settings.model_copy(update={"allow_upstream_networks": ("127.0.0.0/8",)})
        near_reach = reach_of(Resolver(*shared, self.recorder, near, self.names))
        self.provider_clients = ProviderClients(near_reach, clock, timeout_s=1.0)
        self.testers = Testers(
            {
                "ldap": partial(walk_directory, self.directories.make),
                "saml": partial(walk_saml, near_reach, clock, self.providers, self.settings),
                "oidc": partial(walk_openid, self.provider_clients, self.providers, self.settings),
            }
        )
        self.oidc = OidcLogin(
            *shared, self.ids, self.recorder, self.settings, self.providers, self.provider_clients, self.admissions,
            self.sessions, self.authority,
        )  # fmt: skip
        self.saml = SamlLogin(
            *shared,
            self.ids,
            self.recorder,
            self.settings,
            self.providers,
            self.admissions,
            self.sessions,
            self.authority,
        )
        self.api_keys = ApiKeys(*shared, self.ids, self.recorder, self.authority)
        self.groups = Groups(*shared, self.ids, self.recorder, self.authority)
        self.applications = Applications(*shared, self.ids, self.recorder, self.passwords, self.secrets, self.authority)
        self.scim_users = ScimUsers(self.database, self.users, Imports(*shared, self.ids, self.recorder))
        self.scim_groups = ScimGroups(self.database, self.groups)
        self.reports = Reports(*shared, self.recorder, Persons())
        self.sign_in_throttle = self.throttle(10_000)
        self._routers: tuple[APIRouter, ...] = ()

    async def reset(self) -> None:
        """An empty installation with the zone ``default`` and the administrator ``root``."""
        async with self.owner.begin() as tx:
            tables = await tx.all(f"{FILLED} AND n.nspname = 'bailiwick'")
            # a truncation makes new files for every table; these hold a handful of rows
            await tx.run("SET LOCAL session_replication_role = replica")
            await tx.run("; ".join(f"DELETE FROM {row['name']}" for row in tables))
        await self.zone("default")

    async def close(self) -> None:
        self.passwords.close()
        self._home.cleanup()
        await self.directories.close()
        await self.provider_clients.close()
        await self.database.close()
        await self.owner.close()

    async def zone(self, name: str) -> None:
        async with self.database.begin() as tx:
            await tx.run("INSERT INTO zones (name, created_at) VALUES (:name, now())", name=name)

    async def server(self, *names: str, zone: str = "default") -> None:
        """Servers that are registered and no more."""
        async with self.database.begin() as tx:
            for name in names:
                await tx.run(
                    "INSERT INTO servers (id, zone, name, endpoint, created_at, updated_at)"
                    " VALUES (:id, :zone, :name, 'https://pay.example.com', now(), now())",
                    id=self.ids(),
                    zone=zone,
                    name=name,
                )

    async def user(self, username: str, role: str = "admin", zone: str = "default", **columns: Any) -> None:
        """A user with the password :data:`PASSWORD`."""
        values: dict[str, Any] = {"is_active": True, "must_change_password": False, "password_hash": _hashed()}
        values.update(columns)
        async with self.database.begin() as tx:
            await tx.run(
                "INSERT INTO users (id, zone, username, email, role, is_active, must_change_password, password_hash,"
                " created_at, updated_at) VALUES (:id, :zone, :username, :email, :role, :is_active,"
                " :must_change_password, :password_hash, now(), now())",
                id=self.ids(),
                zone=zone,
                username=username,
                email=f"{username}@example.com",
                role=role,
                **values,
            )

    async def signed_in(
        self, username: str, role: str = "admin", zone: str = "default", amr: tuple[str, ...] = ("pwd",)
    ) -> str:
        """A token of a fresh session, for a user made on the way."""
        async with self.database.begin() as tx:
            known = await tx.one("SELECT 1 FROM users WHERE zone = :z AND username = :u", z=zone, u=username)
        if known is None:
            await self.user(username, role, zone)
        session_id, now = self.ids(), self.clock.now()
        async with self.database.begin() as tx:
            await tx.run(
                "INSERT INTO sessions (id, zone, username, method, auth_time, created_at, last_seen_at, idle_until,"
                " expires_at) VALUES (:id, :zone, :username, 'local', :now, :now, :now, :then, :then)",
                id=session_id,
                zone=zone,
                username=username,
                now=now,
                then=now + timedelta(hours=12),
            )
        return self.authority.session_token(zone, username, session_id, 0.0, amr, int(now.timestamp()))

    async def approve(self, approval: Mapping[str, Any], who: str, role: str = "admin") -> Approval:
        """What ``who`` says to exactly what the document of an approval says."""
        return await self.quorum.vote(
            Context("default", Actor(user=who)),
            "default",
            approval["id"],
            person=who,
            role=role,
            approves=True,
            payload_sha256=approval["payload_sha256"],
        )

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str = "",
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """One request to the routes. ``body`` is sent as JSON, ``raw`` as it is."""
        sent = {"content-type": "application/json", **(headers or {})}
        if token:
            sent["authorization"] = f"Bearer {token}"
        payload = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        return await _call(self.lanes, method, path, sent, payload)

    async def events(self) -> list[Event]:
        """The events left for the ledger, in order."""
        async with self.database.begin() as tx:
            return [decode(bytes(row["event"])) for row in await tx.all("SELECT event FROM outbox ORDER BY id")]

    async def feed(self) -> list[tuple[str, str]]:
        """The kinds and keys announced, in order."""
        async with self.database.begin() as tx:
            return [(row["kind"], row["key"]) for row in await tx.all("SELECT kind, key FROM feed ORDER BY revision")]

    async def value(self, sql: str, **values: Any) -> Any:
        async with self.database.begin() as tx:
            return await tx.value(sql, **values)

    async def authenticate(self, request: Request) -> Caller:
        presented, request.state.by_cookie = self.cookies.presented(request.scope)
        if not presented:
            raise Unauthenticated
        zone, username, session_id, amr, auth_time = json.loads(
            base64.urlsafe_b64decode(presented.split(".")[1] + "==")
        )
        async with self.database.begin() as tx:
            row = await tx.one(
                "SELECT u.role, u.owns, u.is_active, u.must_change_password, s.ended_at FROM users u"
                " JOIN sessions s ON s.zone = u.zone AND s.username = u.username"
                " WHERE u.zone = :zone AND u.username = :username AND s.id = :id",
                zone=zone,
                username=username,
                id=session_id,
            )
        if row is None or not row["is_active"] or row["ended_at"] is not None or zone != request.state.zone:
            raise Unauthenticated(reason="session_ended")
        held = request.headers.get("x-test-permissions")
        return Caller(
            zone, username, row["role"], session_id, row["must_change_password"], tuple(amr), auth_time,
            permissions=frozenset(held.split()) if held is not None else None, owns=frozenset(row["owns"]),
            key=request.headers.get("x-test-key", ""),
        )  # fmt: skip

    async def step_up(self, request: Request, caller: Caller) -> None:
        await self.sign_ins.require_privileged(caller, request.state.ip)

    def throttle(self, per_minute: int) -> SignInThrottle:
        """A throttle with counters of its own."""
        counters = MachineCounters(Path(self._home.name) / self.ids(), self.clock)
        return SignInThrottle(HotLimits(counters, Metrics(CollectorRegistry()), self.clock, 0), per_minute)

    def _described(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {
            "zone": headers.get("x-test-zone", "default"),
            "request_id": self.ids(),
            "ip": headers.get("x-test-ip", "198.51.100.7"),
        }

    @cached_property
    def lanes(self) -> ASGIApp:
        """The routes of both rooms and those that :meth:`serve` was given, behind the lane that refreshes take."""
        own = application(*self._routers) if self._routers else None
        lane = RefreshLane(behind(self, own), self.sign_ins)

        async def described(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"] = self._described(Headers(scope=scope))
            await lane(scope, receive, send)

        return described

    def serve(self, *routers: APIRouter) -> None:
        """Have more routes answered by :meth:`call`."""
        self._routers += routers
        self.__dict__.pop("lanes", None)


@cache
def _hashed() -> str:
    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash(PASSWORD)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def house(database_url: str, clock: FakeClock) -> AsyncIterator[House]:
    house = House(database_url, clock)
    await house.reset()
    yield house
    await house.close()


async def _call(app: ASGIApp, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("198.51.100.7", 1),
        "server": ("test", 80),
    }
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    received: list[Message] = []

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        received.append(message)

    await app(scope, receive, send)
    start = received[0]
    answer = b"".join(message.get("body", b"") for message in received[1:])
    fields = [(name.decode(), value.decode()) for name, value in start["headers"]]
    cookies = tuple(value for name, value in fields if name == "set-cookie")
    return Answer(start["status"], dict(fields), answer, cookies)
