from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from typing import Any

import pytest

from bailiwick.evidence.events import Context
from bailiwick.identity.loader import UserEntry, load_users
from people_fixtures import House

SEED = {"username": "jane.doe", "email": "jane.doe@example.com", "role": "admin", "mfa_enabled": True}


@pytest.fixture
async def token(house: House) -> str:
    return await house.signed_in("root")


async def test_the_handoffs_calls_work_as_printed(house: House, token: str) -> None:
    made = await house.call("POST", "/api/v1/users", SEED, token=token)
    assert made.status == 201
    assert {name: made.json()[name] for name in SEED} == SEED
    await house.user("ada")
    for active, status in ((False, 200), (True, 202)):
        changed = await house.call("PATCH", "/api/v1/users/jane.doe", {"is_active": active}, token=token)
        assert (changed.status, changed.json()["is_active"]) == (status, False)
    await house.approve(changed.json()["approval"], "ada")
    enabled = await house.call("PATCH", "/api/v1/users/jane.doe", {"is_active": True}, token=token)
    assert (enabled.status, enabled.json()["is_active"]) == (200, True)
    reset = await house.call("DELETE", "/api/v1/users/jane.doe/mfa", token=token)
    assert (reset.status, reset.json()["factors_removed"]) == (200, 0)
    assert [event.name for event in await house.events()] == [
        "user.created",
        "user.disabled",
        "approval.requested",
        "approval.voted",
        "approval.executed",
        "user.enabled",
        "user.mfa.reset",
    ]


async def test_without_a_password_the_person_is_invited(house: House, token: str) -> None:
    made = await house.call("POST", "/api/v1/users", SEED, token=token)
    invitation = made.json()["invitation"]
    assert made.headers["cache-control"] == "no-store"
    assert invitation["url"] == f"https://bailiwick.example.com/invitation#{invitation['token']}"
    shown = await house.call("GET", "/api/v1/users/jane.doe", token=token)
    assert "invitation" not in shown.json()
    assert shown.json()["invited"] is True
    stored = bytes(await house.value("SELECT invitation_hash FROM users WHERE username = 'jane.doe'"))
    assert invitation["token"].encode() not in stored
    accept = {"token": invitation["token"], "password": "a horse of my own"}
    weak = await house.call("POST", "/api/v1/auth/invitations/accept", {**accept, "password": "short"})
    assert weak.status == 400
    accepted = await house.call("POST", "/api/v1/auth/invitations/accept", accept)
    assert (accepted.status, accepted.json()) == (200, {"username": "jane.doe"})
    login = {"username": "jane.doe", "password": "a horse of my own"}
    answer = await house.call("POST", "/api/v1/auth/login/local", login)
    assert answer.json()["reason"] == "mfa_enrolment_required", "he was created with mfa_enabled"
    again = await house.call("POST", "/api/v1/auth/invitations/accept", accept)
    assert (again.status, again.json()["reason"]) == (401, "invalid_token")
    assert (await house.events())[1].name == "auth.invitation.accepted"
    assert (await house.events())[1].actor.user == "jane.doe"


async def test_an_invitation_is_used_once_runs_out_and_is_replaced(house: House, token: str) -> None:
    made = (await house.call("POST", "/api/v1/users", SEED, token=token)).json()["invitation"]
    renewed = (await house.call("POST", "/api/v1/users/jane.doe/invitation", token=token)).json()["invitation"]
    path = "/api/v1/auth/invitations/accept"
    old = await house.call("POST", path, {"token": made["token"], "password": "a horse of my own"})
    assert old.status == 401
    house.clock.advance(timedelta(hours=72).total_seconds())
    late = await house.call("POST", path, {"token": renewed["token"], "password": "a horse of my own"})
    assert (late.status, late.json()["reason"]) == (401, "token_expired")
    fresh = (await house.call("POST", "/api/v1/users/jane.doe/invitation", token=token)).json()["invitation"]
    body = {"token": fresh["token"], "password": "a horse of my own"}
    answers = await asyncio.gather(*(house.call("POST", path, body) for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [200, 401, 401, 401, 401]


async def test_an_invitation_does_not_revive_the_disabled_nor_work_in_another_zone(house: House, token: str) -> None:
    await house.zone("other")
    made = (await house.call("POST", "/api/v1/users", SEED, token=token)).json()["invitation"]
    body = {"token": made["token"], "password": "a horse of my own"}
    path = "/api/v1/auth/invitations/accept"
    assert (await house.call("POST", path, body, headers={"x-test-zone": "other"})).status == 401
    await house.call("PATCH", "/api/v1/users/jane.doe", {"is_active": False}, token=token)
    assert (await house.call("POST", path, body)).status == 401


async def test_a_new_password_by_invitation_ends_what_the_old_one_opened(house: House, token: str) -> None:
    stolen = await house.signed_in("jane", "viewer")
    invitation = (await house.call("POST", "/api/v1/users/jane/invitation", token=token)).json()["invitation"]
    assert (await house.call("GET", "/api/v1/auth/me", token=stolen)).status == 200
    body = {"token": invitation["token"], "password": "a horse of my own"}
    assert (await house.call("POST", "/api/v1/auth/invitations/accept", body)).status == 200
    assert (await house.call("GET", "/api/v1/auth/me", token=stolen)).status == 401
    assert (await house.feed())[-1] == ("revocation", "user/jane")


async def test_with_a_password_the_person_signs_in(house: House, token: str) -> None:
    made = await house.call("POST", "/api/v1/users", {**SEED, "password": "a horse of my own"}, token=token)
    assert (made.status, "invitation" in made.json(), made.json()["invited"]) == (201, False, False)
    assert "horse" not in made.body.decode()
    assert "horse" not in str(await house.events())


async def test_disabling_ends_sessions_at_once(house: House, token: str) -> None:
    jane = await house.signed_in("jane", "operator")
    assert (await house.call("GET", "/api/v1/servers", token=jane)).status == 200
    answer = await house.call("PATCH", "/api/v1/users/jane", {"is_active": False}, token=token)
    assert answer.json()["is_active"] is False
    assert (await house.call("GET", "/api/v1/servers", token=jane)).status == 401
    assert await house.value("SELECT end_reason FROM sessions WHERE username = 'jane'") == "user disabled"
    assert await house.feed() == [("user", "jane"), ("revocation", "user/jane")]
    assert house.authority.settled == [2]
    await house.user("ada")
    for _ in range(2):
        enabled = await house.call("PATCH", "/api/v1/users/jane", {"is_active": True}, token=token)
        if enabled.status == 202:
            await house.approve(enabled.json()["approval"], "ada")
    assert enabled.json()["is_active"] is True
    assert (await house.call("GET", "/api/v1/servers", token=jane)).status == 401


async def test_disabling_is_one_transaction(house: House, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    jane = await house.signed_in("jane", "operator")

    async def broken(*_: Any) -> int:
        raise RuntimeError("the process dies here")

    monkeypatch.setattr(house.authority, "revoke", broken)
    with pytest.raises(RuntimeError):
        await house.call("PATCH", "/api/v1/users/jane", {"is_active": False}, token=token)
    assert (await house.call("GET", "/api/v1/servers", token=jane)).status == 200
    assert (await house.events(), await house.feed(), house.authority.settled) == ([], [], [])


async def test_a_changed_role_holds_on_open_sessions(house: House, token: str) -> None:
    jane = await house.signed_in("jane", "operator")
    assert (await house.call("GET", "/api/v1/credentials", token=jane)).status == 200
    await house.call("PATCH", "/api/v1/users/jane", {"role": "viewer"}, token=token)
    assert (await house.call("GET", "/api/v1/credentials", token=jane)).status == 403
    assert (await house.feed(), house.authority.settled) == ([("user", "jane")], [1])
    async with house.database.begin() as tx:
        assert (await load_users(tx, "default", "jane")) == {"jane": UserEntry("jane", "viewer", True, False)}
        assert set(await load_users(tx, "default")) == {"jane", "root"}


async def test_the_last_administrator_stays(house: House, token: str) -> None:
    await house.call("POST", "/api/v1/users", SEED, token=token)  # invited, cannot sign in yet
    await house.user("off", is_active=False)
    for patch in ({"is_active": False}, {"role": "operator"}):
        answer = await house.call("PATCH", "/api/v1/users/root", patch, token=token)
        assert (answer.status, answer.json()["reason"]) == (409, "conflict")
    assert (await house.call("PATCH", "/api/v1/users/jane.doe", {"role": "viewer"}, token=token)).status == 200
    await house.user("second")
    assert (await house.call("PATCH", "/api/v1/users/root", {"is_active": False}, token=token)).status == 200


async def test_administrators_who_demote_each_other_do_not_both_succeed(house: House) -> None:
    for round_ in range(5):
        zone = f"z{round_}"
        await house.zone(zone)
        await house.user("one", zone=zone)
        await house.user("two", zone=zone)
        outcomes = await asyncio.gather(
            house.users.change(Context(zone=zone), "one", {"role": "viewer"}),
            house.users.change(Context(zone=zone), "two", {"is_active": False}),
            return_exceptions=True,
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "User"]


@pytest.mark.parametrize(
    "patch",
    [
        {"username": "other"},
        {"id": "x"},
        {"zone": "other"},
        {"version": 7},
        {"password_hash": "x"},
        {"password": "a horse of my own"},
        {"must_change_password": False},
        {"role": "root"},
        {"role": None},
        {"is_active": None},
        {"is_active": "maybe"},
        {"email": "no address"},
        {"email": None},
        {"full_name": "a\u0000"},
        {"full_name": "a\nb"},
        {"full_name": "\ud800"},
        {"full_name": "x" * 1_000_000},
        [],
        "x",
    ],
)
async def test_nothing_else_can_be_assigned(house: House, token: str, patch: Any) -> None:
    await house.user("jane", "viewer")
    answer = await house.call("PATCH", "/api/v1/users/jane", patch, token=token)
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")
    assert await house.value("SELECT version FROM users WHERE username = 'jane'") == 1


@pytest.mark.parametrize(
    "body",
    [
        {"username": "x"},
        {**SEED, "username": ""},
        {**SEED, "username": "a b"},
        {**SEED, "username": "a\u0000"},
        {**SEED, "username": "jane.doe\n"},
        {**SEED, "username": "x" * 101},
        {**SEED, "email": "x"},
        {**SEED, "email": "a@b\u0000"},
        {**SEED, "email": "a@" + "b" * 300},
        {**SEED, "role": "Admin"},
        {**SEED, "is_active": True},
        {**SEED, "password_hash": "x"},
        {**SEED, "must_change_password": False},
        {**SEED, "id": "x"},
        {**SEED, "zone": "x"},
        {**SEED, "password": "short"},
        {**SEED, "password": "jane.doe@example.com"},
        {**SEED, "password": ["a horse of my own"]},
    ],
)
async def test_a_malformed_user_is_refused(house: House, token: str, body: dict[str, Any]) -> None:
    answer = await house.call("POST", "/api/v1/users", body, token=token)
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")
    assert "horse" not in answer.body.decode()
    assert await house.value("SELECT count(*) FROM users") == 1


async def test_of_many_who_create_the_same_user_one_wins(house: House, token: str) -> None:
    bodies = [
        SEED,
        {**SEED, "username": "Jane.Doe", "email": "other@example.com"},
        {**SEED, "username": "other", "email": "JANE.DOE@example.com"},
    ]
    answers = await asyncio.gather(
        *(house.call("POST", "/api/v1/users", bodies[0], token=token) for _ in range(10)),
    )
    assert sorted(answer.status for answer in answers) == [201] + [409] * 9
    for body in bodies[1:]:
        answer = await house.call("POST", "/api/v1/users", body, token=token)
        assert (answer.status, answer.json()["reason"]) == (409, "already_exists")


async def test_an_address_taken_meanwhile_is_a_conflict(house: House, token: str) -> None:
    for name in ("one", "two"):
        await house.user(name, "viewer")
    answers = await asyncio.gather(
        *(
            house.call("PATCH", f"/api/v1/users/{name}", {"email": "same@example.com"}, token=token)
            for name in ("one", "two")
        ),
        house.call("POST", "/api/v1/users", {**SEED, "email": "Same@example.com"}, token=token),
    )
    assert sorted(answer.status for answer in answers) in ([200, 409, 409], [201, 409, 409])


async def test_patch_merges_and_honours_if_match(house: House, token: str) -> None:
    await house.user("jane", "viewer")
    stale = await house.call(
        "PATCH", "/api/v1/users/jane", {"full_name": "J"}, token=token, headers={"if-match": '"9"'}
    )
    assert stale.status == 412
    named = await house.call("PATCH", "/api/v1/users/jane", {"full_name": "Jane"}, token=token)
    assert (named.json()["full_name"], named.headers["etag"]) == ("Jane", '"2"')
    same = await house.call("PATCH", "/api/v1/users/jane", {"full_name": "Jane"}, token=token)
    assert same.headers["etag"] == '"2"'
    cleared = await house.call("PATCH", "/api/v1/users/jane", {"full_name": None}, token=token)
    assert (cleared.json()["full_name"], cleared.json()["email"]) == ("", "jane@example.com")
    assert house.authority.settled == []


@pytest.mark.parametrize(("role", "read"), [("viewer", 403), ("auditor", 200), ("operator", 200), ("admin", 200)])
async def test_only_an_administrator_writes(house: House, role: str, read: int) -> None:
    await house.user("jane", "viewer")
    token = await house.signed_in(f"the-{role}", role)
    assert (await house.call("GET", "/api/v1/users", token=token)).status == read
    assert (await house.call("GET", "/api/v1/users/jane", token=token)).status == read
    for method, path, body in (
        ("POST", "/api/v1/users", SEED),
        ("PATCH", "/api/v1/users/jane", {"role": "admin"}),
        ("POST", "/api/v1/users/jane/invitation", None),
        ("DELETE", "/api/v1/users/jane/mfa", None),
    ):
        answer = await house.call(method, path, body, token=token)
        assert (answer.status == 403) == (role != "admin"), path


async def test_no_answer_tells_a_hash(house: House, token: str) -> None:
    answers = [
        await house.call("GET", path, token=token)
        for path in ("/api/v1/users", "/api/v1/users/root", "/api/v1/auth/me")
    ]
    assert all(answer.status == 200 and b"argon2" not in answer.body for answer in answers)


async def test_resetting_factors_ends_the_sessions_they_opened(house: House, token: str) -> None:
    jane = await house.signed_in("jane", "viewer")
    answer = await house.call("DELETE", "/api/v1/users/jane/mfa", token=token)
    assert answer.json() == {"username": "jane", "mfa_enabled": False, "factors_removed": 0, "sessions_ended": 1}
    assert (await house.call("GET", "/api/v1/auth/me", token=jane)).status == 401
    assert (await house.call("DELETE", "/api/v1/users/nobody/mfa", token=token)).status == 404


async def test_a_token_of_another_zone_opens_nothing(house: House, token: str) -> None:
    await house.zone("other")
    claims = base64.urlsafe_b64encode(b'["other","root","x",[],0]').decode().rstrip("=")
    forged = f"stand.{claims}.in"
    for presented in (token, forged):
        answer = await house.call("GET", "/api/v1/users", token=presented, headers={"x-test-zone": "other"})
        assert answer.status == 401
