"""``bailiwick canary``: candidates judged on real traffic, and the loop of access. Acting takes a sign-in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json, printable
from bailiwick.cli.options import DataDir, small_app
from bailiwick.cli.room import in_room
from bailiwick.cli.screen import cut

if TYPE_CHECKING:
    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context

app = small_app()
PATH = "/api/v1/canaries"

Zone = Annotated[str, typer.Option("--zone", help="The zone whose canaries are meant.")]
Id = Annotated[str, typer.Argument(metavar="CANARY", help="Its id.")]
Digest = Annotated[str, typer.Option("--digest", metavar="SHA256", help="The release, sha256: and 64 hex digits.")]


@app.callback()
def _group() -> None:
    """Try a candidate on a part of the traffic. Acting takes $BAILIWICK_TOKEN."""


@app.command("list")
@command
def list_canaries(digest: Digest = "", zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show the canaries, newest first. Exits 3 when there is none."""

    async def work(house: House, context: Context) -> int:
        from bailiwick.cli.screen import table
        from bailiwick.handover.canary.records import list_canaries as read

        async with house.base.database.begin() as tx:
            found = await read(tx, zone, digest=digest)
        await _noted(house, context, "canary list", len(found))
        if json_:
            print(as_json([each.document() for each in found], indent=2))
        else:
            rows = [
                [each.id, each.server, each.state, f"{each.candidate_percent} %", each.reason or each.verdict or "-"]
                for each in found
            ]
            table(["canary", "server", "state", "share", "verdict"], rows)
        return 0 if found else NO_DATA

    return in_room(data_dir, zone, work)


@app.command()
@command
def show(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show one with its judgements. Exits 0 on PASS, 1 on FAIL, 3 while there is no verdict."""

    async def work(house: House, context: Context) -> int:
        from bailiwick.handover.canary.api import canary_document
        from bailiwick.handover.canary.records import find

        async with house.base.database.begin() as tx:
            found = await canary_document(tx, await find(tx, zone, identifier))
        await _noted(house, context, "canary show", 1)
        if json_:
            print(as_json(found, indent=2))
        else:
            _print_whole(found)
        return _exit(found["verdict"])

    return in_room(data_dir, zone, work)


@app.command()
@command
def start(
    server: Annotated[str, typer.Argument(metavar="SERVER", help="Whose traffic is split.")],
    digest: Annotated[str, typer.Option("--digest", metavar="SHA256", help="The release that is tried.")],
    candidate: Annotated[str, typer.Option("--candidate", metavar="URL", help="Where it answers.")],
    baseline: Annotated[
        str, typer.Option("--baseline", metavar="URL", help="Where a fresh instance of the version in service answers.")
    ],
    plan: Annotated[str, typer.Option("--plan", help="A CanaryPlan of the book.")] = "standard",
    by_hand: Annotated[bool, typer.Option("--by-hand", help="Wait for `promote` at every step.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Give a candidate the first part of a server's traffic."""
    body: dict[str, Any] = {
        "server": server, "digest": digest, "plan": plan, "candidate_url": candidate, "baseline_url": baseline,
    }  # fmt: skip
    return _told(_ask(data_dir, zone, "POST", "", {**body, **({"automatic": False} if by_hand else {})}), json_)


@app.command()
@command
def promote(identifier: Id, zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Let one whose step passed go on. Refused to everybody before."""
    return _told(_ask(data_dir, zone, "POST", f"/{identifier}/promote", {}), json_)


@app.command()
@command
def withdraw(
    identifier: Id,
    why: Annotated[str, typer.Option("--why", help="Why.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Take the candidate's traffic away at once."""
    return _told(_ask(data_dir, zone, "POST", f"/{identifier}/withdraw", {"why": why}), json_)


@app.command()
@command
def standing(
    digest: Annotated[str, typer.Argument(metavar="SHA256", help="The release, sha256: and 64 hex digits.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Say GO or NO-GO, as far as the canary of a release goes. Exits 0 on GO alone."""
    found = _ask(data_dir, zone, "GET", f"/standing?digest={_plain(digest)}")
    if json_:
        print(json.dumps(found, indent=2))
    else:
        print(f"{'GO' if found['go'] else 'NO-GO'}: {found['verdict']}" + (
            f", until {found['until'][:16]}Z" if found["go"] else ""
        ))  # fmt: skip
        for each in found["blockers"]:
            print(cut(f"  {each['verdict']:8} {each['name']}: {each['told']}"))
    return 0 if found["go"] else _exit(found["verdict"]) or FAILED


@app.command()
@command
def loop(
    digest: Digest = "",
    upstream: Annotated[
        str, typer.Option("--upstream", metavar="URL", help="Answers GET with 200, where loopback is not allowed.")
    ] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Walk the loop of access: asked for, decided, used, revoked, refused, recorded. Exits 1 on any other outcome.

    The verdict is about the active policy set, or about the release named.
    """
    body = {**({"digest": digest} if digest else {}), **({"upstream_url": upstream} if upstream else {})}
    found = _ask(data_dir, zone, "POST", "/loops", body)
    if json_:
        print(json.dumps(found, indent=2))
    else:
        for each in found["steps"]:
            mark = "ok" if each["holds"] else "NO"
            print(cut(f"{mark:3}{each['name']:15} {each['actual']}"))
            if not each["holds"]:
                print(cut(f"   {'':15} expected {each['expected']}"))
        print(cut(f"{found['verdict']} for {found['digest']}"))
    return _exit(found["verdict"])


def _print_whole(found: dict[str, Any]) -> None:
    print(cut(f"{found['server']}: {found['state']}, {_share(found)}"))
    print(printable(f"release  {found['digest']}"))
    print(cut(f"verdict  {found['verdict'] or 'none yet'} {found['reason']} {found['told']}"))
    points = ", ".join(f"{arm} {count}" for arm, count in found["points"].items())
    print(cut(f"points   {points} (of {found['points_needed']})"))
    for each in found["judgements"]:
        print(cut(f"{each['at'][11:19]} {each['percent']:3} % {each['verdict']:8} {each['reason']:13} {each['told']}"))
        for metric in each["metrics"]:
            print(cut(
                f"           {metric['name']:8} {metric['finding']:8} baseline {metric['baseline']:.4g},"
                f" candidate {metric['candidate']:.4g}, limit {metric['limit']:.4g}, A {metric['a']:.2f}"
            ))  # fmt: skip


def _share(found: dict[str, Any]) -> str:
    steps = " > ".join(map(str, found["steps"]))
    return f"candidate {found['candidate_percent']} %, baseline {found['baseline_percent']} % (steps {steps})"


def _told(found: dict[str, Any], json_: bool) -> int:
    if json_:
        print(json.dumps(found, indent=2))
    else:
        print(f"canary {found['id']}")
        print(cut(f"{found['server']}: {found['state']}, {_share(found)}"))
    return 0


def _exit(verdict: str) -> int:
    from bailiwick.kernel.verdicts import Verdict

    return Verdict(verdict or Verdict.NO_DATA).exit_code


def _plain(digest: str) -> str:
    if not digest.replace(":", "").isalnum():
        raise CommandFailed(USAGE, f"{digest!r} is no digest: sha256: and 64 hex digits")
    return digest


def _ask(data_dir: Path | None, zone: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    from bailiwick.cli.signed_in import ask_api

    return ask_api(data_dir, zone, method, PATH + path, body)


async def _noted(house: House, context: Context, what: str, returned: int) -> None:
    from bailiwick.evidence import codes
    from bailiwick.evidence.events import Subject

    async with house.base.database.begin() as tx:
        await house.base.recorder.record(
            tx, codes.CANARY_READ, "success", context, subject=Subject(id=context.zone, type="canary"), what=what,
            returned=returned,
        )  # fmt: skip
