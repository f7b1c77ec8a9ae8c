"""``bailiwick override``: what takes other persons. Whoever acts signs in: having the machine makes nobody a person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json, note, printable
from bailiwick.cli.options import DataDir, small_app

if TYPE_CHECKING:
    from bailiwick.cli.waiver_desk import Desk

app = small_app()
PATH = "/api/v1/overrides"

Zone = Annotated[str, typer.Option("--zone", help="The zone whose overrides are meant.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The override.")]
Hash = Annotated[str, typer.Option("--hash", help="payload_sha256 as `show` tells it: that you read it.")]
Comment = Annotated[str, typer.Option("--comment", help="What you say to it.")]
Operation = Annotated[str, typer.Argument(metavar="OPERATION", help="policy.rollback, gateway.open …")]
Arguments = Annotated[list[str], typer.Option("--arg", metavar="NAME=VALUE", help="An argument; a number as such.")]
Reason = Annotated[str, typer.Option("--reason", help="Why.")]
Ticket = Annotated[str, typer.Option("--ticket", help="By which ticket.")]
Risk = Annotated[str, typer.Option("--risk", help="LOW, MEDIUM, HIGH or CRITICAL.")]


@app.callback()
def _group() -> None:
    """Ask for, agree to, do and review exact operations. Acting takes $BAILIWICK_TOKEN."""


@app.command("list")
@command
def list_overrides(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show the newest 100. Exits 3 when there is none."""

    async def work(desk: Desk) -> int:
        async with desk.database.begin() as tx:
            rows = await tx.all(f"{_SELECT} ORDER BY o.id DESC LIMIT 100", zone=zone, now=desk.clock.now())
            await note(tx, zone, "overrides", query="", returned=len(rows))
        if json_:
            print(as_json([dict(row) for row in rows], indent=2))
        else:
            for row in rows:
                text = f"{row['id']} {row['state']:10} {row['requested_by']:12.12} {row['operation']} {row['target']}"
                print(printable(text)[:80])
        return 0 if rows else NO_DATA

    return _at(data_dir, zone, work)


@app.command()
@command
def show(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show one, exactly as it would be done, with its hash."""

    async def work(desk: Desk) -> int:
        async with desk.database.begin() as tx:
            row = await tx.one(f"{_SELECT} AND o.id = :id", zone=zone, id=identifier, now=desk.clock.now())
            await note(tx, zone, "override", query=identifier[:100], returned=int(row is not None))
        if row is None:
            raise CommandFailed(NO_DATA, "there is no such override")
        if json_:
            print(as_json(dict(row), indent=2))
        else:
            for name, value in row.items():
                print(printable(f"{name:16} {as_json(value) if isinstance(value, dict) else value}"))
        return 0

    return _at(data_dir, zone, work)


@app.command()
@command
def propose(
    operation: Operation,
    reason: Reason,
    ticket: Ticket,
    risk: Risk = "HIGH",
    arg: Arguments = [],  # noqa: B006 - typer copies it
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Ask for an operation."""
    asked = _asked(operation, arg, reason, ticket, risk)
    return told_of(_ask(data_dir, zone, "", asked), json_=json_)


@app.command("break-glass")
@command
def break_glass(
    operation: Operation,
    reason: Reason,
    ticket: Ticket,
    risk: Risk = "CRITICAL",
    arg: Arguments = [],  # noqa: B006 - typer copies it
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Do it at once, alone; somebody else must confirm it within a day."""
    asked = _asked(operation, arg, reason, ticket, risk)
    return told_of(_ask(data_dir, zone, "/break-glass", asked), json_=json_)


@app.command()
@command
def approve(
    identifier: Id, hash_: Hash, comment: Comment = "", zone: Zone = "default", data_dir: DataDir = None
) -> int:
    """Agree to exactly what you read."""
    body = {"payload_sha256": hash_, "comment": comment}
    return told_of(_ask(data_dir, zone, f"/{identifier}/approve", body), json_=False)


@app.command()
@command
def reject(identifier: Id, hash_: Hash, comment: Comment = "", zone: Zone = "default", data_dir: DataDir = None) -> int:
    """Reject it, which ends it."""
    body = {"payload_sha256": hash_, "comment": comment}
    return told_of(_ask(data_dir, zone, f"/{identifier}/reject", body), json_=False)


@app.command()
@command
def execute(identifier: Id, hash_: Hash, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Do what was agreed to. Exits 1 when it was not done."""
    done = _ask(data_dir, zone, f"/{identifier}/execute", {"payload_sha256": hash_})
    told_of(done, json_=json_)
    return 0 if done["state"] == "done" else 1


@app.command()
@command
def review(
    identifier: Id,
    hash_: Hash,
    verdict: Annotated[str, typer.Option("--verdict", help="confirmed or disputed.")],
    comment: Comment = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
) -> int:
    """Confirm or dispute what somebody did by broken glass; what is disputed is taken back where there is a way."""
    if verdict not in ("confirmed", "disputed"):
        raise CommandFailed(USAGE, "--verdict is confirmed or disputed")
    body = {"payload_sha256": hash_, "verdict": verdict, "comment": comment}
    return told_of(_ask(data_dir, zone, f"/{identifier}/review", body), json_=False)


def _asked(operation: str, arguments: list[str], reason: str, ticket: str, risk: str) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for each in arguments:
        name, equals, value = each.partition("=")
        if not equals:
            raise CommandFailed(USAGE, f"--arg {each}: say NAME=VALUE")
        said[name] = int(value) if value.lstrip("-").isdecimal() and len(value) < 16 else value
    return {"operation": operation, "arguments": said, "reason": reason, "ticket": ticket, "risk": risk}


def _ask(data_dir: Path | None, zone: str, path: str, body: dict[str, Any]) -> Any:
    from bailiwick.cli.signed_in import ask_api

    return ask_api(data_dir, zone, "POST", PATH + path, body)


def told_of(answer: dict[str, Any], *, json_: bool) -> int:
    """Print an override as the API answers it; what the command ends with."""
    if json_:
        print(json.dumps(answer, indent=2))
        return 0
    approval = answer["approval"]
    print(printable(f"{answer['id']} {answer['state']}: {answer['operation']} on {answer['target']}"))
    print(f"hash {answer['payload_sha256']}")
    if answer["state"] == "requested":
        print(printable(f"{approval['missing']} more must agree; can: {', '.join(approval['candidates']) or '-'}"))
    return 0


def _at(data_dir: Path | None, zone: str, work: Any) -> int:
    from bailiwick.cli.waiver_desk import at_desk

    return at_desk(data_dir, zone, work)


_SELECT = """
SELECT o.id, CASE WHEN o.state <> 'requested' THEN o.state WHEN a.ended IS NOT NULL THEN a.ended
    WHEN a.expires_at <= :now THEN 'expired' WHEN (SELECT count(*) FROM approval_votes v WHERE v.approval = a.id
      AND v.approves) >= a.needed THEN 'checked' ELSE 'requested' END AS state,
  o.operation, o.arguments, o.target, o.target_version, o.environment, o.payload_sha256, o.reason, o.ticket, o.risk,
  o.rule, o.rule_version, o.requested_by, o.requested_at, a.needed, a.expires_at, o.executed_by, o.executed_at,
  o.result, o.break_glass, o.review_due, o.reviewed_by, o.undo, o.why
FROM overrides o JOIN approvals a ON a.id = o.approval WHERE o.zone = :zone
"""
