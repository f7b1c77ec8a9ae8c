"""``bailiwick checkpoint``: what must be so after going live, judged by what is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.assured import at_desk
from bailiwick.cli.failure import NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import as_json
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.screen import cut, moment

if TYPE_CHECKING:
    from bailiwick.app.assurance.rhythm import Services
    from bailiwick.assurance.checkpoints.service import Result
    from bailiwick.evidence.events import Context

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The checkpoint, such as T7.")]
At = Annotated[str | None, typer.Option("--at", metavar="TIME", help="RFC 3339; by default now.")]


@app.callback()
def checkpoint() -> None:
    """What must be so a week, two weeks and a month after going live."""


@app.command("list")
@command
def list_checkpoints(at: At = None, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show how they stand. Exits by the worst verdict of those that are due."""
    from bailiwick.kernel.verdicts import Verdict, worst

    when = moment(at) if at is not None else None
    found = at_desk(data_dir, zone, lambda services, context: services.checkpoints.list(context.zone, when))
    if json_:
        print(as_json([each.document() for each in found], indent=2))
    else:
        for each in found:
            print(_line(each))
    due = [each.verdict for each in found if each.verdict is not Verdict.NOT_DUE]
    return worst(due).exit_code if due else NO_DATA


@app.command("eval")
@command
def evaluate(name: Name, at: At = None, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Judge one, as the next version of its result. Exits by its verdict."""
    when = moment(at) if at is not None else None

    async def judge(services: Services, context: Context) -> Result:
        return await services.checkpoints.evaluate(context, name, by=context.actor.user, at=when)

    found = at_desk(data_dir, zone, judge)
    print(as_json(found.document(), indent=2)) if json_ else _print(found)
    return found.verdict.exit_code


@app.command()
@command
def show(name: Name, at: At = None, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show the results of one, the newest in full. Exits by its verdict, 3 where it was never judged."""
    when = moment(at) if at is not None else None
    found = at_desk(data_dir, zone, lambda services, context: services.checkpoints.history(context.zone, name, when))
    if json_:
        print(as_json([each.document() for each in found], indent=2))
    elif found:
        _print(found[0])
        for each in found[1:]:
            print(_line(each))
    else:
        print(f"{name} was never judged")
    return found[0].verdict.exit_code if found else NO_DATA


@app.command("go-live")
@command
def go_live(
    platform: Annotated[str, typer.Argument(metavar="PLATFORM", help="The platform.")] = "default",
    at: At = None,
    reason: Annotated[str, typer.Option("--reason", help="Why then.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show when platforms went live; with --at record it. To change it takes a second person: exits 1 until then."""
    from bailiwick.kernel.fields import NAME_PATTERN, matches
    from bailiwick.kernel.quorum import Approval

    when = moment(at) if at is not None else None
    if when is None:
        lives = at_desk(data_dir, zone, lambda services, context: services.go_lives.list(context.zone))
        told: list[dict[str, Any]] = [each.document() for each in lives]
        print(as_json(told, indent=2)) if json_ else [print(f"{each['at']}  {each['platform']}") for each in told]
        return 0 if told else NO_DATA
    if not reason or not matches(NAME_PATTERN, platform) or len(reason) > 200 or not reason.isprintable():
        raise CommandFailed(USAGE, "--reason says why, in one line, and the platform has a name")

    async def record(services: Services, context: Context) -> dict[str, Any]:
        made = await services.go_lives.record(
            context, platform, when, by=context.actor.user, reason=reason, signed_in=False
        )
        return {"approval": made.document()} if isinstance(made, Approval) else made.document()

    made = at_desk(data_dir, zone, record)
    if json_:
        print(as_json(made, indent=2))
    elif "approval" in made:
        print(f"waits for approval {made['approval']['id']}: {made['approval']['missing']} more must approve")
    else:
        print(f"{made['platform']} went live, or will, at {made['at']}")
    return 1 if "approval" in made else 0


def _line(each: Result) -> str:
    due = each.due_at.strftime("%Y-%m-%d %H:%M") if each.due_at else "-" * 16
    return f"{each.verdict:8} {due}  {cut(each.checkpoint, 12):12} v{each.version:<3} {cut(each.title, 34)}"


def _print(found: Result) -> None:
    print(_line(found))
    for each in found.findings:
        print(f"  {each['verdict']:8} {cut(each['subject'], 26):26} {cut(each['told'], 40)}")
    if found.record:
        print(f"  record   {found.record}")
