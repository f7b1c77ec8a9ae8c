"""What the commands share that read an installation's ledger on its machine: connecting, recording, printing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, CommandFailed
from bailiwick.cli.options import existing_layout

if TYPE_CHECKING:
    from bailiwick.evidence.codes import EventType
    from bailiwick.evidence.events import Outcome
    from bailiwick.evidence.search import Entry
    from bailiwick.kernel.db import Database, Transaction

WIDTH = 80

Zone = Annotated[str, typer.Option("--zone", help="The zone whose ledger is read.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def line_of(entry: Entry, *, dated: bool = False) -> str:
    """An event in one line of at most 80 columns: number, time (``dated``: with its day), name, outcome, who, where."""
    shown = entry.to_json()
    event = shown["event"] or {}
    actor = event.get("actor", {})
    who = printable(actor.get("user") or actor.get("application") or "-")
    where = printable(event.get("server") or event.get("subject", {}).get("id", ""))
    flag = "" if shown["intact"] else " ALTERED"
    at = event.get("at", "?" * 27)
    when = f"{at[5:10]} {at[11:19]}" if dated else at[11:19]
    text = (
        f"{entry.seq:>8} {when} {event.get('name', 'unreadable'):<24.24}"
        f" {event.get('outcome', '?'):<7}{flag} {who}{' > ' + where if where else ''}"
    )
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def printable(text: str) -> str:
    """What is recorded came from callers: no control character of theirs reaches the terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def actor_of_command() -> str:
    """Who uses this machine: the system account."""
    import getpass

    return f"os:{getpass.getuser()}"


async def note(tx: Transaction, zone: str, what: str, **details: Any) -> None:
    """Leave the event that tells of a look at the evidence."""
    from bailiwick.evidence import codes

    await record(tx, codes.AUDIT_READ, "success", zone, "audit", what=what, **details)


async def record(tx: Transaction, kind: EventType, outcome: Outcome, zone: str, subject: str, **details: Any) -> None:
    """Leave the event of this command: whoever reads the evidence on the machine is named by his system account."""
    from bailiwick.cli.recorded import by_operator
    from bailiwick.evidence.events import Subject

    recorder, context = by_operator(None, zone)
    await recorder.record(tx, kind, outcome, context, subject=Subject(id=zone, type=subject), **details)


def on_database(
    data_dir: Path | None, run: Callable[[Database], Awaitable[int]], database_url: str | None = None
) -> int:
    """Run with the installation's database, or that of ``database_url``; the exit code."""
    import asyncio

    from bailiwick.cli import local
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.errors import Unavailable

    url = database_url or local.database_url(existing_layout(data_dir).data_dir)

    async def connected() -> int:
        database = Database(url, pool_size=2)
        try:
            return await run(database)
        except Unavailable:
            raise CommandFailed(FAILED, "the database does not answer; is the installation running?") from None
        finally:
            await database.close()

    return asyncio.run(connected())


def as_json(value: object, *, indent: int | None = None) -> str:
    """The value as JSON."""
    import json

    return json.dumps(value, default=str, ensure_ascii=False, indent=indent)
