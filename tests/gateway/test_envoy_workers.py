"""Workers die, hang, come and go; callers notice as little as can be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from envoy_rig import Rig, StandInCheck, wait_for
from raw_http import Raw, ask

from bailiwick.gateway.envoy import Worker

REQUEST = b"GET /s/echo/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer t\r\n\r\n"


class Load:
    """Callers that ask one request after the other on kept connections, and note every status but 200."""

    def __init__(self, port: int, callers: int) -> None:
        self.answered = 0
        self.refused: list[tuple[float, int, str]] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(port,)) for _ in range(callers)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, port: int) -> None:
        with Raw(port) as connection:
            while not self._stop.is_set():
                started = time.monotonic()
                answer = connection.send(REQUEST).answer()
                self.answered += 1
                if answer.status != 200:
                    self.refused.append((started, answer.status, answer.json()["reason"]))

    def answers(self, more: int) -> None:
        """Wait until so many more requests were answered."""
        target = self.answered + more
        wait_for(lambda: self.answered >= target)


def start_worker(worker: Worker, pause_s: float = 0.0) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("standin_worker.py")
    process = subprocess.Popen([sys.executable, str(script), str(worker.check_socket), str(pause_s)])
    wait_for(worker.check_socket.exists)
    return process


@pytest.fixture
def two_workers():
    with Rig(concurrency=2) as rig:
        workers = [Worker(name, rig.run / f"{name}-api.sock", rig.run / f"{name}-check.sock") for name in ("k0", "k1")]
        processes = [start_worker(worker, 0.002) for worker in workers]
        try:
            rig.loop.run(rig.files.set_workers(workers))
            wait_for(lambda: rig.ask().status == 200)
            yield rig, workers, processes
        finally:
            for process in processes:
                process.kill()
                process.wait()


def test_a_killed_worker_loses_only_what_it_was_answering(two_workers):
    rig, workers, processes = two_workers
    callers = 16
    with Load(rig.port, callers) as load:
        load.answers(200)
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        dead_since = time.monotonic()
        load.answers(400)
        processes[0] = start_worker(workers[0], 0.002)
        load.answers(200)

    assert {(status, reason) for _, status, reason in load.refused} <= {(503, "check_unavailable")}
    assert len(load.refused) <= callers, "at most one request of each caller was in flight"
    assert not [started for started, _, _ in load.refused if started > dead_since]


def test_a_worker_that_hangs_is_set_aside(two_workers):
    rig, _, processes = two_workers
    with Load(rig.port, 8) as load:
        load.answers(100)
        os.kill(processes[0].pid, signal.SIGSTOP)
        stopped = time.monotonic()
        wait_for(lambda: time.monotonic() > stopped + 1.7, within=3)
        load.answers(400)
        noticed = time.monotonic()
        load.answers(400)
        os.kill(processes[0].pid, signal.SIGCONT)

    assert not [started for started, _, _ in load.refused if started > noticed]


def test_workers_come_and_go_without_anyone_losing_a_request():
    with Rig(concurrency=2) as rig:
        second = StandInCheck()
        first_worker, second_worker = rig.config.workers[0], rig.worker("w1", check=second)
        with Load(rig.port, 8) as load, Raw(rig.api_port) as console:
            console.send("GET /sse HTTP/1.1\r\nHost: api\r\n\r\n")
            console.until(b"tick")
            for workers in ((first_worker, second_worker), (second_worker,), (first_worker, second_worker)) * 3:
                rig.loop.run(rig.files.set_workers(workers))
                load.answers(50)

            rig.loop.run(rig.files.set_workers((second_worker,)))
            load.answers(20)
            asked_before = len(rig.check.seen)
            load.answers(200)
            assert len(rig.check.seen) == asked_before, "a worker off the list is asked nothing more"
            console.buffer = b""
            console.until(b"tick")

        assert load.refused == []
        assert second.seen


def test_a_worker_fenced_off_is_asked_nothing_once_the_call_returns():
    with Rig() as rig:
        second = StandInCheck()
        both = (rig.config.workers[0], rig.worker("w1", check=second))
        rig.loop.run(rig.files.set_workers(both))
        wait_for(lambda: rig.ask().status == 200 and second.seen)

        rig.loop.run(rig.files.set_workers(both[:1]))
        asked = len(second.seen)
        assert [rig.ask().status for _ in range(20)] == [200] * 20
        assert len(second.seen) == asked


def test_the_api_port_tries_the_next_worker_when_one_is_gone():
    with Rig() as rig:
        gone = Worker("gone", rig.run / "gone-api.sock", rig.run / "gone-check.sock")
        rig.loop.run(rig.files.set_workers((gone, *rig.config.workers)))

        assert {ask(rig.api_port, "/x", method="POST", body=b"b").status for _ in range(20)} == {200}
        assert {rig.ask().status for _ in range(20)} == {200}
