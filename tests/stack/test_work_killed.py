"""Two real work processes over one database: each run is made once; killed with SIGKILL at any moment, none is lost."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bailiwick.kernel.jobs import MAX_ATTEMPTS
from bailiwick.kernel.paths import Layout
from people_fixtures import database_url as database_url
from unmeasured import unmeasured

JOBS = 6  # more than one process runs at a time, so that the other one has work too
BEAT = timedelta(seconds=5)
PROGRAM = '#!/bin/sh\necho "$1" >> "$2"\nsleep 0.15\n'
CLI = (sys.executable, "-m", "bailiwick.cli.main")


@dataclass
class Workers:
    """Machines with a work process each. ``ran``: a line for every time that a probe's program was begun."""

    home: Path
    database_url: str
    ran: Path
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def layout(self, machine: str) -> Layout:
        return Layout(self.home / machine)

    def start(self, machine: str) -> None:
        layout = self.layout(machine)
        layout.create()
        layout.slot("work").create()  # as the supervisor does
        kek = self.layout("one").secrets / "kek"
        if machine != "one":
            shutil.copy(kek, layout.secrets / "kek")
        with (self.home / f"{machine}.log").open("ab") as log:
            self.processes[machine] = subprocess.Popen(
                [*CLI, "work"],
                stdout=log,
                stderr=log,
                env=self.environment | {"BAILIWICK_DATA_DIR": str(layout.data_dir)},
            )

    def kill(self, machine: str) -> int:
        """As the kernel does when memory runs out; the process id."""
        process = self.processes.pop(machine)
        assert process.poll() is None, (self.home / f"{machine}.log").read_text()[-2000:]
        process.kill()
        process.wait()
        return process.pid

    def rows(self, sql: str, **values: Any) -> list[Any]:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute("SET search_path = bailiwick")
            cursor = connection.execute(sql, values)
            return cursor.fetchall() if cursor.description else []

    def ask(self, each: int) -> None:
        """Make that many occurrences of every job due."""
        self.rows(
            "INSERT INTO job_occurrences (job, due_at, scheduled) SELECT 'probe:tick-' || job || '@default',"
            " clock_timestamp() - make_interval(secs => n / 1000.0), false"
            " FROM generate_series(1, %(jobs)s) AS job, generate_series(1, %(each)s) AS n",
            jobs=JOBS, each=each,
        )  # fmt: skip

    def occurrences(self) -> list[Any]:
        """Job, instant, state, attempts and the process of every occurrence that was asked for."""
        return self.rows(
            "SELECT job, due_at, state, attempts, split_part(holder, ':', 2) FROM job_occurrences"
            " WHERE job LIKE 'probe:tick-%%' ORDER BY job, due_at"
        )

    def until(self, what: Callable[[], Any], within: float = 60) -> Any:
        deadline = time.monotonic() + within
        while not (found := what()):
            logs = "".join(path.read_text(errors="replace")[-2000:] for path in self.home.glob("*.log"))
            assert time.monotonic() < deadline, (self.occurrences(), logs)
            time.sleep(0.02)
        return found

    def all_ended(self) -> bool:
        return all(state in ("succeeded", "failed", "missed") for _, _, state, _, _ in self.occurrences())

    def begun(self) -> int:
        return len(self.ran.read_text().splitlines())


@pytest.fixture
def workers(database_url: str) -> Iterator[Workers]:
    home = Path(tempfile.mkdtemp(prefix="bw wörk ", dir="/tmp"))
    program, ran = home / "tick", home / "ran"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    ran.touch()
    environment = {
        **unmeasured(), "BAILIWICK_DATABASE_URL": database_url, "BAILIWICK_PROBE_PROGRAMS": str(program),
        "BAILIWICK_SPOOL_SEGMENT_MB": "4",
    }  # fmt: skip
    environment.pop("BAILIWICK_TEST_DATABASE_URL", None)
    made = Workers(home, database_url, ran, environment)
    made.layout("one").create()
    prepared = subprocess.run(
        [*CLI, "prepare"], capture_output=True, text=True, timeout=90,
        env=environment | {"BAILIWICK_DATA_DIR": str(made.layout("one").data_dir)},
    )  # fmt: skip
    assert prepared.returncode == 0, prepared.stderr
    names = [f"tick-{number + 1}" for number in range(JOBS)]
    for name, more in [*((name, {}) for name in names), ("beat", {"every": "5s"})]:
        check = {"type": "command", "argv": [str(program), name, str(ran if name != "beat" else home / "beaten")]}
        spec = {"summary": name, "check": check, "owner": "uptime", "grace": "1h", "timeout": "10s", **more}
        made.rows(
            "INSERT INTO assurance_documents (zone, kind, name, version, revision, spec, sha256, in_force, applied_at,"
            " applied_by) VALUES ('default', 'Probe', %(name)s, 1, 1000, %(spec)s, '', true, now(), 'test')",
            name=name, spec=json.dumps(spec),
        )  # fmt: skip
    try:
        for machine in ("one", "two"):
            made.start(machine)
        known = "SELECT 1 FROM job_definitions WHERE job = 'probe:tick-1@default'"
        made.until(lambda: made.rows(known))
        yield made
    finally:
        for process in made.processes.values():
            process.terminate()
        for process in made.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()
        for machine in ("one", "two"):
            made.layout(machine).remove_foreign_run()
        shutil.rmtree(home, ignore_errors=True)


def test_two_work_processes_run_each_once_and_killed_at_any_moment_lose_and_double_none(workers: Workers) -> None:
    pids = {str(process.pid) for process in workers.processes.values()}
    asked, shared = 0, False
    while not shared:  # the second may still be starting
        workers.ask(4)
        asked += 4 * JOBS
        workers.until(workers.all_ended)
        shared = {pid for *_, pid in workers.occurrences()} == pids
        assert asked < 40 * JOBS * 4, "one of the two never ran anything"
    found = workers.occurrences()
    assert len(found) == asked == workers.begun()
    assert {(state, attempts) for _, _, state, attempts, _ in found} == {("succeeded", 1)}

    interrupted = 0
    for number in range(4):
        machine = ("one", "two")[number % 2]
        pid = str(workers.processes[machine].pid)
        workers.ask(3)
        asked += 3 * JOBS

        def running(pid: str = pid) -> list[Any]:
            return [each for each in workers.occurrences() if each[2] == "running" and each[4] == pid]

        workers.until(lambda: running() or workers.all_ended())
        workers.kill(machine)
        interrupted += len(running())
        # as if the time of its leases had passed
        workers.rows(
            "UPDATE job_occurrences SET lease_until = clock_timestamp() - interval '1 second'"
            " WHERE state = 'running' AND split_part(holder, ':', 2) = %(pid)s",
            pid=pid,
        )
        if number % 2:  # and now and then nobody is there for a while
            workers.kill("one")
            interrupted += len([each for each in workers.occurrences() if each[2] == "running"])
            workers.rows("UPDATE job_occurrences SET lease_until = clock_timestamp() WHERE state = 'running'")
            workers.start("one")
        workers.start(machine)
    workers.until(workers.all_ended)

    found = workers.occurrences()
    assert interrupted, "nobody was killed in the middle of a run"
    assert len(found) == asked and {state for _, _, state, _, _ in found} <= {"succeeded", "failed"}
    # who died three times is given up, which takes a slow machine
    given_up = [attempts for _, _, state, attempts, _ in found if state == "failed"]
    assert set(given_up) <= {MAX_ATTEMPTS} and len(given_up) < asked / 10
    again = sum(attempts - 1 for _, _, _, attempts, _ in found)
    # only what was interrupted was begun a second time
    assert 1 <= again <= interrupted
    assert asked <= workers.begun() <= asked + again
    # however often it was begun, one run is kept
    kept = workers.rows("SELECT probe, due_at, count(*) FROM probe_runs WHERE probe LIKE 'tick-%%' GROUP BY 1, 2")
    assert asked - len(given_up) <= len(kept) <= asked and {count for *_, count in kept} == {1}

    beats = [due for due, in workers.rows("SELECT due_at FROM job_occurrences WHERE job = 'probe:beat@default'"
                                          " AND scheduled ORDER BY due_at")]  # fmt: skip
    assert len(beats) >= 2 and beats == [beats[0] + n * BEAT for n in range(len(beats))], "an instant is missing"
