"""``bailiwick db``: where the schema stands, bringing it up to date, and the read-only logins."""

from __future__ import annotations

from typing import Annotated

import typer

from bailiwick.cli.failure import FAILED, CommandFailed, command
from bailiwick.cli.options import DataDir, existing_layout, small_app

app = small_app()

READERS = ("bailiwick_readonly", "bailiwick_audit_readonly")
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.callback()
def db() -> None:
    """Where the database's schema stands, and who may read it."""


@app.command()
@command
def status(data_dir: DataDir = None, json_: Json = False) -> int:
    """Show the schema's revision and what is still to run. Exits 1 when something is."""
    import json

    from bailiwick.kernel import migrate

    found = migrate.status(owner_url(data_dir))
    if json_:
        print(json.dumps({"current": found.current, "head": found.head, "pending": list(found.pending)}))
    else:
        print(f"schema   {found.current or 'none'}")
        print(f"newest   {found.head}")
        print(f"pending  {', '.join(found.pending) or 'nothing'}")
    return 0 if found.up_to_date else FAILED


@app.command()
@command
def upgrade(data_dir: DataDir = None) -> int:
    """Run what is pending. `bailiwick up` does this by itself."""
    from bailiwick.cli.recorded import by_operator, leave
    from bailiwick.evidence import codes
    from bailiwick.evidence.events import Subject
    from bailiwick.kernel import migrate

    layout, url = existing_layout(data_dir), owner_url(data_dir)
    before = migrate.status(url).current or ""
    after = migrate.migrate(url).current or ""
    recorder, context = by_operator(layout)
    subject = Subject(id=context.zone, type="zone")
    event = recorder.make(codes.SCHEMA_UPGRADED, "success", context, subject=subject, before=before, after=after)
    leave(layout, event)
    print(f"schema {after}")
    return 0


@app.command()
@command
def reader(role: Annotated[str, typer.Argument(help=f"One of {', '.join(READERS)}.")], data_dir: DataDir = None) -> int:
    """Give a read-only role a login on the embedded database and print its address."""
    import asyncio

    from bailiwick.cli.recorded import by_operator, leave
    from bailiwick.evidence import codes
    from bailiwick.evidence.events import Subject
    from bailiwick.kernel.embedded_postgres import EmbeddedPostgres

    if role not in READERS:
        raise CommandFailed(2, f"{role} is not one of {', '.join(READERS)}")
    layout = existing_layout(data_dir)
    embedded = EmbeddedPostgres(layout)
    recorder, context = by_operator(layout)
    leave(layout, recorder.make(codes.READER_ADDED, "success", context, subject=Subject(id=role, type="user")))
    asyncio.run(embedded.ensure_login(role))
    print(embedded.url(user=role))
    return 0


def owner_url(data_dir: object) -> str:
    """The database past any pooler, as its owner."""
    import os

    from bailiwick.kernel.embedded_postgres import EmbeddedPostgres

    chosen = os.environ.get("BAILIWICK_DATABASE_DIRECT_URL") or os.environ.get("BAILIWICK_DATABASE_URL")
    if chosen:
        return chosen
    embedded = EmbeddedPostgres(existing_layout(data_dir))  # type: ignore[arg-type]
    if not embedded.initialised:
        raise CommandFailed(3, "there is no database yet")
    return embedded.url()
