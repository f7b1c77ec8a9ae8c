"""Backups: making them one at a time, knowing them, letting them go when their time is up."""

from __future__ import annotations

import io
import json
import platform
import secrets
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import structlog

from bailiwick import __version__
from bailiwick.evidence import codes
from bailiwick.evidence.archive.store import ObjectMissing, ObjectStore, digest_of_bytes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.ledger import HeadFiles
from bailiwick.handover.backups.escrow import seal_to
from bailiwick.handover.backups.lives import Keep, expired, log_needed_from, tiers
from bailiwick.handover.backups.manifest import (
    FORMAT,
    Damaged,
    Manifest,
    Object,
    ZoneHead,
    decode,
    encode,
    folder_of,
    ids_among,
    manifest_name,
    new_id,
)
from bailiwick.handover.backups.segments import Segment, lsn, stored_files
from bailiwick.handover.backups.server import Server
from bailiwick.handover.backups.taking import PART, take_base
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import KekFile
from bailiwick.kernel.db import Database, Row
from bailiwick.kernel.errors import BailiwickError, NotFound, Unavailable

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Vault:
    """What a backup takes along beside the database.

    ``heads``: the published heads; ``kek``: the file of key-encryption keys; ``escrow_key``: the public key they are
    sealed to, None where the operator keeps them himself; ``configuration``: further files, by the name they are kept
    under, such as a certificate's key.
    """

    heads: HeadFiles
    kek: KekFile
    escrow_key: str | None
    settings: Mapping[str, Any]
    configuration: Mapping[str, Path]


class Backups:
    """Backups of the database of this installation, in one store. ``work``: a directory for what comes and goes.

    ``fault`` is called with the name of every step; the tests die there.
    """

    def __init__(
        self,
        database: Database,
        server: Server,
        store: ObjectStore,
        vault: Vault,
        clock: Clock,
        recorder: Recorder,
        work: Path,
        *,
        part_bytes: int = PART,
        fault: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._database = database
        self._server = server
        self.store = store
        self._vault = vault
        self._clock = clock
        self._recorder = recorder
        self._work = work
        self._part_bytes = part_bytes
        self._fault = fault

    # ------------------------------------------------------------------ making

    async def take(self, context: Context, by: str) -> Manifest:
        """Make a backup now. Raises ``backup_running``, ``backup_failed`` and what the store refuses.

        It exists from the moment its manifest is stored; whatever dies before leaves objects that no manifest names,
        which the next one removes.
        """
        async with self._server.alone(hold_log=True):
            await self._bury_dead()
            identifier = new_id(self._clock.now(), secrets.token_hex(3))
            await self._begin(identifier, by)
            try:
                manifest, sha256 = await self._make(identifier)
            except BaseException as error:
                await self._failed(context, identifier, error)
                raise
            await self._complete(context, manifest, sha256)
            return manifest

    async def _make(self, identifier: str) -> tuple[Manifest, str]:
        self._work.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder, began = folder_of(identifier), self._clock.now()
        with TemporaryDirectory(prefix="backup-", dir=self._work) as directory:
            work = Path(directory)
            facts = await self._server.facts()
            # read before the cluster is: what they cover is in it
            heads = self._heads(await self._zones())
            self._fault("begun")
            taken = await take_base(
                self._server, self.store, folder, work, part_bytes=self._part_bytes, fault=self._fault
            )
            sealer, keks = self._vault.kek.load(), tuple(self._vault.kek.ids())
            sealed = sealer.seal(self._configuration(), f"backup/{identifier}".encode())
            configuration = await self._put(f"{folder}/configuration.sealed", sealed, work)
            escrow = None
            if self._vault.escrow_key is not None:
                kept = seal_to(self._vault.escrow_key, self._vault.kek.path.read_bytes(), identifier)
                escrow = await self._put(f"{folder}/keys.sealed", kept, work)
            self._fault("keys stored")
            manifest = Manifest(
                FORMAT, identifier, __version__, platform.node(), facts.version, facts.system, facts.segment_bytes,
                taken.timeline, taken.start, taken.stop, began.isoformat(), self._clock.now().isoformat(),
                sum(part.size for part in taken.parts), taken.parts, heads, keks, configuration, escrow,
                self._vault.escrow_key or "", self._clock.simulated, self._server.login, self._server.database,
            )  # fmt: skip
            await self._prove(manifest)
            self._fault("proven")
            body = encode(manifest)
            stored = await self._put(manifest_name(identifier), body, work)
            self._fault("manifest stored")
            return manifest, stored.sha256

    async def _prove(self, manifest: Manifest) -> None:
        """What the store holds now is what was sent to it. Raises ``backup_failed``."""
        for each in manifest.objects:
            held = await self.store.digest(each.name)
            if (held.size, held.sha256.hex()) != (each.size, each.sha256):
                raise Unavailable(f"{each.name} is not what was stored.", reason="backup_failed")

    def _heads(self, zones: Sequence[str]) -> tuple[ZoneHead, ...]:
        found = []
        for zone in zones:
            head = self._vault.heads.load(zone)
            if head is not None:
                found.append(ZoneHead(zone, head.size, head.root.hex(), head.note.decode()))
        return tuple(found)

    def _configuration(self) -> bytes:
        """A tar of the settings and of the files that belong to them; it holds secrets, and is sealed."""
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w") as tar:
            files = {name: path.read_bytes() for name, path in self._vault.configuration.items() if path.is_file()}
            files["settings.json"] = json.dumps(self._vault.settings, indent=1, default=str).encode()
            for name, body in sorted(files.items()):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(body), 0o600
                tar.addfile(entry, io.BytesIO(body))
        return held.getvalue()

    async def _put(self, name: str, body: bytes, work: Path) -> Object:
        path = work / "object"
        try:
            path.write_bytes(body)
            digest = digest_of_bytes(body)
            await self.store.put(name, path, digest)
        except OSError as error:
            raise Unavailable(f"The backup cannot be written: {error.strerror}.", reason="backup_failed") from error
        finally:
            path.unlink(missing_ok=True)
        return Object(name, digest.size, digest.sha256.hex())

    # ------------------------------------------------------------------ rows

    async def _zones(self) -> list[str]:
        async with self._database.begin() as tx:
            return [row["name"] for row in await tx.all("SELECT name FROM zones ORDER BY name")]

    async def _begin(self, identifier: str, by: str) -> None:
        async with self._database.begin() as tx:
            await tx.run(
                "INSERT INTO backups (id, state, place, started_at, asked_by)"
                " VALUES (:id, 'running', :place, :now, :by)",
                id=identifier,
                place=self.store.place,
                now=self._clock.now(),
                by=by,
            )

    async def _bury_dead(self) -> None:
        """Whoever made these is dead, since we are alone. One whose manifest is there was whole all the same."""
        async with self._database.begin() as tx:
            dead = [row["id"] for row in await tx.all("SELECT id FROM backups WHERE state = 'running'")]
        for identifier in dead:
            found = await self._manifest_of(identifier)
            if found is None:
                await self._remove(identifier)
                await self._end(identifier, "failed", error="the process that made it ended")
            else:
                manifest, sha256 = found
                await self._complete(Context("default"), manifest, sha256)

    async def _complete(self, context: Context, manifest: Manifest, sha256: str) -> None:
        async with self._database.begin() as tx:
            await tx.run(
                "UPDATE backups SET state = 'complete', finished_at = :at, bytes = :bytes, start_lsn = :start,"
                " stop_lsn = :stop, timeline = :timeline, manifest_sha256 = :sha256, heads = cast(:heads AS jsonb)"
                " WHERE id = :id",
                id=manifest.id,
                at=manifest.finished,
                bytes=manifest.bytes,
                start=manifest.start,
                stop=manifest.stop,
                timeline=manifest.timeline,
                sha256=sha256,
                heads=json.dumps({each.zone: each.size for each in manifest.heads}),
            )
            await self._recorder.record(
                tx,
                codes.BACKUP_TAKEN,
                "success",
                context,
                subject=Subject(id=manifest.id, type="backup"),
                place=self.store.place,
                bytes=manifest.bytes,
                manifest=sha256,
                start=manifest.start,
                stop=manifest.stop,
                timeline=manifest.timeline,
            )

    async def _failed(self, context: Context, identifier: str, error: BaseException) -> None:
        """What is left is removed if that can be; the next backup does it otherwise, its row still ``running``."""
        reason = error.reason if isinstance(error, BailiwickError) else "backup_failed"
        told = error.detail if isinstance(error, BailiwickError) else type(error).__name__
        try:
            await self._remove(identifier)
            await self._end(identifier, "failed", error=told)
            async with self._database.begin() as tx:
                await self._recorder.record(
                    tx,
                    codes.BACKUP_TAKEN,
                    "failure",
                    context,
                    subject=Subject(id=identifier, type="backup"),
                    reasons=(reason,),
                    place=self.store.place,
                )
        except (BailiwickError, OSError):
            log.exception("remains of a failed backup are left", backup=identifier)

    async def _end(self, identifier: str, state: str, *, error: str | None = None) -> None:
        async with self._database.begin() as tx:
            await tx.run(
                "UPDATE backups SET state = :state, finished_at = coalesce(finished_at, :now), error = :error,"
                " expired_at = CASE WHEN :state = 'expired' THEN :now ELSE expired_at END WHERE id = :id",
                id=identifier,
                state=state,
                now=self._clock.now(),
                error=error[:500] if error else None,
            )

    async def _remove(self, identifier: str) -> None:
        """Remove every object of a backup, its manifest first: without it the rest is no backup."""
        await self.store.delete(manifest_name(identifier))
        for name in await self.store.names(folder_of(identifier)):
            await self.store.delete(name)

    # ------------------------------------------------------------------ knowing

    async def _manifest_of(self, identifier: str) -> tuple[Manifest, str] | None:
        try:
            return await read_manifest(self.store, identifier, self._work)
        except NotFound:
            return None

    async def listed(self, limit: int = 200) -> list[dict[str, Any]]:
        """Every attempt, newest first."""
        async with self._database.begin() as tx:
            rows = await tx.all(f"{SELECT} ORDER BY id DESC LIMIT :limit", limit=limit)
        return [shown(row) for row in rows]

    async def one(self, identifier: str) -> dict[str, Any]:
        """One of them; raises ``not_found``."""
        async with self._database.begin() as tx:
            row = await tx.one(f"{SELECT} WHERE id = :id", id=identifier)
        if row is None:
            raise NotFound("There is no backup by that id.")
        return shown(row)

    # ------------------------------------------------------------------ verifying and ending

    async def verify(self, context: Context, identifier: str) -> Manifest:
        """Read every object of a backup and compare its hash; raises ``backup_damaged``, ``not_found``."""
        manifest, _ = await read_manifest(self.store, identifier, self._work)
        damaged = [each.name for each in manifest.objects if not await _is_whole(self.store, each, self._work)]
        async with self._database.begin() as tx:
            await self._recorder.record(
                tx,
                codes.BACKUP_VERIFIED,
                "failure" if damaged else "success",
                context,
                subject=Subject(id=identifier, type="backup"),
                reasons=("backup_damaged",) if damaged else (),
                place=self.store.place,
                objects=len(manifest.objects),
            )
        if damaged:
            raise Damaged(f"{', '.join(damaged[:3])} is not what the manifest of {identifier} says.")
        return manifest

    async def expire(self, context: Context, keep: Keep) -> dict[str, Any]:
        """Remove the backups whose time is up, and the log that no backup needs any more."""
        now = self._clock.now()
        async with self._server.alone():
            await self._bury_dead()
            async with self._database.begin() as tx:
                rows = await tx.all("SELECT id, finished_at FROM backups WHERE state = 'complete'")
            taken: dict[str, datetime] = {row["id"]: row["finished_at"] for row in rows}
            tier, gone = tiers(taken), expired(taken, keep, now)
            for identifier in gone:
                await self._remove(identifier)
                await self._end(identifier, "expired")
                async with self._database.begin() as tx:
                    await self._recorder.record(
                        tx,
                        codes.BACKUP_EXPIRED,
                        "success",
                        context,
                        subject=Subject(id=identifier, type="backup"),
                        place=self.store.place,
                        tier=tier[identifier],
                    )
            oldest = log_needed_from({each: at for each, at in taken.items() if each not in gone}, keep, now)
            removed = await self._trim(oldest) if oldest is not None else 0
        return {"expired": list(gone), "log_files_removed": removed, "kept": len(taken) - len(gone)}

    async def _trim(self, oldest: str) -> int:
        """Remove the segments of the log before the backup ``oldest``."""
        manifest, _ = await read_manifest(self.store, oldest, self._work)
        first = Segment.holding(manifest.timeline, lsn(manifest.start), manifest.segment_bytes).number
        count = 0
        for each in stored_files(await self.store.names("wal")):
            if each.file.endswith(".history"):
                continue
            if Segment.named(each.file, manifest.segment_bytes).number < first:
                await self.store.delete(each.object)
                count += 1
        return count


SELECT = (
    "SELECT id, state, place, started_at, finished_at, asked_by, bytes, start_lsn, stop_lsn, timeline,"
    " manifest_sha256, heads, error, expired_at FROM backups"
)


def shown(row: Row) -> dict[str, Any]:
    """A row as plain values."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in dict(row).items()}


async def read_manifest(store: ObjectStore, identifier: str, work: Path) -> tuple[Manifest, str]:
    """The manifest of a backup and its SHA-256. Raises ``not_found`` where there is none, ``backup_damaged``."""
    work.mkdir(mode=0o700, parents=True, exist_ok=True)  # noqa: ASYNC240
    with TemporaryDirectory(prefix="manifest-", dir=work) as directory:
        path = Path(directory) / "manifest.json"
        try:
            digest = await store.fetch(manifest_name(identifier), path)
        except ObjectMissing:
            raise NotFound(f"There is no complete backup {identifier}.") from None
        return decode(path.read_bytes(), identifier), digest.sha256.hex()


async def complete_ids(store: ObjectStore) -> list[str]:
    """The complete backups of a store, oldest first."""
    return ids_among(await store.names("base"))


async def _is_whole(store: ObjectStore, each: Object, work: Path) -> bool:
    with TemporaryDirectory(prefix="verify-", dir=work) as directory:
        try:
            found = await store.fetch(each.name, Path(directory) / "object")
        except ObjectMissing:
            return False
    return (found.size, found.sha256.hex()) == (each.size, each.sha256)
