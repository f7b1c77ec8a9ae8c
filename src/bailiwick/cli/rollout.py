"""``bailiwick rollout``: a release on its way. Looking needs the machine; acting takes a sign-in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.room import in_room
from bailiwick.cli.screen import cut

if TYPE_CHECKING:
    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context

app = small_app()
PATH = "/api/v1/rollouts"

Zone = Annotated[str, typer.Option("--zone", help="The zone whose rollouts are meant.")]
Id = Annotated[str, typer.Argument(metavar="ROLLOUT", help="RO-7, or its id.")]
Why = Annotated[str, typer.Option("--why", help="Why.")]

_MARKS = {"passed": "done", "failed": "FAILED", "lost": "unknown", "begun": "begun", "acted": "to see", "": ""}
_FAILED_STATES = ("rolled_back", "abandoned", "no_go", "stuck")


@app.callback()
def _group() -> None:
    """Plan a release, sign it, start it, decide, take it back. Acting takes $BAILIWICK_TOKEN."""


@app.command("list")
@command
def list_rollouts(
    every: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    environment: Annotated[str, typer.Option("--env", help="Of one environment.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show those that go on. Exits 3 when there is none."""

    async def work(house: House, context: Context) -> int:
        from bailiwick.handover.rollouts.records import newest

        async with house.base.database.begin() as tx:
            found = await newest(tx, zone, environment=environment, going=not every)
        if json_:
            print(as_json([each.document() for each in found], indent=2))
        else:
            for each in found:
                line = f"{each.name:6} {each.state:12} {each.environment:12.12} {each.digest[7:19]} {each.plan_name}"
                print(cut(f"{line}: {each.told}" if each.told else line))
        return 0 if found else NO_DATA

    return in_room(data_dir, zone, work)


@app.command()
@command
def plans(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show the plans of the book, with the variables that each has."""

    async def work(house: House, context: Context) -> int:
        from bailiwick.handover.rollouts.plans import PLAN

        async with house.base.database.begin() as tx:
            found = (await house.books.current(tx, zone)).of(PLAN)
        if json_:
            print(as_json({name: plan.model_dump(mode="json") for name, plan in found.items()}, indent=2))
        else:
            for name, plan in found.items():
                print(cut(f"{name}: {plan.title}, {len(plan.steps())} steps"))
                asked = [f"{key}={value or '?'}" for key, value in plan.variables.items()]
                print(cut(f"  signed by {', '.join(plan.signatures)}"))
                print(cut(f"  {', '.join(asked) or 'no variables'}"))
        return 0 if found else NO_DATA

    return in_room(data_dir, zone, work)


@app.command()
@command
def show(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show one step by step. Exits 0 when it is done, 1 when it was stopped or taken back, 3 while it goes on."""

    async def work(house: House, context: Context) -> int:
        from bailiwick.handover.rollouts import records
        from bailiwick.handover.rollouts.view import shown

        async with house.base.database.begin() as tx:
            rollout = await records.find(tx, zone, identifier)
            found = shown(
                rollout,
                await records.attempts_of(tx, rollout.id),
                await records.decisions_of(tx, rollout.id),
                await records.signatures_of(tx, rollout.id, rollout.round),
                await records.newest_answer(tx, rollout.id),
            )
        if json_:
            print(as_json(found, indent=2))
        else:
            _show(found)
        return 0 if rollout.state == "done" else FAILED if rollout.state in _FAILED_STATES else NO_DATA

    return in_room(data_dir, zone, work)


@app.command()
@command
def plan(
    name: Annotated[str, typer.Argument(metavar="PLAN", help="A plan, as `plans` lists.")],
    digest: Annotated[str, typer.Option("--digest", help="The release: sha256: and 64 hex digits.")],
    environment: Annotated[str, typer.Option("--env", help="Where it goes.")] = "production",
    var: Annotated[list[str], typer.Option("--var", metavar="NAME=VALUE", help="A variable of the plan.")] = [],  # noqa: B006 - typer copies it
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Bind a release to a plan; what comes before the Go/No-Go begins."""
    if bad := [each for each in var if "=" not in each]:
        raise CommandFailed(USAGE, f"{bad[0]!r} is no NAME=VALUE")
    variables = dict(each.split("=", 1) for each in var)
    body = {"plan": name, "digest": digest, "environment": environment, "variables": variables}
    return _told(_ask(data_dir, zone, "", body), json_)


@app.command()
@command
def check(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Compute Go or No-Go without signing. Exits 0 on GO, 1 on NO-GO."""
    return _answered(_ask(data_dir, zone, f"/{identifier}/check"), json_)


@app.command()
@command
def go(
    identifier: Id,
    role: Annotated[str, typer.Option("--role", help="The role you sign in, where you have several.")] = "",
    why: Why = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Sign GO. Exits 0 when the answer is GO, 1 while something is missing."""
    body = {"why": why, **({"role": role} if role else {})}
    return _answered(_ask(data_dir, zone, f"/{identifier}/go", body), json_)


@app.command("no-go")
@command
def no_go(
    identifier: Id,
    why: Annotated[str, typer.Option("--why", help="Why.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Say NO-GO: it ends; once it was started it is taken back."""
    return _told(_ask(data_dir, zone, f"/{identifier}/no-go", {"why": why}), json_)


@app.command()
@command
def start(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Begin, by a GO that still holds. Exits 1 when it is NO-GO by now."""
    return _told(_ask(data_dir, zone, f"/{identifier}/start"), json_)


@app.command()
@command
def confirm(
    identifier: Id,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step that waits for you.")],
    state: Annotated[str, typer.Option("--state", help="What you state.")],
    failed: Annotated[bool, typer.Option("--failed", help="It cannot be done, or is not well.")] = False,
    record: Annotated[str, typer.Option("--record", help="Of a preflight: the evidence that you read.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """State that a step is done."""
    body = {"statement": state, "failed": failed, "record": record}
    return _told(_ask(data_dir, zone, f"/{identifier}/steps/{step}/confirm", body), json_)


@app.command()
@command
def decide(
    identifier: Id,
    decision: Annotated[str, typer.Argument(metavar="DECISION", help="continue, retry or roll-back.")],
    why: Annotated[str, typer.Option("--why", help="Why.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Decide at a gate: on, the failed step again, or back."""
    if decision not in ("continue", "retry", "roll-back"):
        raise CommandFailed(USAGE, "a decision is continue, retry or roll-back")
    body = {"decision": decision, "why": why}
    return _told(_ask(data_dir, zone, f"/{identifier}/decide", body), json_)


@app.command()
@command
def rollback(
    identifier: Id,
    why: Annotated[str, typer.Option("--why", help="Why.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Take it back from now on."""
    return _told(_ask(data_dir, zone, f"/{identifier}/rollback", {"why": why}), json_)


@app.command()
@command
def abandon(
    identifier: Id,
    why: Annotated[str, typer.Option("--why", help="Why.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """End it before its start, or where taking it back is stuck."""
    return _told(_ask(data_dir, zone, f"/{identifier}/abandon", {"why": why}), json_)


# --- what they share


def _show(found: dict[str, Any]) -> None:
    """One rollout within 80 columns."""
    print(cut(f"{found['name']} {found['state'].upper()} {found['environment']} {found['digest'][:26]}"))
    print(cut(f"{found['title']} ({found['plan']} {found['plan_version']}), planned by {found['planned_by']}"))
    if found["told"]:
        print(cut(found["told"]))
    if found["decision_due"]:
        print(cut(f"decide by {found['decision_due']:%Y-%m-%d %H:%M:%S} UTC, or it is rolled back"))
    signed = [f"{each['by']} {each['says']} as {each['role'] or '-'}" for each in found["signatures"]]
    print(cut(f"signed: {'; '.join(signed) or 'nobody'}"))
    for phase in found["phases"]:
        print(cut(f"{phase['title']}{' [' + phase['window'] + ']' if phase['window'] else ''}"))
        for step in phase["steps"]:
            _step(step)
        if phase["gate"]:
            mark = "passed" if phase["gate"]["passed_at"] else ""
            print(cut(f"  {mark:8} <{phase['gate']['name']}> {phase['gate']['title']}"))
    if found["rollback_s"] is not None:
        most = found["rollback_within_s"]
        print(cut(f"rolled back in {found['rollback_s']} s (expected {found['rollback_expected_s']}, at most {most})"))


def _step(step: dict[str, Any]) -> None:
    back = " (taken back)" if step["back"] == "passed" else ""
    took = f" {step['took_s']} s" if step["took_s"] is not None else ""
    by = f" by {step['by']}" if step["by"] else ""
    print(cut(f"  {_MARKS.get(step['state'], step['state']):8} {step['name']}: {step['title']}{took}{by}{back}"))


def _answered(found: dict[str, Any], json_: bool) -> int:
    if json_:
        print(json.dumps(found, indent=2))
    else:
        print(cut(f"{found['answer']} for {found['digest'][:26]} in {found['environment']}"))
        for line in found["lines"]:
            mark = "ok" if line["passes"] else "NO"
            print(cut(f"  {mark:3}{line['verdict']:8} {line['name']}: {line['told']}"))
        print(f"answer {found['sha256']}")
    return 0 if found["answer"] == "GO" else FAILED


def _told(found: dict[str, Any], json_: bool) -> int:
    if json_:
        print(json.dumps(found, indent=2))
    else:
        told = f": {found['told']}" if found["told"] else ""
        print(cut(f"{found['name']} {found['state']} {found['environment']} {found['digest'][:26]}{told}"))
    return 0


def _ask(data_dir: Path | None, zone: str, path: str, body: dict[str, Any] | None = None) -> Any:
    from bailiwick.cli.signed_in import ask_api

    return ask_api(data_dir, zone, "POST", PATH + path, body if body is not None else {})
