"""What looks are given to work with, and the bounds they all keep to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.evidence.siem.outgoing import Reach
from bailiwick.kernel.clock import Clock

MOST_ANSWERED = 1 << 20
"""Bytes of an answer, a file or an output that a look reads."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a look is asked for: in which zone, over which window, with how much time."""

    zone: str
    now: datetime
    window: timedelta | None
    timeout_s: float


Internal = Callable[[Asked, str], Awaitable[Found]]
"""A look at something of our own; the second argument is what the document says in ``argument``."""


@dataclass(frozen=True, slots=True)
class Means:
    """``own_database`` is the URL of our own database, past any pooler. ``files``: directories and files that probes
    may read beside ``logs``; ``programs``: the programs they may run. Without any, none."""

    reach: Reach
    clock: Clock
    own_database: str
    logs: Path
    files: Sequence[Path] = ()
    programs: Sequence[Path] = ()
    internals: Mapping[str, Internal] = field(default_factory=dict)

    def readable(self, path: str) -> Path:
        """The file, if probes may read it: what a link leads to counts. Raises :class:`LookFailed`."""
        real = Path(path).resolve()
        if any(real == allowed or allowed in real.parents for allowed in (each.resolve() for each in self.files)):
            return real
        raise LookFailed(f"{path} is not among the files that probes may read (BAILIWICK_PROBE_FILES)")

    def runnable(self, program: str) -> Path:
        """The program, if probes may run it. Raises :class:`LookFailed`."""
        if Path(program) in self.programs:
            return Path(program)
        raise LookFailed(f"{program} is not among the programs that probes may run (BAILIWICK_PROBE_PROGRAMS)")
