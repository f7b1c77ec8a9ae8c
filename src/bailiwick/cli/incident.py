"""``bailiwick incident``: what is wrong, what is done about it, and when it is over. Acting takes a sign-in."""

from __future__ import annotations

import json
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

app = small_app()
PATH = "/api/v1/incidents"

Zone = Annotated[str, typer.Option("--zone", help="The zone whose incidents are meant.")]
Id = Annotated[str, typer.Argument(metavar="INCIDENT", help="INC-7, or its id.")]
Arguments = Annotated[list[str], typer.Option("--arg", metavar="NAME=VALUE", help="An argument of the action.")]
Action = Annotated[str, typer.Argument(metavar="ACTION", help="fail-closed, freeze … as `incident actions` lists.")]


@app.callback()
def _group() -> None:
    """Open, contain, preserve, recover, review, close. Acting takes $BAILIWICK_TOKEN."""


@app.command("list")
@command
def list_incidents(
    every: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show those that go on. Exits 3 when there is none. Of a security incident no more than that there is one."""

    async def work(house: House, context: Context) -> int:
        from bailiwick.handover.incidents.records import list_incidents as read

        async with house.base.database.begin() as tx:
            found = await read(tx, zone, state="" if every else "ongoing")
        told = [
            {
                "name": each.name,
                "severity": each.severity.value,
                "state": each.state,
                "class": each.class_,
                "title": "(restricted)" if each.class_ == "security" else each.title,
                "commander": each.commander,
                "opened_at": each.opened_at,
                "update_due": each.update_due,
            }
            for each in found
        ]
        if json_:
            print(as_json(told, indent=2))
        else:
            for each in told:
                line = f"{each['name']:8} {each['severity']} {each['state']:9} {each['commander'] or '-':12.12}"
                print(printable(f"{line} {each['title']}")[:80])
        return 0 if told else NO_DATA

    return in_room(data_dir, zone, work)


@app.command()
@command
def show(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show one with its timeline, to whom it is to be shown."""
    found = _ask(data_dir, zone, "GET", f"/{identifier}")
    if json_:
        print(json.dumps(found, indent=2))
        return 0
    print(printable(f"{found['name']} {found['severity']} {found['class']}: {found['title']}"))
    print(printable(f"state {found['state']}, commander {found['commander'] or '-'}, scribe {found['scribe'] or '-'}"))
    times = ", ".join(f"{name.removesuffix('_s')} {value} s" for name, value in found["times"].items()
                      if value is not None)  # fmt: skip
    print(times or "no times yet")
    for line in found["unmet"]:
        print(printable(f"not yet: {line}")[:80])
    for line in found["timeline"]:
        print(printable(f"{line['at'][11:19]} {line['what']:12} {line['by']:10.10} {line['told']}")[:80])
    return 0


@app.command("open")
@command
def open_incident(
    title: Annotated[str, typer.Argument(metavar="TITLE", help="What is wrong, in a line.")],
    severity: Annotated[str, typer.Option("--severity", help="P0, P1, P2 or P3.")] = "P2",
    class_: Annotated[
        str, typer.Option("--class", help="security, availability, evidence, operations.")
    ] = "operations",
    trigger: Annotated[str, typer.Option("--trigger", help="An IncidentTrigger that says the rest.")] = "",
    public: Annotated[str, typer.Option("--public", help="What the status page says.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Open one by hand."""
    body = {"title": title, "severity": severity, "class": class_, "public": public}
    return _told(_ask(data_dir, zone, "POST", "", {**body, **({"trigger": trigger} if trigger else {})}), json_)


@app.command()
@command
def ack(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Say that you work on it."""
    return _told(_ask(data_dir, zone, "POST", f"/{identifier}/ack", {}), json_)


@app.command()
@command
def tell(
    identifier: Id,
    told: Annotated[str, typer.Argument(metavar="TEXT", help="How it goes.")],
    public: Annotated[str, typer.Option("--public", help="What the status page says from now on.")] = "",
    blast_radius: Annotated[bool, typer.Option("--blast-radius", help="What an exposed secret could reach.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Tell whoever waits for news."""
    body: dict[str, Any] = {"told": told, "what": "blast-radius" if blast_radius else "update"}
    if public:
        body["public"] = public
    return _told(_ask(data_dir, zone, "POST", f"/{identifier}/updates", body), json_)


@app.command()
@command
def change(
    identifier: Id,
    commander: Annotated[str, typer.Option("--commander")] = "",
    scribe: Annotated[str, typer.Option("--scribe")] = "",
    severity: Annotated[str, typer.Option("--severity")] = "",
    class_: Annotated[str, typer.Option("--class")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Give it to others, or another severity or class."""
    given = {"commander": commander, "scribe": scribe, "severity": severity, "class": class_}
    body = {name: value for name, value in given.items() if value}
    return _told(_ask(data_dir, zone, "PATCH", f"/{identifier}", body), json_)


@app.command()
@command
def actions(json_: Json = False) -> int:
    """Show what containment can do."""
    from bailiwick.handover.incidents.containment import ACTIONS

    told = [{"name": name, "title": each.title, "asks": each.asked, "taken_back": each.back}
            for name, each in ACTIONS.items()]  # fmt: skip
    if json_:
        print(json.dumps(told, indent=2))
    else:
        for each in told:
            print(printable(f"{each['name']:19} {each['title']}")[:80])
            print(printable(f"{'':19} asks for {', '.join(each['asks']) or 'nothing'}")[:80])
    return 0


@app.command()
@command
def preview(
    identifier: Id,
    action: Action,
    arg: Arguments = [],  # noqa: B006 - typer copies it
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show what an action would hit, and the hash by which it is done."""
    seen = _ask(data_dir, zone, "POST", f"/{identifier}/preview", {"action": action, "arguments": _arguments(arg)})
    if json_:
        print(json.dumps(seen, indent=2))
        return 0
    print(printable(f"{seen['title']}: {seen['operation']} on {seen['target']}"))
    for line in seen["hits"]:
        print(printable(f"  {line}")[:80])
    print(printable(f"taken back {seen['back']}"))
    print(f"hash {seen['sha256']}")
    return 0


@app.command()
@command
def contain(
    identifier: Id,
    action: Action,
    why: Annotated[str, typer.Option("--why", help="Why.")],
    hash_: Annotated[str, typer.Option("--hash", help="sha256 as `preview` tells it: that you read it.")],
    arg: Arguments = [],  # noqa: B006 - typer copies it
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Do an action, as previewed. Another person reviews it within a day."""
    body = {"action": action, "arguments": _arguments(arg), "why": why, "sha256": hash_}
    done = _ask(data_dir, zone, "POST", f"/{identifier}/contain", body)
    if json_:
        print(json.dumps(done, indent=2))
        return 0
    override = done["override"]
    print(printable(f"{done['incident']['name']} {done['incident']['state']}: {done['preview']['title']}"))
    print(printable(f"override {override['id']}, to be reviewed until {override['review_due']}"))
    return 0


@app.command()
@command
def contained(
    identifier: Id,
    how: Annotated[str, typer.Option("--how", help="How it was contained.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Say how it was contained by something that is not done here."""
    return _told(_ask(data_dir, zone, "POST", f"/{identifier}/contained", {"how": how}), json_)


@app.command()
@command
def preserve(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Have its evidence preserved as one signed pack, and wait until it is. Exits 1 when it is not in ten minutes."""
    import time

    began = time.monotonic()
    while True:
        found = _ask(data_dir, zone, "POST", f"/{identifier}/preserve", {})
        progress = found.pop("progress", None)
        _bar(progress)
        if found["preserved_at"]:
            return _told(found, json_)
        if time.monotonic() - began > 600:
            raise CommandFailed(FAILED, f"evidence pack {found['pack']} is not built yet; ask again")
        time.sleep(1)


@app.command()
@command
def judge(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Measure whether it is over. Exits 0 when every condition is PASS, 3 without data."""
    return _judged(_ask(data_dir, zone, "POST", f"/{identifier}/judge", {}), json_)


@app.command()
@command
def recover(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """It is over, if every condition is measured PASS; refused otherwise, and before its evidence is preserved."""
    return _judged(_ask(data_dir, zone, "POST", f"/{identifier}/recover", {}), json_)


@app.command()
@command
def review(
    identifier: Id,
    file: Annotated[Path, typer.Option("--file", help="JSON: summary, cause, actions (title, owner, due).")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Say what happened, why, and what is to be done."""
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandFailed(USAGE, f"{file}: {error}") from None
    return _told(_ask(data_dir, zone, "POST", f"/{identifier}/review", body), json_)


@app.command("action-done")
@command
def action_done(identifier: Id, number: int, zone: Zone = "default", data_dir: DataDir = None) -> int:
    """Say that an action of the review is done; somebody else verifies it."""
    return _actions(_ask(data_dir, zone, "POST", f"/{identifier}/actions/{number}/done", {}))


@app.command("action-verify")
@command
def action_verify(
    identifier: Id,
    number: int,
    record: Annotated[str, typer.Option("--record", help="The evidence record that shows it.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
) -> int:
    """Verify what somebody else did."""
    return _actions(_ask(data_dir, zone, "POST", f"/{identifier}/actions/{number}/verify", {"record": record}))


@app.command()
@command
def close(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Close it: recovered, reviewed, every action verified."""
    return _told(_ask(data_dir, zone, "POST", f"/{identifier}/close", {}), json_)


@app.command()
@command
def metrics(
    days: Annotated[int, typer.Option("--days")] = 90, zone: Zone = "default", data_dir: DataDir = None,
    json_: Json = False,
) -> int:  # fmt: skip
    """Show how soon incidents were detected, acknowledged, contained and recovered."""

    async def work(house: House, context: Context) -> int:
        from bailiwick.handover.incidents.metrics import NAMES, figures

        async with house.base.database.begin() as tx:
            told = await figures(tx, zone, house.base.clock.now(), days)
        if json_:
            print(as_json(told, indent=2))
        else:
            for severity in ("P0", "P1", "P2", "P3"):
                each = told[severity]
                shown = [f"{name.removesuffix('_s')} {each[name]['median']} s" if each[name] else
                         f"{name.removesuffix('_s')} -" for name in NAMES]  # fmt: skip
                print(f"{severity} {each['opened']:4} opened; {', '.join(shown)}"[:80])
        return 0 if any(told[severity]["opened"] for severity in ("P0", "P1", "P2", "P3")) else NO_DATA

    return in_room(data_dir, zone, work)


@app.command()
@command
def drill(
    trigger: Annotated[str, typer.Argument(metavar="TRIGGER", help="The IncidentTrigger that is injected.")],
    within: Annotated[int, typer.Option("--within", help="Minutes until it must be contained.")] = 30,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Inject a trigger in a sandbox zone; `drills` shows when it was answered."""
    made = _ask(data_dir, zone, "POST", "/drills", {"trigger": trigger, "within_minutes": within})
    print(json.dumps(made, indent=2) if json_ else f"drill {made['id']} until {made['until']}")
    return 0


@app.command()
@command
def drills(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show drills and how soon each was answered. Exits 1 when the newest did not pass, 3 without one."""
    found = _ask(data_dir, zone, "GET", "/drills")["drills"]
    if json_:
        print(json.dumps(found, indent=2))
    else:
        for each in found:
            times = [f"{name} {each[f'{name}_s']} s" for name in ("opened", "acknowledged", "contained")
                     if each[f"{name}_s"] is not None]  # fmt: skip
            print(printable(f"{each['injected_at'][:16]} {each['trigger']:20.20} {each['outcome'] or 'goes on':8} "
                            f"{', '.join(times)}")[:80])  # fmt: skip
    if not found:
        return NO_DATA
    return 0 if found[0]["outcome"] in (None, "passed") else FAILED


# --- runbooks


@app.command()
@command
def runbooks(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show the runbooks and how lately each was executed."""
    found = _ask(data_dir, zone, "GET", "/api/v1/runbooks", whole=True)["runbooks"]
    if json_:
        print(json.dumps(found, indent=2))
        return 0
    for each in found:
        last = (each["last_executed"] or "never")[:10]
        print(printable(f"{each['name']:20.20} {each['runs']:3} runs {each['dry_runs']:3} dry, last {last}")[:80])
    return 0 if found else NO_DATA


@app.command()
@command
def runbook(
    name: Annotated[str, typer.Argument(metavar="RUNBOOK")],
    incident: Annotated[str, typer.Option("--incident", help="Of which incident.")] = "",
    dry: Annotated[bool, typer.Option("--dry", help="Only walk through it; nothing is done.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Begin to execute a runbook."""
    body = {"dry": dry, **({"incident": incident} if incident else {})}
    return _run(_ask(data_dir, zone, "POST", f"/api/v1/runbooks/{name}/runs", body, whole=True), json_)


@app.command()
@command
def step(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    number: Annotated[int, typer.Argument(metavar="STEP")],
    state: Annotated[str, typer.Option("--state", help="What you attest.")] = "",
    why: Annotated[str, typer.Option("--why")] = "",
    hash_: Annotated[str, typer.Option("--hash", help="Of an action: sha256 of its preview.")] = "",
    arg: Arguments = [],  # noqa: B006 - typer copies it
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Do the next step of a run. Exits 1 when it is not as it should be, so that it is to be done again."""
    body = {"statement": state, "why": why, "sha256": hash_, "arguments": _arguments(arg)}
    done = _ask(data_dir, zone, "POST", f"/api/v1/runbooks/runs/{run}/steps/{number}", body, whole=True)
    if json_:
        print(json.dumps(done, indent=2))
    else:
        print(printable(f"{done['verdict']}: {done['told']}"))
        _run(done["run"], False)
    return 0 if done["done"] else FAILED


# --- what they share


def _arguments(given: list[str]) -> dict[str, str]:
    said = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise CommandFailed(USAGE, f"--arg {each}: say NAME=VALUE")
        said[name] = value
    return said


def _ask(
    data_dir: Path | None, zone: str, method: str, path: str, body: dict[str, Any] | None = None, *, whole: bool = False
) -> Any:
    from bailiwick.cli.signed_in import ask_api

    return ask_api(data_dir, zone, method, path if whole else PATH + path, body)


def _told(found: dict[str, Any], json_: bool) -> int:
    if json_:
        print(json.dumps(found, indent=2))
    else:
        print(printable(f"{found['name']} {found['severity']} {found['state']}: {found['title']}"))
    return 0


def _judged(found: dict[str, Any], json_: bool) -> int:
    if json_:
        print(json.dumps(found, indent=2))
    else:
        print(printable(f"{found['incident']['name']} {found['incident']['state']}: {found['verdict']}"))
        for each in found["conditions"]:
            print(printable(f"{each['verdict']:8} {each['title']}"))
            for line in each["told"]:
                print(printable(f"         {line}")[:80])
    return {"PASS": 0, "NO_DATA": NO_DATA, "NOT_DUE": NO_DATA}.get(found["verdict"], FAILED)


def _actions(found: dict[str, Any]) -> int:
    for each in found["actions"]:
        print(printable(f"{each['number']:3} {each['state']:9} {each['owner']:20.20} {each['title']}")[:80])
    return 0


def _run(found: dict[str, Any], json_: bool) -> int:
    if json_:
        print(json.dumps(found, indent=2))
        return 0
    print(printable(f"run {found['id']} of {found['runbook']}{' (dry)' if found['dry'] else ''}"))
    for each in found["steps"]:
        result = each["result"]
        mark = result["verdict"] if result else "next" if each["number"] == found["next"] else ""
        print(printable(f"{each['number']:3} {mark:8} {each['phase']:9} {each['title']}")[:80])
    return 0


def _bar(progress: dict[str, Any] | None) -> None:
    """How far the pack is, where somebody looks."""
    import sys

    if progress is None or not sys.stderr.isatty():
        return
    of, done = progress["expected"], progress["done"]
    if progress["state"] == "built":
        print(f"\r[{'#' * 40}] built{' ' * 40}", file=sys.stderr, flush=True)
    elif of:
        told = f"[{'#' * (40 * done // of):<40}] {done:,} of {of:,} {progress['section']}"
        print(f"\r{told:<78}", end="", file=sys.stderr, flush=True)
