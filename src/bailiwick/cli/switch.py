"""``bailiwick switch``: what is switched off in a zone. Throwing takes one person, lifting two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json, printable
from bailiwick.cli.options import DataDir, small_app

if TYPE_CHECKING:
    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone that is meant.")]
Name = Annotated[
    str,
    typer.Argument(
        metavar="SWITCH",
        help="mint, exchange, approve, activate, provision, server (the gateway), freeze or read-only.",
    ),
]
Server = Annotated[str, typer.Option("--server", help="Of `server`: one by its name, not all.")]
Why = Annotated[str, typer.Option("--why", help="Why.")]
Ticket = Annotated[str, typer.Option("--ticket", help="By which ticket or incident.")]


@app.callback()
def _group() -> None:
    """Show, throw and lift switches. Acting takes $BAILIWICK_TOKEN."""


@app.command("list")
@command
def list_switches(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show what is switched off. Exits 3 when nothing is."""

    async def work(house: House, context: Context) -> int:
        from bailiwick.assurance.gateway_switch import GatewaySwitch
        from bailiwick.handover.switches import Switches

        base = house.base
        keepers = (base.clock, base.ids, base.recorder)
        async with base.database.begin() as tx:
            thrown = [each.document() for each in await Switches(*keepers).standing(tx, zone)]
            closed = [closure_document(*each) for each in (await GatewaySwitch(*keepers).standing(tx, zone)).items()]
        off = [*closed, *thrown]
        if json_:
            print(as_json(off, indent=2))
        else:
            for each in off:
                named = "/".join(filter(None, [each["name"], each.get("server")]))
                line = f"{named:20} {each['thrown_at'][:16]} {each['thrown_by']:12.12} {each['reason']}"
                print(printable(line)[:80])
        return 0 if off else NO_DATA

    from bailiwick.cli.room import in_room

    return in_room(data_dir, zone, work)


def closure_document(server: str, row: dict[str, Any]) -> dict[str, Any]:
    """A closed gateway in the form of a switch. ``server``: empty for all of it."""
    from bailiwick.evidence.events import rfc3339

    return {
        "id": row["id"],
        "name": "server",
        "server": server,
        "reason": row["reason"],
        "thrown_by": row["closed_by"],
        "thrown_at": rfc3339(row["closed_at"]),
    }


@app.command()
@command
def throw(
    name: Name, why: Why, ticket: Ticket, server: Server = "", zone: Zone = "default", data_dir: DataDir = None,
    json_: Json = False,
) -> int:  # fmt: skip
    """Switch it off at once, alone; another person reviews that within a day."""
    return _ask(data_dir, zone, "/break-glass", "switch.throw", name, server, why, ticket, json_)


@app.command()
@command
def lift(
    name: Name, why: Why, ticket: Ticket, server: Server = "", zone: Zone = "default", data_dir: DataDir = None,
    json_: Json = False,
) -> int:  # fmt: skip
    """Ask to switch it on again; another person agrees by `override approve`, then `override execute` does it."""
    return _ask(data_dir, zone, "", "switch.lift", name, server, why, ticket, json_)


def _ask(
    data_dir: Path | None, zone: str, path: str, operation: str, name: str, server: str, why: str, ticket: str,
    json_: bool,
) -> int:  # fmt: skip
    from bailiwick.cli.override import PATH, told_of
    from bailiwick.cli.signed_in import ask_api

    arguments: dict[str, Any] = {"switch": name, "why": why}
    if name == "server":  # which is the gateway's, and cuts streams as well
        operation = "gateway.close" if operation == "switch.throw" else "gateway.open"
        arguments = {"server": server, "why": why}
    elif server:
        raise CommandFailed(USAGE, "only the switch `server` is of a server")
    body = {"operation": operation, "arguments": arguments, "reason": why, "ticket": ticket, "risk": "CRITICAL"}
    return told_of(ask_api(data_dir, zone, "POST", PATH + path, body), json_=json_)
