"""How the demonstration talks: numbered steps at 80 columns, secrets masked, the first deviation ends it."""

from __future__ import annotations

import re
import sys
import time
from typing import Any

WIDTH = 78
_TOKEN = re.compile(r"eyJ[\w-]{6,}\.[\w-]+\.[\w-]+|bws_[\w-]{8,}")


class Deviation(Exception):
    """The story went another way than it must."""


class Telling:
    """Prints the steps and keeps count of what was checked."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty()
        self._number = 0
        self.checked = 0
        self._started = time.perf_counter()

    def step(self, title: str) -> None:
        """Begin the next step."""
        self._number += 1
        print(f"\n{self._paint(f'{self._number:2}', '1')}  {self._paint(title, '1')}")

    def sent(self, line: str) -> None:
        """What was sent."""
        print(f"    → {masked(line)[: WIDTH - 6]}")

    def received(self, line: str) -> None:
        """What came back."""
        print(f"    ← {masked(line)[: WIDTH - 6]}")

    def note(self, line: str) -> None:
        """A remark."""
        print(f"      {masked(line)[: WIDTH - 6]}")

    def check(self, claim: str, holds: bool, got: Any = "") -> None:
        """A claim of the story; raises :class:`Deviation` when it does not hold."""
        if not holds:
            raise Deviation(f"{claim}; got {masked(str(got))[:300]}")
        self.checked += 1
        print(f"    {self._paint('✓', '32')} {claim[: WIDTH - 6]}")

    def close(self, figures: dict[str, str]) -> None:
        """The closing lines."""
        print(f"\n{self._paint('Measured', '1')}")
        for name, value in figures.items():
            print(f"    {name:34} {value}")
        took = time.perf_counter() - self._started
        print(f"\n{self._number} steps, {self.checked} checks held, {took:.1f} s")

    def deviated(self, deviation: Deviation) -> None:
        """Say where the story broke."""
        print(f"    {self._paint('✗', '31')} {deviation}", file=sys.stderr)

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def masked(text: str) -> str:
    """The text with tokens and secrets cut to a prefix."""
    return _TOKEN.sub(lambda found: f"{found[0][:9]}…", text)
