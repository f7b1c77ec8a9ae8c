"""``bailiwick ledger``: go on with a zone's ledger after a restore that lost events."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json, on_database, printable
from bailiwick.cli.options import DataDir, existing_layout, small_app

if TYPE_CHECKING:
    from bailiwick.evidence.continuing import Continued
    from bailiwick.kernel.db import Database

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone whose ledger goes on.")]


@app.callback()
def ledger() -> None:
    """Go on with a ledger after a restore that lost events."""


@app.command("continue")
@command
def continue_(
    ground: Annotated[str, typer.Option("--ground", metavar="TEXT", help="Why events were lost; it is recorded.")],
    head: Annotated[
        Path | None,
        typer.Option("--head", metavar="FILE", help="A newer head: of a witness, an auditor, a backup."),
    ] = None,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Ask that a ledger which lacks published events go on under another name; done when called again after that.

    Two signed-in persons must approve what is asked for here. A ledger that is other than what was published, event for
    event, was tampered with: it is refused. Exits 3 when nothing is missing, 1 when it is refused.
    """
    if len(ground.strip()) < 3:
        raise CommandFailed(USAGE, "--ground: say why events were lost")
    try:
        note = head.read_bytes() if head is not None else None
    except OSError as error:
        raise CommandFailed(USAGE, f"--head: {head}: {error.strerror}") from None
    layout = existing_layout(data_dir)

    async def run(database: Database) -> int:
        from pydantic import ValidationError

        from bailiwick.app.continuing import build_continuing
        from bailiwick.app.quorum import quorum_of
        from bailiwick.cli.archive import cold_events
        from bailiwick.cli.local import clock_of
        from bailiwick.cli.recorded import by_operator
        from bailiwick.kernel.errors import BailiwickError, InvalidRequest, NotFound, Unavailable
        from bailiwick.kernel.ids import Ids
        from bailiwick.kernel.settings import Settings

        try:
            settings = Settings(data_dir=layout.data_dir)  # type: ignore[call-arg]  # the rest is from the environment
        except ValidationError as error:
            raise CommandFailed(USAGE, "; ".join(str(problem["msg"]) for problem in error.errors())) from None
        recorder, context = by_operator(layout, zone)
        clock = clock_of(layout)
        quorum = quorum_of(database, clock, Ids(), recorder)
        cold = cold_events(data_dir, database)
        service = build_continuing(settings, layout, database, clock, recorder, quorum, cold)
        try:
            found = await service.go_on(context, ground.strip(), note)
        except (InvalidRequest, NotFound) as error:
            raise CommandFailed(USAGE, error.detail) from None
        except Unavailable:
            raise
        except BailiwickError as error:
            code = NO_DATA if error.reason == "ledger_not_behind" else FAILED
            raise CommandFailed(code, f"{error.reason}: {error.detail}") from None
        print(as_json(found.document()) if json_ else _told(found))
        return 0

    return on_database(data_dir, run)


def _told(found: Continued) -> str:
    lost = f"events {found.kept:,} to {found.known - 1:,}"
    if found.done:
        return (
            f"the ledger goes on as {found.log}\n{lost} are lost; {found.kept:,} were kept\n"
            f"agreed to by {printable(', '.join(found.approval.approved_by))}; event {found.event_id}"
        )
    approval = found.approval.document()
    lines = [f"approval {found.approval.id}: {lost} would be told lost", f"goes on as {found.log}"]
    lines += [printable(each) for each in found.approval.payload.get("witnesses", [])]
    lines.append(f"hash     {found.approval.payload_sha256}")
    lines.append(
        str(approval.get("blocked"))
        if "blocked" in approval
        else f"waits for {found.approval.missing} of: {printable(', '.join(found.approval.candidates))}"
    )
    return "\n".join([*lines, "call it again when it is approved"])
