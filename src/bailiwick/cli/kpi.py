"""``bailiwick kpi …``: key figures of whole months, with their targets and the month before."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from bailiwick.cli.failure import USAGE, CommandFailed, command
from bailiwick.cli.ledger import as_json
from bailiwick.cli.levels import AsJson, Desk, Output, Zone, at_desk, hand_out, show, table, verdict
from bailiwick.cli.options import DataDir, small_app

app = small_app()

Month = Annotated[str, typer.Option("--month", metavar="YYYY-MM", help="The month; by default the last whole one.")]


@app.callback()
def kpi() -> None:
    """Build and show the key figures of a month."""


@app.command()
@command
def build(month: Month = "", zone: Zone = "default", data_dir: DataDir = None, json_: AsJson = False) -> int:
    """Build the figures of a month that is over. Exits 1 where a target is missed, 3 where something is not known."""

    async def run(desk: Desk) -> int:
        since, until = _month(month, desk)
        await desk.services.kpis.build(desk.context, since, until)
        return await _show(desk, since, until, json_=json_)

    return at_desk(data_dir, zone, run)


@app.command("show")
@command
def show_figures(
    month: Month = "",
    form: Annotated[str, typer.Option("--report", metavar="md|html|pdf", help="Make the monthly report.")] = "",
    output: Output = None,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: AsJson = False,
) -> int:
    """Show the figures of a month. Exits 1 where a target is missed, 3 where something is not known."""

    async def run(desk: Desk) -> int:
        since, until = _month(month, desk)
        if form:
            made = await desk.services.register.produce(desk.context, "kpi-monthly", since, until, by=desk.by)
            hand_out(desk, made, form, output)
            return made.verdict.exit_code
        return await _show(desk, since, until, json_=json_)

    return at_desk(data_dir, zone, run)


async def _show(desk: Desk, since: datetime, until: datetime, *, json_: bool) -> int:
    from bailiwick.assurance.report.model import number
    from bailiwick.kernel.verdicts import Verdict

    async with desk.database.begin() as tx:
        told: dict[str, Any] = await desk.services.kpis.review(tx, desk.zone, since, until)
    if json_:
        print(as_json(told, indent=2))
    else:
        made = table("figure", "verdict", "now", "before", "target", "", right=(2, 3, 4))
        for each in told["figures"]:
            way = "min" if each["better"] == "higher" else "max"
            values = [number(each[name], each["unit"]) for name in ("value", "previous", "target")]
            made.add_row(each["name"], verdict(each["verdict"]), *values, way)
        show(f"{since:%Y-%m}", made)
    return Verdict(told["verdict"]).exit_code


def _month(text: str, desk: Desk) -> tuple[datetime, datetime]:
    from bailiwick.assurance.kpi import month_of

    if not text:
        return month_of(desk.clock.now())
    try:
        since = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise CommandFailed(USAGE, f"{text!r} is no month such as 2026-01") from None
    return since, (since.replace(year=since.year + since.month // 12, month=since.month % 12 + 1))
