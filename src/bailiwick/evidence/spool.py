"""The spool: where a worker's evidence becomes durable before the answer leaves.

A source is one life of one worker. Its directory ``<root>/<slot>.<boot>`` holds segment files ``NNNNNNNN.seg``,
zero-filled ahead so that ``fdatasync`` has no metadata to write, and a ``lock`` file on which the owner holds a
``flock``: who can take it knows that the owner is dead. A source is never continued by a later process.

Appends queue up on the event loop. Whatever waits is framed, written and made durable with one fdatasync for all of it,
and only then acknowledged. On a quick disk the loop does that itself, once for all requests it has just read: the fifth
of a millisecond is less than handing them to a thread and back costs. Where syncs take longer, a thread does it, and
the loop tries again once a second. Segments are changed, and failures recovered from, by the thread alone.

A write or sync that fails condemns its segment (the page cache no longer says what the disk holds, so it is never tried
again): whatever waited fails, new appends are refused, and a fresh segment is attempted every second until one can be
made.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import structlog

from bailiwick.evidence.frames import MAX_PAYLOAD, Kind, encode_frame, frame_size, open_payload
from bailiwick.kernel.errors import BailiwickError, Unavailable

LOCK_NAME = "lock"
LOST_NAME = "LOST"
_UNBORN = ".new-"
_RETRY_S = 1.0
_FILL = bytes(1 << 20)
_BATCH_BYTES = 4 << 20
_QUICK_S = 0.001  # mean time of a sync up to which the event loop makes evidence durable itself
_ROUNDS = 1  # of the event loop that a flush waits at most
_ROOM_BYTES = 64 << 10  # for the headers of what waits

log = structlog.get_logger(__name__)

Done = Callable[[Exception | None], None]
_Item = tuple[Sequence[tuple[int, str, bytes]], int, Done]


class Files:
    """The system calls the spool depends on, in one place so that tests can make them fail."""

    def create(self, path: Path) -> int:
        """A new file open for reading and writing; fails when it exists."""
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset``; raises OSError."""
        view = memoryview(data)
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written

    def sync(self, fd: int) -> None:
        """Make what was written durable; raises OSError."""
        os.fdatasync(fd)


class _Segment:
    """A zero-filled, synced file that nothing was written to yet, or the one being written."""

    def __init__(self, number: int, path: Path, fd: int, size: int) -> None:
        self.number, self.path, self.fd, self.size = number, path, fd, size
        self.end = 0  # everything before it is durable


class Spool:
    """The append side of one source.

    ``root`` is the spool directory of the machine, ``slot`` the worker's place (``w0``), ``boot`` unique to this
    start of it. ``segment_bytes`` is the size of a segment; appends are refused while more than ``queue_bytes`` wait.
    ``on_change`` hears when the spool stops or resumes taking evidence (the reason, or None), ``on_sync`` the seconds
    of every flush. Either may be called from the writer's thread.
    """

    def __init__(
        self,
        root: Path,
        slot: str,
        boot: str,
        *,
        segment_bytes: int = 64 << 20,
        queue_bytes: int = 32 << 20,
        files: Files | None = None,
        on_change: Callable[[str | None], None] | None = None,
        on_sync: Callable[[float], None] | None = None,
    ) -> None:
        if segment_bytes < 2 * MAX_PAYLOAD:
            raise ValueError(f"a segment needs at least {2 * MAX_PAYLOAD} bytes")
        self.source = f"{slot}.{boot}"
        self.root = root
        self.directory = root / self.source
        self.appended = 0
        self.refused = 0
        self.written = 0
        self.syncs = 0
        self._segment_bytes = segment_bytes
        self._queue_bytes = queue_bytes
        self._files = files or Files()
        self._on_change = on_change
        self._on_sync = on_sync
        self._refusal: str | None = "the spool is not open"
        self._lost = False
        self._queue: deque[_Item] = deque()
        self._queued = 0
        self._signalled = False
        self._scheduled = False
        self._waited = self._rounds = 0
        self._writing = threading.Lock()  # held by whoever frames, writes and syncs
        self._on_loop = True
        self._mean_sync = 0.0
        self._left_loop_at = 0.0
        self._wake = threading.Lock()  # a binary semaphore: released to wake the thread, an Event costs ten times more
        self._wake.acquire()
        self._stopping = False
        self._sequence = 0
        self._segment: _Segment | None = None
        self._previous = (-1, 0)  # the last segment that holds acknowledged bytes, and where they end
        self._next_number = 0
        self._next: Future[_Segment] | None = None
        self._lock_fd = -1
        self._looked_at = 0.0

    # ------------------------------------------------------------------ the event loop's side

    async def start(self) -> None:
        """Make the source and its first segment. Raises :class:`Unavailable` when that cannot be made durable."""
        self._loop = asyncio.get_running_loop()
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="spool-prepare")
        try:
            await asyncio.to_thread(self._found)
        except OSError as error:
            self._preparing.shutdown(wait=False)
            raise Unavailable(f"The spool cannot be opened: {error}", reason="evidence_unavailable") from error
        self._refusal = None
        self._look_for_loss()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def append(self, kind: int, zone: str, payload: bytes) -> asyncio.Future[None]:
        """Queue one frame; the future resolves once it is durable.

        Raises :class:`Unavailable` (``evidence_unavailable``) at once, or through the future, when it cannot be.
        """
        return self.append_many(((kind, zone, payload),))

    def append_many(self, frames: Sequence[tuple[int, str, bytes]]) -> asyncio.Future[None]:
        """Queue several frames that become durable together or fail together. Raises as :meth:`append`."""
        future: asyncio.Future[None] = self._loop.create_future()
        self.append_then(frames, lambda failure: settle(future, failure))
        return future

    def append_then(self, frames: Sequence[tuple[int, str, bytes]], done: Done) -> None:
        """Queue frames; ``done`` is called on the event loop with None once they are durable, or with the failure.

        Raises :class:`Unavailable` (``evidence_unavailable``, or ``evidence_lost`` while that is latched) when they
        cannot even be queued; ``done`` is not called then.
        """
        size = sum([len(payload) for _, _, payload in frames])
        try:
            self._require_room(size)
        except BailiwickError:
            self.refused += 1
            raise
        self._queued += size
        self._queue.append((frames, size, done))
        if not self._on_loop:
            self._signal()
        elif not self._scheduled:
            # runs when the loop has read what is there to read: one sync serves all of it
            self._scheduled = True
            self._loop.call_soon(self._flush_on_loop)

    @property
    def refusal(self) -> str | None:
        """Why evidence cannot be taken now, or None."""
        return self._refusal

    @property
    def evidence_lost(self) -> bool:
        """True once acknowledged evidence of this machine could not be read back; stays so until acknowledged."""
        return self._lost

    @property
    def queued_bytes(self) -> int:
        """Payload bytes waiting to become durable."""
        return self._queued

    async def close(self) -> None:
        """Make what waits durable, stop the threads and let go of the source."""
        if self._lock_fd < 0:
            return
        self._stopping = True
        self._signal()
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._let_go)
        await asyncio.sleep(0)  # the last acknowledgements were scheduled on this loop by the thread

    def _require_room(self, size: int) -> None:
        if self._refusal is not None or self._stopping:
            raise Unavailable(
                self._refusal or "the spool is closing",
                reason="evidence_lost" if self._lost else "evidence_unavailable",
            )
        if size > MAX_PAYLOAD:
            raise BailiwickError("The evidence of one request is too large.", reason="payload_too_large")
        if self._queued + size > self._queue_bytes:
            raise Unavailable("Too much evidence waits to be written.", reason="evidence_unavailable")

    def _flush_on_loop(self) -> None:
        waiting = len(self._queue)
        if self._waited < waiting and self._rounds < _ROUNDS:
            # while every look at the sockets brings more, one sync can serve more
            self._waited, self._rounds = waiting, self._rounds + 1
            self._loop.call_soon(self._flush_on_loop)
            return
        self._waited = self._rounds = 0
        self._scheduled = False
        if not self._queue:
            return
        if not self._writing.acquire(blocking=False):
            self._signal()
            return
        batch: list[_Item] | None = None
        try:
            segment = self._segment
            if segment is not None and segment.size - segment.end > self._queued + _ROOM_BYTES:
                started = time.perf_counter()
                batch = self._write_batch()
                self._judge_disk(time.perf_counter() - started)
        finally:
            self._writing.release()
        if batch is not None:
            self._acknowledge(batch)
        if self._queue:
            self._signal()

    def _judge_disk(self, took: float) -> None:
        """Leave the loop alone while syncs are slow on the whole; a single slow one does not count for much."""
        self._mean_sync += (min(took, 4 * _QUICK_S) - self._mean_sync) / 10
        if self._mean_sync > _QUICK_S:
            self._on_loop, self._left_loop_at = False, time.monotonic()

    def _signal(self) -> None:
        if not self._signalled:
            self._signalled = True
            self._wake.release()

    def _acknowledge(self, batch: list[_Item]) -> None:
        for frames, size, done in batch:
            self._queued -= size
            self.appended += len(frames)
            self._tell(done, None)

    def _reject(self, batch: list[_Item], why: str) -> None:
        self.refused += len(batch)
        for _, size, done in batch:
            self._queued -= size
            self._tell(done, Unavailable(why, reason="evidence_unavailable"))

    def _tell(self, done: Done, failure: Exception | None) -> None:
        try:
            done(failure)
        except Exception as error:  # noqa: BLE001 - the others of the batch must hear all the same
            self._loop.call_exception_handler({"message": "a spool callback failed", "exception": error})

    # ------------------------------------------------------------------ the writer's thread

    def _run(self) -> None:
        try:
            while True:
                if self._wake.acquire(timeout=_RETRY_S):
                    self._signalled = False
                with self._writing:
                    if self._segment is None:
                        self._recover()
                    while self._queue:
                        self._flush()
                    if self._stopping:
                        return
                self._look_for_loss()
        except RuntimeError:
            # the loop was closed under us: nobody is left to answer, and nothing unanswered was promised
            log.warning("spool writer ends with its event loop", source=self.source)

    def _flush(self) -> None:
        if self._segment is None:
            self._reject_waiting()
            return
        batch = self._write_batch()
        if batch is not None:
            self._loop.call_soon_threadsafe(self._acknowledge, batch)
        if not self._on_loop and time.monotonic() - self._left_loop_at > _RETRY_S:
            self._mean_sync, self._on_loop = 0.0, True

    def _write_batch(self) -> list[_Item] | None:
        """Write and sync what waits, as much as fits; None when that failed, and everybody was told."""
        segment = self._segment
        assert segment is not None
        batch: list[_Item] = []
        try:
            if segment.end + self._size_of(self._queue[0]) > segment.size:
                segment = self._rotate()
            data = self._gather(segment, batch)
            started = time.perf_counter()
            self._files.write(segment.fd, data, segment.end)
            self._files.sync(segment.fd)
        except OSError as error:
            self._condemn(batch, error)
            return None
        took = time.perf_counter() - started
        segment.end += len(data)
        self.syncs += 1
        self.written += len(data)
        if self._on_sync is not None:
            self._on_sync(took)
        if self._next is None and segment.end * 4 > segment.size:
            self._next = self._preparing.submit(self._prepare, self._next_number)
        return batch

    def _gather(self, segment: _Segment, batch: list[_Item]) -> bytes:
        room = min(segment.size - segment.end, _BATCH_BYTES)
        parts: list[bytes] = []
        if segment.end == 0:
            # the first frame of a segment says where the acknowledged bytes before it end
            parts.append(encode_frame(Kind.OPEN, "", open_payload(*self._previous), self._sequence, 0))
            self._sequence += 1
            room -= len(parts[0])
        while self._queue:
            item = self._queue[0]
            size = self._size_of(item)
            if size > room and batch:
                break
            room -= size
            batch.append(self._queue.popleft())
            for kind, zone, payload in item[0]:
                parts.append(encode_frame(kind, zone, payload, self._sequence, segment.end))
                self._sequence += 1
        return b"".join(parts)

    @staticmethod
    def _size_of(item: _Item) -> int:
        return sum([frame_size(zone, payload) for _, zone, payload in item[0]])

    def _condemn(self, batch: list[_Item], error: OSError) -> None:
        log.error("spool segment condemned", source=self.source, error=str(error))
        if self._segment is not None:
            self._leave(self._segment)
        why = f"Evidence cannot be written: {error.strerror or error}."
        self._refuse(why)
        if batch:
            self._loop.call_soon_threadsafe(self._reject, batch, why)
        self._reject_waiting()

    def _reject_waiting(self) -> None:
        waiting: list[_Item] = []
        while self._queue:
            waiting.append(self._queue.popleft())
        if waiting:
            self._loop.call_soon_threadsafe(self._reject, waiting, self._refusal or "the spool is closed")

    def _recover(self) -> None:
        self._reject_waiting()
        if self._stopping:
            return
        try:
            self._advance()
        except OSError as error:
            log.warning("spool still cannot be written", source=self.source, error=str(error))
            return
        log.info("spool writes again", source=self.source)
        if not self._lost:
            self._refuse(None)

    def _rotate(self) -> _Segment:
        """Go on in the next segment; the full one's file descriptor is closed, its file is the sequencer's."""
        assert self._segment is not None
        self._leave(self._segment)
        return self._advance()

    def _leave(self, segment: _Segment) -> None:
        if segment.end:
            self._previous = (segment.number, segment.end)
        self._segment = None
        os.close(segment.fd)

    def _advance(self) -> _Segment:
        pending, self._next = self._next, None
        if pending is None:
            pending = self._preparing.submit(self._prepare, self._next_number)
        self._segment = pending.result()
        self._next_number = self._segment.number + 1
        return self._segment

    def _refuse(self, why: str | None) -> None:
        if why != self._refusal:
            self._refusal = why
            if self._on_change is not None:
                self._on_change(why)

    def _look_for_loss(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < _RETRY_S and self._looked_at:
            return
        self._looked_at = now
        lost = (self.root / LOST_NAME).exists()
        if lost and not self._lost:
            self._lost = True
            self._refuse("Acknowledged evidence was lost; an operator must look at it first.")
        elif self._lost and not lost:
            self._lost = False
            if self._segment is not None:
                self._refuse(None)

    # ------------------------------------------------------------------ files

    def _found(self) -> None:
        """Create the source under a name nobody reads, and give it its own once it is locked and has a segment."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        unborn = self.root / (_UNBORN + self.source)
        unborn.mkdir(mode=0o700)
        self._lock_fd = os.open(unborn / LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            directory, self.directory = self.directory, unborn
            self._segment = self._prepare(0)
            self._next_number = 1
            unborn.rename(directory)
            self.directory = directory
            sync_directory(self.root)
        except OSError:
            os.close(self._lock_fd)
            self._lock_fd = -1
            raise

    def _prepare(self, number: int) -> _Segment:
        path = self.directory / f"{number:08d}.seg"
        path.unlink(missing_ok=True)  # an attempt that ran out of space; no frame was ever in it
        fd = self._files.create(path)
        try:
            for offset in range(0, self._segment_bytes, len(_FILL)):
                self._files.write(fd, _FILL[: self._segment_bytes - offset], offset)
                if offset % (8 << 20) == 0:
                    self._files.sync(fd)  # small portions, so that the writer's own syncs do not queue behind 64 MB
            os.fsync(fd)
            sync_directory(self.directory)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        return _Segment(number, path, fd, self._segment_bytes)

    def _let_go(self) -> None:
        self._refusal = "the spool is closed"
        self._preparing.shutdown(wait=True)
        if self._next is not None and self._next.exception() is None:
            os.close(self._next.result().fd)
        if self._segment is not None:
            os.close(self._segment.fd)
            self._segment = None
        os.close(self._lock_fd)
        self._lock_fd = -1


def settle(future: asyncio.Future[None], failure: Exception | None) -> None:
    """Resolve a future that nobody has cancelled yet."""
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def owner_alive(directory: Path) -> bool:
    """Whether the process that writes this source still runs (it holds the lock until it ends)."""
    try:
        fd = os.open(directory / LOCK_NAME, os.O_RDONLY)  # the file system may be read-only
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def latch_loss(root: Path, what: str) -> None:
    """Note, durably, that acknowledged evidence could not be read back; every spool under ``root`` then refuses.

    Raises OSError when it cannot be noted in full; what refuses is that the file is there, which needs no room.
    """
    with (root / LOST_NAME).open("a") as stream:
        sync_directory(root)
        stream.write(what + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    sync_directory(root)


def loss_of(root: Path) -> list[str]:
    """What was lost, one line each; empty when nothing was or it was acknowledged."""
    try:
        return (root / LOST_NAME).read_text().splitlines() or ["what was lost could not be noted; see the dead letters"]
    except FileNotFoundError:
        return []


def acknowledged_losses(root: Path) -> set[str]:
    """What was lost and looked at, one line each."""
    return {line for marker in root.glob(f"{LOST_NAME}.acknowledged-*") for line in marker.read_text().splitlines()}


def acknowledge_loss(root: Path) -> None:
    """Lift the latch: an operator has looked at what was lost. The note is kept beside it."""
    marker = root / LOST_NAME
    marker.rename(root / f"{LOST_NAME}.acknowledged-{time.time_ns()}")
    sync_directory(root)


def abandoned_births(root: Path, older_than_s: float = 60.0) -> list[Path]:
    """Directories of sources whose owner died before they had a name; nothing was ever acknowledged in them."""
    return [
        path
        for path in root.glob(_UNBORN + "*")
        if time.time() - path.stat().st_mtime > older_than_s and not owner_alive(path)
    ]
