"""The story: thirty-five days in chapters, each a number of days and what people do in them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql

from bailiwick.app.selftest.ground import LIFE, Ground
from bailiwick.app.selftest.operations import ForcePayout, PauseProvider
from bailiwick.app.selftest.seen import Seen, look
from bailiwick.app.selftest.story_book import story_book
from bailiwick.app.selftest.world import PRODUCER, ZONE, World
from bailiwick.assurance.override_records import Ask, Override
from bailiwick.assurance.rhythm.minutes import Said
from bailiwick.assurance.waivers import NewWaiver
from bailiwick.evidence.evidence_records import Stored
from bailiwick.inventory.credentials import Credentials, Secret
from bailiwick.kernel.http import Caller

GO_LIVE = datetime(2026, 1, 5, 12, tzinfo=UTC)
"""A Monday; steps fall on noon and midnight."""

PEOPLE: Mapping[str, str] = {
    "ada": "admin", "ben": "admin", "olga": "operator", "otto": "operator", "opal": "ops_owner",
    "selma": "security_owner", "aud": "auditor", "frida": "finance_owner", "pavel": "product_owner",
}  # fmt: skip
"""The people of the story, and the role of each."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """Some days of the life. ``tell`` lets them pass."""

    name: str
    day: float  # at its end
    tell: Callable[[World], Awaitable[None]]


# ---------------------------------------------------------------------- what people do


async def make_people(world: World) -> None:
    """Accounts, one for each role of the story."""
    async with world.database.begin() as tx:
        await tx.run("INSERT INTO zones (name, created_at) VALUES (:zone, :now)", zone=ZONE, now=world.clock.now())
        for name, role in PEOPLE.items():
            await tx.run(
                "INSERT INTO users (id, zone, username, email, full_name, role, created_at, updated_at)"
                " VALUES (:id, :zone, :name, :email, :full, :role, :now, :now)",
                id=world.ids(),
                zone=ZONE,
                name=name,
                email=f"{name}@example.com",
                full=name.title(),
                role=role,
                now=world.clock.now(),
            )


async def make_platform(world: World) -> None:
    """The platform that is operated: payouts in a database that is read with a sealed credential."""
    password, ground = secrets.token_urlsafe(24), world.ground
    async with await psycopg.AsyncConnection.connect(ground.url, autocommit=True) as connection:
        await connection.execute("DROP ROLE IF EXISTS pay_reader")
        await connection.execute(sql.SQL("CREATE ROLE pay_reader LOGIN PASSWORD {}").format(sql.Literal(password)))
        await connection.execute(_PLATFORM)
    credentials = Credentials(world.database, world.clock, world.ids, world.recorder, world.sealer)
    secret = Secret("basic", values={"username": "pay_reader", "password": password})
    await credentials.create(world.by("ada"), "core", secret)
    await world.alerting.secrets.put(world.by("ada"), "chat-webhook", ground.listener.url, by="ada")


async def waive(
    world: World, *, days: float, scope: str, by: str = "olga", approvers: tuple[str, ...] = ("ben", "selma")
) -> str:
    """Somebody asks for a HIGH waiver, and those approve it; its id."""
    asked = NewWaiver(
        "secret-rotation", scope, "the provider rotates its key next week", "HIGH", "the key is watched",
        "key-rotation", "rotate with the provider", world.clock.now() + timedelta(days=days),
    )  # fmt: skip
    drafted = await world.waivers.draft(world.by(by), asked, by=by)
    await world.waivers.submit(world.by(by), drafted.id, by=by)
    for name in approvers:
        with world.trying(f"waiver approved by {name}"):
            await world.waivers.decide(world.by(name), drafted.id, person=name, role=PEOPLE[name], approves=True)
    return drafted.id


async def proof(world: World, check: str = "keys.rotation", exit_code: int = 0) -> Stored:
    """A probe that ran just now."""
    async with world.database.begin() as tx:
        now = world.clock.now()
        return await world.records.probe(
            tx, world.by("olga"), check, f"{world.ids()} holds\n".encode(), exit_code=exit_code, since=now, until=now,
            producer=PRODUCER,
        )  # fmt: skip


async def platform(world: World, statement: str) -> None:
    """Something happens on the platform."""
    values = {"now": world.clock.now()} if ":now" in statement else {}
    async with world.owner.begin() as tx:
        await tx.run(statement, **values)


async def meet(world: World) -> None:
    """opal holds the newest weekly meeting, and selma signs its minutes."""
    with world.trying("the weekly meeting"):
        found = await world.rhythm.desk.list(ZONE, ceremony="ops-health", limit=100)
        begun = [each for each in found if each.starts_at <= world.clock.now() and each.state == "pack_built"]
        if not begun:
            world.refused.append("the weekly meeting: there is no pack")
            return
        newest = max(begun, key=lambda each: each.starts_at)
        await world.rhythm.minutes.write(world.by("opal"), newest.id, Said(["opal", "olga"], ["go on"]), by="opal")
        await world.rhythm.minutes.hold(world.by("opal"), newest.id, by="opal")
        await world.rhythm.minutes.sign(world.by("selma"), newest.id, by="selma")


async def sign_reports(world: World, by: str = "frida") -> None:
    """Somebody who did not make them signs what reports there are."""
    async with world.database.begin() as tx:
        rows = await tx.all(
            "SELECT id, sha256 FROM assurance_reports r WHERE zone = :zone AND NOT EXISTS"
            " (SELECT FROM assurance_report_signatures s WHERE s.report = r.id) ORDER BY id",
            zone=ZONE,
        )
    for row in rows:
        with world.trying("signing a report"):
            await world.levels.register.sign(world.by(by), row["id"], by=by, sha256=row["sha256"])


async def answer_alerts(world: World, rule: str, by: str = "olga") -> None:
    """Whoever is called says that he looks at it."""
    async with world.database.begin() as tx:
        rows = await tx.all(
            "SELECT id FROM alerts WHERE zone = :zone AND rule = :rule AND state = 'firing' ORDER BY id",
            zone=ZONE,
            rule=rule,
        )
    for row in rows:
        with world.trying(f"acknowledging {rule}"):
            await world.alerting.desk.acknowledge(world.by(by), row["id"], by=by)


ASK = Ask("payout.force", {"why": "the bank has it"}, "a payout is stuck", "OPS-1", "HIGH")


async def ask_override(world: World, by: str = "ada") -> Override | None:
    """Somebody asks for the stuck payout to be forced; None where that was refused."""
    with world.trying("asking for the override"):
        return await world.overrides.propose(world.by(by), caller(by), ASK)
    return None


async def agree_and_do(world: World, asked: Override, *, checker: str = "frida", digest: str = "") -> None:
    """A second person agrees, and the first has it done."""
    with world.trying("agreeing to the override"):
        await world.overrides.decide(
            world.by(checker), caller(checker), asked.id, approves=True,
            payload_sha256=digest or asked.payload_sha256, comment="",
        )  # fmt: skip
    with world.trying("doing the override"):
        await world.overrides.execute(world.by("ada"), caller("ada"), asked.id, digest or asked.payload_sha256)


async def disagree(world: World) -> None:
    """The bank says something else of one payment."""
    await platform(world, "UPDATE pay.statement SET value = value + 1 WHERE ref = (SELECT min(ref) FROM pay.statement)")


async def break_glass(world: World) -> Override | None:
    """ada stops the provider at once and alone; nobody looks at it in the day that there is."""
    with world.trying("breaking glass"):
        ask = Ask("provider.pause", {"why": "it pays twice"}, "it pays twice", "OPS-2", "CRITICAL")
        return await world.overrides.break_glass(world.by("ada"), caller("ada"), ask)
    return None


def caller(name: str) -> Caller:
    """Somebody who signed in."""
    return Caller(ZONE, name, PEOPLE[name], f"session-{name}", amr=("pwd", "otp"))


async def waiver_of(world: World, scope: str) -> str:
    """The id of the story's waiver for ``scope``."""
    async with world.database.begin() as tx:
        return str(await tx.value("SELECT id FROM waivers WHERE scope = :scope ORDER BY id DESC LIMIT 1", scope=scope))


# ---------------------------------------------------------------------- the chapters


async def _go_live(world: World) -> None:
    await make_people(world)
    await make_platform(world)
    book = story_book(world.ground.postgres.socket_dir, LIFE, world.ground.files, world.ground.mail.port)
    await world.house.books.ship(world.by(), book)
    await world.rhythm.go_lives.record(world.by("ada"), "default", world.clock.now(), by="ada", reason="we are live")
    await waive(world, days=3, scope="mail-key")  # it will lapse
    await world.live(days=2)


async def _lapse(world: World) -> None:
    await waive(world, days=7, scope="bank-key")  # the meeting of this day is not held
    world.failing = 3
    await world.live(days=0.5)
    world.failing = 0
    await world.live(days=2.5)


async def _seven(world: World) -> None:
    await world.live(days=2)


async def closing(world: World, exit_code: int = 0) -> None:
    """olga closes the waiver with a probe that ended so; then a payout stands still."""
    with world.trying("closing the waiver"):
        shown = await proof(world, exit_code=exit_code)
        await world.waivers.close(world.by("olga"), await waiver_of(world, "bank-key"), shown.id)
    with world.trying("judging T7 again"):
        await world.rhythm.checkpoints.evaluate(world.by("opal"), "T7", by="opal")
    await sign_reports(world)
    await platform(world, "INSERT INTO pay.payouts VALUES ('held-1', 980, 'pending', :now)")
    await world.live(days=2)
    await meet(world)
    await world.live(days=1)


async def _forcing(world: World) -> None:
    asked = await ask_override(world)
    if asked is not None:
        await agree_and_do(world, asked)
    await disagree(world)
    await world.live(days=1)


async def _drilling(world: World) -> None:
    await platform(world, "UPDATE pay.statement s SET value = p.amount FROM pay.payouts p WHERE p.id = s.ref")
    await world.live(hours=11)
    with world.trying("the drill"):
        await world.alerting.drills.start(
            world.by("opal"), "stop-job", "owners:check", "JobSilent", lasts=timedelta(hours=4), by="opal"
        )
    await world.live(hours=3, step=timedelta(hours=1))
    await answer_alerts(world, "JobSilent")
    await world.live(hours=10)


async def _fourteen(world: World) -> None:
    await world.live(days=2)
    await sign_reports(world)


async def _glass(world: World) -> None:
    await break_glass(world)
    await world.live(days=2)
    await meet(world)
    await world.live(days=0.5)


async def _quiet(world: World) -> None:
    await world.live(days=4.5)
    await sign_reports(world)
    await world.live(days=2)
    await meet(world)
    await world.live(days=5)
    await sign_reports(world)


async def _thirty(world: World) -> None:
    await world.live(days=2)
    await meet(world)


async def _end(world: World) -> None:
    await world.live(days=5)
    await sign_reports(world)


CHAPTERS: tuple[Chapter, ...] = (
    Chapter("going live", 2, _go_live),
    Chapter("a waiver lapses and requests fail", 5, _lapse),
    Chapter("T+7", 7, _seven),
    Chapter("a payout is stuck", 10, closing),
    Chapter("it is forced, and the bank disagrees", 11, _forcing),
    Chapter("a drill", 12, _drilling),
    Chapter("T+14", 14, _fourteen),
    Chapter("broken glass that nobody confirms", 16.5, _glass),
    Chapter("two quiet weeks", 28, _quiet),
    Chapter("T+30", 30, _thirty),
    Chapter("the end", 35, _end),
)


# ---------------------------------------------------------------------- telling it


@asynccontextmanager
async def at_end_of(ground: Ground, chapter: int) -> AsyncIterator[World]:
    """The world as it is on the ground now, which is the end of ``chapter`` (-1: before the first)."""
    day = CHAPTERS[chapter].day if chapter >= 0 else 0.0
    world = World(ground, GO_LIVE + timedelta(days=day), [ForcePayout(), PauseProvider()])
    try:
        yield world
    finally:
        await world.close()


async def tell(
    ground: Ground, *, until: int = len(CHAPTERS) - 1, heard: Callable[[Chapter], None] = lambda chapter: None
) -> list[Seen]:
    """The life, to the end of the chapter ``until``; what was to be seen at the end of each. Lives can begin at each.
    ``heard`` is told of each chapter when it is over."""
    await ground.begin()
    told: list[Seen] = []
    refused: list[str] = []
    for number, chapter in enumerate(CHAPTERS[: until + 1]):
        async with at_end_of(ground, number - 1) as world:
            world.refused = refused
            await chapter.tell(world)
            told.append(await look(world))
        await ground.keep(str(number))
        heard(chapter)
    return told


_PLATFORM = """
CREATE SCHEMA pay;
CREATE TABLE pay.payouts (id text PRIMARY KEY, amount numeric NOT NULL, state text NOT NULL, entered_at timestamptz);
CREATE TABLE pay.statement (ref text PRIMARY KEY, value numeric NOT NULL);
CREATE TABLE pay.provider (paused boolean NOT NULL);
INSERT INTO pay.provider VALUES (false);
GRANT USAGE ON SCHEMA pay TO pay_reader, bailiwick_app;
GRANT SELECT ON ALL TABLES IN SCHEMA pay TO pay_reader;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA pay TO bailiwick_app;
"""
