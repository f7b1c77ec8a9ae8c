"""Contains and preserves an incident again and again, killed at another commit each time; tells what was left.

``python incident_killed.py URL DIRECTORY WHAT`` forks a child a time, so that everything is imported once. A line of
JSON for each life.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "assurance"), str(HERE.parent / "evidence")]

import psycopg  # noqa: E402
from incident_desk import Desk, kinds  # noqa: E402
from ledger_world import KEK, add_ledger_key  # noqa: E402
from stage import Stage  # noqa: E402

from bailiwick.app.packs import pack_builder  # noqa: E402
from bailiwick.evidence.ledger import HeadFiles, LedgerKeys  # noqa: E402
from bailiwick.evidence.sequencer import Sequencer  # noqa: E402
from bailiwick.kernel.clock import FakeClock  # noqa: E402
from bailiwick.kernel.crypto import Sealer  # noqa: E402
from bailiwick.kernel.db import Database, Transaction, libpq_url  # noqa: E402
from bailiwick.kernel.paths import Layout  # noqa: E402
from people_fixtures import House  # noqa: E402
from standing_routes import behind  # noqa: E402

ACTIONS: dict[str, dict[str, str]] = {
    "freeze": {},
    "fail-closed": {},
    "revoke": {"kind": "user", "name": "viv"},
}
LATER = timedelta(minutes=5)


def deadly(database: Database, at: int) -> None:
    """From now on the process dies just before it commits its ``at``-th transaction: after all that came before."""
    begin, count = database.begin, [0]

    @asynccontextmanager
    async def begun() -> AsyncIterator[Transaction]:
        count[0] += 1
        mine = count[0]
        async with begin() as tx:
            yield tx
            if mine == at:
                os.kill(os.getpid(), signal.SIGKILL)

    database.begin = begun  # type: ignore[method-assign]


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


async def desk_of(url: str, directory: Path, *, fresh: bool, later: timedelta = timedelta(0)) -> Desk:
    house = House(url, FakeClock())
    house.clock.advance(later.total_seconds())
    if fresh:
        await house.reset()
    desk = Desk(Stage(house, kinds()), directory / "packs")
    if fresh:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        await desk.open()
        assert await desk.opened() == "INC-1"
    return desk


async def seen_of(desk: Desk, action: str) -> str:
    body = {"action": action, "arguments": ACTIONS[action]}
    status, seen = await desk.say("jane", "POST", "/incidents/INC-1/preview", body)
    assert status == 200, seen
    return str(seen["sha256"])


async def contain(desk: Desk, action: str, sha256: str) -> tuple[int, Any]:
    body = {"action": action, "arguments": ACTIONS[action], "why": "it burns", "sha256": sha256}
    return await desk.say("jane", "POST", "/incidents/INC-1/contain", body)


async def containing(url: str, directory: Path, action: str, at: int) -> None:
    desk = await desk_of(url, directory, fresh=True)
    sha256 = await seen_of(desk, action)
    (directory / "sha256").write_text(sha256)
    await desk.stage.people.signed_in("jane")
    deadly(desk.stage.database, at)
    status, said = await contain(desk, action, sha256)
    assert status == 200, said


async def contained(url: str, directory: Path, action: str) -> None:
    """What another process finds, does when it looks, and answers to who asks again."""
    desk = await desk_of(url, directory, fresh=False, later=LATER)
    left = await told(desk)
    await desk.look()
    interrupted = await told(desk)
    await desk.all_green()  # a worker lives that has everything
    await desk.look()
    again, said = await contain(desk, action, (directory / "sha256").read_text())
    if (
        again == 409 and said["reason"] == "approval_changed"
    ):  # a revocation can be made twice: who wants that, previews
        again = 0
    print(json.dumps({"left": left, "looked": interrupted, "again": again, "end": await told(desk)}), flush=True)


async def told(desk: Desk) -> dict[str, Any]:
    async with desk.stage.database.begin() as tx:
        counts = {
            name: await tx.value(f"SELECT count(*) FROM {table}")
            for name, table in (
                ("overrides", "overrides"),
                ("acts", "incident_containments"),
                ("effects", "(SELECT 1 FROM switches UNION ALL SELECT 1 FROM gateway_closures"
                            " UNION ALL SELECT 1 FROM revocations) effect"),
                ("lines", "incident_entries WHERE what = 'contained'"),
                ("interrupted", "incident_entries WHERE what = 'interrupted'"),
                ("settled", "incident_containments WHERE settled_at IS NOT NULL"),
            )
        }  # fmt: skip
        state = await tx.value("SELECT state FROM incidents")
    return {**counts, "state": state}


# ---------------------------------------------------------------------- preserving


def ledger_of(desk: Desk, url: str, directory: Path) -> tuple[LedgerKeys, Sequencer]:
    keys = LedgerKeys(desk.stage.database, Sealer({"k1": KEK}, "k1"), desk.stage.clock)
    return keys, Sequencer(
        desk.stage.database, url, directory / "spool", HeadFiles(directory / "evidence" / "heads"), keys,
        desk.stage.clock, head_interval_s=0.0,
    )  # fmt: skip


async def preserving(url: str, directory: Path, at: int) -> None:
    desk = await desk_of(url, directory, fresh=True)
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        # tables that are only added to refuse this otherwise
        connection.execute("SET session_replication_role = replica")
        connection.execute("TRUNCATE ledger.events, ledger.hashes, ledger.heads")
        connection.execute("SET session_replication_role = DEFAULT")
        add_ledger_key(connection, "default")
    _, sequencer = ledger_of(desk, url, directory)
    await sequencer.drain()
    deadly(desk.stage.database, at)
    await build(desk, url, directory)


async def build(desk: Desk, url: str, directory: Path) -> None:
    """Ask for the pack, and build what waits as the work role does."""
    status, said = await desk.say("olga", "POST", "/incidents/INC-1/preserve")
    assert status in (200, 202), said
    keys, _ = ledger_of(desk, url, directory)
    stage = desk.stage
    builder = pack_builder(
        stage.people.settings, Layout(directory), stage.database, stage.clock, stage.ids, stage.recorder, keys,
        lambda: Sealer({"k1": KEK}, "k1"),
    )  # fmt: skip
    await desk.packs.build_waiting(builder)
    await desk.look()


async def preserved(url: str, directory: Path) -> None:
    desk = await desk_of(url, directory, fresh=False, later=LATER)
    await build(desk, url, directory)
    status, said = await desk.say("olga", "POST", "/incidents/INC-1/preserve")
    assert status in (200, 202), said
    async with desk.stage.database.begin() as tx:
        packs = [dict(row) for row in await tx.all("SELECT id, state, sha256, attempts FROM evidence_packs")]
        lines = await tx.value("SELECT count(*) FROM incident_entries WHERE what = 'preserved'")
        pack = await tx.value("SELECT pack FROM incidents WHERE preserved_at IS NOT NULL")
    files = sorted(path.name for path in (directory / "packs").iterdir())
    print(json.dumps({"packs": packs, "lines": lines, "pack": pack, "files": files}), flush=True)


def main(url: str, directory: Path, what: str) -> None:
    at = 1
    behind(None, None)  # the routes are built here, or each child would build them for itself
    while True:
        if what == "preserve":
            status = forked(preserving(url, directory, at))
            then = preserved(url, directory)
        else:
            status = forked(containing(url, directory, what, at))
            then = contained(url, directory, what)
        print(json.dumps({"at": at, "killed": os.WIFSIGNALED(status)}), flush=True)
        if forked(then) != 0 or not os.WIFSIGNALED(status):
            return
        at += 1


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
