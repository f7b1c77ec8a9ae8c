"""Restoring: a fresh data directory out of a store of backups, to the end of the log or to a moment.

Everything happens in a directory beside the one that is wanted, which takes that name as the very last step: a restore
that dies leaves nothing that could be started, and the next one begins anew.

A ledger only grows. Where what comes back lacks events that a published head covers, heads signed over what follows
would contradict those that others hold. So nothing is restored then unless that loss is asked for; and then the newest
published head is put beside the database, by which the sequencer recognises the loss, tells it, and signs no head for
the zone until two persons have its log go on under another name (``evidence/continuing.py``): no fork is silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import os
import re
import shlex
import shutil
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from psycopg import AsyncConnection, sql
from psycopg import Error as PsycopgError

from bailiwick.evidence import codes
from bailiwick.evidence.archive.store import ObjectMissing, ObjectStore
from bailiwick.evidence.continued import ended_by, note_loss
from bailiwick.evidence.events import Actor, Context, Recorder, Subject
from bailiwick.evidence.ledger import Head, HeadFiles, key_aad, ledger_keys
from bailiwick.evidence.spool import sync_directory
from bailiwick.evidence.tree import MissingHashes, root_at, tree_size
from bailiwick.handover.backups.cluster import verify_cluster
from bailiwick.handover.backups.escrow import WrongKey, open_with
from bailiwick.handover.backups.manifest import Damaged, Manifest, Object, decode, manifest_name
from bailiwick.handover.backups.segments import HISTORY, Segment, StoredFile, doubled, lsn, run_from, stored_files
from bailiwick.handover.backups.service import complete_ids
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import KekFile, Sealer, SealError
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.embedded_postgres import ADMIN, DATABASE, MAJOR, EmbeddedPostgres
from bailiwick.kernel.errors import BailiwickError, NotFound, Unavailable
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.paths import AlreadyRunning, DataDirLock, DataDirUnusable, Layout, write_private

_NOT_REACHED = "recovery ended before configured recovery target was reached"
_LAST = re.compile(r"last completed transaction was at log time ([0-9-]+ [0-9:.]+)\+00")
_HEAD = re.compile(r"heads/([A-Za-z0-9][A-Za-z0-9_-]{0,127})\.head")
_LONGEST_S = 12 * 3600.0
_TRUST = "local all all trust\n"
_SCRAM = "local all all scram-sha-256\nlocal replication all scram-sha-256\n"


@dataclass(frozen=True, slots=True)
class Keys:
    """What opens the backup: the file of key-encryption keys, or the private escrow key (64 hex digits), or both."""

    kek: Path | None = None
    escrow: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be restored: a backup by its id or the newest that fits, ``to`` a moment or as far as the log goes.

    ``heads``: a folder of published heads that are newer than those of the store, such as the old machine's.
    ``accept_loss``: restore although events under a published head will be missing.
    """

    backup: str | None = None
    to: datetime | None = None
    heads: Path | None = None
    accept_loss: bool = False
    by: str = "os"


@dataclass(frozen=True, slots=True)
class ZoneState:
    """A zone's ledger after the restore: events there are, and events under the newest published head known."""

    zone: str
    size: int
    published: int

    @property
    def lost(self) -> bool:
        """Whether events that a published head covers are missing."""
        return self.published > self.size


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done. ``ended``: where the log ended that was replayed; ``last_commit``: of what is there;
    ``seconds``: how long each step took."""

    manifest: Manifest
    to: datetime | None
    ended: str
    last_commit: datetime | None
    segments: int
    zones: Sequence[ZoneState]
    sessions_ended: int
    seconds: Mapping[str, float]

    @property
    def total_s(self) -> float:
        """Seconds from beginning to end."""
        return sum(self.seconds.values())

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "backup": self.manifest.id,
            "to": self.to.isoformat() if self.to else "latest",
            "ended_at": self.ended,
            "last_commit": self.last_commit.isoformat() if self.last_commit else None,
            "log_segments": self.segments,
            "zones": [
                {"zone": each.zone, "size": each.size, "published": each.published, "lost": each.lost}
                for each in self.zones
            ],
            "sessions_ended": self.sessions_ended,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "total_s": round(self.total_s, 3),
        }


@dataclass(slots=True)
class _Timer:
    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, name: str) -> Any:
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began
        self.say(f"{name}: {self.seconds[name]:.1f} s")


class Restoring:
    """Restores from ``store`` into the data directory ``target``, which must not be there or be empty.

    ``say`` is told each step in a line. ``fault`` is called with the name of every step; the tests die there.
    """

    def __init__(
        self,
        store: ObjectStore,
        target: Path,
        keys: Keys,
        clock: Clock,
        *,
        say: Callable[[str], None] = lambda line: None,
        fault: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._store = store
        self._target = Path(os.path.abspath(target))  # noqa: PTH100 - keeps symlinks as given
        self._keys = keys
        self._clock = clock
        self._timer = _Timer(say)
        self._say = say
        self._fault = fault
        self._staging = self._target.with_name(f".{self._target.name}.restoring")

    async def run(self, wanted: Wanted) -> Restored:
        """Do it. Raises ``restore_refused``, ``backup_damaged``, ``backup_key_wrong``, ``backup_log_missing``,
        ``restore_behind_head``, ``restore_failed``, ``not_found``; nothing is at the target then."""
        lock = self._claim()
        try:
            layout = Layout(self._staging)
            layout.create()
            try:
                restored = await self._restore(layout, wanted)
            finally:
                shutil.rmtree(layout.run, ignore_errors=True)
                layout.remove_foreign_run()
            self._fault("ready")
            self._put_in_place()
            return restored
        except (OSError, DataDirUnusable) as error:
            raise Unavailable(f"It cannot be written: {error}.", reason="restore_failed") from error
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
            lock.release()

    # ------------------------------------------------------------------ where

    def _claim(self) -> DataDirLock:
        if self._target.exists() and (not self._target.is_dir() or any(self._target.iterdir())):
            raise BailiwickError(f"{self._target} is not empty.{_in_use(self._target)}", reason="restore_refused")
        self._target.parent.mkdir(parents=True, exist_ok=True)
        lock = DataDirLock(self._staging.with_name(f"{self._staging.name}.lock"))
        try:
            lock.acquire(self._target)
        except AlreadyRunning as error:
            raise BailiwickError(
                f"Another restore into {self._target} is under way (pid {error.holder.get('pid')}).",
                reason="restore_refused",
            ) from None
        shutil.rmtree(self._staging, ignore_errors=True)  # of one that died
        return lock

    def _put_in_place(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._target.rmdir()
        self._staging.rename(self._target)
        sync_directory(self._target.parent)

    # ------------------------------------------------------------------ the steps

    async def _restore(self, layout: Layout, wanted: Wanted) -> Restored:
        manifest = await self._choose(wanted)
        self._say(f"backup {manifest.id} of {manifest.host}, program {manifest.program}, {manifest.bytes:,} bytes")
        sealer = await self._open_keys(layout, manifest)
        self._fault("keys opened")
        postgres = EmbeddedPostgres(layout)
        with self._timer.step("objects fetched and verified"):
            parts = [await self._fetch(part, layout.data_dir / f"part-{n}") for n, part in enumerate(manifest.parts)]
        self._fault("parts fetched")
        with self._timer.step("cluster unpacked and verified"):
            await asyncio.to_thread(_unpack, parts, postgres.cluster)
            await asyncio.to_thread(verify_cluster, postgres.cluster)
        self._fault("cluster unpacked")
        with self._timer.step("log fetched and verified"):
            log, segments = await self._fetch_log(layout, manifest, wanted)
        self._fault("log fetched")
        _prepare_recovery(postgres.cluster, log, wanted.to)
        postgres.take_over(log)
        with self._timer.step("log replayed"):
            await self._recover(postgres, wanted)
        self._fault("recovered")
        try:
            with self._timer.step("ledger held against published heads"):
                ended, zones, sessions = await self._settle(postgres, layout, manifest, sealer, wanted)
        finally:
            await postgres.stop()
        self._fault("settled")
        _finish(postgres.cluster)
        shutil.rmtree(log)
        postgres.take_over()
        last = _LAST.findall(layout.log("postgres").read_text(errors="replace"))
        last_commit = datetime.fromisoformat(last[-1]).replace(tzinfo=UTC) if last else None
        return Restored(manifest, wanted.to, ended, last_commit, segments, zones, sessions, self._timer.seconds)

    async def _choose(self, wanted: Wanted) -> Manifest:
        known = await complete_ids(self._store)
        if wanted.backup is not None:
            if wanted.backup not in known:
                raise NotFound(f"There is no complete backup {wanted.backup} in {self._store.place}.")
            known = [wanted.backup]
        for identifier in reversed(known):
            manifest = decode(await self._bytes(manifest_name(identifier)), identifier)
            if wanted.to is None or manifest.finished <= wanted.to:
                if manifest.postgres.split(".")[0] != str(MAJOR):
                    raise BailiwickError(
                        f"The backup is of PostgreSQL {manifest.postgres}; these are the programs of {MAJOR}.",
                        reason="restore_refused",
                    )
                return manifest
        before = f" that was finished by {wanted.to.isoformat()}" if wanted.to and known else ""
        raise NotFound(f"There is no complete backup{before} in {self._store.place}.")

    async def _open_keys(self, layout: Layout, manifest: Manifest) -> Sealer:
        """Put the key-encryption keys in place. Raises ``backup_key_wrong`` where they do not open the backup."""
        lines: list[str] = []
        if self._keys.escrow is not None:
            if manifest.escrow is None:
                raise WrongKey("The backup has no keys in escrow; bring the file of key-encryption keys.")
            newest = (await complete_ids(self._store))[-1]
            # a rotation after the backup: what is replayed since is sealed by a key that only a later backup holds
            for each in dict.fromkeys([manifest.id, newest]):
                of = manifest if each == manifest.id else decode(await self._bytes(manifest_name(each)), each)
                if of.escrow is not None and of.escrow_key == manifest.escrow_key:
                    lines += open_with(self._keys.escrow, await self._object(of.escrow), each).decode().splitlines()
        if self._keys.kek is not None:
            try:
                lines += self._keys.kek.read_text().splitlines()
            except (OSError, UnicodeDecodeError):
                raise WrongKey(f"{self._keys.kek} cannot be read as a file of keys.") from None
        if not lines:
            raise WrongKey("Neither a file of key-encryption keys nor the escrow key was given.")
        write_private(layout.secrets / "kek", "".join(f"{line}\n" for line in dict.fromkeys(lines)))
        file = KekFile(layout.secrets / "kek")
        try:
            sealer = file.load()
            told = sealer.open(await self._object(manifest.configuration), f"backup/{manifest.id}".encode())
        except SealError:
            held = ", ".join(_ids_of(lines)) or "none"
            raise WrongKey(
                f"The keys given ({held}) do not open the backup, which needs {manifest.keks[-1]}."
            ) from None
        with tarfile.open(fileobj=io.BytesIO(told)) as tar:
            tar.extractall(layout.data_dir / "restored-configuration", filter="data")
        return sealer

    async def _fetch_log(self, layout: Layout, manifest: Manifest, wanted: Wanted) -> tuple[Path, int]:
        """What of the log can be replayed, in a folder. Raises ``backup_log_missing`` and ``backup_damaged``."""
        folder = layout.pg / "log-to-replay"
        folder.mkdir(mode=0o700)
        files = stored_files(await self._store.names("wal"))
        if twice := doubled(files):
            raise BailiwickError(
                f"Two servers stored {twice[0]}; the log in {self._store.place} is not one log.",
                reason="backup_log_missing",
            )
        there = {each.file: each for each in files}
        size = manifest.segment_bytes
        # a backup ends with a change of segment, and what it ends in is in it
        last = Segment.holding(manifest.timeline, lsn(manifest.stop) - 1, size)
        run = run_from(last.following, there, size)
        if run.missing is not None and wanted.to is None:
            raise BailiwickError(
                f"{run.missing} of the log is missing, and later segments are there. --to a moment before it"
                " restores what can be.",
                reason="backup_log_missing",
            )
        for name in [*run.names, *(each for each in there if each == last.name(size) or HISTORY.fullmatch(each))]:
            await self._fetch_file(there[name], folder / name)
        return folder, len(run.names)

    async def _fetch_file(self, stored: StoredFile, target: Path) -> None:
        zipped = target.with_name(f"{target.name}.gz")
        found = await self._store.fetch(stored.object, zipped)
        if found.sha256.hex() != stored.sha256:
            raise Damaged(f"{stored.object} is not what its name says.")
        await asyncio.to_thread(_unzip, zipped, target)
        zipped.unlink()

    async def _recover(self, postgres: EmbeddedPostgres, wanted: Wanted) -> None:
        log = postgres.layout.log("postgres")
        try:
            await postgres.start(locked=True, log=log, limit=_LONGEST_S)
        except (Unavailable, TimeoutError) as error:
            told = log.read_text(errors="replace")
            if _NOT_REACHED in told:
                raise BailiwickError(
                    f"The log holds no commit after {wanted.to.isoformat() if wanted.to else 'its end'}, by which it"
                    " would be known to reach that far. Without --to it is restored as far as it goes.",
                    reason="backup_log_missing",
                ) from None
            raise Unavailable(f"PostgreSQL did not recover: {error}", reason="restore_failed") from error

    # ------------------------------------------------------------------ after the recovery

    async def _settle(
        self, postgres: EmbeddedPostgres, layout: Layout, manifest: Manifest, sealer: Sealer, wanted: Wanted
    ) -> tuple[str, list[ZoneState], int]:
        await _adopt(postgres, manifest)
        await postgres.ensure_login(ADMIN)
        async with await AsyncConnection.connect(postgres.url("postgres"), autocommit=True) as connection:
            row = await (await connection.execute("SELECT pg_current_wal_lsn()::text")).fetchone()
        assert row is not None
        ended = str(row[0])
        database = Database(postgres.url(DATABASE), pool_size=2)
        recorder = Recorder(self._clock, Ids())
        try:
            async with database.begin() as tx:
                await _require_keys(tx, sealer)
                zones = [each["name"] for each in await tx.all("SELECT name FROM zones ORDER BY name")]
                published = await self._published(tx, zones, manifest, wanted.heads)
                states = [await self._state(tx, zone, published.get(zone)) for zone in zones]
                lost = [each for each in states if each.lost]
                if lost and not wanted.accept_loss:
                    told = ", ".join(f"{each.zone} {each.size} of {each.published}" for each in lost)
                    raise BailiwickError(
                        f"Events under published heads would be missing ({told}). With --accept-loss it is restored,"
                        " the loss is told, and no head is signed for these zones.",
                        reason="restore_behind_head",
                    )
                for each in lost:
                    await note_loss(tx, published[each.zone], each.size, self._clock.now())
                sessions = await self._end_sessions(tx, wanted.by)
                await self._record(tx, recorder, manifest, wanted, ended, states)
            for head in published.values():
                HeadFiles(layout.heads).store(head)
        finally:
            await database.close()
        return ended, states, sessions

    async def _end_sessions(self, tx: Transaction, by: str) -> int:
        """End and revoke every session: what was revoked after the moment that came back is not known any more."""
        now = self._clock.now()
        rows = await tx.all(
            "UPDATE sessions SET ended_at = :now, end_reason = 'restored' WHERE ended_at IS NULL AND expires_at > :now"
            " RETURNING id, zone, expires_at",
            now=now,
        )
        for row in rows:
            await tx.run(
                "INSERT INTO revocations (revision, zone, kind, key, reason, revoked_by, revoked_at, expires_at)"
                " VALUES (:revision, :zone, 'session', :key, 'restored', :by, :now, :expires)",
                revision=await feed.announce(tx, row["zone"], "revocation", f"session/{row['id']}"),
                zone=row["zone"],
                key=row["id"],
                by=by,
                now=now,
                expires=row["expires_at"],
            )
        return len(rows)

    async def _published(
        self, tx: Transaction, zones: Sequence[str], manifest: Manifest, folder: Path | None
    ) -> dict[str, Head]:
        """The newest genuine head known of each zone: of the manifest, of the store, of ``folder``."""
        notes: list[tuple[str, bytes]] = [(each.zone, each.note.encode()) for each in manifest.heads]
        stored = [match for match in map(_HEAD.fullmatch, await self._store.names("heads")) if match]
        notes += [(match[1], await self._bytes(match[0])) for match in stored]
        notes += _heads_in(folder) if folder is not None else []
        found: dict[str, Head] = {}
        for zone, note in notes:
            if zone not in zones:
                continue
            try:
                head = Head.read(zone, note)
            except ValueError:
                raise Damaged(f"A published head of the zone {zone} cannot be read.") from None
            if (why := head.false_because((await ledger_keys(tx, zone)).values())) is not None:
                raise Damaged(f"A published head of the zone {zone} is not genuine: {why}.")
            if zone not in found or head.order > found[zone].order:
                found[zone] = head
        return found

    async def _state(self, tx: Transaction, zone: str, head: Head | None) -> ZoneState:
        size = await tree_size(tx, zone)
        if head is None:
            return ZoneState(zone, size, 0)
        if (ended := await ended_by(tx, head)) is not None:  # what that head covers was lost before, by agreement
            if (why := ended.contradicts(head)) is not None:
                raise Damaged(f"The ledger of {zone}: {why}.")
            return ZoneState(zone, size, ended.kept)
        if head.size <= size:
            try:
                same = await root_at(tx, zone, head.size) == head.root
            except MissingHashes:
                same = False
            if not same:
                raise Damaged(f"The ledger of {zone} contradicts the head published over {head.size} events.")
        return ZoneState(zone, size, head.size)

    async def _record(
        self,
        tx: Transaction,
        recorder: Recorder,
        manifest: Manifest,
        wanted: Wanted,
        ended: str,
        states: Sequence[ZoneState],
    ) -> None:
        to = wanted.to.isoformat() if wanted.to is not None else "latest"
        await tx.run(
            "INSERT INTO backup_restores (id, backup, place, to_moment, ended_lsn, restored_at, restored_by, heads)"
            " VALUES (:id, :backup, :place, :to, :ended, :now, :by, cast(:heads AS jsonb))",
            id=Ids()(),
            backup=manifest.id,
            place=self._store.place,
            to=to,
            ended=ended,
            now=self._clock.now(),
            by=wanted.by,
            heads=json.dumps({each.zone: {"size": each.size, "published": each.published} for each in states}),
        )
        for each in states:
            await recorder.record(
                tx,
                codes.BACKUP_RESTORED,
                "success",
                Context(each.zone, Actor(user=wanted.by)),
                subject=Subject(id=manifest.id, type="backup"),
                place=self._store.place,
                to=to,
                at=ended,
                size=each.size,
                published=each.published,
                lost=each.lost,
            )

    # ------------------------------------------------------------------ objects

    async def _fetch(self, each: Object, target: Path) -> Path:
        try:
            found = await self._store.fetch(each.name, target)
        except ObjectMissing:
            raise Damaged(f"{each.name} is gone from {self._store.place}.") from None
        if (found.size, found.sha256.hex()) != (each.size, each.sha256):
            raise Damaged(f"{each.name} is not what the manifest says.")
        return target

    async def _object(self, each: Object) -> bytes:
        path = self._staging / "object"
        try:
            return (await self._fetch(each, path)).read_bytes()
        finally:
            path.unlink(missing_ok=True)

    async def _bytes(self, name: str) -> bytes:
        path = self._staging / "object"
        try:
            await self._store.fetch(name, path)
            return path.read_bytes()
        except ObjectMissing:
            raise NotFound(f"{name} is gone from {self._store.place}.") from None
        finally:
            path.unlink(missing_ok=True)


# ---------------------------------------------------------------------- files


def _in_use(target: Path) -> str:
    lock = DataDirLock(target / "lock")
    if not lock.path.exists():
        return ""
    try:
        lock.acquire(target)
    except AlreadyRunning as error:
        return f" An installation runs there (pid {error.holder.get('pid')})."
    except OSError:
        return ""
    lock.release()
    return ""


def _heads_in(folder: Path) -> list[tuple[str, bytes]]:
    return [(path.stem, path.read_bytes()) for path in sorted(folder.glob("*.head"))]


def _ids_of(lines: Sequence[str]) -> list[str]:
    return [line.split()[0] for line in lines if len(line.split()) == 2 and len(line.split()[0]) <= 64]


class _Joined(io.RawIOBase):
    """The unzipped bytes of files, one behind the other; each is removed when it was read."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._left = list(parts)
        self._now: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._now is not None or self._left:
            if self._now is None:
                self._now = cast(IO[bytes], gzip.open(self._left[0], "rb"))  # noqa: SIM115
            got = self._now.read(len(buffer))
            if got:
                buffer[: len(got)] = got
                return len(got)
            self._now.close()
            self._now = None
            self._left.pop(0).unlink()
        return 0


def _unpack(parts: Sequence[Path], cluster: Path) -> None:
    cluster.mkdir(mode=0o700, parents=True)
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Joined(parts), 1 << 20), mode="r|") as tar:
            tar.extractall(cluster, filter="data")
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise Damaged(f"The cluster cannot be unpacked: {error}.") from None


def _unzip(source: Path, target: Path) -> None:
    try:
        with gzip.open(source, "rb") as reading, target.open("wb") as writing:
            shutil.copyfileobj(reading, writing, 1 << 20)
    except (EOFError, gzip.BadGzipFile) as error:
        raise Damaged(f"{source.name} cannot be unzipped: {error}.") from None


def _prepare_recovery(cluster: Path, log: Path, to: datetime | None) -> None:
    """Have the server replay what is in ``log`` when it starts, and nobody but us log in meanwhile."""
    # the shell's quoting first, then the server's: %f and %p are its own, and in a path % is doubled
    command = f'cp {shlex.quote(str(log)).replace("%", "%%")}/%f "%p"'
    settings = {"restore_command": command, "hot_standby": "off", "archive_mode": "off"}
    if to is not None:
        settings |= {
            "recovery_target_time": to.astimezone(UTC).isoformat(),
            "recovery_target_action": "promote",
        }
    lines = [f"{name} = '" + value.replace("'", "''") + "'\n" for name, value in settings.items()]
    for name in ("standby.signal", "postmaster.pid", "postmaster.opts"):
        (cluster / name).unlink(missing_ok=True)
    for name in ("postgresql.conf", "pg_ident.conf"):
        (cluster / name).touch()
    (cluster / "postgresql.auto.conf").write_text("".join(lines))
    (cluster / "pg_hba.conf").write_text(_TRUST)  # the socket stands in a directory of our own
    (cluster / "recovery.signal").touch()


async def _adopt(postgres: EmbeddedPostgres, manifest: Manifest) -> None:
    """Make the cluster of somebody else's server one of ours: our administrator, and our name for the database.

    Nobody but us can connect yet, and who does needs no password. Raises ``restore_failed`` where no login gets in.
    """
    if manifest.login in ("", ADMIN) and manifest.database in ("", DATABASE):
        return
    try:
        theirs = manifest.login or ADMIN
        connect = postgres.url(manifest.database or DATABASE, user=theirs)
        async with await AsyncConnection.connect(connect, autocommit=True) as connection:
            cursor = await connection.execute(
                "SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid"
            )
            masters = [str(row[0]) for row in await cursor.fetchall()]
        # a database is not renamed by who is connected to it
        connect = postgres.url("postgres", user=ADMIN if ADMIN in masters else masters[0])
        async with await AsyncConnection.connect(connect, autocommit=True) as connection:
            if ADMIN not in masters:
                await connection.execute(sql.SQL("CREATE ROLE {} SUPERUSER LOGIN").format(sql.Identifier(ADMIN)))
            if manifest.database not in ("", DATABASE):
                renamed = sql.SQL("ALTER DATABASE {} RENAME TO {}")
                names = sql.Identifier(manifest.database), sql.Identifier(DATABASE)
                await connection.execute(renamed.format(*names))
    except (PsycopgError, IndexError) as error:
        raise Unavailable(f"The cluster of {manifest.host} lets nobody in: {error}", reason="restore_failed") from error


def _finish(cluster: Path) -> None:
    """Take away what only the recovery needed; from now on every login needs its password."""
    (cluster / "postgresql.auto.conf").write_text("")
    (cluster / "pg_hba.conf").write_text(_SCRAM)
    for name in ("backup_label.old", "tablespace_map.old", "backup_manifest"):
        (cluster / name).unlink(missing_ok=True)


async def _require_keys(tx: Transaction, sealer: Sealer) -> None:
    """The keys given open the signing keys that came back. Raises ``backup_key_wrong``."""
    for row in await tx.all("SELECT zone, kid, private_sealed FROM zone_keys"):
        sealed = bytes(row["private_sealed"])
        if not sealed:
            continue
        try:
            sealer.open(sealed, key_aad(row["zone"], row["kid"]))
        except SealError:
            raise WrongKey(
                f"The key {row['kid']} of the zone {row['zone']} is sealed by {Sealer.kek_of(sealed)}, which is not"
                " among the keys given: the key-encryption key was rotated. Bring the keys of that time too."
            ) from None
