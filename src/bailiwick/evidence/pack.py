"""Evidence packs: what an auditor or an investigation needs of some requests or a stretch of time, as one signed ZIP.

Every room registers *sections* with the one builder. A pack is built in a single read-only transaction of PostgreSQL
(repeatable read), so that all its files tell of one instant, and streams to disk: memory does not grow with it. The
manifest names each file with its SHA-256 and is signed by the zone's ledger key (``bailiwick_verify.pack``), and an
``evidence.pack.built`` event holds the hash of the whole before the file gets its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row, tuple_row

from bailiwick.evidence import codes
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.events import Context, Recorder, Subject, rfc3339
from bailiwick.evidence.ledger import HeadFiles, HeadSigner, ledger_keys
from bailiwick.evidence.pack_texts import index_html, readme
from bailiwick.evidence.pack_zip import PackStream, PackZip
from bailiwick.evidence.receipts import SignedTree, newest_head
from bailiwick.evidence.tree import MissingHashes
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids, made_at
from bailiwick.kernel.verdicts import Verdict
from bailiwick_verify.checkpoint import parse_checkpoint
from bailiwick_verify.note import VerifierKey, parse_note
from bailiwick_verify.pack import FORMAT, MANIFEST, NOTE, PackStatement

MOST_REQUESTS, MOST_WINDOWS = 1000, 50
_PORTION = 2000
_MANY = 3000
_NEARBY = timedelta(minutes=5)  # events of a request are recorded no further from when its id was made
_HEAD_WITHIN_S = 5.0

Progress = Callable[[str, int, int], None]
"""Called with the section at work, how many of its events are done, and of how many."""


# ---------------------------------------------------------------------- what is asked for


@dataclass(frozen=True, slots=True)
class Window:
    """From ``since``, inclusive, to ``until``, exclusive."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Selection:
    """A named set of requests and stretches of time of one zone. ``inputs``: with what decisions were made from.

    ``subject``: what of a room's own the pack is of beside, for the section that knows (``handover/0192…``).
    """

    zone: str
    requests: tuple[UUID, ...] = ()
    windows: tuple[Window, ...] = ()
    name: str = ""
    inputs: bool = False
    subject: str = ""

    def checked(self) -> Selection:
        """The selection, if it can be one; raises :class:`InvalidRequest`."""
        if not self.requests and not self.windows:
            raise InvalidRequest("A pack is of at least one request or window.")
        if len(self.requests) > MOST_REQUESTS or len(self.windows) > MOST_WINDOWS:
            raise InvalidRequest(f"A pack is of at most {MOST_REQUESTS} requests and {MOST_WINDOWS} windows.")
        if any(window.until <= window.since for window in self.windows):
            raise InvalidRequest("A window ends before it begins.")
        return self

    def to_json(self) -> dict[str, Any]:
        """The selection as the manifest has it."""
        return {
            "name": self.name,
            "requests": sorted(str(each) for each in self.requests),
            "windows": [{"since": rfc3339(each.since), "until": rfc3339(each.until)} for each in self.windows],
            "inputs": self.inputs,
            **({"subject": self.subject} if self.subject else {}),
        }

    def joined(self, other: Selection) -> Selection:
        """Both together; the name of the first."""
        return Selection(
            self.zone,
            tuple(dict.fromkeys((*self.requests, *other.requests))),
            tuple(dict.fromkeys((*self.windows, *other.windows))),
            self.name or other.name,
            self.inputs or other.inputs,
            self.subject or other.subject,
        )

    @classmethod
    def from_json(cls, zone: str, told: Mapping[str, Any]) -> Selection:
        """Read what :meth:`to_json` wrote."""
        windows = tuple(
            Window(datetime.fromisoformat(each["since"]), datetime.fromisoformat(each["until"]))
            for each in told["windows"]
        )
        requests = tuple(UUID(each) for each in told["requests"])
        return cls(zone, requests, windows, told["name"], bool(told["inputs"]), str(told.get("subject", "")))

    def where(self, at: str = "at", request: str = "request_id", *, texts: bool = False) -> tuple[str, dict[str, Any]]:
        """A condition over a row's time and request id (``texts``: a text column), with its values."""
        parts: list[str] = []
        values: dict[str, Any] = {}
        if self.requests:
            parts.append(f"{request} = ANY(%(requests)s)")
            values["requests"] = [str(each) if texts else each for each in self.requests]
        for number, window in enumerate(self.windows):
            parts.append(f"({at} >= %(since{number})s AND {at} < %(until{number})s)")
            values[f"since{number}"], values[f"until{number}"] = window.since, window.until
        return f"({' OR '.join(parts) or 'false'})", values


IncidentSelector = Callable[[Transaction, str, str], Awaitable[Selection]]
"""Answers the requests and windows of an incident of a zone; raises :class:`NotFound`."""


async def of_incident(incidents: IncidentSelector | None, tx: Transaction, zone: str, incident: str) -> Selection:
    """What a pack of ``incident`` is of. Raises ``no_incident_register`` where no room keeps incidents."""
    if incidents is None:
        raise BailiwickError(reason="no_incident_register")
    return await incidents(tx, zone, incident)


# ---------------------------------------------------------------------- what rooms contribute


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a section says of itself: a verdict where there is one, and a sentence."""

    verdict: Verdict | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A folder of the pack. ``about`` tells an auditor what is in it; ``write`` puts it there."""

    name: str
    about: str
    producer: str
    write: Callable[[Pack], Awaitable[Outcome]] = field(compare=False)


@dataclass(slots=True)
class Matched:
    """The events selected: how many, where, and between which instants; ``tiles`` of the tree they stand in;
    ``digests`` of what their decisions were made from (hexadecimal), None where those are too many to be held."""

    count: int = 0
    first: int = -1
    last: int = -1
    since: datetime | None = None
    until: datetime | None = None
    unsigned: int = 0
    tiles: list[int] = field(default_factory=list)
    digests: set[bytes] | None = field(default_factory=set)


class Pack:
    """A pack in the making, as sections see it. ``tx`` is the one transaction that everything is read in."""

    def __init__(
        self,
        tx: Transaction,
        selection: Selection,
        head: SignedTree,
        keys: Mapping[str, VerifierKey],
        published: bytes | None,
        matched: Matched,
        now: datetime,
        archive: PackZip,
        progress: Progress,
    ) -> None:
        self.tx = tx
        self.selection = selection
        self.zone = selection.zone
        self.head = head
        self.keys = keys
        self.published = published
        self.matched = matched
        self.now = now
        self.progress = progress
        self._archive = archive
        self._cursors = 0
        self._section = Section("", "", "", _nothing)

    def enter(self, section: Section) -> None:
        """What is written from now on belongs to ``section``."""
        self._section = section

    @property
    def window(self) -> Window:
        """All that the pack is of: its windows, and the times of the events of its requests."""
        moments = [moment for each in self.selection.windows for moment in (each.since, each.until)]
        moments += [moment for moment in (self.matched.since, self.matched.until) if moment is not None]
        return Window(min(moments), max(moments)) if moments else Window(self.now, self.now)

    def file(
        self,
        path: str,
        *,
        windowed: bool = True,
        verdict: Verdict | None = None,
        stored: bool = False,
        large: bool = False,
    ) -> AbstractAsyncContextManager[PackStream]:
        """A new file below the section's folder. Not ``windowed``: it tells how things are now."""
        at = rfc3339(self.now)
        window = self.window
        return self._archive.file(
            f"{self._section.name}/{path}",
            self._section.name,
            self._section.producer,
            since=rfc3339(window.since) if windowed else at,
            until=rfc3339(window.until) if windowed else at,
            verdict=verdict,
            stored=stored,
            large=large,
        )

    async def put(self, path: str, data: bytes, *, windowed: bool = True, verdict: Verdict | None = None) -> None:
        """A whole file."""
        async with self.file(path, windowed=windowed, verdict=verdict) as stream:
            await stream.write(data)

    async def put_json(self, path: str, value: Any, *, windowed: bool = False) -> None:
        """A JSON document."""
        await self.put(path, _json(value, indent=2) + b"\n", windowed=windowed)

    async def put_rows(self, path: str, rows: AsyncIterator[Mapping[str, Any]], *, windowed: bool = True) -> int:
        """JSON lines, one a row; answers how many."""
        count = 0
        async with self.file(path, windowed=windowed, large=True) as stream:
            async for row in rows:
                await stream.write(_json(row) + b"\n")
                count += 1
        return count

    async def rows(self, sql: str, values: Mapping[str, Any] | None = None) -> AsyncIterator[dict[str, Any]]:
        """Rows of a query (psycopg's ``%(name)s`` parameters), read in portions."""
        connection = self.tx.driver
        self._cursors += 1
        async with connection.cursor(name=f"pack_{self._cursors}", row_factory=dict_row) as cursor:
            await cursor.execute(sql.encode(), values or None)
            while portion := await cursor.fetchmany(_PORTION):
                for row in portion:
                    yield row

    async def portions(self, sql: str, values: Mapping[str, Any] | None = None) -> AsyncIterator[list[tuple[Any, ...]]]:
        """Rows of a query as tuples, many at a time: the server makes the next ones ready meanwhile."""
        connection = self.tx.driver
        self._cursors += 1
        async with connection.cursor(name=f"pack_{self._cursors}", row_factory=tuple_row, binary=True) as cursor:
            await cursor.execute(sql.encode(), values or None)
            coming = asyncio.ensure_future(cursor.fetchmany(_MANY))
            try:
                while portion := await coming:
                    coming = asyncio.ensure_future(cursor.fetchmany(_MANY))
                    await asyncio.sleep(0)  # it is on its way
                    yield portion
            finally:
                await asyncio.gather(coming, return_exceptions=True)


async def _nothing(pack: Pack) -> Outcome:
    return Outcome()


# ---------------------------------------------------------------------- the builder


@dataclass(frozen=True, slots=True)
class BuiltPack:
    """A pack that stands on disk."""

    id: str
    path: Path
    sha256: str
    bytes: int
    files: int
    events: int
    unsigned: int


class PackBuilder:
    """Builds packs from the sections registered. ``version`` is the program's.

    ``head_files``: the heads kept outside the database. ``incidents`` finds what an incident is of. ``cold``: the
    archive; what has moved there must be restored before a pack can hold it.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        signer: HeadSigner,
        version: str,
        *,
        head_files: HeadFiles | None = None,
        incidents: IncidentSelector | None = None,
        cold: ColdEvents | None = None,
    ) -> None:
        self._cold = cold
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._signer = signer
        self._version = version
        self._head_files = head_files
        self._incidents = incidents
        self._sections: dict[str, Section] = {}

    def register(self, section: Section) -> None:
        """Have every pack hold ``section``; raises ValueError for a name that is taken."""
        if section.name in self._sections:
            raise ValueError(f"two sections are called {section.name!r}")
        self._sections[section.name] = section

    @property
    def sections(self) -> Sequence[Section]:
        """What is registered, in the order in which it is written."""
        return [self._sections[name] for name in sorted(self._sections)]

    async def of_incident(self, tx: Transaction, zone: str, incident: str) -> Selection:
        """See :func:`of_incident`."""
        return await of_incident(self._incidents, tx, zone, incident)

    async def build(
        self,
        selection: Selection,
        path: Path,
        context: Context,
        *,
        identifier: str = "",
        progress: Progress = lambda section, done, of: None,
    ) -> BuiltPack:
        """Build the pack of ``selection`` at ``path``, on behalf of ``context``.

        Raises :class:`InvalidRequest`, :class:`NotFound` where the zone is not known, nothing is signed, or nothing is
        known of any of the requests, ``evidence_archived``, ``NoLedgerKey``, and OSError; then nothing is left at
        ``path``.
        """
        selection.checked()
        await self._require_hot(selection)
        await self._wait_for_head(selection)
        identifier = identifier or self._ids()
        _, signer = await self._signer.signer(selection.zone)
        published = self._published(selection.zone)  # before the snapshot, which then has what it is over
        async with PackZip(path) as archive:
            async with self._database.begin() as tx:
                await tx.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                head = await newest_head(tx, selection.zone)
                signer = signer.under(parse_checkpoint(parse_note(head.note).text).origin)
                matched = await _match(tx, selection, head)
                keys = await ledger_keys(tx, selection.zone)
                now = self._clock.now()
                pack = Pack(tx, selection, head, keys, published, matched, now, archive, progress)
                told = [await _written(pack, section) for section in self.sections]
            facts = self._facts(identifier, pack, signer.key, context, told)
            await self._texts(archive, facts)
            manifest = _json({**facts, "files": [each.to_json() for each in _sorted(archive)]}, indent=1) + b"\n"
            note = PackStatement.of(signer.key.name, manifest).signed(signer, int(now.timestamp()))
            for name, data in ((MANIFEST, manifest), (NOTE, bytes(note))):
                async with archive.file(name, "", "", listed=False) as stream:
                    await stream.write(data)
            await archive.seal()
            built = BuiltPack(
                identifier, path, archive.sha256, archive.size, len(archive.files), matched.count, matched.unsigned
            )
            async with self._database.begin() as tx:
                await self._recorder.record(
                    tx,
                    codes.EVIDENCE_PACK_BUILT,
                    "success",
                    context,
                    subject=Subject(id=identifier, type="evidence-pack"),
                    sha256=built.sha256,
                    manifest=PackStatement.of("", manifest).sha256,
                    size=built.bytes,
                    files=built.files,
                    events=built.events,
                    requests=len(selection.requests),
                    windows=[f"{each['since']}/{each['until']}" for each in selection.to_json()["windows"]],
                    inputs=selection.inputs,
                )
            # last: a pack that anybody can see is a pack the ledger knows of
            await archive.publish()
        return built

    async def _require_hot(self, selection: Selection) -> None:
        """A pack that silently lacked what has left the database would be worse than none."""
        if self._cold is None:
            return
        spans = [(window.since, window.until) for window in selection.windows]
        for request in selection.requests:
            made = made_at(request)
            if made is not None:
                spans.append((made - _NEARBY, made + _NEARBY))
        for since, until in spans:
            if windows := await self._cold.list_windows(selection.zone, since, until):
                raise Conflict(
                    f"Evidence from {windows[0].start:%Y-%m-%d %H:%M} UTC on is in the archive alone; restore it:"
                    f" bailiwick audit archive restore --since {since:%Y-%m-%d} --until {until:%Y-%m-%d}.",
                    reason="evidence_archived",
                )

    async def _wait_for_head(self, selection: Selection) -> None:
        """Let the newest head cover what there is of the selection now: one is signed within a second."""
        async with self._database.begin() as tx:
            if not await tx.value("SELECT 1 FROM zones WHERE name = :zone", zone=selection.zone):
                raise NotFound(f"There is no zone {selection.zone}.")
            newest = await tx.value("SELECT max(seq) FROM ledger.events WHERE zone = :zone", zone=selection.zone)
        deadline = time.monotonic() + _HEAD_WITHIN_S
        while newest is not None and time.monotonic() < deadline:
            async with self._database.begin() as tx:
                if newest < (await newest_head(tx, selection.zone)).size:
                    return
            await asyncio.sleep(0.1)

    def _published(self, zone: str) -> bytes | None:
        try:
            return self._head_files.path(zone).read_bytes() if self._head_files is not None else None
        except OSError:
            return None  # the section says that there was none

    def _facts(
        self, identifier: str, pack: Pack, key: VerifierKey, context: Context, sections: list[dict[str, Any]]
    ) -> dict[str, Any]:
        matched = pack.matched
        return {
            "format": FORMAT,
            "pack": identifier,
            "zone": pack.zone,
            "origin": key.name,
            "key_id": key.key_id.hex(),
            "built_at": rfc3339(pack.now),
            "built_by": context.actor.user or context.actor.application,
            "version": self._version,
            "simulated_clock": self._clock.simulated,
            "selection": pack.selection.to_json(),
            "window": {"since": rfc3339(pack.window.since), "until": rfc3339(pack.window.until)},
            "events": {
                "count": matched.count,
                "first": matched.first,
                "last": matched.last,
                "unsigned": matched.unsigned,
                "verdict": "PASS" if matched.count else "NO_DATA",
            },
            "tree": {"size": pack.head.size, "checkpoint": "log/checkpoint"},
            "sections": sections,
        }

    async def _texts(self, archive: PackZip, facts: dict[str, Any]) -> None:
        files = [each.to_json() for each in _sorted(archive)]
        texts = {
            "index.json": _json({**facts, "files": files}, indent=1) + b"\n",
            "index.html": index_html(facts, files).encode(),
            "README.md": readme(facts).encode(),
        }
        for name, data in texts.items():
            async with archive.file(name, "", f"bailiwick {self._version}") as stream:
                await stream.write(data)


async def _written(pack: Pack, section: Section) -> dict[str, Any]:
    """Have a section written. A ledger that somebody damaged is what packs are needed for: the rest goes on."""
    pack.enter(section)
    try:
        outcome = await section.write(pack)
    except (MissingHashes, NotFound, Conflict) as error:
        outcome = Outcome(Verdict.ERROR, f"not whole: {error}")
    told = {"name": section.name, "about": section.about, "producer": section.producer}
    return {**told, "verdict": outcome.verdict, "note": outcome.note}


async def _match(tx: Transaction, selection: Selection, head: SignedTree) -> Matched:
    """What of the selection there is. Raises :class:`NotFound` when it is of requests of which nothing is known."""
    where, values = selection.where()
    connection = tx.driver
    async with connection.cursor() as cursor:
        await cursor.execute(
            "SELECT count(*) FILTER (WHERE seq < %(size)s), min(seq) FILTER (WHERE seq < %(size)s),"  # noqa: S608
            " max(seq) FILTER (WHERE seq < %(size)s), min(at), max(at), count(*) FILTER (WHERE seq >= %(size)s)"
            f" FROM ledger.events WHERE zone = %(zone)s AND {where}".encode(),
            {"zone": selection.zone, "size": head.size, **values},
        )
        row: Any = await cursor.fetchone()
        count, first, last, since, until, unsigned = row
        if not count and not unsigned and not selection.windows:
            raise NotFound("Nothing is known about any of these requests.")
    return Matched(count, -1 if first is None else first, -1 if last is None else last, since, until, unsigned)


def _sorted(archive: PackZip) -> list[Any]:
    return sorted(archive.files, key=lambda each: each.path)


def _json(value: Any, indent: int | None = None) -> bytes:
    """``value`` as JSON with sorted names; times as RFC 3339 UTC, and canonical JSON, which some tables keep byte for
    byte under its digest, as the text that it is. Raises TypeError for other bytes: no table shows any."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, indent=indent, default=_plain).encode(
        "utf-8", "backslashreplace"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return rfc3339(value.astimezone(UTC))
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bytes | memoryview) and bytes(value[:1]) in (b"{", b"["):
        with contextlib.suppress(UnicodeDecodeError):
            return bytes(value).decode("utf-8")
    raise TypeError(f"a {type(value).__name__} has no place in a pack")
