"""What commands on the machine of an installation use of it without going through its API."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed
from bailiwick.kernel.db import APP_ROLE
from bailiwick.kernel.embedded_postgres import EmbeddedPostgres
from bailiwick.kernel.paths import Layout

if TYPE_CHECKING:
    from bailiwick.kernel.clock import SystemClock
    from bailiwick.kernel.settings import Settings

# what the installation was started with counts, whatever the environment of a command says
_RUNNING = ("host", "api_port", "public_url", "tls_cert", "tls_key", "dev", "allow_upstream_networks")


def clock_of(layout: Layout) -> SystemClock:
    """The clock of the installation there: evidence made under a simulated one has to say so. Ends the command where
    its file cannot be read."""
    from bailiwick.kernel import clock_file

    try:
        return clock_file.clock_of(layout)
    except ValueError as error:
        raise CommandFailed(FAILED, str(error)) from None


def database_url(data_dir: Path) -> str:
    """The database of the installation at ``data_dir``: ``$BAILIWICK_DATABASE_URL``, else the embedded one.

    Ends the command when there is neither.
    """
    if url := os.environ.get("BAILIWICK_DATABASE_URL"):
        return url
    embedded = EmbeddedPostgres(Layout(data_dir))
    if not embedded.initialised:
        raise CommandFailed(NO_DATA, f"there is no database at {data_dir}; is BAILIWICK_DATABASE_URL to be set?")
    return embedded.url(user=APP_ROLE)


def running_settings(layout: Layout) -> Settings:
    """The settings of this environment, at the address of the installation that runs there: links and tokens name it.

    Ends the command where they cannot be.
    """
    from pydantic import ValidationError

    from bailiwick.kernel.settings import Settings

    try:
        running = json.loads(layout.settings_file.read_text())
    except (OSError, ValueError):
        running = {}
    known = {name: running[name] for name in _RUNNING if running.get(name) is not None}
    try:
        return Settings(data_dir=layout.data_dir, **known)
    except ValidationError as error:
        raise CommandFailed(USAGE, "; ".join(str(problem["msg"]) for problem in error.errors())) from None
