"""``bailiwick siem``: where the evidence is sent, how far each destination is, and sending it again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.options import DataDir, existing_layout, small_app

if TYPE_CHECKING:
    from datetime import datetime

    from bailiwick.evidence.events import Context
    from bailiwick.evidence.siem.operations import SinkStatus, Start
    from bailiwick.evidence.siem.sinks import Sinks
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.paths import Layout

app = small_app()
sinks_app = small_app()
app.add_typer(sinks_app, name="sinks", help="Make, list, change and remove sinks.")

WIDTH = 80
_LOOK_S = 0.25

Zone = Annotated[str, typer.Option("--zone", help="The zone the sinks belong to.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
SinkName = Annotated[str, typer.Argument(metavar="SINK")]
SomeSink = Annotated[str | None, typer.Argument(metavar="[SINK]", help="Only this one; default: every sink.")]


@app.callback()
def siem() -> None:
    """Where the evidence is sent, how far each destination is, and sending it again."""


@sinks_app.callback()
def sinks() -> None:
    """Make, list, change and remove sinks."""


@app.command()
@command
def status(sink: SomeSink = None, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show how far each sink is. Exits 0 when all deliver, 1 when one does not, 3 when there is none."""

    async def run(using: _Using) -> int:
        found = [each for each in await using.operations.status(zone) if sink in (None, each.sink.name)]
        if sink is not None and not found:
            raise CommandFailed(USAGE, f"there is no sink {sink} in zone {zone}")
        if json_:
            print(_as_json([each.document() for each in found]))
        else:
            for each in found:
                print("\n".join(_told(each)))
        if not found:
            return NO_DATA
        return 0 if all(each.state in {"delivering", "disabled"} for each in found) else FAILED

    return _with(data_dir, run)


@app.command()
@command
def drain(
    sink: SomeSink = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, max=10_000, help="Events a batch until it is done.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait; 0 only asks.")] = 600,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Deliver everything that waits now, without waiting for the breaker, and watch until it is done.

    Takes up a stopped sink again. Exits 1 when a sink is not level within --timeout, 3 when there is none.
    """

    async def run(using: _Using) -> int:
        names = [each.sink.name for each in await using.operations.status(zone) if each.sink.enabled]
        if sink is not None:
            names = [sink]
        targets = {name: await using.operations.drain(using.context(zone), name, batch_size) for name in names}
        left = await _watch(using, zone, targets, timeout, quiet=json_)
        if json_:
            print(_as_json({"targets": targets, "left": left}))
        if not names:
            return NO_DATA
        return FAILED if any(left.values()) and timeout else 0

    return _with(data_dir, run)


@app.command()
@command
def replay(
    sink: SinkName,
    start: Annotated[
        str,
        typer.Option("--from", metavar="PLACE", help="A number in the ledger, 90m, 24h, 7d, an instant, or beginning."),
    ],
    of_zone: Annotated[str | None, typer.Option("--of", metavar="ZONE", help="Only this zone's events.")] = None,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Send again, with the same event ids, everything from a place or a time on."""
    wanted = _start(start)

    async def run(using: _Using) -> int:
        done = await using.operations.replay(using.context(zone), sink, wanted, of_zone)
        if json_:
            print(_as_json(done))
        else:
            for name, part in done.items():
                print(f"{name:<24} from {part['from']:>12,}  {part['events']:>12,} events again")
        return 0

    return _with(data_dir, run)


@app.command("dead-letters")
@command
def dead_letters(
    sink: SinkName,
    retry: Annotated[bool, typer.Option("--retry", help="Send them once more.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """List the events a destination refused for good. Exits 3 when there is none."""

    async def run(using: _Using) -> int:
        if retry:
            count = await using.operations.retry(using.context(zone), sink)
            print(_as_json({"letters": count}) if json_ else f"{count} dead letters are sent once more")
            return 0 if count else NO_DATA
        letters = await using.operations.dead_letters(zone, sink, limit=500)
        if json_:
            print(_as_json(letters))
        else:
            for each in letters:
                print(_cut(f"{each['seq']:>10} {each['event']} {each['reason']}"))
        return 0 if letters else NO_DATA

    return _with(data_dir, run)


@app.command()
@command
def repeats(sink: SinkName, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """List the runs of the ledger that were sent more than once. Exits 3 when there is none."""

    async def run(using: _Using) -> int:
        found = await using.operations.repeats(zone, sink, limit=500)
        if json_:
            print(_as_json(found))
        else:
            for each in found:
                run_of = f"{each['first_seq']}–{each['end_seq'] - 1}"
                print(_cut(f"{each['at']:%Y-%m-%d %H:%M:%S} {each['zone']:<20.20} {each['times']:>5} more  {run_of}"))
        return 0 if found else NO_DATA

    return _with(data_dir, run)


@sinks_app.command("list")
@command
def list_sinks(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """List the sinks. Exits 3 when there is none."""

    async def run(using: _Using) -> int:
        found = await using.sinks.list(zone)
        if json_:
            print(_as_json([each.document() for each in found]))
        else:
            for each in found:
                state = "enabled" if each.enabled else "disabled"
                where = "all zones" if each.all_zones else each.zone
                print(_cut(f"{each.name:<24} {each.kind:<8} {state:<9} {each.format:<7} {where}"))
        return 0 if found else NO_DATA

    return _with(data_dir, run)


@sinks_app.command("show")
@command
def show_sink(sink: SinkName, zone: Zone = "default", data_dir: DataDir = None) -> int:
    """Show a sink as JSON, without its secrets."""

    async def run(using: _Using) -> int:
        print(_as_json((await using.sinks.get(zone, sink)).document(), indent=2))
        return 0

    return _with(data_dir, run)


@sinks_app.command("add")
@command
def add_sink(
    file: Annotated[typer.FileText, typer.Argument(metavar="FILE", help="The sink as JSON; - reads standard input.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
) -> int:
    """Make a sink from a JSON document, the same that POST /api/v1/siem/sinks takes.

    Secrets belong in the document and not on the command line, where everybody on the machine can read them.
    """
    text = file.read()

    async def run(using: _Using) -> int:
        from pydantic import TypeAdapter, ValidationError

        from bailiwick.evidence.siem.api import NewSink

        try:
            body: Any = TypeAdapter(NewSink).validate_json(text)
        except ValidationError as error:
            told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5])
            raise CommandFailed(USAGE, f"{file.name}: {told}") from None
        made = await using.sinks.create(using.context(zone), body.draft())
        print(f"sink {made.name} of zone {zone} sends to {made.kind}")
        return 0

    return _with(data_dir, run)


@sinks_app.command("enable")
@command
def enable_sink(sink: SinkName, zone: Zone = "default", data_dir: DataDir = None) -> int:
    """Go on sending to a sink, from where it was."""
    return _with(data_dir, lambda using: _change(using, zone, sink, {"enabled": True}))


@sinks_app.command("disable")
@command
def disable_sink(sink: SinkName, zone: Zone = "default", data_dir: DataDir = None) -> int:
    """Send nothing to a sink until it is enabled again; what it misses it gets then."""
    return _with(data_dir, lambda using: _change(using, zone, sink, {"enabled": False}))


@sinks_app.command("remove")
@command
def remove_sink(sink: SinkName, zone: Zone = "default", data_dir: DataDir = None) -> int:
    """Remove a sink; what it was not sent yet it will not get."""

    async def run(using: _Using) -> int:
        await using.sinks.delete(using.context(zone), sink)
        print(f"sink {sink} of zone {zone} is removed")
        return 0

    return _with(data_dir, run)


# ---------------------------------------------------------------------- shared


class _Using:
    """The services, on the machine of the installation. Whoever uses them here is named by his system account."""

    def __init__(self, layout: Layout, database: Database) -> None:
        from bailiwick.cli.local import clock_of
        from bailiwick.evidence.events import Recorder
        from bailiwick.evidence.siem.operations import Operations
        from bailiwick.kernel.ids import Ids

        self._layout = layout
        self._database = database
        self._clock, self._ids = clock_of(layout), Ids()
        self._recorder = Recorder(self._clock, self._ids)
        self.operations = Operations(database, self._clock, self._recorder)

    @cached_property
    def sinks(self) -> Sinks:
        """Made when it is needed: it loads what checks addresses, and the key-encryption key."""
        from bailiwick.app.foundations import kek_file
        from bailiwick.app.siem import address_check
        from bailiwick.evidence.siem.sinks import Sinks
        from bailiwick.inventory.resolver import Resolver
        from bailiwick.kernel.settings import Settings

        settings = Settings(data_dir=self._layout.data_dir)  # type: ignore[call-arg]  # the rest is from the environment
        check = address_check(Resolver(self._database, self._clock, self._recorder, settings))
        sealer = kek_file(settings, self._layout).load()
        return Sinks(self._database, self._clock, self._ids, self._recorder, sealer, check)

    @staticmethod
    def context(zone: str) -> Context:
        """The context of what is done here."""
        import getpass

        from bailiwick.evidence.events import Actor, Context

        return Context(zone, Actor(user=f"os:{getpass.getuser()}"))


def _with(data_dir: Path | None, run: Callable[[_Using], Awaitable[int]]) -> int:
    import asyncio

    return asyncio.run(_connected(existing_layout(data_dir), run))


async def _connected(layout: Layout, run: Callable[[_Using], Awaitable[int]]) -> int:
    from bailiwick.cli.local import database_url
    from bailiwick.kernel.crypto import SealError
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.errors import BailiwickError, Unavailable

    database = Database(database_url(layout.data_dir), pool_size=2)
    try:
        return await run(_Using(layout, database))
    except Unavailable:
        raise CommandFailed(FAILED, "the database does not answer; is the installation running?") from None
    except SealError as error:
        raise CommandFailed(FAILED, str(error)) from None
    except BailiwickError as error:
        raise CommandFailed(USAGE if error.status in {400, 404, 422} else FAILED, error.detail) from None
    finally:
        await database.close()


async def _change(using: _Using, zone: str, sink: str, patch: dict[str, Any]) -> int:
    changed = await using.sinks.change(using.context(zone), sink, patch)
    print(f"sink {sink} of zone {zone} is {'enabled' if changed.enabled else 'disabled'}")
    return 0


async def _watch(
    using: _Using, zone: str, targets: dict[str, dict[str, int]], patience_s: float, *, quiet: bool
) -> dict[str, int]:
    """Wait until every sink has reached its target; how many events each lacks at the end."""
    import asyncio
    import time

    deadline = time.monotonic() + patience_s
    while True:
        found = {each.sink.name: each for each in await using.operations.status(zone)}
        left = {
            name: sum(max(0, of.get(each.zone, 0) - each.next_seq) for each in found[name].zones)
            for name, of in targets.items()
            if name in found
        }
        done = not any(left.values()) or time.monotonic() >= deadline
        if not quiet:
            _show_left(left, found, done)
        if done:
            return left
        await asyncio.sleep(_LOOK_S)


def _show_left(left: dict[str, int], found: dict[str, SinkStatus], done: bool) -> None:
    """One line a sink at the end, and one that changes in place until then where somebody watches."""
    import sys

    if done:
        for name, count in left.items():
            told = "level" if not count else f"{count:,} left, {found[name].state}"
            why = f": {_printable(found[name].last_error or '')}" if count and found[name].last_error else ""
            print(_cut(f"{name:<24} {told}{why}"))
    elif sys.stderr.isatty():
        print(f"\r{sum(left.values()):>12,} events left", end="", file=sys.stderr, flush=True)


def _told(each: SinkStatus) -> list[str]:
    """A sink in lines of at most 80 columns: how it is, what it did, what is wrong."""
    lines = [
        f"{each.sink.name:<26.26} {each.sink.kind:<8} {each.state:<11} {each.lag_events:>10,} behind"
        f" {_age(each.lag_s):>6}",
        f"  delivered {each.delivered:,}, filtered {each.filtered:,}, repeated {each.repeated:,},"
        f" dead letters {each.dead_letters:,}",
    ]
    if each.delivered_at is not None:
        lines.append(f"  last delivery {_moment(each.delivered_at)}")
    if each.sink.stopped is not None:
        lines.append(f"  stopped: {_printable(each.sink.stopped)}")
    elif each.failures and each.last_error is not None:
        lines.append(f"  {each.failures} failures, breaker {each.breaker}: {_printable(each.last_error)}")
    if each.state == "unattended":
        lines.append("  no work process delivers to it: is the installation running?")
    if len(each.zones) > 1:
        lines += [f"  {zone.zone:<30.30} {zone.lag:>12,} behind" for zone in each.zones if zone.lag]
    return [_cut(line) for line in lines]


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _start(text: str) -> Start:
    from bailiwick.cli.changes import instant

    if text == "beginning":
        return "beginning"
    if text.isascii() and text.isdecimal() and len(text) < 19:
        return int(text)
    return instant(text)


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def _printable(text: str) -> str:
    """What a destination answered is not ours: no control character of its own reaches the terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _as_json(value: object, indent: int | None = None) -> str:
    import json

    return json.dumps(value, default=str, ensure_ascii=False, indent=indent)
