"""Lengths of time as documents write them: ``30s``, ``5m``, ``1h``, ``7d``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import Field, StringConstraints

_PATTERN = r"^[1-9][0-9]{0,5}[smhd]$"
_WITH_NONE = r"^(0|[1-9][0-9]{0,5})[smhd]$"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Duration = Annotated[str, StringConstraints(pattern=_PATTERN), Field(examples=["5m"])]
DurationOrZero = Annotated[str, StringConstraints(pattern=_WITH_NONE), Field(examples=["0s", "5m"])]
"""One that may be none at all: ``0s``."""


def span(text: str) -> timedelta:
    """The length that ``text`` says. Raises :class:`ValueError`."""
    if re.fullmatch(_WITH_NONE[1:-1], text) is None:
        raise ValueError(f"{text!r} is no duration such as 30s, 5m, 1h or 7d")
    return timedelta(**{_UNITS[text[-1]]: int(text[:-1])})


def within(text: str, least: str, most: str) -> str:
    """``text``, where it is no shorter than ``least`` and no longer than ``most``. Raises :class:`ValueError`."""
    if not span(least) <= span(text) <= span(most):
        raise ValueError(f"{text} is not between {least} and {most}")
    return text


def told(length: timedelta) -> str:
    """A length for people, in its largest unit: ``45s``, ``12m``, ``3h``, ``9d``."""
    seconds = max(0, int(length.total_seconds()))
    for size, letter in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{letter}"
    return f"{seconds}s"
