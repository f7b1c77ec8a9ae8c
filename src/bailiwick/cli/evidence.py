"""``bailiwick evidence``: record what a command finds or a person states, and build packs of evidence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.options import DataDir, existing_layout, small_app

if TYPE_CHECKING:
    from datetime import datetime

    from bailiwick.evidence.events import Context
    from bailiwick.evidence.evidence_records import EvidenceRecords
    from bailiwick.evidence.pack import BuiltPack, Selection
    from bailiwick.kernel.db import Database

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone the evidence belongs to.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.callback()
def evidence() -> None:
    """Record what a command finds or a person states; build packs of evidence."""


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@command
def record(
    words: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND …", help="What to run.")] = None,
    check: Annotated[str, typer.Option("--check", help="What is looked at. Default: the command's name.")] = "",
    statement: Annotated[
        str, typer.Option("--attest", metavar="TEXT", help="State this in place of running a command.")
    ] = "",
    inputs: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=VALUE", help="What it was asked; repeatable.")
    ] = None,
    expires: Annotated[str, typer.Option("--expires", metavar="90m|24h|30d", help="How long it counts.")] = "",
    limit: Annotated[float, typer.Option("--timeout", help="Seconds the command may take.", min=0.1)] = 3600.0,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Run a command and keep its output, exit code and times as a record; or keep a statement.

    Exits as the record says: 0 PASS, 1 FAIL, 3 NO_DATA (the command's own 3); 2 when nothing could be run.
    """
    import socket

    from bailiwick import __version__
    from bailiwick.evidence.evidence_records import Producer

    if bool(words) == bool(statement):
        raise CommandFailed(USAGE, "say either `-- COMMAND …` or --attest TEXT")
    given, life = _inputs(inputs or []), _life(expires)
    name = check or (Path(words[0]).name.lower() if words else "")
    if not name:
        raise CommandFailed(USAGE, "--attest needs --check, what the statement is about")
    existing_layout(data_dir)
    ran = _run(words, limit, quiet=json_) if words else None

    async def keep(database: Database, records: EvidenceRecords, context: Context) -> int:
        from datetime import UTC, datetime

        from bailiwick.kernel.errors import InvalidRequest

        now = datetime.now(UTC)
        until = ran.until if ran else now
        common: dict[str, Any] = {
            "inputs": given,
            "until": until,
            "since": ran.since if ran else now,
            "expires_at": until + life if life else None,
            "producer": Producer(
                host=socket.gethostname(), name=context.actor.user, program="bailiwick evidence", version=__version__
            ),
        }
        try:
            async with database.begin() as tx:
                await _known_zone(tx, zone)
                if ran is None:
                    made = await records.attest(tx, context, name, statement, **common)
                else:
                    made = await records.probe(
                        tx, context, name, ran.output, exit_code=ran.code, command=words or (), output_size=ran.size,
                        **common,
                    )  # fmt: skip
        except InvalidRequest as error:
            raise CommandFailed(USAGE, error.detail) from None
        verdict = made.record.verdict(now)
        if json_:
            print(_as_json(made.to_json(now)))
        else:
            taken = f", {made.record.redactions} redacted" if made.record.redactions else ""
            print(f"{verdict or 'stated':8}{name}: record {made.id}{taken}")
        return {"PASS": 0, None: 0, "NO_DATA": NO_DATA}.get(verdict, FAILED)

    return _with_records(data_dir, zone, keep)


@app.command()
@command
def show(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="The record's id, or its first 8 digits or more.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show one record and what is kept of its output. Exits 3 when there is none by that id."""

    async def read(database: Database, records: EvidenceRecords, context: Context) -> int:
        from datetime import UTC, datetime

        async with database.begin() as tx:
            ids = await tx.all(
                "SELECT id FROM ledger.evidence_records WHERE zone = :zone AND starts_with(id, :id) LIMIT 2",
                zone=zone,
                id=identifier if len(identifier) >= 8 else "none",
            )
            await _read(tx, context, f"records/{identifier}"[:80], len(ids))
            if len(ids) != 1:
                raise CommandFailed(
                    NO_DATA, f"{'more than one' if ids else 'no'} record of zone {zone} is {identifier}"
                )
            found = await records.get(tx, zone, ids[0]["id"])
            output = await records.output(tx, found)
        told = found.to_json(datetime.now(UTC))
        if json_:
            print(_as_json({**told, "output": output.decode()}))
            return 0
        flat = {"id": found.id, "verdict": told["verdict"] or "-", "recorded_at": told["recorded_at"]}
        for key, value in {**flat, **told["record"]}.items():
            print(f"{key:16}{_printable(value if isinstance(value, str) else _as_json(value))}")
        print()
        print("\n".join(_printable(line) for line in output.decode().splitlines()))
        return 0

    return _with_records(data_dir, zone, read)


@app.command("list")
@command
def list_(
    check: Annotated[str, typer.Option("--check", help="Only records of this check.")] = "",
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, max=1000, help="How many.")] = 50,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """List records, newest first. Exits 3 when there is none."""

    async def read(database: Database, records: EvidenceRecords, context: Context) -> int:
        from datetime import UTC, datetime

        async with database.begin() as tx:
            found = await records.list(tx, zone, check=check, limit=lines)
            await _read(tx, context, "records", len(found))
        now = datetime.now(UTC)
        for each in found:
            told = each.record
            print(
                _as_json(each.to_json(now))
                if json_
                else f"{each.id[:12]}  {told.until[:19]}Z  {told.verdict(now) or 'stated':8}{told.check[:40]}"
            )
        return 0 if found else NO_DATA

    return _with_records(data_dir, zone, read)


@app.command()
@command
def pack(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.zip", help="Where to write it.")],
    requests: Annotated[
        list[str] | None, typer.Option("--request", metavar="ID", help="All of this request; repeatable.")
    ] = None,
    windows: Annotated[
        list[str] | None,
        typer.Option("--window", metavar="A..B", help="From A to B: 24h, an ISO 8601 instant, now; repeatable."),
    ] = None,
    incident: Annotated[str, typer.Option("--incident", metavar="ID", help="All of this incident.")] = "",
    name: Annotated[str, typer.Option("--name", help="What the pack is of, for whoever opens it.")] = "",
    inputs: Annotated[bool, typer.Option("--inputs", help="With what decisions were made from.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Build an evidence pack: events with their proof, policies, configuration and tables, in one signed ZIP file.

    Exits 3 when nothing is known about the requests or nothing is signed.
    """
    from uuid import UUID

    from bailiwick.evidence.pack import Selection, Window

    try:
        ids = tuple(dict.fromkeys(UUID(each) for each in requests or ()))
    except ValueError:
        raise CommandFailed(USAGE, "--request: say the id of a request") from None
    wanted = Selection(zone, ids, tuple(Window(*_window(each)) for each in windows or ()), name, inputs)
    if not (incident or ids or windows):
        raise CommandFailed(USAGE, "say --request, --window or --incident")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise CommandFailed(USAGE, f"{out} cannot be written: name a file in a folder that is there")
    built = build_pack(data_dir, wanted, incident, out)
    told = {name: getattr(built, name) for name in built.__slots__}
    if json_:
        print(_as_json(told))
        return 0
    print(f"{out}: {built.events:,} events of zone {zone}, {built.files:,} files, {built.bytes:,} bytes")
    print(f"SHA-256 {built.sha256}")
    if built.unsigned:
        print(f"{built.unsigned:,} newer events are under no head yet, and not in it")
    print(f"check: bailiwick-verify pack {out} --key KEYFILE")
    return 0


def _window(text: str) -> tuple[datetime, datetime]:
    from datetime import UTC, datetime

    from bailiwick.cli.changes import instant

    begin, dots, end = text.partition("..")
    if not dots or not begin:
        raise CommandFailed(USAGE, f"--window {text}: say A..B, for example 24h..now")
    since = instant(begin, "--window")
    return since, datetime.now(UTC) if end in {"", "now"} else instant(end, "--window")


def build_pack(data_dir: Path | None, wanted: Selection, incident: str, out: Path) -> BuiltPack:
    """The pack of ``wanted`` and of ``incident``, if one is named, at ``out``; a refusal ends the command."""
    import asyncio
    import sys

    from pydantic import ValidationError

    from bailiwick.app.foundations import kek_file
    from bailiwick.app.packs import pack_builder
    from bailiwick.cli import local
    from bailiwick.evidence.events import Recorder
    from bailiwick.evidence.ledger import LedgerKeys, NoLedgerKey
    from bailiwick.kernel.crypto import SealError
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.errors import BailiwickError, NotFound
    from bailiwick.kernel.ids import Ids
    from bailiwick.kernel.settings import Settings

    layout = existing_layout(data_dir)
    url = local.database_url(layout.data_dir)
    clock, ids = local.clock_of(layout), Ids()
    recorder = Recorder(clock, ids)

    def progress(section: str, done: int, of: int) -> None:
        if sys.stderr.isatty():
            print(
                f"\r[{'#' * (40 * done // of):<40}] {done:,} of {of:,} {section}", end="", file=sys.stderr, flush=True
            )

    async def build() -> BuiltPack:
        settings = Settings(data_dir=layout.data_dir)  # type: ignore[call-arg]  # the rest is from the environment
        sealer = kek_file(settings, layout).load()
        database = Database(url, pool_size=2)
        try:
            signer = LedgerKeys(database, sealer, clock)
            builder = pack_builder(settings, layout, database, clock, ids, recorder, signer, lambda: sealer)
            selection = wanted
            if incident:
                async with database.begin() as tx:
                    selection = (await builder.of_incident(tx, wanted.zone, incident)).joined(wanted)
            return await builder.build(selection, out, _context(wanted.zone), progress=progress)
        finally:
            await database.close()
            if sys.stderr.isatty():
                print(file=sys.stderr)

    try:
        return asyncio.run(build())
    except NotFound as error:
        raise CommandFailed(NO_DATA, error.detail) from None
    except BailiwickError as error:
        code = USAGE if error.reason in {"invalid_request", "no_incident_register"} else FAILED
        raise CommandFailed(code, f"{error.detail} ({error.reason})") from None
    except ValidationError as error:
        raise CommandFailed(USAGE, "; ".join(str(problem["msg"]) for problem in error.errors())) from None
    except (NoLedgerKey, SealError) as error:
        raise CommandFailed(FAILED, str(error)) from None
    except OSError as error:
        raise CommandFailed(FAILED, f"{error.filename or out}: {error.strerror}") from None


# ---------------------------------------------------------------------- running a command


class _Ran(NamedTuple):
    since: datetime
    until: datetime
    code: int
    output: bytes
    size: int


def _run(words: list[str], limit: float, *, quiet: bool) -> _Ran:
    """Run a command, its output shown as it comes (unless ``quiet``) and its beginning kept."""
    import contextlib
    import os
    import signal
    import subprocess
    import sys
    import threading
    from datetime import UTC, datetime

    from bailiwick.evidence.evidence_records import MOST_READ

    since = datetime.now(UTC)
    try:
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        raise CommandFailed(USAGE, f"{words[0]} cannot be run: {error.strerror}") from None

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)

    timer = threading.Timer(limit, end)
    timer.start()
    kept, size = bytearray(), 0
    try:
        assert child.stdout is not None
        while part := os.read(child.stdout.fileno(), 65536):
            size += len(part)
            kept += part[: max(0, MOST_READ - len(kept))]
            if not quiet:
                sys.stdout.buffer.write(part)
                sys.stdout.buffer.flush()
        code = child.wait()
    except BaseException:
        end()
        child.wait()
        raise
    finally:
        timer.cancel()
    return _Ran(since, datetime.now(UTC), code, bytes(kept), size)


def _inputs(texts: list[str]) -> dict[str, str]:
    given = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise CommandFailed(USAGE, f"--input {name}: say NAME=VALUE")
        given[name] = value
    return given


def _life(text: str) -> Any:
    import re
    from datetime import timedelta

    if not text:
        return None
    found = re.fullmatch(r"(\d{1,5})([mhd])", text)
    if found is None or not int(found[1]):
        raise CommandFailed(USAGE, f"--expires {text}: say 90m, 24h or 30d")
    return timedelta(**{{"m": "minutes", "h": "hours", "d": "days"}[found[2]]: int(found[1])})


# ---------------------------------------------------------------------- what the commands share


def _context(zone: str) -> Context:
    """Whoever works on the machine is named by his system account."""
    import getpass

    from bailiwick.evidence.events import Actor, Context

    return Context(zone, Actor(user=f"os:{getpass.getuser()}"))


async def _known_zone(tx: Any, zone: str) -> None:
    if not await tx.value("SELECT 1 FROM zones WHERE name = :zone", zone=zone):
        raise CommandFailed(USAGE, f"there is no zone {zone!r}")


async def _read(tx: Any, context: Context, what: str, returned: int) -> None:
    from bailiwick.evidence import codes
    from bailiwick.evidence.events import Recorder, Subject
    from bailiwick.kernel.clock import SystemClock
    from bailiwick.kernel.ids import Ids

    subject = Subject(id=what, type="evidence")
    await Recorder(SystemClock(), Ids()).record(
        tx, codes.AUDIT_READ, "success", context, subject=subject, query="", returned=returned
    )


def _with_records(
    data_dir: Path | None, zone: str, run: Callable[[Database, EvidenceRecords, Context], Awaitable[int]]
) -> int:
    import asyncio

    from bailiwick.cli import local
    from bailiwick.evidence.events import Recorder
    from bailiwick.evidence.evidence_records import EvidenceRecords
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.errors import Unavailable
    from bailiwick.kernel.ids import Ids

    layout = existing_layout(data_dir)
    clock = local.clock_of(layout)
    url = local.database_url(layout.data_dir)

    async def connected() -> int:
        database = Database(url, pool_size=2)
        try:
            return await run(database, EvidenceRecords(clock, Recorder(clock, Ids())), _context(zone))
        except Unavailable:
            raise CommandFailed(FAILED, "the database does not answer; is the installation running?") from None
        finally:
            await database.close()

    return asyncio.run(connected())


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _as_json(value: object) -> str:
    import json

    return json.dumps(value, default=str, ensure_ascii=False)
