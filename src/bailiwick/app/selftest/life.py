"""The story: thirty-five days in chapters, each a number of days and what people do in them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from bailiwick.app.selftest.ground import LIFE, Ground
from bailiwick.app.selftest.seen import Seen, look
from bailiwick.app.selftest.story_book import story_book
from bailiwick.app.selftest.world import PRODUCER, ZONE, World
from bailiwick.assurance.waivers import NewWaiver
from bailiwick.evidence.evidence_records import Stored
from bailiwick.inventory.credentials import Credentials, Secret

GO_LIVE = datetime(2026, 1, 5, 12, tzinfo=UTC)
"""A Monday; steps fall on the hours 0, 6, 12 and 18."""

PEOPLE: Mapping[str, str] = {
    "ada": "admin", "ben": "admin", "olga": "operator", "otto": "operator", "opal": "ops_owner",
    "selma": "security_owner", "frida": "finance_owner", "pavel": "product_owner",
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
        await connection.execute(
            sql.SQL("CREATE ROLE pay_reader LOGIN PASSWORD {}").format(sql.Literal(password))
        )
        await connection.execute(_PLATFORM)
    credentials = Credentials(world.database, world.clock, world.ids, world.recorder, world.sealer)
    secret = Secret("basic", values={"username": "pay_reader", "password": password})
    await credentials.create(world.by("ada"), "core", secret)
    await world.alerting.secrets.put(world.by("ada"), "chat-webhook", ground.listener.url, by="ada")


async def waive(world: World, *, days: float, scope: str, approvers: tuple[str, ...] = ("ben", "selma")) -> str:
    """olga asks for a HIGH waiver, and those approve it; its id."""
    asked = NewWaiver(
        "secret-rotation", scope, "the provider rotates its key next week", "HIGH", "the key is watched",
        "key-rotation", "rotate with the provider", world.clock.now() + timedelta(days=days),
    )  # fmt: skip
    drafted = await world.waivers.draft(world.by("olga"), asked, by="olga")
    await world.waivers.submit(world.by("olga"), drafted.id, by="olga")
    for name in approvers:
        with world.trying(f"waiver approved by {name}"):
            await world.waivers.decide(
                world.by(name), drafted.id, person=name, role=PEOPLE[name], approves=True
            )
    return drafted.id


async def proof(world: World, check: str = "keys.rotation", exit_code: int = 0) -> Stored:
    """A probe that ran just now."""
    async with world.database.begin() as tx:
        now = world.clock.now()
        return await world.records.probe(
            tx, world.by("olga"), check, f"{world.ids()} holds\n".encode(), exit_code=exit_code, since=now, until=now,
            producer=PRODUCER,
        )  # fmt: skip


async def waiver_of(world: World, scope: str) -> str:
    """The id of the story's waiver for ``scope``."""
    async with world.database.begin() as tx:
        return str(await tx.value("SELECT id FROM waivers WHERE scope = :scope ORDER BY id DESC LIMIT 1", scope=scope))


# ---------------------------------------------------------------------- the chapters


async def _go_live(world: World) -> None:
    await make_people(world)
    await make_platform(world)
    book = story_book(world.ground.postgres.socket_dir, LIFE, world.ground.files)
    await world.house.books.ship(world.by(), book)
    await world.rhythm.go_lives.record(world.by("ada"), "default", world.clock.now(), by="ada", reason="we are live")
    await waive(world, days=3, scope="mail-key")  # it will lapse
    await world.live(days=2)


async def _lapse(world: World) -> None:
    await waive(world, days=7, scope="bank-key")
    await world.live(days=3)


async def _seven(world: World) -> None:
    await world.live(days=2)


async def _closing(world: World) -> None:
    with world.trying("closing the waiver"):
        identifier = await waiver_of(world, "bank-key")
        await world.waivers.close(world.by("olga"), identifier, (await proof(world)).id)
    with world.trying("judging T7 again"):
        await world.rhythm.checkpoints.evaluate(world.by("opal"), "T7", by="opal")
    await world.live(days=1)


CHAPTERS: tuple[Chapter, ...] = (
    Chapter("going live", 2, _go_live),
    Chapter("a waiver lapses", 5, _lapse),
    Chapter("T+7", 7, _seven),
    Chapter("closing it", 8, _closing),
)


# ---------------------------------------------------------------------- telling it


@asynccontextmanager
async def at_end_of(ground: Ground, chapter: int) -> AsyncIterator[World]:
    """The world as it is on the ground now, which is the end of ``chapter`` (-1: before the first)."""
    day = CHAPTERS[chapter].day if chapter >= 0 else 0.0
    world = World(ground, GO_LIVE + timedelta(days=day), OPERATIONS)
    try:
        yield world
    finally:
        await world.close()


OPERATIONS: tuple[Any, ...] = ()


async def tell(ground: Ground, *, keep: bool = True) -> list[Seen]:
    """The whole life; what was to be seen at the end of each chapter. ``keep``: for lives that begin there."""
    await ground.begin()
    told: list[Seen] = []
    refused: list[str] = []
    for number, chapter in enumerate(CHAPTERS):
        async with at_end_of(ground, number - 1) as world:
            world.refused = refused
            await chapter.tell(world)
            told.append(await look(world))
        if keep:
            await ground.keep(str(number))
    return told


_PLATFORM = """
CREATE SCHEMA pay;
CREATE TABLE pay.payouts (id text PRIMARY KEY, amount numeric NOT NULL, state text NOT NULL, entered_at timestamptz);
CREATE TABLE pay.statement (ref text PRIMARY KEY, value numeric NOT NULL);
GRANT USAGE ON SCHEMA pay TO pay_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA pay TO pay_reader;
"""
