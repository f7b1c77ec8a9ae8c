"""Preserving an incident: how long the signed pack of a window of five million events takes, and each of its sections.

The events are COPYed into a server of its own as the sequencer would have put them there, under a signed head, with the
inputs that their decisions were made from; then the incident's pack is built by the builder of an installation, with
every section it has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc.jwk import OKPKey
from pydantic import SecretStr

from bailiwick.app.packs import pack_builder
from bailiwick.evidence.events import Context, Event, Recorder, encode, leaf_hash
from bailiwick.evidence.inputs import input_aad
from bailiwick.evidence.ledger import Head, LedgerKeys, key_aad
from bailiwick.evidence.pack import Outcome, Pack, Section, Selection, Window
from bailiwick.evidence.records import event_row
from bailiwick.evidence.sequencer import _grow
from bailiwick.evidence.tree import load_edge
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database
from bailiwick.kernel.embedded_postgres import throwaway_postgres
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.migrate import migrate
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.settings import Settings
from bench.common import report
from bench.search import _TYPES, Maker

WITHIN = timedelta(minutes=50)
INPUTS = 5000
_RUN = 65_536
_PROCESSES = 4


def copied(url: str, first: int, count: int, start: datetime, step: timedelta, leaves: Path) -> None:
    """COPY ``count`` events from position ``first`` on; their leaf hashes into a file."""
    maker = Maker(start + first * step, step)
    with (
        psycopg.connect(url, autocommit=True) as connection,
        leaves.open("wb") as hashes,
        connection.cursor() as cursor,
    ):
        connection.execute("SET synchronous_commit = off")
        with cursor.copy(f"COPY ledger.events ({', '.join(_TYPES)}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(list(_TYPES.values()))
            for seq in range(first, first + count):
                event = maker.make(seq)
                if event.details.get("input"):
                    event = _with_input(event, seq)
                body = encode(event)
                row = event_row("w0", 0, seq, "default", body)
                values = {"seq": seq, "recorded_at": row.at + timedelta(milliseconds=30)}
                copy.write_row([values[name] if name in values else getattr(row, name) for name in _TYPES])
                hashes.write(leaf_hash(body))


def _with_input(event: Event, seq: int) -> Event:
    import msgspec

    return msgspec.structs.replace(event, details={**event.details, "input": f"{seq % INPUTS:064x}"})


def fill(url: str, events: int, directory: Path, end: datetime) -> None:
    """Events of the hour before ``end``, their leaves into ``directory``."""
    start = end - WITHIN
    step = WITHIN / events
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT ledger.ensure_partitions(%s, %s)", (start - timedelta(days=1), end + timedelta(days=1))
        )
    share = -(-events // _PROCESSES)
    jobs = [
        multiprocessing.get_context("spawn").Process(
            target=copied, args=(url, first, min(share, events - first), start, step, directory / f"{first:012}")
        )
        for first in range(0, events, share)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    if any(job.exitcode for job in jobs):
        raise RuntimeError("the events could not be made")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE ledger.events")


def zone_of(url: str, sealer: Sealer) -> None:
    """The zone and its ledger key, and what decisions were made from."""
    private = Ed25519PrivateKey.generate()
    der = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    spki = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO bailiwick.zones (name, created_at) VALUES ('default', now())")
        connection.execute(
            "INSERT INTO bailiwick.zone_keys (kid, zone, purpose, algorithm, public_jwk, private_sealed, created_at,"
            " changed_at) VALUES ('l-default', 'default', 'ledger', 'Ed25519', %s, %s, now(), now())",
            (
                json.dumps(OKPKey.import_key(spki).as_dict(private=False)),
                sealer.seal(der, key_aad("default", "l-default")),
            ),
        )
        now = datetime.now(UTC)
        body = json.dumps({"subject": {"id": "agent-7"}, "action": "payments:read", "resource": "x" * 300}).encode()
        with (
            connection.cursor() as cursor,
            cursor.copy(
                "COPY bailiwick.decision_inputs (zone, digest, sealed, created_at, expires_at) FROM STDIN"
            ) as copy,
        ):
            for n in range(INPUTS):
                digest = f"{n:064x}"
                copy.write_row(
                    ("default", digest, sealer.seal(body, input_aad("default", digest)), now, now + timedelta(days=30))
                )


async def signed(database: Database, directory: Path, keys: LedgerKeys, at: datetime) -> int:
    """The tree over all leaves, and its head; its size."""
    leaves = b"".join(path.read_bytes() for path in sorted(directory.iterdir()))
    size = len(leaves) // 32
    async with database.begin() as tx:
        edge = await load_edge(tx, "default", 0)
        for first in range(0, size, _RUN):
            portion = leaves[first * 32 : (first + _RUN) * 32]
            await _grow(tx, "default", edge, [portion[n : n + 32] for n in range(0, len(portion), 32)])
        kid, signer = await keys.signer("default")
        head = Head.sign("default", size, edge.root(), at, kid, signer)
        await tx.run(
            "INSERT INTO ledger.heads (zone, size, at, root, kid, note) VALUES ('default', :size, :at, :root, :kid,"
            " :note)",
            size=size,
            at=head.at,
            root=head.root,
            kid=kid,
            note=head.note,
        )
    return size


def timed(section: Section, took: dict[str, float]) -> Section:
    """The section, which notes how long it takes."""
    write: Callable[[Pack], Awaitable[Outcome]] = section.write

    async def written(pack: Pack) -> Outcome:
        begun = time.perf_counter()
        try:
            return await write(pack)
        finally:
            took[section.name] = time.perf_counter() - begun
            print(f"  {section.name}: {took[section.name]:.1f} s", file=sys.stderr, flush=True)

    return replace(section, write=written)


def bar(section: str, done: int, of: int) -> None:
    """How far it is, on standard error."""
    if of and (done == of or done % 250_000 < 5000):
        share = 40 * done // of
        print(f"\r  {section:<12} [{'#' * share}{'.' * (40 - share)}] {done:,} of {of:,}", end="", file=sys.stderr)
        if done == of:
            print(file=sys.stderr)


async def measure(events: int) -> dict[str, float]:
    """All figures."""
    sealer, clock, ids = Sealer({"k1": os.urandom(32)}, "k1"), SystemClock(), Ids()
    with tempfile.TemporaryDirectory(prefix="bw-bench-", dir="/tmp") as name:
        root = Path(name)
        (root / "leaves").mkdir()
        async with throwaway_postgres(root) as server:
            url = await server.fresh()
            await asyncio.to_thread(migrate, url)
            zone_of(url, sealer)
            end = datetime.now(UTC)
            begun = time.perf_counter()
            await asyncio.to_thread(fill, url, events, root / "leaves", end)
            database = Database(url, pool_size=4)
            keys = LedgerKeys(database, sealer, clock)
            size = await signed(database, root / "leaves", keys, end)
            filled = time.perf_counter() - begun
            print(f"  {size:,} events in {filled:.0f} s", file=sys.stderr)
            layout = Layout(root / "data")
            layout.create()
            settings = Settings(data_dir=layout.data_dir, database_url=SecretStr(url))  # type: ignore[call-arg]
            builder = pack_builder(
                settings, layout, database, clock, ids, Recorder(clock, ids), keys, lambda: sealer,
            )  # fmt: skip
            took: dict[str, float] = {}
            builder._sections = {each: timed(section, took) for each, section in builder._sections.items()}
            window = Window(end - timedelta(hours=1), end + timedelta(seconds=1))
            selection = Selection("default", (), (window,), "INC-1", True)
            begun, worked = time.perf_counter(), time.process_time()
            built = await builder.build(selection, root / "pack.zip", Context("default"), progress=bar)
            whole = time.perf_counter() - begun
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            figures = {
                "preserve_s": round(whole, 1),
                "preserve_cpu_s": round(time.process_time() - worked, 1),
                "events": built.events,
                "events_per_s": round(built.events / whole),
                "pack_mb": round(built.bytes / 1e6, 1),
                "peak_rss_mb": round(peak, 1),
                "filled_s": round(filled, 1),
                **{f"{each}_s": round(seconds, 1) for each, seconds in took.items()},
            }
            await database.close()
    return figures


def main(arguments: list[str]) -> None:
    """``python -m bench preserve``."""
    parser = argparse.ArgumentParser(prog="python -m bench preserve")
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    figures = asyncio.run(measure(given.events))
    method = f"{given.events} events of {WITHIN}, {INPUTS} decision inputs, every section of an installation's pack"
    report("preserve", figures, given.json, path="the pack builder over PostgreSQL", method=method)
