"""``bailiwick register``: risks, the roadmap, documents under review, known issues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.assured import at_desk
from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import as_json, printable
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.screen import cut

if TYPE_CHECKING:
    from bailiwick.app.assurance.rhythm import Services
    from bailiwick.assurance.registers import Item, Register
    from bailiwick.evidence.events import Context

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Which = Annotated[str, typer.Argument(metavar="REGISTER", help="risks, roadmap, documents or known-issues.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The item.")]


@app.callback()
def register() -> None:
    """Risks, the roadmap, documents under review, known issues."""


@app.command("list")
@command
def list_items(
    which: Which,
    late: Annotated[bool, typer.Option("--late", help="Only those whose day is over.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show a register. Exits 1 when something is late, 3 when it is empty."""
    from datetime import UTC, datetime

    known = _register(which)
    found = at_desk(data_dir, zone, lambda services, context: services.registers.list(context.zone, known))
    now = datetime.now(UTC)
    shown = [each for each in found if each.late(now) or not late]
    if json_:
        print(as_json([each.document(now) for each in shown], indent=2))
    else:
        for each in shown:
            told = "LATE" if each.late(now) else each.state
            print(f"{each.due or '-' * 10}  {told:10} {cut(each.name, 22):22} {cut(str(each.spec['item']), 33)}")
        print(f"{len(shown)} items, {sum(each.late(now) for each in shown)} late")
    if any(each.late(now) for each in found):
        return FAILED
    return 0 if found else NO_DATA


@app.command()
@command
def show(which: Which, name: Name, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show one item and how it stood."""
    from datetime import UTC, datetime

    known = _register(which)

    async def read(services: Services, context: Context) -> dict[str, Any]:
        item = await services.registers.get(context.zone, known, name)
        history = await services.registers.history(context.zone, known, name)
        return {**item.document(datetime.now(UTC)), "history": history}

    found = at_desk(data_dir, zone, read)
    if json_:
        print(as_json(found, indent=2))
        return 0
    for member, value in found.items():
        if member != "history":
            print(f"{member:12} {printable(' '.join(str(value).split()))}")
    for each in found["history"]:
        when = f"{each['changed_at']:%Y-%m-%d %H:%M}"
        print(f"{when}  {each['state']:10} {cut(each['changed_by'], 20):20} {cut(each['note'], 28)}")
    return 0


@app.command()
@command
def move(
    which: Which,
    name: Name,
    state: Annotated[str, typer.Argument(metavar="STATE", help="The state it comes into.")],
    record: Annotated[str, typer.Option("--record", metavar="ID", help="Evidence record that shows it.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Bring an item into another state; done, closed and reviewed take evidence."""
    from datetime import UTC, datetime

    from bailiwick.assurance.registers import MACHINES

    known = _register(which)
    if state not in MACHINES[known].states:
        raise CommandFailed(USAGE, f"the states of {known} are {', '.join(MACHINES[known].states)}")

    async def moved(services: Services, context: Context) -> Item:
        return await services.registers.move(context, known, name, state, by=context.actor.user, record=record)

    found = at_desk(data_dir, zone, moved)
    print(as_json(found.document(datetime.now(UTC)), indent=2) if json_ else f"{name} is {found.state}")
    return 0


def _register(text: str) -> Register:
    from bailiwick.assurance.registers import REGISTERS

    if text not in REGISTERS:
        raise CommandFailed(USAGE, f"the registers are {', '.join(REGISTERS)}")
    return text
