"""``bailiwick validate``: what is measured of an environment after it went live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.environment import Name, Zone, at_desk
from bailiwick.cli.failure import NO_DATA, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.screen import cut

if TYPE_CHECKING:
    from bailiwick.app.handover.environments import Services
    from bailiwick.evidence.events import Context
    from bailiwick.kernel.db import Database

app = small_app()


@app.callback()
def _group() -> None:
    """Measure what must be so within an hour, a day and a week after going live."""


@app.command()
@command
def run(
    name: Name,
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="first-hour, first-day, first-week …")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Measure a suite now and keep the report. Exits by its verdict; 3 before its window opens."""
    from bailiwick.kernel.errors import BailiwickError
    from bailiwick.kernel.verdicts import Verdict

    async def work(services: Services, database: Database, context: Context) -> dict[str, Any]:
        try:
            made = await services.validation.run(context, name, suite, asked_by=context.actor.user)
        except BailiwickError as error:
            if error.reason != "window_not_over":
                raise
            raise CommandFailed(NO_DATA, f"NOT_DUE: {error.detail}") from None
        return made.document()

    made = at_desk(data_dir, zone, work)
    if json_:
        print(as_json(made, indent=2))
    else:
        _show(made)
    return Verdict(made["verdict"]).exit_code


@app.command()
@command
def show(
    name: Name,
    suite: Annotated[str, typer.Option("--suite", help="With the newest report of this suite.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show how the suites stand. Exits 0 when all passed or are waived, 3 while something is to come."""
    from bailiwick.kernel.verdicts import Verdict

    async def work(services: Services, database: Database, context: Context) -> dict[str, Any]:
        from bailiwick.handover.environments.api import validation_of

        async with database.begin() as tx:
            return await validation_of(tx, services.states, services.validation, context.zone, name, suite)

    found = at_desk(data_dir, zone, work)
    if json_:
        print(as_json(found, indent=2))
    else:
        print(f"validation of {name}: {found['verdict']}")
        for each in found["suites"]:
            waived = f" (waived: {each['waiver']})" if each["waiver"] else ""
            print(cut(f"  {each['verdict']:8} {each['name']:12} {each['told']}{waived}"))
        if suite and found["reports"]:
            _show(found["reports"][-1])
    verdict = Verdict(found["verdict"])
    if suite:
        (point,) = found["suites"]
        verdict = Verdict.PASS if point["passes"] else Verdict(point["verdict"])
    return verdict.exit_code


def _show(made: dict[str, Any]) -> None:
    report = made["report"]
    late = ", after its window" if report["late"] else ""
    print(f"{report['title']}: {made['verdict']}, attempt {made['attempt']}{late}")
    print(cut(f"  of {report['digest'] or 'a release of unknown digest'}"))
    print(f"  {made['began_at'][:19]} to {made['ended_at'][:19]}")
    for each in report["results"]:
        if not each["outside"]:
            held = f" (must be {each['limit']})" if each["limit"] else ""
            print(cut(f"  {each['verdict']:8} {each['name']}: {each['detail']}{held}"))
    for each in report["results"]:
        if each["outside"]:
            print(cut(f"  outside  {each['name']}: {each['outside']}"))
    print(f"  report sha256:{made['sha256']}")
    print(f"  record sha256:{made['record']}")
