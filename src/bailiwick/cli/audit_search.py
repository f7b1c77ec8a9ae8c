"""``bailiwick audit search``, ``timeline`` and ``queries``: finding evidence from the terminal."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import (
    WIDTH,
    Json,
    Zone,
    actor_of_command,
    as_json,
    line_of,
    note,
    on_database,
    printable,
    record,
)
from bailiwick.cli.options import DataDir, small_app

if TYPE_CHECKING:
    from bailiwick.evidence.query import Filter, Order
    from bailiwick.evidence.saved_queries import SavedQueries, SavedQuery
    from bailiwick.evidence.search import Entry, Facets, Search
    from bailiwick.evidence.search_export import Format
    from bailiwick.kernel.db import Database

FILTERS: dict[str, str] = {
    "name": "Name of the event; may end in *.",
    "code": "Code of the event, such as BW4002.",
    "outcome": "success, failure, allow, deny or error.",
    "principal": "Whom it is filed under: the user, else the application.",
    "user": "The user who acted.",
    "application": "The application that acted, by its id.",
    "session": "The session in which it happened.",
    "delegation": "The delegation under which it happened.",
    "mandate": "The mandate under which it happened.",
    "subject_type": "Kind of what was acted upon: user, server, policy …",
    "subject_id": "What was acted upon.",
    "server": "The server that was reached.",
    "ip": "Where the request came from.",
    "reason": "One of its reason codes.",
    "request_id": "The request.",
    "decision_id": "The decision.",
    "client_request_id": "The id the caller gave the request.",
    "trace_id": "The trace.",
    "since": "Not before: -90m, -24h, -7d, now, or RFC 3339.",
    "until": "Before: the same forms.",
    "text": "Anywhere in the event, whatever its case.",
}
_PAGE = 500
_MOST = 100_000

Limit = Annotated[int, typer.Option("-n", "--limit", min=1, max=_MOST, help="Most events shown.")]
Oldest = Annotated[bool, typer.Option("--oldest", help="The oldest first.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name, or its id.")]


def filtered(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of a filter; it gets those that were used as its argument ``asked``."""

    @wraps(function)
    def wrapped(**given: Any) -> int:
        asked = {name: value for name in FILTERS if (value := given.pop(name))}
        return function(asked=asked, **given)

    own = inspect.signature(function, eval_str=True).parameters.values()
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default="",
            annotation=Annotated[str, typer.Option(f"--{name.replace('_', '-')}", help=text, show_default=False)],
        )
        for name, text in FILTERS.items()
    ]
    kept = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own if each.name != "asked"]
    arguments = [each for each in kept if each.default is inspect.Parameter.empty]
    rest = [each for each in kept if each.default is not inspect.Parameter.empty]
    signature = inspect.Signature([*arguments, *options, *rest])
    wrapped.__signature__ = signature  # type: ignore[attr-defined]
    wrapped.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
    return wrapped


@command
@filtered
def search(
    asked: Mapping[str, str],
    limit: Limit = 50,
    oldest: Oldest = False,
    facets: Annotated[bool, typer.Option("--facets", help="Count by code, outcome, server and principal.")] = False,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write all that is found there, with a manifest beside."),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="Of the export: jsonl (verbatim), csv or parquet.")] = "jsonl",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Find events, the newest first; or write all that is found into a file.

    Exits 3 when nothing is found, 1 when the search takes too long.
    """
    from bailiwick.evidence.search import FACETS

    wanted = filter_of(asked)
    order: Order = "oldest" if oldest else "newest"
    if export is not None:
        return _export(zone, wanted, order, form, export, data_dir, json_)

    async def run(database: Database) -> int:
        finder = search_of(database, data_dir)
        found = await find(database, finder, zone, wanted, order, limit, "events")
        counted = await finder.count(zone, wanted, FACETS) if facets else None
        if json_:
            more = {"facets": counted.to_json()} if counted else {}
            print(as_json({"events": [entry.to_json() for entry in found], **more}))
        else:
            for entry in found:
                print(line_of(entry, dated=True))
            if counted:
                print("\n".join(_counted(counted)))
            if len(found) == limit:
                print(f"the first {limit:,}; -n shows more, --export FILE writes all", file=_stderr())
        return 0 if found else NO_DATA

    return on_database(data_dir, run)


@command
def timeline(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="request, session, user, server, policy …")],
    identifier: Annotated[str, typer.Argument(metavar="ID", help="Which one.")],
    since: Annotated[str, typer.Option("--since", help=FILTERS["since"])] = "",
    until: Annotated[str, typer.Option("--until", help=FILTERS["until"])] = "",
    limit: Limit = 200,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Tell what happened in a request or session, or to and by somebody or something, the oldest first.

    Exits 3 when nothing is known.
    """
    from dataclasses import replace

    from bailiwick.evidence.query import About
    from bailiwick.evidence.timelines import item, request_named
    from bailiwick.kernel.errors import NotFound

    asked = {name: value for name, value in (("since", since), ("until", until)) if value}
    moments = filter_of(asked)

    async def run(database: Database) -> int:
        finder = search_of(database, data_dir)
        if kind == "request":
            async with database.begin() as tx:
                try:
                    told = (await finder.request(tx, zone, request_named(identifier)))["timeline"]
                except NotFound:
                    told = []
                await note(tx, zone, f"timelines/request/{identifier}", query="", returned=len(told))
            lines = [_told(each) for each in told]
        else:
            wanted = replace(moments, about=About(kind, identifier))
            found = await find(database, finder, zone, wanted, "oldest", limit, f"timelines/{kind}/{identifier}")
            told, lines = [item(entry) for entry in found], [line_of(entry, dated=True) for entry in found]
        if json_:
            print(as_json({"kind": kind, "id": identifier, "timeline": told}))
        else:
            for line in lines:
                print(line)
        return 0 if told else NO_DATA

    return on_database(data_dir, run)


# ---------------------------------------------------------------------- saved queries

queries_app = small_app()


@queries_app.callback()
def queries() -> None:
    """Keep searches by a name, and run them again."""


@queries_app.command("list")
@command
def list_queries(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """List your queries and those that are shared. Exits 3 when there is none."""

    async def run(database: Database) -> int:
        kept = saved_of(database)
        found: list[SavedQuery] = []
        after: str | None = "g"
        while after is not None:
            some, after = await kept.list(zone, actor_of_command(), after, _PAGE)
            found += some
        if json_:
            print(as_json([each.document() for each in found]))
        else:
            for each in found:
                asked = " ".join(f"{name}={value}" for name, value in each.query.items())
                shared = "shared" if each.shared else "own"
                print(
                    _cut(f"{printable(each.name):<24.24} {printable(each.owner):<12.12} {shared:<6} {printable(asked)}")
                )
        return 0 if found else NO_DATA

    return on_database(data_dir, run)


@queries_app.command()
@command
@filtered
def save(
    asked: Mapping[str, str],
    title: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    shared: Annotated[bool, typer.Option("--shared", help="Show it to the zone's auditors.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
) -> int:
    """Keep a search by a name; relative moments are counted from when it is run."""
    from bailiwick.kernel.errors import Conflict

    filter_of(asked)
    if not 1 <= len(title) <= 100 or not title.isprintable():
        raise CommandFailed(USAGE, "a name has 1 to 100 printable characters")

    async def run(database: Database) -> int:
        try:
            made = await saved_of(database).save(_context(zone), actor_of_command(), title, dict(asked), shared=shared)
        except Conflict as error:
            raise CommandFailed(FAILED, error.detail) from None
        print(f"kept as {made.name}; run it with bailiwick audit queries run '{made.name}'")
        return 0

    return on_database(data_dir, run)


@queries_app.command()
@command
def show(name: Name, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show a query. Exits 3 when there is none by that name."""

    async def run(database: Database) -> int:
        found = (await _kept(database, zone, name)).document()
        if json_:
            print(as_json(found))
        else:
            asked = found.pop("query")
            for key, value in [*found.items(), *asked.items()]:
                print(_cut(f"{key:<18} {printable(str(value))}"))
        return 0

    return on_database(data_dir, run)


@queries_app.command("run")
@command
def run_query(
    name: Name, limit: Limit = 50, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False
) -> int:
    """Run a query, the newest events first. Exits 3 when nothing is found."""

    async def run(database: Database) -> int:
        kept = await _kept(database, zone, name)
        finder = search_of(database, data_dir)
        wanted = filter_of(kept.query)
        found = await find(database, finder, zone, wanted, "newest", limit, f"queries/{kept.id}")
        if json_:
            print(as_json({"query": kept.document(), "events": [entry.to_json() for entry in found]}))
        else:
            for entry in found:
                print(line_of(entry, dated=True))
        return 0 if found else NO_DATA

    return on_database(data_dir, run)


@queries_app.command()
@command
def delete(name: Name, zone: Zone = "default", data_dir: DataDir = None) -> int:
    """Remove a query of yours. Exits 3 when there is none by that name."""
    from bailiwick.kernel.errors import Denied, NotFound

    async def run(database: Database) -> int:
        try:
            gone = await saved_of(database).delete(_context(zone), actor_of_command(), name)
        except NotFound as error:
            raise CommandFailed(NO_DATA, error.detail) from None
        except Denied as error:
            raise CommandFailed(FAILED, error.detail) from None
        print(f"{gone.name} is removed")
        return 0

    return on_database(data_dir, run)


def register(app: typer.Typer) -> None:
    """Add these commands to ``bailiwick audit``."""
    app.command("search")(search)
    app.command("timeline")(timeline)
    app.add_typer(queries_app, name="queries")


# ---------------------------------------------------------------------- exporting


def _export(zone: str, wanted: Filter, order: Order, form: str, path: Path, data_dir: Path | None, json_: bool) -> int:
    from bailiwick import __version__
    from bailiwick.evidence import codes, search_export
    from bailiwick.kernel.clock import SystemClock

    if form not in search_export.MEDIA_TYPES:
        raise CommandFailed(USAGE, f"--format {form}: say jsonl, csv or parquet")
    chosen: Format = form

    async def run(database: Database) -> int:
        async with database.begin() as tx:
            reach = await search_export.extent(tx, zone)
            query = wanted.described()
            await record(tx, codes.AUDIT_EXPORTED, "success", zone, "audit", query=query, format=form, reach=reach.size)
        found = search_export.entries(database, search_of(database, data_dir), zone, wanted, order, reach)
        tally = search_export.Tally()
        try:
            with _progress(reach.size, order) as progress:
                await search_export.save(found, chosen, path, tally, progress)
            told = search_export.manifest(
                zone, wanted, order, chosen, reach, tally, SystemClock().now(), f"bailiwick {__version__}"
            )
            beside = path.with_name(f"{path.name}.manifest.json")
            beside.write_text(as_json({"file": path.name, **told}, indent=2) + "\n")
        except OSError as error:
            raise CommandFailed(FAILED, f"{error.filename or path}: {error.strerror}") from None
        if json_:
            print(as_json({"file": str(path), "manifest": str(beside), **told}))
        else:
            print(f"{tally.events:,} events of zone {zone} in {path} ({tally.size:,} bytes)")
            if tally.altered_total:
                print(f"{tally.altered_total:,} of them are not what was hashed: see the manifest")
            print(f"manifest: {beside}")
        return 0 if tally.events else NO_DATA

    return on_database(data_dir, run)


class _Bar:
    """A progress bar on a terminal, nothing elsewhere. Progress is how much of the ledger was passed."""

    def __init__(self, size: int, order: str) -> None:
        self._size = size
        self._order = order
        self._bar: Any = None

    def __enter__(self) -> Callable[[Any], None]:
        import sys

        if not sys.stderr.isatty():
            return lambda tally: None
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.fields[events]:>12,} events"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        task = self._bar.add_task("", total=max(1, self._size), events=0)

        def progress(tally: Any) -> None:
            passed = tally.last_seq + 1 if self._order == "oldest" else self._size - tally.first_seq
            self._bar.update(task, completed=passed, events=tally.events)

        return progress

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


_progress = _Bar


# ---------------------------------------------------------------------- what they share


def filter_of(asked: Mapping[str, Any]) -> Filter:
    """The filter of options or of a saved query; ends the command for what is none."""
    from pydantic import ValidationError

    from bailiwick.evidence.asked import FilterParams
    from bailiwick.evidence.query import instant
    from bailiwick.kernel.clock import SystemClock
    from bailiwick.kernel.errors import InvalidRequest

    now = SystemClock().now()
    try:
        for name in ("since", "until"):
            if name in asked:
                instant(asked[name], now)  # its refusal says more than that of the parameters
        return FilterParams(**asked).filter(now)
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][0]).replace("_", "-") if first["loc"] else "filter"
        raise CommandFailed(USAGE, f"--{where}: {first['msg']}") from None
    except InvalidRequest as error:
        raise CommandFailed(USAGE, error.detail) from None


def search_of(database: Database, data_dir: Path | None) -> Search:
    """The search on this machine, its archive included."""
    from bailiwick.cli.archive import cold_events
    from bailiwick.evidence.archive.reader import ColdEvents
    from bailiwick.evidence.cold import ColdSearch
    from bailiwick.evidence.search import Search

    return Search(database, None, ColdSearch(cold_events(data_dir, database), ColdEvents.open_parts))


def saved_of(database: Database) -> SavedQueries:
    """The saved queries of this machine."""
    from bailiwick.evidence.events import Recorder
    from bailiwick.evidence.saved_queries import SavedQueries
    from bailiwick.kernel.clock import SystemClock
    from bailiwick.kernel.ids import Ids

    ids = Ids()
    return SavedQueries(database, Recorder(SystemClock(), ids), ids)


async def find(
    database: Database, finder: Search, zone: str, wanted: Filter, order: Order, limit: int, what: str
) -> list[Entry]:
    """At most ``limit`` events, in pages, and the event that tells of the query; ends the command when it fails."""
    from bailiwick.evidence.timelines import Timelines
    from bailiwick.identity.sessions import owner_of_session
    from bailiwick.kernel.errors import BailiwickError

    tales = Timelines(finder, owner_of_session)
    found: list[Entry] = []
    async with database.begin() as tx:
        try:
            while len(found) < limit:
                size = min(_PAGE, limit - len(found))
                after = found[-1].seq if found else None
                page = await tales.page(tx, zone, wanted, order=order, after=after, limit=size)
                found += page
                if len(page) < size:
                    break
        except BailiwickError as error:
            raise CommandFailed(FAILED, error.detail) from None
        await note(tx, zone, what, query=wanted.described(), returned=len(found))
    return found


async def _kept(database: Database, zone: str, name: str) -> SavedQuery:
    from bailiwick.kernel.errors import NotFound

    try:
        return await saved_of(database).find(zone, actor_of_command(), name)
    except NotFound as error:
        raise CommandFailed(NO_DATA, error.detail) from None


def _context(zone: str) -> Any:
    from bailiwick.evidence.events import Actor, Context

    return Context(zone, Actor(user=actor_of_command()))


def _told(told: Mapping[str, Any]) -> str:
    """An entry of a request's timeline in one line."""
    at = str(told["at"])[:19].replace("T", " ")
    if told["kind"] == "answer":
        took = told["duration_us"] / 1000
        return _cut(f"{'':>8} {at} {told['method']} {told['route']} answered {told['status']} after {took:,.1f} ms")
    event = told["event"] or {}
    actor = event.get("actor", {})
    who = actor.get("user") or actor.get("application") or "-"
    flag = "" if told["intact"] else " ALTERED"
    name = event.get("name", "unreadable")
    return _cut(f"{told['seq']:>8} {at} {printable(name)} {event.get('outcome', '?')}{flag} {printable(who)}")


def _counted(facets: Facets) -> list[str]:
    lines = [] if facets.complete else [f"counted in time: only what was recorded since {facets.counted_since}"]
    for name, counts in facets.counts.items():
        lines.append(f"{name}:")
        lines += [_cut(f"  {count:>12,} {printable(value) or '-'}") for value, count in counts[:10]]
        if more := max(0, len(counts) - 10) + facets.unlisted[name]:
            lines.append(f"  {more:>12,} values more")
    return lines


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def _stderr() -> Any:
    import sys

    return sys.stderr
