"""Packs that people ask for over the API: a row is left, the work role builds the file, and it is kept for a week.

The file stands on the machine that built it, in a private directory. Building goes on after a crash: what was begun is
begun again, three times at most.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import structlog

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.ledger import NoLedgerKey
from bailiwick.evidence.pack import PackBuilder, Progress, Selection
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import SealError
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, NotFound, Unavailable
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.jobs import make_due
from bailiwick.kernel.modes import frozen_zones

JOB = "build-evidence-packs"
KEPT = timedelta(days=7)
MOST_WAITING = 20
MOST_ATTEMPTS = 3
_TOLD_EVERY_S = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PackRequest:
    """A pack asked for. ``state``: requested, building, built, failed (``error`` says why) or expired; while it is
    building, ``done`` of ``expected`` events are in ``section``."""

    id: str
    zone: str
    selection: Mapping[str, Any]
    requested_by: str
    requested_at: datetime
    state: str
    attempts: int
    host: str
    events: int | None
    bytes: int | None
    sha256: str | None
    error: str
    finished_at: datetime | None
    expires_at: datetime | None
    section: str
    done: int
    expected: int

    def to_json(self) -> dict[str, Any]:
        """As the API answers it."""
        told = {name: getattr(self, name) for name in self.__slots__ if name not in {"zone", "attempts", "host"}}
        return {
            name: value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
            for name, value in told.items()
        }


class PackRequests:
    """The list of packs asked for. ``directory`` holds the files of this machine, which is called ``host``."""

    def __init__(
        self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, directory: Path, host: str
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._directory = directory
        self._host = host

    async def ask(self, tx: Transaction, context: Context, selection: Selection, *, kept: bool = False) -> PackRequest:
        """Have the pack of ``selection`` built; ``kept``: it does not end by itself after a week.

        Raises ``invalid_request``, and ``conflict`` when too many wait.
        """
        selection.checked()
        zone, now, identifier = context.zone, self._clock.now(), self._ids()
        await tx.run("SELECT pg_advisory_xact_lock(hashtext('evidence packs'), hashtext(:zone))", zone=zone)
        waiting = await tx.value(
            "SELECT count(*) FROM evidence_packs WHERE zone = :zone AND state IN ('requested', 'building')", zone=zone
        )
        if waiting >= MOST_WAITING:
            raise Conflict(f"{waiting} packs of this zone wait to be built; ask again when some are.")
        await tx.run(
            "INSERT INTO evidence_packs (id, zone, selection, context, requested_by, requested_at, kept)"
            " VALUES (:id, :zone, cast(:selection AS jsonb), cast(:context AS jsonb), :by, :now, :kept)",
            kept=kept,
            id=identifier,
            zone=zone,
            selection=json.dumps(selection.to_json()),
            context=msgspec.json.encode(context).decode(),
            by=context.actor.user or context.actor.application,
            now=now,
        )
        await make_due(tx, JOB, now)
        await self._recorder.record(
            tx,
            codes.EVIDENCE_PACK_REQUESTED,
            "success",
            context,
            subject=Subject(id=identifier, type="evidence-pack"),
            requests=len(selection.requests),
            windows=len(selection.windows),
            inputs=selection.inputs,
        )
        return await self.get(tx, zone, identifier)

    async def get(self, tx: Transaction, zone: str, identifier: str) -> PackRequest:
        """One of them; raises :class:`NotFound`."""
        row = await tx.one(f"{_SELECT} WHERE zone = :zone AND id = :id", zone=zone, id=identifier)
        if row is None:
            raise NotFound("There is no evidence pack by that id.")
        return _request(row)

    async def list(self, tx: Transaction, zone: str, *, after: str, limit: int) -> list[PackRequest]:
        """Those asked for, newest first, from behind id ``after`` on."""
        rows = await tx.all(
            f"{_SELECT} WHERE zone = :zone AND id < :after ORDER BY id DESC LIMIT :limit",
            zone=zone,
            after=after,
            limit=limit,
        )
        return [_request(row) for row in rows]

    def file_of(self, request: PackRequest) -> Path:
        """The file of a pack. Raises ``pack_not_built``, ``pack_elsewhere``, or ``not_found`` once it expired."""
        if request.state == "expired":
            raise NotFound("The evidence pack was kept for a week, and is gone.")
        if request.state != "built":
            raise Conflict(reason="pack_not_built", state=request.state)
        path = self._path(request.id)
        if path.is_file():
            return path
        if request.host != self._host:
            raise Conflict(reason="pack_elsewhere", host=request.host)
        raise NotFound("The file of the evidence pack is gone.")

    # ------------------------------------------------------------------ the work role's part

    async def build_waiting(self, builder: PackBuilder) -> dict[str, int]:
        """Build every pack that waits and remove those that were kept long enough; answers how many.

        One process at a time: what it finds half done was left by one that ended.
        """
        await asyncio.to_thread(self._prepare)
        done = {"built": 0, "failed": 0, "expired": await self._expire()}
        while (claimed := await self._claim()) is not None:
            done["built" if await self._build(builder, *claimed) else "failed"] += 1
        return done

    async def _claim(self) -> tuple[PackRequest, Context] | None:
        async with self._database.begin() as tx:
            row = await tx.one(
                "UPDATE evidence_packs SET state = 'building', attempts = attempts + 1, host = :host WHERE id ="  # noqa: S608
                " (SELECT id FROM evidence_packs WHERE state IN ('requested', 'building') ORDER BY requested_at, id"
                f"  LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING context, {_COLUMNS}",
                host=self._host,
            )
        if row is None:
            return None
        told = dict(row)
        context = msgspec.convert(told.pop("context"), Context)
        return PackRequest(**told), context

    async def _build(self, builder: PackBuilder, request: PackRequest, context: Context) -> bool:
        if request.attempts > MOST_ATTEMPTS:
            await self._failed(request, context, "every process that built it ended")
            return False
        try:
            selection = Selection.from_json(request.zone, request.selection)
            async with self._telling(request.id) as progress:
                built = await builder.build(
                    selection, self._path(request.id), context, identifier=request.id, progress=progress
                )
        except Unavailable:
            raise  # the job runs again
        except (BailiwickError, NoLedgerKey, SealError) as error:
            await self._failed(request, context, str(error))
            return False
        except OSError as error:
            await self._failed(request, context, f"the file cannot be written: {error.strerror}")
            return False
        now = self._clock.now()
        async with self._database.begin() as tx:
            await tx.run(
                "UPDATE evidence_packs SET state = 'built', sha256 = :sha256, bytes = :bytes, events = :events,"
                " finished_at = :now,"
                " expires_at = CASE WHEN kept THEN NULL ELSE :expires_at END WHERE id = :id",
                id=request.id,
                sha256=built.sha256,
                bytes=built.bytes,
                events=built.events,
                now=now,
                expires_at=now + KEPT,
            )
        return True

    @asynccontextmanager
    async def _telling(self, identifier: str) -> AsyncIterator[Progress]:
        """Meanwhile the row says how far it is, once a second."""
        now: list[tuple[str, int, int]] = []

        def progress(section: str, done: int, expected: int) -> None:
            now[:] = [(section, done, expected)]

        async def tell() -> None:
            while True:
                await asyncio.sleep(_TOLD_EVERY_S)
                if now:
                    section, done, expected = now.pop()
                    with suppress(Unavailable):  # the next one may be stored
                        async with self._database.begin() as tx:
                            await tx.run(
                                "UPDATE evidence_packs SET section = :section, done = :done, expected = :expected"
                                " WHERE id = :id AND state = 'building'",
                                section=section,
                                done=done,
                                expected=expected,
                                id=identifier,
                            )

        telling = asyncio.ensure_future(tell())
        try:
            yield progress
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _failed(self, request: PackRequest, context: Context, why: str) -> None:
        log.error("evidence pack failed", pack=request.id, zone=request.zone, why=why)
        async with self._database.begin() as tx:
            await tx.run(
                "UPDATE evidence_packs SET state = 'failed', error = :why, finished_at = :now WHERE id = :id",
                id=request.id,
                why=why[:500],
                now=self._clock.now(),
            )
            subject = Subject(id=request.id, type="evidence-pack")
            await self._recorder.record(
                tx, codes.EVIDENCE_PACK_FAILED, "failure", context, subject=subject, why=why[:500]
            )

    async def _expire(self) -> int:
        async with self._database.begin() as tx:
            rows = await tx.all(
                "UPDATE evidence_packs SET state = 'expired' WHERE state = 'built' AND expires_at < :now"
                " AND host = :host AND zone <> ALL(:frozen) RETURNING id",
                frozen=[*await frozen_zones(tx)],
                now=self._clock.now(),
                host=self._host,
            )
        for row in rows:
            self._path(row["id"]).unlink(missing_ok=True)
        return len(rows)

    def _prepare(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._directory.glob(".*.new"):
            left.unlink(missing_ok=True)

    def _path(self, identifier: str) -> Path:
        return self._directory / f"{identifier}.zip"


_COLUMNS = (
    "id, zone, selection, requested_by, requested_at, state, attempts, host, events, bytes, sha256, error,"
    " finished_at, expires_at, section, done, expected"
)
_SELECT = f"SELECT {_COLUMNS} FROM evidence_packs"  # noqa: S608 - our own columns


def _request(row: Row) -> PackRequest:
    return PackRequest(**row)
