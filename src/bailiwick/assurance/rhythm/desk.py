"""What is asked about the rhythm: ceremonies, their dates, packs and minutes, the calendar."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.books import Books
from bailiwick.assurance.checkpoints.golive import newest_go_lives
from bailiwick.assurance.rhythm import agenda, minutes, packs
from bailiwick.assurance.rhythm import occurrences as dates
from bailiwick.assurance.rhythm.ceremonies import CEREMONY, Ceremony, in_force, occurrences
from bailiwick.assurance.rhythm.occurrences import Occurrence, utc
from bailiwick.assurance.rhythm.packs import Pack
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.rfc5545 import calendar

AHEAD = timedelta(days=400)


class RhythmDesk:
    """Answers; changes nothing."""

    def __init__(self, database: Database, clock: Clock, books: Books) -> None:
        self._database = database
        self._clock = clock
        self._books = books

    async def ceremonies(self, zone: str) -> list[dict[str, Any]]:
        """Every ceremony in force with when it is next, the soonest first."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            book = await self._books.current(tx, zone)
            lives = {name: live.at for name, live in (await newest_go_lives(tx, zone)).items()}
        found = []
        for name, ceremony in in_force(book).items():
            following = _next(ceremony, now, lives)
            version = book.documents[(CEREMONY.name, name)].version
            found.append({"name": name, "version": version, **ceremony_document(ceremony), "next_at": following})
        return sorted(found, key=lambda each: (each["next_at"] is None, each["next_at"] or "", each["name"]))

    async def ceremony(self, zone: str, name: str) -> dict[str, Any]:
        """One of them; raises ``not_found``."""
        for each in await self.ceremonies(zone):
            if each["name"] == name:
                return each
        raise NotFound(f"There is no ceremony {name} in force.")

    async def list(
        self,
        zone: str,
        *,
        ceremony: str = "",
        state: str = "",
        since: datetime | None = None,
        until: datetime | None = None,
        before: str = "g",
        limit: int = 100,
    ) -> list[Occurrence]:
        """Dated occurrences, newest first."""
        async with self._database.begin() as tx:
            return await dates.listed(
                tx, zone, ceremony=ceremony, state=state, since=since, until=until, before=before, limit=limit
            )

    async def show(self, zone: str, identifier: str) -> dict[str, Any]:
        """One occurrence with its minutes and signature; raises ``not_found``."""
        async with self._database.begin() as tx:
            occurrence = await dates.find(tx, zone, identifier)
            try:
                written = (await minutes.newest(tx, identifier)).to_json()
            except NotFound:
                written = None
            signed = await minutes.signature(tx, identifier)
            try:
                pack: Mapping[str, Any] | None = pack_document(await packs.load(tx, identifier), whole=False)
            except NotFound:
                pack = None
        return {
            **occurrence.document(),
            "pack": pack,
            "minutes": written,
            "signature": signed.to_json() if signed is not None else None,
        }

    async def pack(self, zone: str, identifier: str) -> Pack:
        """The pack of an occurrence; raises ``not_found``."""
        async with self._database.begin() as tx:
            await dates.find(tx, zone, identifier)
            return await packs.load(tx, identifier)

    async def verify(self, zone: str, identifier: str) -> dict[str, Any]:
        """Whether the pack, built again from what is stored, is the pack that was built; raises ``not_found``."""
        async with self._database.begin() as tx:
            occurrence = await dates.find(tx, zone, identifier)
            pack = await packs.load(tx, identifier)
            again = await packs.rebuilt(tx, occurrence, pack)
        intact = hashlib.sha256(pack.body).hexdigest() == pack.sha256
        return {"sha256": pack.sha256, "rebuilt": again, "holds": intact and again == pack.sha256}

    async def calendar(self, zone: str, days: int) -> tuple[bytes, str]:
        """The calendar as iCalendar, and its digest in hexadecimal."""
        async with self._database.begin() as tx:
            book = await self._books.current(tx, zone)
            entries = await agenda.entries(tx, zone, book, self._clock.now(), days)
        body = calendar(f"Bailiwick {zone}", entries).encode()
        return body, hashlib.sha256(body).hexdigest()


def ceremony_document(ceremony: Ceremony) -> dict[str, Any]:
    """The JSON form of a ceremony's definition."""
    return ceremony.model_dump(exclude_none=True)


def pack_document(pack: Pack, *, whole: bool = True) -> dict[str, Any]:
    """The JSON form of a pack: what it says where it is ``whole``, and by what it is told from others."""
    told: dict[str, Any] = {
        "occurrence": pack.occurrence,
        "sha256": pack.sha256,
        "verdict": str(pack.verdict),
        "built_at": utc(pack.built_at),
        "built_by": pack.built_by,
    }
    return {**told, "pack": pack.document} if whole else told


def _next(ceremony: Ceremony, now: datetime, lives: Mapping[str, datetime]) -> str | None:
    for span in (timedelta(days=8), AHEAD):
        if found := occurrences(ceremony, now, now + span, lives.get(ceremony.platform)):
            return utc(found[0])
    return None
