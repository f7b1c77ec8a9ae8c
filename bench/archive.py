"""Out of the database and back: how small sealed events are, how fast they are sealed, proven, searched and restored.

The events are those a day leaves: mostly gateway checks of a few hundred agents on a few dozen servers, each with a
digest of its own input, with mandates, sign-ins, changes, denials and reads of the audit between them; some carry what
JSON has to escape. They are put into the ledger by the sequencer at a time that lies nine days back, so that sealing
and dropping find them due.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from bailiwick.evidence import codes
from bailiwick.evidence.archive.places import Places
from bailiwick.evidence.archive.proof import verify_archive
from bailiwick.evidence.archive.purge import HotRows
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.archive.restore import Restorer
from bailiwick.evidence.archive.seal import Archivist
from bailiwick.evidence.archive.store import FolderStore
from bailiwick.evidence.events import Actor, Context, Network, Recorder, Subject, encode
from bailiwick.evidence.ledger import HeadFiles, LedgerKeys
from bailiwick.evidence.sequencer import Sequencer
from bailiwick.evidence.verify import verify
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database
from bailiwick.kernel.embedded_postgres import throwaway_postgres
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.migrate import migrate
from bench.common import median, report
from bench.evidence import prepare

_KEK = bytes(32)
_PORTION = 5000
_DAY = timedelta(hours=11)
_AGENTS = ("payments-client/2.4 (linux)", "curl/8.5.0", 'crawler "x" 1.0', "python-aiohttp/3.12 (x86_64; Linux 6.1)")
_PATHS = ("/payments/{id}", "/customers/{id}/orders", "/reports/{year}/{month}", "/items", "/inventory/{sku}")


class Day:
    """Makes events, each a moment after the one before."""

    def __init__(self, start: datetime, events: int) -> None:
        self.clock = FakeClock(start)
        self._step = _DAY.total_seconds() / events
        self._random = random.Random(7)
        self._ids = Ids(lambda: int(self.clock.time() * 1000))
        self._recorder = Recorder(self.clock, self._ids)
        self._mandates = [self._ids() for _ in range(2000)]

    def body(self) -> bytes:
        """The next event."""
        self.clock.advance(self._step)
        pick, ids = self._random, self._ids
        network = Network(f"10.{pick.randrange(4)}.{pick.randrange(40)}.{pick.randrange(250)}", pick.choice(_AGENTS))
        user = f"user.{pick.randrange(400)}"
        session = self._mandates[pick.randrange(200)]
        kind = pick.random()
        if kind < 0.86:
            return self._checked(network)
        context = Context("default", Actor(session=session, user=user), network, ids(), trace_id=secrets.token_hex(16))
        make = self._recorder.make
        if kind < 0.94:
            more: dict[str, Any] = {"kid": "m-2026", "server": f"server-{pick.randrange(30)}", "scope": "payments:read"}
            return encode(make(codes.MANDATE_ISSUED, "success", context, subject=Subject(ids(), "mandate"), **more))
        if kind < 0.97:
            return encode(make(codes.AUTH_LOGIN_SUCCESS, "success", context, method="local"))
        if kind < 0.99:
            return encode(make(codes.AUDIT_READ, "success", context, query=f"principal={user}", returned=20))
        return encode(make(codes.SERVER_CHANGED, "success", context, subject=Subject("server-3", "server")))

    def _checked(self, network: Network) -> bytes:
        pick = self._random
        agent = pick.randrange(300)
        actor = Actor(application=f"agent-{agent}", mandate=self._mandates[agent * 6 + pick.randrange(6)])
        template = pick.choice(_PATHS)
        path = template.replace("{id}", str(pick.randrange(10**7))).replace("{sku}", f"SKU-{pick.randrange(10**5)}")
        denied = pick.random() < 0.03
        return encode(
            self._recorder.make(
                codes.GATEWAY_DENIED if denied else codes.GATEWAY_ALLOWED,
                "deny" if denied else "allow",
                Context(
                    "default", actor, network, self._ids(), trace_id=secrets.token_hex(16) if agent % 3 == 0 else ""
                ),
                server=f"server-{agent % 30}",
                policy_set="sha256:" + "a" * 64,
                reasons=("policy_denied",) if denied else (),
                input=secrets.token_hex(32),
                credential=f"key-{agent % 30}",
                method="GET",
                path=path.replace("{year}", "2026").replace("{month}", "11"),
                operation=f"GET {template}",
                scope="payments:read",
            )
        )


async def filled(url: str, root: Path, events: int) -> tuple[FakeClock, int]:
    """Put a day of events into the ledger; the clock they were recorded by, and how many bytes they are."""
    day = Day(datetime.now(UTC).replace(hour=0, minute=10, second=0, microsecond=0) - timedelta(days=9), events)
    database = Database(url, pool_size=4)
    keys = LedgerKeys(database, Sealer({"k": _KEK}, active="k"), day.clock)
    sequencer = Sequencer(database, url, root / "spool", HeadFiles(root / "heads"), keys, day.clock)
    size = left = 0
    left = events
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE bailiwick.zones SET created_at = %s", (day.clock.now(),))
        while left:
            bodies = [day.body() for _ in range(min(_PORTION, left))]
            with connection.cursor() as cursor, cursor.copy("COPY bailiwick.outbox (zone, event) FROM STDIN") as copy:
                for body in bodies:
                    copy.write_row(("default", body))
            left -= len(bodies)
            size += sum(map(len, bodies))
            sequencer.wake()
            await sequencer.drain()
    sequencer.close()
    await database.close()
    return day.clock, size


async def measure(events: int) -> dict[str, float | int]:
    """All figures."""
    figures: dict[str, float | int] = {}
    with tempfile.TemporaryDirectory(prefix="bw-bench-") as home:
        root = Path(home)
        async with throwaway_postgres() as server:
            url = await server.fresh()
            await asyncio.to_thread(migrate, url)
            await prepare(url)
            clock, size = await filled(url, root, events)
            figures["bytes_per_event_json"] = round(size / events)
            figures["bytes_per_event_hot"] = hot = await asyncio.to_thread(hot_bytes, url, events)
            clock.advance(9 * 86400)
            figures |= await through(url, root, clock, events)
            figures["cold_ratio"] = round(figures["bytes_per_event_cold"] / hot, 4)
            figures["smaller_percent"] = round(100 * (1 - figures["bytes_per_event_cold"] / hot), 1)
    return figures


def hot_bytes(url: str, events: int) -> int:
    """Bytes of an event in the table with its indexes."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE ledger.events")
        row = connection.execute(
            "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'ledger.events'::regclass"
        ).fetchone()
    assert row is not None
    return round(int(row[0]) / events)


async def through(url: str, root: Path, clock: FakeClock, events: int) -> dict[str, float | int]:
    """Seal, prove, drop, check, search, restore; each by the wall."""
    database, recorder = Database(url, pool_size=4), Recorder(clock, Ids())
    places = Places(FolderStore(root / "archive"), None, root / "archive" / ".work")
    cold = ColdEvents(database, places.local, None, places.cache)
    keys = LedgerKeys(database, Sealer({"k": _KEK}, active="k"), clock)
    took: dict[str, float] = {}

    async def timed(name: str, work: Any) -> Any:
        began = time.perf_counter()
        done = await work
        took[name] = time.perf_counter() - began
        return done

    sealing = await timed("seal", Archivist(database, places, keys, recorder, clock).run())
    proof = await timed("prove", verify_archive(database, cold, "default"))
    dropped = await timed("drop", HotRows(database, cold, recorder, clock).drop_due())
    whole = await timed("verify", verify(database, "default", HeadFiles(root / "heads"), cold=cold))
    if (proof.verdict, whole.verdict, dropped["kept"]) != ("PASS", "PASS", {}) or sealing.events < events:
        raise RuntimeError(f"the archive does not hold: {proof.findings} {whole.findings} {dropped}")
    look, text, verbatim = await asyncio.to_thread(
        searched, cold, await cold.paths(await cold.list_windows("default", None, None))
    )
    start = clock.now() - timedelta(days=10)
    restored = await timed(
        "restore", Restorer(database, cold, recorder, clock).restore(Context("default"), start, clock.now(), by="bench")
    )
    await database.close()
    return {
        "bytes_per_event_cold": round(sealing.stored / sealing.events, 1),
        "verbatim_percent": round(100 * verbatim / sealing.events, 2),
        "seal_eps": round(sealing.events / took["seal"]),
        "prove_eps": round(proof.events / took["prove"]),
        "drop_s": round(took["drop"], 2),
        "verify_archived_eps": round(whole.archived / took["verify"]),
        "restore_eps": round(restored.events / took["restore"]),
        "cold_search_id_ms": round(look * 1000, 1),
        "cold_search_text_ms": round(text * 1000, 1),
        "lost": events - restored.events,
    }


def searched(cold: ColdEvents, paths: list[Path]) -> tuple[float, float, int]:
    """Seconds to find an event by request id and by a word in its text, and how many rows stand verbatim."""
    with cold.open_parts(paths) as connection:
        sample = connection.execute("SELECT request_id FROM cold USING SAMPLE 20").fetchall()
        looked = []
        for (request_id,) in sample:
            began = time.perf_counter()
            connection.execute("SELECT body FROM cold WHERE request_id = $id", {"id": request_id}).fetchall()
            looked.append(time.perf_counter() - began)
        began = time.perf_counter()
        connection.execute("SELECT count(*) FROM cold WHERE decode(body) ILIKE '%sku-4711%'").fetchall()
        text = time.perf_counter() - began
        row = connection.execute(
            "SELECT count(body) FROM read_parquet($paths)", {"paths": [str(path) for path in paths]}
        ).fetchone()
    assert row is not None
    return median(looked), text, int(row[0])


def main(arguments: list[str]) -> None:
    """``python -m bench archive``."""
    parser = argparse.ArgumentParser(prog="python -m bench archive")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    figures = asyncio.run(measure(given.events))
    report(
        "archive", figures, given.json, path="ledger to Parquet in a folder", method=f"{given.events} events of a day"
    )
