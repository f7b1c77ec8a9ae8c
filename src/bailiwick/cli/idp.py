"""``bailiwick idp``: identity providers, from a file, and whether a sign-in by one works and what would mend it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from bailiwick.cli.failure import FAILED, USAGE, CommandFailed, command
from bailiwick.cli.options import DataDir, existing_layout, small_app

if TYPE_CHECKING:
    from bailiwick.identity.provider_files import Difference, Read, Source
    from bailiwick.identity.providers import Draft, Providers
    from bailiwick.identity.testing import Walk
    from bailiwick.kernel.clock import Clock
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.paths import Layout
    from bailiwick.kernel.settings import Settings

T = TypeVar("T")

_MOST_SECRET_BYTES = 1 << 20

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone the provider belongs to.")]


@app.callback()
def idp() -> None:
    """Identity providers: configure them from a file, and test a sign-in."""


@app.command()
@command
def test(
    provider: Annotated[str, typer.Argument(metavar="NAME", help="Name of the identity provider.")],
    username: Annotated[str, typer.Option("--username", help="Walk this person's sign-in too.")] = "",
    password_file: Annotated[
        Path | None,
        typer.Option("--password-file", metavar="FILE", help="His password; - reads it from standard input."),
    ] = None,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> int:
    """Walk each step of a sign-in. Exits 0 when all pass, 1 when one fails."""
    import asyncio
    import json

    layout = existing_layout(data_dir)
    walk = asyncio.run(_walk(layout, zone, provider, username, _word(password_file)))
    if json_:
        print(json.dumps(walk.document(), ensure_ascii=False))
    else:
        print("\n".join(_told(walk)))
    return 0 if walk.verdict == "PASS" else FAILED


def _word(path: Path | None) -> str:
    """A password, never from the command line, which others on the machine can read."""
    import sys

    if path is None:
        return ""
    try:
        return (sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")).rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise CommandFailed(USAGE, f"{path} cannot be read") from None


async def _walk(layout: Layout, zone: str, name: str, username: str, password: str) -> Walk:
    from bailiwick.app.siem import reach_of
    from bailiwick.app.testers import testers_of
    from bailiwick.cli.recorded import by_operator
    from bailiwick.identity.login.ldap import Directories
    from bailiwick.identity.login.oidc_client import ProviderClients
    from bailiwick.inventory.resolver import Resolver

    recorder, context = by_operator(layout, zone)

    async def work(desk: _Desk) -> Walk:
        resolver = Resolver(desk.database, desk.clock, recorder, desk.settings)
        directories, reach = Directories(desk.providers, resolver, desk.clock), reach_of(resolver)
        clients = ProviderClients(reach, desk.clock)
        testers = testers_of(directories, clients, desk.providers, desk.settings, reach, desk.clock)
        try:
            provider = await desk.providers.get(zone, name)
            walk = await testers.walk(provider, username, password)
            await desk.providers.tested(context, provider, walk.verdict)
            return walk
        finally:
            await clients.close()
            await directories.close()

    return await _at(layout, work)


@dataclass(frozen=True)
class _Desk:
    """What a command on the machine works with."""

    database: Database
    clock: Clock
    settings: Settings
    providers: Providers


async def _at(layout: Layout, work: Callable[[_Desk], Awaitable[T]]) -> T:
    from bailiwick.app.foundations import kek_file
    from bailiwick.cli.local import clock_of, database_url, running_settings
    from bailiwick.evidence.events import Recorder
    from bailiwick.identity.providers import Providers
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.errors import BailiwickError, Unavailable
    from bailiwick.kernel.ids import Ids

    settings, clock, ids = running_settings(layout), clock_of(layout), Ids()
    database = Database(database_url(layout.data_dir), pool_size=2)
    try:
        sealer = kek_file(settings, layout).load()
        return await work(
            _Desk(database, clock, settings, Providers(database, clock, ids, Recorder(clock, ids), sealer))
        )
    except Unavailable:
        raise CommandFailed(FAILED, "the database does not answer; is the installation running?") from None
    except BailiwickError as error:
        raise CommandFailed(USAGE if error.status in {400, 404} else FAILED, error.detail) from None
    finally:
        await database.close()


@app.command()
@command
def apply(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Providers as YAML documents; - is standard input.")],
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would change.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> int:
    """Make the providers as FILE says. Twice changes nothing; others, and secrets not named, are left alone."""
    import asyncio
    import json

    layout = existing_layout(data_dir)
    differences = asyncio.run(_apply(layout, zone, _drafts(file), plan_only=plan))
    if json_:
        told = {"applied": not plan, "providers": [each.document() for each in differences]}
        print(json.dumps(told, ensure_ascii=False))
    else:
        for each in differences:
            print("\n".join(_shown(each, plan_only=plan)))
    return 0


def _drafts(file: Path) -> list[Draft]:
    """What the file says; ends the command for anything that is wrong with it, before anything is changed."""
    import sys

    from bailiwick.assurance.book import API_VERSION, MOST_BYTES, BadBook, read_text
    from bailiwick.identity.provider_files import DOCUMENT_KIND, draft_of
    from bailiwick.kernel.errors import BailiwickError

    from_input = str(file) == "-"
    base = Path() if from_input else file.parent
    try:
        text = sys.stdin.read(MOST_BYTES) if from_input else _content(file, MOST_BYTES)
        documents = read_text(text, "-" if from_input else file.name)
    except BadBook as error:
        raise CommandFailed(USAGE, "; ".join(error.problems[:5])) from None
    drafts: dict[str, Draft] = {}
    for document in documents:
        if (document.api_version, document.kind) != (API_VERSION, DOCUMENT_KIND):
            raise CommandFailed(USAGE, f"{document.where}: only {API_VERSION} {DOCUMENT_KIND} stands in such a file")
        if document.name in drafts:
            raise CommandFailed(USAGE, f"{document.where}: {document.name} stands there twice")
        try:
            drafts[document.name] = draft_of(document.name, document.spec, _reader(base))
        except BailiwickError as error:
            raise CommandFailed(USAGE, f"{document.where} {document.name}: {error.detail}") from None
    if not drafts:
        raise CommandFailed(USAGE, "the file names no provider")
    return [*drafts.values()]


def _reader(base: Path) -> Read:
    """Reads what references name; a relative path is seen from the file that names it."""
    import os

    from bailiwick.kernel.errors import InvalidRequest

    def read(source: Source, name: str) -> str:
        if source == "env":
            if name not in os.environ:
                raise InvalidRequest(f"The environment has no {name}.")
            return os.environ[name]
        try:
            return _content(base / name, _MOST_SECRET_BYTES).rstrip("\r\n")
        except CommandFailed as failure:
            raise InvalidRequest(str(failure)) from None

    return read


def _content(path: Path, most: int) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise CommandFailed(USAGE, f"{path} is larger than {most} bytes")
        return data.decode()
    except (OSError, UnicodeDecodeError):
        raise CommandFailed(USAGE, f"{path} cannot be read") from None


async def _apply(layout: Layout, zone: str, drafts: Sequence[Draft], *, plan_only: bool) -> list[Difference]:
    from bailiwick.cli.recorded import by_operator
    from bailiwick.identity.provider_files import compare
    from bailiwick.kernel.errors import BailiwickError

    _, context = by_operator(layout, zone)

    def unchanged(version: int) -> Callable[[int], None]:
        def guard(now: int) -> None:
            if now != version:
                raise BailiwickError(reason="version_mismatch", current_version=now)

        return guard

    async def work(desk: _Desk) -> list[Difference]:
        differences = [compare(draft, *await desk.providers.known(zone, draft.name)) for draft in drafts]
        for each in [] if plan_only else differences:
            if each.what == "create":
                await desk.providers.create(context, each.draft)
            elif each.what == "change":
                await desk.providers.change(context, each.draft.name, each.patch, unchanged(each.version))
        return differences

    return await _at(layout, work)


def _shown(difference: Difference, *, plan_only: bool) -> list[str]:
    """One line a provider, and below it one a changed member."""
    import json

    from bailiwick.identity.sessions import printable

    done = {"create": "created", "change": "changed", "same": "unchanged"}
    what = difference.what if plan_only else done[difference.what]
    told = difference.document()
    lines = [f"{what:<9}  {told['name']} ({told['type']})"]
    if difference.what != "change":
        return lines
    for member, value in told["changes"].items():
        if member == "options":
            for name, wanted in value.items():
                lines.append(f"           options.{name}: {printable(json.dumps(wanted, ensure_ascii=False), 60)}")
        else:
            lines.append(f"           {member}: {', '.join(value) if member == 'secrets' else json.dumps(value)}")
    return lines


def _told(walk: Walk) -> list[str]:
    """One line a step, and below one that failed what to do."""
    from bailiwick.identity.sessions import printable

    lines = []
    for step in walk.steps:
        lines.append(f"{'pass' if step.passed else 'FAIL'}  {step.name:<12} {printable(step.detail)}".rstrip())
        if not step.passed and step.mend:
            lines.append(f"      {step.mend}")
    return [*lines, f"{walk.verdict}: {walk.provider} ({walk.kind})"]
