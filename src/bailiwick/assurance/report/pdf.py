"""A report as PDF, by fpdf2 with the fonts that every reader has; charts are drawn as lines."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

from fpdf import FPDF
from fpdf.fonts import FontFace

from bailiwick.assurance.report.charts import HEIGHT, LEFT, RIGHT, WIDTH, lay_out
from bailiwick.assurance.report.model import Block, Chart, Heading, Paragraph, Report, Table
from bailiwick.kernel.verdicts import Verdict

_COLOURS = {Verdict.PASS: (215, 240, 220), Verdict.FAIL: (251, 220, 217), Verdict.ERROR: (251, 220, 217)}
_WAITING = (253, 238, 203)
_FROM_UNICODE = {"–": "-", "—": "-", "…": "...", "’": "'", "“": '"', "”": '"', "≥": ">=", "≤": "<=", "→": "->"}


def write(report: Report, made_at: datetime | None = None) -> bytes:
    """The whole document. ``made_at`` is its date, so that the same report is the same file."""
    pdf = FPDF(format="A4")
    pdf.set_creation_date(made_at or datetime(2000, 1, 1, tzinfo=UTC))
    pdf.set_title(_latin(report.title))
    pdf.set_auto_page_break(True, margin=15)
    pdf.add_page()
    pdf.set_font("Helvetica", "B", 17)
    pdf.multi_cell(0, 9, _latin(report.title), new_x="LMARGIN", new_y="NEXT")
    pdf.set_font("Helvetica", "B", 11)
    pdf.set_fill_color(*_COLOURS.get(report.verdict, _WAITING))
    pdf.cell(26, 7, str(report.verdict), fill=True, align="C", new_x="LMARGIN", new_y="NEXT")
    pdf.set_fill_color(255, 255, 255)
    pdf.ln(2)
    for name, value in report.facts:
        pdf.set_font("Helvetica", "B", 9)
        pdf.cell(34, 5, _latin(name))
        pdf.set_font("Helvetica", "", 9)
        pdf.multi_cell(0, 5, _latin(value), new_x="LMARGIN", new_y="NEXT")
    for block in report.blocks:
        _block(pdf, block)
    return bytes(pdf.output())


def _block(pdf: FPDF, block: Block) -> None:
    if isinstance(block, Heading):
        pdf.ln(4)
        pdf.set_font("Helvetica", "B", 12)
        pdf.multi_cell(0, 7, _latin(block.text), new_x="LMARGIN", new_y="NEXT")
    elif isinstance(block, Paragraph):
        pdf.set_font("Helvetica", "", 9)
        pdf.multi_cell(0, 5, _latin(block.text), new_x="LMARGIN", new_y="NEXT")
    elif isinstance(block, Chart):
        _chart(pdf, block)
    else:
        _table(pdf, block)


def _table(pdf: FPDF, table: Table) -> None:
    pdf.ln(1)
    pdf.set_font("Helvetica", "", 8)
    pdf.set_draw_color(200, 200, 200)
    aligned = tuple("RIGHT" if place in table.right else "LEFT" for place in range(len(table.columns)))
    widths = tuple(max(6, *(min(34, len(str(row[place]))) for row in [table.columns, *table.rows]))
                   for place in range(len(table.columns)))  # fmt: skip
    with pdf.table(
        text_align=aligned, col_widths=widths, line_height=5, headings_style=FontFace(emphasis="BOLD")
    ) as written:
        for row in [table.columns, *table.rows]:
            line = written.row()
            for cell in row:
                fill = _COLOURS.get(cell, _WAITING) if isinstance(cell, Verdict) else None
                line.cell(_latin(str(cell)), style=FontFace(fill_color=fill) if fill else None)


def _chart(pdf: FPDF, chart: Chart) -> None:
    width = pdf.epw
    scale = width / WIDTH
    pdf.ln(2)
    if pdf.get_y() + HEIGHT * scale + 8 > pdf.h - 15:
        pdf.add_page()
    pdf.set_font("Helvetica", "", 9)
    pdf.multi_cell(0, 5, _latin(chart.title), new_x="LMARGIN", new_y="NEXT")
    left, top, drawn = pdf.l_margin, pdf.get_y(), lay_out(chart)
    pdf.set_font("Helvetica", "", 7)
    pdf.set_draw_color(221, 221, 221)
    for y, told in drawn.ticks:
        pdf.line(left + LEFT * scale, top + y * scale, left + (WIDTH - RIGHT) * scale, top + y * scale)
        pdf.set_xy(left, top + y * scale - 2)
        pdf.cell((LEFT - 4) * scale, 4, _latin(told), align="R")
    for place, (x, told) in enumerate(drawn.dates):
        pdf.set_xy(left + x * scale - (24 if place else 0), top + (HEIGHT - 16) * scale)
        pdf.cell(24, 4, told, align="R" if place else "L")
    if drawn.bound is not None:
        pdf.set_draw_color(179, 38, 30)
        pdf.set_dash_pattern(dash=1.5, gap=1)
        pdf.line(left + LEFT * scale, top + drawn.bound * scale, left + (WIDTH - RIGHT) * scale,
                 top + drawn.bound * scale)  # fmt: skip
        pdf.set_dash_pattern()
    pdf.set_draw_color(31, 95, 168)
    for line in drawn.lines:
        for (x1, y1), (x2, y2) in pairwise(line):
            pdf.line(left + x1 * scale, top + y1 * scale, left + x2 * scale, top + y2 * scale)
    if not drawn.lines:
        pdf.set_xy(left, top + HEIGHT * scale / 2)
        pdf.cell(width, 4, "no data", align="C")
    pdf.set_draw_color(0, 0, 0)
    pdf.set_xy(left, top + HEIGHT * scale + 1)


def _latin(text: str) -> str:
    """What the built-in fonts can show; other characters become a question mark."""
    text = "".join(_FROM_UNICODE.get(each, each) for each in text)
    return text.encode("latin-1", "replace").decode("latin-1")
