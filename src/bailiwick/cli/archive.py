"""``bailiwick audit archive``: what is sealed, whether it holds, back into the database, legal holds, the end.

Works on the machine of an installation, past its API. Whoever may do that is named by his system account; what takes
two signed-in persons still does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.options import DataDir, existing_layout, small_app

if TYPE_CHECKING:
    from datetime import datetime

    from bailiwick.app.archive import Archive
    from bailiwick.evidence.archive.proof import ArchiveReport
    from bailiwick.evidence.archive.reader import ColdEvents
    from bailiwick.evidence.events import Context, Recorder
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.quorum import Approval

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone whose archive is meant.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="RFC 3339, or a day as 2026-11-21.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="The same; exclusive.")]


@app.callback()
def archive() -> None:
    """What is sealed, whether it holds, back into the database, legal holds, the end."""


@app.command()
@command
def status(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show what is sealed, where it lies and what is due. Exits 1 when sealing is overdue, 3 when nothing is sealed."""

    async def run(parts: _Parts) -> int:
        from bailiwick.evidence.archive.status import status as standing

        async with parts.database.begin() as tx:
            told = await standing(tx, parts.archive.services.places, zone, parts.now())
        sealed, lives = told["sealed"], told["lives"]
        if json_:
            print(_json(told))
        else:
            local, remote = told["objects"]["local"], told["objects"]["remote"]
            newest = sealed["newest_window"]
            print(f"sealed       {sealed['windows']:,} windows, {sealed['events']:,} events; newest {newest}")
            print(f"here         {local['count']:,} objects, {local['bytes']:,} bytes in {local['place']}")
            print(f"elsewhere    {remote['count']:,} objects, {remote['bytes']:,} bytes in {remote['place'] or '-'}")
            print(
                f"lives        sealed after {lives['seal_days']} days, database {lives['hot_days']},"
                f" here {lives['local_days']}, in all {lives['archive_days']}"
            )
            print(f"purged       {told['windows_purged']:,} windows; {told['holds']} legal holds")
            if told["overdue_s"]:
                print(f"OVERDUE      the next window should have been sealed {told['overdue_s'] / 3600:.1f} hours ago")
        if told["overdue_s"] > 2 * 3600:
            return FAILED
        return 0 if sealed["windows"] else NO_DATA

    return _run(data_dir, run)


@app.command()
@command
def seal(
    wait: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the end; 0 does not wait.")] = 600.0,
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Have the work role seal what is due now, in every zone. Exits 1 when it fails or does not end in time."""

    async def run(parts: _Parts) -> int:
        import asyncio

        from bailiwick.evidence import codes
        from bailiwick.evidence.archive.api import SEAL_JOB
        from bailiwick.evidence.events import Subject
        from bailiwick.kernel.jobs import make_due

        asked = parts.now()
        async with parts.database.begin() as tx:
            await make_due(tx, SEAL_JOB, asked)
            subject = Subject(id="default", type="archive")
            await parts.recorder.record(
                tx, codes.ARCHIVE_ASKED, "success", parts.context("default"), subject=subject, job=SEAL_JOB
            )
        waited = 0.0
        while wait:
            async with parts.database.begin() as tx:
                row = await tx.one(
                    "SELECT state, detail FROM job_occurrences WHERE job = :job AND due_at = :due_at",
                    job=SEAL_JOB,
                    due_at=asked,
                )
            state, detail = (row["state"], row["detail"]) if row is not None else ("missed", {})
            if state not in {"due", "running"}:
                break
            if waited >= wait:
                raise CommandFailed(FAILED, f"the job is still {state}; see `audit archive status`")
            await asyncio.sleep(0.5)
            waited += 0.5
        else:
            state, detail = "due", {}
        if json_:
            print(_json({"state": state, **detail}))
        elif state == "succeeded":
            print(
                f"{detail['windows']:,} windows sealed, {detail['events']:,} events, {detail['bytes_stored']:,} bytes"
            )
            if detail["more"]:
                print("there is more: the next run goes on")
        else:
            print(f"{state}: {detail.get('error', 'asked for')}")
        return 0 if state in {"succeeded", "due"} else FAILED

    return _run(data_dir, run)


@app.command()
@command
def verify(
    zone: Annotated[str | None, typer.Option("--zone", help="Only this zone; default: every zone.")] = None,
    since: Since = None,
    until: Until = None,
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Prove the archive: signatures, the chain of manifests, every object, every event against the tree.

    Exits 0 when it holds, 1 when not, 3 when nothing is sealed.
    """
    first, end = _moment(since), _moment(until)

    async def run(parts: _Parts) -> int:
        from bailiwick.evidence import codes
        from bailiwick.evidence.archive.proof import verify_archive
        from bailiwick.evidence.events import Subject

        async with parts.database.begin() as tx:
            known = [row["name"] for row in await tx.all("SELECT name FROM zones ORDER BY name")]
        if zone is not None and zone not in known:
            raise CommandFailed(USAGE, f"there is no zone {zone!r}")
        reports = [
            await verify_archive(parts.database, parts.archive.cold, name, since=first, until=end)
            for name in ([zone] if zone else known)
        ]
        for report in reports:
            async with parts.database.begin() as tx:
                await parts.recorder.record(
                    tx,
                    codes.ARCHIVE_VERIFIED,
                    "failure" if report.verdict == "FAIL" else "success",
                    parts.context(report.zone),
                    subject=Subject(id=report.zone, type="archive"),
                    verdict=report.verdict,
                    events=report.events,
                    findings=report.findings_total,
                )
        verdicts = {report.verdict for report in reports}
        overall = next((each for each in ("FAIL", "PASS") if each in verdicts), "NO_DATA")
        if json_:
            print(_json({"verdict": overall, "zones": [report.to_json() for report in reports]}))
        else:
            print("\n".join(_verdict(report) for report in reports))
        return {"PASS": 0, "NO_DATA": NO_DATA}.get(overall, FAILED)

    return _run(data_dir, run)


@app.command()
@command
def restore(
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="RFC 3339, or a day as 2026-11-21.")],
    until: Annotated[str, typer.Option("--until", metavar="TIME", help="The same; exclusive.")],
    days: Annotated[int, typer.Option("--days", min=1, max=90, help="For how many days.")] = 7,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Put sealed events back into the database, byte for byte, whole windows at a time.

    Exits 3 when nothing is sealed in that time, 1 when the archive does not prove it.
    """
    first, end = _moment(since), _moment(until)
    assert first is not None and end is not None

    async def run(parts: _Parts) -> int:
        context = parts.context(zone)
        done = await parts.archive.services.restorer.restore(context, first, end, by=context.actor.user, days=days)
        if json_:
            print(_json({"windows": done.windows, "events": done.events, "until": done.until}))
        else:
            print(f"{done.events:,} events of {done.windows:,} windows are back until {done.until:%Y-%m-%d %H:%M}Z")
        return 0

    return _run(data_dir, run)


@app.command()
@command
def hold(
    place: Annotated[bool, typer.Option("--place", help="Place a hold.")] = False,
    release: Annotated[str | None, typer.Option("--release", metavar="ID", help="Let go of this one.")] = None,
    since: Since = None,
    until: Until = None,
    reason: Reason = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """List legal holds, place one, or ask to let go of one, which two signed-in persons must approve.

    What a hold keeps is not destroyed.
    """
    if (place and release) or ((place or release) and len(reason.strip()) < 3):
        raise CommandFailed(USAGE, "a hold is placed or released, one at a time, with a --reason")
    first, end = _moment(since), _moment(until)

    async def run(parts: _Parts) -> int:
        keeping, context = parts.archive.services.keeping, parts.context(zone)
        if place:
            holds = [await keeping.place(context, first, end, reason.strip(), context.actor.user)]
        elif release:
            approval = await keeping.propose_release(
                context, release, reason.strip(), by=context.actor.user, signed_in=False
            )
            _tell(approval, json_)
            return 0
        else:
            holds = await keeping.holds(zone)
        if json_:
            print(_json([{name: getattr(each, name) for name in each.__slots__} for each in holds]))
        else:
            for each in holds:
                span = f"{each.since or 'the beginning'} to {each.until or 'the end'}"
                state = f"released by {each.released_by}" if each.released_at else "in force"
                print(f"{each.id}  {span}  {state}  {each.placed_by}: {each.reason}")
        return 0 if holds else NO_DATA

    return _run(data_dir, run)


@app.command()
@command
def purge(
    before: Annotated[str, typer.Option("--before", metavar="TIME", help="Windows that ended by then.")],
    reason: Reason,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Ask for the end of evidence whose life is over. Two signed-in persons must approve what is asked for here.

    Exits 1 when a legal hold or the zone's lives forbid it.
    """
    moment = _moment(before)
    assert moment is not None

    async def run(parts: _Parts) -> int:
        context = parts.context(zone)
        approval = await parts.archive.services.endings.propose(
            context, moment, reason, by=context.actor.user, signed_in=False
        )
        _tell(approval, json_)
        return 0

    return _run(data_dir, run)


def _tell(approval: Approval, json_: bool) -> None:
    """Show what was asked for and who can approve it."""
    told = approval.document()
    if json_:
        print(_json(told))
        return
    print(f"approval {approval.id}: {approval.action}")
    for name, value in approval.payload.items():
        print(f"  {name:<16} {value}")
    print(f"hash     {approval.payload_sha256}")
    print(told.get("blocked") or f"waits for {approval.missing} of: {', '.join(approval.candidates)}")


class _Parts:
    """What a command works with."""

    def __init__(self, archive: Archive, database: Database, recorder: Recorder, now: Callable[[], datetime]) -> None:
        self.archive = archive
        self.database = database
        self.recorder = recorder
        self.now = now

    def context(self, zone: str) -> Context:
        """Whoever calls on this machine, by his system account."""
        import getpass

        from bailiwick.evidence.events import Actor, Context

        return Context(zone, Actor(user=f"os:{getpass.getuser()}"))


def _run(data_dir: Path | None, run: Callable[[_Parts], Awaitable[int]]) -> int:
    import asyncio

    from pydantic import ValidationError

    from bailiwick.app.archive import build_archive
    from bailiwick.cli import local
    from bailiwick.evidence.events import Recorder
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.errors import BailiwickError, InvalidRequest, NotFound, Unavailable
    from bailiwick.kernel.ids import Ids
    from bailiwick.kernel.settings import Settings

    layout = existing_layout(data_dir)
    try:
        settings = Settings(data_dir=layout.data_dir)  # type: ignore[call-arg]  # the rest is from the environment
    except ValidationError as error:
        raise CommandFailed(USAGE, "; ".join(str(problem["msg"]) for problem in error.errors())) from None
    url = local.database_url(layout.data_dir)

    async def connected() -> int:
        clock, ids, database = local.clock_of(layout), Ids(), Database(url, pool_size=4)
        recorder = Recorder(clock, ids)
        archive = build_archive(settings, layout, database, clock, ids, recorder)
        try:
            return await run(_Parts(archive, database, recorder, clock.now))
        except InvalidRequest as error:
            raise CommandFailed(USAGE, error.detail) from None
        except NotFound as error:
            raise CommandFailed(NO_DATA, error.detail) from None
        except Unavailable as error:
            if error.reason == "database_unavailable":
                raise CommandFailed(FAILED, "the database does not answer; is the installation running?") from None
            raise CommandFailed(FAILED, error.detail) from None
        except BailiwickError as error:
            raise CommandFailed(FAILED, f"{error.reason}: {error.detail}") from None
        finally:
            await database.close()

    return asyncio.run(connected())


def cold_events(data_dir: Path | None, database: Database) -> ColdEvents:
    """The archive of the installation on this machine, for commands that read older events."""
    from bailiwick.evidence.archive.places import places
    from bailiwick.evidence.archive.reader import ColdEvents
    from bailiwick.kernel.settings import Settings

    layout = existing_layout(data_dir)
    stores = places(Settings(data_dir=layout.data_dir), layout)  # type: ignore[call-arg]  # the rest: environment
    return ColdEvents(database, stores.local, stores.remote, stores.cache)


def _moment(text: str | None) -> datetime | None:
    """A time with its zone, or a day in UTC; None for None. Ends the command for anything else."""
    from datetime import UTC, datetime

    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandFailed(USAGE, f"{text!r} is no time: write 2026-11-21 or 2026-11-21T09:00:00Z") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _verdict(report: ArchiveReport) -> str:
    lines = [
        f"{report.verdict:<8}{report.zone}: {report.manifests:,} manifests, {report.objects:,} objects,"
        f" {report.events:,} events{f', {report.purged:,} windows purged' if report.purged else ''}"
    ]
    lines += [f"        {finding.window}: {finding.why}" for finding in report.findings[:10]]
    if report.findings_total > 10:
        lines.append(f"        and {report.findings_total - 10:,} more")
    return "\n".join(lines)


def _json(value: Any) -> str:
    import json

    return json.dumps(value, default=str, ensure_ascii=False)
