"""What a part is, and the rules of its life: states, back-off, when it counts as hung. No I/O here."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from bailiwick.kernel.processes import Child, Command

Probe = Callable[[], Awaitable[bool]]
"""Asks the running part once and answers within about a second; an exception or a time-out counts as False."""

Hook = Callable[[], Awaitable[None]]


class Spawn(Protocol):
    """Starts a process as :meth:`Child.spawn` does."""

    def __call__(
        self, command: Command, *, stdin: int | None = None, stdout: Any = None, stderr: Any = None
    ) -> Child: ...


class State(StrEnum):
    """Where a part stands."""

    WAITING = "waiting"  # for the parts before it
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    BACKING_OFF = "backing off"
    DONE = "done"  # a one-shot that succeeded
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Worker:
    """A serve worker that takes requests: what Envoy's endpoints are made of."""

    slot: str
    pid: int
    api_socket: Path
    check_socket: Path


@dataclass(frozen=True, slots=True)
class Part:
    """One child of the supervisor.

    ``stage`` orders the start: a stage begins when every part of the one before is ready. ``stop_rank`` orders the
    stop, lowest first. ``alive`` is asked for as long as the part runs, ``ready`` until it first says yes. A part
    with ``hold`` is spawned at once with that argument appended, imports what it needs and waits for a line on
    stdin, which comes when its stage begins; a closed stdin means that there is nobody left to wait for.
    """

    name: str
    command: Callable[[], Command]
    ready: Probe
    alive: Probe
    stage: int
    stop_rank: int
    title: str = ""
    start_seconds: float = 30.0
    hang_seconds: float = 5.0
    drain_seconds: float = 10.0
    stop_ladder: Sequence[tuple[signal.Signals, float]] | None = None  # default: SIGTERM for drain_seconds
    hold: str | None = None
    once: bool = False
    before_start: Hook | None = None
    before_stop: Hook | None = None
    on_exit: Callable[[Exit], Awaitable[None]] | None = None
    worker: tuple[Path, Path] | None = None  # (api socket, check socket) of a serve worker
    spawn: Spawn = Child.spawn
    stdin: Callable[[], int] | None = None  # a descriptor for its standard input, ours to close when it has started

    @property
    def ladder(self) -> Sequence[tuple[signal.Signals, float]]:
        """The signals that stop it, each with the seconds it gets."""
        return self.stop_ladder or ((signal.SIGTERM, self.drain_seconds),)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a part ended. ``expected`` is True when we asked for it; ``cause`` is one phrase for a person."""

    part: str
    pid: int
    code: int
    expected: bool
    cause: str


@dataclass(frozen=True, slots=True)
class Pace:
    """Every delay of the supervisor, in seconds."""

    first_backoff: float = 0.1
    longest_backoff: float = 10.0
    healthy_after: float = 60.0
    probe_every: float = 1.0
    probe_limit: float = 1.0
    start_poll: float = 0.02
    start_attempts: int = 3


@dataclass(slots=True)
class Backoff:
    """Doubles from the first delay to the longest; starts over after a long enough healthy life."""

    pace: Pace
    _failures: int = 0

    def next_delay(self, lived: float) -> float:
        """The delay before the next start of a part that lived ``lived`` seconds after it became ready."""
        if lived >= self.pace.healthy_after:
            self._failures = 0
        delay = self.pace.first_backoff * 2.0 ** min(self._failures, 32)
        self._failures += 1
        return min(delay, self.pace.longest_backoff)


@dataclass(slots=True)
class Pulse:
    """Decides when a part that does not answer counts as hung.

    Time alone is not enough: after we ourselves were stopped for a while, one probe has failed long ago and none since.
    """

    hang_seconds: float
    _first_miss: float | None = None
    _misses: int = 0

    def beat(self, answered: bool, now: float) -> bool:
        """Record a probe that ended at monotonic ``now``; True when the part is hung."""
        if answered:
            self._first_miss, self._misses = None, 0
            return False
        self._misses += 1
        if self._first_miss is None:
            self._first_miss = now
        return self._misses >= 3 and now - self._first_miss >= self.hang_seconds


@dataclass(slots=True)
class Facts:
    """What is known of a part, as it stands in ``status.json``."""

    name: str
    state: State = State.WAITING
    pid: int | None = None
    started_ticks: int | None = None  # with the pid, names the process for good
    since: str | None = None  # RFC 3339, of the running process
    restarts: int = 0  # after a death or a hang; not those that were asked for
    last_exit: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "state": str(self.state),
            "pid": self.pid,
            "started_ticks": self.started_ticks,
            "since": self.since,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            **self.extra,
        }


def describe_exit(code: int) -> str:
    """``exit 3`` or ``SIGKILL`` for a return code as :mod:`subprocess` gives it."""
    if code >= 0:
        return f"exit {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
