"""``bailiwick capacity …``: what each resource uses, and in how many days it meets its limit."""

from __future__ import annotations

from typing import Annotated

import typer

from bailiwick.cli.failure import command
from bailiwick.cli.ledger import as_json
from bailiwick.cli.levels import AsJson, Desk, Format, Output, Zone, at_desk, hand_out, show, table, verdict, window
from bailiwick.cli.options import DataDir, small_app

app = small_app()


@app.callback()
def capacity() -> None:
    """Show what resources use, and when they meet their limits."""


@app.command()
@command
def report(
    make: Annotated[bool, typer.Option("--make", help="Make the weekly report, up to last midnight UTC.")] = False,
    form: Format = "md",
    output: Output = None,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: AsJson = False,
) -> int:
    """Every resource with its trend. Exits 1 where a limit is near, 3 where too little is known."""

    async def run(desk: Desk) -> int:
        from bailiwick.assurance.capacity import told_days
        from bailiwick.assurance.report.charts import sparkline
        from bailiwick.assurance.report.model import number
        from bailiwick.kernel.verdicts import worst

        if make:
            since, until = window(7, desk.clock)
            made = await desk.services.register.produce(desk.context, "capacity-weekly", since, until, by=desk.by)
            hand_out(desk, made, form, output)
            return made.verdict.exit_code
        async with desk.database.begin() as tx:
            found = await desk.services.capacities.all(tx, zone)
            points = [(await desk.services.capacities.one(tx, zone, name))[2] for name, _, _ in found]
        if json_:
            print(as_json([{"name": name, **state.document()} for name, _, state in found], indent=2))
        else:
            shown = table("resource", "verdict", "used", "limit", "days to limit", "trend", right=(2, 3))
            for (name, spec, state), series in zip(found, points, strict=True):
                shown.add_row(
                    name,
                    verdict(state.verdict),
                    number(state.value, spec.unit),
                    number(state.limit, spec.unit),
                    told_days(state.document()),
                    sparkline([each.value for each in series], 12),
                )
            show(shown)
        return worst(state.verdict for _, _, state in found).exit_code

    return at_desk(data_dir, zone, run)
