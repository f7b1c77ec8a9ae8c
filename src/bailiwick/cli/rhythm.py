"""``bailiwick rhythm``: what recurs, when it is next, what was put before it and what came of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.assured import at_desk
from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import as_json, printable
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.screen import cut

if TYPE_CHECKING:
    from bailiwick.app.assurance.rhythm import Services
    from bailiwick.assurance.rhythm.minutes import Said
    from bailiwick.evidence.events import Context

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The dated occurrence, by its id.")]

_OWED = ("scheduled", "pack_built", "overdue", "held")


@app.callback()
def rhythm() -> None:
    """What recurs, what was put before it and what came of it."""


@app.command("list")
@command
def list_dates(
    ceremony: Annotated[str, typer.Option("--ceremony", help="Only of this one.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show what comes next and what is owed. Exits 1 when something is overdue, 3 when nothing recurs."""

    async def read(services: Services, context: Context) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        ceremonies = await services.desk.ceremonies(context.zone)
        found = await services.desk.list(context.zone, ceremony=ceremony, limit=500)
        kept = [each.document() for each in found if every or each.state in _OWED]
        return [each for each in ceremonies if ceremony in ("", each["name"])], kept

    ceremonies, dates = at_desk(data_dir, zone, read)
    if json_:
        print(as_json({"ceremonies": ceremonies, "occurrences": dates}, indent=2))
    else:
        for each in sorted(dates, key=lambda each: each["starts_at"]):
            print(f"{_when(each['starts_at'])[5:]}  {each['state']:10} {cut(each['ceremony'], 19):19} {each['id']}")
        print(f"next of {len(ceremonies)}:") if ceremonies else print("nothing recurs here")
        for each in ceremonies:
            print(f"{_when(each['next_at'])}  {cut(each['name'], 24):24} {cut(each['title'], 36)}")
    if any(each["state"] == "overdue" for each in dates):
        return FAILED
    return 0 if ceremonies else NO_DATA


@app.command()
@command
def show(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show one date with its pack, minutes and signature."""
    found = at_desk(data_dir, zone, lambda services, context: services.desk.show(context.zone, identifier))
    if json_:
        print(as_json(found, indent=2))
        return 0
    for name in ("ceremony", "state", "starts_at", "ends_at", "cut_off", "held_at"):
        print(f"{name:12} {found[name] or '-'}")
    pack, minutes, signature = found["pack"], found["minutes"], found["signature"]
    print(f"{'pack':12} {pack['verdict'] + ' ' + pack['sha256'][:16] if pack else '-'}")
    if minutes:
        print(f"{'minutes':12} version {minutes['version']} by {printable(minutes['written_by'])}")
        print(f"{'attendees':12} {printable(', '.join(minutes['attendees']))}")
        for decision in minutes["decisions"]:
            print(f"{'decided':12} {cut(decision, 66)}")
        for each in minutes["actions"]:
            print(f"{'action':12} {each['due']} {each['severity']} {cut(each['owner'], 14)}: {cut(each['title'], 34)}")
    print(f"{'signed':12} {printable(signature['signed_by']) + ' ' + signature['signed_at'] if signature else '-'}")
    return 0


@app.command()
@command
def pack(
    identifier: Id,
    build: Annotated[bool, typer.Option("--build", help="Build it now, unless it is built.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Build it again and compare the digests.")] = False,
    html: Annotated[bool, typer.Option("--html", help="As HTML.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show what is put before a meeting. Exits by its verdict; with --verify 1 when it is not what was built."""
    from bailiwick.assurance.rhythm import packs
    from bailiwick.assurance.rhythm.desk import pack_document

    async def read(services: Services, context: Context) -> tuple[packs.Pack, dict[str, Any]]:
        if build:
            await services.clockwork.build_pack(context, identifier, by=context.actor.user)
        told = await services.desk.verify(context.zone, identifier) if verify else {}
        return await services.desk.pack(context.zone, identifier), told

    found, told = at_desk(data_dir, zone, read)
    if verify:
        print(as_json(told, indent=2) if json_ else f"{'holds' if told['holds'] else 'CHANGED'} {told['sha256']}")
        return 0 if told["holds"] else FAILED
    if json_:
        print(as_json(pack_document(found), indent=2))
    else:
        sys.stdout.write((packs.html if html else packs.markdown)(found.document, found.sha256))
    return found.verdict.exit_code


@app.command()
@command
def minutes(
    identifier: Id,
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="YAML or JSON; - reads standard input.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Take minutes: attendees, decisions, actions with owner and day."""
    said = _said(file)

    async def write(services: Services, context: Context) -> dict[str, Any]:
        return (await services.minutes.write(context, identifier, said, by=context.actor.user)).to_json()

    found = at_desk(data_dir, zone, write)
    print(as_json(found, indent=2) if json_ else f"version {found['version']} {found['sha256']}")
    return 0


@app.command()
@command
def hold(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Close a meeting: its minutes stand. Exits 1 without quorum."""

    async def close(services: Services, context: Context) -> dict[str, Any]:
        return (await services.minutes.hold(context, identifier, by=context.actor.user)).document()

    found = at_desk(data_dir, zone, close)
    print(as_json(found, indent=2) if json_ else f"{found['ceremony']} is {found['state']}")
    return 0


@app.command()
@command
def sign(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Vouch for minutes and pack. Exits 1 for whoever wrote either."""

    async def vouch(services: Services, context: Context) -> dict[str, Any]:
        return (await services.minutes.sign(context, identifier, by=context.actor.user)).to_json()

    found = at_desk(data_dir, zone, vouch)
    print(as_json(found, indent=2) if json_ else f"signed by {printable(found['signed_by'])}")
    return 0


@app.command()
@command
def actions(
    every: Annotated[bool, typer.Option("--all", help="Those that are done, too.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show action items. Exits 1 when one is overdue."""
    from datetime import UTC, datetime

    found = at_desk(data_dir, zone, lambda services, context: services.actions.list(context.zone, unfinished=not every))
    told = [each.document(datetime.now(UTC)) for each in found]
    if json_:
        print(as_json(told, indent=2))
    else:
        for each in told:
            state = "OVERDUE" if each["overdue"] else each["state"]
            line = f"{each['due']} {each['severity']} {state:7} {cut(each['owner'], 14):14} {cut(each['title'], 40)}"
            print(line)
        print(f"{len(told)} action items")
    return FAILED if any(each["overdue"] for each in told) else 0


@app.command()
@command
def calendar(
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="How far ahead.")] = 60,
    zone: Zone = "default",
    data_dir: DataDir = None,
) -> int:
    """Write the dates as iCalendar."""
    body, _ = at_desk(data_dir, zone, lambda services, context: services.desk.calendar(context.zone, days))
    sys.stdout.buffer.write(body)
    return 0


def _when(text: str | None) -> str:
    return text.replace("T", " ")[:16] if text else "-" * 16


def _said(path: Path) -> Said:
    """The minutes of a file, as the API takes them; ends the command for anything else."""
    import yaml
    from pydantic import ValidationError

    from bailiwick.assurance.rhythm.api import MinutesBody, said

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")
        return said(MinutesBody.model_validate(yaml.safe_load(text)))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        raise CommandFailed(USAGE, f"{path} cannot be read") from None
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5])
        raise CommandFailed(USAGE, f"{path}: {told}") from None
