"""Following the ledger as it grows: one reader per process, any number of listeners, Server-Sent Events.

The reader asks the table what is new for all zones somebody listens to, in one statement, and only while somebody does.
A listener who does not keep up is cut off with a reason; he goes on with ``Last-Event-ID``, the number of the last
event he saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import structlog
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from bailiwick.evidence import hot
from bailiwick.evidence.events import Event, decode
from bailiwick.evidence.search import Entry
from bailiwick.evidence.stored import body_of
from bailiwick.kernel.db import Database, Row
from bailiwick.kernel.errors import BailiwickError, Unavailable

MOST = 32
HEARTBEAT_S = 15.0
_POLL_S = 0.25
_BATCH = 1000
_QUEUE = 2000
_STALL_S = 10.0
_LAST_WORD_S = 0.3

log = structlog.get_logger(__name__)

Matches = Callable[[Event, bytes], bool]


class Ended(Exception):
    """A stream is over; ``reason`` is told to the listener."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(eq=False, slots=True)
class Listener:
    """Somebody who listens. ``start``: the number of the newest event when he came; what follows is put to him."""

    zone: str
    matches: Matches
    start: int
    queue: asyncio.Queue[tuple[int, bytes]]
    seen: int = -1
    slow: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Tails:
    """The listeners of a process and the one reader that serves them. ``most``: how many there may be."""

    def __init__(self, database: Database, *, most: int = MOST, poll_s: float = _POLL_S, queue: int = _QUEUE) -> None:
        self._database = database
        self._most = most
        self._poll_s = poll_s
        self._queue = queue
        self._listeners: set[Listener] = set()
        self._places: dict[str, int] = {}
        self._reader: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self.closing = asyncio.Event()

    @asynccontextmanager
    async def listen(self, zone: str, matches: Matches) -> AsyncIterator[Listener]:
        """Listen to a zone from now on; raises ``search_busy`` when too many do already."""
        if len(self._listeners) >= self._most:
            raise Unavailable("As many tails are open as may be.", reason="search_busy", headers={"Retry-After": "30"})
        made = Listener(zone, matches, -1, asyncio.Queue(self._queue))
        self._listeners.add(made)  # before anything is awaited: the bound holds
        try:
            async with self._reading:
                # whoever comes first to a zone brings its place up to now; for the others it is at most a poll old
                if zone not in self._places:
                    self._places[zone] = await self._newest(zone)
                made.start = made.seen = self._places[zone]
            if self._reader is None or self._reader.done():
                self._reader = asyncio.create_task(self._read(), name="tails")
            yield made
        finally:
            self._listeners.discard(made)
            if not self._listeners and self._reader is not None:
                self._reader.cancel()
                self._reader = None
                self._places.clear()

    def close(self) -> None:
        """End every tail: the process stops."""
        self.closing.set()

    async def newest(self, zone: str) -> int:
        """The number of the newest event of a zone, -1 while there is none."""
        return await self._newest(zone)

    async def _newest(self, zone: str) -> int:
        async with self._database.begin() as tx:
            newest = await tx.value(
                "SELECT seq FROM ledger.events WHERE zone = :zone ORDER BY seq DESC LIMIT 1", zone=zone
            )
        return -1 if newest is None else int(newest)

    async def _read(self) -> None:
        while True:
            try:
                more = await self.poll()
            except Unavailable:
                more = False  # listeners hear nothing meanwhile; nothing is lost
            except Exception:
                log.exception("the ledger cannot be followed")
                more = False
            await asyncio.sleep(0 if more else self._poll_s)

    async def poll(self) -> bool:
        """Put what is new to whom it concerns; True when there may be more at once."""
        async with self._reading:
            zones = sorted({listener.zone for listener in self._listeners} & self._places.keys())
            for zone in self._places.keys() - set(zones):
                del self._places[zone]
            if not zones:
                return False
            entries: dict[tuple[str, int], bytes] = {}
            async with self._database.begin() as tx:
                rows = await hot.behind(tx, zones, [self._places[zone] for zone in zones], _BATCH)
                wanted = [(row, who) for row in rows if (who := self._concerned(row))]
                for zone in zones:
                    mine = [row for row, _ in wanted if row["zone"] == zone]
                    leaves = await hot.leaves(tx, zone, [row["seq"] for row in mine]) if mine else {}
                    for row in mine:
                        seq = row["seq"]
                        entry = Entry(seq, row["recorded_at"], leaves.get(seq, b""), body_of(row))
                        entries[zone, seq] = message(entry)
            for row, listeners in wanted:
                for listener in listeners:
                    _put(listener, row["seq"], entries[row["zone"], row["seq"]])
            for row in rows:
                self._places[row["zone"]] = row["seq"]
            for listener in self._listeners:
                listener.seen = max(listener.seen, self._places.get(listener.zone, -1))
        return len(rows) >= _BATCH

    def _concerned(self, row: Row) -> list[Listener]:
        body = body_of(row)
        try:
            event = decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return []
        return [
            listener
            for listener in self._listeners
            if listener.zone == row["zone"] and row["seq"] > listener.start and listener.matches(event, body)
        ]


def _put(listener: Listener, seq: int, text: bytes) -> None:
    if listener.slow:
        return  # what came after a gap would look as if there were none
    try:
        listener.queue.put_nowait((seq, text))
    except asyncio.QueueFull:
        listener.slow = True


def message(entry: Entry) -> bytes:
    """An entry as a Server-Sent Event."""
    data = json.dumps(entry.to_json(), ensure_ascii=False, separators=(",", ":"))
    return f"id: {entry.seq}\nevent: event\ndata: {data}\n\n".encode()


class EventStream(Response):
    """The answer that follows the ledger.

    ``before(after)`` answers the matching events up to ``listener.start``, page by page, to somebody who comes back
    having seen ``after``. ``still`` raises ``BailiwickError`` as soon as the listener may no longer listen.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        tails: Tails,
        zone: str,
        matches: Matches,
        still: Callable[[], Awaitable[object]],
        *,
        after: int | None = None,
        before: Callable[[int], Awaitable[Sequence[Entry]]] | None = None,
        seconds: float | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        check_s: float = 0.4,
        stall_s: float = _STALL_S,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._tails = tails
        self._zone = zone
        self._matches = matches
        self._still = still
        self._after = after
        self._before = before
        self._seconds = seconds
        self._heartbeat_s = heartbeat_s
        self._check_s = check_s
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._tails.listen(self._zone, self._matches) as listener:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            tasks = [
                asyncio.create_task(self._tell(listener, send)),
                asyncio.create_task(self._guard()),
                asyncio.create_task(_gone(receive)),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, (Ended, BailiwickError))]
            faults = [
                outcome
                for outcome in outcomes
                if isinstance(outcome, Exception) and not isinstance(outcome, (Ended, BailiwickError))
            ]
            if faults:
                log.error("a tail failed", exc_info=faults[0])
                reasons.append("internal_error")
            if reasons:
                await _last_word(send, reasons[0])

    async def _tell(self, listener: Listener, send: Send) -> None:
        """Send what there was, then what comes. Only ends by raising."""
        await self._send(send, b": following\n\n")
        after = self._after if self._after is not None else listener.start
        if self._after is not None and self._before is not None:
            while after < listener.start and (page := await self._before(after)):
                for entry in page:
                    if entry.seq <= listener.start:
                        await self._send(send, message(entry))
                after = page[-1].seq
        while True:
            # what was seen is read before the queue is found empty: nothing that waits in it is passed over
            seen = listener.seen
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    if listener.slow and listener.queue.empty():
                        raise Ended("slow_reader")
                    seq, text = await listener.queue.get()
            except TimeoutError:
                passed = max(seen, after)
                await self._send(send, f": heartbeat\nid: {passed}\n\n".encode() if passed >= 0 else b": heartbeat\n\n")
                continue
            if seq > after:
                await self._send(send, text)
                after = seq

    async def _send(self, send: Send, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await send(_body(data))
        except TimeoutError:
            raise Ended("slow_reader") from None

    async def _guard(self) -> None:
        """Ends by raising, when the listener may no longer listen, the process stops or his time is over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds if self._seconds is not None else float("inf")
        while True:
            await self._still()
            left = end - loop.time()
            if left <= 0:
                raise Ended("done")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._tails.closing.wait(), min(self._check_s, left))
                raise Ended("not_ready")


async def _last_word(send: Send, reason: str) -> None:
    data = json.dumps({"reason": reason})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORD_S):
            await send(_body(f"event: end\ndata: {data}\n\n".encode()))
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _body(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}
