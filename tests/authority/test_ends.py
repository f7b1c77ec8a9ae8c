"""How authority ends at the check: by each kind of revocation, by a key, by staleness, by a limit; also while the disk
is busy. The snapshot is a real one of a real database; what is recorded is kept in memory, when the test says so."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from bailiwick.app.guard import is_closed
from bailiwick.assurance.gateway_switch import GatewaySwitch
from bailiwick.authority.authenticate import Authenticator
from bailiwick.authority.emergency import EmergencyRotation
from bailiwick.authority.keys import KeyStore, SigningKey
from bailiwick.authority.revocation import Kind, Revocation, Revocations, RevokedSet, load_revocations
from bailiwick.authority.snapshot import SnapshotStore
from bailiwick.authority.tokens import MANDATE_TYPE, Mandate, sign
from bailiwick.evidence.events import Actor, Context, Event, Subject, decode
from bailiwick.gateway.authority_ref import AuthorityRef
from bailiwick.gateway.check import Answer, Check
from bailiwick.identity.loader import ApplicationEntry
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.feed import Change
from bailiwick.kernel.metrics import Metrics
from bailiwick.policy.decisions import Decider
from bailiwick.policy.engine import RegorusEngine
from bailiwick.policy.rego_syntax import Module
from people_fixtures import House

OPEN = Module("open.rego", "package open\n\nimport rego.v1\n\nallow := true\n")
FRESHNESS_S = 30.0


@dataclass
class Disk:
    """Durable at once, or when :meth:`sync` is called."""

    busy: bool = False
    events: list[Event] = field(default_factory=list)
    waiting: list[Callable[[Exception | None], None]] = field(default_factory=list)

    def event_then(self, zone: str, body: bytes, done: Callable[[Exception | None], None]) -> None:
        self.events.append(decode(body))
        if self.busy:
            self.waiting.append(done)
        else:
            done(None)

    def decision_input(self, zone: str, digest: str, body: bytes) -> None: ...

    def sync(self) -> None:
        self.busy, waiting = False, self.waiting
        self.waiting = []
        for done in waiting:
            done(None)


class World:
    """One server, one application, one user, and a worker's check over them."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.keys = KeyStore(house.database, house.sealer, house.clock, house.recorder)
        self.store = SnapshotStore(house.settings, house.clock, self.keys, house.sealer)
        self.age = 0.0
        self.counted: list[str] = []
        self.disk = Disk()
        self.limit: Callable[[ApplicationEntry], None] = lambda application: None
        self.context = Context("default", Actor(user="root"))
        self.revocations = Revocations(
            house.database,
            house.clock,
            house.recorder,
            longest_mandate=timedelta(minutes=15),
            longest_session=timedelta(hours=12),
            freshness_limit_s=FRESHNESS_S,
            fence_after_s=0.1,
            fence=lambda host, slot: self._never(),
            count=self.counted.append,
        )
        self.revision = 0
        decider = Decider()
        decider.swap(RegorusEngine().compile([OPEN], {}))
        self.check = Check(
            self.store,
            Authenticator(self.store, house.clock, feed_age=lambda: self.age, freshness_limit_s=FRESHNESS_S),
            lambda zone: decider,
            self.disk,
            house.recorder,
            house.ids,
            monotonic=house.clock.monotonic,
            observe=lambda outcome, reason, seconds: None,
            limit=lambda application: self.limit(application),
        )

    async def _never(self) -> bool:
        raise AssertionError("there is no worker to fence")

    async def open(self) -> None:
        token = await self.house.signed_in("root")
        async with self.house.database.begin() as tx:
            await self.keys.create(tx, "default")
        binding = {"operations": [{"method": "GET", "path": "/items", "scope": "items:read"}], "credential": "none"}
        server = {"name": "pay", "endpoint": "https://pay.example.com", "binding": binding}
        application = {"name": "agent", "grants": {"pay": ["items:read"]}}
        for path, body in (
            ("credentials", {"name": "none", "kind": "none"}),
            ("servers", server),
            ("applications", application),
        ):
            made = await self.house.call("POST", f"/api/v1/{path}", body, token=token)
            assert made.status == 201, made.body
        self.client_id = made.json()["client_id"]
        self.revision = await self.store.load(self.house.database)

    def token(self, key: SigningKey | None = None, **claims: Any) -> str:
        zone, now = self.store.current.zones["default"], int(self.house.clock.time())
        issued = {
            "iss": zone.issuer, "aud": zone.servers["pay"].audience, "sub": "root", "sub_type": "user", "sid": "s-1",
            "client_id": self.client_id, "iat": now, "exp": now + 900, "jti": "j-1", "scope": "items:read",
            "zone": "default", "policy": "", "rev": self.revision, **claims,
        }  # fmt: skip
        return sign(key or zone.mandate_key, MANDATE_TYPE, Mandate(**issued))

    def ask(self, token: str) -> list[Answer]:
        """The answers so far: one, or none while the disk is busy."""
        server = self.store.current.zones["default"].servers["pay"]
        headers = [
            (b"authorization", f"Bearer {token}".encode()),
            (b"x-bailiwick-route", server.route.encode()),
            (b"x-bailiwick-binding", server.binding_tag.encode()),
        ]
        answers: list[Answer] = []
        scope = {"method": "GET", "raw_path": b"/check/s/pay/items", "query_string": b"", "headers": headers}
        self.check.judge(scope, answers.append)
        return answers

    def reason(self, token: str) -> str:
        """Why a request is refused; empty when it passes."""
        (answer,) = self.ask(token)
        return told(answer)

    async def revoke(self, kind: Kind, key: str) -> None:
        async with self.house.database.begin() as tx:
            await self.revocations.revoke(tx, self.context, kind, key, "test")
        await self.follow()

    async def follow(self) -> None:
        """Take in what the feed brought, as a worker does."""
        async with self.house.database.begin() as tx:
            rows = await tx.all("SELECT * FROM feed WHERE revision > :after ORDER BY revision", after=self.revision)
            changes = [Change(row["revision"], row["zone"], row["kind"], row["key"]) for row in rows]
            await self.store.apply(tx, changes)
        self.revision = changes[-1].revision if changes else self.revision


def told(answer: Answer) -> str:
    return "" if answer.status == 200 else str(json.loads(answer.body)["reason"])


@pytest.fixture
async def world(house: House) -> World:
    made = World(house)
    await made.open()
    return made


# ---------------------------------------------------------------------- revocations

_KINDS = typing.get_args(Kind)


@pytest.mark.parametrize("kind", _KINDS)
async def test_every_kind_of_revocation_ends_a_mandate_and_is_counted(world: World, kind: Kind) -> None:
    token = world.token()
    assert world.reason(token) == ""
    key = {"mandate": "j-1", "session": "s-1", "application": world.client_id, "user": "root"}[kind]
    await world.revoke(kind, key)
    assert world.reason(token) == "token_revoked"
    assert world.counted == [kind]
    # what a worker reads when it starts is what one that was there has heard
    fresh = World(world.house)
    fresh.client_id, fresh.revision = world.client_id, await fresh.store.load(world.house.database)
    assert fresh.reason(token) == "token_revoked"
    if kind in {"application", "user"}:
        assert world.reason(world.token(jti="j-2")) == "", "what was issued afterwards stands"


async def test_the_table_takes_the_kinds_that_are_enforced_and_no_other(world: World) -> None:
    check = await world.house.value(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'revocations_kind_check'"
    )
    assert {kind for kind in (*_KINDS, "key", "zone") if f"'{kind}'" in check} == set(_KINDS)
    assert check.count("'::text") == len(_KINDS), check


def test_a_kind_of_another_version_is_not_passed_over() -> None:
    at = datetime(2026, 1, 5, tzinfo=UTC)
    with pytest.raises(ValueError, match="device"):
        RevokedSet().add(Revocation(1, "default", "device", "d", "", "root", at, at))


async def test_revocations_move_their_metric(world: World) -> None:
    metrics = Metrics(CollectorRegistry())
    world.revocations._count = lambda kind: metrics.revocations.labels(kind).inc()
    assert b'bailiwick_revocations_total{kind="session"} 0.0' in metrics.collect_text()
    await world.revoke("session", "s-1")
    assert b'bailiwick_revocations_total{kind="session"} 1.0' in metrics.collect_text()


# ---------------------------------------------------------------------- closures


async def test_what_is_closed_is_refused_also_while_the_disk_is_busy_and_its_streams_are_not_let_live(
    world: World,
) -> None:
    switch = GatewaySwitch(world.house.clock, world.house.ids, world.house.recorder)
    token, zone = world.token(), world.store.current.zones["default"]
    assert world.reason(token) == ""
    world.disk.busy = True
    answers = world.ask(token)
    async with world.house.database.begin() as tx:
        await switch.close(tx, world.context, "leak", "root", "pay")
    await world.follow()
    world.disk.sync()
    assert [told(answer) for answer in answers] == ["server_closed"]
    assert world.reason(token) == "server_closed"
    assert world.disk.events[-1].server == "pay"
    state = SimpleNamespace(store=world.store)
    pay = AuthorityRef("j-1", world.client_id, "root", "s-1", "default", "pay", "k", 1, 2**31)
    assert is_closed(state, pay) and not is_closed(state, replace(pay, server="docs"))
    assert not zone.closed  # the others of the zone go on
    async with world.house.database.begin() as tx:
        await switch.close(tx, world.context, "leak", "root")
    await world.follow()
    assert world.reason(token) == "gateway_closed"
    assert is_closed(state, replace(pay, server="docs"))


async def test_every_verdict_that_is_durable_is_counted_by_its_hour(world: World) -> None:
    counted: list[tuple[str, str, str]] = []
    world.check._count = lambda *told: counted.append(told)
    token = world.token()
    assert (world.reason(token), world.reason("none")) == ("", "invalid_token")
    hour = world.house.clock.now().strftime("%Y-%m-%dT%H")
    assert counted == [("default", hour, "allow"), ("default", hour, "deny")]
    # allowed, and refused after all when the disk was through: two events, and two counts
    world.disk.busy = True
    answers = world.ask(token)
    await world.revoke("mandate", "j-1")
    world.disk.sync()
    assert told(answers[0]) == "token_revoked"
    assert [outcome for _, _, outcome in counted[2:]] == ["allow", "deny"]
    assert len(counted) == len(world.disk.events)


# ---------------------------------------------------------------------- keys


async def test_a_revoked_key_is_told_from_one_that_never_was(world: World) -> None:
    class NoEvents:
        async def issued_by_key(self, zone: str, code: str, kid: str, since: float) -> list[Event]:
            return []

    async def drained() -> bool:
        return True

    rotation = EmergencyRotation(
        world.house.database,
        world.keys,
        world.revocations,
        NoEvents(),
        world.house.clock,
        mandate_ttl_s=900,
        drained=drained,
        count=world.counted.append,
    )
    first, token = world.store.current.zones["default"].mandate_key, world.token()
    await rotation.rotate(world.context, "mandate", emergency=False, reason="quarterly")
    await world.follow()
    assert world.reason(token) == "", "an ordinary rotation ends nothing"
    assert world.counted == []
    second, newer = world.store.current.zones["default"].mandate_key, world.token()
    await rotation.rotate(world.context, "mandate", emergency=True, reason="exposed")
    await world.follow()
    assert world.counted == ["key"]
    assert (world.reason(newer), world.reason(token)) == ("key_revoked", "")
    assert world.store.current.zones["default"].revoked_keys == {second.kid}

    # a key that was only retired was never revoked, and tokens it signed have run out
    world.house.clock.advance(3600)
    assert await world.keys.retire_expired(timedelta(minutes=15)) == 1
    retired = (await world.house.events())[-1]
    assert (retired.name, retired.subject, retired.details) == (
        "key.retired",
        Subject(id=first.kid, type="key"),
        {"purpose": "mandate"},
    )
    await world.follow()
    assert world.reason(world.token(first)) == "unknown_key"
    assert world.reason(world.token(second)) == "key_revoked"
    world.house.clock.advance(31 * 24 * 3600)
    async with world.house.database.begin() as tx:
        assert await world.keys.load_revoked(tx, "default") == frozenset()


async def test_what_is_remembered_of_revoked_keys_is_bounded(world: World) -> None:
    async with world.house.database.begin() as tx:
        await tx.run(
            "INSERT INTO zone_keys (kid, zone, purpose, algorithm, public_jwk, private_sealed, state, created_at,"
            " changed_at) SELECT 'm-' || n, 'default', 'mandate', 'ES256', '{}', '', 'revoked', :now,"
            " cast(:now AS timestamptz) - n * interval '1 minute' FROM generate_series(1, 300) n",
            now=world.house.clock.now(),
        )
        remembered = await world.keys.load_revoked(tx, "default")
    assert len(remembered) == 256
    assert "m-1" in remembered and "m-300" not in remembered


# ---------------------------------------------------------------------- while the disk is busy


async def test_what_ends_while_the_disk_is_busy_is_refused_and_recorded_anew(world: World) -> None:
    token = world.token()
    world.disk.busy = True
    answers = world.ask(token)
    await world.revoke("mandate", "j-1")
    assert answers == []
    world.disk.sync()
    assert told(answers[0]) == "token_revoked"
    assert [(event.outcome, event.reasons) for event in world.disk.events] == [
        ("allow", ()),
        ("deny", ("token_revoked",)),
    ]


async def test_an_answer_does_not_outlive_the_freshness_of_the_feed(world: World) -> None:
    # a revoker that cannot reach this worker waits until it is stale, and takes it for granted that it then refuses
    world.disk.busy, world.age = True, FRESHNESS_S - 1
    answers = world.ask(world.token())
    world.age = FRESHNESS_S + 1
    world.disk.sync()
    assert (answers[0].status, told(answers[0])) == (470, "revocation_stale")
    assert world.disk.events[-1].reasons == ("revocation_stale",)


# ---------------------------------------------------------------------- limits


async def test_a_limit_is_a_denial_with_its_event_and_a_time_to_come_back(world: World) -> None:
    asked: list[str] = []

    def limit(application: ApplicationEntry) -> None:
        asked.append(application.name)
        raise BailiwickError(reason="rate_limited", headers={"Retry-After": "7"})

    world.limit = limit
    (answer,) = world.ask(world.token())
    assert (answer.status, told(answer)) == (429, "rate_limited")
    assert (b"retry-after", b"7") in answer.headers
    assert (world.disk.events[-1].outcome, world.disk.events[-1].reasons) == ("deny", ("rate_limited",))
    assert asked == ["agent"]
    assert world.reason("not.a.token") == "invalid_token"
    assert asked == ["agent"], "who is not known does not use up anybody's share"


async def test_revocations_that_ran_out_are_no_longer_read(world: World) -> None:
    await world.revoke("mandate", "j-1")
    async with world.house.database.begin() as tx:
        assert len(await load_revocations(tx, world.house.clock.now())) == 1
        assert await load_revocations(tx, world.house.clock.now() + timedelta(days=2)) == []
