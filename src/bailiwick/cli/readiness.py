"""``bailiwick readiness``: whether an environment may go live, why not, and what would show it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.room import in_room

if TYPE_CHECKING:
    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context
    from bailiwick.handover.readiness.rules import Judged
    from bailiwick.handover.readiness.service import View

app = small_app()

Environment = Annotated[str, typer.Option("--env", metavar="NAME", help="The environment.")]
Zone = Annotated[str, typer.Option("--zone", help="The zone whose book speaks of it.")]
ItemName = Annotated[str, typer.Argument(metavar="CHECKLIST/ITEM", help="The item.")]
Note = Annotated[str, typer.Option("--note", help="What you say to it.")]

_COLOURS = {"PASS": "green", "FAIL": "bold red", "ERROR": "bold red", "NO_DATA": "yellow", "STALE": "yellow"}


@app.callback()
def _group() -> None:
    """Whether an environment may go live: checklists, shown by evidence that expires."""


@app.command()
@command
def run(
    environment: Environment = "production", zone: Zone = "default", data_dir: DataDir = None, json_: Json = False
) -> int:
    """Look at every item now, all at once, and keep what is found. Exits by what they amount to."""

    async def work(house: House, context: Context) -> View:
        from bailiwick.app.handover.readiness import desk_of

        desk = desk_of(house)
        async with house.base.database.begin() as tx:
            await desk.held(tx, zone, environment)
            await desk.note_asked(tx, context, environment)
        _, view = await desk.run(context, environment, context.actor.user)
        return view

    return _shown(in_room(data_dir, zone, work), json_, every=False)


@app.command()
@command
def show(
    environment: Environment = "production",
    every: Annotated[bool, typer.Option("--all", help="Every item, the green ones too.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show why it is not ready: score, what stands in the way, the trend. Exits by what all amount to."""

    async def work(house: House, context: Context) -> View:
        from bailiwick.app.handover.readiness import desk_of

        async with house.base.database.begin() as tx:
            view = await desk_of(house).view(tx, zone, environment)
            await _note_read(house, tx, context, environment, "standing")
        return view

    return _shown(in_room(data_dir, zone, work), json_, every=every)


@app.command()
@command
def explain(
    item: ItemName,
    environment: Environment = "production",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show one item: what is asked, what was found or stated, what to do. Exits by its verdict."""

    async def work(house: House, context: Context) -> dict[str, Any]:
        from bailiwick.app.handover.readiness import desk_of

        async with house.base.database.begin() as tx:
            told = await desk_of(house).explain(tx, zone, environment, item)
            await _note_read(house, tx, context, environment, item)
        return told

    from bailiwick.kernel.verdicts import Verdict

    told: dict[str, Any] = in_room(data_dir, zone, work)
    print(as_json(told, indent=2)) if json_ else _print_item(told)
    return Verdict(told["verdict"]).exit_code


@app.command()
@command
def attest(
    item: ItemName,
    statement: Annotated[str, typer.Option("--statement", help="What you state.")],
    attach: Annotated[
        Path | None, typer.Option("--attach", metavar="FILE", help="The document that shows it; it is kept.")
    ] = None,
    environment: Environment = "production",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """State that an item is so; it counts once another person accepts it. Takes $BAILIWICK_TOKEN."""
    from bailiwick.cli.signed_in import ask_api

    if not re.fullmatch(r"[a-z0-9-]{1,60}/[a-z0-9-]{1,60}", item):
        raise CommandFailed(USAGE, f"{item!r} is no CHECKLIST/ITEM")
    body = {"statement": statement}
    if attach is not None:
        body |= {"attachment": attach.name, "sha256": _handed_in(data_dir, zone, attach)}
    checklist, _, name = item.partition("/")
    path = f"/api/v1/readiness/{_named(environment)}/items/{checklist}/{name}/attestations"
    made = ask_api(data_dir, zone, "POST", path, body)
    print(as_json(made, indent=2) if json_ else f"attestation {made['id']} waits for another person's review")
    return 0


@app.command()
@command
def attachment(
    sha256: Annotated[str, typer.Argument(metavar="SHA256", help="The document's hash, as its attestation has it.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where it is written; nothing is overwritten.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Write a document that an attestation rests on to a file, if it still is what its hash says."""

    async def work(house: House, context: Context) -> Any:
        from bailiwick.app.handover.readiness import attachments_of

        return await attachments_of(house.base).read(context, sha256)

    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise CommandFailed(USAGE, f"{sha256!r} is no SHA-256")
    found, data = in_room(data_dir, zone, work)
    try:
        with out.open("xb") as file:
            file.write(data)
    except OSError as error:
        raise CommandFailed(USAGE, f"--out {out}: {error.strerror}") from None
    told = f"{out}: {found.bytes} bytes of {found.media_type}, handed in by {found.kept_by}"
    print(as_json(found.document(), indent=2) if json_ else told)
    return 0


@app.command()
@command
def review(
    attestation: Annotated[str, typer.Argument(metavar="ID", help="The attestation.")],
    accept: Annotated[bool, typer.Option("--accept/--refuse", help="Whether it is so.")],
    note: Note = "",
    environment: Environment = "production",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Accept or refuse what somebody else attested. Takes $BAILIWICK_TOKEN."""
    from bailiwick.cli.signed_in import ask_api

    if not re.fullmatch(r"[0-9a-f-]{36}", attestation):
        raise CommandFailed(USAGE, f"{attestation!r} is no id of an attestation")
    body = {"outcome": "accepted" if accept else "refused", "note": note}
    path = f"/api/v1/readiness/{_named(environment)}/attestations/{attestation}/review"
    made = ask_api(data_dir, zone, "POST", path, body)
    print(as_json(made, indent=2) if json_ else f"{made['item']}: {made['outcome']} by {made['reviewer']}")
    return 0


def _handed_in(data_dir: Path | None, zone: str, file: Path) -> str:
    """Hand a document in; its hash."""
    import hashlib
    import mimetypes

    from bailiwick.cli.signed_in import ask_api

    try:
        data = file.read_bytes()
    except OSError as error:
        raise CommandFailed(USAGE, f"--attach {file}: {error.strerror}") from None
    sha256 = hashlib.sha256(data).hexdigest()
    told = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    ask_api(data_dir, zone, "PUT", f"/api/v1/readiness/attachments/{sha256}", data, told)
    return sha256


# ---------------------------------------------------------------------- what is shown


async def _note_read(house: House, tx: Any, context: Context, environment: str, what: str) -> None:
    from bailiwick.evidence import codes
    from bailiwick.evidence.events import Subject

    subject = Subject(id=environment, type="environment")
    await house.base.recorder.record(tx, codes.READINESS_READ, "success", context, subject=subject, what=what)


def _named(environment: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", environment):
        raise CommandFailed(USAGE, f"--env {environment!r} is no name")
    return environment


def _shown(view: View, json_: bool, *, every: bool) -> int:
    if json_:
        print(as_json(view.document(), indent=2))
    else:
        _print_view(view, every=every)
    return NO_DATA if not view.judged else view.standing.verdict.exit_code


def _print_view(view: View, *, every: bool) -> None:
    from bailiwick.assurance.durations import told as length
    from bailiwick.cli.screen import cut, shown, table
    from bailiwick.handover.readiness.rules import blockers, by_area, score

    counted, stands = score(view.judged), view.standing
    ready = "is ready" if stands.passes else "is NOT ready"
    until = f" until {shown(stands.until)}" if stands.until is not None else ""
    _verdict_line(stands.verdict, f"{view.held.environment} {ready}{until}")
    print(
        cut(
            f"{counted.percent} of 100: {counted.green} of {counted.applicable} items green, {counted.waived} waived,"
            f" {counted.open_must} in the way, {counted.open_should} should"
        )
    )
    print(cut(f"{counted.outside} items are for another profile than {view.held.profile.profile}, and never green"))
    if view.trend:
        last = view.trend[0]
        by = last.asked_by or "the clock"
        print(cut(f"trend {_trend(view)}, last run {length(view.now - last.finished_at)} ago by {by}"))
    else:
        print("never run: bailiwick readiness run")
    rows = [
        (f"{checklist}/{area}", each["green"], each["waived"], each["open"], each["should"], each["outside"])
        for (checklist, area), each in by_area(view.judged).items()
    ]
    table(("area", "green", "waived", "open", "should", "outside"), rows)
    listed = view.judged if every else blockers(view.judged)
    if listed:
        print("every item:" if every else "why not ready:")
    _print_items(listed)
    if listed and not every:
        print(cut("bailiwick readiness explain CHECKLIST/ITEM says what is asked, and what to do"))


def _print_items(listed: Sequence[Judged]) -> None:
    from bailiwick.cli.screen import cut

    for each in listed:
        verdict = "outside" if not each.applies else str(each.verdict)
        _verdict_line(verdict, f"{each.placed.key} ({each.placed.owner})", width=8)
        waived = f" [waiver {each.waiver}]" if each.waiver else ""
        # what a query answers says little without what was asked
        told = f"{each.placed.item.title}: {each.told}" if each.told.startswith("answers ") else each.told
        print(cut(f"{'':8}{told}{waived}"))


def _trend(view: View) -> str:
    bars = "▁▂▃▄▅▆▇█"
    return "".join(bars[min(7, run.score.get("percent", 0) * 8 // 101)] for run in reversed(view.trend)) + (
        f" {view.trend[0].score.get('percent', 0)} %"
    )


def _verdict_line(verdict: str, text: str, width: int = 0) -> None:
    import sys

    from rich.console import Console
    from rich.text import Text

    from bailiwick.cli.screen import cut

    line = cut(f"{verdict:{width}}{'' if width else '  '}{text}")
    made = Text(line)
    made.stylize(_COLOURS.get(verdict, "dim"), 0, len(verdict))
    Console(file=sys.stdout, highlight=False, width=max(80, len(line)), soft_wrap=True).print(made)


def _print_wrapped(heading: str, text: str) -> None:
    import textwrap

    from bailiwick.cli.ledger import WIDTH, printable

    for line in textwrap.wrap(printable(text), WIDTH, initial_indent=heading, subsequent_indent=" " * len(heading)):
        print(line)


def _print_item(told: dict[str, Any]) -> None:
    from bailiwick.cli.screen import cut, shown

    _verdict_line(told["verdict"] if told["applies"] else "outside", told["item"])
    _print_wrapped("", told["title"])
    _print_wrapped("now       ", told["told"])
    print(cut(f"owner     {told['owner']}, {told['requirement']}, profile {told['profile']}"))
    if told["until"] is not None:
        print(f"counts    until {shown(told['until'])}")
    if told["record"]:
        print(f"evidence  {told['record']}")
    asks = told["asks"]
    if "probe" in asks:
        print(cut(f"asks      probe {asks['probe']}, {told['life_s'] // 3600} h"))
        if asks.get("missing"):
            _print_wrapped("lacks     ", f"values of the ReadinessProfile: {', '.join(asks['missing'])}")
    elif "states" in asks:
        attached = "; a document goes with it" if asks["attachment"] else ""
        _print_wrapped("asks      ", f"a person to state: {asks['states']}{attached}")
    else:
        _print_wrapped("asks      ", f"that all pass of {', '.join(asks['requires'])}")
    if told["waiver"]:
        print(cut(f"waiver    {told['waiver']}"))
    elif told["waivable"] and told["verdict"] != "PASS":
        print(cut(f"or waive  control {told['control']}, scope {told['environment']}"))
    if told["mend"]:
        _print_wrapped("to do     ", told["mend"])
    for each in told["found"][:5]:
        print(cut(f"found     {shown(each['at'])} {each['verdict']:8}{each['took_ms']} ms  {each['detail']}"))
    for each in told["attestations"][:5]:
        outcome = f"{each['outcome']} by {each['reviewer']}" if each["outcome"] else "waits for review"
        print(cut(f"stated    {shown(each['made_at'])} by {each['author']}, {outcome}"))
        print(f"          {each['id']}")
        if each["attachment_sha256"]:
            gone = "" if each["attachment_kept"] else " (not kept any more)"
            print(cut(f"          with {each['attachment'] or 'a document'}{gone}"))
            print(f"          {each['attachment_sha256']}")


__all__ = ["app"]
