"""``bailiwick waiver``: dated exceptions, from the machine's own database; deciding takes a signed-in person."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json, note, printable
from bailiwick.cli.options import DataDir, small_app

if TYPE_CHECKING:
    from bailiwick.assurance.waivers import Waiver, WaiverRegister
    from bailiwick.cli.waiver_desk import Desk

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone whose waivers are meant.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The waiver.")]
Until = Annotated[str, typer.Option("--until", metavar="TIME", help="When it ends, as 2026-01-12 or RFC 3339.")]
Comment = Annotated[str, typer.Option("--comment", help="What you say to it.")]


@app.callback()
def _group() -> None:
    """Ask for, decide and end dated exceptions to controls."""


@app.command("list")
@command
def list_waivers(
    state: Annotated[str, typer.Option("--state", help="active, expired, submitted …; all without.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show the newest 500 waivers. Exits 3 when there is none."""

    async def work(desk: Desk, register: WaiverRegister) -> int:
        from bailiwick.assurance.waivers import MACHINE

        if state and state not in MACHINE.states:
            raise CommandFailed(USAGE, f"--state is one of {', '.join(MACHINE.states)}")
        async with desk.database.begin() as tx:
            found = await register.list(tx, zone, state=state, limit=500)
            await note(tx, zone, "waivers", query=f"state={state}", returned=len(found))
        if json_:
            print(as_json([waiver.document() for waiver in found], indent=2))
        else:
            for waiver in found:
                print(_line(waiver))
        return 0 if found else NO_DATA

    return _at(data_dir, zone, work)


@app.command()
@command
def request(
    control: Annotated[str, typer.Option("--control", help="What is waived.")],
    scope: Annotated[str, typer.Option("--scope", help="What for.")],
    reason: Annotated[str, typer.Option("--reason", help="Why.")],
    risk: Annotated[str, typer.Option("--risk", help="LOW, MEDIUM, HIGH or CRITICAL.")],
    compensating: Annotated[str, typer.Option("--compensating", help="What protects meanwhile.")],
    owner: Annotated[str, typer.Option("--owner", help="The activity that owns it.")],
    plan: Annotated[str, typer.Option("--plan", help="How it is remedied.")],
    until: Until,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Ask for a waiver. From the machine, where nobody signed in, one more person must approve."""

    async def work(desk: Desk, register: WaiverRegister) -> int:
        from bailiwick.assurance.waivers import NewWaiver

        asked = NewWaiver(control, scope, reason, risk, compensating, owner, plan, _instant(until))
        drafted = await register.draft(desk.context, asked, by=desk.user, signed_in=False)
        waiver, approval = await register.submit(desk.context, drafted.id, by=desk.user)
        if json_:
            print(as_json({**waiver.document(), "missing": approval.missing}, indent=2))
        else:
            print(f"{waiver.id} waits for {approval.missing} to approve; can: {', '.join(approval.candidates) or '-'}")
        return 0

    return _at(data_dir, zone, work)


@app.command()
@command
def approve(identifier: Id, comment: Comment = "", zone: Zone = "default", data_dir: DataDir = None) -> int:
    """Approve what somebody else asked for. Takes $BAILIWICK_TOKEN."""
    return _through_api(data_dir, zone, identifier, "approve", {"comment": comment})


@app.command()
@command
def reject(identifier: Id, comment: Comment = "", zone: Zone = "default", data_dir: DataDir = None) -> int:
    """Reject it, which ends it. Takes $BAILIWICK_TOKEN."""
    return _through_api(data_dir, zone, identifier, "reject", {"comment": comment})


@app.command()
@command
def close(
    identifier: Id,
    evidence: Annotated[str, typer.Option("--evidence", metavar="RECORD", help="The evidence record.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
) -> int:
    """Close it: an evidence record shows that the control holds again."""

    async def work(desk: Desk, register: WaiverRegister) -> int:
        waiver = await register.close(desk.context, identifier, evidence)
        print(f"{waiver.id} is {waiver.state}")
        return 0

    return _at(data_dir, zone, work)


@app.command()
@command
def revoke(
    identifier: Id,
    why: Annotated[str, typer.Option("--why", help="Why it ends now.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
) -> int:
    """End it before its time."""

    async def work(desk: Desk, register: WaiverRegister) -> int:
        waiver = await register.revoke(desk.context, identifier, why)
        print(f"{waiver.id} is {waiver.state}")
        return 0

    return _at(data_dir, zone, work)


@app.command()
@command
def renew(
    identifier: Id,
    reason: Annotated[str, typer.Option("--reason", help="Why it takes longer; another than before.")],
    until: Until,
    zone: Zone = "default",
    data_dir: DataDir = None,
) -> int:
    """Ask for the renewal of an expired one, a tier higher."""

    async def work(desk: Desk, register: WaiverRegister) -> int:
        made = await register.renew(
            desk.context, identifier, by=desk.user, reason=reason, valid_until=_instant(until), signed_in=False
        )
        waiver, approval = await register.submit(desk.context, made.id, by=desk.user)
        print(f"{waiver.id} (tier {waiver.tier}) waits for {approval.missing} to approve")
        return 0

    return _at(data_dir, zone, work)


@app.command()
@command
def check(
    control: Annotated[str, typer.Option("--control")],
    scope: Annotated[str, typer.Option("--scope")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Say which waiver covers a control for a scope now. Exits 1 when none does."""

    async def work(desk: Desk, register: WaiverRegister) -> int:
        async with desk.database.begin() as tx:
            found = await register.covering(tx, zone, control, scope, desk.clock.now())
            await note(tx, zone, "waiver check", query=f"{control} {scope}"[:200], returned=int(found is not None))
        if json_:
            print(as_json({"control": control, "scope": scope, "waiver": found}))
        else:
            print(found or "none: the gate is shut")
        return 0 if found else 1

    return _at(data_dir, zone, work)


@app.command()
@command
def burndown(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show open waivers by risk, their age, those past due, renewed, unused. Exits 1 when one is past due."""

    async def work(desk: Desk, register: WaiverRegister) -> int:
        from bailiwick.assurance.waivers_watch import read_burn_down

        async with desk.database.begin() as tx:
            told = (await read_burn_down(tx, zone, desk.clock.now())).document()
            await note(tx, zone, "waiver burn-down", query="", returned=told["open_total"])
        if json_:
            print(as_json(told, indent=2))
        else:
            _show(told)
        return 1 if told["past_due_total"] else 0

    return _at(data_dir, zone, work)


def _show(told: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("risk", "open", "past due", "renewed", "mean age", box=None, padding=(0, 2, 0, 0))
    for risk in told["open"]:
        cells = (told["open"][risk], told["past_due"][risk], told["renewed"][risk])
        table.add_row(risk, *map(str, cells), f"{told['mean_age_h'][risk] / 24:.1f} d")
    console = Console(width=80, highlight=False)
    console.print(table)
    for identifier in told["unused"]:
        console.print(f"never used in 14 days: {identifier}")


def _line(waiver: Waiver) -> str:
    due = f"{waiver.valid_until:%Y-%m-%d %H:%M}"
    return printable(f"{waiver.id[:36]} {waiver.state:9} {waiver.risk:8} {due} {waiver.control}")[:80]


def _instant(text: str) -> datetime:
    from datetime import UTC

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandFailed(USAGE, f"--until {text}: say a day or an RFC 3339 instant") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _through_api(data_dir: Path | None, zone: str, identifier: str, verb: str, body: dict[str, Any]) -> int:
    from bailiwick.cli.signed_in import ask_api

    answer = ask_api(data_dir, zone, "POST", f"/api/v1/waivers/{identifier}/{verb}", body)
    print(f"{answer['id']} is {answer['state']}; {answer['missing']} more must approve")
    return 0


def _at(data_dir: Path | None, zone: str, work: Any) -> int:
    from bailiwick.cli.waiver_desk import at_desk

    async def run(desk: Desk) -> int:
        from bailiwick.assurance.waivers import WaiverRegister

        register = WaiverRegister(
            desk.database, desk.clock, desk.ids, desk.recorder, desk.quorum, desk.books, desk.records
        )
        return int(await work(desk, register))

    return at_desk(data_dir, zone, run)
