"""``bailiwick hypercare``: the watch after going live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.environment import Name, Zone, at_desk
from bailiwick.cli.failure import command
from bailiwick.cli.ledger import Json, as_json
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.screen import cut

if TYPE_CHECKING:
    from bailiwick.app.handover.environments import Services
    from bailiwick.evidence.events import Context
    from bailiwick.kernel.db import Database

app = small_app()
_MARKS = {"PASS": "+", "NOT_DUE": ".", "NO_DATA": "?", "FAIL": "X", "ERROR": "E", "STALE": "s"}


@app.callback()
def _group() -> None:
    """Show the slots of hypercare. What fills them is measured; nothing can be typed."""


@app.command()
@command
def show(
    name: Name,
    every: Annotated[bool, typer.Option("--all", help="Also slots that are green or to come.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show every slot. Exits 0 when hypercare may end, 1 when a slot is red, 3 before its time is over."""
    from bailiwick.kernel.verdicts import Verdict

    async def work(services: Services, database: Database, context: Context) -> dict[str, Any]:
        from bailiwick.handover.environments.api import hypercare_of

        async with database.begin() as tx:
            return await hypercare_of(tx, services.states, services.hypercare, context.zone, name)

    found = at_desk(data_dir, zone, work)
    if json_:
        print(as_json(found, indent=2))
    else:
        _show(found, every)
    return Verdict(found["verdict"]).exit_code


def _show(found: dict[str, Any], every: bool) -> None:
    figures = found["figures"]
    print(f"hypercare of {found['environment']}: {found['verdict']}")
    if not found["slots"]:
        print("  nothing went live yet")
        return
    print(
        f"  {figures['green']} of {figures['slots']} green, {figures['red']} red, {figures['waived']} waived;"
        f" lasts until {figures['ends_at'][:16]}"
    )
    marks = "".join(_MARKS[each["verdict"]] for each in found["slots"])
    for start in range(0, len(marks), 72):
        print(f"  {marks[start : start + 72]}")
    print("  + green  X red  E not to be measured  ? being measured  . to come")
    for each in found["slots"]:
        if every or each["verdict"] not in ("PASS", "NOT_DUE"):
            waived = f" (waived: {each['waiver']})" if each["waiver"] else ""
            print(cut(f"  {each['at'][:16]}  {each['verdict']:8} {each['told']}{waived}"))
