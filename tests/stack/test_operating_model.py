"""The operating model of a whole installation: what it begins with, its commands, and a job that nobody schedules."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from rig import Stack, installation

from bailiwick.kernel.embedded_postgres import EmbeddedPostgres
from bailiwick.kernel.paths import Layout


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(WORKERS="1") as made:
        yield made


def until(what: Callable[[], Any], limit: float = 60) -> Any:
    """What ``what`` answers once that is something."""
    deadline = time.monotonic() + limit
    while not (found := what()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.3)
    return found


def folder_of(stack: Stack, tmp_path: Path, *more: dict[str, Any], without: str = "") -> Path:
    """The book in force as a folder, with ``more`` in it."""
    told = json.loads(stack.cli("assurance", "show", "--json").stdout)
    kept = [{name: each[name] for name in ("apiVersion", "kind", "metadata", "spec")} for each in told]
    (tmp_path / "book").mkdir()
    documents = [each for each in kept if each["metadata"]["name"] != without] + list(more)
    (tmp_path / "book" / "all.yaml").write_text(yaml.safe_dump_all(documents))
    return tmp_path / "book"


def document(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "bailiwick/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def test_an_installation_begins_with_what_we_ship_and_runs_it(stack: Stack) -> None:
    book = stack.admin("GET", "/api/v1/assurance").json
    assert book["revision"] == 1 and {each["applied_by"] for each in book["documents"]} == {"bailiwick"}
    assert stack.admin("POST", "/api/v1/zones", {"name": "acme"}).status == 201
    kinds = {each["kind"] for each in json.loads(stack.cli("assurance", "show", "--zone", "acme", "--json").stdout)}
    assert "Threshold" in kinds and "Probe" not in kinds
    asked = stack.admin("POST", "/api/v1/probes/disk-free/run")
    assert asked.status == 202

    def ran() -> Any:
        runs = stack.admin("GET", "/api/v1/probes/disk-free/runs").json["runs"]
        return [run for run in runs if run["due_at"] == asked.json["due_at"]]

    (run,) = until(ran)
    assert (run["unit"], run["asked_by"], 0 < run["value"] <= 100) == ("%", "", True)
    record = stack.admin("GET", f"/api/v1/evidence/records/{run['record']}").json
    assert record["record"]["check"] == "probe.disk-free"


def test_the_commands(stack: Stack, tmp_path: Path) -> None:
    added = document("Threshold", "payouts.age", value=1, unit="h", comparison="<", meaning="m", owner="uptime")
    book = folder_of(stack, tmp_path, added)
    planned = stack.cli("assurance", "plan", str(book))
    assert planned.returncode == 0 and "+ Threshold payouts.age" in planned.stdout, planned.stdout + planned.stderr
    sha = json.loads(stack.cli("assurance", "plan", str(book), "--json").stdout)["sha256"]
    assert stack.cli("assurance", "apply", str(book), "--plan", "0" * 64).returncode == 1
    done = stack.cli("assurance", "apply", str(book), "--plan", sha)
    assert (done.returncode, "revision 2 is in force" in done.stdout) == (0, True), done.stdout + done.stderr
    assert "nothing changes" in stack.cli("assurance", "apply", str(book)).stdout

    text = (book / "all.yaml").read_text()
    loosened = text.replace("meaning: 95 of 100 answers of the API are quicker than this", "meaning: looser")
    documents = list(yaml.safe_load_all(loosened))
    for each in documents:
        if each["metadata"]["name"] == "api.latency.p95":
            each["spec"]["value"] = 500
    (book / "all.yaml").write_text(yaml.safe_dump_all(documents))
    held = stack.cli("assurance", "apply", str(book))
    assert held.returncode == 3 and "waits for approval" in held.stdout, held.stdout + held.stderr
    assert "value: 100 -> 500" in held.stdout and "(two persons)" in held.stdout

    (book / "all.yaml").write_text("kind: [")
    (book / "more.yaml").write_text("- 1")
    bad = stack.cli("assurance", "plan", str(book))
    assert bad.returncode == 2 and "all.yaml" in bad.stderr and "more.yaml" in bad.stderr
    assert stack.cli("assurance", "plan", str(tmp_path / "none")).returncode == 2

    history = stack.cli("assurance", "history", "Threshold", "payouts.age")
    assert (history.returncode, "v1" in history.stdout) == (0, True)
    assert stack.cli("assurance", "history", "Threshold", "none").returncode == 3
    assert stack.cli("assurance", "show", "Threshold", "payouts.age").stdout.startswith("apiVersion: bailiwick/v1")
    assert "! api.latency.p95" in stack.cli("assurance", "thresholds").stdout
    assert stack.cli("assurance", "schema", "--out", str(tmp_path / "schemas")).returncode == 0
    assert (tmp_path / "schemas" / "Probe.json").exists()

    assert stack.cli("probe", "run", "database-answers").returncode == 0
    assert stack.cli("probe", "run", "backup-age").returncode == 3
    assert stack.cli("probe", "run", "none").returncode == 3
    assert "database-answers" in stack.cli("probe", "runs", "database-answers").stdout
    assert stack.cli("probe", "list").returncode == 0
    status = stack.cli("assurance", "status")
    assert status.returncode in (1, 3) and "backup-age" in status.stdout
    assert all(len(line) <= 100 for line in status.stdout.splitlines()), status.stdout
    told = json.loads(stack.cli("assurance", "status", "--json").stdout)
    assert told["verdict"] != "PASS" and {each["name"] for each in told["probes"]} >= {"disk-free", "backup-age"}
    print(status.stdout, stack.cli("assurance", "thresholds").stdout)


def test_a_job_that_nobody_schedules_is_noticed_by_a_worker(stack: Stack) -> None:
    with psycopg.connect(EmbeddedPostgres(Layout(stack.data_dir)).url(), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO bailiwick.job_definitions (job, grp, schedule, grace_s, timeout_s, known_at)"
            " VALUES ('forgotten', 'planted', '60s', 1, 1, now() - interval '1 hour')"
        )

        def silent() -> Any:
            told = json.loads(stack.cli("assurance", "status", "--json").stdout)["silent_jobs"]
            return [each for each in told if each["job"] == "forgotten"]

        (found,) = until(silent)
        assert "scheduler" in found["why"]
        assert "silent  forgotten" in stack.cli("assurance", "status").stdout
        connection.execute("DELETE FROM bailiwick.job_definitions WHERE job = 'forgotten'")
    until(lambda: not silent())
