"""``bailiwick idp``: does a sign-in by an identity provider work, and what would mend it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bailiwick.cli.failure import FAILED, USAGE, CommandFailed, command
from bailiwick.cli.options import DataDir, existing_layout, small_app

if TYPE_CHECKING:
    from bailiwick.identity.testing import Walk
    from bailiwick.kernel.paths import Layout

app = small_app()

Zone = Annotated[str, typer.Option("--zone", help="The zone the provider belongs to.")]


@app.callback()
def idp() -> None:
    """Does a sign-in by an identity provider work, and what would mend it."""


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
    import getpass

    from bailiwick.app.foundations import kek_file
    from bailiwick.app.siem import reach_of
    from bailiwick.app.testers import testers_of
    from bailiwick.cli.local import database_url
    from bailiwick.evidence.events import Actor, Context, Recorder
    from bailiwick.identity.login.ldap import Directories
    from bailiwick.identity.login.oidc_client import ProviderClients
    from bailiwick.identity.providers import Providers
    from bailiwick.inventory.resolver import Resolver
    from bailiwick.kernel.clock import SystemClock
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.errors import BailiwickError, Unavailable
    from bailiwick.kernel.ids import Ids
    from bailiwick.kernel.settings import Settings

    settings = Settings(data_dir=layout.data_dir)  # type: ignore[call-arg]  # the rest is from the environment
    database, clock, ids = Database(database_url(layout.data_dir), pool_size=2), SystemClock(), Ids()
    try:
        recorder = Recorder(clock, ids)
        providers = Providers(database, clock, ids, recorder, kek_file(settings, layout).load())
        resolver = Resolver(database, clock, recorder, settings)
        directories = Directories(providers, resolver, clock)
        reach = reach_of(resolver)
        testers = testers_of(directories, ProviderClients(reach, clock), providers, settings, reach, clock)
        provider = await providers.get(zone, name)
        walk = await testers.walk(provider, username, password)
        await providers.tested(Context(zone, Actor(user=f"os:{getpass.getuser()}")), provider, walk.verdict)
        return walk
    except Unavailable:
        raise CommandFailed(FAILED, "the database does not answer; is the installation running?") from None
    except BailiwickError as error:
        raise CommandFailed(USAGE if error.status in {400, 404} else FAILED, error.detail) from None
    finally:
        await database.close()


def _told(walk: Walk) -> list[str]:
    """One line a step, and below one that failed what to do."""
    from bailiwick.identity.sessions import printable

    lines = []
    for step in walk.steps:
        lines.append(f"{'pass' if step.passed else 'FAIL'}  {step.name:<12} {printable(step.detail)}".rstrip())
        if not step.passed and step.mend:
            lines.append(f"      {step.mend}")
    return [*lines, f"{walk.verdict}: {walk.provider} ({walk.kind})"]
