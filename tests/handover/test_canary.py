"""Canaries from their beginning to their end, over a real database, by points as Envoy would have counted them."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from canary_ground import BASELINE, CANDIDATE, DIGEST, OTHER, SHIPPED, Ground, counted

from bailiwick.evidence import codes
from bailiwick.evidence.evidence_records import Producer
from bailiwick.gateway.lease import HELD_S
from bailiwick.handover.canary.chapter import chapter
from bailiwick.handover.canary.judge import Point
from bailiwick.handover.canary.loop import EXPECTED, AccessLoop, Step, Ways, verdict_of
from bailiwick.handover.canary.records import Result, add_points, add_result, points_of
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House


@pytest.fixture
async def ground(house: House) -> Ground:
    return await Ground(house).open()


async def test_a_good_candidate_is_taken_in_by_steps_and_keeps_the_traffic(ground: Ground) -> None:
    canary = await ground.start()
    assert await ground.weights() == (5, 5, False)
    assert await ground.standing() == ("NO_DATA", False)
    for percent in (5, 25, 50):
        await ground.see(canary.id, 49)
        assert (await ground.drive(canary.id)).candidate_percent == percent
        await ground.see(canary.id, 1)
        at = await ground.drive(canary.id)
    assert (at.state, at.candidate_percent, at.verdict) == ("promoted", 100, "PASS")
    assert await ground.weights() == (0, 100, True)
    assert await ground.standing() == ("PASS", True)
    assert await ground.standing(OTHER) == ("NO_DATA", False)
    ground.people.clock.advance(24 * 3600)
    assert await ground.standing() == ("STALE", False)
    events = [event.code for event in await ground.people.events()]
    assert events.count(codes.CANARY_WEIGHED.code) == 2
    assert events.count(codes.CANARY_JUDGED.code) == 3
    assert codes.CANARY_PROMOTED.code in events


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [({"ms": 120}, "worse"), ({"refused": 5}, "worse"), ({"errors": 1}, "floor"), ({"errors": 20}, "veto")],
)
async def test_a_bad_candidate_is_withdrawn_and_its_release_does_not_go(
    ground: Ground, wrong: dict[str, Any], reason: str
) -> None:
    canary = await ground.start()
    await ground.see(canary.id, 1 if reason == "veto" else 50, **wrong)
    after = await ground.drive(canary.id)
    assert (after.state, after.verdict, after.reason, after.candidate_percent) == ("withdrawn", "FAIL", reason, 0)
    assert await ground.weights() is None
    assert await ground.standing() == ("FAIL", False)
    assert "canary/pay" in ground.stage.heard.open_alerts
    with pytest.raises(BailiwickError) as refused:
        await ground.start()
    assert refused.value.reason == "canary_failed"
    assert (await ground.start(digest=OTHER)).state == "running"


async def test_what_stays_unclear_is_no_go(ground: Ground) -> None:
    canary = await ground.start()
    for looks in range(11):
        await ground.see(canary.id, 10 if looks else 50, ms=68.5)  # tolerable is 60 by a tenth and 2 ms
        after = await ground.drive(canary.id)
        assert after.state == ("running" if looks < 10 else "withdrawn")
    assert (after.verdict, after.reason, after.told) == ("FAIL", "inconclusive", "not shown to be tolerable: p50")
    assert await ground.standing() == ("FAIL", False)


async def test_unbalanced_traffic_is_inconclusive_once_all_points_are_there(ground: Ground) -> None:
    canary = await ground.start()
    await ground.see(canary.id, 50, requests=90)
    after = await ground.drive(canary.id)
    assert (after.state, after.looked) == ("running", 50)
    await ground.see(canary.id, 9, requests=90)
    assert (await ground.drive(canary.id)).looked == 50, "looked again before ten more were there"
    await ground.see(canary.id, 91, requests=90)
    after = await ground.drive(canary.id)
    assert (after.state, after.verdict, after.reason) == ("withdrawn", "FAIL", "unbalanced")


async def test_without_traffic_patience_ends(ground: Ground) -> None:
    canary = await ground.start()
    assert (await ground.drive(canary.id)).state == "running"
    await ground.sql("UPDATE canaries SET phased_at = clock_timestamp() - interval '3601 seconds'")
    after = await ground.drive(canary.id)
    assert (after.state, after.verdict, after.reason) == ("withdrawn", "NO_DATA", "no_data")
    assert await ground.standing() == ("NO_DATA", False)
    assert (await ground.start()).state == "running", "nothing was shown, so it may be tried again"


async def test_a_canary_that_nobody_watched_is_withdrawn_at_the_next_start(ground: Ground) -> None:
    canary = await ground.start()
    await ground.see(canary.id, 50)
    await ground.sql("UPDATE canaries SET watched_at = clock_timestamp() - make_interval(secs => :ago)", ago=HELD_S + 1)
    after = await ground.drive(canary.id)
    assert (after.state, after.verdict, after.reason) == ("withdrawn", "NO_DATA", "unwatched")
    assert "canary/pay" in ground.stage.heard.open_alerts


async def test_one_that_was_watched_lately_goes_on_after_a_crash(ground: Ground) -> None:
    canary = await ground.start()
    await ground.see(canary.id, 30)
    await ground.sql("UPDATE canaries SET watched_at = clock_timestamp() - make_interval(secs => :ago)", ago=HELD_S / 2)
    ground.desk = ground.desk_for(development=False)  # another process
    await ground.see(canary.id, 20)
    after = await ground.drive(canary.id)
    assert (after.state, after.candidate_percent) == ("running", 25)


async def test_nobody_can_promote_what_was_not_shown(ground: Ground) -> None:
    canary = await ground.start(automatic=False)
    for name in ("olga", "adam"):
        got = await ground.ask("POST", f"/api/v1/canaries/{canary.id}/promote", name)
        assert (got.status, got.json()["reason"]) == (403, "canary_unproven")
    got = await ground.ask("POST", f"/api/v1/canaries/{canary.id}/promote", "viv")
    assert (got.status, got.json()["reason"]) == (403, "permission_denied")
    for percent in (25, 50, 100):
        with pytest.raises(BailiwickError) as refused:
            await ground.desk.set("default", "pay", DIGEST, percent)
        assert refused.value.reason == "canary_unproven"
        assert refused.value.extra["most_percent"] == 5
    await ground.see(canary.id, 50)
    assert (await ground.drive(canary.id)).waits
    got = await ground.ask("POST", f"/api/v1/canaries/{canary.id}/promote", "olga")
    assert (got.status, got.json()["candidate_percent"], got.json()["waits"]) == (200, 25, False)


async def test_rollouts_set_weights_as_far_as_was_shown(ground: Ground) -> None:
    canary = await ground.start(automatic=False)
    for percent in (25, 50, 100):
        await ground.see(canary.id, 50)
        await ground.drive(canary.id)
        await ground.desk.set("default", "pay", DIGEST, percent)
        assert (await ground.now(canary.id)).candidate_percent == percent
    assert await ground.standing() == ("PASS", True)
    await ground.desk.set("default", "pay", DIGEST, 0)
    assert (await ground.now(canary.id)).state == "withdrawn"
    assert await ground.weights() is None
    assert await ground.standing() == ("NO_DATA", False), "a release that was taken back is not good"
    with pytest.raises(BailiwickError, match="No canary"):
        await ground.desk.set("default", "pay", DIGEST, 5)
    await ground.desk.set("default", "pay", DIGEST, 0)  # asked again after a crash, or after it withdrew itself


async def test_what_passed_is_refused_when_it_breaks_under_all_of_the_traffic(ground: Ground) -> None:
    canary = await ground.start()
    for _ in range(3):
        await ground.see(canary.id, 50)
        await ground.drive(canary.id)
    assert (await ground.now(canary.id)).state == "promoted" and await ground.standing() == ("PASS", True)
    await ground.see(canary.id, 1, errors=30)
    ground.people.clock.advance(121)
    await ground.see(canary.id, 5)
    assert (await ground.drive(canary.id)).state == "promoted", "what was long ago does not end it"
    await ground.see(canary.id, 1, errors=30)
    ended = await ground.drive(canary.id)
    assert (ended.state, ended.verdict, ended.reason) == ("withdrawn", "FAIL", "veto")
    assert ended.told.startswith("it passed, and then errors 100")
    assert await ground.weights() is None and await ground.standing() == ("FAIL", False)
    assert [each.rule for each in ground.stage.heard.fired] == ["CanaryWithdrawn"]
    with pytest.raises(BailiwickError) as refused:
        await ground.start()
    assert refused.value.reason == "canary_failed"


async def test_a_smaller_step_has_to_be_passed_again(ground: Ground) -> None:
    canary = await ground.start(automatic=False)
    for percent in (25, 5):
        await ground.see(canary.id, 50)
        await ground.drive(canary.id)
        await ground.desk.set("default", "pay", DIGEST, percent)
    assert ((await ground.now(canary.id)).passed, (await ground.now(canary.id)).candidate_percent) == (0, 5)
    with pytest.raises(BailiwickError) as refused:
        await ground.desk.set("default", "pay", DIGEST, 7)
    assert refused.value.reason == "invalid_request"


async def test_a_freeze_holds_promotion_and_never_withdrawal(ground: Ground, database_url: str) -> None:
    canary = await ground.start()
    _throw(database_url, "freeze")
    await ground.see(canary.id, 50)
    after = await ground.drive(canary.id)
    assert (after.candidate_percent, after.waits) == (5, True)
    with pytest.raises(BailiwickError) as refused:
        await ground.desk.promote(ground.stage.context("olga"), canary.id)
    assert refused.value.reason == "changes_frozen"
    with pytest.raises(BailiwickError) as refused:
        await ground.start(digest=OTHER)
    assert refused.value.reason == "changes_frozen"
    await ground.see(canary.id, 1, errors=20)
    assert (await ground.drive(canary.id)).reason == "veto", "one that waits is watched on"


def _throw(database_url: str, name: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET search_path = bailiwick")
        connection.execute("SET session_replication_role = replica")  # without the override it was thrown by
        connection.execute(
            "INSERT INTO switches (id, zone, name, reason, thrown_by, thrown_at, thrown_as)"
            " VALUES (%s, 'default', %s, 'test', 'olga', now(), 'none')",
            (f"test-{name}", name),
        )


async def test_another_upstream_of_the_server_ends_the_split(ground: Ground) -> None:
    canary = await ground.start()
    await ground.people.servers.change(
        ground.stage.context(), "pay", {"binding": {"upstream_url": "http://next.test:8080"}}
    )
    assert await ground.weights() is None, "at once, before anything is driven"
    after = await ground.drive(canary.id)
    assert (after.state, after.reason) == ("withdrawn", "server_changed")


async def test_a_promoted_candidate_becomes_the_servers_own_and_the_canary_ends(ground: Ground) -> None:
    canary = await ground.start()
    for _ in range(3):
        await ground.see(canary.id, 50)
        await ground.drive(canary.id)
    await ground.people.servers.change(ground.stage.context(), "pay", {"binding": {"upstream_url": CANDIDATE}})
    assert (await ground.drive(canary.id)).state == "ended"
    assert await ground.standing() == ("PASS", True)


async def test_arms_are_checked_as_upstreams_are(ground: Ground) -> None:
    ground.people.names.known |= {"inside.test": ["169.254.169.254"], "mute.test": None}
    for url, reason in (
        ("http://inside.test", "upstream_forbidden"), ("http://127.0.0.1:9", "upstream_forbidden"),
        ("http://nowhere.test", "upstream_unresolved"), ("http://mute.test", "upstream_unresolved"),
        ("http://candidate.test:8080/base", "canary_impossible"), ("http://stable.test:8080", "canary_impossible"),
        (BASELINE, "canary_impossible"), ("ftp://x", "invalid_request"), ("http://u:p@candidate.test", "invalid_request"),
    ):  # fmt: skip
        with pytest.raises(BailiwickError) as refused:
            await ground.start(candidate_url=url)
        assert refused.value.reason == reason, url
    canary = await ground.start()
    ground.people.names.known["candidate.test"] = None
    assert (await ground.drive(canary.id)).state == "running", "its name server is away, which moves nobody"
    ground.people.names.known["candidate.test"] = ["93.184.216.99"]
    assert list((await ground.drive(canary.id)).candidate_addresses) == ["93.184.216.99"]
    ground.people.names.known["candidate.test"] = ["169.254.169.254"]
    after = await ground.drive(canary.id)
    assert (after.state, after.reason) == ("withdrawn", "unresolved")


async def test_there_is_one_canary_of_a_server_however_many_begin_at_once(ground: Ground) -> None:
    found = await asyncio.gather(*(ground.start() for _ in range(4)), return_exceptions=True)
    refused = [each.reason for each in found if isinstance(each, BailiwickError)]
    assert refused == ["canary_open"] * 3


async def test_two_machines_count_together_and_a_second_process_of_one_does_not(ground: Ground) -> None:
    canary = await ground.start()
    async with ground.people.database.begin() as tx:
        for machine in ("one", "one", "two"):
            arms = [counted("candidate", 1), counted("baseline", 1)]
            await add_points(tx, canary.id, 1, 7, machine, ground.people.clock.now(), arms)
        points = await points_of(tx, canary.id, 1)
    assert [(each.bucket, each.requests) for each in points["candidate"]] == [(7, 60)]
    assert sum(count for _, _, count in points["candidate"][0].histogram) == 60
    assert isinstance(points["candidate"][0], Point)


SHORT = SHIPPED.replace("  steps:", "  bucket_s: 0.5\n  steps:")


async def test_short_points_count_in_development_only(house: House) -> None:
    ground = await Ground(house).open(SHORT)
    canary = await ground.start()
    for _ in range(3):
        await ground.see(canary.id, 50)
        await ground.drive(canary.id)
    assert await ground.standing() == ("NO_DATA", False)
    assert await ground.standing(development=True) == ("PASS", True)


async def test_a_changed_plan_changes_no_canary_that_goes_on_and_takes_two(ground: Ground) -> None:
    canary = await ground.start()
    looser = SHIPPED.replace("veto: 0.5", "veto: 1.0")
    with pytest.raises(AssertionError, match="waits for approval"):
        await ground.stage.apply(looser)
    assert (await ground.now(canary.id)).rules.metrics[0].veto == 0.5


async def test_the_api_tells_and_refuses(ground: Ground) -> None:
    body = {"server": "pay", "digest": DIGEST, "baseline_url": BASELINE, "candidate_url": CANDIDATE}
    for wrong in ({"digest": "sha256:zz"}, {"server": "\x00"}, {"nosuch": 1}, {"baseline_url": ""}):
        assert (await ground.ask("POST", "/api/v1/canaries", "olga", {**body, **wrong})).status in (400, 422)
    assert (await ground.ask("POST", "/api/v1/canaries", "viv", body)).status == 403
    made = await ground.ask("POST", "/api/v1/canaries", "olga", body)
    assert (made.status, made.json()["state"], made.json()["steps"]) == (201, "running", [5, 25, 50, 100])
    await ground.see(made.json()["id"], 3)
    shown = await ground.ask("GET", f"/api/v1/canaries/{made.json()['id']}", "adam")
    assert shown.json()["points"] == {"stable": 0, "baseline": 3, "candidate": 3}
    listed = await ground.ask("GET", f"/api/v1/canaries?digest={DIGEST}", "adam")
    assert [each["id"] for each in listed.json()["canaries"]] == [made.json()["id"]]
    told = await ground.ask("GET", f"/api/v1/canaries/standing?digest={DIGEST}", "adam")
    assert (told.json()["verdict"], told.json()["go"]) == ("NO_DATA", False)
    gone = await ground.ask("POST", f"/api/v1/canaries/{made.json()['id']}/withdraw", "olga", {"why": "looked odd"})
    assert (gone.status, gone.json()["verdict"], gone.json()["told"]) == (200, "NO_DATA", "looked odd")
    again = await ground.ask("POST", f"/api/v1/canaries/{made.json()['id']}/withdraw", "olga", {"why": "again"})
    assert (again.status, again.json()["reason"]) == (409, "illegal_transition")
    results = await ground.ask("GET", "/api/v1/canaries/results", "adam")
    assert [each["verdict"] for each in results.json()["results"]] == ["NO_DATA"]


PLAN = {
    "title": "t", "service": "s", "signatures": ["ops_owner"], "gate": {"name": "g", "title": "t"},
    "phases": [
        {"name": "a", "title": "t", "owner": "operator", "before_go": True, "steps": [
            {"name": "p", "title": "t", "do": {"kind": "preflight", "render": ["r"], "migrations": ["m"],
                                               "smoke": ["s"]}}]},
        {"name": "b", "title": "t", "owner": "operator", "steps": [
            {"name": "w", "title": "t", "do": {"kind": "wait", "lasting": "1s"}}]},
    ],
}  # fmt: skip


async def test_a_pack_has_a_chapter_of_it(ground: Ground) -> None:
    canary = await ground.start()
    await ground.see(canary.id, 1, errors=30)
    await ground.drive(canary.id)
    now = ground.people.clock.now()
    async with ground.people.database.begin() as tx:
        release, history = await chapter(tx, "default", "production", now - timedelta(hours=1), now)
        (judged,) = history.figures["verdicts"]
        stored = await ground.stage.records.get(tx, "default", judged["record"])
        output = json.loads(await ground.stage.records.output(tx, stored))
    assert release.verdict is Verdict.NO_DATA, "nothing went out"
    assert (history.verdict, history.told) == (Verdict.PASS, "1 verdicts, 1 refused")
    assert (judged["verdict"], stored.record.verdict(now), output["reason"]) == ("FAIL", Verdict.FAIL, "veto")


@pytest.mark.parametrize(("judged", "wanted"), [(["PASS"], "PASS"), (["PASS", "FAIL"], "FAIL"), ([], "NO_DATA")])
async def test_a_pack_says_how_the_release_did_that_is_out(ground: Ground, judged: list[str], wanted: str) -> None:
    """Also a month after, though a verdict lets nothing go out after a day."""
    canary = await ground.start()
    began = ground.people.clock.now()
    async with ground.people.database.begin() as tx:
        for number, verdict in enumerate(judged):
            at = began - timedelta(minutes=10 - number)
            stored = await ground.stage.records.probe(
                tx, ground.stage.context("olga"), "canary.traffic", b"{}", exit_code=0, since=at, until=at,
                producer=Producer(name="canary", program="canary", version="1"), expires_at=at + timedelta(days=1),
            )  # fmt: skip
            await add_result(
                tx,
                Result(
                    ground.stage.ids(),
                    "default",
                    DIGEST,
                    "traffic",
                    canary.id,
                    verdict,
                    "",
                    "judged",
                    [],
                    at,
                    at,
                    "",
                    stored.id,
                    False,
                ),
            )
        await tx.run(
            "INSERT INTO rollouts (id, zone, number, environment, digest, plan, plan_version, plan_sha256, spec,"
            " variables, planned_by, planned_at, state, entered_at, began_at, ended_at) VALUES (:id, 'default', 1,"
            " 'production', :digest, 'p', 1, repeat('0', 64), cast(:spec AS jsonb), '{}', 'eve', :now, 'done', :now,"
            " :now, :now)",
            id=ground.stage.ids(),
            digest=DIGEST,
            spec=json.dumps(PLAN),
            now=began,
        )
        later = began + timedelta(days=28)
        release, _ = await chapter(tx, "default", "production", later - timedelta(days=30), later)
    assert release.verdict is Verdict(wanted), release.told


# ---------------------------------------------------------------------- the loop of access


def steps_as_expected() -> list[Step]:
    return [Step(name, expected, expected) for name, expected in EXPECTED.items()]


def test_the_loop_passes_only_as_a_whole() -> None:
    assert verdict_of(steps_as_expected())[0] is Verdict.PASS
    assert verdict_of([])[0] is Verdict.NO_DATA
    for place, name in enumerate(EXPECTED):
        steps = steps_as_expected()
        steps[place] = Step(name, EXPECTED[name], "something else")
        assert verdict_of(steps)[:2] == (Verdict.FAIL, "loop")
        assert name in verdict_of(steps)[2]
        steps[place] = Step(name, "another expected value", EXPECTED[name])
        assert verdict_of(steps)[0] is Verdict.FAIL
        assert verdict_of(steps_as_expected()[:place] + steps_as_expected()[place + 1 :])[0] is Verdict.FAIL


class Nothing:
    """A fixture that makes nothing: its upstream may not be reached."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    async def make(self, context: Any, name: str, upstream: str, key: str) -> tuple[str, str, str]:
        raise BailiwickError(reason="upstream_forbidden")

    async def revoke(self, context: Any, mandate: str) -> bool:
        raise AssertionError("nothing was given")

    async def remove(self, context: Any, name: str) -> None:
        self.removed.append(name)


async def test_a_loop_that_cannot_be_walked_fails_is_kept_and_removes_what_it_made(ground: Ground) -> None:
    fixture, stage = Nothing(), ground.stage
    walker = AccessLoop(
        stage.database, stage.clock, stage.ids, stage.recorder, stage.records, fixture,
        lambda zone: Ways("http://127.0.0.1:9", "http://127.0.0.1:9"), release=DIGEST,
    )  # fmt: skip
    found = await walker.run(stage.context("olga"), DIGEST)
    assert (found.verdict, found.told) == ("FAIL", "prepared: expected routable, got upstream_forbidden")
    assert len(fixture.removed) == 1
    assert await ground.standing() == ("FAIL", False)
    with pytest.raises(BailiwickError, match="No policy set"):
        await walker.run(stage.context("olga"))


async def test_a_loop_and_a_canary_of_one_release_both_count(ground: Ground) -> None:
    canary = await ground.start()
    for _ in range(3):
        await ground.see(canary.id, 50)
        await ground.drive(canary.id)
    now, ids = ground.people.clock.now(), ground.people.ids
    for at, verdict, standing in (
        (now, "FAIL", "FAIL"),
        (now + timedelta(seconds=1), "PASS", "ERROR"),  # of a time that has not come
    ):
        result = Result(ids(), "default", DIGEST, "loop", None, verdict, "", "", [], at, at, "olga", "", False)
        async with ground.people.database.begin() as tx:
            await add_result(tx, result)
        assert (await ground.standing())[0] == standing
    ground.people.clock.advance(1)
    assert await ground.standing() == ("PASS", True)
