"""``bailiwick notices``: what was sent to whom, what did not arrive, and whether a channel works."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json
from bailiwick.cli.options import DataDir, small_app

if TYPE_CHECKING:
    from bailiwick.app.assurance.alerts import Alerting
    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone the notices are in.")]


@app.callback()
def notices() -> None:
    """What was sent to whom, what did not arrive, and whether a channel works."""


@app.command("list")
@command
def list_notices(
    state: Annotated[str, typer.Option("--state", help="waiting, due, delivered, dead or not_set_up.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show notices with their receipts, newest first.

    Exits 1 when some are dead, 3 when there are none or some were for a channel that nobody set up."""
    from bailiwick.cli.alerting import with_alerting
    from bailiwick.cli.screen import table

    if state not in ("", "waiting", "due", "delivered", "dead", "not_set_up"):
        raise CommandFailed(USAGE, "--state is waiting, due, delivered, dead or not_set_up")

    async def use(house: House, built: Alerting, context: Context) -> list[dict[str, Any]]:
        async with house.base.database.begin() as tx:
            return await built.outbox.listed(tx, zone, state=state, limit=200)

    found = with_alerting(data_dir, zone, use)
    receipts = [(notice, receipt) for notice in found for receipt in notice["deliveries"]]
    if json_:
        print(as_json(found, indent=2))
    else:
        rows = (
            [n["created_at"], f"{r['channel'] or n['recipient']} {r['address']}".strip(), r["state"], r["attempts"],
             r["told"] or n["subject"], n["id"]] for n, r in receipts
        )  # fmt: skip
        table(["at", "to", "state", "tries", "what", "id"], rows)
    states = {receipt["state"] for _, receipt in receipts}
    return FAILED if "dead" in states else NO_DATA if not found or "not_set_up" in states else 0


@app.command()
@command
def channels(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show the channels, and what each still lacks. Exits 3 while one is not set up."""
    from bailiwick.cli.alerting import with_alerting
    from bailiwick.cli.screen import table

    async def use(house: House, built: Alerting, context: Context) -> list[dict[str, Any]]:
        from bailiwick.assurance.notices.channels import told_of

        async with house.base.database.begin() as tx:
            given = {each.name for each in await built.secrets.list(tx, zone)}
            return told_of(await house.books.current(tx, zone), given)

    found = with_alerting(data_dir, zone, use)
    if json_:
        print(as_json(found, indent=2))
    else:
        rows = ([each["name"], each["way"], each["lacks"] or "set up", each["fallback"] or ""] for each in found)
        table(["channel", "way", "is", "fallback"], rows)
    return NO_DATA if not found or any(each["lacks"] for each in found) else 0


@app.command()
@command
def retry(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="The notice's id.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Try what did not arrive of a notice again."""
    from bailiwick.cli.alerting import with_alerting

    async def use(house: House, built: Alerting, context: Context) -> int:
        return await built.outbox.retry(context, identifier)

    count = with_alerting(data_dir, zone, use)
    print(as_json({"deliveries": count}) if json_ else f"{count} deliveries are tried again")
    return 0


@app.command()
@command
def test(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="The channel's name.")],
    wait: Annotated[int, typer.Option("--wait", min=0, max=600, help="Seconds to wait for the receipt.")] = 30,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Send something by a channel and wait for its receipt. Exits 0 when it arrived, 3 when nobody knows yet."""
    import asyncio
    import time

    from bailiwick.assurance.notices.testing import send_test
    from bailiwick.cli.alerting import with_alerting
    from bailiwick.cli.screen import told

    async def use(house: House, built: Alerting, context: Context) -> dict[str, Any]:
        base = house.base
        identifier = await send_test(base.database, base.recorder, house.books, built.outbox, context, channel)
        until = time.monotonic() + wait
        while True:
            async with base.database.begin() as tx:
                found = await built.outbox.get(tx, zone, identifier)
            states = {receipt["state"] for receipt in found["deliveries"]}
            if (states and "due" not in states) or time.monotonic() > until:
                return found
            await asyncio.sleep(0.2)

    found = with_alerting(data_dir, zone, use)
    receipts = found["deliveries"]
    if json_:
        print(as_json(found, indent=2))
    else:
        for receipt in receipts:
            why = f": {told(receipt['told'])}" if receipt["told"] else ""
            where = f"{told(receipt['channel'])} {told(receipt['address'])}".strip()
            print(f"{receipt['state']:10} {where} {receipt['latency_ms'] or '-'} ms{why}")
    states = {receipt["state"] for receipt in receipts}
    return FAILED if states & {"dead", "not_set_up"} else 0 if states == {"delivered"} else NO_DATA


@app.command()
@command
def secret(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The secret's name, as channels have it.")],
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Where it is; - for standard input.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Forget it.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
) -> int:
    """Give the secret of a channel, from a file or standard input; it is sealed and never shown."""
    import sys

    from bailiwick.cli.alerting import with_alerting

    if remove == (file is not None):
        raise CommandFailed(USAGE, "give --file or --remove")
    try:
        value = "" if file is None else sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise CommandFailed(USAGE, f"{file} cannot be read") from None

    async def use(house: House, built: Alerting, context: Context) -> None:
        if remove:
            await built.secrets.remove(context, name)
        else:
            await built.secrets.put(context, name, value.rstrip("\r\n"), by=context.actor.user)

    with_alerting(data_dir, zone, use)
    print(f"{name} is {'forgotten' if remove else 'kept'}")
    return 0
