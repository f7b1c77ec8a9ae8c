"""``bailiwick changes``: what people and applications changed, from the ledger."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from bailiwick.cli.failure import NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.options import DataDir, existing_layout, small_app

if TYPE_CHECKING:
    from bailiwick.evidence.events import Event

app = small_app()

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@app.command()
@command
def changes(
    since: Annotated[str, typer.Option("--since", help="How far back: 90m, 24h, 7d, or an ISO 8601 instant.")] = "24h",
    zone: Annotated[str, typer.Option("--zone", help="The zone whose ledger is read.")] = "default",
    data_dir: DataDir = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON lines.")] = False,
) -> int:
    """Show every change since then, oldest first. Exits 3 when there is none."""
    import asyncio

    from bailiwick.cli.local import database_url
    from bailiwick.cli.recorded import by_operator
    from bailiwick.evidence import codes
    from bailiwick.evidence.codes import EVENT_TYPES
    from bailiwick.evidence.events import Subject, decode
    from bailiwick.evidence.stored import COLUMNS, body_of
    from bailiwick.kernel.db import Database

    url = database_url(existing_layout(data_dir).data_dir)
    changing = [code for code, kind in EVENT_TYPES.items() if kind.mutation and not code.startswith("BW3001")]
    begin = instant(since)

    async def read() -> list[bytes]:
        database = Database(url)
        try:
            async with database.begin() as tx:
                rows = await tx.all(
                    f"SELECT {COLUMNS} FROM ledger.events"  # noqa: S608
                    " WHERE zone = :zone AND at >= :since AND code = ANY(:codes)"
                    " ORDER BY seq LIMIT 10000",
                    zone=zone,
                    since=begin,
                    codes=changing,
                )
                recorder, context = by_operator(None, zone)
                await recorder.record(
                    tx,
                    codes.AUDIT_READ,
                    "success",
                    context,
                    subject=Subject(id=zone, type="audit"),
                    what="changes",
                    query=f"since={begin.isoformat()}",
                    returned=len(rows),
                )
            return [body_of(row) for row in rows]
        finally:
            await database.close()

    found = asyncio.run(read())
    for body in found:
        print(body.decode() if json_ else _line(decode(body)))
    return 0 if found else NO_DATA


def instant(text: str, option: str = "--since") -> datetime:
    """The instant that ``90m``, ``24h``, ``7d`` ago or an ISO 8601 text means; ends the command for anything else."""
    if found := re.fullmatch(r"(\d{1,6})([mhd])", text):
        return datetime.now(UTC) - timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandFailed(USAGE, f"{option} {text}: say 90m, 24h, 7d or an ISO 8601 instant") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _line(event: Event) -> str:
    who = event.actor.user or event.actor.application or "system"
    what = f" {event.subject.type} {event.subject.id}" if event.subject else ""
    return f"{event.at[:19]}Z  {who[:16]:16}  {event.name}{what}"[:80]
