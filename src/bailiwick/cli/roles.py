"""The processes behind ``up``: hidden commands that run one role of the application, built in ``bailiwick.app``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bailiwick.cli.failure import USAGE, CommandFailed, command
from bailiwick.cli.options import small_app
from bailiwick.kernel.paths import Layout

if TYPE_CHECKING:
    from bailiwick.kernel.settings import Settings

prepare_app, serve_app, guard_app, work_app = small_app(), small_app(), small_app(), small_app()

Hold = Annotated[bool, typer.Option("--hold", help="Import, then wait for a line on standard input.")]

COMPOSITION_ROOT = "bailiwick.app"
"""Each role is a module of it, so that a process imports what it runs and no more."""


@prepare_app.command()
@command
def prepare(hold: Hold = False) -> int:
    """Bring the database up to date; on a first start make the zone, its keys and the administrator.

    Prints what the operator must be told as one JSON object.
    """
    import json

    app, settings = _begin("prepare", hold)
    if os.environ.get("BAILIWICK_EMBEDDED_POSTGRES"):
        _run(_make_database(settings))
    told = _run(app.bootstrap(settings))
    print(json.dumps(dict(told or {}), default=str))
    return 0


@serve_app.command()
@command
def serve(
    slot: Annotated[str, typer.Option("--slot", help="Name of this worker, such as w1.")], hold: Hold = False
) -> int:
    """Run one serve worker on the sockets of its slot."""
    return _role("serve", hold, lambda app, settings, layout: app.run(settings, layout, slot))


@guard_app.command()
@command
def guard(hold: Hold = False) -> int:
    """Run the guard, which cuts long-lived requests whose authority has ended."""
    return _role("guard", hold, lambda app, settings, layout: app.run(settings, layout))


@work_app.command()
@command
def work(hold: Hold = False) -> int:
    """Run the background work: evidence into the ledger, scheduled jobs, sweeps."""
    return _role("work", hold, lambda app, settings, layout: app.run(settings, layout))


def _role(name: str, hold: bool, run: Callable[[ModuleType, Settings, Layout], Any]) -> int:
    app, settings = _begin(name, hold)
    return int(_run(run(app, settings, Layout(settings.data_dir))) or 0)


def _begin(name: str, hold: bool) -> tuple[ModuleType, Settings]:
    """Import the application, read the settings, and wait for our turn."""
    from pydantic import ValidationError

    from bailiwick.kernel.settings import Settings

    try:
        settings = Settings()  # type: ignore[call-arg]  # from the environment
    except ValidationError as error:
        raise CommandFailed(USAGE, "; ".join(_problem(dict(problem)) for problem in error.errors())) from None
    app = import_module(f"{COMPOSITION_ROOT}.{name}")
    if hold and not sys.stdin.readline():
        sys.exit(0)  # whoever started us is gone
    return app, settings


def _problem(problem: dict[str, Any]) -> str:
    where = ".".join(str(step) for step in problem.get("loc", ()))
    return f"{where}: {problem.get('msg')}" if where else str(problem.get("msg"))


def _run(outcome: Any) -> Any:
    """What a role returned; a coroutine is run to its end."""
    import asyncio
    import inspect

    if inspect.iscoroutine(outcome):
        return asyncio.run(outcome)
    return outcome


async def _make_database(settings: Settings) -> None:
    from bailiwick.cli.supervisor.stack import APP_LOGIN
    from bailiwick.kernel.embedded_postgres import EmbeddedPostgres

    postgres = EmbeddedPostgres(Layout(settings.data_dir))
    await postgres.ensure_database()
    await postgres.ensure_login(APP_LOGIN)
