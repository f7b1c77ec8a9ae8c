"""``bailiwick probe``: run probes of the operating model on this machine, and show what they found."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.assurance_desk import Desk, Json, Zone, at_desk
from bailiwick.cli.failure import NO_DATA, command
from bailiwick.cli.ledger import as_json, printable
from bailiwick.cli.options import DataDir, small_app

if TYPE_CHECKING:
    from bailiwick.assurance.probes.runner import Standing
    from bailiwick.assurance.probes.runs import ProbeRun

app = small_app()

ProbeName = Annotated[str, typer.Argument(metavar="NAME", help="The probe's name.")]

_COLOURS = {"PASS": "green", "FAIL": "bold red", "ERROR": "bold red", "NO_DATA": "yellow", "STALE": "yellow"}


@app.callback()
def probe() -> None:
    """Probes: code that looks, measures and answers a verdict."""


@app.command("list")
@command
def list_(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show every probe and how it stands. Exits 3 when there is none."""

    async def run(desk: Desk) -> Any:
        async with desk.database.begin() as tx:
            return await desk.probes.standings(tx, zone), desk.house.base.clock.now()

    found, now = at_desk(data_dir, zone, run)
    print(as_json([each.document() for each in found], indent=2)) if json_ else print_standings(found, now)
    return 0 if found else NO_DATA


@app.command()
@command
def run(name: ProbeName, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Run a probe here and now. Its run, evidence and alert are kept. Exits by its verdict."""

    async def work(desk: Desk) -> ProbeRun:
        async with desk.database.begin() as tx:
            spec, limit = await desk.probes.get(tx, zone, name)
            await desk.probes.note_asked(tx, desk.context, name)
        now = desk.house.base.clock.now()
        return await desk.probes.run(desk.context, name, spec, limit, due=now, asked_by=desk.operator)

    made = at_desk(data_dir, zone, work)
    if json_:
        print(as_json(made.document(), indent=2))
    else:
        print(printable(f"{made.verdict:8}{name}: {_measured(made)}{made.detail}"))
        print(f"{'':8}record {made.record}")
    return made.verdict.exit_code


@app.command()
@command
def runs(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Only those of this probe.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="How many.")] = 30,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show the newest runs. Exits 3 when there is none."""
    from bailiwick.assurance.probes import runs as history

    async def work(desk: Desk) -> list[ProbeRun]:
        async with desk.database.begin() as tx:
            return await history.newest(tx, zone, name, limit=limit)

    found = at_desk(data_dir, zone, work)
    if json_:
        print(as_json([each.document() for each in found], indent=2))
    else:
        for each in found:
            line = f"{each.finished_at:%m-%d %H:%M:%S} {each.verdict:8}{each.probe}: {_measured(each)}{each.detail}"
            print(printable(line)[:100])
    return 0 if found else NO_DATA


def print_standings(found: Sequence[Standing], now: datetime) -> None:
    """A table of probes: verdict, value against its threshold, age, trend."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bailiwick.assurance.durations import told
    from bailiwick.assurance.probes.reading import sparkline

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("verdict", "probe", "value", "should be", "age", "trend"):
        table.add_column(
            heading, justify="right" if heading in {"value", "age"} else "left", no_wrap=heading != "probe"
        )
    for each in found:
        last = each.runs[0] if each.runs else None
        value = f"{last.value:.4g} {last.unit}".strip() if last is not None and last.value is not None else "-"
        wanted = f"{last.comparison} {last.threshold:g}" if last is not None and last.threshold is not None else ""
        trend = sparkline([(run.verdict, run.value) for run in reversed(each.runs[:16])])
        table.add_row(
            Text(each.verdict, _COLOURS.get(each.verdict, "dim")),
            Text(printable(each.name), overflow="fold"),
            value,
            wanted,
            told(now - last.finished_at) if last is not None else "-",
            trend,
        )
    Console().print(table)
    for each in found:
        if not each.verdict.green and each.runs:
            print(printable(f"{each.verdict:8}{each.name}: {each.runs[0].detail} ({each.probe.owner})")[:160])


def _measured(made: ProbeRun) -> str:
    if made.value is None:
        return ""
    against = f" ({made.comparison} {made.threshold:g})" if made.threshold is not None else ""
    return f"{made.value:.6g} {made.unit}".strip() + against + ", "
