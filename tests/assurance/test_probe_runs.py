"""Probes in a zone: every run leaves its row, its evidence and its alert; the routes; jobs that are silent."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import ProgrammingError
from stage import Stage

from bailiwick.app.assurance import KINDS
from bailiwick.assurance import book_api
from bailiwick.assurance.dead_man import SCHEDULER, DeadMan, JobRuns, Occurred, Silence, silence
from bailiwick.assurance.probes import api as probes_api
from bailiwick.assurance.probes import runs
from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.probes.runner import Probes
from bailiwick.assurance.probes.runs import ProbeRun
from bailiwick.assurance.shipped import shipped
from bailiwick.assurance.thresholds import Unit
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.jobs import JobDefinition, Jobs, KnownJob
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

BOOK = """
apiVersion: bailiwick/v1
kind: Threshold
metadata: {name: lag}
spec: {value: 60, unit: s, comparison: "<", meaning: lag, owner: uptime}
---
apiVersion: bailiwick/v1
kind: Probe
metadata: {name: lag}
spec:
  summary: Events get into the ledger in time
  check: {type: internal, what: lag}
  threshold: lag
  every: 1m
  grace: 2m
  evidence_life: 10m
  owner: audit-archival
  severity: P1
  runbook: docs/how-to/probes.md
---
apiVersion: bailiwick/v1
kind: Probe
metadata: {name: by-hand}
spec: {summary: by hand, check: {type: internal, what: fault}, owner: uptime}
"""


class Room:
    """A zone with two probes whose look the test decides."""

    def __init__(self, house: House) -> None:
        self.stage = Stage(house, KINDS)
        self.found: Found | Exception = Found(5, Unit.SECONDS, "five seconds")
        self.looks = 0

        async def lag(asked: Asked, argument: str) -> Found:
            self.looks += 1
            if isinstance(self.found, Exception):
                raise self.found
            return self.found

        async def fault(asked: Asked, argument: str) -> Found:
            raise KeyError("Zq9planted")

        means = Means(self._nowhere, house.clock, "", Path("/nonexistent"), internals={"lag": lag, "fault": fault})
        self.probes = Probes(
            house.database, house.clock, house.ids, house.recorder, self.stage.books, self.stage.records,
            self.stage.heard, means,
        )  # fmt: skip
        self.stage.serve(
            book_api.routes(house.database, self.stage.books),
            probes_api.routes(house.database, self.probes, self.stage.books),
        )
        self.jobs = Jobs(house.database, house.clock, Metrics(CollectorRegistry()), [])

    @staticmethod
    async def _nowhere(host: str, port: int) -> list[str]:
        raise AssertionError("nothing is reached")

    async def schedule(self) -> None:
        async with self.stage.database.begin() as tx:
            self.jobs.replace(
                "assurance", self.probes.scheduled("default", await self.stage.books.current(tx, "default"))
            )

    async def pass_time(self, seconds: float = 60) -> None:
        """Let time pass and everything due run."""
        self.stage.clock.advance(seconds)
        await self.jobs.run_due()

    async def history(self, probe: str = "lag") -> list[ProbeRun]:
        async with self.stage.database.begin() as tx:
            return await runs.newest(tx, "default", probe)

    async def standing(self, probe: str = "lag") -> Verdict:
        async with self.stage.database.begin() as tx:
            return next(each.verdict for each in await self.probes.standings(tx, "default") if each.name == probe)


@pytest.fixture
async def room(house: House) -> Room:
    room = Room(house)
    await house.user("root")
    await room.stage.apply(BOOK)
    await room.schedule()
    return room


async def test_every_scheduled_run_leaves_its_row_and_its_evidence(room: Room) -> None:
    assert await room.standing() is Verdict.NOT_DUE
    for _ in range(3):
        await room.pass_time()
    history = await room.history()
    assert [each.verdict for each in history] == [Verdict.PASS] * 3
    assert [(each.value, each.unit, each.threshold, each.comparison) for each in history[:1]] == [(5, "s", 60, "<")]
    async with room.stage.database.begin() as tx:
        record = await room.stage.records.get(tx, "default", history[0].record)
        output = await room.stage.records.output(tx, record)
    assert record.record.check == "probe.lag" and record.record.exit == 0
    assert record.record.inputs["threshold"] == "< 60 s" and output == b"five seconds"
    assert record.record.verdict(room.stage.clock.now()) is Verdict.PASS
    assert record.record.verdict(room.stage.clock.now() + timedelta(minutes=11)) is Verdict.STALE
    occurrences = await room.jobs.recent("probe:lag@default")
    assert [each.detail["verdict"] for each in occurrences] == ["PASS"] * 3
    assert await room.standing() is Verdict.PASS


async def test_what_is_not_green_fires_with_owner_and_runbook_and_green_clears(room: Room) -> None:
    heard = room.stage.heard
    for found, verdict in (
        (Found(61, Unit.SECONDS), Verdict.FAIL),
        (Found(absent="nobody told"), Verdict.NO_DATA),
        (Found(float("nan"), Unit.SECONDS), Verdict.NO_DATA),
        (LookFailed("no answer"), Verdict.ERROR),
        (RuntimeError("Zq9planted"), Verdict.ERROR),
    ):
        room.found = found
        await room.pass_time()
        assert (await room.history())[0].verdict is verdict
        raised = heard.open_alerts["probe/lag"]
        assert (raised.owner, raised.runbook, raised.severity) == ("audit-archival", "docs/how-to/probes.md", "P1")
        assert raised.labels["verdict"] == verdict and "Zq9planted" not in raised.summary
    room.found = Found(1, Unit.SECONDS)
    await room.pass_time()
    assert heard.open_alerts == {}
    turned = [event.details for event in await room.stage.people.events() if event.code == "BW7012"]
    assert [(each["before"], each["verdict"]) for each in turned] == [
        ("", "FAIL"), ("FAIL", "NO_DATA"), ("NO_DATA", "ERROR"), ("ERROR", "PASS"),
    ]  # fmt: skip


async def test_what_was_found_grows_stale(room: Room) -> None:
    await room.pass_time()
    assert await room.standing() is Verdict.PASS
    room.stage.clock.advance(240)  # a minute, its grace and its time to run are over
    assert await room.standing() is Verdict.STALE
    await room.pass_time()
    assert await room.standing() is Verdict.PASS
    room.stage.clock.advance(601)
    assert await room.standing() is Verdict.STALE


async def test_a_probe_that_never_ran_when_it_should_have_is_no_data(room: Room) -> None:
    room.stage.clock.advance(600)
    assert await room.standing() is Verdict.NO_DATA
    assert await room.standing("by-hand") is Verdict.NO_DATA


async def test_an_occurrence_run_twice_leaves_one_row(room: Room) -> None:
    async with room.stage.database.begin() as tx:
        probe, limit = await room.probes.get(tx, "default", "lag")
    due, context = room.stage.clock.now(), room.stage.context()
    one = await room.probes.run(context, "lag", probe, limit, due=due)
    room.found = Found(99, Unit.SECONDS)
    two = await room.probes.run(context, "lag", probe, limit, due=due)
    assert one == two and len(await room.history()) == 1 and room.stage.heard.fired == []


async def test_rows_are_only_ever_added(room: Room) -> None:
    await room.pass_time()
    for change in ("UPDATE probe_runs SET verdict = 'PASS'", "DELETE FROM probe_runs"):
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with room.stage.database.begin() as tx:
                await tx.run(change)


async def test_a_threshold_of_the_book_is_what_the_next_run_is_held_against(room: Room) -> None:
    await room.stage.apply(BOOK.replace("value: 60", "value: 4"))
    await room.schedule()
    await room.pass_time()
    assert (await room.history())[0].verdict is Verdict.FAIL


# ---------------------------------------------------------------------- routes


async def test_the_routes_of_probes(room: Room) -> None:
    people = room.stage.people
    operator, viewer = await people.signed_in("olga", "operator"), await people.signed_in("vic", "viewer")
    await room.pass_time()
    call = room.stage.call
    listed = (await call("GET", "/api/v1/probes", token=operator)).json()
    assert listed["verdict"] == "NO_DATA"  # the one that nobody asked for
    assert {each["name"]: each["verdict"] for each in listed["probes"]} == {"by-hand": "NO_DATA", "lag": "PASS"}
    asked = await call("POST", "/api/v1/probes/by-hand/run", token=operator)
    assert asked.status == 202
    await room.jobs.run_due()
    one = (await call("GET", "/api/v1/probes/by-hand", token=operator)).json()
    assert (one["verdict"], one["runs"][0]["due_at"]) == ("ERROR", asked.json()["due_at"])
    for _ in range(3):
        await room.pass_time()
    page = (await call("GET", "/api/v1/probes/lag/runs?limit=3", token=operator)).json()
    rest = (await call("GET", f"/api/v1/probes/lag/runs?limit=3&cursor={page['next']}", token=operator)).json()
    assert len({each["id"] for each in page["runs"] + rest["runs"]}) == 4 and rest["next"] is None
    assert (await call("GET", "/api/v1/probes/lag/runs?cursor=e30", token=operator)).status == 400
    assert (await call("GET", "/api/v1/probes/none", token=operator)).status == 404
    assert (await call("POST", "/api/v1/probes/none/run", token=operator)).status == 404
    for method, path in (("GET", "/api/v1/probes"), ("POST", "/api/v1/probes/lag/run"), ("GET", "/api/v1/thresholds")):
        assert (await call(method, path, token=viewer)).status == 403
        assert (await call(method, path)).status == 401
    told = (await call("GET", "/api/v1/thresholds", token=operator)).json()
    assert [(each["key"], each["value"]) for each in told["thresholds"]] == [("lag", 60)]
    events = [event for event in await people.events() if event.code == "BW7011"]
    assert [(event.actor.user, event.subject.id) for event in events if event.subject] == [("olga", "by-hand")]


def as_json(*names: str) -> list[dict[str, Any]]:
    """Some of what we ship, as JSON."""
    return [
        {"apiVersion": each.api_version, "kind": each.kind, "metadata": {"name": each.name}, "spec": dict(each.spec)}
        for each in shipped("default")
        if each.name in names
    ]


async def test_a_book_is_planned_applied_and_read_over_the_api(room: Room) -> None:
    people, call = room.stage.people, room.stage.call
    admin, auditor = await people.signed_in("root"), await people.signed_in("ada", "auditor")
    await people.user("joe")
    documents = as_json("api.latency.p95", "cpu.used")
    planned = await call("POST", "/api/v1/assurance/plan", {"documents": documents}, token=admin)
    plan = planned.json()
    assert (planned.status, plan["two_persons"]) == (200, True)  # a P1 probe goes
    hows = {(each["how"], each["name"]) for each in plan["differences"]}
    assert ("removed", "by-hand") in hows and ("added", "cpu.used") in hows
    body = {"documents": documents, "sha256": plan["sha256"]}
    held = await call("POST", "/api/v1/assurance/apply", body, token=admin)
    assert (held.status, held.json()["applied"]) == (202, False)
    approval = held.json()["approval"]
    await room.stage.quorum.vote(
        room.stage.context("joe"), "default", approval["id"], person="joe", role="admin", approves=True,
        payload_sha256=approval["payload_sha256"],
    )  # fmt: skip
    done = await call("POST", "/api/v1/assurance/apply", body, token=admin)
    assert (done.status, done.json()["applied"]) == (200, True)
    stale = await call("POST", "/api/v1/assurance/apply", body, token=admin)
    assert (stale.status, stale.json()["reason"]) == (409, "plan_changed")
    book = (await call("GET", "/api/v1/assurance", token=auditor)).json()
    assert [each["metadata"]["name"] for each in book["documents"]] == ["api.latency.p95", "cpu.used"]
    assert (await call("GET", "/api/v1/assurance?kind=Probe", token=auditor)).json()["documents"] == []
    gone = (await call("GET", "/api/v1/assurance/documents/Probe/lag", token=auditor)).json()
    assert (gone["in_force"], [each["version"] for each in gone["history"]]) == (False, [2, 1])
    assert (await call("GET", "/api/v1/assurance/documents/Probe/none", token=auditor)).status == 404
    schemas = (await call("GET", "/api/v1/assurance/schemas", token=auditor)).json()["schemas"]
    assert {"Probe", "Threshold"} <= schemas.keys()
    assert (await call("POST", "/api/v1/assurance/plan", {"documents": []}, token=auditor)).status == 403


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("documents", "told"),
    [
        ([1, None, []], 3),
        ([{**as_json("cpu.used")[0], "apiVersion": "bailiwick/v9"}], 1),
        ([{**as_json("cpu.used")[0], "kind": "Candle"}], 1),
        (as_json("cpu.used") * 2, 1),
        ([{**as_json("cpu.used")[0], "spec": {"value": nested(40)}}], 1),
        ([{**as_json("cpu.used")[0], "spec": {}}], 5),
        ([{**as_json("cpu.used")[0], "metadata": {"name": "a\x00b"}}], 1),
        ([{}] * 5001, 1),
        ([{}] * 300, 200),
    ],
)
async def test_a_bad_book_is_refused_with_all_that_is_wrong(room: Room, documents: list[Any], told: int) -> None:
    token = await room.stage.people.signed_in("root")
    for path in ("plan", "apply"):
        body = {"documents": documents} | ({"sha256": "0" * 64} if path == "apply" else {})
        got = await room.stage.call("POST", f"/api/v1/assurance/{path}", body, token=token)
        assert (got.status, got.json()["reason"], len(got.json()["problems"])) == (422, "bad_book", told), got.json()


@pytest.mark.parametrize("raw", [b"[", b"[" * 100_000, b'{"documents": ' + b"[" * 50_000, b'{"documents": {}}', b"{}"])
async def test_what_is_no_request_is_refused(room: Room, raw: bytes) -> None:
    token = await room.stage.people.signed_in("root")
    got = await room.stage.call("POST", "/api/v1/assurance/plan", raw=raw, token=token)
    assert (got.status, got.json()["reason"]) == (400, "invalid_request")


# ---------------------------------------------------------------------- silent jobs

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


async def nothing(due: datetime) -> None: ...


def known(grace: timedelta = timedelta(minutes=2), timeout_s: float = 30) -> KnownJob:
    return KnownJob(JobDefinition("j", MINUTE, nothing, grace=grace, timeout_s=timeout_s), NOW - timedelta(hours=1))


DUE = NOW - timedelta(minutes=3)  # the newest instant whose grace and slack are over at NOW


@pytest.mark.parametrize(
    ("occurred", "why"),
    [
        ([], "no occurrence was written"),
        ([Occurred(DUE - MINUTE, "succeeded", DUE - MINUTE)], "no occurrence was written"),
        ([Occurred(DUE, "succeeded", DUE)], None),
        ([Occurred(DUE + MINUTE, "succeeded", DUE), Occurred(DUE, "failed", DUE, "x")], None),
        ([Occurred(DUE, "due", None)], "nobody took it"),
        ([Occurred(DUE, "missed", None)], "in time"),
        ([Occurred(DUE, "failed", DUE, "no answer")], "it failed: no answer"),
        ([Occurred(DUE, "running", NOW - MINUTE), Occurred(DUE - MINUTE, "succeeded", DUE)], None),
        ([Occurred(DUE, "running", NOW - MINUTE), Occurred(DUE - MINUTE, "failed", DUE, "x")], "it failed"),
        ([Occurred(DUE, "running", NOW - 2 * MINUTE)], "does not end"),
    ],
)
def test_when_a_job_is_silent(occurred: list[Occurred], why: str | None) -> None:
    found = silence(known(), occurred, NOW)
    assert (found is None) if why is None else (found is not None and why in found.why), found


def test_nothing_is_expected_of_a_job_before_it_was_known() -> None:
    young = dataclasses.replace(known(), expected_from=NOW - MINUTE)
    assert silence(young, [], NOW) is None
    assert silence(young, [], NOW + 3 * MINUTE) is not None


@pytest.fixture
def dead_man(room: Room) -> DeadMan:
    stage = room.stage
    return DeadMan(stage.database, stage.clock, stage.recorder, stage.heard)


async def found_by(dead_man: DeadMan) -> dict[str, Silence]:
    found = await dead_man.look()
    assert found is not None
    return found


async def test_a_dead_scheduler_is_noticed_by_somebody_else_and_heard_again(room: Room, dead_man: DeadMan) -> None:
    heard, job = room.stage.heard, "probe:lag@default"
    await room.pass_time()
    assert await found_by(dead_man) == {}
    room.stage.clock.advance(120)  # nobody schedules any more; the grace is not over
    assert await found_by(dead_man) == {}
    room.stage.clock.advance(90)
    found = await found_by(dead_man)
    assert found.keys() == {job} and found[job].unwritten
    assert heard.open_alerts.keys() == {SCHEDULER} and job in heard.open_alerts[SCHEDULER].summary
    await found_by(dead_man)
    silent = [
        event.subject.id for event in await room.stage.people.events() if event.code == "BW7013" and event.subject
    ]
    assert silent == [job]  # told once
    await room.pass_time()  # it lives again: what was missed is written as such, and the newest run
    assert await found_by(dead_man) == {}
    assert heard.open_alerts == {}
    assert [event.code for event in await room.stage.people.events()].count("BW7014") == 1


async def test_a_job_that_fails_has_an_alert_of_its_own(room: Room, dead_man: DeadMan) -> None:
    broken = True

    async def sometimes(due: datetime) -> None:
        if broken:
            raise RuntimeError("the disk is full")

    room.jobs.replace("", [JobDefinition("sweep", MINUTE, sometimes, grace=timedelta(seconds=30))])
    for _ in range(3):
        await room.pass_time()
    found = await found_by(dead_man)
    assert "the disk is full" in found["sweep"].why
    assert room.stage.heard.open_alerts["job/sweep"].owner == "uptime"
    broken = False
    await room.pass_time()
    assert await found_by(dead_man) == {} and room.stage.heard.open_alerts == {}


async def test_a_job_that_is_not_wanted_any_more_is_not_missed(room: Room, dead_man: DeadMan) -> None:
    await room.pass_time()
    room.jobs.replace("assurance", [])
    await room.pass_time()
    room.stage.clock.advance(3600)
    assert (await found_by(dead_man)).keys() == set() or SCHEDULER in await found_by(dead_man)
    async with room.stage.database.begin() as tx:
        assert await tx.value("SELECT count(*) FROM job_definitions") == 0


async def test_a_scheduler_that_never_came_is_missed(house: House) -> None:
    stage = Stage(house)
    dead_man = DeadMan(stage.database, stage.clock, stage.recorder, stage.heard)
    assert await found_by(dead_man) == {}
    stage.clock.advance(121)
    assert (await found_by(dead_man)).keys() == {SCHEDULER}
    assert SCHEDULER in stage.heard.open_alerts


async def test_only_one_process_looks_at_a_time(room: Room, dead_man: DeadMan) -> None:
    async with room.stage.database.begin() as tx:
        await tx.run("SELECT pg_advisory_xact_lock(:lock)", lock=0x6D657274)
        assert await dead_man.look() is None
    assert await dead_man.look() is not None


async def test_how_often_a_check_ran(room: Room) -> None:
    began = room.stage.clock.now()
    await room.pass_time()
    room.found = Found(99, Unit.SECONDS)
    await room.pass_time()
    room.stage.clock.advance(300)  # the scheduler is away for five minutes, and nobody writes them down
    async with room.stage.database.begin() as tx:
        counted = await JobRuns().of(tx, "default", "probe:lag@default", began, room.stage.clock.now())
    # two minutes of grace: of the five that nobody wrote down, the newest three may still begin in time
    assert (counted.due, counted.on_time, counted.green) == (4, 2, 1)
    room.found = Found(1, Unit.SECONDS)
    await room.jobs.run_due()
    async with room.stage.database.begin() as tx:
        counted = await JobRuns().of(tx, "default", "probe:lag@default", began, room.stage.clock.now())
        other = await JobRuns().of(tx, "acme", "probe:lag@default", began, room.stage.clock.now())
        none = await JobRuns().of(tx, "default", "no-such-job", began, room.stage.clock.now())
    # two minutes of grace: the three oldest were missed
    assert (counted.due, counted.on_time, counted.green) == (7, 5, 4)
    assert counted.last_at == room.stage.clock.now()
    assert other.due == none.due == 0 and none.last_at is None


async def test_a_probe_that_is_not_there_cannot_be_asked_for(room: Room) -> None:
    async with room.stage.database.begin() as tx:
        with pytest.raises(NotFound):
            await room.probes.ask(tx, room.stage.context(), "none")
    assert json.dumps([each.document() for each in await room.history()]) == "[]"
