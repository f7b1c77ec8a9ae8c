"""Signing in, and going on, cost what they touch, not how many sessions and people there are.

The statements have to hold to that before PostgreSQL knows anything of the tables, as on the morning after an
installation: autovacuum is off in the tests' server, so that nothing here was ever analysed until a test does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from typing import Any

import psycopg

from bailiwick.identity.login.local import AS_LOOKED
from bailiwick.identity.login.rotation import ROTATE
from bailiwick.identity.provisioning import AS_TOLD
from people_fixtures import House

# so many that walking through any of the tables is never the cheapest
PEOPLE, SESSIONS, USED, TOKENS = 2_000, 600, 10_000, 24
# what a step may look at for each token: its row, and a neighbour or two
FEW = 4

_MANY = """
WITH people AS (
  INSERT INTO users (id, zone, username, email, role, password_hash, created_at, updated_at)
  SELECT 'u' || n, :zone, 'person' || n, 'person' || n || '@example.com', 'viewer', 'hash' || n, :now, :now
  FROM generate_series(1, cast(:people AS int)) n
), known AS (
  INSERT INTO user_identities (zone, provider, subject, username, created_at, last_seen_at)
  SELECT :zone, 'ldap:corp', 'subject' || n, 'person' || n, :now, :now FROM generate_series(1, cast(:people AS int)) n
), begun AS (
  INSERT INTO sessions (id, zone, username, method, auth_time, created_at, last_seen_at, idle_until, expires_at)
  SELECT 's' || n, :zone, 'person' || (n % 8 + 1), 'local', :now, :now, :now, :until, :until
  FROM generate_series(1, cast(:sessions AS int)) n
)
INSERT INTO refresh_tokens (hash, session_id, created_at, used_at)
SELECT sha256(convert_to('token' || n, 'UTF8')), 's' || (n % :sessions + 1), :now,
  CASE WHEN n > :sessions THEN cast(:now AS timestamptz) END
FROM generate_series(1, cast(:tokens AS int)) n
"""


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every step of a plan that reads rows of a table."""
    if "Relation Name" in plan and "Scan" in plan["Node Type"]:
        yield plan
    for part in plan.get("Plans", ()):
        yield from scans(part)


def read_by(step: dict[str, Any]) -> float:
    """How many rows it looked at."""
    each = step["Actual Rows"] + step.get("Rows Removed by Filter", 0) + step.get("Rows Removed by Index Recheck", 0)
    return float(each) * float(step["Actual Loops"])


def read_in(plan: dict[str, Any]) -> dict[str, float]:
    """How many rows it looked at, by table and index."""
    return {f"{step['Relation Name']} by {step.get('Index Name', 'walking it')}": read_by(step) for step in scans(plan)}


async def explained(house: House, statement: str, **values: Any) -> dict[str, Any]:
    """How PostgreSQL did a statement, whose effects are taken back."""
    async with house.database.begin() as tx:
        told = await tx.value(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", **values)
        await tx.run("ROLLBACK")
    plan: dict[str, Any] = told[0]["Plan"]
    return plan


async def refreshed(house: House) -> dict[str, Any]:
    plan = await explained(
        house,
        ROTATE,
        zones=["default"] * TOKENS,
        olds=[sha256(f"token{n}".encode()).digest() for n in range(1, TOKENS + 1)],
        news=[sha256(f"next{n}".encode()).digest() for n in range(1, TOKENS + 1)],
        now=house.clock.now(),
        idle_until=house.clock.now() + timedelta(hours=8),
    )
    assert plan["Actual Rows"] == TOKENS
    return plan


async def arrived(house: House) -> dict[str, Any]:
    plan = await explained(
        house,
        AS_TOLD,
        zone="default",
        provider="ldap:corp",
        subject="subject77",
        role="viewer",
        email="",
        full_name="",
        names=None,
        given=[],
        counted="corp/person77",
        now=house.clock.now(),
    )
    assert plan["Actual Rows"] == 1
    return plan


async def signed_in(house: House) -> dict[str, Any]:
    plan = await explained(house, AS_LOOKED, zone="default", username="person77", stored="hash77")
    assert plan["Actual Rows"] == 1
    return plan


async def test_what_everybody_does_reads_its_own_rows_only(house: House, database_url: str) -> None:
    now = house.clock.now()
    values = {"people": PEOPLE, "sessions": SESSIONS, "tokens": SESSIONS + USED}
    async with house.database.begin() as tx:
        await tx.run(_MANY, zone="default", now=now, until=now + timedelta(hours=8), **values)
    for _ in ("nothing is known", "all is known"):
        read = read_in(await refreshed(house))
        assert {name.split()[0] for name in read} == {"refresh_tokens", "sessions", "users", "zones"}
        assert {name: rows for name, rows in read.items() if rows > FEW * TOKENS} == {}, "read more than asked for"
        read = read_in(await arrived(house))
        assert {"user_identities", "users", "zones"} <= {name.split()[0] for name in read}
        assert {name: rows for name, rows in read.items() if rows > FEW} == {}, "read more than asked for"
        read = read_in(await signed_in(house))
        assert {"users", "zones"} <= {name.split()[0] for name in read}
        assert {name: rows for name, rows in read.items() if rows > FEW} == {}, "read more than asked for"
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute("ANALYZE")
