"""``bailiwick documents``: the documents that have one source, and whether each is there and was read in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.environment import Zone, at_desk
from bailiwick.cli.failure import command
from bailiwick.cli.ledger import Json, as_json
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.screen import cut

if TYPE_CHECKING:
    from bailiwick.app.handover.environments import Services
    from bailiwick.evidence.events import Context
    from bailiwick.kernel.db import Database

app = small_app()


@app.callback()
def _group() -> None:
    """Show single-source documents, look at them, review them."""


@app.command("list")
@command
def list_documents(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show every document as it stands. Exits 0 when all are green, 3 when that cannot be seen from here."""

    async def work(services: Services, database: Database, context: Context) -> list[dict[str, Any]]:
        async with database.begin() as tx:
            return [each.document() for each in await services.documents.standing(tx, context.zone)]

    return _told(at_desk(data_dir, zone, work), json_)


@app.command()
@command
def check(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Look at every document now and write down what was seen. Exits as `list`."""

    async def work(services: Services, database: Database, context: Context) -> list[dict[str, Any]]:
        return [each.document() for each in await services.documents.check(context)]

    return _told(at_desk(data_dir, zone, work), json_)


@app.command()
@command
def review(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The document.")],
    statement: Annotated[str, typer.Option("--statement", help="What you say of it, having read it.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Say that you have read a document as it is now; its hash is kept with that."""

    async def work(services: Services, database: Database, context: Context) -> dict[str, Any]:
        return (await services.documents.review(context, name, statement, by=context.actor.user)).document()

    made = at_desk(data_dir, zone, work)
    print(as_json(made, indent=2) if json_ else cut(f"{name}: {made['verdict']}, {made['told']}"))
    return 0


def _told(found: list[dict[str, Any]], json_: bool) -> int:
    from bailiwick.kernel.verdicts import Verdict, worst

    if json_:
        print(as_json(found, indent=2))
    else:
        for each in found:
            print(cut(f"{each['verdict']:8} {each['name']:26} {each['told']}"))
        print(f"{len(found)} documents, {sum(each['verdict'] == 'PASS' for each in found)} green")
    return worst(Verdict(each["verdict"]) for each in found).exit_code
