"""The actions of rollouts on real parts: HTTP servers, a name server, the book, a canary. What succeeds, what is
answered wrongly, late or not at all, what leads to where we may not go."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from canary_ground import DIGEST, Ground
from probe_servers import name_server
from rollout_desk import Desk, kinds, reach
from stage import Stage

from bailiwick.app.siem import reach_of
from bailiwick.assurance.probes.means import Means
from bailiwick.evidence.siem.outgoing import Reach
from bailiwick.handover.rollouts import actions
from bailiwick.handover.rollouts.actions import Actions, Done, Tools
from bailiwick.handover.rollouts.plans import Deed
from bailiwick.handover.rollouts.programs import Programs
from bailiwick.handover.rollouts.records import Rollout
from people_fixtures import House
from ports import free_port


@dataclass
class Doing:
    """Does an action as the engine has it done, of a rollout that pat started."""

    stage: Stage
    home: Path
    reach: Reach = reach
    weights: Any = None
    attempt: Any = None

    def __post_init__(self) -> None:
        self.attempt = SimpleNamespace(
            step="call", way="forward", begun_at=self.stage.clock.now(), since=None, approval=""
        )

    async def __call__(self, **do: Any) -> Done:
        stage = self.stage
        means = Means(self.reach, stage.clock, "", self.home)
        tools = Tools(
            stage.database, stage.clock, Programs([], self.home), means, stage.books, cast(Any, None), cast(Any, None),
            weights=self.weights,
        )  # fmt: skip
        deed = Deed.model_validate({"title": "t", "do": do})
        rollout = cast(Rollout, SimpleNamespace(id="r1", zone="default", digest=DIGEST, started_by="pat"))
        return await Actions(tools).act(rollout, deed, self.attempt)


@pytest.fixture
async def stage(house: House) -> Stage:
    return Stage(house, kinds())


@pytest.fixture
def do(stage: Stage, tmp_path: Path) -> Doing:
    return Doing(stage, tmp_path)


# ---------------------------------------------------------------------- http


@dataclass
class Site:
    """A real HTTP server: what arrived, and how it answers."""

    port: int = 0
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


Handler = Callable[[web.Request], Any]


@asynccontextmanager
async def site(answer: Handler) -> AsyncIterator[Site]:
    made = Site()

    async def handle(request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        made.seen.append((request.method, request.path_qs, headers, await request.read()))
        return cast(web.StreamResponse, await answer(request))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        await runner.cleanup()


def says(status: int, body: str = "", **headers: str) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=body, headers=headers)

    return answer


async def test_a_request_is_made_as_the_plan_says_and_its_answer_kept(do: Doing) -> None:
    async with site(says(202, "accepted")) as server:
        done = await do(
            kind="http", url=f"{server.url}/deploys?x=%2F1", headers={"X-Team": "pay"}, body='{"version": 2}'
        )
    assert (done.ok, done.output) == (True, b"accepted")
    assert done.told == f"POST {server.url}/deploys?x=%2F1 answers 202"
    ((method, target, headers, body),) = server.seen
    assert (method, target, json.loads(body)) == ("POST", "/deploys?x=%2F1", {"version": 2})
    # by which whoever takes it can know an attempt again
    assert (headers["x-team"], headers["idempotency-key"]) == ("pay", "r1/call/forward")


@pytest.mark.parametrize(("status", "wanted", "ok"), [(500, None, False), (404, None, False), (404, [404], True)])
async def test_a_status_that_is_not_asked_for_has_failed(do: Doing, status: int, wanted: Any, ok: bool) -> None:
    async with site(says(status, "so it is")) as server:
        done = await do(kind="http", method="GET", url=server.url, **({"status": wanted} if wanted else {}))
    assert (done.ok, done.output) == (ok, b"so it is") and str(status) in done.told
    assert len(server.seen) == 1, "once, whatever is answered"


async def test_an_answer_that_does_not_come_in_time_has_failed(do: Doing) -> None:
    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError

    async with site(hang) as server:
        began = time.monotonic()
        done = await do(kind="http", url=server.url, timeout="1s")
        assert time.monotonic() - began < 20
    assert done.ok is False and "no answer in time" in done.told
    assert len(server.seen) == 1


async def test_a_server_that_is_dead_or_dies_amid_its_answer_has_failed(do: Doing) -> None:
    done = await do(kind="http", url=f"http://127.0.0.1:{free_port()}/")
    assert done.ok is False and "127.0.0.1" in done.told

    async def die(request: web.Request) -> web.StreamResponse:
        begun = web.StreamResponse(headers={"Content-Length": "100"})
        await begun.prepare(request)
        await begun.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return begun

    async with site(die) as server:
        done = await do(kind="http", url=server.url)
    assert done.ok is False and len(server.seen) == 1, "and not again"


async def test_a_redirect_is_not_followed(do: Doing) -> None:
    async with site(says(200)) as forbidden, site(says(302, Location=f"{forbidden.url}/metadata")) as server:
        done = await do(kind="http", method="GET", url=server.url)
    assert done.ok is False and "answers 302" in done.told
    assert forbidden.seen == []


async def test_an_address_that_upstreams_may_not_have_is_not_reached(do: Doing, house: House) -> None:
    """By the resolver that an installation has, for names and for addresses that are written as such."""
    do.reach = reach_of(house.resolver)
    house.names.known["inside.test"] = ["127.0.0.1"]
    house.names.known["away.test"] = None
    async with site(says(200)) as server:
        for host in ("inside.test", "127.0.0.1", "169.254.169.254"):
            done = await do(kind="http", url=f"http://{host}:{server.port}/")
            assert done.ok is False and host in done.told, host
    assert server.seen == []
    for host in ("nowhere.test", "away.test"):
        done = await do(kind="http", url=f"http://{host}/")
        assert done.ok is False and host in done.told


async def test_of_a_long_answer_the_beginning_is_kept(do: Doing) -> None:
    async with site(says(200, "x" * (3 << 20))) as server:
        done = await do(kind="http", url=server.url)
    assert done.ok and len(done.output) == 1 << 20


# ---------------------------------------------------------------------- the book


def probe(name: str, url: str = "http://127.0.0.1:1/") -> str:
    return (
        f"---\napiVersion: bailiwick/v1\nkind: Probe\nmetadata: {{name: {name}}}\n"
        f"spec: {{summary: {name}, owner: uptime, check: {{type: http, url: '{url}'}}}}\n"
    )


PLAN = """---
apiVersion: bailiwick/v1
kind: RolloutPlan
metadata: {name: small}
spec:
  title: %s
  service: pay
  signatures: [ops_owner]
  gate: {name: any, title: Any time}
  phases:
    - name: before
      title: Before
      owner: ops_owner
      before_go: true
      steps: [{name: look, title: Look, do: {kind: preflight, render: [r], migrations: [m], smoke: [s]}}]
    - name: out
      title: Out
      owner: operator
      steps: [{name: go, title: Go, do: {kind: manual, statement: gone}}]
"""


def laid(home: Path, text: str) -> None:
    (home / "book").mkdir(exist_ok=True)
    (home / "book" / "all.yaml").write_text(text)


async def revision(stage: Stage) -> int:
    async with stage.database.begin() as tx:
        return (await stage.books.current(tx, "default")).revision


async def test_a_configuration_is_put_in_force_and_again_changes_nothing(do: Doing, stage: Stage) -> None:
    laid(do.home, probe("one") + probe("two"))
    done = await do(kind="book", path="book")
    assert (done.ok, done.told) == (True, "2 documents changed"), done
    assert done.output == b"added Probe one\nadded Probe two"
    assert set(await stage.documents()) == {("Probe", "one"), ("Probe", "two")}
    was = await revision(stage)
    again = await do(kind="book", path="book")
    assert (again.ok, again.told) == (True, "the book is as book says")
    assert await revision(stage) == was


async def test_what_takes_two_persons_waits_and_is_done_once_they_agreed(do: Doing, stage: Stage) -> None:
    for name in ("pat", "joe", "jim"):
        await stage.people.user(name)
    laid(do.home, PLAN % "A plan")
    waits = await do(kind="book", path="book")
    assert waits.ok is None and waits.told.startswith("waits for approval "), waits
    assert (await do(kind="book", path="book")).told == waits.told, "looked at again, and nothing more is asked"
    assert await stage.documents() == {}
    approval = await stage.quorum.get("default", waits.told.split()[-1])
    for name in ("joe", "jim"):  # two others than pat, who is not there when the program asks
        assert (await do(kind="book", path="book")).ok is None
        await stage.quorum.vote(
            stage.context(name), "default", approval.id, person=name, role="admin", approves=True,
            payload_sha256=approval.payload_sha256,
        )  # fmt: skip
    assert (await do(kind="book", path="book")).ok is True
    assert list(await stage.documents()) == [("RolloutPlan", "small")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: [", "all.yaml"),
        (probe("one").replace("type: http", "type: nothing"), "spec.check"),
        ("", "no documents"),
    ],
)
async def test_a_configuration_that_is_none_fails_and_changes_nothing(
    do: Doing, stage: Stage, text: str, told: str
) -> None:
    laid(do.home, probe("kept"))
    assert (await do(kind="book", path="book")).ok
    laid(do.home, text)
    done = await do(kind="book", path="book")
    assert done.ok is False and told in done.told, done
    assert list(await stage.documents()) == [("Probe", "kept")]


async def test_a_folder_that_is_not_there_is_no_empty_book(do: Doing, stage: Stage, tmp_path: Path) -> None:
    laid(do.home, probe("kept"))
    assert (await do(kind="book", path="book")).ok
    done = await do(kind="book", path="bok")
    assert done.ok is False and "no documents in bok" in done.told
    (do.home / "out").symlink_to("/etc")
    for path in ("out", "book/../../x"):
        done = await do(kind="book", path=path)
        assert done.ok is False and done.told.startswith("program_not_allowed"), done
    assert list(await stage.documents()) == [("Probe", "kept")]


async def test_a_freeze_lets_a_configuration_wait(do: Doing, stage: Stage, tmp_path: Path) -> None:
    laid(do.home, probe("one"))
    desk = Desk(stage, tmp_path)
    await desk.freeze()
    done = await do(kind="book", path="book")
    assert done.ok is None and done.told.startswith("waits: ")
    await desk.thaw()
    assert (await do(kind="book", path="book")).ok is True


# ---------------------------------------------------------------------- dns


@pytest.fixture
async def names() -> AsyncIterator[int]:
    async with name_server() as port:
        yield port


def question(port: int, name: str = "web.test", *answers: str) -> dict[str, Any]:
    return {"kind": "dns", "within": "10m",
            "ask": {"name": name, "server": "127.0.0.1", "port": port, "answers": list(answers)}}  # fmt: skip


async def test_a_name_that_answers_as_it_should_is_done(do: Doing, names: int) -> None:
    done = await do(**question(names, "web.test", "192.0.2.1"))
    assert done.ok is True and b"192.0.2.2" in done.output


@pytest.mark.parametrize(
    "name", ["web.test", "nothing.test", "broken.test", "forged.test", "garbage.test", "dead.test"]
)
async def test_a_name_that_does_not_is_waited_for_and_then_has_failed(
    do: Doing, names: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another answer, no such name, a server that fails, lies, or is dead."""
    monkeypatch.setattr(actions, "_LOOK_S", 1.0)
    asked = question(free_port() if name == "dead.test" else names, name, "203.0.113.9")
    waits = await do(**asked)
    assert waits.ok is None and waits.told, "it may come yet"
    do.stage.clock.advance(599)
    assert (await do(**asked)).ok is None
    do.stage.clock.advance(1)
    late = await do(**asked)
    assert late.ok is False and late.told


async def test_a_name_server_that_says_nothing_holds_nobody_up(
    do: Doing, names: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "_LOOK_S", 0.3)
    waits = await do(**question(names, "silent.test", "192.0.2.1"))
    assert waits.ok is None and "does not answer within" in waits.told


async def test_a_name_server_where_we_may_not_go_is_not_asked(do: Doing, names: int, house: House) -> None:
    do.reach = reach_of(house.resolver)
    waits = await do(**question(names, "web.test", "192.0.2.1"))
    assert waits.ok is None and "127.0.0.1" in waits.told
    do.stage.clock.advance(600)
    assert (await do(**question(names, "web.test", "192.0.2.1"))).ok is False


# ---------------------------------------------------------------------- weights, of a real canary


@pytest.fixture
async def ground(house: House) -> Ground:
    return await Ground(house).open()


async def test_weights_go_as_far_as_the_canary_showed_and_back_whatever_it_did(ground: Ground, tmp_path: Path) -> None:
    do = Doing(ground.stage, tmp_path, weights=ground.desk)

    async def weigh(percent: int) -> Done:
        return await do(kind="weights", server="pay", percent=percent)

    missing = await weigh(50)
    assert missing.ok is False and missing.told.startswith("not_found")
    canary = await ground.start(automatic=False)
    early = await weigh(100)
    assert early.ok is False and early.told.startswith("canary_unproven")
    assert (await weigh(7)).ok is False, "no step of its plan"
    await ground.see(canary.id, 50)
    await ground.drive(canary.id)
    for _ in range(2):  # a crash, and the same again
        assert (await weigh(25)).ok is True
        assert (await ground.now(canary.id)).candidate_percent == 25
    await ground.see(canary.id, 10, errors=30)  # half of what it answers is an error: a veto
    withdrawn = await ground.drive(canary.id)
    assert (withdrawn.state, withdrawn.verdict) == ("withdrawn", "FAIL")
    for _ in range(2):  # the rollout takes back what the canary took back before
        assert (await weigh(0)).ok is True
    assert (await ground.now(canary.id)).verdict == "FAIL", "and changes no verdict"


async def test_without_a_gateway_there_is_nothing_to_weigh(do: Doing) -> None:
    done = await do(kind="weights", server="pay", percent=50)
    assert (done.ok, done.told) == (False, "nothing here splits traffic")


# ---------------------------------------------------------------------- in a rollout, over two processes


async def test_waiting_for_a_name_goes_on_in_another_process(house: House, tmp_path: Path, names: int) -> None:
    """What one process waited for counts for the next: it does not begin anew."""
    desk = await Desk(Stage(house, kinds()), tmp_path).open(
        _plan_of(json.dumps(question(names, "later.test", "192.0.2.1")))
    )
    name = await desk.started()
    await desk.engine.tick()
    shown = await desk.shown(name)
    assert shown["state"] == "running" and "no such name" in shown["told"], shown["told"]
    desk.stage.clock.advance(599)
    await desk.engine_on(desk.stage.database).tick()
    assert await desk.state(name) == "running"
    desk.stage.clock.advance(1)
    await desk.engine_on(desk.stage.database).tick()
    shown = await desk.shown(name)
    assert shown["state"] == "deciding" and "call failed" in shown["told"]


async def test_a_failed_request_is_made_again_when_somebody_says_so(house: House, tmp_path: Path) -> None:
    answers = [500, 200]

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=answers.pop(0))

    async with site(answer) as server:
        do = json.dumps({"kind": "http", "url": server.url})
        desk = await Desk(Stage(house, kinds()), tmp_path).open(_plan_of(do))
        name = await desk.started()
        await desk.engine.tick()
        shown = await desk.shown(name)
        assert shown["state"] == "deciding" and "answers 500" in shown["told"]
        await desk.engine.tick()
        assert len(server.seen) == 1, "nobody said so"
        await desk.do("olga", f"/{name}/decide", {"decision": "retry", "why": "it is mended"})
        await desk.engine.tick()
        assert await desk.state(name) == "done"
    assert len(server.seen) == 2


def _plan_of(do: str) -> str:
    """A plan of one step."""
    return f"""---
apiVersion: bailiwick/v1
kind: RolloutPlan
metadata: {{name: release}}
spec:
  title: One step
  service: pay
  signatures: [ops_owner, security_owner]
  gate: {{name: any, title: Any time, owner: ops_owner, timer: 10m}}
  phases:
    - name: before
      title: Before
      owner: ops_owner
      before_go: true
      steps:
        - name: preflight
          title: Preflight
          do: {{kind: preflight, render: [render], migrations: [migrations], smoke: [smoke]}}
    - name: out
      title: Out
      owner: operator
      steps:
        - {{name: call, title: Call, do: {do}}}
"""
