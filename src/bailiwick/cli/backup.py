"""``bailiwick backup``, ``restore`` and ``drill``: on the machine of an installation, by its own settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, actor_of_command, as_json
from bailiwick.cli.options import DataDir, existing_layout, layout_of, small_app
from bailiwick.cli.room import in_room
from bailiwick.cli.screen import moment, table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context

app = small_app()
restore_app = small_app()
drill_app = small_app()

_ZONE = "default"

Place = Annotated[
    str | None, typer.Option("--place", metavar="URL", help="Where backups lie. Default: $BAILIWICK_BACKUP_URL.")
]


@app.callback()
def _group() -> None:
    """Back the database up: make, list, verify and expire backups; make an escrow key."""


@app.command()
@command
def run(place: Place = None, data_dir: DataDir = None, json_: Json = False) -> int:
    """Make a backup now. Exits 1 when it could not be made whole, or one is being made already."""

    async def do(house: House, context: Context) -> int:
        from bailiwick.app.handover.backups import backups_of

        manifest = await backups_of(house, place).take(context, context.actor.user)
        if json_:
            import msgspec

            print(msgspec.json.encode(manifest).decode())
            return 0
        print(f"backup {manifest.id}: {manifest.bytes:,} bytes in {len(manifest.parts)} parts")
        print(f"  log      {manifest.start} to {manifest.stop} on timeline {manifest.timeline}")
        for head in manifest.heads:
            print(f"  ledger   {head.zone}: a head over {head.size:,} events is covered")
        if manifest.escrow is not None:
            print(f"  keys     {', '.join(manifest.keks)}, sealed to the escrow key")
        else:
            print(f"  keys     NOT in it: keep the file with {', '.join(manifest.keks)} elsewhere")
        return 0

    return _in_room(data_dir, do)


@app.command("list")
@command
def list_(place: Place = None, data_dir: DataDir = None, json_: Json = False) -> int:
    """Every backup that was begun, newest first. Exits 3 without a complete one."""

    async def do(house: House, context: Context) -> int:
        from bailiwick.app.handover.backups import backups_of

        listed = await backups_of(house, place).listed()
        await _read(house, context, "backup list", len(listed))
        if json_:
            print(as_json(listed, indent=2))
        else:
            rows = [[each["id"], each["state"], each["bytes"], each["stop_lsn"], each["error"]] for each in listed]
            table(["backup", "state", "bytes", "to", "error"], rows)
        return 0 if any(each["state"] == "complete" for each in listed) else NO_DATA

    return _in_room(data_dir, do)


@app.command()
@command
def verify(
    backup: Annotated[str, typer.Argument(metavar="[BACKUP]", help="Default: the newest complete one.")] = "",
    place: Place = None,
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Read every object of a backup and compare its SHA-256. Exits 1 when one is not what it was, 3 without one."""

    async def do(house: House, context: Context) -> int:
        from bailiwick.app.handover.backups import backups_of
        from bailiwick.handover.backups.service import complete_ids

        service = backups_of(house, place)
        known = await complete_ids(service.store)
        if not known:
            raise CommandFailed(NO_DATA, f"there is no complete backup in {service.store.place}")
        manifest = await service.verify(context, backup or known[-1])
        if json_:
            print(as_json({"backup": manifest.id, "objects": len(manifest.objects), "verdict": "PASS"}))
        else:
            print(f"{manifest.id}: all {len(manifest.objects)} objects are what its manifest says")
        return 0

    return _in_room(data_dir, do)


@app.command()
@command
def expire(place: Place = None, data_dir: DataDir = None, json_: Json = False) -> int:
    """Remove backups whose time is up by the plan in force, and the log that none needs any more."""

    async def do(house: House, context: Context) -> int:
        from bailiwick.app.handover.backups import backups_of, plan_of

        plan = await plan_of(house)
        done = await backups_of(house, place).expire(context, plan.keep.keep)
        if json_:
            print(as_json(done))
        else:
            print(f"{len(done['expired'])} expired, {done['kept']} kept, {done['log_files_removed']} files of the log")
        return 0

    return _in_room(data_dir, do)


@app.command()
@command
def redis(place: Place = None, data_dir: DataDir = None, json_: Json = False) -> int:
    """Put a snapshot of Redis with the backups. Exits 3 where no Redis is used."""

    async def do(house: House, context: Context) -> int:
        from bailiwick.app.handover.backups import snapshot_redis

        name = await snapshot_redis(house, place)
        print(as_json({"snapshot": name}) if json_ else f"stored as {name}" if name else "no Redis is used")
        return 0 if name else NO_DATA

    return _in_room(data_dir, do)


@app.command("escrow-key")
@command
def escrow_key(
    to: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key is written; must not exist.")],
    data_dir: DataDir = None,
) -> int:
    """Make the pair of keys for escrow: the private one into a file to be kept elsewhere, the public one printed."""
    import os

    from bailiwick.cli.recorded import by_operator, leave
    from bailiwick.evidence import codes
    from bailiwick.evidence.events import Subject
    from bailiwick.handover.backups.escrow import make_pair

    layout = existing_layout(data_dir)
    private, public = make_pair()
    recorder, context = by_operator(layout)
    leave(layout, recorder.make(codes.ESCROW_KEY_MADE, "success", context, subject=Subject(id=public, type="key")))
    try:
        fd = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise CommandFailed(USAGE, f"{to}: {error.strerror}") from None
    with os.fdopen(fd, "w") as stream:
        stream.write(f"{private}\n")
    print(f"BAILIWICK_BACKUP_ESCROW_KEY={public}")
    print(f"{to} opens every backup made with it: keep it off this machine and away from the backups")
    return 0


@restore_app.command()
@command
def restore(
    place: Place = None,
    backup: Annotated[str | None, typer.Option("--backup", metavar="ID", help="Default: the newest.")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="TIME", help="The moment; default: the end.")] = None,
    kek: Annotated[Path | None, typer.Option("--kek", metavar="FILE", help="File of key-encryption keys.")] = None,
    escrow: Annotated[Path | None, typer.Option("--escrow-key", metavar="FILE", help="Private escrow key.")] = None,
    heads: Annotated[
        Path | None, typer.Option("--heads", metavar="DIR", help="Published heads newer than the store's.")
    ] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Although events under a published head will be missing.")
    ] = False,
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Restore into a fresh data directory. Exits 1 when refused or failed (nothing is put in place), 3 without one."""
    import asyncio
    import os
    import sys

    from bailiwick.app.handover.backups import store_of
    from bailiwick.handover.backups.restoring import Keys, Restoring, Wanted
    from bailiwick.kernel.clock import SystemClock
    from bailiwick.kernel.errors import BailiwickError

    url = place or os.environ.get("BAILIWICK_BACKUP_URL")
    if url is None:
        raise CommandFailed(USAGE, "say where the backups lie: --place or BAILIWICK_BACKUP_URL")
    if kek is None and escrow is None:
        raise CommandFailed(USAGE, "say what opens the backup: --kek or --escrow-key")
    settings = _store_settings()
    try:
        keys = Keys(kek, escrow.read_text() if escrow is not None else None)
    except OSError as error:
        raise CommandFailed(USAGE, f"{escrow}: {error.strerror}") from None
    wanted = Wanted(backup, moment(to, option="--to") if to else None, heads, accept_loss, actor_of_command())
    target = layout_of(data_dir).data_dir

    def say(line: str) -> None:
        print(f"  {line}", file=sys.stderr if json_ else sys.stdout, flush=True)

    restoring = Restoring(store_of(settings, url), target, keys, SystemClock(), say=say)
    try:
        done = asyncio.run(restoring.run(wanted))
    except BailiwickError as error:
        code = NO_DATA if error.status == 404 else FAILED
        raise CommandFailed(code, f"{error.reason}: {error.detail}") from None
    if json_:
        print(as_json(done.document(), indent=2))
        return 0
    print(f"restored {done.manifest.id} into {target} in {done.total_s:.1f} s")
    print(f"  log      {done.segments} segments replayed, to {done.ended}; last commit {done.last_commit or 'unknown'}")
    print(f"  sessions {done.sessions_ended} ended: what was revoked after that moment is not known any more")
    for each in done.zones:
        lost = f"; LOST, a head over {each.published:,} was published: no head is signed" if each.lost else ""
        print(f"  ledger   {each.zone}: {each.size:,} events{lost}")
    print("  look     at whom was disabled and which keys were revoked since, before it is started")
    return 0


@drill_app.callback()
def _drills() -> None:
    """Prove that what must work in a disaster does."""


@drill_app.command("restore")
@command
def drill_restore(
    place: Place = None,
    escrow: Annotated[
        Path | None, typer.Option("--escrow-key", metavar="FILE", help="Prove the escrow: open the backup by it alone.")
    ] = None,
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Restore into a scratch directory, verify, sign in, measure. Exits 0 on PASS, 1 otherwise."""
    try:
        private = escrow.read_text().strip() if escrow is not None else None
    except (OSError, UnicodeDecodeError):
        raise CommandFailed(USAGE, f"{escrow} cannot be read as an escrow key") from None

    async def do(house: House, context: Context) -> int:
        from bailiwick.app.handover.backups import drills_of, plan_of, targets_of

        plan = await plan_of(house)
        drills = drills_of(house, place)
        held = await drills.restore(context, targets_of(plan), context.actor.user, escrow=private)
        _show(held.document(), json_)
        return 0 if held.verdict == "PASS" else FAILED

    return _in_room(data_dir, do)


@drill_app.command("failover")
@command
def drill_failover(
    part: Annotated[str, typer.Argument(help="What is killed: postgres, w1, work, guard, gateway.")] = "postgres",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Kill a part of this running installation and measure until all is served again. Requests fail meanwhile."""

    async def do(house: House, context: Context) -> int:
        import asyncio

        from bailiwick.app.handover.backups import drills_of, plan_of, targets_of
        from bailiwick.cli.asking import ask
        from bailiwick.cli.status import readiness
        from bailiwick.handover.backups.drills import judge
        from bailiwick.handover.backups.failover import Seen
        from bailiwick.handover.backups.failover import drill_failover as hold

        base = house.base

        def see() -> Seen:
            found = ask(base.layout, "status")
            known = {each["name"]: each for each in found["parts"]}
            if part not in known:
                raise CommandFailed(USAGE, f"{part} is none of {', '.join(known)}")
            serves = bool(readiness(base.layout, found)["ready"])
            return Seen(known[part]["pid"], known[part]["state"] == "ready", serves)

        async def look() -> Seen:
            return await asyncio.to_thread(see)

        targets = targets_of(await plan_of(house))
        held = await hold(part, look, base.database, base.clock, base.ids, context.actor.user)
        held.verdict = judge(held, targets)
        held.finished_at = base.clock.now()
        await drills_of(house, "file:///dev/null").keep(context, held, targets)
        _show(held.document(), json_)
        return 0 if held.verdict == "PASS" else FAILED

    return _in_room(data_dir, do)


@drill_app.command("list")
@command
def drill_list(data_dir: DataDir = None, json_: Json = False) -> int:
    """The drills that were held, newest first. Exits 3 without any."""

    async def do(house: House, context: Context) -> int:
        from bailiwick.handover.backups.drills import listed

        found = await listed(house.base.database)
        await _read(house, context, "drill list", len(found))
        if json_:
            print(as_json(found, indent=2))
        else:
            rows = [
                [e["finished_at"][:16], e["kind"], e["verdict"], e["rto_s"], e["rpo_s"], e["held_by"]] for e in found
            ]
            table(["held", "drill", "verdict", "RTO s", "RPO s", "by"], rows)
        return 0 if found else NO_DATA

    return _in_room(data_dir, do)


def _show(drill: dict[str, Any], json_: bool) -> None:
    if json_:
        print(as_json(drill, indent=2))
        return
    print(f"{drill['kind']} drill {drill['id']}: {drill['verdict']}")
    table(["check", "verdict", "what"], [[e["name"], e["verdict"], e["told"]] for e in drill["checks"]])
    print(f"evidence record {drill['record']}")


def _store_settings() -> Any:
    """The settings that name a store, where there is no installation yet."""
    from pydantic import ValidationError

    from bailiwick.kernel.settings import Settings

    try:
        return Settings(data_dir=Path("/nonexistent"))  # type: ignore[call-arg]  # the rest is from the environment
    except ValidationError as error:
        raise CommandFailed(USAGE, "; ".join(str(problem["msg"]) for problem in error.errors())) from None


def _in_room(data_dir: Path | None, do: Callable[[House, Context], Awaitable[int]]) -> int:
    """As the owner of the database, who may replicate it."""
    from bailiwick.cli.db import owner_url

    return in_room(data_dir, _ZONE, do, url=owner_url(data_dir))


async def _read(house: House, context: Context, what: str, returned: int) -> None:
    from bailiwick.evidence import codes
    from bailiwick.evidence.events import Subject

    async with house.base.database.begin() as tx:
        await house.base.recorder.record(
            tx, codes.BACKUP_READ, "success", context, subject=Subject(id=_ZONE, type="backup"), what=what,
            returned=returned,
        )  # fmt: skip
