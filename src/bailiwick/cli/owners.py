"""``bailiwick owners``: who answers for what, and whether everything has an owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import NO_DATA, command
from bailiwick.cli.ledger import as_json
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.owners_desk import At, at_desk
from bailiwick.cli.screen import cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bailiwick.assurance.owners.check import Checked
    from bailiwick.assurance.owners.service import Line
    from bailiwick.assurance.ports import Person

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone whose operating model it is.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.callback()
def owners() -> None:
    """Who answers for what, and whether everything has an owner."""


@app.command("list")
@command
def list_owners(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show every activity and who answers for it now. Exits 3 when there is none."""

    async def read(at: At) -> tuple[dict[str, Sequence[Person]], list[Line]]:
        ownership = at.desk.ownership
        return await ownership.planes(at.tx, zone), await ownership.list(at.tx, zone, at.now)

    planes, lines = at_desk(data_dir, zone, read)
    if json_:
        held = {role: [person.username for person in people] for role, people in planes.items()}
        print(as_json({"planes": held, "items": [line.document() for line in lines]}, indent=2))
        return 0 if lines else NO_DATA
    for role, people in planes.items():
        print(cut(f"{role:24} {', '.join(person.username for person in people) or 'nobody'}"))
    print()
    for line in lines:
        print(cut(f"{line.name:24} {line.activity.accountable:20} {_now(line)}"))
    return 0 if lines else NO_DATA


@app.command()
@command
def show(
    name: Annotated[str, typer.Argument(metavar="ACTIVITY", help="The activity.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show one activity: who is accountable, responsible, consulted and informed."""

    async def read(at: At) -> Line:
        return await at.desk.ownership.show(at.tx, zone, name, at.now)

    line = at_desk(data_dir, zone, read)
    if json_:
        print(as_json(line.document(), indent=2))
        return 0
    for word, told in _rows(line.document()):
        print(cut(f"{word:14} {told}"))
    print(cut(f"{'answers now':14} {_now(line)}"))
    return 0


@app.command()
@command
def check(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Check that one living person answers for each thing. Exits 1 when one does not, 3 when there is nothing."""

    async def judge(at: At) -> Checked:
        return await at.desk.ownership.check(at.tx, at.context, at.now)

    checked = at_desk(data_dir, zone, judge)
    if json_:
        print(as_json(checked.document(), indent=2))
        return checked.verdict.exit_code
    for each in checked.findings:
        print(cut(f"{each.thing} {each.place}".rstrip()))
        print(cut(f"    {each.value + ': ' if each.value else ''}{each.problem}"))
    print(f"{checked.verdict}: {checked.things} things to answer for, {len(checked.findings)} findings")
    return checked.verdict.exit_code


def _now(line: Line) -> str:
    person = line.answer.person
    if person is None:
        return f"NOBODY: {line.answer.problem}"
    return f"{person.username}{' (deputy)' if line.answer.deputy else ''}"


def _rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("activity", document["name"]), ("about", document["about"]), ("accountable", document["accountable"])]
    rows += [(word, ", ".join(document[word])) for word in ("responsible", "consulted", "informed", "covers")]
    rows += [("deputy", f"{deputy['person']}, {_days(deputy)}") for deputy in document["deputies"]]
    in_force = [f"{word} {document[word]}" for word in ("from", "until") if document[word]]
    rows.append(("in force", " ".join(in_force) or "always"))
    return [(word, told) for word, told in rows if told]


def _days(deputy: dict[str, Any]) -> str:
    return " to ".join(filter(None, (deputy["from"], deputy["until"]))) or "when there is nobody else"
