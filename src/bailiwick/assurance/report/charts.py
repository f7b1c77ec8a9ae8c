"""A chart of a value over time as SVG: a line, its gaps, a bound. No script, nothing from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from bailiwick.assurance.report.model import Chart, number

WIDTH, HEIGHT = 640, 180
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 24


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart laid out in a box of WIDTH by HEIGHT, y downwards, for whoever draws it."""

    lines: list[list[tuple[float, float]]]
    bound: float | None
    ticks: list[tuple[float, str]]
    dates: list[tuple[float, str]]


def lay_out(chart: Chart) -> Drawing:
    """Where everything goes."""
    values = [value for _, value in chart.points if value is not None]
    shown = [*values, *([chart.bound] if chart.bound is not None else [])] or [0.0, 1.0]
    low, high = min(shown), max(shown)
    margin = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    low, high = low - margin, high + margin
    first = chart.points[0][0].timestamp() if chart.points else 0.0
    last = chart.points[-1][0].timestamp() if chart.points else 1.0
    span = (last - first) or 1.0

    def y_of(value: float) -> float:
        return round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    def x_of(at: float) -> float:
        return round(LEFT + (at - first) / span * (WIDTH - LEFT - RIGHT), 1)

    lines: list[list[tuple[float, float]]] = [[]]
    for at, value in chart.points:
        if value is None:
            lines.append([])
        else:
            lines[-1].append((x_of(at.timestamp()), y_of(value)))
    ticks = [(y_of(value), number(value, chart.unit)) for value in (low + margin, (low + high) / 2, high - margin)]
    ends = [chart.points[0][0], chart.points[-1][0]] if chart.points else []
    return Drawing(
        [line for line in lines if line],
        y_of(chart.bound) if chart.bound is not None else None,
        ticks,
        [(x_of(at.timestamp()), at.strftime("%Y-%m-%d")) for at in ends],
    )


def svg(chart: Chart) -> str:
    """The chart as an SVG element that needs nothing else."""
    drawn = lay_out(chart)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img"'
        f' aria-label="{escape(chart.title)}" xmlns="http://www.w3.org/2000/svg" font-family="sans-serif"'
        ' font-size="11"><g fill="#555" stroke="none">'
    ]
    for y, told in drawn.ticks:
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{escape(told)}</text>')
    for place, (x, told) in enumerate(drawn.dates):
        anchor = "end" if place else "start"
        parts.append(f'<text x="{x}" y="{HEIGHT - 6}" text-anchor="{anchor}">{told}</text>')
    parts.append("</g>")
    if drawn.bound is not None:
        parts.append(f'<path d="M{LEFT} {drawn.bound}H{WIDTH - RIGHT}" stroke="#b3261e" stroke-dasharray="5 4"/>')
        parts.append(
            f'<text x="{WIDTH - RIGHT}" y="{drawn.bound - 4}" text-anchor="end" fill="#b3261e"'
            ' stroke="#fff" stroke-width="3" paint-order="stroke">'
            f"{escape(chart.bound_name)}</text>"
        )
    for line in drawn.lines:
        if len(line) == 1:
            parts.append(f'<circle cx="{line[0][0]}" cy="{line[0][1]}" r="2.5" fill="#1f5fa8"/>')
        else:
            path = " ".join(f"{x},{y}" for x, y in line)
            parts.append(f'<polyline points="{path}" fill="none" stroke="#1f5fa8" stroke-width="1.8"/>')
    if not drawn.lines:
        parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle" fill="#555">no data</text>')
    return "".join(parts) + "</svg>"


def sparkline(values: list[float | None], width: int = 20) -> str:
    """The values as a line of block characters for a terminal; a gap is a middle dot."""
    if len(values) > width:
        step = len(values) / width
        portions = [values[int(n * step) : max(int((n + 1) * step), int(n * step) + 1)] for n in range(width)]
        values = [
            sum(known) / len(known) if (known := [each for each in portion if each is not None]) else None
            for portion in portions
        ]
    told = [each for each in values if each is not None]
    if not told:
        return "·" * len(values)
    low, high = min(told), max(told)
    blocks = "▁▂▃▄▅▆▇█"
    return "".join(
        "·" if each is None else blocks[int((each - low) / (high - low) * 7) if high > low else 3] for each in values
    )
