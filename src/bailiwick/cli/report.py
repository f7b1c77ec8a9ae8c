"""``bailiwick report …``: orphans, the access review, failed sign-ins, from the machine's own database."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bailiwick.cli.failure import command
from bailiwick.cli.ledger import Json, Zone, as_json, note, on_database, printable
from bailiwick.cli.options import DataDir, small_app

if TYPE_CHECKING:
    from bailiwick.identity.reports import Name, Report
    from bailiwick.kernel.db import Database

app = small_app()

Csv = Annotated[bool, typer.Option("--csv", help="As CSV.")]
Days = Annotated[int, typer.Option("--days", min=1, max=7, help="How far to look back.")]


@app.callback()
def _group() -> None:
    """Show who has what, what nobody answers for, and who failed to sign in."""


@app.command()
@command
def orphans(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False, csv: Csv = False) -> int:
    """Accounts, groups, keys and applications that nobody answers for."""
    return _show("orphans", zone, data_dir, json_=json_, csv=csv)


@app.command()
@command
def access(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False, csv: Csv = False) -> int:
    """Who has what, when it was last used, and whether it was reviewed."""
    return _show("access", zone, data_dir, json_=json_, csv=csv)


@app.command("failed-logins")
@command
def failed_logins(
    days: Days = 7, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False, csv: Csv = False
) -> int:
    """Failed sign-ins by name, address and reason."""
    return _show("failed-logins", zone, data_dir, days=days, json_=json_, csv=csv)


def _show(name: Name, zone: str, data_dir: Path | None, *, days: int = 7, json_: bool, csv: bool) -> int:
    async def run(database: Database) -> int:
        from bailiwick.cli.local import clock_of
        from bailiwick.cli.options import layout_of
        from bailiwick.identity.reports import make

        async with database.begin() as tx:
            report = await make(tx, name, zone, clock_of(layout_of(data_dir)).now(), days=days)
            await note(tx, zone, f"report {name}", query="", returned=len(report.rows))
        if json_:
            print(as_json(report.document(), indent=2))
        elif csv:
            sys.stdout.write(report.as_csv())
        else:
            _print(report)
        return 0

    return on_database(data_dir, run)


def _print(report: Report) -> None:
    for row in report.rows:
        cells = (row[column] for column in report.columns)
        print("  ".join(printable(_told(cell)) for cell in cells if cell not in (None, "", [])))
    print(f"{len(report.rows)} rows, {report.findings} to look at")


def _told(cell: object) -> str:
    return ",".join(map(str, cell)) if isinstance(cell, (list, tuple)) else str(cell)
