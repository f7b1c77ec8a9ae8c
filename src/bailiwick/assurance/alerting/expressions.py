"""Expressions over the metrics of this installation: a small part of PromQL, which is all a rule of our own needs.

``sum(http_requests_total{status=~"5*"}) / sum(http_requests_total)``, ``rate(x_total[5m])``, ``max(x) * 100 > …``:
numbers, ``+ - * /``, parentheses, ``sum avg min max count`` of a selector, ``increase`` and ``rate`` of one over a
window. Regular expressions are shell patterns here (see ``notices/routes.py``). What is not there has no value, and
neither has anything made of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Protocol

from prometheus_client.parser import text_string_to_metric_families

from bailiwick.assurance.notices.routes import Matcher, all_hold

Series = Mapping[str, float]
"""Value by series; a series is written as its labels, sorted."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<text>\"[^\"\\\x00-\x1f]{0,200}\")"
    r"|(?P<window>\[[1-9]\d{0,4}[smhd]\])|(?P<sign>=~|!~|!=|[-+*/(){},=]))"
)
_FOLDS: dict[str, Callable[[Sequence[float]], float]] = {
    "sum": math.fsum,
    "avg": lambda values: math.fsum(values) / len(values),
    "min": min,
    "max": max,
    "count": lambda values: float(len(values)),
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MOST_TEXT, MOST_DEPTH = 1000, 30


class BadExpression(ValueError):
    """An expression that cannot be read; its text says where."""


@dataclass(frozen=True, slots=True)
class Selector:
    """The series of one metric whose labels meet every matcher."""

    metric: str
    matchers: tuple[Matcher, ...]

    @property
    def text(self) -> str:
        """As it is written."""
        return f"{self.metric}{{{','.join(f'{m.name}{m.operator}{m.value}' for m in self.matchers)}}}"


class Figures(Protocol):
    """What an expression is computed from."""

    def now(self, selector: Selector) -> Series:
        """The series as they are."""
        ...

    def since(self, selector: Selector, window: timedelta) -> Sequence[Series] | None:
        """The series at moments of the window, oldest first, the present last; None where it is not covered yet."""
        ...


@dataclass(frozen=True, slots=True)
class Expression:
    """A readable expression. ``compute`` answers None where something it needs is not there."""

    text: str
    compute: Callable[[Figures], float | None]
    selectors: tuple[tuple[Selector, timedelta], ...]


def read(text: str) -> Expression:
    """The expression of a text. Raises :class:`BadExpression`."""
    if len(text) > MOST_TEXT:
        raise BadExpression(f"an expression has at most {MOST_TEXT} characters")
    reader = _Reader(text)
    compute = reader.sum_()
    reader.end()
    return Expression(text, compute, tuple(reader.selectors))


Node = Callable[[Figures], float | None]


class _Reader:
    def __init__(self, text: str) -> None:
        self.selectors: list[tuple[Selector, timedelta]] = []
        self._tokens: list[tuple[str, str]] = []
        self._depth = 0
        place = 0
        text = text.rstrip()
        while place < len(text):
            found = _TOKEN.match(text, place)
            if found is None or found.lastgroup is None:
                raise BadExpression(f"cannot read the expression at {text[place : place + 20]!r}")
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            place = found.end()
        self._tokens.append(("end", ""))

    def _next(self) -> tuple[str, str]:
        return self._tokens.pop(0) if len(self._tokens) > 1 else self._tokens[0]

    def _take(self, *texts: str) -> str:
        kind, text = self._tokens[0]
        if kind == "sign" and text in texts:
            self._next()
            return text
        return ""

    def _need(self, text: str) -> None:
        if not self._take(text):
            raise BadExpression(f"{text!r} is missing before {self._tokens[0][1] or 'the end'!r}")

    def end(self) -> None:
        if self._tokens[0][0] != "end":
            raise BadExpression(f"{self._tokens[0][1]!r} is too much")

    def sum_(self) -> Node:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise BadExpression("the expression is too deep")
        left = self._product()
        while sign := self._take("+", "-"):
            left = _joined(left, self._product(), sign)
        self._depth -= 1
        return left

    def _product(self) -> Node:
        left = self._factor()
        while sign := self._take("*", "/"):
            left = _joined(left, self._factor(), sign)
        return left

    def _factor(self) -> Node:
        if self._take("("):
            inner = self.sum_()
            self._need(")")
            return inner
        kind, text = self._next()
        if kind == "number":
            value = float(text)
            return lambda figures: value
        if kind != "name":
            raise BadExpression(f"a number or a metric is missing before {text or 'the end'!r}")
        if text in _FOLDS and self._take("("):
            return self._fold(_FOLDS[text])
        if text in ("increase", "rate") and self._take("("):
            return self._growth(per_second=text == "rate")
        selector = self._selector(text)
        self.selectors.append((selector, timedelta(0)))

        def only(figures: Figures) -> float | None:
            values = list(figures.now(selector).values())
            return values[0] if len(values) == 1 else None

        return only

    def _fold(self, fold: Callable[[Sequence[float]], float]) -> Node:
        if self._tokens[0] in (("name", "increase"), ("name", "rate")):
            rate = self._next()[1] == "rate"
            self._need("(")
            inner = self._growth(per_second=rate)
            self._need(")")
            return inner  # growth is of all series together
        selector = self._selector(self._metric())
        self._need(")")
        self.selectors.append((selector, timedelta(0)))

        def folded(figures: Figures) -> float | None:
            values = list(figures.now(selector).values())
            return fold(values) if values else None

        return folded

    def _growth(self, *, per_second: bool) -> Node:
        selector = self._selector(self._metric())
        kind, text = self._next()
        if kind != "window":
            raise BadExpression("increase and rate have a window such as [5m]")
        self._need(")")
        window = timedelta(seconds=int(text[1:-2]) * _UNITS[text[-2]])
        self.selectors.append((selector, window))

        def grown(figures: Figures) -> float | None:
            points = figures.since(selector, window)
            if points is None:
                return None
            total = increase(points)
            return total / window.total_seconds() if per_second else total

        return grown

    def _metric(self) -> str:
        kind, text = self._next()
        if kind != "name":
            raise BadExpression(f"a metric is missing before {text or 'the end'!r}")
        return text

    def _selector(self, metric: str) -> Selector:
        matchers = []
        if self._take("{"):
            while not self._take("}"):
                kind, name = self._next()
                operator = self._take("=", "!=", "=~", "!~")
                value_kind, value = self._next()
                if kind != "name" or not operator or value_kind != "text":
                    raise BadExpression('a condition is written as name="value"')
                matchers.append(Matcher(name, operator, value[1:-1].replace(".*", "*")))
                if not self._take(","):
                    self._need("}")
                    break
        return Selector(metric, tuple(matchers))


def _joined(left: Node, right: Node, sign: str) -> Node:
    def joined(figures: Figures) -> float | None:
        a, b = left(figures), right(figures)
        if a is None or b is None or (sign == "/" and b == 0):
            return None
        return a + b if sign == "+" else a - b if sign == "-" else a * b if sign == "*" else a / b

    return joined


def increase(points: Sequence[Series]) -> float:
    """By how much counters grew from the first to the last point, all series together.

    One that begins again at zero (a restart) counts from zero, and so does a series that was not there before.
    """
    grown = 0.0
    for before, after in pairwise(points):
        for name, value in after.items():
            earlier = before.get(name, 0.0)
            grown += value - earlier if value >= earlier else value
    return grown


def exported(text: str) -> Mapping[str, Sequence[tuple[Mapping[str, str], float]]]:
    """The samples of an export in Prometheus' text form, by metric."""
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, float(sample.value)))
    return found


def select(samples: Mapping[str, Sequence[tuple[Mapping[str, str], float]]], selector: Selector) -> dict[str, float]:
    """The series of ``selector`` in an export."""
    found = {}
    for labels, value in samples.get(selector.metric, ()):
        if all_hold(selector.matchers, labels) and math.isfinite(value):
            found[",".join(f"{name}={labels[name]}" for name in sorted(labels))] = value
    return found


@dataclass(frozen=True, slots=True)
class Kept:
    """Figures out of one export and what was kept of earlier ones: moments with the series of a selector."""

    samples: Mapping[str, Sequence[tuple[Mapping[str, str], float]]]
    history: Mapping[str, Sequence[tuple[datetime, Series]]]
    at: datetime

    def now(self, selector: Selector) -> Series:
        """See :class:`Figures`."""
        return select(self.samples, selector)

    def since(self, selector: Selector, window: timedelta) -> Sequence[Series] | None:
        """See :class:`Figures`: a window is covered from half of it on."""
        present = self.now(selector)
        if not present and selector.metric not in self.samples:
            return None
        points = [(at, series) for at, series in self.history.get(selector.text, ()) if at >= self.at - window]
        if not points or self.at - points[0][0] < window / 2:
            return None
        return [*(series for _, series in points), present]
