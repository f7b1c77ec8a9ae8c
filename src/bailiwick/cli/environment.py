"""``bailiwick environment``: where platforms run, and how far each is in changing hands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.room import in_room
from bailiwick.cli.screen import cut, moment, table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bailiwick.app.handover.environments import Services
    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context
    from bailiwick.kernel.db import Database

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone.")]
Name = Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="The environment.")]


@app.callback()
def _group() -> None:
    """Show environments and their operating states; declare what runs already."""


@app.command("list")
@command
def list_environments(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show every environment. Exits 3 when there is none."""

    async def work(services: Services, database: Database, context: Context) -> list[dict[str, Any]]:
        async with database.begin() as tx:
            return [each.document() for each in await services.states.all(tx, context.zone)]

    found = at_desk(data_dir, zone, work)
    if json_:
        print(as_json(found, indent=2))
    else:
        rows = [
            [each["name"], each["purpose"], each["stage"], (each["live_at"] or "-")[:16], each["digest"][7:19] or "-"]
            for each in found
        ]
        table(["environment", "purpose", "stage", "live since", "release"], rows)
    return 0 if found else NO_DATA


@app.command()
@command
def show(name: Name, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show one: its stage, how it came there, its validation and its hypercare."""

    async def work(services: Services, database: Database, context: Context) -> dict[str, Any]:
        from bailiwick.handover.environments.api import whole

        async with database.begin() as tx:
            return await whole(tx, services.states, services.validation, services.hypercare, context.zone, name)

    found = at_desk(data_dir, zone, work)
    if json_:
        print(as_json(found, indent=2))
        return 0
    print(
        cut(f"{found['name']} is {found['stage'].upper()} ({found['purpose']}, {found['profile']}): {found['title']}")
    )
    print(cut(f"  platform    {found['platform']}; has {', '.join(found['has']) or 'nothing beside itself'}"))
    print(f"  live since  {found['live_at'] or '-'}")
    if found["digest"]:
        print(f"  {found['digest']}")
    for which in ("validation", "hypercare_standing"):
        standing = found[which]
        print(f"  {which.partition('_')[0]:11} {standing['verdict']}")
        for each in standing["blockers"][:10]:
            print(cut(f"    {each['verdict']:8} {each['name']}: {each['told']}"))
    for each in found["moves"]:
        print(cut(f"  {each['at'][:16]}  {each['before']} to {each['after']}: {each['told']}"))
    return 0


@app.command()
@command
def declare(
    name: Name,
    at: Annotated[str, typer.Option("--at", metavar="TIME", help="Since when it is live.")],
    reason: Annotated[str, typer.Option("--reason", help="Why it is declared and not rolled out.")],
    digest: Annotated[str, typer.Option("--digest", help="The release that runs, as sha256:….")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Say that a platform that runs already is live. From the machine it takes two signed-in persons more."""
    import re

    from bailiwick.handover.environments.states import DIGEST_PATTERN
    from bailiwick.kernel.quorum import Approval

    if not re.fullmatch(DIGEST_PATTERN[1:-1], digest):
        raise CommandFailed(USAGE, "--digest is sha256: and 64 hexadecimal digits")
    since = moment(at, option="--at")

    async def work(services: Services, database: Database, context: Context) -> dict[str, Any]:
        found = await services.states.declare(
            context, name, since, digest=digest, by=context.actor.user, reason=reason, signed_in=False
        )
        return {"approval": found.document()} if isinstance(found, Approval) else found.document()

    said = at_desk(data_dir, zone, work)
    if json_:
        print(as_json(said, indent=2))
    elif "approval" in said:
        approval = said["approval"]
        can = ", ".join(approval["candidates"]) or "-"
        print(cut(f"{approval['id']} waits for {approval['missing']} to approve; can: {can}", 200))
    else:
        print(f"{name} is {said['stage']}")
    return 0


def at_desk(data_dir: Path | None, zone: str, work: Callable[[Services, Database, Context], Awaitable[Any]]) -> Any:
    """What ``work`` answers with the services of this part on the machine's own database."""

    async def run(house: House, context: Context) -> Any:
        from bailiwick.app.handover.environments import services

        return await work(services(house), house.base.database, context)

    return in_room(data_dir, zone, run)
