"""``bailiwick alerts``: what is wrong, who looks at it, and how well alerting goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json
from bailiwick.cli.options import DataDir, small_app

if TYPE_CHECKING:
    from datetime import timedelta

    from bailiwick.app.assurance.alerts import Alerting
    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone the alerts are in.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The alert's id.")]
NoteText = Annotated[str, typer.Option("--note", help="What there is to say.")]


@app.callback()
def alerts() -> None:
    """What is wrong, who looks at it, and how well alerting goes."""


@app.command("list")
@command
def list_alerts(
    all_: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    severity: Annotated[str, typer.Option("--severity", help="P0, P1, P2 or P3.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Show what is open. Exits 0 when nothing is, 1 when something is."""
    from bailiwick.assurance.alerting.alerts import OPEN
    from bailiwick.assurance.alerting.alerts import list_alerts as listed
    from bailiwick.cli.alerting import with_alerting
    from bailiwick.cli.screen import table

    if severity not in ("", "P0", "P1", "P2", "P3"):
        raise CommandFailed(USAGE, "--severity is P0, P1, P2 or P3")

    async def use(house: House, built: Alerting, context: Context) -> list[dict[str, Any]]:
        async with house.base.database.begin() as tx:
            found = await listed(tx, zone, states=() if all_ else OPEN, severity=severity, limit=500)
        return [each.document() for each in found]

    found = with_alerting(data_dir, zone, use)
    if json_:
        print(as_json(found, indent=2))
    elif found:
        rows = ([f"{e['severity']} {e['state']}", e["fired_at"] or e["began_at"], e["summary"], e["id"]] for e in found)
        table(["alert", "since", "what", "id"], rows)
    else:
        print("nothing is open")
    return 1 if any(each["state"] in OPEN for each in found) else 0


@app.command()
@command
def show(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show one alert with its timeline."""
    from bailiwick.assurance.alerting.api import shown
    from bailiwick.cli.alerting import with_alerting
    from bailiwick.cli.screen import table, told

    async def use(house: House, built: Alerting, context: Context) -> dict[str, Any]:
        async with house.base.database.begin() as tx:
            return await shown(tx, zone, identifier)

    found = with_alerting(data_dir, zone, use)
    if json_:
        print(as_json(found, indent=2))
        return 0
    print(f"{found['severity']} {found['state']}: {told(found['summary'])}")
    for name in ("rule", "owner", "owner_person", "runbook", "missing", "closed_as"):
        if found[name]:
            print(f"{name:14} {told(found[name])}")
    for name, value in sorted(found["labels"].items()):
        print(f"{name:14} {told(value)}")
    table(["at", "what", "by", "told"], ([e["at"], e["what"], e["by"], e["told"]] for e in found["timeline"]))
    steps = [[e["due_at"], e["level"], e["state"], e["person"]] for e in found["escalation"]]
    if steps:
        table(["due", "level", "state", "person"], steps)
    return 0


@app.command()
@command
def ack(
    identifier: Id, note: NoteText = "", zone: Zone = "default", data_dir: DataDir = None, json_: Json = False
) -> int:
    """Say that you look at an alert; it escalates no further."""
    from bailiwick.cli.alerting import with_alerting

    async def use(house: House, built: Alerting, context: Context) -> dict[str, Any]:
        alert = await built.desk.acknowledge(context, identifier, by=context.actor.user, note=note)
        return alert.document()

    found = with_alerting(data_dir, zone, use)
    print(as_json(found, indent=2) if json_ else f"{identifier} is acknowledged by {found['acknowledged_by']}")
    return 0


@app.command()
@command
def close(
    identifier: Id,
    closed_as: Annotated[str, typer.Option("--as", help="true, false or duplicate.")],
    duplicate_of: Annotated[str, typer.Option("--of", metavar="ID", help="The alert that a duplicate repeats.")] = "",
    note: NoteText = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Say what an alert was: true, false, or a duplicate."""
    from bailiwick.cli.alerting import with_alerting

    if closed_as not in ("true", "false", "duplicate"):
        raise CommandFailed(USAGE, "--as is true, false or duplicate")

    async def use(house: House, built: Alerting, context: Context) -> dict[str, Any]:
        alert = await built.desk.close(
            context,
            identifier,
            closed_as,  # type: ignore[arg-type]
            by=context.actor.user,
            note=note,
            duplicate_of=duplicate_of,
        )
        return alert.document()

    found = with_alerting(data_dir, zone, use)
    print(as_json(found, indent=2) if json_ else f"{identifier} is closed as {found['closed_as']}")
    return 0


@app.command("raise")
@command
def raise_alert(
    summary: Annotated[str, typer.Argument(metavar="SUMMARY", help="What is wrong, in one line.")],
    description: Annotated[str, typer.Option("--description", help="What is known, and what it does to whom.")],
    owner: Annotated[str, typer.Option("--owner", help="The activity whose accountable person answers for it.")],
    service: Annotated[str, typer.Option("--service", help="What it is about.")],
    team: Annotated[str, typer.Option("--team", help="Whose it is.")],
    runbook: Annotated[str, typer.Option("--runbook", help="Where it is written what to do.")],
    severity: Annotated[str, typer.Option("--severity", help="P0, P1, P2 or P3.")] = "P1",
    key: Annotated[str, typer.Option("--key", help="What makes two of them the same.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Page somebody by hand."""
    from pydantic import ValidationError

    from bailiwick.assurance.alerting.api import Page
    from bailiwick.cli.alerting import with_alerting

    try:
        page = Page.model_validate(
            {
                "summary": summary,
                "description": description,
                "severity": severity,
                "owner": owner,
                "service": service,
                "team": team,
                "runbook": runbook,
                "key": key or None,
            }
        )
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise CommandFailed(USAGE, f"--{'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    async def use(house: House, built: Alerting, context: Context) -> dict[str, Any]:
        raised = page.raised(house.base.ids())
        return (await built.desk.raise_by_hand(context, raised, by=context.actor.user)).document()

    found = with_alerting(data_dir, zone, use)
    print(as_json(found, indent=2) if json_ else f"{found['severity']} {found['state']}: {found['id']}")
    return 0


@app.command()
@command
def silence(
    matchers: Annotated[list[str] | None, typer.Argument(metavar="MATCHER...", help="As service=payments.")] = None,
    lasts: Annotated[str, typer.Option("--for", help="How long: 30m, 4h, 2d. At most seven days.")] = "",
    reason: Annotated[str, typer.Option("--reason", help="Why.")] = "",
    end: Annotated[str, typer.Option("--end", metavar="ID", help="End this silence instead.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Have some alerts told to nobody for a while, or end that."""
    from bailiwick.cli.alerting import with_alerting

    if not end and not (matchers and lasts and reason):
        raise CommandFailed(USAGE, "a silence has a matcher, --for and --reason")

    async def use(house: House, built: Alerting, context: Context) -> dict[str, Any]:
        if end:
            return (await built.silences.end(context, end, by=context.actor.user)).document()
        until = house.base.clock.now() + _span(lasts)
        made = await built.silences.make(context, matchers or [], ends_at=until, reason=reason, by=context.actor.user)
        return made.document()

    found = with_alerting(data_dir, zone, use)
    if json_:
        print(as_json(found, indent=2))
    else:
        print(
            f"{found['id']}: {', '.join(found['matchers'])} until {found['ended_at'] or found['ends_at']:%m-%d %H:%M}"
        )
    return 0


@app.command()
@command
def figures(
    days: Annotated[int, typer.Option("--days", min=1, max=90, help="How far to look back.")] = 7,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Precision, noise, time to acknowledge and to resolve, and what was missed. Exits by the verdict."""
    from datetime import timedelta

    from bailiwick.cli.alerting import with_alerting
    from bailiwick.cli.screen import table

    async def use(house: House, built: Alerting, context: Context) -> Any:
        async with house.base.database.begin() as tx:
            return await built.figures.of(tx, zone, window=timedelta(days=days))

    found = with_alerting(data_dir, zone, use)
    if json_:
        print(as_json(found.document(), indent=2))
    else:
        shown = found.document()
        names = ("alerts", "true", "false", "duplicate", "unjudged", "precision", "noise", "false_share", "mtta_s",
                 "mttr_s", "late", "happenings", "missed")  # fmt: skip
        table(["figure", f"last {days} days"], ([name, shown[name] if shown[name] != [] else 0] for name in names))
        print("\n".join([str(found.verdict), *(f"  {reason}" for reason in found.reasons)]))
    return int(found.verdict.exit_code)


@app.command()
@command
def drill(
    fault: Annotated[str, typer.Argument(metavar="[FAULT]", help="stop-job or kill-part; none: show drills.")] = "",
    target: Annotated[str, typer.Argument(metavar="[TARGET]", help="What is broken: a job, a part.")] = "",
    rule: Annotated[str, typer.Option("--rule", help="The rule whose alert has to come.")] = "",
    lasts: Annotated[str, typer.Option("--for", help="How long: 10m, 1h. At most four hours.")] = "15m",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Break something for real, or show what came of it. Exits 0 when every drill shown was acknowledged."""
    from bailiwick.cli.alerting import with_alerting
    from bailiwick.cli.screen import table

    if fault and not (target and rule):
        raise CommandFailed(USAGE, "a drill has a fault, a target and --rule")

    async def use(house: House, built: Alerting, context: Context) -> list[dict[str, Any]]:
        if fault:
            by = context.actor.user
            return [(await built.drills.start(context, fault, target, rule, lasts=_span(lasts), by=by)).document()]
        async with house.base.database.begin() as tx:
            return [each.document() for each in await built.drills.list(tx, zone)]

    found = with_alerting(data_dir, zone, use)
    if json_:
        print(as_json(found, indent=2))
    else:
        rows = (
            [e["fault"], e["target"], e["state"], e["injected_at"], *(e["took_s"].get(s) for s in
             ("fired", "delivered", "acknowledged"))] for e in found
        )  # fmt: skip
        table(["fault", "target", "state", "injected", "fired s", "delivered s", "ack s"], rows)
    if fault:
        return 0
    return NO_DATA if not found else 0 if all(each["state"] == "acknowledged" for each in found) else 1


def _span(text: str) -> timedelta:
    """The length that ``30m``, ``4h`` or ``2d`` says."""
    import re
    from datetime import timedelta

    found = re.fullmatch(r"([1-9]\d{0,4})([smhd])", text)
    if found is None:
        raise CommandFailed(USAGE, f"{text!r} is no length such as 30m, 4h or 2d")
    return timedelta(seconds=int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]])
