from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from bailiwick.kernel import metrics as bw_metrics
from bailiwick.kernel.db import Database
from bailiwick.kernel.figures import Figures
from bailiwick.kernel.metrics import Metrics

CHILD = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from bailiwick.kernel.metrics import Metrics

directory = Path(sys.argv[1])
metrics = Metrics(CollectorRegistry(), directory=directory, status_file=directory / "status.json")
age = float(sys.argv[2])
if age >= 0:
    metrics.watch_feed(lambda: age)
for _ in range(3):
    metrics.http_requests.inc("GET", "/health", "200")
    metrics.http_request_seconds.observe(0.15)
metrics.decisions.inc("deny", "policy_denied")
metrics.revocations.labels("user").inc()
metrics.revocation_seconds.observe(0.004)
metrics.redis_pool_in_use.set(2)
metrics.spool_events.inc()
metrics.flush()
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "scrape":
        text = metrics.collect_text().decode()
        print(text + "# END", flush=True)
"""


def start(directory: Path, age: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(directory), str(age)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def scrape(child: subprocess.Popen[str]) -> dict[str, float]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("scrape\n")
    child.stdin.flush()
    text = ""
    while not text.endswith("# END\n"):
        text += child.stdout.readline()
    return parse(text.removesuffix("# END\n"))


def parse(text: str) -> dict[str, float]:
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line and not line.startswith("#")
    }


def stop(*children: subprocess.Popen[str]) -> None:
    for child in children:
        child.kill()
        child.communicate()


def test_one_scrape_sums_all_processes_and_a_dead_ones_counts_stay(tmp_path: Path) -> None:
    directory = tmp_path / "me trics"
    bw_metrics.wipe(directory)
    (directory / "counter_1.db").write_bytes(b"stale")
    bw_metrics.wipe(directory)
    (directory / "status.json").write_text(json.dumps({"parts": [{"name": "w1", "restarts": 4}]}))
    first, second, third = start(directory, 1.0), start(directory, 20.0), start(directory, -1)
    try:
        seen = scrape(first)
        assert seen['http_requests_total{method="GET",route="/health",status="200"}'] == 9
        assert seen['http_request_duration_seconds_bucket{le="0.1"}'] == 0
        assert seen['http_request_duration_seconds_bucket{le="0.2"}'] == 9
        assert seen["http_request_duration_seconds_count"] == 9
        assert seen["http_request_duration_seconds_sum"] == pytest.approx(9 * 0.15)
        assert seen['bailiwick_decisions_total{outcome="deny",reason="policy_denied"}'] == 3
        assert seen['bailiwick_decisions_total{outcome="allow",reason=""}'] == 0
        assert seen['bailiwick_revocations_total{kind="user"}'] == 3
        assert seen["bailiwick_revocation_duration_seconds_count"] == 3
        assert seen["bailiwick_redis_pool_in_use"] == 6
        assert seen["bailiwick_spool_events_total"] == 3
        assert seen['bailiwick_part_restarts_total{part="w1"}'] == 4
        assert 19 < seen["bailiwick_feed_age_seconds"] < 60
        assert seen["bailiwick_process_resident_bytes"] > 30_000_000
        assert "bailiwick_database_up" not in seen  # nobody measured it: absent, not 0 and not 1

        second.send_signal(signal.SIGKILL)
        second.wait()
        bw_metrics.mark_dead(directory, second.pid)
        seen = scrape(third)
        assert seen['http_requests_total{method="GET",route="/health",status="200"}'] == 9
        assert seen["http_request_duration_seconds_count"] == 9
        assert seen["bailiwick_redis_pool_in_use"] == 4
        assert 1 <= seen["bailiwick_feed_age_seconds"] < 15
    finally:
        stop(first, second, third)


def test_a_directory_without_the_variable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="PROMETHEUS_MULTIPROC_DIR"):
        Metrics(CollectorRegistry(), directory=tmp_path)


def test_hot_figures_of_one_process() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.init_routes([("GET", "/api/v1/users")])
    metrics.mandates_issued.inc()
    for value in (0.00004, 0.3, 77.0):
        metrics.decision_seconds.observe(value)
    metrics.watch_feed(lambda: 3.0)
    text = metrics.collect_text().decode()
    seen = parse(text)
    assert seen["bailiwick_mandates_issued_total"] == 1
    assert seen['bailiwick_decision_duration_seconds_bucket{le="5e-05"}'] == 1
    assert seen['bailiwick_decision_duration_seconds_bucket{le="0.5"}'] == 2
    assert seen['bailiwick_decision_duration_seconds_bucket{le="+Inf"}'] == 3
    assert seen["bailiwick_decision_duration_seconds_sum"] == pytest.approx(77.30004)
    assert seen['http_requests_total{method="GET",route="/api/v1/users",status="500"}'] == 0
    assert seen["bailiwick_feed_age_seconds"] == pytest.approx(3.0, abs=1)
    assert "_created" not in text
    assert parse(metrics.collect_text().decode())["bailiwick_mandates_issued_total"] == 1


def test_labels_are_closed_sets() -> None:
    assert bw_metrics.method_label("GET") == "GET"
    assert bw_metrics.method_label("BREW") == "other"
    assert bw_metrics.reason_label("policy_denied") == "policy_denied"
    assert bw_metrics.reason_label("") == ""
    assert bw_metrics.reason_label("made-up") == "other"


def test_restarts_of_an_unreadable_status_are_none(tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    assert bw_metrics.part_restarts(None) == {}
    assert bw_metrics.part_restarts(status) == {}
    for text in ("{", "[]", '{"parts": [{"name": "x"}]}', '{"parts": 3}'):
        status.write_text(text)
        assert bw_metrics.part_restarts(status) == {}


def test_a_hook_that_fails_stops_nothing() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.before_flush(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    metrics.mandates_issued.inc()
    assert "bailiwick_mandates_issued_total 1.0" in metrics.collect_text().decode()


class NoRedis:
    configured = False

    async def info(self) -> dict[str, object] | None:
        return None


class DeadRedis(NoRedis):
    configured = True


class LiveRedis(NoRedis):
    configured = True

    async def info(self) -> dict[str, object] | None:
        return {"keyspace_hits": 9, "keyspace_misses": 1, "used_memory": 1000, "maxmemory": 2000}


async def test_figures_of_the_surroundings(database_url: str, tmp_path: Path) -> None:
    metrics = Metrics(CollectorRegistry())
    database = Database(database_url)
    await Figures(metrics, database, LiveRedis(), tmp_path).sample()
    await database.close()
    seen = parse(metrics.collect_text().decode())
    assert seen["bailiwick_database_up"] == 1
    assert 1 <= seen["bailiwick_database_connections"] <= seen["bailiwick_database_connections_max"]
    assert 0 < seen["bailiwick_database_cache_hit_ratio"] <= 1
    assert seen["bailiwick_database_size_bytes"] > 1_000_000
    assert seen["bailiwick_redis_hit_ratio"] == 0.9
    assert 0 < seen["bailiwick_disk_free_ratio"] < 1
    assert 0 < seen["bailiwick_memory_used_ratio"] < 1


async def test_figures_of_what_is_away(tmp_path: Path) -> None:
    metrics = Metrics(CollectorRegistry())
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    await Figures(metrics, database, DeadRedis(), tmp_path).sample()
    await database.close()
    seen = parse(metrics.collect_text().decode())
    assert seen["bailiwick_database_up"] == 0
    assert math.isnan(seen["bailiwick_database_connections"])
    assert seen["bailiwick_redis_up"] == 0
    assert math.isnan(seen["bailiwick_redis_memory_bytes"])


def test_every_name_is_ours_or_the_seeds() -> None:
    text = Metrics(CollectorRegistry()).collect_text().decode()
    names = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    assert {"http_requests_total", "http_request_duration_seconds", "bailiwick_gateway_checks_total"} <= names
    assert all(name.startswith(("bailiwick_", "http_request", "backup_last_success_")) for name in names)
