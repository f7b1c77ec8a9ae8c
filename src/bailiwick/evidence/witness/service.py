"""The witness's judgement: does this checkpoint continue what was seen of its log? Only then does it cosign."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from bailiwick.evidence.tlog_witness import AddCheckpoint, Malformed, answer_of
from bailiwick.evidence.witness.memory import Memory
from bailiwick.kernel.clock import Clock
from bailiwick_verify.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from bailiwick_verify.epochs import origin_in, split_origin
from bailiwick_verify.merkle import EMPTY_ROOT, verify_consistency
from bailiwick_verify.note import NoteError, Signer, VerifierKey, parse_note

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. ``size`` says that the body is a tree size, as 409 has it."""

    status: int
    body: bytes
    size: bool = False


class Witness:
    """Answers ``add-checkpoint`` for the logs whose keys it was given. One request at a time, from any thread.

    ``fault`` is called with the name of every step; the tests die there.
    """

    def __init__(
        self,
        memory: Memory,
        signer: Signer,
        logs: Iterable[VerifierKey],
        clock: Clock,
        *,
        fault: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._memory = memory
        self._signer = signer
        self._clock = clock
        self._fault = fault
        self._one = threading.Lock()
        self._logs: dict[str, list[VerifierKey]] = {}
        for key in logs:
            self._logs.setdefault(key.name, []).append(key)

    @property
    def key(self) -> VerifierKey:
        """What this witness's cosignatures are verified with."""
        return self._signer.key.as_cosigner()

    @property
    def logs(self) -> list[str]:
        """The origins of the logs followed."""
        return sorted(self._logs)

    def add_checkpoint(self, body: bytes) -> Answer:
        """Judge a request, remember the checkpoint, and cosign it; raises OSError where it cannot be remembered."""
        try:
            request = AddCheckpoint.parse(body)
            checkpoint = parse_checkpoint(parse_note(request.checkpoint).text)
        except (Malformed, NoteError) as error:
            return _refused(400, str(error))
        # who follows a log follows what continues it: it is signed by the same keys
        keys = self._logs.get(checkpoint.origin) or self._logs.get(split_origin(checkpoint.origin)[0])
        if keys is None:
            return _refused(404, "this witness does not follow that log")
        try:
            open_checkpoint(request.checkpoint, keys)
        except NoteError as error:
            return _refused(403, str(error))
        if request.old > checkpoint.size:
            return _refused(400, "the old size is above the new one")
        with self._one:  # from the look at what was seen to the answer
            return self._judge(request, checkpoint)

    def _judge(self, request: AddCheckpoint, checkpoint: Checkpoint) -> Answer:
        seen = self._memory.last(checkpoint.origin)
        if (why := self._breaks_off(checkpoint)) is not None:
            log.critical("continuation refused", origin=checkpoint.origin, why=why)
            return _refused(422, why)
        size, root = (seen.size, seen.root) if seen is not None else (0, EMPTY_ROOT)
        if seen is not None and checkpoint.size == size and checkpoint.root != root:
            log.critical("a log has signed two histories", origin=checkpoint.origin, size=size)
            self._memory.keep_fork(request.checkpoint)
            return _conflict(size)
        if request.old != size:
            return _conflict(size)
        if not verify_consistency(size, checkpoint.size, root, checkpoint.root, request.proof):
            log.warning("proof refused", origin=checkpoint.origin, seen=size, size=checkpoint.size)
            return _refused(422, "the proof does not lead from the tree that was seen to this one")
        self._fault("judged")
        if seen != checkpoint:
            self._memory.remember(checkpoint, request.checkpoint)
        self._fault("remembered")
        text = checkpoint.text()
        line = self._signer.cosign(text, int(self._clock.time()))
        log.info("cosigned", origin=checkpoint.origin, size=checkpoint.size)
        return Answer(200, answer_of([line]))

    def _breaks_off(self, checkpoint: Checkpoint) -> str | None:
        """Why this cannot be how its log goes on, by what was seen of those it continues and of what continues it."""
        base, epoch = split_origin(checkpoint.origin)
        if self._memory.last(origin_in(base, epoch + 1)) is not None:
            return f"{checkpoint.origin} has ended: what continues it was seen"
        for line in checkpoint.continued:
            before = self._memory.last(origin_in(base, line.epoch - 1))
            if before is None:
                continue
            if before.size > line.known:
                return f"{before.origin} had {before.size} entries, and is continued as if it had had {line.known}"
            if before.size == line.known and before.root != line.root:
                return f"{before.origin} is continued from other {line.known} entries than were seen"
        return None


def _refused(status: int, why: str) -> Answer:
    return Answer(status, f"{why}\n".encode())


def _conflict(size: int) -> Answer:
    return Answer(409, f"{size}\n".encode(), size=True)
