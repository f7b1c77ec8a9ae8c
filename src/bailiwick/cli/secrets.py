"""``bailiwick secrets``: what there is, the gate, a scan of files, rotations with proof, and what nobody uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.ledger import Json, as_json, note, printable
from bailiwick.cli.options import DataDir, small_app

if TYPE_CHECKING:
    from bailiwick.assurance.secrets import SecretInventory
    from bailiwick.cli.waiver_desk import Desk

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone whose secrets are meant.")]


@app.callback()
def _group() -> None:
    """Secrets by reference and fingerprint, never by value."""


@app.command("list")
@command
def list_secrets(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show every secret: its class, its date, its fingerprint."""

    async def work(desk: Desk, inventory: SecretInventory) -> int:
        from bailiwick.assurance.secrets import state_of

        async with desk.database.begin() as tx:
            found = await inventory.found(tx, zone)
            await note(tx, zone, "secrets", query="", returned=len(found))
        if json_:
            print(as_json([each.document() for each in found], indent=2))
        for each in () if json_ else found:
            text = f"{each.name:32.32} {each.class_:8} {state_of(each, desk.clock.now()):10} {each.rotate_by:%Y-%m-%d}"
            print(printable(f"{text} {each.fingerprint[:12]}")[:80])
        return 0 if found else NO_DATA

    return _at(data_dir, zone, work)


@app.command()
@command
def check(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """The gate. Exits 1 for a test or default key in production or one past its date, unless a waiver covers it."""

    async def work(desk: Desk, inventory: SecretInventory) -> int:
        async with desk.database.begin() as tx:
            verdict, judged = await inventory.check(tx, desk.context, "cli")
        if json_:
            print(as_json({"verdict": verdict, "secrets": [each.document() for each in judged]}, indent=2))
        else:
            for each in judged:
                if each.waiver:
                    print(printable(f"waived   {each.secret.name}: {each.why}; waiver {each.waiver}"))
                elif not each.verdict.green:
                    print(printable(f"{each.verdict:8} {each.secret.name}: {each.why}"))
            print(f"{verdict}: {len(judged)} secrets")
        return verdict.exit_code

    return _at(data_dir, zone, work)


@app.command()
@command
def scan(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Files and directories, exports for instance.")],
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Look for secrets in files: by form, by digest of well-known ones, and ours by fingerprint. Exits 1 for any."""
    for path in paths:
        if not path.exists():
            raise CommandFailed(USAGE, f"there is no {path}")

    async def work(desk: Desk, inventory: SecretInventory) -> int:
        from bailiwick.assurance.secret_forms import scan as look
        from bailiwick.evidence import codes
        from bailiwick.evidence.events import Subject

        async with desk.database.begin() as tx:
            key = await inventory.key(tx, zone)
            ours = {each.fingerprint: each.name for each in await inventory.found(tx, zone) if each.fingerprint}
        try:
            found, read = look(paths, key, ours)
        except OSError as error:
            raise CommandFailed(USAGE, f"cannot read everything: {error}") from None
        async with desk.database.begin() as tx:
            await desk.recorder.record(
                tx,
                codes.SECRETS_SCANNED,
                "failure" if found else "success",
                desk.context,
                subject=Subject(id=zone, type="secrets"),
                read=read,
                findings=len(found),
            )
        if json_:
            print(as_json([each.document() for each in found], indent=2))
        else:
            for each in found:
                print(printable(f"{each.path}:{each.line}: {each.class_} {each.what} {each.fingerprint[:12]}"))
            print(f"{len(found)} found in {read} files")
        return 1 if found else 0 if read else NO_DATA

    return _at(data_dir, zone, work)


@app.command()
@command
def rotate(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="application, api-key, signing-key, kek; setting, sink …")
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which: its name or id; session or mandate; kek.")],
    old_file: Annotated[
        Path | None, typer.Option("--old-file", help="A file with the old value, to be refused.")
    ] = None,
    overlap_hours: Annotated[int, typer.Option("--overlap", min=0, max=720, help="Hours both are good.")] = 0,
    statement: Annotated[str, typer.Option("--statement", help="How you know that the old one is refused.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Json = False,
) -> int:
    """Rotate one and prove that the old one is refused. Takes $BAILIWICK_TOKEN. Exits 3 while that is unproven."""
    from bailiwick.cli.signed_in import ask_api

    try:
        old = old_file.read_text().strip() if old_file else ""
    except OSError as error:
        raise CommandFailed(USAGE, f"cannot read {old_file}: {error.strerror}") from None
    body = {"kind": kind, "name": name, "old": old, "overlap_hours": overlap_hours, "statement": statement}
    done = ask_api(data_dir, zone, "POST", "/api/v1/secrets/rotations", body)
    if json_:
        print(as_json(done, indent=2))
    else:
        print(printable(f"{done['kind']} {done['name']}: {done['old']} -> {done['new']}, {done['verdict']}"))
        for told, value in done["secret"].items():
            print(f"{told:10} {value}")
    return {"PASS": 0, "FAIL": 1}.get(done["verdict"], NO_DATA)


@app.command()
@command
def review(zone: Zone = "default", data_dir: DataDir = None, json_: Json = False) -> int:
    """Show accounts and keys that nobody used, and what became of them. Exits 3 when there are none."""

    async def work(desk: Desk, inventory: SecretInventory) -> int:
        async with desk.database.begin() as tx:
            rows = await tx.all("SELECT * FROM unused_reviews WHERE zone = :zone ORDER BY id DESC LIMIT 500", zone=zone)
            await note(tx, zone, "unused accounts and keys", query="", returned=len(rows))
        if json_:
            print(as_json([dict(row) for row in rows], indent=2))
        for row in () if json_ else rows:
            text = f"{row['kind']:8} {row['name']:36.36} {row['idle_days']:>4} d {row['state']:9}"
            print(printable(f"{text} {row['disable_at']:%Y-%m-%d}")[:80])
        return 0 if rows else NO_DATA

    return _at(data_dir, zone, work)


def _at(data_dir: Path | None, zone: str, work: Any) -> int:
    from bailiwick.cli.waiver_desk import at_desk

    async def run(desk: Desk) -> int:
        from bailiwick.app.assurance.secrets import CHANNELS, local_of
        from bailiwick.assurance.secrets import SecretInventory

        house, base = desk.house, desk.house.base
        inventory = SecretInventory(
            desk.clock,
            desk.recorder,
            desk.books,
            house.waivers,
            house.notices,
            house.alerts,
            environment=_environment(base.layout.settings_file),
            sealer=lambda: base.sealer,
            local=local_of(base.settings, base.layout),
            sealed=[CHANNELS],
        )
        return int(await work(desk, inventory))

    return at_desk(data_dir, zone, run)


def _environment(file: Path) -> str:
    """Where the installation that runs there stands; production where that cannot be told."""
    import json

    try:
        return "development" if json.loads(file.read_text())["dev"] is True else "production"
    except (OSError, ValueError, KeyError, TypeError):
        return "production"
