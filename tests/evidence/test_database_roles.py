"""Logging in as each database role: who may touch evidence, and who may not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import psycopg
import pytest
from ledger_world import World
from psycopg import sql

ROLES = ("bailiwick_owner", "bailiwick_app", "bailiwick_readonly", "bailiwick_audit_readonly")
TABLES = ("ledger.events", "ledger.heads", "ledger.cosignatures", "ledger.cosigned", "ledger.dead_letters",
          "ledger.losses", "ledger.continuations", "ledger.continuation_entries")  # fmt: skip
FORBIDDEN = [
    statement.format(table)
    for table in TABLES
    for statement in ("UPDATE {} SET zone = 'x'", "DELETE FROM {}", "TRUNCATE {}", "DROP TABLE {}")
    if not (table in {"ledger.heads", "ledger.cosignatures"} and statement.startswith("UPDATE"))
] + [
    "UPDATE ledger.heads SET kid = 'x'",
    "UPDATE ledger.cosignatures SET line = 'x'",
    "ALTER TABLE ledger.events ADD COLUMN x int",
    "ALTER TABLE ledger.events DETACH PARTITION ledger.events_default",
    "CREATE TABLE ledger.mine (x int)",
    "TRUNCATE ledger.events_default",
    "DELETE FROM ledger.events_default",
]


@pytest.fixture
def logins(world: World) -> dict[str, str]:
    """A URL per role. Roles belong to the whole server, so every run gives them the same password."""
    urls = {}
    parts = urlsplit(world.url)
    for role in ROLES:
        statement = sql.SQL("ALTER ROLE {} PASSWORD 'only-in-tests'").format(sql.Identifier(role))
        for _ in range(20):
            try:
                with psycopg.connect(world.url, autocommit=True) as connection:
                    connection.execute(statement)
                break
            except psycopg.errors.InternalError:  # "tuple concurrently updated": another run does the same
                time.sleep(0.05)
        urls[role] = parts._replace(netloc=f"{role}:only-in-tests@{parts.hostname}:{parts.port}").geturl()
    return urls


def allowed(url: str, statements: Sequence[str]) -> list[str]:
    """The statements that the login may run; each is rolled back."""
    run = []
    with psycopg.connect(url) as connection:
        for statement in statements:
            try:
                connection.execute(statement)  # type: ignore[call-overload]
                run.append(statement)
            except psycopg.errors.InsufficientPrivilege:
                pass
            connection.rollback()
    return run


@pytest.mark.parametrize("role", ROLES)
async def test_each_role_can_log_in(logins: dict[str, str], role: str) -> None:
    with psycopg.connect(logins[role]) as connection:
        row = connection.execute("SELECT current_user").fetchone()
    assert row == (role,)


async def test_the_app_cannot_change_or_remove_evidence(world: World, logins: dict[str, str]) -> None:
    await world.filled(1)
    assert allowed(logins["bailiwick_app"], FORBIDDEN) == []
    assert len(world.ledgered()) == 1


@pytest.mark.parametrize("role", ["bailiwick_readonly", "bailiwick_audit_readonly"])
async def test_readers_reach_neither_schema(world: World, logins: dict[str, str], role: str) -> None:
    await world.filled(1)
    assert allowed(logins[role], [*FORBIDDEN, "SELECT body FROM ledger.events", "SELECT * FROM bailiwick.users"]) == []


async def test_the_app_can_add_and_read_evidence(world: World, logins: dict[str, str]) -> None:
    await world.filled(2)
    with psycopg.connect(logins["bailiwick_app"]) as connection:
        row = connection.execute("SELECT count(*) FROM ledger.events").fetchone()
        connection.execute(
            "INSERT INTO ledger.dead_letters (source, segment, position, reason, size, frame, at)"
            " VALUES ('s', 0, 0, 'r', 0, '', now())"
        )
    assert row == (2,)


async def test_readers_see_their_views(world: World, logins: dict[str, str]) -> None:
    await world.filled(3)
    with psycopg.connect(logins["bailiwick_audit_readonly"]) as connection:
        rows = connection.execute("SELECT code, event ->> 'name' FROM public.audit_logs").fetchall()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM public.users")
    assert rows == [("BW4001", "gateway.request.allowed")] * 3
    with psycopg.connect(logins["bailiwick_readonly"]) as connection:
        connection.execute("SELECT * FROM public.users, public.servers, public.sessions, public.api_requests")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM public.audit_logs")
