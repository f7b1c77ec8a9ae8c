"""The whole program sends its evidence to a collector: through an outage, a killed sender, a drain and a replay."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rig import Stack, installation

sys.path.append(str(Path(__file__).parent.parent / "evidence_siem"))

from hec_server import TOKEN, HecServer


class Collector:
    """A collector in a thread of its own, so that a test may be plain."""

    def __init__(self) -> None:
        self.server = HecServer()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.do(self.server.start())

    def do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def close(self) -> None:
        self.do(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(WORKERS="1") as made:
        made.govern("pay")
        yield made


def until(holds: Callable[[], Any], within: float = 30) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.1)


def ledgered(stack: Stack) -> list[str]:
    """Ids of the events in the ledger now, oldest first."""
    found: list[str] = []
    cursor = ""
    while True:
        path = f"/api/v1/audit/events?order=oldest&limit=500{cursor}"
        page = stack.admin("GET", path).json
        found += [entry["event"]["id"] for entry in page["events"]]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


def work_for(stack: Stack, count: int) -> None:
    token = stack.token_for("pay-agent", "pay")
    for _ in range(count):
        assert stack.governed(token, "/s/pay/items").status == 200


def status(stack: Stack) -> dict[str, Any]:
    told = stack.cli("siem", "status", "soc", "--json")
    return dict(json.loads(told.stdout)[0])


def test_everything_arrives_whatever_breaks(stack: Stack, collector: Collector) -> None:
    server = collector.server
    sink = {
        "name": "soc", "kind": "splunk", "linger_s": 0.1, "batch_size": 10,
        "options": {"url": server.url, "ack_poll_s": 0.1, "timeout_s": 5}, "secrets": {"token": TOKEN},
    }  # fmt: skip
    made = stack.admin("POST", "/api/v1/siem/sinks", sink)
    assert made.status == 201 and TOKEN not in made.text, made
    work_for(stack, 15)
    until(lambda: set(ledgered(stack)[:20]) <= set(server.ids))
    assert stack.cli("siem", "status").returncode == 0

    server.index_at_once = False  # accepted, not indexed: what is lost now must come again
    work_for(stack, 10)
    until(lambda: any(channel.pending for channel in server.channels.values()))
    os.kill(stack.parts()["work"], signal.SIGKILL)
    collector.do(server.stop())
    server.crash()
    server.index_at_once = True
    work_for(stack, 10)
    until(lambda: status(stack)["failures"] > 0)
    told = stack.cli("siem", "status")
    assert told.returncode == 1 and "failing" in told.stdout
    assert all(len(line) <= 80 for line in told.stdout.splitlines())
    before = ledgered(stack)
    collector.do(server.start())
    drained = stack.cli("siem", "drain", "soc", "--batch-size", "1000", "--timeout", "60")
    assert drained.returncode == 0 and "level" in drained.stdout, drained
    assert set(before) <= set(server.ids)

    sent = len(server.ids)
    replayed = stack.cli("siem", "replay", "soc", "--from", "0", "--json")
    assert replayed.returncode == 0 and json.loads(replayed.stdout)["default"]["events"] >= len(before)
    until(lambda: len(server.ids) >= sent + len(before))
    assert set(server.ids) <= set(ledgered(stack)), "something was sent that is no event of the ledger"
    repeated = json.loads(stack.cli("siem", "repeats", "soc", "--json").stdout)
    named = {place for run in repeated for place in range(run["first_seq"], run["end_seq"])}
    places = {event: place for place, event in enumerate(ledgered(stack))}
    twice = {event for event in set(server.ids) if server.ids.count(event) > 1}
    assert twice and {places[event] for event in twice} <= named

    metrics = stack.admin("GET", "/metrics").text
    assert 'bailiwick_siem_lag_events{sink="default/soc"}' in metrics
    assert TOKEN not in "".join(path.read_text(errors="replace") for path in (stack.data_dir / "logs").glob("*.log"))


def test_sinks_are_made_and_removed_from_the_command_line(stack: Stack, collector: Collector, tmp_path: Path) -> None:
    document = {
        "name": "other", "kind": "splunk", "start": "now", "secrets": {"token": TOKEN},
        "options": {"url": collector.server.url},
    }  # fmt: skip
    (tmp_path / "sink.json").write_text(json.dumps(document))
    made = stack.cli("siem", "sinks", "add", str(tmp_path / "sink.json"))
    assert made.returncode == 0, made
    assert "other" in stack.cli("siem", "sinks", "list").stdout
    assert json.loads(stack.cli("siem", "sinks", "show", "other").stdout)["options"]["index"] == "sark_audit"
    assert stack.cli("siem", "sinks", "disable", "other").returncode == 0
    assert stack.cli("siem", "dead-letters", "other").returncode == 3
    assert stack.cli("siem", "sinks", "remove", "other").returncode == 0
    assert stack.cli("siem", "status", "other").returncode == 2
    (tmp_path / "sink.json").write_text(json.dumps({**document, "options": {"url": "https://169.254.169.254"}}))
    refused = stack.cli("siem", "sinks", "add", str(tmp_path / "sink.json"))
    assert refused.returncode == 2 and "link-local" in refused.stderr, refused
    (tmp_path / "sink.json").write_text("{}")
    assert stack.cli("siem", "sinks", "add", str(tmp_path / "sink.json")).returncode == 2
