"""The detector of stuck work: bands, ages since the last transition, unknown states, what may be done about it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from stage import Stage, room_of

from bailiwick.assurance import stuck
from bailiwick.assurance.book import BadBook, read_text
from bailiwick.assurance.reconciliation.own import OWN
from bailiwick.assurance.reconciliation.sources import Sources
from bailiwick.assurance.reconciliation.spec import CONNECTION
from bailiwick.assurance.shipped import shipped
from bailiwick.assurance.stuck.api import routes
from bailiwick.assurance.stuck.detector import Detector
from bailiwick.assurance.stuck.judging import Known, Seen, band, entered, silent
from bailiwick.assurance.stuck.own import OWN_MACHINES
from bailiwick.assurance.stuck.spec import MACHINE, MachineSpec
from bailiwick.kernel.errors import BailiwickError, Conflict, NotFound
from bailiwick.kernel.jobs import make_due
from bailiwick.kernel.machine import Machine
from people_fixtures import House

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)

BOOK = """
apiVersion: bailiwick/v1
kind: Connection
metadata: {name: desk}
spec: {kind: files, directory: %(directory)s}
---
apiVersion: bailiwick/v1
kind: Machine
metadata: {name: payouts}
spec:
  owner: payouts
  source: {connection: desk, file: payouts.csv}
  item: id
  %(more)s
  states:
    pending: {limit: 1h}
    sent: {limit: 2h}
    paid: {final: true}
"""


@dataclass
class Desk:
    stage: Stage
    directory: Path
    detector: Detector
    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    async def book(self, more: str = "") -> None:
        await self.stage.apply(BOOK % {"directory": self.directory, "more": more})

    def write(self, **items: str) -> None:
        """Items by their state; after a slash another column, that nobody declared."""
        lines = [f"{item},{state.partition('/')[0]},{state.partition('/')[2]}\n" for item, state in items.items()]
        (self.directory / "payouts.csv").write_text("id,state,touched\n" + "".join(lines))

    async def detect(self, name: str = "payouts") -> Any:
        return await self.detector.detect(self.stage.context(), name)

    async def bands(self) -> dict[str, str]:
        return {each.item: each.band for each in (await self.detect()).items}

    async def act(self, item: str, action: Any, name: str = "payouts") -> dict[str, Any]:
        return await self.detector.act(self.stage.context(), name, item, action, "root")


async def reach(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


@pytest.fixture
async def desk(house: House, tmp_path: Path) -> Desk:
    stage = Stage(house, [CONNECTION, MACHINE])
    own = OWN | {name: each.sql for name, each in OWN_MACHINES.items()}
    sources = Sources(stage.database, lambda: house.sealer, reach, (), own)
    detector = Detector(
        stage.database, stage.clock, stage.ids, stage.recorder, stage.books, stage.heard, sources, tmp_path / "scratch"
    )
    stage.serve(routes(detector))
    stage.clock.advance((NOW - stage.clock.now()).total_seconds())
    (tmp_path / "files").mkdir()
    return Desk(stage, tmp_path / "files", detector)


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [
        (0, "fine"),
        (47.99, "fine"),
        (48, "approaching"),
        (59.99, "approaching"),
        (60, "stuck"),
        (119, "stuck"),
        (120, "critical"),
    ],
)
def test_bands(minutes: float, expected: str) -> None:
    assert band(timedelta(minutes=minutes), timedelta(hours=1)) == expected


def test_only_a_transition_makes_anything_younger() -> None:
    hour = timedelta(hours=1)
    known = Known("pending", NOW - hour)
    assert entered(Seen("1", "pending"), known, history=False, now=NOW) == NOW - hour
    # a column that is touched with the row says that it came just now
    assert entered(Seen("1", "pending", NOW), known, history=False, now=NOW) == NOW - hour
    assert entered(Seen("1", "pending", NOW - 2 * hour), known, history=False, now=NOW) == NOW - 2 * hour
    # a log of transitions knows of one between two looks
    assert entered(Seen("1", "pending", NOW), known, history=True, now=NOW) == NOW
    assert entered(Seen("1", "sent"), known, history=False, now=NOW) == NOW
    assert entered(Seen("1", "pending", NOW + hour), None, history=True, now=NOW) == NOW


def test_a_worker_that_never_was_is_silent() -> None:
    assert silent(timedelta(minutes=1), {}, NOW) == ["(none)"]
    assert silent(timedelta(minutes=1), {"a": NOW, "b": NOW - timedelta(minutes=2)}, NOW) == ["b"]
    assert silent(None, {}, NOW) == []


async def test_ages_count_from_the_transition_and_not_from_a_touch(desk: Desk) -> None:
    await desk.book()
    desk.write(a="pending", b="pending", c="paid")
    assert (await desk.detect()).verdict == "PASS"
    desk.stage.clock.advance(50 * 60)
    desk.write(a="pending/now", b="sent", c="paid")
    look = await desk.detect()
    assert look.verdict == "PASS" and {each.item: each.band for each in look.items} == {"a": "approaching"}
    desk.stage.clock.advance(15 * 60)
    desk.write(a="pending/again", b="sent", c="paid")
    look = await desk.detect()
    assert (look.verdict, look.oldest_s, look.counts["stuck"]) == ("FAIL", 65 * 60, 1)
    alert = desk.stage.heard.open_alerts["stuck/payouts"]
    assert (alert.severity, alert.owner) == ("P2", "payouts") and "1 stuck; oldest 65m in pending" in alert.summary
    desk.stage.clock.advance(60 * 60)
    assert await desk.bands() == {"a": "critical"}
    assert desk.stage.heard.open_alerts["stuck/payouts"].severity == "P1"
    desk.write(b="sent", c="paid")
    assert (await desk.detect()).verdict == "PASS"
    assert desk.stage.heard.open_alerts == {}
    desk.write(a="pending", b="sent", c="paid")  # come back: it begins anew
    assert await desk.bands() == {}


async def test_every_look_leaves_a_row_and_an_event(desk: Desk) -> None:
    await desk.book()
    desk.write(a="pending")
    await desk.detect()
    await desk.detect()
    async with desk.stage.database.begin() as tx:
        assert await tx.value("SELECT count(*) FROM stuck_runs") == 2
    assert len([event for event in await desk.stage.people.events() if event.code == "BW7611"]) == 2


async def test_a_state_that_nobody_declared_is_found(desk: Desk) -> None:
    await desk.book()
    desk.write(a="pending", b="lost")
    look = await desk.detect()
    assert (look.verdict, look.counts["unknown"]) == ("FAIL", 1)
    assert desk.stage.heard.open_alerts["stuck/payouts"].severity == "P1"


@pytest.mark.parametrize(
    ("content", "verdict", "told"),
    [
        (None, "ERROR", "no file"),
        ("id,touched\na,b\n", "ERROR", "no column state"),
        ("id,state\na,pending\na,paid\n", "ERROR", "twice"),
        ("id,state\n,pending\n", "ERROR", "no name"),
        ("id,state\n" + "".join(f"{n},pending\n" for n in range(60_000)), "ERROR", "more than 50000"),
        ("id,state\n", "NO_DATA", None),
    ],
)
async def test_what_cannot_be_looked_at_is_never_green(
    desk: Desk, content: str | None, verdict: str, told: str | None
) -> None:
    await desk.book()
    if content is not None:
        (desk.directory / "payouts.csv").write_text(content)
    look = await desk.detect()
    assert look.verdict == verdict and (told is None or told in (look.error or ""))
    assert desk.stage.heard.open_alerts


async def test_a_machine_may_be_declared_to_be_empty_at_times(desk: Desk) -> None:
    await desk.book("may_be_empty: true")
    desk.write()
    assert (await desk.detect()).verdict == "PASS"


async def test_a_worker_that_falls_silent_is_told(desk: Desk) -> None:
    await desk.book("heartbeat: 1m")
    desk.write(a="pending")
    assert (await desk.detect()).silent == ["(none)"]
    await desk.detector.beat("default", "payouts", "w1")
    assert (await desk.detect()).verdict == "PASS"
    desk.stage.clock.advance(61)
    look = await desk.detect()
    assert (look.verdict, look.silent) == ("FAIL", ["w1"])


# --- what may be done


async def test_only_what_is_declared_safe_is_done(desk: Desk) -> None:
    await desk.book()
    desk.write(a="pending", c="paid")
    await desk.detect()
    for item, action, reason in (
        ("a", "requeue", "not_idempotent"),
        ("a", "dead-letter", "not_idempotent"),
        ("c", "requeue", "illegal_transition"),
        ("z", "requeue", "not_found"),
    ):
        with pytest.raises(BailiwickError) as refused:
            await desk.act(item, action)
        assert refused.value.reason == reason
        if reason == "not_idempotent":
            assert "override" in refused.value.detail
    assert (await desk.act("a", "recheck"))["outcome"] == "pending, fine"
    desk.write(c="paid")
    assert (await desk.act("a", "recheck"))["outcome"] == "gone"


@pytest.fixture
async def shop(desk: Desk) -> AsyncIterator[list[dict[str, Any]]]:
    """A source by HTTP that notes what it is told."""
    asked: list[dict[str, Any]] = []

    async def items(request: web.Request) -> web.Response:
        return web.json_response({"items": [{"id": "a", "status": "pending", "since": "2026-11-21T09:30:00Z"}]})

    async def told(request: web.Request) -> web.Response:
        asked.append({"path": request.path, "key": request.headers["Idempotency-Key"], **await request.json()})
        return web.Response(status=202)

    app = web.Application()
    app.router.add_get("/items", items)
    app.router.add_post("/{what}", told)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await desk.stage.apply(f"""
apiVersion: bailiwick/v1
kind: Connection
metadata: {{name: shop}}
spec: {{kind: http, url: "http://127.0.0.1:{runner.addresses[0][1]}"}}
---
apiVersion: bailiwick/v1
kind: Machine
metadata: {{name: payouts}}
spec:
  owner: payouts
  source: {{connection: shop, path: /items, items: items, columns: {{item: id, state: status, at: since}}}}
  entered_at: at
  states: {{pending: {{limit: 1h}}, paid: {{final: true}}}}
  requeue: {{idempotent: true, path: /again}}
  dead_letter: {{after: 2, path: /dead}}
""")
    yield asked
    await runner.cleanup()


async def test_idempotent_work_is_started_again_and_given_up_after_the_declared_attempts(
    desk: Desk, shop: list[dict[str, Any]]
) -> None:
    look = await desk.detect()
    assert (look.verdict, look.oldest_s, look.items[0].band) == ("FAIL", 9_000, "critical")
    for n in range(2):
        with pytest.raises(Conflict) as refused:
            await desk.act("a", "dead-letter")
        assert (refused.value.reason, refused.value.extra["left"]) == ("attempts_left", 2 - n)
        done = await desk.act("a", "requeue")
        assert done["outcome"] == "answered 202"
        await desk.detect()
    done = await desk.act("a", "dead-letter")
    assert [each["path"] for each in shop] == ["/again", "/again", "/dead"]
    assert shop[-1] == {
        "path": "/dead",
        "key": done["id"],
        "id": done["id"],
        "action": "dead-letter",
        "item": "a",
        "state": "pending",
    }
    acted = [event.details for event in await desk.stage.people.events() if event.code == "BW7612"]
    assert [each["action"] for each in acted] == ["requeue", "requeue", "dead-letter"]
    shown = await desk.detector.items("default", "payouts")
    assert [each["outcome"] for each in shown["actions"]] == ["answered 202"] * 3


# --- our own


def own_book(source: str, states: str, more: str = "") -> str:
    return (
        f"apiVersion: bailiwick/v1\nkind: Machine\nmetadata: {{name: {source}}}\n"
        f"spec: {{owner: ops, source: {{own: {source}}}, states: {states}{more}}}\n---\n"
    )


async def test_our_own_work_is_looked_at(desk: Desk) -> None:
    text = own_book("jobs", "{due: {limit: 10m}, running: {limit: 1h}}", ", requeue: {idempotent: true}")
    text += "".join(
        own_book(name, "{" + ", ".join(f"{state}: {{limit: 1h}}" for state in each.waiting) + "}")
        for name, each in OWN_MACHINES.items()
        if name != "jobs"
    )
    await desk.stage.apply(text)
    async with desk.stage.database.begin() as tx:
        await make_due(tx, "nightly@default", NOW - timedelta(minutes=21))
        await make_due(tx, "nightly@elsewhere", NOW - timedelta(minutes=21))
    looks = {look.machine: look for look in await desk.detector.detect_all(desk.stage.context())}
    assert set(looks) == set(OWN_MACHINES)
    assert {look.error for look in looks.values()} == {None}
    (job,) = looks["jobs"].items
    assert (job.band, job.item) == ("critical", "nightly@default 2026-11-21T11:39:00Z")
    assert (await desk.act(job.item, "requeue", "jobs"))["outcome"] == "due now"
    async with desk.stage.database.begin() as tx:
        assert await tx.value("SELECT count(*) FROM job_occurrences WHERE job = 'nightly@default'") == 2
        await tx.run(
            "UPDATE job_occurrences SET state = 'running', started_at = :at WHERE job = 'nightly@default' AND due_at = :due",
            at=NOW - timedelta(hours=2),
            due=NOW - timedelta(minutes=21),
        )
    await desk.detect("jobs")
    with pytest.raises(Conflict):
        await desk.act(job.item, "requeue", "jobs")


async def test_a_state_of_our_own_machine_that_has_no_limit_is_refused(desk: Desk) -> None:
    for states, told in (
        ("{due: {limit: 10m}}", "state running of jobs has no limit"),
        ("{due: {limit: 10m}, running: {limit: 1h}, lost: {limit: 1h}}", "no state lost"),
        ("{due: {limit: 10m}, running: {}}", "running is not final and has no limit"),
        ("{due: {limit: 10m}, running: {limit: 1h, final: true}}", "final and has a limit"),
    ):
        with pytest.raises(BadBook) as refused:
            await desk.stage.books.plan("default", read_text(own_book("jobs", states), "a.yaml"))
        assert any(told in line for line in refused.value.problems), refused.value.problems


async def test_the_book_asks_for_a_look_at_every_machine(desk: Desk) -> None:
    await desk.book("every: 10m")
    desk.write(a="pending")
    async with desk.stage.database.begin() as tx:
        (job,) = desk.detector.scheduled("default", await desk.stage.books.current(tx, "default"))
    assert (job.name, job.schedule) == ("stuck:payouts@default", timedelta(minutes=10))
    assert (await job.handler(NOW) or {})["verdict"] == "PASS"


async def test_the_routes_refuse_and_answer(desk: Desk) -> None:
    await desk.book()
    desk.write(a="pending")
    token = await desk.stage.people.signed_in("root")
    viewer = await desk.stage.people.signed_in("vera", "viewer")

    async def call(method: str, path: str, body: Any = None, token: str = token) -> Any:
        return await desk.stage.call(method, f"/api/v1/stuck{path}", body, token=token)

    assert (await call("GET", "", token=viewer)).status == 403
    assert (await call("POST", "/payouts/detect")).json()["verdict"] == "PASS"
    assert (await call("POST", "/detect")).json()["items"][0]["machine"] == "payouts"
    assert (await call("GET", "")).json()["items"][0]["counts"]["fine"] == 1
    assert (await call("GET", "/payouts")).json()["items"][0]["band"] == "fine"
    assert (await call("POST", "/payouts/actions", {"item": "a", "action": "requeue"})).status == 409
    assert (await call("POST", "/payouts/actions", {"item": "a", "action": "delete"})).status == 400
    assert (await call("POST", "/payouts/heartbeat", {"worker": "w1"})).status == 204
    assert (await call("POST", "/nothing/detect")).status == 404
    with pytest.raises(NotFound):
        await desk.detector.beat("default", "nothing", "w1")


async def test_what_is_shipped_can_be_applied(desk: Desk) -> None:
    path = Path(stuck.__file__).parent.parent / "shipped" / "reconciliation.yaml"
    documents = [each for each in read_text(path.read_text(), path.name) if each.kind == "Machine"]
    planned = await desk.stage.books.plan("default", documents)
    await desk.stage.books.apply(desk.stage.context(), documents, sha256=planned.sha256, by="root")
    assert {each.name for each in documents} == set(OWN_MACHINES)


def handed_out(house: House, tmp_path: Path) -> list[Machine]:
    """The state machines of all parts, as an installation builds them."""
    return [machine for part in room_of(house, tmp_path).parts for machine in part.machines]


def without_a_limit(machines: Iterable[Machine], specs: Iterable[MachineSpec]) -> set[str]:
    """States of ``machines`` in which something waits and that no document limits."""
    limits = {
        own.machine: {state for state in spec.states if spec.limit(state) is not None} | set(own.resting)
        for spec in specs
        if (own := OWN_MACHINES.get(spec.source.own or "")) is not None
    }
    return {
        f"{machine.name}: {state}"
        for machine in machines
        for state in machine.waiting
        if state not in limits.get(machine, ())
    }


async def test_every_state_of_every_part_has_a_limit_in_what_is_shipped(house: House, tmp_path: Path) -> None:
    machines = handed_out(house, tmp_path)
    assert len(machines) >= 8
    specs = [MACHINE.read(each.spec) for each in shipped("default") if each.kind == MACHINE.name]
    assert without_a_limit(machines, specs) == set()
    # what this guards: a state is added, or a machine nobody looks at
    lost = Machine("lost", {"begun": ("ended",), "ended": ()})
    assert without_a_limit([*machines, lost], specs) == {"lost: begun"}
    for machine in machines:
        machine.moves["on hold"] = frozenset({machine.states[0]})
        try:
            assert f"{machine.name}: on hold" in without_a_limit(machines, specs)
        finally:
            del machine.moves["on hold"]


async def test_what_waits_for_a_known_instant_is_as_old_as_that_is_past(desk: Desk) -> None:
    await desk.stage.apply(
        own_book("tasks", "{open: {limit: 1h}, overdue: {limit: 1h}, escalated: {limit: 1h}}")
        + own_book("notices", "{due: {limit: 1h}, dead: {limit: 1h}}")
        + own_book(
            "ceremonies", "{scheduled: {limit: 1h}, pack_built: {limit: 1h}, held: {limit: 1h}, overdue: {limit: 1h}}"
        )
        + own_book("unused-reviews", "{listed: {limit: 1h}}")
    )
    past, far = NOW - timedelta(minutes=90), NOW + timedelta(days=3)
    async with desk.stage.database.begin() as tx:
        for name, due in (("late", past), ("early", far)):
            await tx.run(
                "INSERT INTO assurance_tasks (id, zone, source, title, owner, severity, due, missed_again_at, opened_at)"
                " VALUES (:name, 'default', :name, 't', 'vera', 'P3', :due, :due, :opened)",
                name=name, due=due, opened=NOW - timedelta(days=9),
            )  # fmt: skip
            await tx.run(
                "INSERT INTO rhythm_occurrences (id, zone, ceremony, starts_at, ends_at, made_by, state, created_at,"
                " moved_at) VALUES (:name, 'default', 'weekly', :at, :at, '1/0', 'scheduled', :opened, :opened)",
                name=name, at=due, opened=NOW - timedelta(days=9),
            )  # fmt: skip
            await tx.run(
                "INSERT INTO unused_reviews (id, zone, kind, name, owner, idle_days, listed_at, disable_at, state)"
                " VALUES (:name, 'default', 'account', :name, :name, 90, :opened, :at, :state)",
                name=name, at=past, opened=NOW - timedelta(days=9), state="listed" if name == "late" else "disabled",
            )  # fmt: skip
    looks = {look.machine: look for look in await desk.detector.detect_all(desk.stage.context())}
    assert {look.error for look in looks.values()} == {None}
    stood = {name: [(each.item, each.band) for each in look.items] for name, look in looks.items()}
    late = [("late", "stuck")]
    assert stood == {"tasks": late, "ceremonies": late, "unused-reviews": late, "notices": []}


async def test_canaries_and_environments_that_stand_still_are_found(desk: Desk) -> None:
    text = (Path(stuck.__file__).parent.parent / "shipped" / "reconciliation.yaml").read_text()
    wanted = [each for each in read_text(text, "a.yaml") if each.kind == "Machine"]
    documents = [each for each in wanted if each.name in ("canaries", "environments")]
    planned = await desk.stage.books.plan("default", documents)
    await desk.stage.books.apply(desk.stage.context(), documents, sha256=planned.sha256, by="root")
    hour, digest = timedelta(hours=1), "sha256:" + "a" * 64
    async with desk.stage.database.begin() as tx:
        for name, state, begun, ended in (
            ("judged", "running", 5 * hour, None),  # its plan's patience is longer than that of most
            ("still", "running", 7 * hour, None),
            ("forgotten", "promoted", 80 * hour, None),
            ("over", "withdrawn", 900 * hour, NOW),
        ):
            await tx.run(
                "INSERT INTO canaries (id, zone, server, digest, plan, spec, stable_url, baseline_url, candidate_url,"
                " baseline_addresses, candidate_addresses, baseline_percent, candidate_percent, state, automatic,"
                " phase_at, started_at, started_by, verdict, ended_at) VALUES (:name, 'default', :name, :digest, 'p', '{}',"
                " 'http://s', 'http://b', 'http://c', '[]', '[]', 0, 0, :state, true, :at, :began, 'olga', :verdict,"
                " :ended)",
                name=name, digest=digest, state=state, at=NOW - begun, began=NOW - timedelta(days=90), ended=ended,
                verdict="PASS" if state == "promoted" else "",
            )  # fmt: skip
        for name, stage, entered in (
            ("unwatched", "live", hour),
            ("late", "hypercare", timedelta(days=22)),
            ("busy", "hypercare", timedelta(days=15)),
            ("someday", "planned", timedelta(days=300)),
            ("run", "bau_active", timedelta(days=300)),
        ):
            await tx.run(
                "INSERT INTO environments (zone, name, stage, digest, live_at, pack) VALUES ('default', :name, :stage,"
                " :digest, :at, :pack)",
                name=name, stage=stage, digest=digest, at=NOW - timedelta(days=300),
                pack="ab" if stage == "bau_active" else "",
            )  # fmt: skip
            await tx.run(
                "INSERT INTO environment_moves (zone, environment, number, before, after, at, by, told)"
                " VALUES ('default', :name, 1, 'planned', :stage, :at, 'olga', 'it moved')",
                name=name, stage=stage, at=NOW - entered,
            )  # fmt: skip
    looks = {look.machine: look for look in await desk.detector.detect_all(desk.stage.context())}
    assert {look.error for look in looks.values()} == {None}
    stood = {name: {each.item: each.band for each in look.items} for name, look in looks.items()}
    assert stood == {
        "canaries": {"judged": "approaching", "still": "stuck", "forgotten": "stuck"},
        "environments": {"unwatched": "critical", "late": "stuck"},
    }
    fired = {each.rule for each in desk.stage.heard.fired}
    assert fired, "somebody is told"


async def test_a_waiver_is_late_from_its_end_on_and_an_override_from_its_last_vote(desk: Desk) -> None:
    limits = ", ".join(f"{state}: {{limit: 1h}}" for state in OWN_MACHINES["waivers"].waiting)
    await desk.stage.apply(own_book("waivers", f"{{{limits}}}"))
    hour = timedelta(hours=1)
    async with desk.stage.database.begin() as tx:
        for name, begins, ends, settled in (
            ("ended", NOW - 9 * hour, NOW - hour, None),
            ("settled", NOW - 9 * hour, NOW - hour, NOW),
            ("to-come", NOW + hour, NOW + 9 * hour, None),
            ("in-force", NOW - hour / 2, NOW + 9 * hour, None),
        ):
            await tx.run(
                "INSERT INTO waivers (id, zone, control, scope, reason, risk, compensating, owner, plan, requested_by,"
                " signed_in, tier, valid_from, valid_until, state, settled_at, created_at, changed_at) VALUES (:id,"
                " 'default', 'c', :id, 'r', 'LOW', 'c', 'uptime', 'p', 'root', true, 1, :begins, :ends, 'approved',"
                " :settled, :made, :made)",
                id=name, begins=begins, ends=ends, settled=settled, made=NOW - 10 * hour,
            )  # fmt: skip
    (look,) = await desk.detector.detect_all(desk.stage.context())
    assert look.counts["stuck"] == 1 and look.counts["fine"] == 2
    assert [(each.item, each.state, each.band) for each in look.items] == [("ended", "expired", "stuck")]
