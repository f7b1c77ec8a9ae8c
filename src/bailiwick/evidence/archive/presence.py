"""What became of positions that have no row: sealed and provable, ended by decision, or missing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import msgspec

from bailiwick.evidence import codes
from bailiwick.evidence.archive.parquet import Row
from bailiwick.evidence.archive.proof import Sealed, Unproven, check_digest, load_manifests
from bailiwick.evidence.archive.reader import ColdDamaged, ColdEvents, ColdObject
from bailiwick.evidence.archive.windows import Window
from bailiwick.evidence.events import decode
from bailiwick.evidence.stored import COLUMNS, body_of
from bailiwick.kernel.db import Database
from bailiwick_verify.note import VerifierKey


@dataclass(frozen=True, slots=True)
class Gone:
    """Positions ``first`` to ``last`` were purged by two persons, and the ledger says so."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Attested:
    """Positions ``first`` to ``last`` lie in object storage alone, which holds the very object of a signed manifest."""

    first: int
    last: int


class Presence:
    """Tells it for one zone. ``keys`` are the keys that manifests must be signed with."""

    def __init__(self, database: Database, cold: ColdEvents, zone: str, keys: Sequence[VerifierKey]) -> None:
        self._database = database
        self._cold = cold
        self._zone = zone
        self._keys = keys
        self._manifests: dict[Window, list[Sealed]] | None = None

    async def between(self, first: int, end: int) -> AsyncIterator[Row | Gone | Attested | str]:
        """What stands for the positions ``first`` to ``end - 1``, in order: events with their exact bytes, stretches
        that are gone, and sentences about what does not hold. What is in none of these is missing.

        What is only in object storage is not fetched: its checksum there is compared with the signed manifest, whose
        events were compared with the tree when they were sealed. ``verify_archive`` reads all of it again.

        Raises ``archive_unavailable``.
        """
        gone = await self._tombstones(first, end)
        parts = await self._cold.covering(self._zone, first, end - 1)
        found: list[Gone | ColdObject] = [*gone, *parts]
        found.sort(key=lambda item: item.first if isinstance(item, Gone) else item.first_seq)
        for item in found:
            if isinstance(item, Gone):
                yield item
                continue
            if (
                why := await self._unsigned(Window(item.window_start), item.name, item.digest.sha256.hex())
            ) is not None:
                yield why
                continue
            try:
                if not item.local and self._cold.remote is not None:
                    await check_digest(self._cold.remote, item)
                    yield Attested(item.first_seq, item.last_seq)
                    continue
                async for row in self._cold.rows(item):
                    if first <= row.seq < end:
                        yield row
            except (ColdDamaged, Unproven) as error:
                yield str(error)

    async def _unsigned(self, window: Window, name: str, sha256: str) -> str | None:
        """Why no signed manifest lists the object, None when one does."""
        try:
            manifests = await self._signed()
        except Unproven as error:
            return str(error)
        for sealed in manifests.get(window, ()):
            if any(part.name == name and part.sha256 == sha256 for part in sealed.manifest.parts):
                return None
        return f"{name}: no signed manifest lists the object"

    async def _signed(self) -> dict[Window, list[Sealed]]:
        if self._manifests is None:
            async with self._database.begin() as tx:
                manifests = await load_manifests(tx, self._zone, self._keys)
            self._manifests = {}
            for sealed in manifests:
                self._manifests.setdefault(sealed.window, []).append(sealed)
        return self._manifests

    async def _tombstones(self, first: int, end: int) -> list[Gone]:
        """The stretches that are gone, as signed manifests have them, where the ledger holds the event of the purge."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT window_start, event_id FROM ledger.tombstones WHERE zone = :zone AND last_seq >= :first"
                " AND first_seq < :end ORDER BY first_seq",
                zone=self._zone,
                first=first,
                end=end,
            )
        told: dict[str, tuple[int, int] | None] = {}
        gone = []
        for row in rows:
            event_id = str(row["event_id"])
            if event_id not in told:
                told[event_id] = await self._purge_event(event_id)
            stretch = told[event_id]
            if stretch is None:
                continue
            try:
                manifests = (await self._signed()).get(Window(row["window_start"]), [])
            except Unproven:
                continue
            gone += [
                Gone(part.first, part.last)
                for sealed in manifests
                for part in sealed.manifest.parts
                if stretch[0] <= part.first and part.last <= stretch[1] and part.last >= first and part.first < end
            ]
        return gone

    async def _purge_event(self, event_id: str) -> tuple[int, int] | None:
        """The positions that the event of a purge names, None where the ledger has no such event."""
        async with self._database.begin() as tx:
            # it waits for the sequencer at first; as a row or sealed it is checked as every event is
            row = await tx.one(
                f"SELECT {COLUMNS} FROM ledger.events WHERE id = CAST(:id AS uuid) AND zone = :zone LIMIT 1",  # noqa: S608
                id=event_id,
                zone=self._zone,
            )
            body = body_of(row) if row is not None else None
            body = body or await tx.value(
                "SELECT event FROM outbox WHERE zone = :zone AND position(:text IN event) > 0 LIMIT 1",
                zone=self._zone,
                text=f'"id":"{event_id}"'.encode(),
            )
        if body is None:
            sealed = await self._cold.find(self._zone, event_id)
            body = sealed.body if sealed is not None else None
        try:
            event = decode(bytes(body)) if body is not None else None
        except msgspec.MsgspecError:
            return None
        if event is None or event.code != codes.ARCHIVE_PURGED.code or event.id != event_id:
            return None
        first, last = event.details.get("first"), event.details.get("last")
        return (first, last) if isinstance(first, int) and isinstance(last, int) else None
