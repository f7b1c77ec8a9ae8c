"""``bailiwick handover``: packs of what changes hands. Signing and accepting take a sign-in."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json, printable
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.room import in_room

if TYPE_CHECKING:
    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context
    from bailiwick.handover.handovers.records import Handover
    from bailiwick.kernel.db import Transaction

app = small_app()
PATH = "/api/v1/handovers"

Zone = Annotated[str, typer.Option("--zone", help="The zone whose handovers are meant.")]
Id = Annotated[str, typer.Argument(metavar="HANDOVER", help="Its id, or the beginning of its SHA-256.")]
Whole = Annotated[str, typer.Argument(metavar="HANDOVER", help="Its id.")]
Team = Annotated[str, typer.Option("--team", help="engineering, operations, security or management.")]
Sha256 = Annotated[str, typer.Option("--sha256", help="SHA-256 of the pack as you read it.")]
Out = Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Where to; else to the terminal.")]


@app.callback()
def _group() -> None:
    """Build a pack, have four teams sign it, accept it. Signing takes $BAILIWICK_TOKEN."""


@app.command()
@command
def build(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A HandoverPlan of the book.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Build the pack of a plan. Exits 0 when every statement is PASS or waived."""

    async def work(house: House, context: Context) -> int:
        from bailiwick.app.handover.handovers import services

        made = await services(house).packer.build(context, plan, by=context.actor.user)
        return _shown(made, json_)

    return in_room(data_dir, zone, work)


@app.command("list")
@command
def list_all(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show the newest handovers. Exits 3 when there is none."""

    async def work(house: House, context: Context) -> int:
        from bailiwick.handover.handovers.records import list_handovers

        async with house.base.database.begin() as tx:
            found = await list_handovers(tx, zone, "g", 50)
            await _note(house, tx, context, "list", len(found))
        if json_:
            print(as_json([each.summary() for each in found], indent=2))
        else:
            for each in found:
                line = f"{each.sha256[:12]} {each.built_at:%Y-%m-%d %H:%M} {each.state:10} {each.verdict:8}"
                print(printable(f"{line} {each.environment}, {len(each.signatures)} of 4 signed")[:80])
        return 0 if found else NO_DATA

    return in_room(data_dir, zone, work)


@app.command()
@command
def show(
    identifier: Id,
    form: Annotated[str, typer.Option("--form", help="text, json, html, pdf or md.")] = "text",
    out: Out = None,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show what a pack says and who signed it; or write it as a file. `--form json` is what is signed."""
    if form not in ("text", "json", "html", "pdf", "md"):
        raise CommandFailed(USAGE, "--form is text, json, html, pdf or md")

    async def work(house: House, context: Context) -> int:
        async with house.base.database.begin() as tx:
            found = await _find(tx, zone, identifier)
            await _note(house, tx, context, f"show {found.id}", 1)
        if form == "text":
            return _shown(found, json_, whole=True)
        from bailiwick.handover.handovers.api import written

        data = written(found, form)  # type: ignore[arg-type]  # as was looked at
        if out is None:
            sys.stdout.buffer.write(data)
        else:
            _write(out, data)
        return 0

    return in_room(data_dir, zone, work)


@app.command()
@command
def sign(
    identifier: Whole,
    team: Team,
    sha256: Sha256,
    assertion: Annotated[
        Path | None, typer.Option("--assertion", help="What a WebAuthn key answered, as JSON; else by step-up.")
    ] = None,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Sign for a team: by a key's answer over the SHA-256, or by the second factor you used just now."""
    body: dict[str, Any] = {"team": team, "sha256": sha256}
    if assertion is not None:
        try:
            body["credential"] = json.loads(assertion.read_text())
        except (OSError, ValueError) as error:
            raise CommandFailed(USAGE, f"{assertion}: {error}") from None
    return _told(_ask(data_dir, zone, "POST", f"/{identifier}/sign", body), json_)


@app.command()
@command
def refuse(
    identifier: Whole,
    team: Team,
    reason: Annotated[str, typer.Option("--reason", help="Why, in a line.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Refuse for a team, also one that signed: the pack is over."""
    return _told(_ask(data_dir, zone, "POST", f"/{identifier}/refuse", {"team": team, "reason": reason}), json_)


@app.command()
@command
def accept(
    identifier: Whole, sha256: Sha256, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False
) -> int:
    """Take over, now: on-call, alert routes and RACI change hands, the environment becomes BAU active."""
    return _told(_ask(data_dir, zone, "POST", f"/{identifier}/accept", {"sha256": sha256}), json_)


@app.command()
@command
def statement(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show the handover statement; exits 1 with what it waits for where there is none."""

    async def work(house: House, context: Context) -> int:
        from bailiwick.app.handover.handovers import services
        from bailiwick.handover.handovers.api import stated

        async with house.base.database.begin() as tx:
            found = await stated(tx, services(house).handovers, await _find(tx, zone, identifier))
            await _note(house, tx, context, "statement", 1)
        if json_:
            print(as_json(found, indent=2))
        elif found["statement"] is not None:
            import textwrap

            print("\n".join(textwrap.wrap(found["statement"]["text"], 80)))
            print(f"\n{found['statement']['environment']}, accepted by {found['statement']['accepted_by']}")
            print(f"{found['statement']['at']}, pack {found['statement']['sha256']}")
        else:
            for line in found["unmet"]:
                print(printable(f"not yet: {line}")[:80])
        return 0 if found["statement"] is not None else FAILED

    return in_room(data_dir, zone, work)


@app.command()
@command
def pack(
    identifier: Id,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The ZIP file to write.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Write the pack as a ZIP file that `bailiwick-verify pack` checks offline."""
    from bailiwick.cli.evidence import build_pack
    from bailiwick.handover.handovers.section import selection

    async def wanted(house: House, context: Context) -> Any:
        async with house.base.database.begin() as tx:
            return selection(await _find(tx, zone, identifier))

    from bailiwick.cli.room import in_room

    built = build_pack(data_dir, in_room(data_dir, zone, wanted), "", out)
    if json_:
        print(as_json({"id": built.id, "file": str(built.path), "sha256": built.sha256, "bytes": built.bytes}))
    else:
        print(f"{built.path}: {built.files} files, {built.bytes:,} bytes, {built.events} events")
        print(f"check: bailiwick-verify pack {out} --key KEYFILE")
    return 0


@app.command()
@command
def escalation(
    environment: Annotated[str, typer.Option("--env", help="The environment that it is about.")] = "production",
    out: Out = None,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Gather what whoever is asked for help needs to know. Exits 1 when a guarantee is degraded."""

    async def work(house: House, context: Context) -> int:
        from bailiwick.app.handover.handovers import services
        from bailiwick.handover.handovers.escalation import lines

        told = await services(house).escalation.make(context, environment)
        text = as_json(told, indent=2)
        if out is not None:
            _write(out, text.encode() + b"\n")
        if json_:
            print(text)
        else:
            print("\n".join(map(printable, lines(told))))
        return FAILED if told["degraded"] else 0

    return in_room(data_dir, zone, work)


# ---------------------------------------------------------------------- inside


def _shown(found: Handover, json_: bool, *, whole: bool = False) -> int:
    document = found.document
    if json_:
        print(as_json({**found.summary(), **({"document": document} if whole else {})}, indent=2))
        return found.verdict.exit_code
    print(printable(f"{found.environment}: {document['from']} to {document['to']}")[:80])
    print(f"{found.verdict}, {found.state}; good until {found.good_until:%Y-%m-%d %H:%M} UTC")
    print(f"id      {found.id}")
    print(f"sha256  {found.sha256}")
    if not document["readiness"]["passes"]:
        print(printable(f"readiness is {document['readiness']['verdict']}")[:80])
    for chapter in document["chapters"]:
        for each in chapter["statements"]:
            if whole or (each["verdict"] != "PASS" and not each["waiver"]):
                mark = "waived" if each["waiver"] else each["verdict"]
                print(printable(f"{mark:8} {chapter['name']}/{each['name']}: {each['told']}")[:80])
    for signed in found.signatures:
        print(printable(f"signed   {signed.team}: {signed.person}, {signed.how}")[:80])
    if found.refusal is not None:
        print(printable(f"refused  {found.refusal.team}: {found.refusal.reason}")[:80])
    if found.acceptance is not None:
        print(printable(f"accepted by {found.acceptance.person} at {found.acceptance.at:%Y-%m-%d %H:%M} UTC")[:80])
    return found.verdict.exit_code


def _told(found: Any, json_: bool) -> int:
    if json_:
        print(json.dumps(found, indent=2))
    else:
        missing = ", ".join(found["missing"])
        print(
            printable(f"{found['environment']} is {found['state']}{f'; waits for {missing}' if missing else ''}")[:80]
        )
    return 0


def _ask(data_dir: Path | None, zone: str, method: str, path: str, body: dict[str, Any]) -> Any:
    from bailiwick.cli.signed_in import ask_api

    return ask_api(data_dir, zone, method, PATH + path, body)


async def _find(tx: Transaction, zone: str, identifier: str) -> Handover:
    """By its id, or by the beginning of its hash."""
    from bailiwick.handover.handovers.records import find
    from bailiwick.kernel.fields import UUID_PATTERN, matches

    if matches(UUID_PATTERN, identifier):
        return await find(tx, zone, identifier)
    if not matches(r"[0-9a-f]{8,64}", identifier):
        raise CommandFailed(USAGE, "name a handover by its id or by 8 or more digits of its SHA-256")
    ids = await tx.all(
        "SELECT id FROM handovers WHERE zone = :zone AND starts_with(sha256, :begin)", zone=zone, begin=identifier
    )
    if len(ids) != 1:
        raise CommandFailed(NO_DATA, f"{len(ids) or 'no'} handovers have a SHA-256 that begins so")
    return await find(tx, zone, ids[0]["id"])


async def _note(house: House, tx: Transaction, context: Context, what: str, returned: int) -> None:
    from bailiwick.evidence import codes
    from bailiwick.evidence.events import Subject

    subject = Subject(id=context.zone, type="zone")
    await house.base.recorder.record(
        tx, codes.HANDOVER_READ, "success", context, subject=subject, what=what, returned=returned
    )


def _write(out: Path, data: bytes) -> None:
    try:
        out.write_bytes(data)
    except OSError as error:
        raise CommandFailed(FAILED, f"{out}: {error.strerror}") from None
