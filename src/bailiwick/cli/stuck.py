"""``bailiwick stuck …``: what stands still, on the machine's own database; look again, and do what is safe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bailiwick.cli.failure import NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, Zone, as_json, note
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.room import in_room
from bailiwick.cli.screen import table

if TYPE_CHECKING:
    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context

app = small_app()


@app.callback()
def _group() -> None:
    """Show work that stands still; look again, start it again."""


@app.command("list")
@command
def list_(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Every state machine, and what the newest look at it found."""

    async def run(house: House, context: Context) -> int:
        from bailiwick.app.assurance.reconciliation import detector_of
        from bailiwick.kernel.verdicts import Verdict, worst

        listed = await detector_of(house).standing(zone)
        async with house.base.database.begin() as tx:
            await note(tx, zone, "stuck list", query="", returned=len(listed))
        if json_:
            print(as_json(listed, indent=2))
        else:
            rows = [[each["name"], each["verdict"], *_bands(each["counts"]), each["owner"]] for each in listed]
            table(["machine", "verdict", "fine", "near", "stuck", "critical", "owner"], rows)
        return worst(Verdict(each["verdict"]) for each in listed).exit_code if listed else NO_DATA

    return in_room(data_dir, zone, run)


@app.command()
@command
def detect(
    machine: Annotated[str, typer.Argument(metavar="[MACHINE]", help="This one alone.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Look now. Exits 1 when something is stuck, 3 without data."""

    async def run(house: House, context: Context) -> int:
        from bailiwick.app.assurance.reconciliation import detector_of
        from bailiwick.assurance.durations import told
        from bailiwick.kernel.verdicts import worst

        detector = detector_of(house)
        looks = [await detector.detect(context, machine)] if machine else await detector.detect_all(context)
        if json_:
            print(as_json([look.document() for look in looks], indent=2))
            return worst(look.verdict for look in looks).exit_code
        rows = [
            [look.machine, look.verdict, each.item, each.state, told(each.age), each.band]
            for look in looks
            for each in look.items[:20]
        ]
        rows += [[look.machine, look.verdict, look.error or "-", "", "", ""] for look in looks if not look.items]
        table(["machine", "verdict", "item", "state", "age", "band"], rows)
        return worst(look.verdict for look in looks).exit_code

    return in_room(data_dir, zone, run)


@app.command()
@command
def act(
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="The state machine.")],
    item: Annotated[str, typer.Argument(metavar="ITEM", help="What stands still.")],
    action: Annotated[str, typer.Argument(metavar="ACTION", help="recheck, requeue or dead-letter")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Do what is safe about one item; anything else is an override, which takes two persons."""
    if action not in ("recheck", "requeue", "dead-letter"):
        raise CommandFailed(USAGE, f"there is no action {action!r}; there are recheck, requeue and dead-letter")

    async def run(house: House, context: Context) -> int:
        from bailiwick.app.assurance.reconciliation import detector_of

        done = await detector_of(house).act(context, machine, item, action, context.actor.user)  # type: ignore[arg-type]
        print(as_json(done) if json_ else f"{action} of {item}: {done['outcome']}")
        return 0

    return in_room(data_dir, zone, run)


def _bands(counts: dict[str, int]) -> list[str]:
    bad = counts.get("critical", 0) + counts.get("unknown", 0)
    return [str(counts.get(name, 0)) for name in ("fine", "approaching", "stuck")] + [str(bad)]
