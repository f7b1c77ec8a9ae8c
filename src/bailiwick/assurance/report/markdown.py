"""A report as Markdown; a chart as the table of its beginning, lowest, highest and end."""

from __future__ import annotations

from collections.abc import Sequence

from bailiwick.assurance.report.model import Block, Chart, Heading, Paragraph, Report, Table, number


def write(report: Report) -> str:
    """The whole text."""
    lines = [f"# {_plain(report.title)}", "", f"**{report.verdict}**", ""]
    lines += [f"- {_plain(name)}: {_plain(value)}" for name, value in report.facts]
    for block in report.blocks:
        lines += ["", *_block(block)]
    return "\n".join(lines) + "\n"


def _block(block: Block) -> list[str]:
    if isinstance(block, Heading):
        return [f"## {_plain(block.text)}"]
    if isinstance(block, Paragraph):
        return [_plain(block.text)]
    if isinstance(block, Chart):
        return _chart(block)
    return _table(block)


def _table(table: Table) -> list[str]:
    rule = ["--:" if place in table.right else "---" for place in range(len(table.columns))]
    return [_row(table.columns), f"|{'|'.join(rule)}|", *(_row(row) for row in table.rows)]


def _chart(chart: Chart) -> list[str]:
    known = [value for _, value in chart.points if value is not None]
    if not known:
        return [f"{_plain(chart.title)}: no data"]
    told = [number(value, chart.unit) for value in (known[0], min(known), max(known), known[-1])]
    return [f"{_plain(chart.title)}: {told[0]} at first, between {told[1]} and {told[2]}, {told[3]} at last"]


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(_plain(str(cell)) for cell in cells)} |"


def _plain(text: str) -> str:
    """Nothing of a name becomes markup, or a row of its own."""
    text = " ".join(text.split())
    return "".join(f"\\{each}" if each in "\\`*_[]<>|#" else each for each in text)
