"""``bailiwick known-issue``: what is known to be wrong, what to do meanwhile, and when it is mended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.environment import Zone, at_desk
from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json, printable
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.screen import table

if TYPE_CHECKING:
    from bailiwick.app.handover.environments import Services
    from bailiwick.evidence.events import Context
    from bailiwick.kernel.db import Database

app = small_app()

Name = Annotated[str, typer.Argument(metavar="NAME", help="The known issue.")]


@app.callback()
def _group() -> None:
    """List known issues, put one on the list, say that it is fixed."""


@app.command("list")
@command
def list_issues(
    every: Annotated[bool, typer.Option("--all", help="Also those that are fixed.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show those that are not fixed. Exits 1 when one is late, 3 when the list is empty."""

    async def work(services: Services, database: Database, context: Context) -> list[dict[str, Any]]:
        now = services.registers.now
        return [each.document(now) for each in await services.registers.list(context.zone, "known-issues")]

    found = at_desk(data_dir, zone, work)
    shown = [each for each in found if every or each["state"] != "fixed"]
    if json_:
        print(as_json(shown, indent=2))
    else:
        rows = [
            [each["name"], each["severity"], "LATE" if each["late"] else each["state"], each["target_version"],
             each["item"]]
            for each in shown
        ]  # fmt: skip
        table(["issue", "severity", "state", "fixed in", "what"], rows)
    if any(each["late"] for each in shown):
        return FAILED
    return 0 if found else NO_DATA


@app.command()
@command
def show(name: Name, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show one: impact, workaround, permanent fix."""

    async def work(services: Services, database: Database, context: Context) -> dict[str, Any]:
        now = services.registers.now
        return (await services.registers.get(context.zone, "known-issues", name)).document(now)

    found = at_desk(data_dir, zone, work)
    if json_:
        print(as_json(found, indent=2))
        return 0
    import textwrap

    print(printable(f"{found['severity']} {found['state'].upper()}: {found['item']}")[:80])
    for member in ("impact", "workaround", "permanent_fix", "target_version", "owner", "due"):
        lines = textwrap.wrap(printable(" ".join(str(found[member] or "-").split())), 62) or ["-"]
        print(f"  {member.replace('_', ' '):14} {lines[0]}")
        for line in lines[1:]:
            print(f"  {'':14} {line}")
    return 0


@app.command()
@command
def add(
    name: Name,
    title: Annotated[str, typer.Option("--title", help="What is wrong, in a line.")],
    severity: Annotated[str, typer.Option("--severity", help="P0, P1, P2 or P3.")],
    impact: Annotated[str, typer.Option("--impact", help="What it does to people.")],
    workaround: Annotated[str, typer.Option("--workaround", help="What they do meanwhile.")],
    fix: Annotated[str, typer.Option("--fix", help="How it is mended for good.")],
    target: Annotated[str, typer.Option("--target", help="The version that mends it.")],
    owner: Annotated[str, typer.Option("--owner", help="An activity of the RACI.")],
    due: Annotated[str, typer.Option("--due", metavar="DAY", help="By when.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Put one on the list."""
    from pydantic import ValidationError

    from bailiwick.assurance.registers import KnownIssue
    from bailiwick.kernel.fields import NAME_PATTERN, matches

    said = {
        "item": title, "severity": severity, "impact": impact, "workaround": workaround, "permanent_fix": fix,
        "target_version": target, "owner": owner, **({"due": due} if due else {}),
    }  # fmt: skip
    try:
        issue = KnownIssue.model_validate(said)
    except ValidationError as error:
        told = "; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors(include_input=False))
        raise CommandFailed(USAGE, told) from None
    if not matches(NAME_PATTERN, name):
        raise CommandFailed(USAGE, "a name begins with a letter or digit and holds letters, digits, . _ and -")

    async def work(services: Services, database: Database, context: Context) -> dict[str, Any]:
        made = await services.known_issues.add(context, name, issue, by=context.actor.user)
        return made.document(services.registers.now)

    made = at_desk(data_dir, zone, work)
    print(as_json(made, indent=2) if json_ else f"{name} is {made['state']}")
    return 0


@app.command()
@command
def fixed(
    name: Name,
    record: Annotated[str, typer.Option("--record", metavar="ID", help="The evidence record that shows it.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Say that it is fixed; that takes an evidence record."""

    async def work(services: Services, database: Database, context: Context) -> dict[str, Any]:
        by = context.actor.user
        moved = await services.registers.move(context, "known-issues", name, "fixed", by=by, record=record)
        return moved.document(services.registers.now)

    made = at_desk(data_dir, zone, work)
    print(as_json(made, indent=2) if json_ else f"{name} is {made['state']}")
    return 0
