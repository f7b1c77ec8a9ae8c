"""``bailiwick audit``: follow the evidence, look at one event or request, check the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.archive import app as archive_app
from bailiwick.cli.archive import cold_events
from bailiwick.cli.audit_search import filter_of, filtered, register, search_of
from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, Zone, as_json, line_of, note, on_database, printable, record
from bailiwick.cli.options import DataDir, existing_layout, small_app

if TYPE_CHECKING:
    from uuid import UUID

    from bailiwick.evidence.search import Search
    from bailiwick.evidence.verify import VerifyReport
    from bailiwick.kernel.db import Database, Transaction

app = small_app()
app.add_typer(archive_app, name="archive")

_FOLLOW_S = 0.5


@app.callback()
def audit() -> None:
    """Follow the evidence, look at one event or request, check the ledger."""


@app.command()
@command
@filtered
def tail(
    asked: Mapping[str, str],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is recorded.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, max=10_000, help="How many to begin with.")] = 20,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show the newest events, oldest of them first.

    Exits 3 when there are none and --follow is not given.
    """
    import asyncio
    import sys

    from bailiwick.evidence.search import Search

    wanted = filter_of(asked)

    async def run(database: Database) -> int:
        search = Search(database, None)
        async with database.begin() as tx:
            found = await search.events(tx, zone, wanted, after=None, limit=lines) if lines else []
            last = await tx.value("SELECT max(seq) FROM ledger.events WHERE zone = :zone", zone=zone)
            await note(tx, zone, "tail", query=wanted.described(), returned=len(found), follow=follow)
        for entry in reversed(found):
            print(as_json(entry.to_json()) if json_ else line_of(entry))
        if not follow:
            return 0 if found else NO_DATA
        after = int(last) if last is not None else -1
        while True:
            sys.stdout.flush()
            await asyncio.sleep(_FOLLOW_S)
            async with database.begin() as tx:
                news = await search.events(tx, zone, wanted, order="oldest", after=after, limit=1000)
            for entry in news:
                print(as_json(entry.to_json()) if json_ else line_of(entry))
                after = entry.seq

    return on_database(data_dir, run)


@app.command()
@command
def show(
    what: Annotated[str, typer.Argument(metavar="ID", help="An event id, a request id, or a number from `tail`.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show one event, or everything known about one request in order.

    Exits 3 when nothing is known by that id.
    """
    from uuid import UUID

    try:
        wanted: UUID | int = int(what) if what.isdecimal() and len(what) < 19 else UUID(what)
    except ValueError:
        raise CommandFailed(USAGE, f"{what!r} is neither a UUID nor the number of an event") from None

    async def run(database: Database) -> int:
        async with database.begin() as tx:
            items = await _find(search_of(database, data_dir), tx, zone, wanted)
            await note(tx, zone, str(wanted), query="", returned=len(items))
        if not items:
            raise CommandFailed(NO_DATA, f"nothing is known by {what} in zone {zone}")
        if json_:
            print(as_json(items[0] if isinstance(wanted, int) or len(items) == 1 else items))
        else:
            print("\n\n".join(_block(item) for item in items))
        return 0

    return on_database(data_dir, run)


@app.command()
@command
def verify(
    zone: Annotated[str | None, typer.Option("--zone", help="Only this zone; default: every zone.")] = None,
    data_dir: DataDir = None,
    database_url: Annotated[
        str | None, typer.Option("--database-url", metavar="URL", help="Check this database, a copy perhaps.")
    ] = None,
    heads: Annotated[
        Path | None,
        typer.Option("--heads", metavar="DIR", help="Published heads. Default: those of the data directory."),
    ] = None,
    json_: Json = False,
) -> int:
    """Check that no event was changed, removed, inserted, reordered or cut off.

    Exits 0 when every ledger is whole, 1 when one is not, 3 when there is nothing to check.
    """
    from bailiwick.evidence import codes
    from bailiwick.evidence.ledger import HeadFiles
    from bailiwick.evidence.verify import verify as check

    if heads is not None and not heads.is_dir():
        raise CommandFailed(USAGE, f"{heads} is not a directory")
    if heads is None and database_url is None:
        heads = existing_layout(data_dir).heads
    files = HeadFiles(heads) if heads is not None else None

    async def run(database: Database) -> int:
        async with database.begin() as tx:
            known = [row["name"] for row in await tx.all("SELECT name FROM zones ORDER BY name")]
        if zone is not None and zone not in known:
            raise CommandFailed(USAGE, f"there is no zone {zone!r}")
        cold = cold_events(data_dir, database) if database_url is None else None
        reports = [await check(database, name, files, cold=cold) for name in ([zone] if zone else known)]
        if database_url is None:  # a copy is not written to
            for report in reports:
                async with database.begin() as tx:
                    await record(
                        tx,
                        codes.AUDIT_VERIFIED,
                        "failure" if report.verdict == "FAIL" else "success",
                        report.zone,
                        "ledger",
                        verdict=report.verdict,
                        checked=report.checked,
                        findings=report.findings_total,
                    )
        if json_:
            print(as_json({"verdict": _overall(reports), "zones": [report.to_json() for report in reports]}))
        else:
            print("\n".join(_verdict(report) for report in reports))
        return {"PASS": 0, "NO_DATA": NO_DATA}.get(_overall(reports), FAILED)

    return on_database(data_dir, run, database_url)


@app.command()
@command
def receipt(
    event_id: Annotated[str, typer.Argument(metavar="ID", help="The event's id.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Default: ID.tlog-proof here.")] = None,
    zone: Zone = "default",
    data_dir: DataDir = None,
) -> int:
    """Write the receipt of an event, which proves it to anybody who has the zone's verifier key.

    Exits 3 when there is no such event, 1 while no signed head covers it.
    """
    from uuid import UUID

    from bailiwick.evidence.receipts import receipt as make
    from bailiwick.kernel.errors import Conflict, NotFound

    try:
        wanted = UUID(event_id)
    except ValueError:
        raise CommandFailed(USAGE, f"{event_id!r} is not the id of an event") from None
    path = out or Path(f"{wanted}.tlog-proof")

    async def run(database: Database) -> int:
        try:
            async with database.begin() as tx:
                made = await make(tx, zone, wanted, cold_events(data_dir, database))
                await note(tx, zone, f"receipt of {wanted}", query="", returned=1)
        except NotFound as error:
            raise CommandFailed(NO_DATA, error.detail) from None
        except Conflict as error:
            raise CommandFailed(FAILED, error.detail) from None
        path.write_bytes(bytes(made))
        print(f"{path}: event {made.index} of zone {zone}; check it with bailiwick-verify receipt")
        return 0

    return on_database(data_dir, run)


@app.command()
@command
def export(
    directory: Annotated[Path, typer.Argument(metavar="FOLDER", help="Made if need be; what is there is kept.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Write a zone's whole signed log into a folder for an auditor (C2SP tlog-tiles).

    Exporting into the same folder again adds what is new. Exits 3 when nothing is signed yet.
    """
    import sys

    from bailiwick.evidence import codes
    from bailiwick.evidence.export import export_log
    from bailiwick.kernel.errors import Conflict, NotFound

    def progress(done: int, of: int) -> None:
        if sys.stderr.isatty():
            filled = 40 * done // of
            print(f"\r[{'#' * filled:<40}] {done:,} of {of:,} events", end="", file=sys.stderr, flush=True)

    async def run(database: Database) -> int:
        try:
            cold = cold_events(data_dir, database)
            done = await export_log(database, zone, directory, progress, cold=cold)
        except NotFound as error:
            raise CommandFailed(NO_DATA, error.detail) from None
        except Conflict as error:
            raise CommandFailed(FAILED, error.detail) from None
        except OSError as error:
            raise CommandFailed(FAILED, f"{error.filename or directory}: {error.strerror}") from None
        if sys.stderr.isatty():
            print(file=sys.stderr)
        async with database.begin() as tx:
            await record(tx, codes.AUDIT_EXPORTED, "success", zone, "ledger", events=done.events, files=done.files)
        if json_:
            print(as_json({"zone": zone, "events": done.events, "files": done.files, "folder": str(directory)}))
        else:
            print(f"{done.events:,} events of zone {zone} in {directory}; {done.files:,} files written")
            print(f"check: bailiwick-verify export {directory} --key {directory / 'verifier-keys'}")
        return 0

    return on_database(data_dir, run)


@app.command("dead-letters")
@command
def dead_letters(
    letter: Annotated[int | None, typer.Argument(metavar="[NUMBER]", help="Show this one in full.")] = None,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """List what could not be put into the ledger, newest first, or show one. Exits 3 when there is none."""

    async def run(database: Database) -> int:
        from bailiwick.evidence.dead_letters import find
        from bailiwick.evidence.search import Search
        from bailiwick.kernel.errors import NotFound

        async with database.begin() as tx:
            if letter is not None:
                try:
                    found = await find(tx, letter)
                except NotFound as error:
                    raise CommandFailed(NO_DATA, error.detail) from None
                shown = {name: getattr(found, name) for name in found.__slots__ if name != "data"}
                shown["text"] = found.data.decode("utf-8", "backslashreplace")
                print(as_json(shown) if json_ else "\n".join(f"{k:<12} {printable(str(v))}" for k, v in shown.items()))
                await note(tx, zone, f"dead letter {letter}", query="", returned=1)
                return 0
            letters = await Search(database, None).dead_letters(tx, zone, after=None, limit=500)
            await note(tx, zone, "dead-letters", query="", returned=len(letters))
        if json_:
            print(as_json(letters))
        else:
            for each in letters:
                named, reason = printable(each["zone"])[:12], printable(each["reason"])[:39]
                print(f"{each['id']:>6} {each['at'][:19]} {named:<12} {reason}")
        return 0 if letters else NO_DATA

    return on_database(data_dir, run)


@app.command()
@command
def replay(
    letter: Annotated[int, typer.Argument(metavar="NUMBER", help="The dead letter's number.")],
    data_dir: DataDir = None,
) -> int:
    """Put a dead letter's event into the ledger after all, once what was wrong is mended. Exits 1 when it cannot be."""
    from datetime import UTC, datetime

    async def run(database: Database) -> int:
        from bailiwick.evidence import codes
        from bailiwick.evidence.dead_letters import find
        from bailiwick.evidence.dead_letters import replay as again
        from bailiwick.kernel.errors import Conflict, NotFound

        async with database.begin() as tx:
            try:
                found = await find(tx, letter)
                event_id = await again(tx, found, datetime.now(UTC))
            except NotFound as error:
                raise CommandFailed(NO_DATA, error.detail) from None
            except Conflict as error:
                raise CommandFailed(FAILED, error.detail) from None
            await record(
                tx, codes.EVIDENCE_REPLAYED, "success", found.zone, "ledger", dead_letter=letter, event=event_id
            )
        print(f"event {event_id} of zone {found.zone} is on its way into the ledger")
        return 0

    return on_database(data_dir, run)


@app.command("acknowledge-loss")
@command
def acknowledge(data_dir: DataDir = None, json_: Json = False) -> int:
    """Let workers take evidence again after acknowledged evidence was lost, which stops them until somebody looks.

    Shows what was lost. Exits 3 when nothing was.
    """
    from bailiwick.evidence import codes
    from bailiwick.evidence.spool import acknowledge_loss, loss_of

    spool = existing_layout(data_dir).spool
    lost = loss_of(spool)
    if not lost:
        raise CommandFailed(NO_DATA, "no evidence was lost")

    async def run(database: Database) -> int:
        async with database.begin() as tx:
            await record(tx, codes.EVIDENCE_LOSS_ACKNOWLEDGED, "success", "default", "spool", lost=lost[:50])
        acknowledge_loss(spool)
        print(as_json({"lost": lost}) if json_ else "\n".join(lost))
        return 0

    return on_database(data_dir, run)


def _overall(reports: list[VerifyReport]) -> str:
    verdicts = {report.verdict for report in reports}
    return "FAIL" if "FAIL" in verdicts else "PASS" if "PASS" in verdicts else "NO_DATA"


def _verdict(report: VerifyReport) -> str:
    kept = f", {report.archived:,} of them archived" if report.archived else ""
    kept += f", {report.purged:,} purged" if report.purged else ""
    rate = f", {report.checked / report.seconds:,.0f}/s" if report.seconds and report.checked > 1000 else ""
    lines = [f"{report.verdict:<8}{report.zone}: {report.checked:,} events{kept}, {report.heads:,} heads{rate}"]
    if report.unsigned:
        lines.append(f"        {report.unsigned:,} events wait for their head")
    lines += [f"        {finding.seq:>8} {finding.kind}: {finding.why}" for finding in report.findings[:10]]
    if report.findings_total > 10:
        lines.append(f"        and {report.findings_total - 10:,} more")
    return "\n".join(lines)


def _block(item: dict[str, Any]) -> str:
    """One event or answer, a value per line."""
    flat: dict[str, Any] = {}
    event = item.get("event")
    for key, value in {**(event or {}), **item}.items():
        if key in {"event", "kind"} or value in ("", [], {}):
            continue
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": part for name, part in value.items()})
        else:
            flat[key] = value
    title = (event or {}).get("name") or f"{item.get('method', '')} {item.get('route', '')}".strip()
    rows = [f"  {key:<20} {printable(str(value))}" for key, value in sorted(flat.items()) if key != "name"]
    return "\n".join([title or "unreadable event", *rows])


async def _find(search: Search, tx: Transaction, zone: str, wanted: UUID | int) -> list[dict[str, Any]]:
    from bailiwick.evidence.search import Filter
    from bailiwick.kernel.errors import NotFound

    if isinstance(wanted, int):
        found = await search.events(tx, zone, Filter(), order="oldest", after=wanted - 1, limit=1)
        return [entry.to_json() for entry in found if entry.seq == wanted]
    try:
        return [(await search.event(tx, zone, wanted)).to_json()]
    except NotFound:
        pass
    try:
        timeline: list[dict[str, Any]] = (await search.request(tx, zone, wanted))["timeline"]
    except NotFound:
        return []
    return timeline


register(app)
