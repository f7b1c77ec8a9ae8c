"""Works on a rollout again and again, killed at another write each time; tells what was left and what was done.

``python rollouts_killed.py URL HOME forward|back`` forks a child a time, so that everything is imported once. A line of
JSON for each life.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from rollout_desk import DIGEST, Known, Others, programs_in, reach

from bailiwick.assurance.books import Books
from bailiwick.assurance.probes.means import Means
from bailiwick.evidence.events import Actor, Context, Recorder
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.handover.rollouts.actions import Actions, Tools
from bailiwick.handover.rollouts.engine import Engine, Ports
from bailiwick.handover.rollouts.evidence import KeptRenderings, Proof
from bailiwick.handover.rollouts.plans import Plan
from bailiwick.handover.rollouts.records import Ledger, find
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.db import Database, Transaction, libpq_url
from bailiwick.kernel.ids import Ids

START = datetime(2026, 1, 5, 9, tzinfo=UTC)
LEASE_S = 0.3
ID = "01a00000-0000-7000-8000-000000000001"


def command(*words: str) -> dict[str, Any]:
    return {"kind": "command", "argv": ["step", *words]}


def step(name: str, **more: Any) -> dict[str, Any]:
    """A step, and what takes it back, of which the same holds."""
    back = {"title": f"undo {name}", "do": command(f"undo-{name}"), **_undone(more, name)}
    return {"name": name, "title": name, "do": command(name), "back": back, **more}


def _undone(more: dict[str, Any], name: str) -> dict[str, Any]:
    found = dict(more)
    if "verify" in found:
        found["verify"] = [{"command": ["verify", f"undo-{name}"]}]
    return found


PLAN = Plan.model_validate(
    {
        "title": "killed",
        "service": "pay",
        "signatures": ["ops_owner"],
        "gate": {"name": "any", "title": "any"},
        "phases": [
            {
                "name": "before", "title": "b", "owner": "operator", "before_go": True,
                "steps": [{"name": "preflight", "title": "p",
                           "do": {"kind": "preflight", "render": ["r"], "migrations": ["m"], "smoke": ["s"]}}],
            },
            {
                "name": "deploy", "title": "d", "owner": "operator",
                "steps": [
                    step("plain"),
                    step("proven", proves=True, verify=[{"command": ["verify", "proven"]}]),
                    step("harmless", idempotent=True),
                ],
                "gate": {"name": "point", "title": "p"},
            },
        ],
    }
)  # fmt: skip


class Deadly(Database):
    """Kills its process at the ``at``-th transaction, just before or just after it is committed."""

    def __init__(self, url: str, at: int, after: bool) -> None:
        super().__init__(url, pool_size=4)
        self.at, self.after, self.count = at, after, 0

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        self.count += 1
        mine = self.count
        async with super().begin() as tx:
            yield tx
            if mine == self.at and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
        if mine == self.at and self.after:
            os.kill(os.getpid(), signal.SIGKILL)


class Quiet:
    """Alerts and tasks that nobody hears."""

    async def fire(self, *said: Any) -> str:
        return "alert"

    async def clear(self, *said: Any) -> bool:
        return False

    async def open(self, *said: Any) -> str:
        return "task"

    async def close(self, *said: Any) -> bool:
        return False


def engine_on(database: Database, home: Path, kinds: Iterable[Any] = ()) -> Engine:
    clock = FakeClock(START)
    recorder = Recorder(clock, Ids())
    records, others, quiet = EvidenceRecords(clock, recorder), Others(Known(START)), Quiet()
    books = Books(database, clock, recorder, _NoQuorum(), kinds)  # type: ignore[arg-type]
    tools = Tools(
        database, clock, programs_in(home), Means(reach, clock, "", home), books, others,
        KeptRenderings(database, clock, records), None, others,
    )  # fmt: skip
    ports = Ports(quiet, quiet, others, others, others)  # type: ignore[arg-type]
    ledger, proof = Ledger(clock, recorder), Proof(clock, records)
    return Engine(database, clock, ledger, books, proof, Actions(tools), ports, lease_s=LEASE_S, poll_s=5.0)


class _NoQuorum:
    def register(self, action: Any) -> None: ...


async def live(url: str, home: Path, at: int, after: bool) -> None:
    """Work until it waits or is over. Does not return where it is killed."""
    database = Deadly(url, at, after)
    await engine_on(database, home).tick()
    await database.close()


async def take_over(url: str, home: Path) -> None:
    """Another process, once the lease has ended; until it waits for somebody or is over."""
    database = Database(url, pool_size=4)
    engine = engine_on(database, home)
    async with asyncio.timeout(20):
        while True:
            await engine.tick()
            async with database.begin() as tx:
                row = await tx.one("SELECT state, lease_until FROM rollouts")
            assert row is not None
            if row["lease_until"] is None or row["state"] in ("done", "rolled_back", "stuck"):
                break
            await asyncio.sleep(0.03)
    await database.close()


async def send_back(url: str, home: Path) -> None:
    """A person who is told that nobody knows takes it back, and says of what is stuck that he undid it."""
    database = Database(url, pool_size=4)
    engine = engine_on(database, home)
    async with database.begin() as tx:
        context = Context("default", Actor(user="olga"))
        await engine.roll_back(tx, context, await find(tx, "default", ID, lock=True), "nobody knows", by="olga")
    await engine.tick()
    await database.close()


def forked(work: Any) -> int:
    """The wait status of a child that did ``work``."""
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(work)
        except BaseException as error:  # a child of a test must not go on as its parent
            print(json.dumps({"error": repr(error)}), flush=True)
            os._exit(1)
        os._exit(0)
    work.close()
    return os.waitpid(pid, 0)[1]


def laid(url: str, home: Path, way: str) -> None:
    """One rollout that runs, or that is taken back after every step was done."""
    for path in home.iterdir():
        if path.is_file():
            path.unlink()
    spec = json.dumps(PLAN.model_dump(mode="json"))
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        connection.execute("SET search_path = bailiwick")
        connection.execute("SET session_replication_role = replica")
        for table in ("rollout_attempts", "rollout_decisions", "rollouts", "switches"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("SET session_replication_role = origin")
        connection.execute("INSERT INTO zones (name, created_at) VALUES ('default', now()) ON CONFLICT DO NOTHING")
        connection.execute(
            "INSERT INTO rollouts (id, zone, number, environment, digest, plan, plan_version, plan_sha256, spec,"
            " variables, planned_by, planned_at, state, entered_at, began_at, started_by, rollback_began_at)"
            " VALUES (%s, 'default', 1, 'production', %s, 'killed', 1, '', %s, '{}', 'pat', %s, %s, %s, %s, 'pat', %s)",
            (ID, DIGEST, spec, START, "running" if way == "forward" else "rolling_back", START, START,
             START if way == "back" else None),
        )  # fmt: skip
        if way == "back":
            for number, each in enumerate(("plain", "proven", "harmless"), start=1):
                connection.execute(
                    "INSERT INTO rollout_attempts (rollout, number, step, way, state, begun_at, ended_at)"
                    " VALUES (%s, %s, %s, 'forward', 'passed', %s, %s)",
                    (ID, number, each, START, START),
                )


def left(url: str, home: Path) -> dict[str, Any]:
    """Where it stands, and what programs did."""
    with psycopg.connect(libpq_url(url)) as connection:
        connection.execute("SET search_path = bailiwick")
        row = connection.execute("SELECT state, blocked_on, told FROM rollouts").fetchone()
        assert row is not None
        attempts = connection.execute("SELECT step, way, state FROM rollout_attempts ORDER BY number").fetchall()
    lines = (home / "done").read_text().splitlines()
    done = [line.removeprefix("step ") for line in lines if line.startswith("step ")]
    return {"state": row[0], "blocked_on": row[1], "told": row[2], "attempts": attempts, "done": done}


def main(url: str, home: Path, way: str) -> None:
    at, after = 1, False
    while True:
        laid(url, home, way)
        killed = os.WIFSIGNALED(forked(live(url, home, at, after)))
        if forked(take_over(url, home)) != 0:
            return
        life: dict[str, Any] = {"at": at, "after": after, "killed": killed, **left(url, home)}
        if life["state"] == "waiting":
            if forked(send_back(url, home)) != 0:
                return
            life["sent_back"] = left(url, home)
        print(json.dumps(life), flush=True)
        if not killed:
            return
        at, after = (at, True) if not after else (at + 1, False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
