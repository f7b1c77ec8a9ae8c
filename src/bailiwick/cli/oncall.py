"""``bailiwick oncall``: who is called, now and next, and who stands in."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import as_json
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.owners_desk import At, at_desk
from bailiwick.cli.screen import cut, moment, shown

if TYPE_CHECKING:
    from bailiwick.assurance.oncall.rota import Override, Shift
    from bailiwick.assurance.oncall.service import Called
    from bailiwick.assurance.ports import Level

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone whose rotas they are.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Rota = Annotated[str, typer.Option("--rota", help="The rota.")]
LevelName = Annotated[str, typer.Option("--level", help="primary, secondary, lead, manager or management.")]
Days = Annotated[int, typer.Option("--days", min=1, max=400, help="How far ahead.")]
Reason = Annotated[str, typer.Option("--reason", help="Why.")]


@app.callback()
def oncall() -> None:
    """Who is called, now and next, and who stands in."""


@app.command()
@command
def now(
    at: Annotated[str, typer.Option("--at", help="Another moment: an ISO 8601 instant, or 8h, 2d from now.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show who is on call. Exits 1 where nobody is, 3 where there is no rota."""
    found = _called(data_dir, zone, at)
    if json_:
        print(as_json([each.document() for each in found], indent=2))
    else:
        for each in found:
            print(cut(f"{each.rota:16} {each.level:10} {_who(each.now):28} until {shown(each.now.ends)}"))
    if not found:
        return NO_DATA
    return FAILED if any(each.now.duty.person is None and each.now.duty.why != "declared gap" for each in found) else 0


@app.command("next")
@command
def following(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show who is on call after those who are now. Exits 3 where there is no rota."""
    found = _called(data_dir, zone, "")
    if json_:
        print(as_json([each.document() for each in found], indent=2))
        return 0 if found else NO_DATA
    for each in found:
        told = f"{_who(each.following):28} from {shown(each.following.begins)}" if each.following else "the same"
        print(cut(f"{each.rota:16} {each.level:10} {told}"))
    return 0 if found else NO_DATA


@app.command("list")
@command
def list_shifts(
    rota: Rota = "default",
    level: LevelName = "",
    days: Days = 56,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show the shifts to come."""
    from bailiwick.assurance.oncall.service import shift_document

    levels = [_level(level)] if level else []

    async def read(at: At) -> list[Shift]:
        begins = at.now.replace(microsecond=0)
        return await at.desk.oncall.shifts(at.tx, zone, rota, levels, begins, begins + timedelta(days=days))

    found = at_desk(data_dir, zone, read)
    if json_:
        print(as_json([shift_document(each) for each in found], indent=2))
        return 0
    for each in found:
        print(cut(f"{shown(each.begins)}  {each.level:10} {_who(each):26} {each.duty.why}"))
    return 0


@app.command()
@command
def override(
    username: Annotated[str, typer.Argument(metavar="NAME", help="Who stands in.")],
    until: Annotated[str, typer.Option("--until", help="Until when: an ISO 8601 instant, or 8h, 2d, 1w from now.")],
    reason: Reason,
    begins: Annotated[str, typer.Option("--from", help="From when on, as --until; now without it.")] = "",
    rota: Rota = "default",
    level: LevelName = "primary",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Have somebody stand in. Of two that overlap, the one made later holds."""
    told, wanted = _line(reason), _level(level)

    async def make(at: At) -> Override:
        return await at.desk.oncall.override(
            at.tx,
            at.context,
            rota,
            wanted,
            username,
            moment(begins, option="--from", now=at.now) if begins else at.now,
            moment(until, option="--until", now=at.now),
            told,
            by=at.operator,
        )

    return _told([at_desk(data_dir, zone, make)], json_=json_)


@app.command()
@command
def overrides(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show who stands in, now and later. Exits 3 when nobody does."""

    async def read(at: At) -> list[Override]:
        return await at.desk.oncall.overrides(at.tx, zone, at.now)

    found = at_desk(data_dir, zone, read)
    return _told(found, json_=json_) if found or json_ else NO_DATA


@app.command()
@command
def withdraw(
    override_id: Annotated[str, typer.Argument(metavar="ID", help="The stand-in, as `oncall overrides` shows it.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Take a stand-in back, or end it where it has begun."""

    async def end(at: At) -> Override:
        return await at.desk.oncall.withdraw(at.tx, at.context, override_id, by=at.operator)

    return _told([at_desk(data_dir, zone, end)], json_=json_)


@app.command()
@command
def swap(
    one: Annotated[str, typer.Argument(metavar="INSTANT", help="An instant within the one shift.")],
    other: Annotated[str, typer.Argument(metavar="INSTANT", help="And within the other.")],
    reason: Reason = "",
    rota: Rota = "default",
    level: LevelName = "primary",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Have two shifts change hands."""
    told, wanted = _line(reason) if reason else "", _level(level)

    async def exchange(at: At) -> list[Override]:
        begins, ends = moment(one, option="INSTANT", now=at.now), moment(other, option="INSTANT", now=at.now)
        return [*await at.desk.oncall.swap(at.tx, at.context, rota, wanted, begins, ends, told, by=at.operator)]

    return _told(at_desk(data_dir, zone, exchange), json_=json_)


@app.command()
@command
def calendar(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file; standard output without it.")] = None,
    rota: Rota = "default",
    level: LevelName = "",
    days: Days = 180,
    zone: Zone = "default",
    data_dir: DataDir = None,
) -> int:
    """Write the shifts as an iCalendar file (RFC 5545)."""
    levels = [_level(level)] if level else []

    async def read(at: At) -> str:
        begins = at.now.replace(microsecond=0)
        until = begins + timedelta(days=days)
        return (await at.desk.oncall.calendar(at.tx, zone, rota, levels, begins, until))[0]

    text = at_desk(data_dir, zone, read)
    if out is None:
        sys.stdout.buffer.write(text.encode())
        sys.stdout.flush()
        return 0
    try:
        out.write_bytes(text.encode())
    except OSError as error:
        raise CommandFailed(USAGE, f"{out}: {error.strerror}") from None
    return 0


def _called(data_dir: Path | None, zone: str, when: str) -> list[Called]:
    async def read(at: At) -> list[Called]:
        return await at.desk.oncall.called(at.tx, zone, moment(when, option="--at", now=at.now) if when else at.now)

    return at_desk(data_dir, zone, read)


def _level(text: str) -> Level:
    from bailiwick.assurance.ports import Level

    if text not in get_args(Level):
        raise CommandFailed(USAGE, f"--level is one of {', '.join(get_args(Level))}")
    return cast("Level", text)


def _line(text: str) -> str:
    if not text.strip() or not text.isprintable() or len(text) > 200:
        raise CommandFailed(USAGE, "--reason says something, in one printable line")
    return text


def _who(shift: Shift) -> str:
    person = shift.duty.person
    if person is None:
        return f"NOBODY ({shift.duty.why})"
    return f"{person.username}{' (' + person.full_name + ')' if person.full_name else ''}"[:28]


def _told(found: list[Override], *, json_: bool) -> int:
    from bailiwick.assurance.oncall.service import override_document

    if json_:
        print(as_json([override_document(each) for each in found], indent=2))
        return 0
    for each in found:
        print(cut(f"{each.id} {each.rota} {each.level}: {each.username}"))
        print(cut(f"    {shown(each.begins)} to {shown(each.ends)}, {each.reason}"))
    return 0
