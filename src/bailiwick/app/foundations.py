"""What every process of an installation is built on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from bailiwick.evidence.events import Recorder
from bailiwick.kernel import logging
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.clock_file import clock_of
from bailiwick.kernel.crypto import KekFile, Sealer
from bailiwick.kernel.db import APP_ROLE, Database
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.settings import Settings


@dataclass(frozen=True, slots=True)
class Foundations:
    """The things that rooms take as arguments. ``direct_url`` reaches the database past any pooler."""

    settings: Settings
    layout: Layout
    clock: Clock
    ids: Ids
    sealer: Sealer
    database: Database
    direct_url: str
    recorder: Recorder
    metrics: Metrics


def lay(settings: Settings, layout: Layout, process: str) -> Foundations:
    """Build them for ``process`` (the name of its part). The key-encryption key must be there."""
    logging.configure(settings.log_format, settings.log_level, part=process)
    clock, ids = clock_of(layout), Ids()
    url, direct_url = database_urls(settings)
    database = Database(url, pool_size=settings.database_pool_size, role=APP_ROLE)
    logging.watch_queries(database, clock, settings.slow_ms)
    directory = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]) if "PROMETHEUS_MULTIPROC_DIR" in os.environ else None
    return Foundations(
        settings,
        layout,
        clock,
        ids,
        kek_file(settings, layout).load(),
        database,
        direct_url,
        Recorder(clock, ids),
        Metrics(CollectorRegistry(), directory=directory, status_file=layout.status_file),
    )


def kek_file(settings: Settings, layout: Layout) -> KekFile:
    """Where the key-encryption keys of this installation are."""
    return KekFile(settings.kek_file or layout.secrets / "kek")


def database_urls(settings: Settings) -> tuple[str, str]:
    """The database's URL and the one that goes past any pooler."""
    if settings.database_url is None:
        raise ValueError("BAILIWICK_DATABASE_URL is not set, and no embedded database was started for this process")
    url = settings.database_url.get_secret_value()
    direct = settings.database_direct_url.get_secret_value() if settings.database_direct_url else url
    return url, direct
