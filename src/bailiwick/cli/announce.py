"""``bailiwick announce``: tell people what a template says, and see who got it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.environment import Zone, at_desk
from bailiwick.cli.failure import NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.screen import cut, lines, table

if TYPE_CHECKING:
    from bailiwick.app.handover.environments import Services
    from bailiwick.evidence.events import Context
    from bailiwick.kernel.db import Database

app = small_app()

Values = Annotated[list[str], typer.Option("--set", metavar="NAME=VALUE", help="A value that the template names.")]
Template = Annotated[str, typer.Argument(metavar="TEMPLATE", help="go-live, maintenance … as `templates` lists.")]


@app.callback()
def _group() -> None:
    """Announce from templates to their lists, with receipts."""


@app.command()
@command
def templates(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show what can be announced, and which values it names. Exits 3 when there is none."""

    async def work(services: Services, database: Database, context: Context) -> list[dict[str, Any]]:
        async with database.begin() as tx:
            found = await services.announcements.templates(tx, context.zone)
        return [{"name": name, **each.model_dump(mode="json"), "asks": each.asks} for name, each in found.items()]

    found = at_desk(data_dir, zone, work)
    if json_:
        print(as_json(found, indent=2))
    else:
        table(["template", "what", "values", "to"], [[e["name"], e["title"], e["asks"], e["to"]] for e in found])
    return 0 if found else NO_DATA


@app.command()
@command
def preview(
    template: Template,
    values: Values = [],  # noqa: B006 - typer copies it
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show what would be sent to whom. Exits 2 when values are missing."""
    given = _values(values)

    async def work(services: Services, database: Database, context: Context) -> dict[str, Any]:
        async with database.begin() as tx:
            return await services.announcements.preview(tx, context.zone, template, given)

    found = at_desk(data_dir, zone, work)
    if json_:
        print(as_json(found, indent=2))
    else:
        print(cut(f"to: {', '.join(found['to'])}", 200))
        print(cut(f"subject: {found['subject']}", 320))
        print(lines(found["body"]), end="")
        if found["missing"]:
            print(f"missing: {', '.join(found['missing'])}")
    return USAGE if found["missing"] else 0


@app.command()
@command
def send(
    template: Template,
    values: Values = [],  # noqa: B006 - typer copies it
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Send it. Who got it shows `announce show` once it was delivered."""
    given = _values(values)

    async def work(services: Services, database: Database, context: Context) -> dict[str, Any]:
        return (await services.announcements.send(context, template, given)).document()

    made = at_desk(data_dir, zone, work)
    print(as_json(made, indent=2) if json_ else f"{made['id']} goes to {len(made['receipts'])}")
    return 0


@app.command("list")
@command
def list_announcements(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show the newest 100 and whether they arrived. Exits 3 when there is none."""

    async def work(services: Services, database: Database, context: Context) -> list[dict[str, Any]]:
        async with database.begin() as tx:
            return [each.document() for each in await services.announcements.list(tx, context.zone)]

    found = at_desk(data_dir, zone, work)
    if json_:
        print(as_json(found, indent=2))
    else:
        for each in found:
            print(cut(f"{each['id']} {each['sent_at'][:16]} {each['verdict']:8} {each['subject']}"))
    return 0 if found else NO_DATA


@app.command()
@command
def show(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="The announcement.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show one with its receipts. Exits 0 when all got it, 1 when somebody never will, 3 before."""
    from bailiwick.kernel.verdicts import Verdict

    async def work(services: Services, database: Database, context: Context) -> dict[str, Any]:
        async with database.begin() as tx:
            return (await services.announcements.get(tx, context.zone, identifier)).document()

    found = at_desk(data_dir, zone, work)
    if json_:
        print(as_json(found, indent=2))
    else:
        print(cut(f"{found['subject']} ({found['template']}, by {found['sent_by']})", 320))
        print(lines(found["body"]), end="")
        for each in found["receipts"]:
            print(cut(f"{each['verdict']:8} {each['to']}"))
            for delivery in each["deliveries"]:
                print(
                    cut(f"         {delivery['channel']} {delivery['address']}: {delivery['state']} {delivery['told']}")
                )
    return Verdict(found["verdict"]).exit_code


def _values(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise CommandFailed(USAGE, f"--set takes NAME=VALUE, not {each!r}")
        found[name] = value
    return found
