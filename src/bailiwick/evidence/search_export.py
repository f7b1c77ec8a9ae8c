"""What a search finds, as a file: JSON lines (verbatim), CSV or Parquet.

JSON lines are the events' canonical bytes, so that leaf hashes can be made of them; CSV and Parquet are for reading.
A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, and what is recorded came from
callers: such cells get an apostrophe before them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import csv
import hashlib
import io
import json
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bailiwick.evidence.codes import DECISIONS
from bailiwick.evidence.query import Filter, Order
from bailiwick.evidence.receipts import newest_head
from bailiwick.evidence.search import Entry, Search
from bailiwick.evidence.tree import tree_size
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import NotFound

Format = Literal["jsonl", "csv", "parquet"]
MEDIA_TYPES: dict[Format, str] = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
}
COLUMNS = (
    "seq", "recorded_at", "at", "code", "name", "outcome", "user", "application", "session", "delegation", "mandate",
    "server", "subject_type", "subject_id", "reasons", "decision_id", "policy_set", "request_id", "client_request_id",
    "trace_id", "ip", "user_agent", "details", "id", "leaf", "intact",
)  # fmt: skip
_PAGE = 500
_MOST_NAMED = 100
_FORMULA = frozenset("=+-@\t\r")
_TYPES = {"seq": "BIGINT", "intact": "BOOLEAN"}
_PARQUET = f"""
COPY (
  SELECT * REPLACE (CAST(recorded_at AS TIMESTAMP) AS recorded_at, TRY_CAST("at" AS TIMESTAMP) AS "at")
  FROM read_json($lines, format = 'newline_delimited', columns = {{
    {", ".join(f"'{name}': '{_TYPES.get(name, 'VARCHAR')}'" for name in (*COLUMNS, "body"))}
  }})
) TO '{{target}}' (FORMAT parquet, COMPRESSION zstd)
"""  # noqa: S608 - fixed parts


@dataclass(slots=True)
class Tally:
    """What has been written. ``altered``: numbers of events whose bytes are not those that were hashed."""

    events: int = 0
    size: int = 0
    first_seq: int | None = None
    last_seq: int | None = None
    altered_total: int = 0
    altered: list[int] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, entry: Entry) -> None:
        """Count an event."""
        self.events += 1
        self.first_seq = entry.seq if self.first_seq is None else min(self.first_seq, entry.seq)
        self.last_seq = entry.seq if self.last_seq is None else max(self.last_seq, entry.seq)
        if not entry.intact:
            self.altered_total += 1
            if len(self.altered) < _MOST_NAMED:
                self.altered.append(entry.seq)

    def wrote(self, data: bytes) -> bytes:
        """Count bytes of the file, and answer them."""
        self.size += len(data)
        self.digest.update(data)
        return data


@dataclass(frozen=True, slots=True)
class Extent:
    """The ledger as it was when an export began: ``size`` events, and the newest signed checkpoint ("" for none)."""

    size: int
    signed: int
    checkpoint: str


async def extent(tx: Transaction, zone: str) -> Extent:
    """How far the ledger of ``zone`` reaches now."""
    size = await tree_size(tx, zone)
    try:
        head = await newest_head(tx, zone)
    except NotFound:
        return Extent(size, 0, "")
    return Extent(size, head.size, head.note.decode())


async def entries(
    database: Database, search: Search, zone: str, wanted: Filter, order: Order, reach: Extent
) -> AsyncGenerator[Entry, None]:
    """Everything a search finds within ``reach``; each page in a transaction of its own, since nothing changes there.

    Raises ``query_too_expensive`` when a single page takes too long.
    """
    after: int | None = reach.size if order == "newest" else None
    while True:
        async with search.slot(), database.begin() as tx:
            page = await search.events(tx, zone, wanted, order=order, after=after, limit=_PAGE)
        for entry in page:
            if entry.seq >= reach.size:
                return
            yield entry
        if len(page) < _PAGE:
            return
        after = page[-1].seq


async def written(
    found: AsyncIterator[Entry], form: Format, tally: Tally, scratch: Path | None = None
) -> AsyncGenerator[bytes, None]:
    """The file, in pieces. ``scratch``: where Parquet is put together, which only exists whole at the end."""
    if form == "parquet":
        async for piece in _parquet(found, tally, scratch):
            yield piece
        return
    if form == "csv":
        yield tally.wrote(_csv(COLUMNS))
    spell = jsonl_line if form == "jsonl" else csv_line
    pieces: list[bytes] = []
    async for entry in found:
        tally.add(entry)
        pieces.append(spell(entry))
        if len(pieces) >= 100:
            yield tally.wrote(b"".join(pieces))
            pieces.clear()
    if pieces:
        yield tally.wrote(b"".join(pieces))


def jsonl_line(entry: Entry) -> bytes:
    """The event's bytes as a line. Damaged ones that are no line are told as such, with their bytes in base64."""
    if b"\n" in entry.body or b"\r" in entry.body:
        told = {"altered": entry.seq, "bytes": base64.b64encode(entry.body).decode()}
        return json.dumps(told).encode() + b"\n"
    return entry.body + b"\n"


def csv_line(entry: Entry) -> bytes:
    """The event as a row of :data:`COLUMNS`, no cell of it a formula."""
    return _csv([_cell(value) for value in row_of(entry).values()])


def row_of(entry: Entry) -> dict[str, Any]:
    """The event's values by column; what an event does not have is empty."""
    shown = entry.to_json()
    event = shown["event"] or {}
    actor, subject, network = (_part(event, name) for name in ("actor", "subject", "network"))
    values: dict[str, Any] = {
        **{name: event.get(name, "") for name in COLUMNS},
        **{name: actor.get(name, "") for name in ("user", "application", "session", "delegation", "mandate")},
        "subject_type": subject.get("type", ""),
        "subject_id": subject.get("id", ""),
        "decision_id": event.get("id", "") if event.get("code") in DECISIONS else "",
        "ip": network.get("ip", ""),
        "user_agent": network.get("user_agent", ""),
        "reasons": " ".join(str(reason) for reason in event.get("reasons", ())),
        "details": json.dumps(event["details"], ensure_ascii=False, sort_keys=True) if event.get("details") else "",
        "seq": entry.seq,
        "recorded_at": entry.recorded_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "leaf": shown["leaf"],
        "intact": shown["intact"],
    }
    return {name: values[name] for name in COLUMNS}


def _part(event: dict[str, Any], name: str) -> dict[str, Any]:
    part = event.get(name)
    return part if isinstance(part, dict) else {}


def _cell(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return f"'{text}" if text[:1] in _FORMULA else text


def _csv(cells: Any) -> bytes:
    line = io.StringIO()
    csv.writer(line, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerow(cells)
    return line.getvalue().encode("utf-8", "replace")


async def _parquet(found: AsyncIterator[Entry], tally: Tally, scratch: Path | None) -> AsyncGenerator[bytes, None]:
    with tempfile.TemporaryDirectory(prefix="bw-export-", dir=scratch) as home:
        lines, target = Path(home) / "lines", Path(home) / "events.parquet"
        with lines.open("wb") as stream:
            async for entry in found:
                tally.add(entry)
                row = {name: value if name == "intact" else str(value) for name, value in row_of(entry).items()}
                row |= {"seq": entry.seq, "body": entry.body.decode("utf-8", "replace")}
                stream.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        await asyncio.to_thread(_convert, lines, target)
        with target.open("rb") as stream:
            while piece := await asyncio.to_thread(stream.read, 1 << 18):
                yield tally.wrote(piece)


def _convert(lines: Path, target: Path) -> None:
    import duckdb

    config: dict[str, Any] = {"threads": 2, "memory_limit": "512MB", "autoinstall_known_extensions": False}
    with contextlib.closing(duckdb.connect(config=config)) as connection:
        # COPY takes no parameter for its target; the name is ours
        connection.execute(_PARQUET.replace("{target}", str(target).replace("'", "''")), {"lines": str(lines)})


def manifest(
    zone: str, wanted: Filter, order: Order, form: Format, reach: Extent, tally: Tally, now: datetime, tool: str
) -> dict[str, Any]:
    """What is told beside the file: what was asked, what came of it, and the signed head by which it can be checked."""
    return {
        "zone": zone,
        "query": wanted.described(),
        "order": order,
        "format": form,
        "events": tally.events,
        "first_seq": tally.first_seq,
        "last_seq": tally.last_seq,
        "altered": tally.altered,
        "altered_total": tally.altered_total,
        "bytes": tally.size,
        "sha256": tally.digest.hexdigest(),
        "ledger": {"events": reach.size, "signed": reach.signed, "checkpoint": reach.checkpoint},
        "made_at": now.astimezone(UTC).isoformat(),
        "tool": tool,
    }


async def save(
    found: AsyncIterator[Entry], form: Format, path: Path, tally: Tally, progress: Callable[[Tally], None]
) -> None:
    """Write the file beside its place and move it there whole; raises OSError."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("wb") as stream:
            async for piece in written(_watched(found, tally, progress), form, tally, path.parent):
                stream.write(piece)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


async def _watched(
    found: AsyncIterator[Entry], tally: Tally, progress: Callable[[Tally], None]
) -> AsyncGenerator[Entry, None]:
    async for entry in found:
        yield entry
        if tally.events % 100 == 0:
            progress(tally)
