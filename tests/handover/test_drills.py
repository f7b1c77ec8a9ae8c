"""A restore drill on an installation as it is made: what it finds, and what it says when something is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from backup_ground import CONTEXT, Ground, now
from prometheus_client import CollectorRegistry
from psycopg import AsyncConnection, OperationalError
from pydantic import SecretStr

from bailiwick.app.archive import build_archive
from bailiwick.app.assurance import build_assurance
from bailiwick.app.foundations import Foundations
from bailiwick.app.handover.backups import _shipping, backups_of, drills_of, targets_of
from bailiwick.app.house import House
from bailiwick.app.prepare import bootstrap
from bailiwick.assurance.probes.internal import internals
from bailiwick.assurance.probes.means import Asked
from bailiwick.evidence.events import Recorder
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.evidence.ledger import HeadFiles, LedgerKeys
from bailiwick.evidence.sequencer import Sequencer
from bailiwick.handover.backups.drills import Drill, Targets, judge
from bailiwick.handover.backups.escrow import make_pair
from bailiwick.handover.backups.spec import BackupPlanSpec
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.crypto import KekFile
from bailiwick.kernel.db import Database
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.migrate import migrate
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.settings import Settings
from bailiwick.kernel.verdicts import Verdict
from databases import empty
from ports import free_port

TARGETS = targets_of(BackupPlanSpec(owner="uptime"))


@pytest.fixture
async def house(ground: Ground) -> AsyncIterator[House]:
    """An installation as ``prepare`` makes it, on the server of ``ground``, whose place for backups is set."""
    with psycopg.connect(ground.url, autocommit=True) as connection:
        empty(connection, "bailiwick.zones", "bailiwick.zone_keys", "bailiwick.outbox")
    settings = Settings(
        data_dir=ground.layout.data_dir, database_url=SecretStr(ground.url), backup_url=f"file://{ground.folder}"
    )
    await bootstrap(settings)
    clock, ids, database = SystemClock(), Ids(), Database(ground.url, pool_size=4)
    recorder, metrics = Recorder(clock, ids), Metrics(CollectorRegistry())
    base = Foundations(settings, ground.layout, clock, ids, ground.kek.load(), database, ground.url, recorder, metrics)
    quorum = build_archive(settings, ground.layout, database, clock, ids, recorder).quorum
    yield build_assurance(base, quorum, EvidenceRecords(clock, recorder)).house
    await database.close()


async def sequenced(house: House) -> None:
    """What the outbox holds is in the ledger, under a published head."""
    base = house.base
    signer = LedgerKeys(base.database, base.sealer, base.clock)
    sequencer = Sequencer(
        base.database, base.direct_url, base.layout.spool, HeadFiles(base.layout.heads), signer, base.clock,
        head_interval_s=0.0,
    )  # fmt: skip
    await sequencer.drain()
    sequencer.close()


async def prepared(ground: Ground, house: House) -> None:
    """A backup, and the log behind it, in the store."""
    await sequenced(house)
    ground.world.head_files = HeadFiles(house.base.layout.heads)
    async with ground.shipped():
        await backups_of(house).take(CONTEXT, "root")
        await ground.covered(now())


def wrong(drill: Drill) -> list[str]:
    return [each.name for each in drill.checks if each.verdict is Verdict.FAIL]


def escrow_of(drill: Drill) -> tuple[Verdict, str]:
    return next((each.verdict, each.told) for each in drill.checks if each.name == "escrow")


async def test_the_escrow_is_proven_by_the_key_that_opens_it_and_by_no_other(ground: Ground, house: House) -> None:
    private, public = make_pair()
    other, _ = make_pair()
    settings = house.base.settings.model_copy(update={"backup_escrow_key": public})
    house.base = replace(house.base, settings=settings)
    await prepared(ground, house)
    # as after the loss of the machine: what opens the backup is in escrow and nowhere else
    kek = ground.kek.path
    text = kek.read_text()
    kek.unlink()
    drill = await drills_of(house).restore(CONTEXT, TARGETS, "root", escrow=private)
    assert (drill.verdict, wrong(drill)) == ("PASS", []), drill.checks
    assert escrow_of(drill) == (Verdict.PASS, "k1 came out of the escrow and opened everything")
    drill = await drills_of(house).restore(CONTEXT, TARGETS, "root", escrow=other)
    assert (drill.verdict, escrow_of(drill)[0]) == ("FAIL", Verdict.FAIL)
    kek.write_text(text)
    # without the key nothing is known of it, which fails nothing and is not green
    drill = await drills_of(house).restore(CONTEXT, TARGETS, "root")
    assert (drill.verdict, escrow_of(drill)[0]) == ("PASS", Verdict.NO_DATA)
    async with house.base.database.begin() as tx:
        chapter = await house.chapters["backups"](tx, "default", "production", now() - timedelta(days=1), now())
    assert {each.name: each.verdict.value for each in chapter}["escrow"] == "FAIL"  # of the newest that was given one


async def test_a_database_of_somebody_elses_is_backed_up_and_drilled_over_tcp(ground: Ground, tmp_path: Path) -> None:
    """The installation has a directory of its own; its PostgreSQL is started by itself, with a login of its own and the
    right to replicate, on a port."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(ground.kek.path.parent, folder / "secrets")
    async with external(ground) as url:
        settings = Settings(data_dir=folder, database_url=SecretStr(url), backup_url=f"file://{ground.folder}")
        layout, clock, ids, database = Layout(folder), SystemClock(), Ids(), Database(url, pool_size=4)
        layout.create()
        await bootstrap(settings)
        recorder, metrics = Recorder(clock, ids), Metrics(CollectorRegistry())
        sealer = KekFile(layout.secrets / "kek").load()
        base = Foundations(settings, layout, clock, ids, sealer, database, url, recorder, metrics)
        quorum = build_archive(settings, layout, database, clock, ids, recorder).quorum
        house = build_assurance(base, quorum, EvidenceRecords(clock, recorder)).house
        await sequenced(house)
        owner = Database(url, pool_size=1, role=None)
        shipping = asyncio.create_task(_shipping(house).run())
        try:
            manifest = await backups_of(house).take(CONTEXT, "root")
            since = now()
            async with asyncio.timeout(60):
                while True:
                    async with database.begin() as tx:
                        covered = await tx.value("SELECT max(covered_until) FROM backup_log")
                    if covered is not None and covered >= since:
                        break
                    async with owner.begin() as tx:  # in earnest a segment is closed after four minutes
                        await tx.run("SELECT pg_switch_wal()")
                    await asyncio.sleep(0.2)
            drill = await drills_of(house).restore(CONTEXT, TARGETS, "root")
        finally:
            shipping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await shipping
            await owner.close()
            await database.close()
            layout.remove_foreign_run()
    assert manifest.bytes > 0 and (drill.verdict, wrong(drill)) == ("PASS", []), drill.checks
    assert not (folder / "pg" / "data").exists()


@contextlib.asynccontextmanager
async def external(ground: Ground) -> AsyncIterator[str]:
    """A PostgreSQL that is none of ours: its own initdb, TCP alone, passwords; the URL of an empty database."""
    directory = Path(tempfile.mkdtemp(prefix="bw-external-", dir="/tmp"))
    directory.chmod(0o711)
    tools, data = ground.postgres.tool("postgres").parent, directory / "external"
    password = directory / "password"
    password.write_text("planted external password\n")
    who = {} if os.geteuid() else {"user": "nobody"}
    port = free_port()
    data.mkdir(mode=0o700)
    sockets = directory / "sockets"
    sockets.mkdir(mode=0o777)
    if who:
        for path in (data, password, sockets):
            shutil.chown(path, "nobody")
    made = subprocess.run(
        [str(tools / "initdb"), "-D", str(data), "-U", "them", "-A", "scram-sha-256", f"--pwfile={password}"],
        capture_output=True, text=True, **who,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    options = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": str(sockets)}
    server = subprocess.Popen(
        [str(tools / "postgres"), "-D", str(data), *(part for name, value in options.items()
                                                      for part in ("-c", f"{name}={value}"))],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **who,
    )  # fmt: skip
    admin = f"postgresql://them:planted%20external%20password@127.0.0.1:{port}"
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    connection = await AsyncConnection.connect(f"{admin}/postgres", autocommit=True)
                    break
                except OperationalError:
                    await asyncio.sleep(0.1)
        await connection.execute("CREATE DATABASE theirs")
        await connection.close()
        await asyncio.to_thread(migrate, f"{admin}/theirs")
        yield f"{admin}/theirs"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(20)
        shutil.rmtree(directory)


async def test_a_backup_without_an_escrow_says_so(ground: Ground, house: House) -> None:
    private, _ = make_pair()
    await prepared(ground, house)
    drill = await drills_of(house).restore(CONTEXT, TARGETS, "root", escrow=private)
    assert (drill.verdict, escrow_of(drill)[0]) == ("FAIL", Verdict.FAIL)
    assert "no keys in escrow" in escrow_of(drill)[1]


async def test_a_drill_restores_verifies_signs_in_and_measures(ground: Ground, house: House) -> None:
    await prepared(ground, house)
    drill = await drills_of(house).restore(CONTEXT, TARGETS, "root")
    assert (drill.verdict, wrong(drill)) == ("PASS", [])
    assert drill.rto_s is not None and 0 < drill.rto_s < 240
    assert drill.rpo_s is not None and 0 <= drill.rpo_s < 240
    told = {each.name: each.told for each in drill.checks}
    assert told["sign-in"] == "restore-drill signed in, and his token was understood"
    assert told["ledger default"].startswith("PASS")
    async with house.base.database.begin() as tx:
        row = await tx.one("SELECT verdict, record FROM backup_drills")
        record = await house.records.get(tx, "default", drill.record)
    assert row is not None and dict(row) == {"verdict": "PASS", "record": drill.record}
    assert record.record.exit == 0 and record.record.check == "backup.restore-drill"
    # nothing of it is left
    assert list((ground.layout.data_dir / "backup-work").iterdir()) == []
    looks = internals(house.base.database, house.base.clock, dict, list, None)
    for name in ("backup_age", "backup_log_age", "restore_test_age"):
        found = await looks[name](Asked("default", now(), None, 5.0), "")
        assert found.value is not None and found.value < 240, name


async def test_a_drill_that_cannot_restore_fails_and_raises_an_alert(ground: Ground, house: House) -> None:
    await prepared(ground, house)
    part = next(ground.folder.glob("base/*/cluster-00000.tar.gz"))
    part.write_bytes(part.read_bytes()[:-20])
    drill = await drills_of(house).restore(CONTEXT, TARGETS, "root")
    assert drill.verdict == "FAIL" and "backup_damaged" in drill.checks[0].told
    async with house.base.database.begin() as tx:
        alerts = [row["key"] for row in await tx.all("SELECT key FROM alerts WHERE state <> 'resolved'")]
    assert "restore-drill" in alerts


async def test_rows_that_do_not_come_back_are_noticed(ground: Ground, house: House) -> None:
    await prepared(ground, house)
    # as if it had stood there for long: the log that holds it is not in the store
    ground.world.do(
        "INSERT INTO bailiwick.users (id, zone, username, email, role, created_at, updated_at) VALUES"
        " ('lost', 'default', 'lost', 'l@example.com', 'viewer', now() - interval '1 day', now() - interval '1 day')"
    )
    drill = await drills_of(house).restore(CONTEXT, TARGETS, "root")
    assert (drill.verdict, wrong(drill)) == ("FAIL", ["rows of users"])


@pytest.mark.parametrize(
    ("rto_s", "rpo_s", "verdict"),
    [(10.0, 10.0, "PASS"), (60.0, 10.0, "FAIL"), (10.0, 30.0, "FAIL"), (None, 10.0, "FAIL"), (10.0, None, "FAIL")],
)
def test_a_figure_that_is_too_large_or_not_known_is_not_green(
    rto_s: float | None, rpo_s: float | None, verdict: str
) -> None:
    drill = Drill("d", "restore", now(), "root", rto_s=rto_s, rpo_s=rpo_s)
    assert judge(drill, Targets(timedelta(minutes=1), timedelta(seconds=30), "uptime", TARGETS.severity)) == verdict
