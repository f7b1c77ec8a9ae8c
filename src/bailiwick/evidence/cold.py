"""Events that have moved to the archive: Parquet read through DuckDB, in threads, bounded in number, memory and time.

What the archive is and where it stands is its own matter; the search needs the two things of :class:`ColdEvents`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from bailiwick.evidence.query import Filter, Order, codes_named, contents, quoted
from bailiwick.kernel.errors import BailiwickError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

T = TypeVar("T")


class ColdPart(Protocol):
    """A run of positions, none missing."""

    @property
    def first_seq(self) -> int: ...

    @property
    def last_seq(self) -> int: ...


class ColdWindow(Protocol):
    """Sealed events of a zone that the table no longer has; its parts in the order of the ledger."""

    @property
    def objects(self) -> Sequence[ColdPart]: ...


class ColdEvents(Protocol):
    """The archive as the search sees it."""

    async def list_windows(self, zone: str, since: datetime | None, until: datetime | None) -> Sequence[Any]:
        """The :class:`ColdWindow`\\ s that may hold events of that time, in any order."""
        ...

    async def paths(self, windows: Sequence[Any]) -> Sequence[Path]:
        """The parts of these windows as Parquet files that are what was sealed; raises ``BailiwickError``."""
        ...


OpenParts = Callable[[Sequence[Path]], "DuckDBPyConnection"]
"""Opens parts: a connection of its own with the view ``cold`` and its columns ``seq, id, at, recorded_at`` (UTC without
a zone), ``code, outcome, principal, server, request_id, decision_id, body``. Called in a thread; may block."""


def span_of(window: ColdWindow) -> tuple[int, int]:
    """The first and the last position of a window that has any."""
    return window.objects[0].first_seq, window.objects[-1].last_seq


@dataclass(frozen=True, slots=True)
class ColdRow:
    """An archived event."""

    seq: int
    recorded_at: datetime
    body: bytes


class ColdSearch:
    """Runs queries over cold windows. ``slots``: how many at once in this process."""

    def __init__(self, source: ColdEvents, open_parts: OpenParts, *, slots: int = 2) -> None:
        self.source = source
        self._open_parts = open_parts
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="cold-search")

    async def events(
        self,
        windows: Sequence[ColdWindow],
        wanted: Filter,
        order: Order,
        after: int | None,
        limit: int,
        budget_s: float,
    ) -> list[ColdRow]:
        """At most ``limit`` events of the windows behind ``after``, in order; raises ``query_too_expensive``."""
        where, values = conditions(wanted)
        if after is not None:
            where.append("seq < $after" if order == "newest" else "seq > $after")
            values["after"] = after
        sql = (
            f"SELECT seq, epoch_us(recorded_at), body FROM cold WHERE {' AND '.join(where) or 'true'}"  # noqa: S608
            f" ORDER BY seq {'DESC' if order == 'newest' else 'ASC'} LIMIT {int(limit)}"
        )
        rows = await self._run(windows, lambda connection: connection.execute(sql, values).fetchall(), budget_s)
        return [ColdRow(seq, _instant(micros), _bytes(body)) for seq, micros, body in rows]

    async def counts(
        self, windows: Sequence[ColdWindow], wanted: Filter, columns: Sequence[str], budget_s: float
    ) -> list[tuple[int, str | None, int]]:
        """How often each value of each column occurs, as (index of the column, value, count)."""
        where, values = conditions(wanted)
        parts = [
            f"SELECT {index}, {column}, count(*) FROM cold WHERE {' AND '.join(where) or 'true'} GROUP BY 2"  # noqa: S608
            for index, column in enumerate(columns)
        ]
        sql = " UNION ALL ".join(parts)
        return await self._run(windows, lambda connection: connection.execute(sql, values).fetchall(), budget_s)

    async def _run(self, windows: Sequence[ColdWindow], ask: Callable[[DuckDBPyConnection], T], budget_s: float) -> T:
        started = time.monotonic()
        cancelled = threading.Event()
        paths = await self.source.paths(windows)
        loop = asyncio.get_running_loop()

        def work() -> T:
            import duckdb

            left = budget_s - (time.monotonic() - started)
            if left <= 0 or cancelled.is_set():
                raise too_expensive()
            with self._open_parts(paths) as connection:
                alarm = threading.Timer(left, connection.interrupt)
                alarm.daemon = True
                alarm.start()
                try:
                    return ask(connection)
                except (duckdb.InterruptException, duckdb.OutOfMemoryException):
                    raise too_expensive() from None
                finally:
                    alarm.cancel()

        try:
            return await loop.run_in_executor(self._threads, work)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def conditions(wanted: Filter) -> tuple[list[str], dict[str, Any]]:
    """The filter as conditions in DuckDB's SQL."""
    where: list[str] = []
    values: dict[str, Any] = {}

    def put(value: Any) -> str:
        values[f"v{len(values)}"] = value
        return f"$v{len(values) - 1}"

    columns = {key: getattr(wanted, key) for key in ("code", "outcome", "principal", "server")}
    where += [f"{column} = {put(value)}" for column, value in columns.items() if value]
    for key, value in (("id", wanted.event_id), ("request_id", wanted.request_id), ("decision_id", wanted.decision_id)):
        if value:
            where.append(f"CAST({key} AS VARCHAR) = {put(str(value))}")
    if wanted.name:
        where.append(f"list_contains({put(codes_named(wanted.name) or [''])}, code)")
    if wanted.since:
        where.append(f'"at" >= {put(_naive(wanted.since))}')
    if wanted.until:
        where.append(f'"at" < {put(_naive(wanted.until))}')
    body = "TRY(decode(CAST(body AS BLOB)))"
    for each in contents(wanted):
        part = body
        if each.start:
            tail = f"substr({body}, instr({body}, {put(each.start)}))"
            part = f"substr({tail}, 1, instr({tail}, {put(each.end)}))"
        anywhere = " OR ".join(f"contains({body}, {put(needle)})" for needle in each.needles)
        where.append(f"({anywhere})")
        if each.start:
            inside = " OR ".join(f"contains({part}, {put(needle)})" for needle in each.needles)
            where.append(f"instr({body}, {put(each.start)}) > 0 AND ({inside})")
    if wanted.text:
        where.append(f"contains(lower({body}), {put(quoted(wanted.text)[1:-1].lower())})")
    return where, values


def too_expensive() -> BailiwickError:
    """The refusal of a query that took longer than one may."""
    return BailiwickError("The query takes too long: narrow it, by time above all.", reason="query_too_expensive")


def _instant(micros: int) -> datetime:
    return datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=micros % 1_000_000)


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def _bytes(body: bytes | str) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body)
