"""Does anything acknowledged go missing while every process is killed again and again?

The whole program with three workers is under load at 80 % of a briefly measured peak. Meanwhile processes are killed in
an order drawn from a seed (every worker, the work role, the guard, Envoy, PostgreSQL, once the supervisor itself) and
PostgreSQL is stopped and started. Afterwards the client's own log is held against the ledger, exported and checked by
``bailiwick-verify`` with keys that were fetched before: every identifier in it must stand there exactly once, and what
a worker answered on one connection to it in that order. Where evidence is sent to a SIEM, one that is away at times
must have been told of every event. Exits 1 when anything is missing, doubled, out of order, undelivered, not verified,
or did not come back.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bailiwick.cli.asking import ask
from bailiwick.cli.failure import CommandFailed
from bailiwick.evidence import codes
from bailiwick.evidence.drained import drained
from bailiwick.kernel.db import Database
from bailiwick.kernel.embedded_postgres import EmbeddedPostgres
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.paths import Layout
from bailiwick_verify.merkle import TILE_WIDTH
from bailiwick_verify.tiles import decode_bundle, tiles_of
from bench.common import CLI, Stack, free_port, nginx, report, stack
from bench.governed import governed_server, mandate, wait_governed
from bench.soak_client import Task

WORKERS = 3
_SINKS = "/api/v1/siem/sinks"
_QUESTION = {"user_id": "admin", "resource": "servers", "action": "read"}
_LOAD = 0.8
_BACK_S = 90.0
_SHOWN = 10


# ---------------------------------------------------------------------- the load


class Bearers:
    """Keeps fresh bearers in a file for the client: a mandate does not live as long as a soak."""

    def __init__(self, made: Stack, form: str, path: Path) -> None:
        self._made, self._form, self._path = made, form, path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.renew()

    def renew(self) -> str:
        """Write a new mandate, and the administrator's session; answers the mandate."""
        token = mandate(self._made, self._form)
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps({"g": token, "d": self._made.api.token}))
        new.replace(self._path)
        return token

    def __enter__(self) -> Bearers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(60):
            with contextlib.suppress(OSError):  # who answers is being killed; the mandate lives for 15 minutes
                self.renew()


class Load:
    """The client, a process of its own."""

    def __init__(self, task: Task) -> None:
        self._seconds = task.seconds
        command = [sys.executable, "-m", "bench.soak_client"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(task)) + "\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Have it come to an end."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What it saw, once it has ended."""
        out, _ = self._process.communicate(timeout=self._seconds + 60)
        if self._process.returncode:
            raise RuntimeError("the client failed")
        seen: dict[str, Any] = json.loads(out)
        return seen


# ---------------------------------------------------------------------- the trouble


@dataclass
class Trouble:
    """Kills and restarts, in an order drawn from ``chance``, each once before any comes again.

    ``killed`` counts them; ``failed`` tells of a part that did not come back.
    """

    made: Stack
    chance: random.Random
    deadline: float
    pause: tuple[float, float]
    outages: list[tuple[str, Callable[[], None]]] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Until the deadline, and until each had its turn; the supervisor's comes once, after half the time."""
        parts = [*(f"w{number + 1}" for number in range(WORKERS)), "work", "guard", "gateway", "postgres"]
        turns: list[tuple[str, Callable[[], None]]] = [(part, lambda part=part: self._kill(part)) for part in parts]  # type: ignore[misc]
        turns += [("postgres stopped", self._stop_postgres), *self.outages]
        half, supervisor = (time.monotonic() + self.deadline) / 2, False
        waiting = self.chance.sample(turns, len(turns))
        once = False
        while not (once and supervisor and time.monotonic() > self.deadline):
            time.sleep(self.chance.uniform(*self.pause))
            if not supervisor and (once or time.monotonic() > half):
                supervisor = True
                self._turn("supervisor", self._kill_supervisor)
                continue
            self._turn(*waiting.pop())
            if not waiting:
                waiting, once = self.chance.sample(turns, len(turns)), True

    def _turn(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
            self.killed[name] += 1
        except (OSError, subprocess.SubprocessError, TimeoutError, CommandFailed) as error:
            self.failed.append(f"{name}: {error!r}"[:300])

    def _kill(self, part: str, number: int = signal.SIGKILL) -> None:
        self._until(lambda: self._pid(part) > 0, f"{part} does not run")  # killed just now, it may not be back yet
        victim = self._pid(part)
        os.kill(victim, number)
        self._until(lambda: self._pid(part) not in (0, victim), f"{part} does not come back")

    def _stop_postgres(self) -> None:
        self._kill("postgres", signal.SIGINT)  # PostgreSQL's own fast shutdown

    def _kill_supervisor(self) -> None:
        """Everything goes with it; ``up`` starts it again on what is there."""
        supervisor = int(ask(Layout(self.made.data_dir), "status")["pid"])
        os.kill(supervisor, signal.SIGKILL)
        self._until(lambda: not Path(f"/proc/{supervisor}").exists(), "the supervisor survives SIGKILL")
        self.made.up()

    def _pid(self, part: str) -> int:
        """Of a part that is ready; 0 for one that is not."""
        with contextlib.suppress(CommandFailed):
            for each in ask(Layout(self.made.data_dir), "status")["parts"]:
                if each["name"] == part and each["state"] == "ready":
                    return int(each["pid"])
        return 0

    @staticmethod
    def _until(done: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _BACK_S
        while True:
            if done():
                return
            if time.monotonic() > deadline:
                raise TimeoutError(otherwise)
            time.sleep(0.1)


class Sink:
    """A SIEM that receives events by webhook, and is away at times. ``ids`` counts what it took, by event id."""

    def __init__(self) -> None:
        self.ids: Counter[str] = Counter()
        self.away = False
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if sink.away:
                    self.send_error(503)
                    return
                sink.ids.update(_event_ids(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def enlist(self, made: Stack) -> None:
        """Have the installation send everything here."""
        secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
        wanted = {"name": "soak", "kind": "webhook", "options": {"url": self.url}, "secrets": {"secret": secret}}
        made.api.call("POST", _SINKS, wanted)

    def outage(self) -> None:
        """Refuse everything for three seconds."""
        self.away = True
        time.sleep(3)
        self.away = False

    def lacks(self, ids: Collection[str], within: float) -> int:
        """How many of ``ids`` did not arrive ``within`` seconds."""
        deadline = time.monotonic() + within
        while (missing := sum(1 for each in ids if each not in self.ids)) and time.monotonic() < deadline:
            time.sleep(0.5)
        return missing

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def sinks_offered(made: Stack) -> bool:
    """Whether this version sends evidence anywhere."""
    return _SINKS in made.api.call("GET", "/openapi.json")["paths"]


def _event_ids(body: bytes) -> Iterator[str]:
    """The ids of the events in what was posted: JSON values one behind the other, the event anywhere inside."""
    decoder, text = json.JSONDecoder(), body.decode()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        yield from _ids_within(value)
        text = text[end:]


def _ids_within(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("id"), str) and str(value.get("code", "")).startswith("BW"):
            yield value["id"]
            return
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _ids_within(item)


# ---------------------------------------------------------------------- the proof


@dataclass
class Proof:
    """What the client's log and the ledger say of each other."""

    acknowledged: int = 0
    ledgered: int = 0
    missing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    verify: str = "NO_DATA"
    ids: set[str] = field(default_factory=set)
    undelivered: int = 0

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        wrong = self.missing or self.doubled or self.disordered or self.undelivered
        return bool(self.acknowledged) and not wrong and self.verify == "PASS"


def settle(made: Stack) -> None:
    """Wait until the ledger holds all there is, under a signed head; raises TimeoutError."""
    layout = Layout(made.data_dir)
    url = EmbeddedPostgres(layout).url()

    async def wait() -> None:
        database = Database(url)
        deadline = time.monotonic() + _BACK_S
        try:
            while time.monotonic() < deadline:
                with contextlib.suppress(Unavailable):
                    if await drained(database, layout.spool, timeout_s=_BACK_S) and await _signed(database):
                        return
                await asyncio.sleep(0.2)
        finally:
            await database.close()
        raise TimeoutError("the ledger does not catch up")

    asyncio.run(wait())


async def _signed(database: Database) -> bool:
    async with database.begin() as tx:
        size = await tx.value("SELECT max(seq) + 1 FROM ledger.events WHERE zone = 'default'")
        return bool(size == await tx.value("SELECT max(size) FROM ledger.heads WHERE zone = 'default'"))


def prove(made: Stack, log: Path, keys: Path, folder: Path) -> Proof:
    """Export the ledger, have it verified, and hold the client's log against it."""
    proof = Proof()
    export = [*CLI, "audit", "export", str(folder), "--data-dir", str(made.data_dir), "--json"]
    done = subprocess.run(export, capture_output=True, text=True, check=False, env=dict(made.environment))
    if done.returncode:
        raise RuntimeError(f"the export failed: {done.stdout}{done.stderr}")
    size = int(json.loads(done.stdout)["events"])
    verify = [sys.executable, "-m", "bailiwick_verify.cli", "export", str(folder), "--key", str(keys), "--json"]
    checked = subprocess.run(verify, capture_output=True, text=True, check=False)
    proof.verify = str(json.loads(checked.stdout)["verdict"]) if checked.stdout else f"ERROR: {checked.stderr[-300:]}"
    _compare(proof, log, _places(folder, size, proof.ids))
    return proof


def _places(folder: Path, size: int, ids: set[str]) -> dict[str, list[int]]:
    """Where in the exported log each identifier stands: of a request that was let through, of a decision.

    ``ids`` is given the id of every event.
    """
    places: dict[str, list[int]] = {}
    for tile in tiles_of(size, entries=True):
        for offset, entry in enumerate(decode_bundle((folder / tile.path).read_bytes())):
            event = json.loads(entry)
            ids.add(event["id"])
            if event["code"] == codes.GATEWAY_ALLOWED.code:
                identifier = f"request {event['request_id']}"
            elif event["code"] == codes.DECISION_EVALUATED.code:
                identifier = f"decision {event['id']}"
            else:
                continue
            places.setdefault(identifier, []).append(tile.index * TILE_WIDTH + offset)
    return places


def _compare(proof: Proof, log: Path, places: dict[str, list[int]]) -> None:
    newest: dict[str, int] = {}
    for kind, connection, identifier in _lines(log):
        proof.acknowledged += 1
        found = places.get(f"{'request' if kind == 'g' else 'decision'} {identifier}", [])
        proof.ledgered += bool(found)
        if not found:
            proof.missing.append(identifier)
            continue
        if len(found) > 1:
            proof.doubled.append(identifier)
        if kind == "w":
            if newest.get(connection, -1) > found[0]:
                proof.disordered.append(identifier)
            newest[connection] = found[0]


def _lines(log: Path) -> Iterable[list[str]]:
    with log.open() as stream:
        for line in stream:
            if line.endswith("\n"):
                yield line.split()


# ---------------------------------------------------------------------- all of it


def run(given: argparse.Namespace) -> int:
    """Soak, prove, report; 1 when something does not hold."""
    upstream_port, chance = free_port(), random.Random(given.seed)
    with (
        nginx(upstream_port),
        stack(workers=WORKERS, concurrency=1) as made,
        tempfile.TemporaryDirectory(prefix="bw-soak-", dir="/tmp") as home,
        contextlib.ExitStack() as ending,
    ):
        place = Path(home)
        form = governed_server(made, upstream_port)
        bearers = Bearers(made, form, place / "bearers.json")
        wait_governed(f"{made.gateway}/s/bench/items", bearers.renew())
        (place / "keys").write_bytes(urllib.request.urlopen(f"{made.api.base}/evidence/default/verifier-keys").read())
        log = place / "acknowledged"
        sink = given.sink and sinks_offered(made) and Sink()
        if sink:
            sink.enlist(made)
            ending.callback(sink.close)

        def task(seconds: float, rate: float) -> Task:
            layout = Layout(made.data_dir)
            workers = [str(layout.slot(f"w{number + 1}").api) for number in range(WORKERS)]
            ports = made.gateway_port, made.api_port, workers
            files = str(place / "bearers.json"), str(log)
            return Task(*ports, "/s/bench/items", _QUESTION, *files, given.connections, seconds, rate)

        peak = sum(Load(task(given.peak_seconds, 0.0)).result()["acknowledged"].values()) / given.peak_seconds
        rate = min(_LOAD * peak, given.most_rate or peak)
        with bearers:
            load = Load(task(given.seconds + 2 * _BACK_S, rate))
            began = time.monotonic()
            trouble = Trouble(made, chance, began + given.seconds, (given.pause / 2, given.pause * 3 / 2))
            if sink:
                trouble.outages.append(("sink", sink.outage))
            trouble.run()
            load.stop()
            seen, lasted = load.result(), time.monotonic() - began
        settle(made)
        proof = prove(made, log, place / "keys", place / "export")
        measured = {"peak_rps": peak, "rate_rps": rate, "seconds": lasted}
        if sink:
            proof.undelivered = sink.lacks(proof.ids, _BACK_S)
            measured |= {"delivered": len(sink.ids), "repeated": sum(sink.ids.values()) - len(sink.ids)}
    told(given, proof, trouble, seen, measured)
    return 0 if proof.holds and not trouble.failed else 1


def told(
    given: argparse.Namespace, proof: Proof, trouble: Trouble, seen: dict[str, Any], measured: dict[str, float]
) -> None:
    """Print the result."""
    figures = {
        "acknowledged": proof.acknowledged,
        "ledgered": proof.ledgered,
        "missing": len(proof.missing),
        "doubled": len(proof.doubled),
        "out_of_order": len(proof.disordered),
        "undelivered": proof.undelivered,
        "events": len(proof.ids),
        "kills": sum(trouble.killed.values()),
        "restarts": trouble.killed["postgres stopped"] + trouble.killed["supervisor"],
        **{name: round(value, 1) for name, value in measured.items()},
    }
    wrong = {"missing": proof.missing, "doubled": proof.doubled, "out_of_order": proof.disordered}
    report(
        "soak",
        figures,
        given.json,
        verify=proof.verify,
        killed=dict(trouble.killed),
        not_back=trouble.failed,
        answers=seen,
        first_wrong={name: identifiers[:_SHOWN] for name, identifiers in wrong.items()},
        seed=given.seed,
        path="through Envoy",
    )


def main(arguments: list[str]) -> int:
    """``python -m bench soak``."""
    parser = argparse.ArgumentParser(prog="python -m bench soak")
    parser.add_argument("--seconds", type=float, default=600, help="how long parts are killed under load")
    parser.add_argument("--peak-seconds", type=float, default=5, help="how long the peak is measured")
    parser.add_argument("--pause", type=float, default=6, help="mean time between two kills")
    parser.add_argument("--most-rate", type=float, default=0, help="requests a second at most, whatever the peak")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--no-sink", dest="sink", action="store_false", help="send nothing to a SIEM")
    parser.add_argument("--json", metavar="FILE")
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
