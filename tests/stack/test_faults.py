"""What happens when a part dies, stops, or is cut off: nothing acknowledged is lost, nobody gets in."""

from __future__ import annotations

import http.client
import os
import re
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from rig import Stack, call, claims, installation


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(measured=True, BAILIWICK_FRESHNESS_LIMIT_S="4") as made:
        made.govern("pay")
        yield made


class Load:
    """Four callers on live connections; every answer is kept as (status, request id, started, ended)."""

    def __init__(self, stack: Stack, token: str) -> None:
        self.answers: list[tuple[int, str, float, float]] = []
        self._stack, self._token = stack, token
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        host = self._stack.gateway.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=10)
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                connection.request("GET", "/s/pay/items", headers={"Authorization": f"Bearer {self._token}"})
                answer = connection.getresponse()
                answer.read()
                self.answers.append((answer.status, answer.headers.get("x-request-id", ""), started, time.monotonic()))
            except (OSError, http.client.HTTPException):
                connection.close()
                connection = http.client.HTTPConnection(host, timeout=10)


def ready(stack: Stack, token: str, within: float = 45) -> None:
    """Both workers let requests through, and the API answers: ten in a row, on new connections."""
    deadline, in_a_row = time.monotonic() + within, 0
    while in_a_row < 10:
        try:
            passed = call("GET", f"{stack.gateway}/s/pay/items", token=token).status == 200
            passed = passed and stack.admin("GET", "/api/v1/servers?limit=1").status == 200
        except OSError:
            passed = False
        in_a_row = in_a_row + 1 if passed else 0
        assert time.monotonic() < deadline, "the gateway did not come back"
        time.sleep(0 if passed else 0.05)


def authority(stack: Stack, within: float = 45) -> str:
    """A mandate, as soon as one is issued: the test before may have stopped something."""
    deadline = time.monotonic() + within
    while (got := stack.mandate("pay-agent", "pay")).status != 200:
        assert time.monotonic() < deadline, got
        time.sleep(0.1)
    return str(got.json["access_token"])


def in_ledger(stack: Stack, ids: set[str], within: float = 30) -> None:
    """Every id stands in the ledger exactly once."""
    deadline = time.monotonic() + within
    while True:
        found: list[str] = []
        cursor = ""
        while True:
            got = stack.admin("GET", f"/api/v1/audit/events?code=BW4001&limit=500&{cursor}")
            if got.status != 200:
                break
            found += [entry["event"]["request_id"] for entry in got.json["events"]]
            if not got.json["next"]:
                break
            cursor = f"cursor={got.json['next']}"
        if ids <= set(found):
            assert len([each for each in found if each in ids]) == len(ids), "an event stands twice"
            return
        assert time.monotonic() < deadline, f"{len(ids - set(found))} of {len(ids)} acknowledged requests are missing"
        time.sleep(0.2)


@pytest.mark.parametrize("part", ["w1", "work", "guard", "gateway", "postgres"])
def test_a_part_killed_loses_nothing_acknowledged(stack: Stack, part: str) -> None:
    token = authority(stack)
    ready(stack, token)
    victim = stack.parts()[part]
    with Load(stack, token) as load:
        time.sleep(0.4)
        os.kill(victim, signal.SIGKILL)
        time.sleep(1.2)
    ready(stack, token)
    statuses = [status for status, *_ in load.answers]
    assert statuses.count(200) > 20
    assert set(statuses) <= {200, 503}, set(statuses)
    if part == "w1":
        # what was in flight in it, on four connections; the rest is served by the other worker
        assert statuses.count(503) <= 4
    in_ledger(stack, {request_id for status, request_id, *_ in load.answers if status == 200})
    verified = stack.cli("audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_database_that_stops_is_outlived_until_freshness_ends(stack: Stack) -> None:
    token = authority(stack)
    ready(stack, token)
    postgres = stack.parts()["postgres"]
    children = [int(line) for line in open(f"/proc/{postgres}/task/{postgres}/children").read().split()]
    for pid in (postgres, *children):
        os.kill(pid, signal.SIGSTOP)
    try:
        stopped = time.monotonic()
        assert call("GET", f"{stack.gateway}/s/pay/items", token=token).status == 200
        while True:
            got = call("GET", f"{stack.gateway}/s/pay/items", token=token)
            if got.status != 200:
                break
            assert time.monotonic() - stopped < 20, "it went on past the limit"
            time.sleep(0.05)
        assert (got.status, got.reason) == (503, "revocation_stale")
        assert time.monotonic() - stopped > 1.5
    finally:
        for pid in (*children, postgres):
            os.kill(pid, signal.SIGCONT)
    ready(stack, token)


def test_after_a_revocation_was_answered_nothing_passes(stack: Stack) -> None:
    token = authority(stack)
    ready(stack, token)
    with Load(stack, token) as load:
        time.sleep(0.3)
        for _ in range(50):  # a worker that still recovers from the test before refuses to answer for others
            got = stack.admin("POST", "/api/v1/revocations", {"mandate": claims(token)["jti"], "reason": "test"})
            if got.status == 201:
                break
            time.sleep(0.2)
        answered = time.monotonic()
        time.sleep(0.5)
    assert got.status == 201 and got.json["confirmed_by"], got
    late = [status for status, _, started, _ in load.answers if started > answered]
    assert late and set(late) == {401}


def test_a_worker_that_does_not_confirm_is_fenced(stack: Stack) -> None:
    token = authority(stack)
    ready(stack, token)
    silent = stack.parts()["w2"]
    os.kill(silent, signal.SIGSTOP)
    started = time.monotonic()
    got = stack.admin("POST", "/api/v1/revocations", {"application": "pay-agent", "reason": "test"})
    if got.status != 201:  # the API request itself may have waited on the stopped worker
        got = stack.admin("POST", "/api/v1/revocations", {"application": "pay-agent", "reason": "test"})
    assert got.status == 201, got
    assert time.monotonic() - started < 30
    assert call("GET", f"{stack.gateway}/s/pay/items", token=token).status == 401
    assert not os.path.exists(f"/proc/{silent}") or "Z" in open(f"/proc/{silent}/stat").read().split()[2]
    fresh = stack.token_for("pay-agent", "pay")
    ready(stack, fresh)


def test_a_changed_row_is_found(stack: Stack) -> None:
    import psycopg

    from bailiwick.kernel.embedded_postgres import EmbeddedPostgres
    from bailiwick.kernel.paths import Layout

    assert stack.cli("audit", "verify").returncode == 0
    with psycopg.connect(EmbeddedPostgres(Layout(stack.data_dir)).url(), autocommit=True) as connection:
        seq, rest = connection.execute("SELECT seq, rest FROM ledger.events ORDER BY seq OFFSET 7 LIMIT 1").fetchone()
        connection.execute("UPDATE ledger.events SET rest = %s WHERE seq = %s", (rest.replace(b'"v":1', b'"v":2'), seq))
        found = stack.cli("audit", "verify", "--json")
        connection.execute("UPDATE ledger.events SET rest = %s WHERE seq = %s", (rest, seq))
    assert found.returncode == 1
    assert re.search(rf'"seq":\s*{seq}\b', found.stdout), found.stdout
    assert stack.cli("audit", "verify").returncode == 0
