"""``bailiwick slo …``: service levels, their budgets and burn, reports on them, and their Prometheus rules."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bailiwick.cli.failure import command
from bailiwick.cli.ledger import as_json
from bailiwick.cli.levels import AsJson, Desk, Format, Output, Zone, at_desk, hand_out, show, table, verdict, window
from bailiwick.cli.options import DataDir, small_app

app = small_app()

Name = Annotated[str, typer.Argument(metavar="NAME", help="The service level.")]


@app.callback()
def slo() -> None:
    """Show service levels, what is left of their error budgets, and report on them."""


@app.command("list")
@command
def list_levels(zone: Zone = "default", data_dir: DataDir = None, json_: AsJson = False) -> int:
    """Every service level. Exits 1 where one fails, 3 where nothing is known."""

    async def run(desk: Desk) -> int:
        from datetime import timedelta

        from bailiwick.assurance.report.charts import sparkline
        from bailiwick.assurance.report.model import number
        from bailiwick.kernel.verdicts import worst

        async with desk.database.begin() as tx:
            found = await desk.services.levels.all(tx, zone)
            days = [await desk.services.levels.history(tx, zone, level, timedelta(days=7), 28) for level, _ in found]
        if json_:
            print(as_json([{**level.document(), **state.document()} for level, state in found], indent=2))
        else:
            made = table("level", "verdict", "good", "target", "budget", "7 days", right=(2, 3, 4))
            for (level, state), series in zip(found, days, strict=True):
                made.add_row(
                    level.name,
                    verdict(state.verdict),
                    number(state.sli, "%", 5),
                    number(state.target, "%", 4),
                    number(state.left, "%", 2),
                    sparkline([good / total if total else None for _, good, total in series], 14),
                )
            show(made)
        return worst(state.verdict for _, state in found).exit_code

    return at_desk(data_dir, zone, run)


@app.command("show")
@command
def show_level(name: Name, zone: Zone = "default", data_dir: DataDir = None, json_: AsJson = False) -> int:
    """One service level with its budget. Exits by its verdict."""
    return _one(name, zone, data_dir, json_=json_, burns=False)


@app.command()
@command
def burn(name: Name, zone: Zone = "default", data_dir: DataDir = None, json_: AsJson = False) -> int:
    """How fast one budget burns. Exits 1 where that is fast enough for an alert, 3 without data."""
    return _one(name, zone, data_dir, json_=json_, burns=True)


def _one(name: str, zone: str, data_dir: Any, *, json_: bool, burns: bool) -> int:
    async def run(desk: Desk) -> int:
        from bailiwick.assurance.report.model import moment, number
        from bailiwick.assurance.slo.budgets import REASONS_TOLD

        async with desk.database.begin() as tx:
            level, state = await desk.services.levels.one(tx, zone, name)
            trouble = (await desk.services.levels.troubles(tx, zone)).get(name, "")
        if json_:
            print(as_json({**level.document(), **state.document(), "trouble": trouble}, indent=2))
        elif burns:
            made = table("over", "and", "burns", "", "alert at", "severity", "alert", right=(2, 3, 4))
            for each in state.burns:
                told = {None: "no data", True: "FIRING", False: "quiet" if each.reachable else "out of reach"}
                row = each.document()
                made.add_row(
                    row["long"], row["short"], number(each.long_rate), number(each.short_rate), f"{each.rule.factor}",
                    each.rule.severity, told[each.firing],
                )  # fmt: skip
            show(f"{name}: error budget {number(state.left, '%', 3)} left", made)
        else:
            made = table("", "")
            for label, text in (
                ("verdict", f"{state.verdict}: {REASONS_TOLD[state.reason]}"),
                ("promise", level.spec.description or name),
                (
                    "good",
                    f"{number(state.sli, '%', 6)} of {state.tally.total:,}; target {number(state.target, '%', 5)}",
                ),
                ("budget", f"{number(state.left, '%', 4)} left, {state.tally.bad:,} were bad"),
                ("window", f"{level.spec.windows[0].duration}, {number(state.coverage, '%', 4)} of it measured"),
                ("measured", f"until {moment(state.at)} UTC" + (f"; {trouble}" if trouble else "")),
                ("owner", level.spec.ours.owner),
            ):
                made.add_row(label, text)
            show(made)
        if burns:
            judged = [each.firing for each in state.burns]
            return 1 if any(judged) else 3 if not judged or None in judged else 0
        return state.verdict.exit_code

    return at_desk(data_dir, zone, run)


@app.command()
@command
def report(
    days: Annotated[int, typer.Option("--days", min=7, max=30, help="7 or 30 days, up to last midnight UTC.")] = 7,
    form: Format = "md",
    output: Output = None,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: AsJson = False,
) -> int:
    """Make the report of the last 7 or 30 whole days, or show the one that was made. Exits by its verdict."""

    async def run(desk: Desk) -> int:
        from bailiwick.cli.failure import USAGE, CommandFailed

        if days not in (7, 30):
            raise CommandFailed(USAGE, "a report is of 7 or of 30 days")
        since, until = window(days, desk.clock)
        kind = "slo-weekly" if days == 7 else "slo-30d"
        made = await desk.services.register.produce(desk.context, kind, since, until, by=desk.by)
        if json_:
            print(as_json(made.document(whole=True), indent=2))
        else:
            hand_out(desk, made, form, output)
        return made.verdict.exit_code

    return at_desk(data_dir, zone, run)


@app.command()
@command
def rules(zone: Zone = "default", data_dir: DataDir = None) -> int:
    """Print the Prometheus rules of the service levels in force."""

    async def run(desk: Desk) -> int:
        from bailiwick.assurance.slo.rules import rules_file

        async with desk.database.begin() as tx:
            found = await desk.services.levels.all(tx, zone)
        print(rules_file(level for level, _ in found), end="")
        return 0 if found else 3

    return at_desk(data_dir, zone, run)
