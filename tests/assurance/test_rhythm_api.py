"""The routes: who may, what is refused with which status, and that a meeting can be had by them alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from rhythm_stage import RhythmStage, ceremony, document

from people_fixtures import House

WEEKLY = ceremony("weekly", 'every: {weekday: tuesday, at: "10:00"}')
BOOK = (
    WEEKLY
    + document("Checkpoint", "T7", "title: a week\nafter_days: 7\nrule: waivers\nowner: uptime")
    + document("RoadmapItem", "slo", "item: x\ntrack: product\nowner: uptime\nacceptance: seen\ndue_days: 1")
)


@pytest.fixture
async def stage(house: House) -> RhythmStage:
    made = RhythmStage(house)
    await made.holds("olga", "ops_owner", "uptime")
    await made.apply(BOOK)
    return made


async def asked(
    stage: RhythmStage, method: str, path: str, body: Any = None, *, by: str = "jane", role: str = "admin"
) -> tuple[int, Any]:
    token = await stage.people.signed_in(by, role)
    got = await stage.call(method, f"/api/v1{path}", body, token=token)
    return got.status, got.json()


async def test_a_meeting_from_notice_to_signature(stage: RhythmStage) -> None:
    await stage.live(1.1, step_h=0.5)
    _, found = await asked(stage, "GET", "/rhythm/occurrences?ceremony=weekly&state=pack_built")
    (occurrence,) = found["items"]
    at = f"/rhythm/occurrences/{occurrence['id']}"
    status, pack = await asked(stage, "GET", f"{at}/pack")
    assert status == 200 and pack["pack"]["cut_off"] == occurrence["cut_off"]
    assert (await asked(stage, "GET", f"{at}/pack/verify"))[1]["holds"] is True
    action = {"title": "mend it", "owner": "olga"}
    minutes = {"attendees": ["olga"], "decisions": ["Go on."], "actions": [action]}
    assert (await asked(stage, "PUT", f"{at}/minutes", minutes))[1]["reason"] == "action_incomplete"
    assert (await asked(stage, "PUT", f"{at}/minutes", minutes))[0] == 422
    action["due"] = str((stage.clock.now() + timedelta(days=3)).date())
    assert (await asked(stage, "PUT", f"{at}/minutes", minutes, role="operator", by="oscar"))[0] == 200
    assert (await asked(stage, "POST", f"{at}/hold"))[1]["state"] == "held"
    status, refused = await asked(stage, "POST", f"{at}/sign", by="otto", role="operator")
    assert (status, refused["reason"]) == (403, "permission_denied")
    status, signed = await asked(stage, "POST", f"{at}/sign")
    assert (status, signed["signed_by"], signed["pack_sha256"]) == (200, "jane", pack["sha256"])
    _, actions = await asked(stage, "GET", "/rhythm/actions")
    (mend,) = actions["actions"]
    status, changed = await asked(stage, "PATCH", f"/rhythm/actions/{mend['id']}", {"owner": "jane"})
    assert (status, changed["owner"], changed["version"]) == (200, "jane", 2)
    status, refused = await asked(stage, "POST", f"/rhythm/actions/{mend['id']}/done", {"record": "0" * 64})
    assert (status, refused["reason"]) == (422, "evidence_needed")
    done = {"record": await stage.proof()}
    assert (await asked(stage, "POST", f"/rhythm/actions/{mend['id']}/done", done))[1]["state"] == "done"


async def test_readers_read_and_no_more(stage: RhythmStage) -> None:
    await stage.live(1.1, step_h=0.5)
    (occurrence,) = await stage.all()
    for path in ("ceremonies", "ceremonies/weekly", "occurrences", f"occurrences/{occurrence.id}", "actions"):
        assert (await asked(stage, "GET", f"/rhythm/{path}", by="aud", role="auditor"))[0] == 200, path
        assert (await asked(stage, "GET", f"/rhythm/{path}", by="vic", role="viewer"))[0] == 403, path
    for path in ("pack?format=html", "pack?format=markdown"):
        token = await stage.people.signed_in("aud", "auditor")
        got = await stage.call("GET", f"/api/v1/rhythm/occurrences/{occurrence.id}/{path}", token=token)
        assert got.status == 200 and b"weekly" in got.body and got.headers["content-type"].startswith("text/")
    for method, path in (
        ("POST", "/checkpoints/T7/plans"),
        ("PUT", "/checkpoints/go-live/default"),
        ("POST", f"/rhythm/occurrences/{occurrence.id}/sign"),
    ):
        assert (await asked(stage, method, path, {}, by="oscar", role="operator"))[0] == 403, path
        assert (await stage.call(method, f"/api/v1{path}", {})).status == 401


async def test_going_live_a_checkpoint_and_a_plan(stage: RhythmStage) -> None:
    now = stage.clock.now()
    live = {"at": now.isoformat(), "reason": "first customers"}
    assert (await asked(stage, "PUT", "/checkpoints/go-live/default", live))[0] == 200
    later = {**live, "at": (now + timedelta(days=1)).isoformat()}
    status, held = await asked(stage, "PUT", "/checkpoints/go-live/default", later)
    assert (status, held["approval"]["state"]) == (202, "open")
    assert (await asked(stage, "POST", "/checkpoints/T7/evaluate", {}))[1]["verdict"] == "NOT_DUE"
    ahead = {"at": (now + timedelta(minutes=4)).isoformat()}
    status, refused = await asked(stage, "POST", "/checkpoints/T7/evaluate", ahead)
    assert (status, refused["reason"]) == (409, "window_not_over")
    stage.clock.advance(7 * 86400)
    assert (await asked(stage, "POST", "/checkpoints/T7/evaluate", {}))[1]["verdict"] == "NO_DATA"
    assert (await asked(stage, "GET", "/checkpoints/T7"))[1]["results"][0]["version"] == 1
    assert (await asked(stage, "GET", "/checkpoints"))[1]["checkpoints"][0]["verdict"] == "NO_DATA"
    plan = {"waiver": "w1", "plan": "Rotate it on Thursday.", "owner": "olga", "due": "2026-01-20"}
    status, proposed = await asked(stage, "POST", "/checkpoints/T7/plans", plan)
    assert (status, proposed["plan"]["state"]) == (202, "proposed")
    _, plans = await asked(stage, "GET", "/checkpoints/T7/plans")
    assert [each["state"] for each in plans["plans"]] == ["proposed"]
    status, revoked = await asked(stage, "POST", f"/checkpoints/plans/{proposed['plan']['id']}/revoke")
    assert (status, revoked["state"]) == (200, "revoked")


async def test_prose_sets_no_state(stage: RhythmStage) -> None:
    for state in ("done", "started"):
        body = {"state": state, "note": "it is done, believe me", "status": "done"}
        assert (await asked(stage, "POST", "/registers/roadmap/slo", body))[0] == 400
    status, refused = await asked(stage, "POST", "/registers/roadmap/slo", {"state": "done", "note": "PASS"})
    assert (status, refused["reason"]) == (422, "evidence_needed")
    body = {"state": "done", "record": await stage.proof()}
    assert (await asked(stage, "POST", "/registers/roadmap/slo", body))[1]["state"] == "done"
    assert (await asked(stage, "GET", "/registers/roadmap/slo"))[1]["history"][0]["state"] == "done"
    assert (await asked(stage, "POST", "/checkpoints/T7/evaluate", {"verdict": "PASS"}))[0] == 400
    stage.clock.advance(86400 * 2)
    assert (await asked(stage, "GET", "/registers/roadmap?late=true"))[1]["items"] == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/rhythm/ceremonies/ghost", 404),
        ("GET", "/rhythm/occurrences/nonsense", 400),
        ("GET", "/rhythm/occurrences/00000000-0000-7000-8000-000000000000", 404),
        ("GET", "/rhythm/occurrences?state=nonsense", 400),
        ("GET", "/rhythm/occurrences?ceremony=%00", 400),
        ("GET", "/rhythm/calendar.ics?days=0", 400),
        ("GET", "/checkpoints/ghost", 404),
        ("GET", "/checkpoints?at=nonsense", 400),
        ("GET", "/checkpoints?at=0001-01-01T00:00:00Z", 400),
        ("GET", "/checkpoints?at=9999-12-31T23:59:59Z", 400),
        ("GET", "/registers/nonsense", 400),
        ("GET", "/registers/risks/ghost", 404),
        ("POST", "/rhythm/actions/00000000-0000-7000-8000-000000000000/done", 400),
    ],
)
async def test_what_is_malformed_is_a_problem(stage: RhythmStage, method: str, path: str, status: int) -> None:
    got, problem = await asked(stage, method, path)
    assert (got, problem["status"]) == (status, status)
