"""What a report is made of: blocks in order. Nothing in it knows how it will be written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from bailiwick.kernel.verdicts import Verdict

Format = Literal["md", "html", "pdf"]
MEDIA_TYPES: dict[str, str] = {
    "md": "text/markdown; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "pdf": "application/pdf",
}


@dataclass(frozen=True, slots=True)
class Heading:
    """A section begins."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A text."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts; a cell may be a verdict. ``right``: the columns of numbers, from 0."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Verdict]]
    right: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """A line of values over time; None is a gap. ``bound`` is drawn across, such as a target or a limit."""

    title: str
    points: Sequence[tuple[datetime, float | None]]
    unit: str = ""
    bound: float | None = None
    bound_name: str = ""


Block = Heading | Paragraph | Table | Chart


@dataclass(frozen=True, slots=True)
class Report:
    """A document. ``facts`` stand at its head, ``verdict`` is what it amounts to."""

    title: str
    facts: Sequence[tuple[str, str]]
    verdict: Verdict
    blocks: Sequence[Block] = field(default_factory=tuple)


def number(value: float | None, unit: str = "", digits: int = 4) -> str:
    """A figure for people; a dash where there is none."""
    if value is None:
        return "–"
    if unit == "%":
        return f"{value * 100:.{max(0, digits - 2)}f} %"
    text = f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.{digits}g}"
    return f"{text} {unit}".strip()


def moment(at: datetime | None) -> str:
    """An instant for people, in UTC to the minute."""
    return "–" if at is None else at.strftime("%Y-%m-%d %H:%M")
