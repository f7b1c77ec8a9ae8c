from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from bailiwick.identity.sessions import printable
from people_fixtures import PASSWORD, House


def session_of(token: str) -> str:
    return str(json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))[2])


async def test_signing_out_ends_the_session_everywhere(house: House) -> None:
    token = await house.signed_in("jane", "viewer")
    assert (await house.call("POST", "/api/v1/auth/logout", token=token)).status == 204
    assert (await house.call("GET", "/api/v1/auth/me", token=token)).status == 401
    assert await house.value("SELECT end_reason FROM sessions") == "signed out"
    assert await house.feed() == [("revocation", f"session/{session_of(token)}")]
    assert house.authority.settled == [1]
    assert [event.name for event in await house.events()] == ["auth.logout"]


async def test_people_see_and_end_their_own_sessions(house: House) -> None:
    mine, second = await house.signed_in("jane", "viewer"), await house.signed_in("jane")
    others = await house.signed_in("john", "operator")
    listed = (await house.call("GET", "/api/v1/sessions", token=mine)).json()["items"]
    assert [session["id"] for session in listed] == [session_of(second), session_of(mine)]
    assert [session["current"] for session in listed] == [False, True]
    asked = (await house.call("GET", "/api/v1/sessions?username=john", token=mine)).json()["items"]
    assert {session["username"] for session in asked} == {"jane"}
    refused = await house.call("DELETE", f"/api/v1/sessions/{session_of(others)}", token=mine)
    assert (refused.status, refused.json()["reason"]) == (404, "not_found")
    assert (await house.call("DELETE", f"/api/v1/sessions/{session_of(second)}", token=mine)).status == 204
    assert (await house.call("GET", "/api/v1/auth/me", token=second)).status == 401
    assert (await house.call("GET", "/api/v1/auth/me", token=others)).status == 200


async def test_an_administrator_sees_and_ends_everybodys(house: House) -> None:
    root, jane = await house.signed_in("root"), await house.signed_in("jane", "viewer")
    listed = (await house.call("GET", "/api/v1/sessions", token=root)).json()["items"]
    assert {session["username"] for session in listed} == {"root", "jane"}
    assert (await house.call("DELETE", f"/api/v1/sessions/{session_of(jane)}", token=root)).status == 204
    assert (await house.call("DELETE", f"/api/v1/sessions/{session_of(jane)}", token=root)).status == 204
    live = (await house.call("GET", "/api/v1/sessions?username=jane", token=root)).json()["items"]
    over = (await house.call("GET", "/api/v1/sessions?username=jane&ended=true", token=root)).json()["items"]
    assert (live, [session["end_reason"] for session in over]) == ([], ["ended"])
    assert [event.name for event in await house.events()] == ["auth.session.ended"] * 2


async def test_all_of_one_s_own_end_but_the_one_that_asks(house: House) -> None:
    mine, *others = [await house.signed_in("jane", "viewer") for _ in range(3)]
    john = await house.signed_in("john", "operator")
    ended = await house.call("DELETE", "/api/v1/sessions", token=mine)
    assert (ended.status, ended.json()) == (200, {"sessions_ended": 2})
    assert {(await house.call("GET", "/api/v1/auth/me", token=token)).status for token in others} == {401}
    for token in (mine, john):
        assert (await house.call("GET", "/api/v1/auth/me", token=token)).status == 200
    assert {key for kind, key in await house.feed() if kind == "revocation"} == {
        f"session/{session_of(token)}" for token in others
    }
    assert house.authority.settled == [2], "once, when all are written"
    assert [event.name for event in await house.events()] == ["auth.session.ended"] * 2
    assert (await house.call("DELETE", "/api/v1/sessions", token=mine)).json() == {"sessions_ended": 0}


async def test_an_administrator_ends_another_s_or_everybody_s(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bailiwick.identity.sessions._BATCH", 2)
    root, jane = await house.signed_in("root"), [await house.signed_in("jane", "viewer") for _ in range(3)]
    john = await house.signed_in("john", "operator")
    for query in ("?username=root", "?everybody=true"):
        refused = await house.call("DELETE", f"/api/v1/sessions{query}", token=john)
        assert (refused.status, refused.json()["reason"]) == (403, "permission_denied")
    both = await house.call("DELETE", "/api/v1/sessions?everybody=true&username=jane", token=root)
    assert (both.status, both.json()["reason"]) == (400, "invalid_request")
    assert (await house.call("DELETE", "/api/v1/sessions?username=jane", token=root)).json() == {"sessions_ended": 3}
    assert {(await house.call("GET", "/api/v1/auth/me", token=token)).status for token in jane} == {401}
    assert (await house.call("DELETE", "/api/v1/sessions?everybody=true", token=root)).json() == {"sessions_ended": 1}
    assert (await house.call("GET", "/api/v1/auth/me", token=john)).status == 401
    assert (await house.call("GET", "/api/v1/auth/me", token=root)).status == 200


async def test_ending_another_s_takes_who_proved_himself_just_now(house: House) -> None:
    root = await house.signed_in("root")
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET mfa_enabled = true WHERE username = 'root'")
    for query in ("?username=jane", "?everybody=true"):
        refused = await house.call("DELETE", f"/api/v1/sessions{query}", token=root)
        assert (refused.status, refused.json()["reason"]) == (401, "insufficient_user_authentication")
    assert (await house.call("DELETE", "/api/v1/sessions", token=root)).status == 200


async def test_the_list_is_read_page_by_page_newest_first(house: House) -> None:
    tokens = [await house.signed_in("jane", "viewer") for _ in range(5)]
    first = (await house.call("GET", "/api/v1/sessions?limit=3", token=tokens[0])).json()
    rest = (await house.call("GET", f"/api/v1/sessions?limit=3&cursor={first['next']}", token=tokens[0])).json()
    assert [session["id"] for session in first["items"] + rest["items"]] == [session_of(t) for t in reversed(tokens)]
    assert rest["next"] is None


async def test_a_session_past_its_time_is_not_live(house: House) -> None:
    token = await house.signed_in("jane", "viewer")
    house.clock.advance(13 * 3600)
    assert (await house.call("GET", "/api/v1/sessions", token=token)).json()["items"] == []


async def test_another_zones_sessions_are_out_of_reach(house: House) -> None:
    await house.zone("other")
    there = await house.signed_in("root", zone="other")
    token = await house.signed_in("root")
    assert (await house.call("DELETE", f"/api/v1/sessions/{session_of(there)}", token=token)).status == 404
    listed = (await house.call("GET", "/api/v1/sessions", token=token)).json()["items"]
    assert [session["id"] for session in listed] == [session_of(token)]


@pytest.mark.parametrize("identifier", ["x", "%00", "all", "'", "00000000-0000-0000-0000-00000000000g"])
async def test_an_id_that_is_none_is_refused(house: House, identifier: str) -> None:
    token = await house.signed_in("root")
    assert (await house.call("DELETE", f"/api/v1/sessions/{identifier}", token=token)).status in {400, 404}


def test_text_of_a_callers_choosing_cannot_speak_to_a_terminal() -> None:
    assert printable("a\x00b\x1b[2Jc\n" + "x" * 500) == ("a?b?[2Jc?" + "x" * 500)[:300]


async def test_many_refreshes_at_once_go_on_each_and_one_token_twice_does_not(house: House) -> None:
    await house.user("root")
    signed_in = []
    for number in range(5):
        name = f"p{number}"
        await house.user(name, "viewer")
        body = {"username": name, "password": "correct horse battery"}
        signed_in.append((await house.call("POST", "/api/v1/auth/login/local", body)).json())

    async def refresh(token: str) -> tuple[int, dict[str, Any]]:
        answer = await house.call("POST", "/api/v1/auth/refresh", {"refresh_token": token})
        return answer.status, answer.json()

    answers = await asyncio.gather(*(refresh(told["refresh_token"]) for told in signed_in), refresh("bwr_nonsense"))
    assert [status for status, _ in answers] == [200] * 5 + [401]
    for told, (_, fresh) in zip(signed_in, answers, strict=False):
        assert fresh["session_id"] == told["session_id"] and fresh["user"] == told["user"]
    events = [event for event in await house.events() if event.name == "auth.session.refreshed"]
    assert sorted(event.actor.user for event in events) == [f"p{number}" for number in range(5)]
    token = answers[0][1]["refresh_token"]
    twice = await asyncio.gather(*(refresh(token) for _ in range(3)))
    assert sorted(status for status, _ in twice) == [200, 401, 401]
    reasons = [told["reason"] for status, told in twice if status == 401]
    assert "refresh_reused" in reasons and (await refresh(twice[0][1].get("refresh_token", "x")))[0] == 401


async def test_people_who_sign_in_at_once_have_no_more_sessions_than_allowed(house: House) -> None:
    await house.user("olga")
    words = {"username": "olga", "password": PASSWORD}
    most = house.settings.max_sessions
    live = "SELECT count(*) FROM sessions WHERE username = 'olga' AND ended_at IS NULL"
    counted: list[int] = []

    async def sign_in() -> None:
        assert (await house.call("POST", "/api/v1/auth/login/local", words)).status == 200
        counted.append(await house.value(live))

    await asyncio.gather(*(sign_in() for _ in range(2 * most)))
    assert max(counted) == counted[-1] == most
    ended = await house.value(
        "SELECT array_agg(DISTINCT end_reason) FROM sessions WHERE username = 'olga' AND ended_at IS NOT NULL"
    )
    assert ended == ["too many sessions"]
    # those that ended are revoked, so that no worker takes their tokens
    assert await house.value("SELECT count(*) FROM revocations WHERE kind = 'session'") == most


async def test_a_session_that_is_over_takes_nobody_s_place(house: House) -> None:
    await house.user("olga")
    words = {"username": "olga", "password": PASSWORD}
    most = house.settings.max_sessions
    for _ in range(most):
        assert (await house.call("POST", "/api/v1/auth/login/local", words)).status == 200
    async with house.database.begin() as tx:
        await tx.run("UPDATE sessions SET expires_at = :now", now=house.clock.now())
    assert (await house.call("POST", "/api/v1/auth/login/local", words)).status == 200
    assert await house.value("SELECT count(*) FROM sessions WHERE end_reason = 'too many sessions'") == 0
