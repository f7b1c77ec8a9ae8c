from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from argon2 import PasswordHasher
from structlog.testing import capture_logs

from bailiwick.identity.login.lockout import MAX_FAILURES
from people_fixtures import PASSWORD, Answer, House

LOGIN = "/api/v1/auth/login/local"


async def login(house: House, username: str = "jane", password: str = PASSWORD) -> Answer:
    return await house.call("POST", LOGIN, {"username": username, "password": password})


async def test_a_right_password_opens_a_session(house: House) -> None:
    await house.user("jane", "operator")
    answer = await house.call(
        "POST", LOGIN, {"username": "jane", "password": PASSWORD}, headers={"user-agent": "curl\x1b[31m/8"}
    )
    body = answer.json()
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    assert body["access_token"] == body["token"]
    assert (body["token_type"], body["expires_in"], body["must_change_password"]) == ("Bearer", 3600, False)
    assert body["user"] == {"username": "jane", "role": "operator", "email": "jane@example.com"}
    me = await house.call("GET", "/api/v1/auth/me", token=body["token"])
    assert (me.json()["username"], me.json()["session_id"]) == ("jane", body["session_id"])
    assert me.json()["last_login_at"] is not None
    assert await house.value("SELECT user_agent FROM sessions") == "curl?[31m/8"
    (event,) = await house.events()
    assert (event.name, event.outcome, event.actor.user, event.actor.session) == (
        "auth.login.success",
        "success",
        "jane",
        body["session_id"],
    )


async def test_a_wrong_password_an_unknown_name_and_no_password_answer_alike(house: House) -> None:
    await house.user("jane")
    await house.user("invited", password_hash=None)
    with capture_logs() as logs:
        answers = [
            await login(house, "jane", "wrong horse battery"),
            await login(house, "nobody", PASSWORD),
            await login(house, "invited", PASSWORD),
            await login(house, "not a name '--", PASSWORD),
            await login(house, "JANE", PASSWORD),
        ]
    bodies = [{**answer.json(), "request_id": ""} for answer in answers]
    assert [answer.status for answer in answers] == [401] * 5, bodies
    assert all(body == bodies[0] for body in bodies)
    assert bodies[0]["reason"] == "invalid_credentials"
    assert [entry["event"] for entry in logs] == ["authentication failed"] * 5
    assert "horse" not in json.dumps(logs)
    events = await house.events()
    assert [event.name for event in events] == ["auth.login.failure"] * 5
    assert events[3].subject is not None
    assert events[3].subject.id == "not a name '--"


async def test_a_name_no_text_field_could_hold_is_refused_before_anything_is_asked(house: House) -> None:
    answer = await login(house, "not a name \u0000'--", PASSWORD)
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")
    assert await house.events() == []


async def test_a_disabled_account_is_told_so_only_to_who_knows_the_password(house: House) -> None:
    await house.user("jane", is_active=False)
    assert (await login(house, password="wrong horse battery")).json()["reason"] == "invalid_credentials"
    assert (await login(house)).json()["reason"] == "account_disabled"
    assert await house.value("SELECT count(*) FROM sessions") == 0


@pytest.mark.parametrize("username", ["jane", "nobody"])
async def test_ten_failures_lock_for_a_quarter_of_an_hour(house: House, username: str) -> None:
    await house.user("jane")
    for _ in range(MAX_FAILURES):
        assert (await login(house, username, "wrong horse battery")).status == 401
    locked = await login(house, username, PASSWORD)
    assert (locked.status, locked.json()["reason"], locked.headers["retry-after"]) == (429, "account_locked", "901")
    assert [event.name for event in await house.events()].count("auth.account.locked") == 1
    house.clock.advance(14 * 60)
    assert (await login(house, username)).status == 429
    house.clock.advance(61)
    assert (await login(house, username)).status == (200 if username == "jane" else 401)


async def test_a_lock_is_one_accounts(house: House) -> None:
    await house.user("jane")
    await house.user("john")
    for _ in range(MAX_FAILURES):
        await login(house, "jane", "wrong horse battery")
    assert (await login(house, "john")).status == 200


async def test_success_and_time_forget_failures(house: House) -> None:
    await house.user("jane")
    for _ in range(MAX_FAILURES - 1):
        await login(house, password="wrong horse battery")
    assert (await login(house)).status == 200
    for _ in range(MAX_FAILURES - 1):
        await login(house, password="wrong horse battery")
    house.clock.advance(timedelta(minutes=15).total_seconds())
    assert (await login(house, password="wrong horse battery")).status == 401
    assert (await login(house)).status == 200
    await login(house, password="wrong horse battery")
    assert await house.login.sweep_failures() == 0
    house.clock.advance(timedelta(minutes=16).total_seconds())
    assert await house.login.sweep_failures() == 1


async def test_guessing_in_parallel_learns_no_more_than_in_turn(house: House) -> None:
    await house.user("jane")
    answers = await asyncio.gather(*(login(house, password=f"wrong horse battery {n}") for n in range(40)))
    statuses = [answer.status for answer in answers]
    assert statuses.count(401) == MAX_FAILURES
    assert set(statuses) <= {401, 429}
    assert [event.name for event in await house.events()].count("auth.account.locked") == 1


async def test_many_right_passwords_at_once_do_not_lock(house: House) -> None:
    await house.user("jane")
    answers = await asyncio.gather(*(login(house) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}


async def test_an_old_hash_is_renewed(house: House) -> None:
    old = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash(PASSWORD)
    await house.user("jane", password_hash=old)
    assert (await login(house)).status == 200
    assert "m=19456,t=2,p=1" in await house.value("SELECT password_hash FROM users")
    assert (await login(house)).status == 200


async def test_a_password_changed_while_it_was_checked_is_not_right_any_more(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.user("jane")
    real = house.passwords.verify

    async def overtaken(stored: str | None, password: str) -> Any:
        verified = await real(stored, password)
        async with house.database.begin() as tx:
            await tx.run("UPDATE users SET password_hash = 'another'")
        return verified

    monkeypatch.setattr(house.passwords, "verify", overtaken)
    assert (await login(house)).status == 401


async def test_a_user_disabled_while_the_password_was_checked_gets_no_session(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.user("jane", "viewer")
    await house.user("root")
    token = await house.signed_in("root")
    real = house.passwords.verify

    async def overtaken(stored: str | None, password: str) -> Any:
        verified = await real(stored, password)
        assert (await house.call("PATCH", "/api/v1/users/jane", {"is_active": False}, token=token)).status == 200
        return verified

    monkeypatch.setattr(house.passwords, "verify", overtaken)
    assert (await login(house)).json()["reason"] == "account_disabled"
    assert await house.value("SELECT count(*) FROM sessions WHERE username = 'jane'") == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"username": "jane"},
        {"username": "jane", "password": 7},
        {"username": "jane", "password": PASSWORD, "role": "admin"},
        {"username": "jane", "password": "x" * 2000},
        {"username": "x" * 300, "password": PASSWORD},
        {"username": ["jane"], "password": PASSWORD},
        {"username": "\ud800", "password": PASSWORD},
    ],
)
async def test_a_malformed_sign_in_is_refused_without_echoing_it(house: House, body: dict[str, Any]) -> None:
    await house.user("jane")
    answer = await house.call("POST", LOGIN, body)
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")
    assert PASSWORD not in answer.body.decode()


@pytest.mark.parametrize("password", ["\u0000" * 12, "\ud800" * 12, "\U0001f511" * 300, "'; DROP TABLE users; --"])
async def test_no_password_makes_the_sign_in_fail_otherwise_than_by_refusing(house: House, password: str) -> None:
    await house.user("jane")
    assert (await login(house, password=password)).status in {400, 401}


async def test_a_one_time_password_opens_only_the_way_to_change_it(house: House) -> None:
    await house.user("admin", must_change_password=True)
    signed_in = (await login(house, "admin")).json()
    assert signed_in["must_change_password"]
    token = signed_in["token"]
    for path in ("users", "servers", "zones", "credentials", "applications", "sessions"):
        answer = await house.call("GET", f"/api/v1/{path}", token=token)
        assert (answer.status, answer.json()["reason"]) == (403, "password_change_required"), path
    assert (await house.call("GET", "/api/v1/auth/me", token=token)).json()["must_change_password"]
    change = {"current_password": PASSWORD, "new_password": "a better horse battery"}
    assert (await house.call("POST", "/api/v1/auth/password", change, token=token)).status == 204
    assert (await house.call("GET", "/api/v1/users", token=token)).status == 200
    assert ("user", "admin") in await house.feed()
    assert (await login(house, "admin")).status == 401
    assert (await login(house, "admin", "a better horse battery")).json()["must_change_password"] is False
    other = (await login(house, "admin", "a better horse battery")).json()["token"]
    assert (await house.call("POST", "/api/v1/auth/logout", token=other)).status == 204


@pytest.mark.parametrize(
    ("new", "status"), [("short", 400), (PASSWORD, 400), ("jane@example.com", 400), ("x" * 257, 400), ("y" * 256, 204)]
)
async def test_a_new_password_must_be_a_good_and_another_one(house: House, new: str, status: int) -> None:
    token = await house.signed_in("jane")
    change = {"current_password": PASSWORD, "new_password": new}
    answer = await house.call("POST", "/api/v1/auth/password", change, token=token)
    assert answer.status == status
    assert new not in answer.body.decode()


async def test_changing_the_password_ends_the_other_sessions(house: House) -> None:
    mine, other = await house.signed_in("jane"), await house.signed_in("jane")
    change = {"current_password": PASSWORD, "new_password": "a better horse battery"}
    assert (await house.call("POST", "/api/v1/auth/password", change, token=mine)).status == 204
    assert (await house.call("GET", "/api/v1/auth/me", token=mine)).status == 200
    assert (await house.call("GET", "/api/v1/auth/me", token=other)).status == 401
    assert [kind for kind, _ in await house.feed()] == ["user", "revocation"]
    assert len(house.authority.settled) == 1
    assert [event.name for event in await house.events()] == ["auth.password.changed"]


async def test_a_stolen_session_does_not_help_to_guess_the_password(house: House) -> None:
    token = await house.signed_in("jane")
    change = {"current_password": "wrong horse battery", "new_password": "a better horse battery"}
    for _ in range(MAX_FAILURES):
        assert (await house.call("POST", "/api/v1/auth/password", change, token=token)).status == 401
    right = {"current_password": PASSWORD, "new_password": "a better horse battery"}
    answer = await house.call("POST", "/api/v1/auth/password", right, token=token)
    assert (answer.status, answer.json()["reason"]) == (429, "account_locked")
