"""What ``bailiwick up`` prints: one line per part as it comes up, then the addresses. At most 80 columns."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from bailiwick.cli.supervisor.part import State
from bailiwick.cli.supervisor.supervisor import Progress, StartFailed

WIDTH = 80
_COLOURS = {State.READY: "32", State.DONE: "32", State.FAILED: "31"}


class Screen:
    """Writes to ``stream``; colours only on a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._colour = self._stream.isatty()

    def line(self, text: str = "") -> None:
        """One line, written at once. A reader that went away does not end us."""
        try:
            print(text, file=self._stream, flush=True)
        except (BrokenPipeError, ValueError, OSError):
            return

    def begin(self, version: str, data_dir: str, *, dev: bool, clock_factor: float, shifted: bool) -> None:
        """The heading."""
        self.line(f"Bailiwick {version}  {shortened(data_dir, WIDTH - 12 - len(version))}")
        if dev:
            pace = ", time is shifted" if shifted else ""
            if clock_factor != 1:
                pace = f", time runs {clock_factor:g} times as fast"
            self.line(f"  DEVELOPMENT MODE: not for real authority; loopback only{pace}")
        self.line()

    def progress(self, step: Progress) -> None:
        """One part's line."""
        state = self._painted(f"{step.state:<7}", step.state)
        shown = step.detail if step.state is State.FAILED else step.title
        self.line(f"  {step.part:<9} {state} {step.elapsed_ms:>6.0f} ms   {shortened(shown, WIDTH - 31)}")

    def ready(self, seconds: float, addresses: Mapping[str, str], notes: Sequence[tuple[str, str]]) -> None:
        """The closing lines."""
        self.line()
        self.line(f"  ready in {seconds:.1f} s")
        self.line()
        for name, value in [*addresses.items(), *notes]:
            self.line(f"  {name:<20} {value}")
        self.line()

    def failed(self, error: StartFailed) -> None:
        """Why it did not come up, with the part's last words."""
        self.line()
        self.line(f"  {error}")
        if error.log_tail:
            self.line(f"  the last lines of {error.log}:")
            for line in error.log_tail:
                self.line(f"    {shortened(line, 300)}")

    def _painted(self, text: str, state: State) -> str:
        code = _COLOURS.get(state)
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and code else text


def shortened(text: str, width: int) -> str:
    """``text`` with what is not printable replaced, cut to ``width`` columns."""
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= width else f"{shown[: width - 1]}…"
