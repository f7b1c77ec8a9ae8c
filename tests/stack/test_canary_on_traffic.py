"""Canaries over a whole installation: the real Envoy, load through it, and upstreams that behave and do not."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from rig import UPSTREAM_KEY, Stack, installation

from bailiwick.gateway.lease import HELD_S

BUCKET_S = 0.2
WITHDRAWN_WITHIN_S = 5.0
LOOSE = [  # the machine is busy and buckets are short: what is tried is the way, the judge has tests of its own
    {"metric": "errors", "slack": 0.05, "veto": 0.3, "floor": 0.05},
    {"metric": "p50", "tolerance": 1.0, "slack": 60},
]


class Arm:
    """An upstream that fails a part of its requests, and takes its time. ``seen``: when it was asked."""

    def __init__(self, *, fails: float = 0.0, takes: float = 0.0) -> None:
        self.seen: list[float] = []
        self.strangers = 0
        arm = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                arm.seen.append(time.monotonic())
                arm.strangers += self.headers.get("x-api-key") != UPSTREAM_KEY or "authorization" in self.headers
                time.sleep(takes)
                bad = fails and len(arm.seen) % round(1 / fails) == 0
                body = b'{"by":"upstream"}'
                self.send_response(500 if bad else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Load:
    """Callers who ask without pause. ``answers`` counts each status with who gave it."""

    def __init__(self, stack: Stack, server: str, token: Callable[[], str], callers: int = 3) -> None:
        self.answers: Counter[tuple[int, str]] = Counter()
        self._stack, self._server, self._token = stack, server, token
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(callers)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        address = urlsplit(self._stack.gateway)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
        with contextlib.closing(connection):
            while not self._stopping.is_set():
                connection.request(
                    "GET", f"/s/{self._server}/items", headers={"Authorization": f"Bearer {self._token()}"}
                )
                answer = connection.getresponse()
                by = json.loads(answer.read())
                self.answers[answer.status, by.get("by", by.get("reason", ""))] += 1


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with installation(WORKERS="1", BAILIWICK_RELEASE=digest("4")) as made:
        told = json.loads(made.cli("assurance", "show", "--json").stdout)
        kept = [{name: each[name] for name in ("apiVersion", "kind", "metadata", "spec")} for each in told]
        quick = {"steps": [50, 100], "metrics": LOOSE, "bucket_s": BUCKET_S, "owner": "uptime", "patience": 3000}
        kept.append({"apiVersion": "bailiwick/v1", "kind": "CanaryPlan", "metadata": {"name": "quick"}, "spec": quick})
        folder = tmp_path_factory.mktemp("book")
        (folder / "all.yaml").write_text(yaml.safe_dump_all(kept))
        applied = made.cli("assurance", "apply", str(folder))
        assert applied.returncode == 0, applied.stdout + applied.stderr
        yield made


class Ground:
    """A server `name` with a stable arm and a baseline, asked all the time."""

    def __init__(self, stack: Stack, name: str, **candidate: float) -> None:
        self.stack, self.name = stack, name
        self.stable, self.baseline, self.candidate = Arm(), Arm(), Arm(**candidate)
        agent = stack.govern(name, upstream_url=self.stable.url)
        token = stack.token_for(agent, name)
        assert stack.governed(token, f"/s/{name}/items").status == 200
        self.load = Load(stack, name, lambda: token)

    def start(self, digest: str, **more: Any) -> dict[str, Any]:
        body = {"server": self.name, "digest": digest, "plan": "quick", "candidate_url": self.candidate.url,
                "baseline_url": self.baseline.url, **more}  # fmt: skip
        got = self.stack.admin("POST", "/api/v1/canaries", body)
        assert got.status == 201, got
        return dict(got.json)

    def now(self, canary: dict[str, Any]) -> dict[str, Any]:
        return dict(self.stack.admin("GET", f"/api/v1/canaries/{canary['id']}").json)

    def until(self, what: Callable[[], Any], within: float = 60) -> Any:
        deadline = time.monotonic() + within
        while not (found := what()):
            assert time.monotonic() < deadline, "it does not come"
            time.sleep(0.05)
        return found

    def quiet_after(self, since: float) -> float:
        """Seconds from ``since`` to the last request that the candidate had, once it has none for two seconds."""
        self.until(lambda: time.monotonic() - self.candidate.seen[-1] > 2)
        return max(0.0, self.candidate.seen[-1] - since)

    def only(self, *answers: tuple[int, str]) -> None:
        """The callers saw nothing else."""
        assert set(self.load.answers) <= {(200, "upstream"), *answers}, self.load.answers

    def close(self) -> None:
        for arm in (self.stable, self.baseline, self.candidate):
            assert not arm.strangers, "an arm without the server's credential, or with the caller's"
            arm.close()


@contextlib.contextmanager
def ground_of(stack: Stack, name: str, **candidate: float) -> Iterator[Ground]:
    ground = Ground(stack, name, **candidate)
    try:
        with ground.load:
            yield ground
    finally:
        ground.close()


@contextlib.contextmanager
def signed_in(stack: Stack) -> Iterator[None]:
    stack.environment["BAILIWICK_TOKEN"] = stack.token
    try:
        yield
    finally:
        del stack.environment["BAILIWICK_TOKEN"]


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def test_a_bad_candidate_is_refused_and_has_no_traffic_soon(stack: Stack) -> None:
    with ground_of(stack, "bad", fails=0.5) as ground:
        canary = ground.start(digest("1"))
        ended = ground.until(lambda: (told := ground.now(canary))["state"] == "withdrawn" and told)
        seen = time.monotonic()
        assert (ended["verdict"], ended["reason"]) == ("FAIL", "veto")
        assert ground.quiet_after(seen) <= WITHDRAWN_WITHIN_S
        ground.only((500, "upstream"))
        assert ground.candidate.seen, "it never had any"
    told = stack.cli("canary", "show", canary["id"])
    assert told.returncode == 1 and "veto" in told.stdout
    assert max(map(len, told.stdout.splitlines())) <= 80
    with signed_in(stack):
        standing = stack.cli("canary", "standing", digest("1"))
        again = stack.cli("canary", "start", "bad", "--digest", digest("1"), "--candidate", "http://127.0.0.1:9",
                          "--baseline", "http://127.0.0.1:9", "--plan", "quick")  # fmt: skip
    assert (standing.returncode, standing.stdout.splitlines()[0]) == (1, "NO-GO: FAIL")
    assert again.returncode == 1


def test_a_good_candidate_is_promoted_and_taken_back_without_a_failed_request(stack: Stack) -> None:
    with ground_of(stack, "good") as ground:
        canary = ground.start(digest("2"))
        ended = ground.until(lambda: (told := ground.now(canary))["state"] != "running" and told)
        assert (ended["state"], ended["verdict"]) == ("promoted", "PASS"), ended
        assert [each["percent"] for each in ended["judgements"] if each["verdict"] == "PASS"] == [50]
        ground.until(lambda: time.monotonic() - ground.stable.seen[-1] > 1 and ground.stable.seen)
        standing = stack.admin("GET", f"/api/v1/canaries/standing?digest={digest('2')}").json
        assert (standing["verdict"], standing["go"]) == ("PASS", True)
        asked = time.monotonic()
        got = stack.admin("POST", f"/api/v1/canaries/{canary['id']}/withdraw", {"why": "rolled back"})
        assert got.status == 200
        assert ground.quiet_after(asked) <= WITHDRAWN_WITHIN_S
        ground.only()


def test_a_killed_work_role_goes_on_and_one_that_hangs_leaves_no_candidate_with_traffic(stack: Stack) -> None:
    with ground_of(stack, "left") as ground:
        canary = ground.start(digest("3"), automatic=False)
        ground.until(lambda: ground.candidate.seen)
        os.kill(stack.parts()["work"], signal.SIGKILL)
        before = ground.now(canary)["points"]["candidate"]
        ground.until(lambda: ground.now(canary)["points"]["candidate"] > before + 3)
        assert ground.now(canary)["state"] == "running"

        ground.until(lambda: time.monotonic() - ground.candidate.seen[-1] < 0.5)
        work = stack.parts()["work"]
        supervisor = int(Path(f"/proc/{work}/stat").read_text().rpartition(")")[2].split()[1])
        for hung in (supervisor, work):  # the supervisor too, which would put another in its place
            os.kill(hung, signal.SIGSTOP)
        try:
            assert ground.quiet_after(time.monotonic()) <= HELD_S + WITHDRAWN_WITHIN_S
        finally:
            for hung in (work, supervisor):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(hung, signal.SIGCONT)
        ended = ground.until(lambda: (told := ground.now(canary))["state"] == "withdrawn" and told)
        assert (ended["verdict"], ended["reason"]) == ("NO_DATA", "unwatched")
        quiet = len(ground.candidate.seen)
        time.sleep(3)
        assert len(ground.candidate.seen) == quiet, "it had traffic again before anybody judged"
        ground.only()


def _activate(stack: Stack, source: str) -> None:
    mark = "x-boundary-x"
    parts = {"name": "all", "activate": "true"}
    body = "".join(f'--{mark}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in parts.items())
    named = 'Content-Disposition: form-data; name="file"; filename="all.rego"'
    body += f"--{mark}\r\n{named}\r\n\r\n{source}\r\n--{mark}--\r\n"
    kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    assert stack.agreed("POST", "/api/v1/policies", body.encode(), headers=kind).status == 200


def test_the_loop_of_access_closes_for_a_release_and_for_a_policy(stack: Stack) -> None:
    with signed_in(stack):
        told = stack.cli("canary", "loop", "--digest", digest("4"))
        assert told.returncode == 0, told.stdout + told.stderr
        assert told.stdout.splitlines()[-1].startswith("PASS for sha256:4444")
        assert max(map(len, told.stdout.splitlines())) <= 80
        again = stack.cli("canary", "loop", "--digest", digest("4"))
        assert again.returncode == 0, "what one leaves behind stands in the way of no other"
        assert "GO: PASS" in stack.cli("canary", "standing", digest("4")).stdout
        elsewhere = stack.cli("canary", "loop", "--digest", digest("5"))
        assert elsewhere.returncode == 1 and "loop_elsewhere" in elsewhere.stdout + elsewhere.stderr
        assert stack.cli("canary", "standing", digest("5")).returncode == 3

        _activate(stack, "package all\nimport rego.v1\ndefault allow := true\n")
        of_policy = json.loads(stack.cli("canary", "loop", "--json").stdout)
        assert of_policy["verdict"] == "PASS", of_policy["steps"]
        _activate(stack, 'package all\nimport rego.v1\ndeny contains "closed" if input.stage == "request"\n')
        refused = json.loads(stack.cli("canary", "loop", "--json").stdout)
        assert refused["digest"] != of_policy["digest"]
        assert (refused["verdict"], refused["reason"]) == ("FAIL", "loop"), refused["steps"]
        assert refused["told"].startswith("used: expected 200 with the server's own credential, got 403 ")

        # and each of both policies was tried without anybody asking
        of_itself = {}
        for found in (of_policy, refused):
            of_itself[found["verdict"]] = _until(lambda found=found: _tried(stack, found["digest"]))
        assert of_itself["PASS"]["verdict"] == "PASS", of_itself
        assert of_itself["FAIL"]["verdict"] == "FAIL" and of_itself["FAIL"]["told"] == refused["told"]
        alert = _until(lambda: _alert(stack, "AccessLoopFailed"))
        assert alert["severity"] == "P2" and refused["digest"][:19] in alert["summary"]
        _activate(stack, "package all\nimport rego.v1\ndefault allow := false\n")
        _until(lambda: _alert(stack, "AccessLoopFailed") is None)
    listed = [each["name"] for each in stack.admin("GET", "/api/v1/servers").json["items"]]
    assert not [name for name in listed if name.startswith("access-loop")]


def _until(found: Callable[[], Any], within_s: float = 90.0) -> Any:
    until = time.monotonic() + within_s
    while not (answer := found()):
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.2)
    return answer


def _tried(stack: Stack, policy_set: str) -> Any:
    results = stack.admin("GET", f"/api/v1/canaries/results?digest={policy_set}").json["results"]
    return next((each for each in results if each["by"] == "system:access-canary"), None)


def _alert(stack: Stack, rule: str) -> Any:
    found = stack.admin("GET", "/api/v1/alerts?state=firing&state=acknowledged&limit=500").json["items"]
    return next((each for each in found if each["rule"] == rule), None)
