"""One PostgreSQL for the whole run, started before the parallel workers and stopped after them."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

import evidence_watch
from bailiwick.assurance import book
from bailiwick.kernel.embedded_postgres import Throwaway
from bailiwick.kernel.paths import Layout
from measuring import measure_around_greenlets

VARIABLE = "BAILIWICK_TEST_DATABASE_URL"
# beside the tests of three other processes a draw or an example may wait a second for a processor
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
_LONGEST = (
    "test_life.py",
    "test_demo_handover.py",
    "test_api_document.py",
    "test_life_faults.py",
    "test_incident_killed.py",
    "test_backups.py",
    "test_demo.py",
    "test_soak.py",
    "test_supervisor_up.py",
    "test_cli_events.py",
    "test_canary_on_traffic.py",
    "test_operating_model.py",
    "test_work_killed.py",
    "test_faults.py",
    "test_edges.py",
    "test_incident_in_a_stack.py",
    "test_promises.py",
    "test_selftest.py",
    "test_rollouts_killed.py",
    "test_commands.py",
    "test_incident_triggers.py",
    "test_shifted_time.py",
    "test_readiness_probes.py",
    "test_rollouts.py",
    "test_environments.py",
    "test_drills.py",
    "test_incidents.py",
)
_running: list[tuple[asyncio.AbstractEventLoop, Throwaway, Path]] = []


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(evidence_watch)
    measure_around_greenlets()
    _read_each_book_once()
    if hasattr(config, "workerinput") or VARIABLE in os.environ:
        return  # a parallel worker inherits the variable from the process that started the server
    home = Path(tempfile.mkdtemp(prefix="bw-tests-", dir="/tmp"))
    layout = Layout(home)
    layout.create()
    loop, server = asyncio.new_event_loop(), Throwaway(layout)

    async def start() -> None:
        await server.initialise()
        # the socket stands in a private directory; tests log in as each role of the schema
        (server.cluster / "pg_hba.conf").write_text("local all all trust\n")
        await server.start()

    loop.run_until_complete(start())
    os.environ[VARIABLE] = server.url("postgres")
    _running.append((loop, server, home))


def _read_each_book_once() -> None:
    """What ships is YAML that hundreds of tests read anew; each gets values of its own, of a text read once."""
    read = book._loaded

    @lru_cache(maxsize=256)
    def kept(text: str) -> bytes:
        return pickle.dumps(list(read(text)))

    book._loaded = lambda text: iter(pickle.loads(kept(text)))


@pytest.fixture(autouse=True)
def _log_settings_end_with_the_test() -> Iterator[None]:
    """A command run in this process sets how it logs; the next test must not inherit that."""
    before = structlog.get_config()
    yield
    if structlog.get_config() != before:
        structlog.configure(**before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start whole installations come first, the longest of them before all."""
    items.sort(key=lambda item: _place(item.path))


def _place(path: Path) -> int:
    if path.name in _LONGEST:
        return _LONGEST.index(path.name)
    return len(_LONGEST) + (path.parent.name not in {"stack", "demo", "cli"})


def pytest_unconfigure(config: pytest.Config) -> None:
    for loop, server, home in _running:
        os.environ.pop(VARIABLE, None)
        loop.run_until_complete(server.stop())
        server.layout.remove_foreign_run()
        loop.close()
        shutil.rmtree(home, ignore_errors=True)
    _running.clear()
