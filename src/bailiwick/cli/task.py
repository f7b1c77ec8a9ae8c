"""``bailiwick task``: the one list of what is to be done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bailiwick.cli.failure import NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import as_json
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.owners_desk import At, at_desk
from bailiwick.cli.screen import cut, shown

if TYPE_CHECKING:
    from bailiwick.assurance.tasks import Item

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone whose tasks they are.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The task, as `task list` shows it.")]


@app.callback()
def task() -> None:
    """What is to be done."""


@app.command("list")
@command
def list_tasks(
    over: Annotated[bool, typer.Option("--over", help="Those that are done or closed instead.")] = False,
    owner: Annotated[str, typer.Option("--owner", help="Only of this owner.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="How many at most.")] = 100,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show what is to be done. Exits 3 when there is nothing."""

    async def read(at: At) -> list[Item]:
        return await at.desk.tasks.list(at.tx, zone, over=over, owner=owner, limit=limit)

    found = at_desk(data_dir, zone, read)
    if json_:
        print(as_json([each.document() for each in found], indent=2))
        return 0 if found else NO_DATA
    for each in found:
        when = f"ended {shown(each.ended_at)}" if each.ended_at is not None else f"due {shown(each.due)}"
        print(cut(f"{each.id} {each.severity} {each.state:9} {when}"))
        print(cut(f"    {each.title}"))
        print(cut(f"    for {each.owner}{': ' + each.outcome if each.outcome else ''}"))
    return 0 if found else NO_DATA


@app.command()
@command
def done(
    task_id: Id,
    outcome: Annotated[str, typer.Option("--outcome", help="What came of it.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Say that a task is done. What a machine opened is opened again while its cause goes on."""
    if not outcome.strip() or not outcome.isprintable() or len(outcome) > 2000:
        raise CommandFailed(USAGE, "--outcome says something, in one printable line")

    async def end(at: At) -> Item:
        return await at.desk.tasks.done(at.tx, at.context, task_id, outcome, by=at.operator)

    return _shown(at_desk(data_dir, zone, end), json_=json_)


@app.command()
@command
def reassign(
    task_id: Id,
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="An activity, role:… or person:….")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Give a task to another owner, who must lead to an active person."""
    if not owner.isprintable() or len(owner) > 200:
        raise CommandFailed(USAGE, "OWNER is too long or not printable")

    async def give(at: At) -> Item:
        return await at.desk.tasks.reassign(at.tx, at.context, task_id, owner)

    return _shown(at_desk(data_dir, zone, give), json_=json_)


def _shown(item: Item, *, json_: bool) -> int:
    print(as_json(item.document(), indent=2) if json_ else cut(f"{item.id} is {item.state}, for {item.owner}"))
    return 0
