"""What commands show to people and are told by them: tables and texts within a terminal's width, instants."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from bailiwick.cli.failure import USAGE, CommandFailed
from bailiwick.cli.ledger import WIDTH, printable

if TYPE_CHECKING:
    from datetime import datetime

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_GAP = 3
"""Columns between two cells, at most."""
_LEAST = 8
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def cut(text: str, width: int = WIDTH) -> str:
    """A text in one line of at most ``width`` columns, and nothing that a terminal would act on."""
    clean = printable(text)
    return clean if len(clean) <= width else clean[: width - 1] + "…"


def told(value: Any) -> str:
    """A value for people."""
    from datetime import datetime

    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%m-%d %H:%M")
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(told, value))
    return printable(str(value))


def lines(text: str) -> str:
    """A text of several lines without control characters."""
    return "".join(f"{printable(line)}\n" for line in text.splitlines())


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table as wide as the terminal, or 80 columns wide where there is none.

    Cells wrap between words alone. Where the words do not fit, the longest are cut; ids never are, since people copy
    them, and the table becomes wider than it should be.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[told(cell) for cell in row] for row in rows]
    width = Console(file=sys.stdout).width if sys.stdout.isatty() else WIDTH
    widths = column_widths(columns, cells, width - _GAP * len(columns))
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    for column, columns_wide in zip(columns, widths, strict=True):
        made.add_column(column, width=columns_wide, overflow="ellipsis")
    for row in cells:
        made.add_row(*(Text(_of_words(cell, wide)) for cell, wide in zip(row, widths, strict=True)))
    wide = max(width, sum(widths) + _GAP * len(columns))
    Console(file=sys.stdout, width=wide, highlight=False).print(made)


def column_widths(columns: Sequence[str], cells: Sequence[Sequence[str]], room: int) -> list[int]:
    """How wide each column is, so that all have ``room``: first texts are wrapped, then words cut; ids stay whole."""
    texts = [[column, *(row[place] for row in cells)] for place, column in enumerate(columns)]
    whole = [max(map(len, each)) for each in texts]
    words = [max((len(word) for text in each for word in text.split()), default=1) for each in texts]
    least = [
        words[place] if any(_ID.search(text) for text in each) else min(words[place], max(_LEAST, len(columns[place])))
        for place, each in enumerate(texts)
    ]
    return _shrunk(_shrunk(whole, words, room), least, room)


def _shrunk(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """``widths`` with the widest made narrower until all have ``room``, none below its ``least``."""
    found = list(widths)
    while sum(found) > room:
        able = [place for place, width in enumerate(found) if width > least[place]]
        if not able:
            break
        found[max(able, key=lambda place: found[place])] -= 1
    return found


def moment(text: str, *, option: str = "", now: datetime | None = None) -> datetime:
    """The instant that an ISO 8601 text means, or, given ``now``, ``8h``, ``2d``, ``1w`` from then.

    Without an offset it is UTC. Ends the command for anything else.
    """
    from datetime import UTC, datetime, timedelta

    if now is not None and (found := re.fullmatch(r"\+?(\d{1,4})([mhdw])", text)):
        return now + timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        meant = datetime.fromisoformat(text)
    except ValueError:
        ways = "90m, 8h, 2d, 1w (from now) or " if now is not None else ""
        raise CommandFailed(
            USAGE, f"{option + ': ' if option else ''}{text!r} is no time; say {ways}2026-02-01T09:00:00Z"
        ) from None
    if not 2000 <= meant.year <= 2999:
        raise CommandFailed(USAGE, f"{option} {text} is out of range".strip())
    return meant if meant.tzinfo else meant.replace(tzinfo=UTC)


def shown(at: datetime) -> str:
    """An instant for people, in UTC."""
    from datetime import UTC

    return f"{at.astimezone(UTC):%a %Y-%m-%d %H:%M}Z"


def _of_words(text: str, width: int) -> str:
    return " ".join(cut(word, width) for word in text.split(" "))
