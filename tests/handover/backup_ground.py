"""An installation's database on a server of its own, that can be backed up, restored and broken."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ledger_world import KEK, World
from prometheus_client import CollectorRegistry

from bailiwick.evidence.archive.store import FolderStore, ObjectStore, S3Place, S3Store
from bailiwick.evidence.events import Actor, Context
from bailiwick.handover.backups.log_shipping import LogShipping
from bailiwick.handover.backups.manifest import Manifest
from bailiwick.handover.backups.restoring import Keys, Restored, Restoring, Wanted
from bailiwick.handover.backups.server import Server
from bailiwick.handover.backups.service import Backups, Vault
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.crypto import KekFile
from bailiwick.kernel.embedded_postgres import DATABASE, EmbeddedPostgres
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.migrate import migrate
from bailiwick.kernel.paths import Layout

CONTEXT = Context("default", Actor(user="root"))


class Ground:
    """One installation and the folder that its backups go to."""

    def __init__(self, root: Path, postgres: EmbeddedPostgres, world: World) -> None:
        self.root = root
        self.postgres = postgres
        self.layout = postgres.layout
        self.world = world
        self.url = postgres.url(DATABASE)
        self.store: ObjectStore = FolderStore(root / "store")
        self.kek = KekFile(self.layout.secrets / "kek")
        self.metrics = Metrics(CollectorRegistry())
        self.server = Server(self.url, postgres.tool("postgres").parent)

    @property
    def folder(self) -> Path:
        return self.root / "store"

    def backups(self, *, fault: Callable[[str], None] = lambda step: None, **changed: Any) -> Backups:
        vault = Vault(
            self.world.head_files,
            self.kek,
            changed.pop("escrow_key", None),
            {"api_port": 8080},
            {"tls.key": self.root / "tls.key"},
        )
        return Backups(
            self.world.database,
            self.server,
            changed.pop("store", self.store),
            vault,
            SystemClock(),
            self.world.recorder,
            self.root / "work",
            fault=fault,
            **changed,
        )

    async def take(self, **changed: Any) -> Manifest:
        return await self.backups(**changed).take(CONTEXT, "root")

    def shipping(self, **changed: Any) -> LogShipping:
        return LogShipping(
            self.server,
            changed.pop("store", self.store),
            self.world.database,
            SystemClock(),
            self.metrics,
            self.layout.data_dir / "log-shipping",
            self.world.head_files.directory,
            switch_s=changed.pop("switch_s", 0.3),
            poll_s=changed.pop("poll_s", 0.1),
        )

    @asynccontextmanager
    async def shipped(self, **changed: Any) -> AsyncIterator[LogShipping]:
        """The log is stored meanwhile."""
        shipping = self.shipping(**changed)
        task = asyncio.create_task(shipping.run())
        try:
            yield shipping
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def covered(self, since: datetime, limit: float = 30) -> datetime:
        """Wait until everything committed by ``since`` lies in the store."""
        async with asyncio.timeout(limit):
            while True:
                found = self.world.rows("SELECT covered_until FROM bailiwick.backup_log")
                if found and found[0] is not None and found[0] >= since:
                    return found[0]
                await asyncio.sleep(0.05)

    async def restore(
        self, *, name: str = "restored", keys: Keys | None = None, fault: Callable[[str], None] = lambda step: None,
        store: ObjectStore | None = None, **wanted: Any,
    ) -> Restored:  # fmt: skip
        restoring = Restoring(
            store or self.store, self.root / name, keys or Keys(kek=self.kek.path), SystemClock(), fault=fault
        )
        return await restoring.run(Wanted(**wanted))

    def user(self, name: str) -> None:
        self.world.do(
            "INSERT INTO bailiwick.users (id, zone, username, email, role, created_at, updated_at)"
            " VALUES (%s, 'default', %s, %s, 'viewer', now(), now())",
            name, name, f"{name}@example.com",
        )  # fmt: skip

    @asynccontextmanager
    async def running(self, name: str = "restored") -> AsyncIterator[psycopg.Connection[Any]]:
        """A restored installation's server, and a connection to its database."""
        layout = Layout(self.root / name)
        layout.create()
        postgres = EmbeddedPostgres(layout)
        await postgres.start()
        try:
            with psycopg.connect(postgres.url(DATABASE), autocommit=True) as connection:
                yield connection
        finally:
            await postgres.stop()
            layout.remove_foreign_run()


def now() -> datetime:
    return datetime.now(UTC)


def directory_in_memory() -> Path:
    """A new directory, in memory where there is room: every server here flushes each commit, and backups all files."""
    memory = Path("/dev/shm")
    room = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    return Path(tempfile.mkdtemp(prefix="bw-backups-", dir=memory if room else None))


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    """A migrated cluster, made once and copied for each test."""
    home = directory_in_memory()
    directory = home / "data"
    layout = Layout(directory)
    layout.create()

    async def make() -> None:
        async with EmbeddedPostgres(layout) as postgres:
            await postgres.ensure_database()
            await asyncio.to_thread(migrate, postgres.url(DATABASE))

    asyncio.run(make())
    layout.remove_foreign_run()
    yield directory
    shutil.rmtree(home)


@pytest.fixture
async def ground(template: Path) -> AsyncIterator[Ground]:
    home = directory_in_memory()
    data = home / "data"
    subprocess.run(["cp", "-a", str(template), str(data)], check=True)
    layout = Layout(data)
    layout.create()
    postgres = EmbeddedPostgres(layout)
    await postgres.start()
    try:
        world = await World.make(postgres.url(DATABASE), data)
        (layout.secrets / "kek").write_text(f"k1 {KEK.hex()}\n")
        yield Ground(home, postgres, world)
        await world.close()
    finally:
        await postgres.stop()
        layout.remove_foreign_run()
        shutil.rmtree(home)


@pytest.fixture
def bucket() -> Iterator[ObjectStore]:
    """A bucket of an S3 server."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        given = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=endpoint, **given).create_bucket(Bucket="backups")
        yield S3Store(S3Place("backups", "here", endpoint, "us-east-1", "key", "secret"))
    finally:
        server.stop()
