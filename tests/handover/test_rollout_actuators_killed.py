"""kill -9 while the step of a rollout is under way: a request that may do harm twice is made once, whatever becomes of
it; a change of the book is whole or none."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
import rollouts_killed as killed
from rollout_desk import kinds

from bailiwick.handover.rollouts.plans import Plan
from bailiwick.kernel.db import Database, libpq_url


def plan(step: dict[str, Any]) -> Plan:
    """One step after the GO."""
    preflight = {"kind": "preflight", "render": ["r"], "migrations": ["m"], "smoke": ["s"]}
    return Plan.model_validate(
        {
            "title": "killed",
            "service": "pay",
            "signatures": ["ops_owner"],
            "gate": {"name": "any", "title": "any"},
            "phases": [
                {"name": "before", "title": "b", "owner": "operator", "before_go": True,
                 "steps": [{"name": "preflight", "title": "p", "do": preflight}]},
                {"name": "out", "title": "o", "owner": "operator", "steps": [{"name": "call", "title": "c", **step}]},
            ],
        }
    )  # fmt: skip


@dataclass
class Site:
    """An HTTP server that kills the process which asks first, after it did what it was asked for."""

    victim: int = 0
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""


@contextmanager
def site() -> Iterator[Site]:
    made = Site()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.path == "/status":  # tells whether it was done
                done = any(path == "/deploy" for _, path, _ in made.asked)
                self._say(200 if done else 404)
                return
            made.asked.append((self.command, self.path, self.headers.get("idempotency-key", "")))
            if made.victim:
                victim, made.victim = made.victim, 0
                os.kill(victim, signal.SIGKILL)
            self._say(200)

        do_GET = do_POST = do_PUT = do_DELETE = _do

        def _say(self, status: int) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
            except OSError:
                pass  # who asked is dead

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()


def lived(url: str, home: Path, step: dict[str, Any], server: Site, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Where a rollout of one step stands whose first process dies amid it and which another takes over."""
    monkeypatch.setattr(killed, "PLAN", plan(step))
    killed.laid(url, home, "forward")
    started, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.read(started, 1)  # until the server knows whom to kill
            asyncio.run(killed.live(url, home, 1 << 30, False))
        finally:
            os._exit(1)
    server.victim = pid
    os.write(go, b"x")
    _, status = os.waitpid(pid, 0)
    os.close(started)
    os.close(go)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    assert killed.forked(killed.take_over(url, home)) == 0
    return killed.left(url, home)


KEY = f"{killed.ID}/call/forward"
DEPLOY = ("POST", "/deploy", KEY)


def request(server: Site, method: str = "POST") -> dict[str, Any]:
    return {"do": {"kind": "http", "method": method, "url": f"{server.url}/deploy"}}


def test_a_request_that_may_do_harm_twice_is_never_made_again(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether it was done, which is said, and a person decides."""
    with site() as server:
        life = lived(database_url, tmp_path, request(server), server, monkeypatch)
        assert server.asked == [DEPLOY]
        assert (life["state"], life["blocked_on"]) == ("waiting", "call") and "nobody knows" in life["told"]
        assert life["attempts"] == [("call", "forward", "lost")]


def test_a_plan_may_say_that_it_is_taken_back_then(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site() as server:
        back = {"title": "undo", "do": {"kind": "http", "method": "DELETE", "url": f"{server.url}/deploy"}}
        step = {**request(server), "back": back, "when_lost": "roll-back"}
        life = lived(database_url, tmp_path, step, server, monkeypatch)
        assert life["state"] == "rolled_back", life
        assert server.asked == [DEPLOY, ("DELETE", "/deploy", f"{killed.ID}/call/back")]


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_one_that_bears_repeating_is_made_again_under_the_same_key(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """By its method (RFC 9110 §9.2.2), or because the plan says that its receiver knows the key again."""
    with site() as server:
        step = {**request(server, method), **({"idempotent": True} if method == "POST" else {})}
        life = lived(database_url, tmp_path, step, server, monkeypatch)
        assert server.asked == [(method, "/deploy", KEY)] * 2
        assert life["state"] == "done" and life["attempts"][-1] == ("call", "forward", "passed")


def test_what_proves_it_is_asked_in_place_of_doing_it_again(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site() as server:
        look = {"http": {"type": "http", "url": f"{server.url}/status", "status": [200]}}
        step = {**request(server), "proves": True, "verify": [look]}
        life = lived(database_url, tmp_path, step, server, monkeypatch)
        assert server.asked == [DEPLOY] and life["state"] == "done"


# ---------------------------------------------------------------------- the book

BOOK = """---
apiVersion: bailiwick/v1
kind: Probe
metadata: {name: one}
spec: {summary: one, owner: uptime, check: {type: http, url: "http://127.0.0.1:1/"}}
"""


async def _work(url: str, home: Path, at: int, after: bool) -> None:
    database = killed.Deadly(url, at, after) if at else Database(url, pool_size=4)
    await killed.engine_on(database, home, kinds()).tick()
    await database.close()


def _book(url: str) -> tuple[int, int, int]:
    """Documents, the newest revision, and how often the events tell of a change of the document."""
    with psycopg.connect(libpq_url(url)) as connection:
        connection.execute("SET search_path = bailiwick")
        row = connection.execute("SELECT count(*), coalesce(max(revision), 0) FROM assurance_documents").fetchone()
        told = connection.execute("SELECT count(*) FROM feed WHERE kind = 'assurance'").fetchone()
    assert row is not None and told is not None
    return row[0], row[1], told[0]


def test_a_change_of_the_book_is_made_once_wherever_it_is_killed(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killed, "PLAN", plan({"do": {"kind": "book", "path": "book"}}))
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "all.yaml").write_text(BOOK)
    at, after, lives, halves = 1, False, 0, set()
    while True:
        killed.laid(database_url, tmp_path, "forward")
        with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
            connection.execute("SET search_path = bailiwick")
            connection.execute("SET session_replication_role = replica")
            for table in ("assurance_documents", "feed"):
                connection.execute(f"DELETE FROM {table}")
        died = os.WIFSIGNALED(killed.forked(_work(database_url, tmp_path, at, after)))
        before = _book(database_url)
        assert before in ((0, 0, 0), (1, 1, 1)), (at, after, before)
        halves.add(before)
        for _ in range(100):
            assert killed.forked(_work(database_url, tmp_path, 0, False)) == 0
            if killed.left(database_url, tmp_path)["state"] == "done":
                break
        life = killed.left(database_url, tmp_path)
        assert life["state"] == "done" and _book(database_url) == (1, 1, 1), (at, after, life)
        lives += 1
        if not died:
            break
        at, after = (at, True) if not after else (at + 1, False)
    assert lives > 10 and halves == {(0, 0, 0), (1, 1, 1)}
