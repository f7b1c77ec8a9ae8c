"""``bailiwick clock``: how time runs in an installation in development mode, and letting some of it pass."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from bailiwick.cli.failure import FAILED, USAGE, CommandFailed, command
from bailiwick.cli.options import DataDir, existing_layout, small_app

if TYPE_CHECKING:
    from datetime import datetime

    from bailiwick.kernel.db import Database, Transaction
    from bailiwick.kernel.paths import Layout

app = small_app()

_LONGEST_S = 300.0
_LOOK_S = 0.1
_QUIET = 4


@app.callback()
def _group() -> None:
    """Show how time runs; let some of it pass, in development mode only."""


@app.command()
@command
def show(data_dir: DataDir = None) -> int:
    """Show what time it is there, and how it runs."""
    _show(existing_layout(data_dir))
    return 0


def _show(layout: Layout) -> None:
    from bailiwick.cli.local import clock_of
    from bailiwick.kernel.clock_file import pace_of

    now, pace = clock_of(layout).now(), pace_of(layout)
    if pace is None:
        print(f"{now:%Y-%m-%d %H:%M:%S} UTC  as everywhere")
        return
    stride = f", jobs every {timedelta(seconds=pace.stride_s)} at most" if pace.stride_s else ""
    print(f"{now:%Y-%m-%d %H:%M:%S} UTC  SIMULATED, {pace.factor:g} times as fast{stride}")


@app.command()
@command
def advance(
    length: Annotated[str, typer.Argument(metavar="7d", help="How much time is to pass.")],
    step: Annotated[str | None, typer.Option(metavar="4h", help="At once at most.  [default: the stride]")] = None,
    data_dir: DataDir = None,
) -> int:
    """Let time pass, step by step; after each what came due is done first."""
    import asyncio

    from bailiwick.assurance.durations import span
    from bailiwick.cli.asking import ask
    from bailiwick.kernel.clock_file import advancing, pace_of

    layout = existing_layout(data_dir)
    ask(layout, "status")  # who would do what comes due?
    try:
        whole, pace = span(length), pace_of(layout)
        at_once = span(step) if step else timedelta(seconds=pace.stride_s if pace else 0)
    except ValueError as error:
        raise CommandFailed(USAGE, str(error)) from None
    if pace is None or not pace.stride_s or not at_once:
        raise CommandFailed(USAGE, "time runs as it does everywhere: start with `up --dev --clock-stride 4h`")
    try:
        with advancing(layout):
            asyncio.run(_advance(layout, whole, at_once))
    except BlockingIOError:
        raise CommandFailed(FAILED, "another `clock advance` is under way here") from None
    _show(layout)
    return 0


async def _advance(layout: Layout, whole: timedelta, at_once: timedelta) -> None:
    """Each step is told before it is made: one that could not be told is not."""
    from bailiwick.cli.local import clock_of, database_url
    from bailiwick.cli.recorded import by_operator, leave_now
    from bailiwick.evidence import codes
    from bailiwick.evidence.events import Subject
    from bailiwick.kernel import clock_file
    from bailiwick.kernel.db import Database

    database, clock = Database(database_url(layout.data_dir), pool_size=1), clock_of(layout)
    recorder, context = by_operator(layout)
    subject = Subject(id=context.zone, type="zone")
    until, stride = clock.time() + whole.total_seconds(), at_once.total_seconds()
    try:
        await _until_done(layout, database)
        while (now := clock.time()) < until:
            # to where intervals end, so that what is due is due just then
            by = min(stride - now % stride, until - now)
            told = recorder.make(codes.CLOCK_ADVANCED, "success", context, subject=subject, by_s=round(by))
            await leave_now(layout, told)
            clock_file.advance(layout, by)
            await _until_done(layout, database)
    finally:
        await database.close()


async def _until_done(layout: Layout, database: Database) -> None:
    """Wait until no job is due and what jobs left for others is taken. Ends the command when that takes too long."""
    import asyncio
    import time

    from bailiwick.cli.local import clock_of
    from bailiwick.kernel.errors import Unavailable

    clock, until = clock_of(layout), time.monotonic() + _LONGEST_S
    behind, quiet = ["the database"], 0
    while time.monotonic() < until:
        try:
            async with database.begin() as tx:
                behind = await _behind(tx, clock.now())
        except Unavailable:
            behind = ["the database"]
        quiet = 0 if behind else quiet + 1
        if quiet == _QUIET:  # what a job left to others it leaves with its last commit
            return
        await asyncio.sleep(_LOOK_S)
    raise CommandFailed(FAILED, f"not done after {_LONGEST_S:.0f} s: {', '.join(behind[:5])}")


async def _behind(tx: Transaction, now: datetime) -> list[str]:
    """Jobs whose newest instant is not behind them, and the outbox where it is not empty."""
    from bailiwick.kernel.jobs import known_jobs

    ended = {row["job"]: row["newest"] for row in await tx.all(_ENDED)}
    found = []
    for known in await known_jobs(tx):
        due = known.definition.due_between(known.expected_from, now, limit=1)
        name = known.definition.name
        if due and (name not in ended or ended[name] < due[0]):
            found.append(name)
    found += ["the outbox"] * bool(await tx.value("SELECT count(*) FROM outbox"))
    return found


_ENDED = """
SELECT job, max(due_at) AS newest FROM job_occurrences WHERE state IN ('succeeded', 'failed', 'missed') GROUP BY job
"""
