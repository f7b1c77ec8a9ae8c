"""A report as one HTML page that loads nothing: styles inside, charts as SVG, no script."""

from __future__ import annotations

from html import escape

from bailiwick.assurance.report.charts import svg
from bailiwick.assurance.report.model import Block, Chart, Heading, Paragraph, Report, Table
from bailiwick.kernel.verdicts import Verdict

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The Content-Security-Policy that the page carries itself."""

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1b1b1b;max-width:52rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.3rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;width:100%;margin:.8rem 0;font-size:.9rem}
th,td{border-bottom:1px solid #ddd;padding:.3rem .5rem;text-align:left;vertical-align:top}
th{color:#555;font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;font-size:.9rem}
dt{color:#555}dd{margin:0;overflow-wrap:anywhere}
.v{font-weight:700;padding:.05rem .4rem;border-radius:.2rem;background:#eee;white-space:nowrap}
.PASS{background:#d7f0dc;color:#0b5a24}.FAIL,.ERROR{background:#fbdcd9;color:#8c1d13}
.STALE,.NO_DATA{background:#fdeecb;color:#6b4a00}figure{margin:1rem 0}figcaption{color:#555;font-size:.9rem}
svg{max-width:100%;height:auto}@media print{body{margin:0;max-width:none}}
"""


def write(report: Report) -> str:
    """The whole page."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.facts)
    body = "".join(_block(block) for block in report.blocks)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(report.title)}</h1><p>{_cell(report.verdict)}</p><dl>{facts}</dl>{body}</body></html>\n"
    )


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h2>{escape(block.text)}</h2>"
    if isinstance(block, Paragraph):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Chart):
        return f"<figure><figcaption>{escape(block.title)}</figcaption>{svg(block)}</figure>"
    return _table(block)


def _table(table: Table) -> str:
    def mark(place: int) -> str:
        return ' class="n"' if place in table.right else ""

    head = "".join(f"<th{mark(place)}>{escape(each)}</th>" for place, each in enumerate(table.columns))
    rows = "".join(
        f"<tr>{''.join(f'<td{mark(place)}>{_cell(each)}</td>' for place, each in enumerate(row))}</tr>"
        for row in table.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(value: str | Verdict) -> str:
    return f'<span class="v {value}">{value}</span>' if isinstance(value, Verdict) else escape(value)
