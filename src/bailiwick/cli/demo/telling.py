"""How the story is told: numbered steps, what was sent and received, in 80 columns, without its secrets."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from textwrap import wrap
from typing import Any, TextIO

WIDTH = 80
_MARGIN = 4
_MOST_LINES = 3
_SHOWN_OF_SECRET = 6
_SECRET_FIELDS = frozenset(
    {
        "access_token",
        "client_secret",
        "current_password",
        "new_password",
        "password",
        "subject_token",
        "token",
        "value",
    }
)
_BOLD, _DIM, _GREEN, _RED = "1", "2", "32", "31"


class Deviation(Exception):
    """The story went otherwise than told: what should have been, and what was."""

    def __init__(self, expected: str, got: str) -> None:
        self.expected = expected
        self.got = got
        super().__init__(f"expected {expected}, got {got}")


def check(holds: bool, expected: str, got: object) -> None:
    """Raise :class:`Deviation` unless ``holds``."""
    if not holds:
        raise Deviation(expected, got if isinstance(got, str) else json.dumps(got, default=str, ensure_ascii=False))


class Teller:
    """Prints to ``out`` unless ``silent``. Whatever was passed to :meth:`conceal` is shown by its beginning only."""

    def __init__(self, out: TextIO = sys.stdout, *, silent: bool = False) -> None:
        self._out = out
        self._silent = silent
        self._colour = out.isatty()
        self._secrets: list[str] = []
        self._places: dict[str, str] = {}

    def conceal(self, *secrets: str) -> None:
        """From now on these are masked wherever they would be shown."""
        for secret in secrets:
            if len(secret) > _SHOWN_OF_SECRET and secret not in self._secrets:
                self._secrets.append(secret)
        self._secrets.sort(key=len, reverse=True)  # one may hold another

    def call(self, places: Mapping[str, str]) -> None:
        """Show URLs by the name of their place: ``places`` maps base URLs to names."""
        self._places.update(places)

    def masked(self, text: str) -> str:
        """``text`` with only the beginning of each secret in it."""
        for secret in self._secrets:
            text = text.replace(secret, f"{secret[:_SHOWN_OF_SECRET]}…")
        return text

    def blank(self) -> None:
        """An empty line."""
        self._print("")

    def line(self, text: str, *, style: str = "") -> None:
        """One line, cut at the width."""
        text = self.masked(text)
        self._print(text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…", style)

    def title(self, text: str) -> None:
        """A heading."""
        self.line(text, style=_BOLD)

    def step(self, number: int, title: str) -> None:
        """A step begins."""
        self.blank()
        self.line(f"{number:>2}  {title}", style=_BOLD)

    def sent(self, method: str, where: str, fields: Mapping[str, Any], bearer: str = "") -> None:
        """A request as it leaves."""
        for base, name in self._places.items():
            if where.startswith(f"{base}/"):
                where = f"{name} {where.removeprefix(base)}"
        self._exchange("→", f"{method} {where}", [*([f"Bearer {bearer}"] if bearer else []), *self._pairs(fields)])

    def received(self, status: int, fields: Mapping[str, Any], ms: float) -> None:
        """Its answer, after ``ms`` milliseconds."""
        self._exchange("←", str(status), [*self._pairs(fields), f"({ms:.1f} ms)"])

    def note(self, text: str) -> None:
        """Something else that was seen."""
        self._sentence("·", text, _DIM)

    def passed(self, text: str, ms: float) -> None:
        """A step went as it should, in ``ms`` milliseconds."""
        self._sentence("✓", text, _GREEN, f"{ms:,.0f} ms")

    def failed(self, deviation: Deviation) -> None:
        """A step did not."""
        self._sentence("✗", f"expected {deviation.expected}", _RED)
        self._sentence(" ", f"got {deviation.got}"[:1200], _RED)

    def _pairs(self, fields: Mapping[str, Any]) -> list[str]:
        shown = []
        for name, value in fields.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            if name in _SECRET_FIELDS and isinstance(value, str):
                self.conceal(value)
            shown.append(self.masked(f"{name}={text}"))
        return shown

    def _exchange(self, arrow: str, head: str, parts: Iterable[str]) -> None:
        self._lines(arrow, "  ".join([head, *parts]), _DIM, _MOST_LINES)

    def _sentence(self, sign: str, text: str, style: str, aside: str = "") -> None:
        self._lines(sign, text, style, 40, aside)

    def _lines(self, sign: str, text: str, style: str, most: int, aside: str = "") -> None:
        """Wrapped at the width; ``aside`` stands at the right end of the first line."""
        margin = " " * _MARGIN
        lines = wrap(
            self.masked(text),
            WIDTH - (len(aside) + 2 if aside else 0),
            initial_indent=f"{margin}{sign} ",
            subsequent_indent=f"{margin}  ",
            max_lines=most,
            placeholder=" …",
            break_on_hyphens=False,
        )
        for number, line in enumerate(lines):
            self._print(f"{line:<{WIDTH - len(aside)}}{aside}" if aside and number == 0 else line, style)

    def _print(self, text: str, style: str = "") -> None:
        if self._silent:
            return
        coloured = f"\x1b[{style}m{text}\x1b[0m" if self._colour and style else text
        print(coloured, file=self._out, flush=True)
