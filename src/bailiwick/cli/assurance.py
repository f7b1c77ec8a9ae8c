"""``bailiwick assurance``: the operating model of a zone: what is in force, what a change would do, how it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.assurance_desk import Desk, Json, Zone, at_desk
from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import as_json, printable
from bailiwick.cli.options import DataDir, small_app

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bailiwick.assurance.book import Document
    from bailiwick.assurance.books import Difference, Plan
    from bailiwick.kernel.quorum import Approval

app = small_app()

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of documents (*.yaml, in folders too).")]


@app.callback()
def assurance() -> None:
    """The operating model as reviewed documents."""


@app.command()
@command
def plan(directory: Folder, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show what `apply` would change. Exits 2 where the documents do not hold."""
    documents = _read(directory)

    async def run(desk: Desk) -> Plan:
        return await desk.house.books.plan(zone, documents)

    planned = at_desk(data_dir, zone, run)
    print(as_json(planned.document(), indent=2)) if json_ else _print_plan(planned)
    return 0


@app.command()
@command
def apply(
    directory: Folder,
    seen: Annotated[str, typer.Option("--plan", metavar="SHA256", help="Only if the plan is still this one.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show the difference, then put the documents in force. Exits 3 where it waits for somebody's approval."""
    documents = _read(directory)

    async def run(desk: Desk) -> tuple[Plan, Plan | Approval]:
        books = desk.house.books
        planned = await books.plan(zone, documents)
        if seen and planned.sha256 != seen:
            raise CommandFailed(FAILED, f"the plan is {planned.sha256} by now: plan again")
        return planned, await books.apply(
            desk.context, documents, sha256=planned.sha256, by=desk.operator, signed_in=False
        )

    from bailiwick.assurance.books import Plan

    planned, done = at_desk(data_dir, zone, run)
    applied = isinstance(done, Plan)
    if json_:
        approval = None if isinstance(done, Plan) else done.document()
        print(as_json({"applied": applied, "plan": planned.document(), "approval": approval}, indent=2))
    else:
        _print_plan(planned)
        if not isinstance(done, Plan):
            print(
                f"waits for approval {done.id}: {done.missing} more must approve,"
                f" by {done.expires_at:%Y-%m-%d %H:%M} UTC"
            )
            print(f"could do so: {', '.join(done.candidates) or 'nobody; invite somebody whose role allows it'}")
        elif done.differences:
            print(f"revision {done.revision + 1} is in force")
    return 0 if applied else NO_DATA


@app.command()
@command
def show(
    kind: Annotated[str, typer.Argument(metavar="[KIND]", help="Only documents of this kind.")] = "",
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Only this one, with what it says.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show what is in force. Exits 3 when nothing is."""
    import yaml

    from bailiwick.assurance.book_api import told

    async def run(desk: Desk) -> list[Document]:
        async with desk.database.begin() as tx:
            book = await desk.house.books.current(tx, zone)
        return [each for each in book.documents.values() if kind in ("", each.kind) and name in ("", each.name)]

    found = at_desk(data_dir, zone, run)
    if json_:
        print(as_json([told(each) for each in found], indent=2))
    elif name:
        for each in found:
            shown = {
                name: value for name, value in told(each).items() if name in {"apiVersion", "kind", "metadata", "spec"}
            }
            print(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), end="")
    else:
        for each in found:
            print(
                f"{each.kind:14} {each.name:32} v{each.version:<4} {each.applied_at:%Y-%m-%d %H:%M} {each.applied_by}"
            )
    return 0 if found else NO_DATA


@app.command()
@command
def history(
    kind: Annotated[str, typer.Argument(metavar="KIND")],
    name: Annotated[str, typer.Argument(metavar="NAME")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show every version of one document, newest first, and what each changed. Exits 3 when there was none."""
    from bailiwick.assurance.book_api import told

    async def run(desk: Desk) -> list[Document]:
        async with desk.database.begin() as tx:
            return await desk.house.books.history(tx, zone, kind, name)

    found = at_desk(data_dir, zone, run)
    if json_:
        print(as_json([told(each) for each in found], indent=2))
    if json_ or not found:
        return 0 if found else NO_DATA
    for each, before in zip(found, [*(older.spec for older in found[1:]), {}], strict=True):
        what = "removed" if not each.spec else ""
        print(f"v{each.version} {each.applied_at:%Y-%m-%d %H:%M} {each.applied_by} {what}".rstrip())
        _print_members(before, each.spec)
    return 0


@app.command()
@command
def schema(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write one file a kind.")],
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Write the JSON Schema of every kind of document. Asks no installation, wherever that is kept."""
    from bailiwick.app.assurance import KINDS
    from bailiwick.assurance.book import schema as schema_of

    try:
        out.mkdir(parents=True, exist_ok=True)
        for kind in KINDS:
            (out / f"{kind.name}.json").write_text(json.dumps(schema_of(kind), indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise CommandFailed(USAGE, f"{out}: {error.strerror}") from None
    names = sorted(kind.name for kind in KINDS)
    print(as_json(names) if json_ else "\n".join(str(out / f"{name}.json") for name in names))
    return 0


@app.command()
@command
def thresholds(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show the catalogue of thresholds. Exits 3 when it is empty."""
    from bailiwick.assurance.thresholds import THRESHOLD, Threshold

    async def run(desk: Desk) -> dict[str, Threshold]:
        async with desk.database.begin() as tx:
            return (await desk.house.books.current(tx, zone)).of(THRESHOLD)

    found = at_desk(data_dir, zone, run)
    if json_:
        print(as_json([{"key": key, **each.model_dump(mode="json")} for key, each in found.items()], indent=2))
    else:
        for key, each in found.items():
            mark = "!" if each.critical else " "
            print(
                printable(f"{mark} {key:26} {each.comparison:2} {each.value:>8g} {each.unit:6} {each.owner}")[
                    :80
                ].rstrip()
            )
        print("! takes two persons to loosen")
    return 0 if found else NO_DATA


@app.command()
@command
def status(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show how every probe stands: its verdict, value, age and trend. Exits by the worst of them."""
    from bailiwick.cli.probe import print_standings
    from bailiwick.kernel.verdicts import worst

    async def run(desk: Desk) -> Any:
        async with desk.database.begin() as tx:
            found = await desk.probes.standings(tx, zone)
            silent = await tx.all("SELECT job, since, why FROM silent_jobs ORDER BY job")
        return found, [dict(row) for row in silent], desk.house.base.clock.now()

    found, silent, now = at_desk(data_dir, zone, run)
    verdict = worst(each.verdict for each in found)
    if json_:
        probes = [each.document() for each in found]
        print(as_json({"verdict": str(verdict), "probes": probes, "silent_jobs": silent}, indent=2))
    else:
        print_standings(found, now)
        for row in silent:
            print(printable(f"silent  {row['job']}: {row['why']}, since {row['since']:%m-%d %H:%M:%S}"))
    return FAILED if silent else verdict.exit_code


def _read(directory: Path) -> list[Document]:
    from bailiwick.assurance.book import BadBook, read_directory

    if not directory.is_dir():
        raise CommandFailed(USAGE, f"{directory} is no folder")
    try:
        return read_directory(directory)
    except BadBook as error:
        raise CommandFailed(USAGE, "\n".join(["the documents cannot be read:", *error.problems])) from None
    except OSError as error:
        raise CommandFailed(USAGE, f"{error.filename}: {error.strerror}") from None


_SIGNS = {"added": "+", "changed": "~", "removed": "-"}


def _print_plan(planned: Plan) -> None:
    for each in planned.differences:
        _print_difference(each)
    if not planned.differences:
        print("nothing changes")
        return
    two = ", takes two persons" if planned.two_persons else ""
    print(f"{len(planned.differences)} documents change upon revision {planned.revision}{two}")
    print(f"plan {planned.sha256}")


def _print_difference(each: Difference) -> None:
    two = "  (two persons)" if each.two_persons else ""
    print(f"{_SIGNS[each.how]} {each.kind} {each.name}{two}")
    if each.how == "changed":
        _print_members(each.before or {}, each.after or {})


def _print_members(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> None:
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            _print_members(old, new, f"{path}{name}.")
        elif name not in before:
            print(_clipped(f"    {path}{name}: + {_value(new)}"))
        elif name not in after:
            print(_clipped(f"    {path}{name}: - {_value(old)}"))
        else:
            print(_clipped(f"    {path}{name}: {_value(old)} -> {_value(new)}"))


def _value(value: Any) -> str:
    return value if isinstance(value, str) else as_json(value)


def _clipped(line: str) -> str:
    line = printable(line)
    return line if len(line) <= 120 else f"{line[:119]}…"
