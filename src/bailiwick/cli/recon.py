"""``bailiwick recon …``: run reconciliations on the machine's own database, read their reports, settle findings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, Zone, as_json, note
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.room import in_room
from bailiwick.cli.screen import cut, lines, table

if TYPE_CHECKING:
    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context

app = small_app()

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The reconciliation.")]
FindingArgument = Annotated[str, typer.Argument(metavar="FINDING", help="Id of the finding.")]
Note = Annotated[str, typer.Option("--note", help="What there is to say.")]


@app.callback()
def _group() -> None:
    """Compare what must agree; settle what does not."""


@app.command("list")
@command
def list_(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Every reconciliation, and how its newest run ended."""

    async def run(house: House, context: Context) -> int:
        from bailiwick.app.assurance.reconciliation import reconciliations_of

        listed = await reconciliations_of(house).standing(zone)
        await _noted(house, zone, "recon list", len(listed))
        if json_:
            print(as_json(listed, indent=2))
            return 0
        rows = []
        for each in listed:
            last = each["last_run"] or {}
            rows.append(
                [each["name"], each["verdict"], last.get("period", "-"), str(each["open_findings"]), each["owner"]]
            )
        table(["reconciliation", "verdict", "period", "open", "owner"], rows)
        return 0 if listed else NO_DATA

    return in_room(data_dir, zone, run)


@app.command()
@command
def run(
    name: NameArgument,
    period: Annotated[str | None, typer.Option("--period", metavar="DAY", help="Go over this period again.")] = None,
    full: Annotated[bool, typer.Option("--full", help="A full scan.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Reconcile now. Exits 0 when all agrees, 1 when not or on an error, 3 without data."""

    async def do(house: House, context: Context) -> int:
        from bailiwick.app.assurance.reconciliation import reconciliations_of

        service = reconciliations_of(house)
        done = await service.run(context, name, mode="full" if full else "manual", period=period)
        _, _, text = await service.report(zone, name, done.id)
        print(as_json(done.document()) if json_ else lines(text), end="\n" if json_ else "")
        return done.verdict.exit_code

    return in_room(data_dir, zone, do)


@app.command()
@command
def report(
    name: NameArgument,
    run: Annotated[str | None, typer.Option("--run", metavar="ID", help="Of this run.")] = None,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """The report of the newest run, or of another. Exits as that run did."""

    async def do(house: House, context: Context) -> int:
        from bailiwick.app.assurance.reconciliation import reconciliations_of

        found, values, text = await reconciliations_of(house).report(zone, name, run)
        await _noted(house, zone, f"recon report {name}", 1)
        told = as_json({"run": found.document(), "report": values}, indent=2)
        print(told if json_ else lines(text), end="\n" if json_ else "")
        return found.verdict.exit_code

    return in_room(data_dir, zone, do)


@app.command()
@command
def findings(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Of this reconciliation.")] = "",
    state: Annotated[
        str, typer.Option("--state", help="unsettled, open, acknowledged, resolved, accepted, all")
    ] = "unsettled",
    period: Annotated[str, typer.Option("--period", metavar="DAY", help="Of this period.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=500)] = 50,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Findings, newest first. Exits 1 when some are not settled."""
    if state not in ("unsettled", "open", "acknowledged", "resolved", "accepted", "all"):
        raise CommandFailed(USAGE, f"there is no state {state!r}")

    async def do(house: House, context: Context) -> int:
        from bailiwick.app.assurance.reconciliation import findings_of

        wanted = "" if state == "all" else state
        found = await findings_of(house).list(
            zone, reconciliation=name, state=wanted, period=period, after="g", limit=limit
        )
        await _noted(house, zone, "recon findings", len(found))
        if json_:
            print(as_json([each.document() for each in found], indent=2))
        else:
            for each in found:
                print(f"{each.id}  {each.severity} {each.state:<12} {each.period:<15} {each.action}")
                print(cut(f"  {each.rule}: {' / '.join(each.key)}"))
            print(f"{len(found)} findings")
        return FAILED if any(each.state in ("open", "acknowledged") for each in found) else 0

    return in_room(data_dir, zone, do)


@app.command()
@command
def ack(
    finding: FindingArgument, note: Note = "", zone: Zone = "default", data_dir: DataDir = None, json_: Json = False
) -> int:
    """Say that you look into it."""
    return _move(data_dir, zone, json_, lambda service, context, by: service.acknowledge(context, finding, by, note))


@app.command()
@command
def resolve(
    finding: FindingArgument,
    change: Annotated[str, typer.Option("--change", metavar="ID", help="The change that made it right.")],
    note: Note = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Name the change that made it right; the next run over its period confirms it."""
    return _move(
        data_dir, zone, json_, lambda service, context, by: service.resolve(context, finding, by, change, note)
    )


@app.command()
@command
def accept(
    finding: FindingArgument,
    waiver: Annotated[str, typer.Option("--waiver", metavar="ID", help="The waiver that covers it.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Let it stand as long as a waiver covers it."""
    return _move(data_dir, zone, json_, lambda service, context, by: service.accept(context, finding, by, waiver))


@app.command()
@command
def snooze(
    finding: FindingArgument,
    hours: Annotated[int, typer.Option("--hours", min=1, max=720, help="For how long.")] = 24,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Mute its alert for a while; it stays what it is."""
    from datetime import timedelta

    async def do(house: House, context: Context) -> int:
        from bailiwick.app.assurance.reconciliation import findings_of

        until = house.base.clock.now() + timedelta(hours=hours)
        moved = await findings_of(house).snooze(context, finding, context.actor.user, until)
        print(
            as_json(moved.document())
            if json_
            else f"{moved.id} is {moved.state}, muted until {until:%Y-%m-%d %H:%M} UTC"
        )
        return 0

    return in_room(data_dir, zone, do)


def _move(data_dir: Path | None, zone: str, json_: bool, move: Callable[[Any, Context, str], Awaitable[Any]]) -> int:
    async def do(house: House, context: Context) -> int:
        from bailiwick.app.assurance.reconciliation import findings_of

        moved = await move(findings_of(house), context, context.actor.user)
        print(as_json(moved.document()) if json_ else f"{moved.id} is {moved.state}")
        return 0

    return in_room(data_dir, zone, do)


async def _noted(house: House, zone: str, what: str, returned: int) -> None:
    async with house.base.database.begin() as tx:
        await note(tx, zone, what, query="", returned=returned)
