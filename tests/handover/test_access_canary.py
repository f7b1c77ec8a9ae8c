"""The loop of access is started by the activation of a policy set, by nobody else; what it finds is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from canary_ground import SHIPPED
from prometheus_client import CollectorRegistry
from stage import Stage, room_of

from bailiwick.app.following import Following
from bailiwick.assurance.book import BadBook, read_text
from bailiwick.evidence.events import Context
from bailiwick.handover.canary.access import AccessWatch, is_due, job_name
from bailiwick.handover.canary.loop import EXPECTED, AccessLoop, Step, Ways
from bailiwick.handover.canary.records import Result, add_result
from bailiwick.handover.canary.spec import ACCESS_CANARY, KINDS, AccessCanary
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.feed import Change
from bailiwick.kernel.jobs import JobDefinition, Jobs
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

SPEC = AccessCanary(owner="uptime")
GOOD, BAD = "sha256:" + "a" * 64, "sha256:" + "b" * 64


class Walks(AccessLoop):
    """A loop whose walk is what the test says; that it is kept, and what is known, are the real ones."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(
            stage.database, stage.clock, stage.ids, stage.recorder, stage.records, None,  # type: ignore[arg-type]
            lambda zone: Ways("", ""), known=self._decisions,
        )  # fmt: skip
        self.walked: list[str] = []
        self.comes_to: dict[str, str] = {}  # by the name of a step
        self.decisions: dict[str, tuple[str, str]] = {}

    async def _whole(self, context: Context, walk: Any, upstream: str, active: str) -> None:
        self.walked.append(active)
        for name, expected in EXPECTED.items():
            walk.steps.append(Step(name, expected, self.comes_to.get(name, expected)))

    async def _decisions(self, tx: Transaction, zone: str) -> Sequence[Step]:  # type: ignore[override]
        return [Step(f"known/{name}", *each) for name, each in self.decisions.items()]


class Watch:
    def __init__(self, stage: Stage) -> None:
        self.stage, self.loop, self.own = stage, Walks(stage), True
        self.watch = AccessWatch(stage.database, stage.clock, stage.heard, self.loop, lambda: self.own)

    async def activated(self, hash: str, kind: str = "activate") -> None:
        """The rows that an activation leaves; how it is made and agreed to is tested with the policies."""
        async with self.stage.people.owner.begin() as tx:
            await tx.run("SET LOCAL session_replication_role = replica")
            await tx.run(
                "INSERT INTO bailiwick.policy_sets (zone, hash, members, created_at) VALUES ('default', :hash, '[]', :now)"
                " ON CONFLICT DO NOTHING",
                hash=hash,
                now=self.stage.clock.now(),
            )
            await tx.run(
                "INSERT INTO bailiwick.policy_activations (zone, hash, kind, activated_by, activated_at)"
                " VALUES ('default', :hash, :kind, 'olga', :now)",
                hash=hash,
                kind=kind,
                now=self.stage.clock.now(),
            )

    async def look(self, **spec: Any) -> dict[str, Any]:
        self.stage.clock.advance(1)
        return await self.watch.look("default", SPEC.model_copy(update=spec))

    async def throw(self, thrown: bool) -> None:
        async with self.stage.people.owner.begin() as tx:
            await tx.run("SET LOCAL session_replication_role = replica")
            await tx.run("DELETE FROM bailiwick.switches")
            if thrown:
                await tx.run(
                    "INSERT INTO bailiwick.switches (id, zone, name, reason, thrown_by, thrown_at, thrown_as)"
                    " VALUES ('s', 'default', 'freeze', 'test', 'ada', now(), 'none')"
                )

    def open(self) -> dict[str, str]:
        return {each.rule: str(each.severity) for each in self.stage.heard.open_alerts.values()}


@pytest.fixture
def watch(house: House) -> Watch:
    return Watch(Stage(house, KINDS))


def test_when_a_set_is_tried_again() -> None:
    now = datetime(2026, 1, 5, tzinfo=UTC)
    again = timedelta(minutes=15)

    def due(
        verdict: str, reason: str, age: timedelta, held: str = "", active_for: timedelta = timedelta(days=1)
    ) -> bool:
        at = now - age
        found = Result("r", "default", GOOD, "loop", None, verdict, reason, "", [], at, at, "", "", False)
        return is_due(found, now - active_for, held, again, now)

    minute = timedelta(minutes=1)
    assert not due("PASS", "", 20 * minute)
    assert due("PASS", "", 20 * minute, active_for=10 * minute), "of when it was active before"
    assert not due("FAIL", "loop", 14 * minute) and due("FAIL", "loop", 15 * minute)
    assert due("NO_DATA", "held", minute) and not due("NO_DATA", "held", 20 * minute, held="it is frozen")


async def test_every_activation_is_tried_once_and_what_a_zone_begins_with_is_not(watch: Watch) -> None:
    assert await watch.look() == {"tried": 0}
    await watch.activated(GOOD, "initial")
    assert await watch.look() == {"tried": 0}
    await watch.activated(BAD)
    assert (await watch.look())["verdict"] == "PASS"
    assert await watch.look() == {"tried": 0}
    await watch.activated(GOOD, "rollback")
    await watch.look()
    await watch.activated(BAD)
    await watch.look()
    assert watch.loop.walked == [BAD, GOOD, BAD]
    await watch.activated(BAD, "deactivate")
    assert await watch.look() == {"tried": 0}
    assert watch.stage.heard.fired == []
    events = [each for each in await watch.stage.people.events() if each.name == "canary.loop.run"]
    assert {each.actor.user for each in events} == {"system:access-canary"} and len(events) == 3


async def test_a_loop_that_does_not_close_is_told_and_tried_again_until_it_does(watch: Watch) -> None:
    await watch.activated(BAD)
    watch.loop.comes_to["used"] = "403 policy_denied"
    found = await watch.look()
    assert (found["verdict"], found["told"][:5]) == ("FAIL", "used:")
    assert watch.open() == {"AccessLoopFailed": "P2"}
    (raised,) = watch.stage.heard.fired
    assert raised.owner == "uptime" and "403 policy_denied" in raised.summary and BAD[:19] in raised.summary
    assert await watch.look() == {"tried": 0}
    watch.loop.comes_to.clear()
    watch.stage.clock.advance(15 * 60)
    assert (await watch.look())["verdict"] == "PASS" and watch.open() == {}


async def test_a_policy_that_allows_what_is_known_to_be_denied_is_found_though_the_loop_closes(watch: Watch) -> None:
    watch.loop.decisions = {"agent-reads": ("allow", "allow"), "stranger-does-not": ("deny", "allow")}
    await watch.activated(BAD)
    found = await watch.look()
    assert (found["verdict"], found["told"]) == ("FAIL", "known/stranger-does-not: expected deny, got allow")
    assert watch.open() == {"KnownDecisionChanged": "P1"}
    # contained: the good one is active again, and everything else is frozen
    await watch.throw(True)
    watch.loop.decisions["stranger-does-not"] = ("deny", "deny")
    await watch.activated(GOOD, "rollback")
    found = await watch.look()
    assert found["verdict"] == "NO_DATA" and "freeze is thrown" in found["told"]
    assert watch.open() == {} and watch.loop.walked == [BAD]
    assert await watch.look() == {"tried": 0}, "and is not looked at again while it is frozen"
    await watch.throw(False)
    assert (await watch.look())["verdict"] == "PASS" and watch.loop.walked == [BAD, GOOD]


async def test_a_decision_that_cannot_be_asked_is_none_that_changed(watch: Watch) -> None:
    watch.loop.decisions = {"agent-reads": ("allow", "there is no application agent")}
    await watch.activated(BAD)
    assert (await watch.look())["verdict"] == "FAIL" and watch.open() == {"AccessLoopFailed": "P2"}


async def test_another_activation_meanwhile_leaves_no_verdict_on_the_one_before(watch: Watch) -> None:
    await watch.activated(GOOD)
    walk = watch.loop._whole

    async def meanwhile(*of: Any) -> None:
        await walk(*of)
        if watch.loop.walked == [GOOD]:
            await watch.activated(BAD)

    watch.loop._whole = meanwhile  # type: ignore[method-assign]
    assert await watch.look() == {"tried": 0}
    assert (await watch.look())["digest"] == BAD


async def test_what_was_not_walked_clears_nothing(watch: Watch) -> None:
    watch.loop.comes_to["refused"] = "200 of the upstream"
    await watch.activated(BAD)
    await watch.look()
    await watch.throw(True)
    await watch.activated(GOOD)
    assert (await watch.look())["verdict"] == "NO_DATA"
    assert watch.open() == {"AccessLoopFailed": "P2"}


async def test_where_loopback_may_not_be_an_upstream_another_is_named(watch: Watch) -> None:
    watch.own = False
    await watch.activated(GOOD)
    found = await watch.look()
    assert found["verdict"] == "NO_DATA" and "no upstream_url" in found["told"] and watch.loop.walked == []
    assert (await watch.look(upstream_url="http://10.0.0.8:8080"))["verdict"] == "PASS"


async def test_what_somebody_walked_counts(watch: Watch) -> None:
    watch.loop.comes_to["used"] = "403 policy_denied"
    await watch.activated(GOOD)
    await watch.look()
    watch.stage.clock.advance(60)
    now, ids = watch.stage.clock.now(), watch.stage.ids
    steps = [{"name": "used", "expected": "x", "actual": "x", "ref": "", "holds": True}]
    async with watch.stage.database.begin() as tx:
        result = Result(ids(), "default", GOOD, "loop", None, "PASS", "", "", steps, now, now, "olga", "", False)
        await add_result(tx, result)
    assert await watch.look() == {"tried": 0} and watch.open() == {}


# ---------------------------------------------------------------------- who starts it


async def test_the_feed_makes_its_job_due_and_only_where_the_book_asks_for_it(house: House) -> None:
    stage, ran = Stage(house), []

    async def handler(due: datetime) -> None:
        ran.append(due)

    definition = JobDefinition(job_name("default"), timedelta(days=1), handler)
    jobs = Jobs(stage.database, stage.clock, Metrics(CollectorRegistry()), [definition])
    following = Following(jobs, [{"policy": job_name}])
    running = asyncio.create_task(following.run())
    try:
        assert await jobs.run_due() == 0
        following.heed([Change(1, "default", "server", "x"), Change(2, "elsewhere", "policy", "x")])
        following.heed([Change(3, "default", "policy", "x"), Change(4, "default", "policy", "y")])
        async with asyncio.timeout(10):
            while not await jobs.run_due():
                await asyncio.sleep(0.01)
        assert len(ran) == 1 and not running.done()
    finally:
        running.cancel()


async def test_it_is_shipped_one_a_zone_and_takes_two_to_take_away(house: House, tmp_path: Path) -> None:
    stage = Stage(house, KINDS)
    await stage.books.ship(stage.context("bailiwick"), read_text(SHIPPED, "canary.yaml"))
    part = next(each for each in room_of(house, tmp_path).parts if each.follows)
    async with stage.database.begin() as tx:
        book = await stage.books.current(tx, "default")
    assert [each.name for each in part.scheduled("default", book)] == ["access-canary@default"]
    assert part.follows["policy"]("default") == "access-canary@default"
    without = [each for each in read_text(SHIPPED, "canary.yaml") if each.kind != ACCESS_CANARY.name]
    assert (await stage.books.plan("default", without)).two_persons
    twice = SHIPPED + SHIPPED[SHIPPED.rindex("---") :].replace("policies", "again")
    with pytest.raises(BadBook) as refused:
        await stage.books.plan("default", read_text(twice, "twice.yaml"))
    assert "a zone has one" in str(refused.value.problems)


def test_a_verdict_says_what_is_known_first() -> None:
    from bailiwick.handover.canary.loop import verdict_of

    steps = [Step("used", "200", "403"), Step("known/x", "deny", "allow")]
    assert verdict_of(steps)[1:] == ("known", "known/x: expected deny, got allow")
    assert verdict_of([Step("known/x", "deny", "deny")], "it is frozen")[0] is Verdict.NO_DATA
    assert verdict_of([], "it is frozen")[0] is Verdict.NO_DATA
