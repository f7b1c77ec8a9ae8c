"""Second factors: owed where they are due, worked once, and no way around them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from camera import seen_by_a_camera

from bailiwick.identity.factors import recovery, totp
from bailiwick.identity.login.lockout import MAX_FAILURES
from bailiwick.identity.login.sign_ins import MAX_ATTEMPTS, PENDING_LIFE
from people_fixtures import PASSWORD, Answer, House

LOGIN = "/api/v1/auth/login/local"
MFA = "/api/v1/auth/mfa"


async def login(house: House, username: str = "jane", password: str = PASSWORD) -> Answer:
    return await house.call("POST", LOGIN, {"username": username, "password": password})


def secret_of(told: dict[str, Any]) -> bytes:
    text = told["secret"]
    return base64.b32decode(text + "=" * (-len(text) % 8))


def code(house: House, secret: bytes, steps: int = 0) -> str:
    return totp.code_at(secret, int(house.clock.time()) // totp.STEP_S + steps)


async def enrolled(house: House, username: str = "jane", **columns: Any) -> tuple[bytes, dict[str, Any]]:
    """A user whose account needs a factor, with one: its secret, and what the sign-in that enrolled it answered."""
    await house.user(username, **columns)
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET mfa_enabled = true WHERE username = :u", u=username)
    owed = (await login(house, username)).json()
    assert owed["reason"] == "mfa_enrolment_required"
    told = await house.call("POST", f"{MFA}/enrolment", {"mfa_token": owed["mfa_token"]})
    secret = secret_of(told.json())
    done = await house.call(
        "POST", f"{MFA}/enrolment/confirm", {"mfa_token": owed["mfa_token"], "code": code(house, secret)}
    )
    assert done.status == 200, done.body
    house.clock.advance(totp.STEP_S)
    return secret, done.json()


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (59, "94287082"),
        (1111111109, "07081804"),
        (1111111111, "14050471"),
        (1234567890, "89005924"),
        (2000000000, "69279037"),
        (20000000000, "65353130"),
    ],
)
def test_codes_are_those_of_rfc_6238(moment: int, expected: str) -> None:
    assert totp.code_at(b"12345678901234567890", moment // 30) == expected[-6:]


def test_a_code_of_a_step_ago_or_ahead_counts_and_no_other() -> None:
    secret = totp.new_secret()
    for step, counts in ((-2, False), (-1, True), (0, True), (1, True), (2, False)):
        found = totp.matching_step(secret, totp.code_at(secret, 1000 + step), 30_000.0, -1)
        assert (found == 1000 + step) is counts, step


@pytest.mark.parametrize("account", ["jane", "jörg.müller@example.com", "x" * 200])
def test_an_app_reads_the_secret_off_the_picture(account: str) -> None:
    uri = totp.provisioning_uri(totp.new_secret(), "https://bailiwick.example.com/z/ämter", account)
    assert seen_by_a_camera(totp.qr_code(uri)) == uri


def test_recovery_codes_are_read_however_they_are_spelled() -> None:
    codes = recovery.new_codes()
    assert len(set(codes)) == recovery.COUNT
    for spelled in (codes[0].upper(), codes[0].replace("-", " "), f" {codes[0]} "):
        assert recovery.digest(spelled) == recovery.digest(codes[0])
    for wrong in ("", "abcd", codes[0] + "a", codes[0].replace("-", "0", 1)):
        assert recovery.digest(wrong) is None


async def test_an_account_that_needs_a_factor_gets_in_only_with_one(house: House) -> None:
    secret, done = await enrolled(house)
    assert len(done["recovery_codes"]) == recovery.COUNT
    owed = await login(house)
    assert (owed.status, owed.json()["reason"]) == (401, "mfa_required")
    assert owed.json()["methods"] == ["totp", "recovery_code"]
    assert await house.value("SELECT count(*) FROM sessions") == 1
    answer = await house.call("POST", MFA, {"mfa_token": owed.json()["mfa_token"], "code": code(house, secret)})
    assert answer.status == 200
    claims = json.loads(base64.urlsafe_b64decode(answer.json()["access_token"].split(".")[1] + "=="))
    assert claims[3] == ["pwd", "otp", "mfa"]
    assert answer.headers["cache-control"] == "no-store"
    names = [event.name for event in await house.events()]
    assert names.count("auth.factor.enrolled") == 1
    assert names[-1] == "auth.login.success"


async def test_a_code_works_once(house: House) -> None:
    secret, _ = await enrolled(house)
    for expected in (200, 401):
        owed = (await login(house)).json()
        given = await house.call("POST", MFA, {"mfa_token": owed["mfa_token"], "code": code(house, secret)})
        assert given.status == expected
    assert given.json()["reason"] == "invalid_code"
    # nor does the one before it, once a later one was used
    owed = (await login(house)).json()
    early = await house.call("POST", MFA, {"mfa_token": owed["mfa_token"], "code": code(house, secret, -1)})
    assert early.json()["reason"] == "invalid_code"


async def test_a_recovery_code_works_once_and_is_told_of(house: House) -> None:
    _, done = await enrolled(house)
    given = done["recovery_codes"][3].upper()
    for expected in (200, 401):
        owed = (await login(house)).json()
        assert (await house.call("POST", MFA, {"mfa_token": owed["mfa_token"], "code": given})).status == expected
    used = [event for event in await house.events() if event.name == "auth.recovery-code.used"]
    assert [event.details["left"] for event in used] == [recovery.COUNT - 1]


async def test_the_token_of_a_waiting_sign_in_is_good_once_for_five_minutes_and_five_tries(house: House) -> None:
    secret, _ = await enrolled(house)
    owed = (await login(house)).json()
    for _ in range(MAX_ATTEMPTS):
        wrong = await house.call("POST", MFA, {"mfa_token": owed["mfa_token"], "code": "000000"})
        assert wrong.json()["reason"] == "invalid_code"
    right = await house.call("POST", MFA, {"mfa_token": owed["mfa_token"], "code": code(house, secret)})
    assert right.json()["reason"] == "invalid_token"
    owed = (await login(house)).json()
    house.clock.advance(PENDING_LIFE.total_seconds() + 1)
    late = await house.call("POST", MFA, {"mfa_token": owed["mfa_token"], "code": code(house, secret)})
    assert late.json()["reason"] == "token_expired"
    owed = (await login(house)).json()
    body = {"mfa_token": owed["mfa_token"], "code": code(house, secret)}
    assert (await house.call("POST", MFA, body)).status == 200
    assert (await house.call("POST", MFA, body)).json()["reason"] == "invalid_token"


async def test_guessing_codes_locks_the_account_however_many_sign_ins_are_begun(house: House) -> None:
    secret, _ = await enrolled(house)
    reasons = []
    for _ in range(MAX_FAILURES + 1):
        owed = (await login(house)).json()
        if owed["reason"] != "mfa_required":
            reasons.append(owed["reason"])
            break
        reasons.append(
            (await house.call("POST", MFA, {"mfa_token": owed["mfa_token"], "code": "111111"})).json()["reason"]
        )
    assert reasons[-1] == "account_locked"
    assert len(reasons) == MAX_FAILURES + 1
    house.clock.advance(16 * 60)
    owed = (await login(house)).json()
    assert (await house.call("POST", MFA, {"mfa_token": owed["mfa_token"], "code": code(house, secret)})).status == 200


async def test_whoever_holds_only_the_password_cannot_enrol_beside_the_owner(house: House) -> None:
    await house.user("jane")
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET mfa_enabled = true")
    thief, owner = (await login(house)).json(), (await login(house)).json()
    told = await house.call("POST", f"{MFA}/enrolment", {"mfa_token": owner["mfa_token"]})
    body = {"mfa_token": owner["mfa_token"], "code": code(house, secret_of(told.json()))}
    assert (await house.call("POST", f"{MFA}/enrolment/confirm", body)).status == 200
    late = await house.call("POST", f"{MFA}/enrolment", {"mfa_token": thief["mfa_token"]})
    assert (late.status, late.json()["reason"]) == (401, "invalid_token")
    # a token that owes a code is not one that may enrol, and the other way about
    owed = (await login(house)).json()
    assert (await house.call("POST", f"{MFA}/enrolment", {"mfa_token": owed["mfa_token"]})).status == 401


async def test_a_role_may_need_a_factor(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house.sign_ins, "_settings", house.settings.model_copy(update={"mfa_roles": ("operator",)}))
    await house.user("olga", role="operator")
    await house.user("vera", role="viewer")
    assert (await login(house, "olga")).json()["reason"] == "mfa_enrolment_required"
    assert (await login(house, "vera")).status == 200
    monkeypatch.setattr(
        house.sign_ins, "_settings", house.settings.model_copy(update={"mfa_roles": ("operator",), "dev": True})
    )
    assert (await login(house, "olga")).status == 200


async def test_a_reset_forgets_factors_and_codes_and_ends_sessions(house: House) -> None:
    _, done = await enrolled(house)
    root = await house.signed_in("root")
    told = await house.call("DELETE", "/api/v1/users/jane/mfa", token=root)
    assert told.json() == {"username": "jane", "mfa_enabled": True, "factors_removed": 1, "sessions_ended": 1}
    assert (await login(house)).json()["reason"] == "mfa_enrolment_required"
    assert await house.value("SELECT count(*) FROM recovery_codes") == 0
    assert (await house.call("GET", "/api/v1/auth/me", token=done["access_token"])).status == 401


async def test_one_s_own_factors_are_changed_only_by_who_proved_himself_just_now(house: House) -> None:
    secret, done = await enrolled(house)
    token = done["access_token"]
    listed = (await house.call("GET", "/api/v1/auth/factors", token=token)).json()
    assert [factor["kind"] for factor in listed["factors"]] == ["totp"]
    assert listed["recovery_codes_left"] == recovery.COUNT
    house.clock.advance(16 * 60)
    stale = await house.call("POST", "/api/v1/auth/recovery-codes", token=token)
    assert (stale.status, stale.json()["reason"]) == (401, "insufficient_user_authentication")
    assert 'max_age="900"' in stale.headers["www-authenticate"] and "acr_values" in stale.headers["www-authenticate"]
    fresh = await house.call("POST", "/api/v1/auth/step-up", {"code": code(house, secret)}, token=token)
    assert fresh.status == 200
    token = fresh.json()["access_token"]
    renewed = await house.call("POST", "/api/v1/auth/recovery-codes", token=token)
    assert set(renewed.json()["recovery_codes"]).isdisjoint(done["recovery_codes"])
    last = await house.call("DELETE", f"/api/v1/auth/factors/{listed['factors'][0]['id']}", token=token)
    assert last.status == 409
    second = await house.call("POST", "/api/v1/auth/factors/totp", {"name": "tablet"}, token=token)
    body = {"code": code(house, secret_of(second.json()))}
    assert seen_by_a_camera(second.json()["qr_code"]) == second.json()["otpauth_uri"]
    confirmed = await house.call("POST", "/api/v1/auth/factors/totp/confirm", body, token=token)
    assert [factor["name"] for factor in confirmed.json()["factors"]] == ["Authenticator app", "tablet"]
    assert confirmed.json()["recovery_codes"] == []
    gone = await house.call("DELETE", f"/api/v1/auth/factors/{listed['factors'][0]['id']}", token=token)
    assert gone.status == 204


async def test_a_session_goes_on_by_refresh_tokens_that_work_once(house: House) -> None:
    await house.user("jane")
    first = (await login(house)).json()
    house.clock.advance(60)
    second = await house.call("POST", "/api/v1/auth/refresh", {"refresh_token": first["refresh_token"]})
    assert second.status == 200
    assert second.json()["session_id"] == first["session_id"]
    assert second.json()["refresh_token"] != first["refresh_token"]
    again = await house.call("POST", "/api/v1/auth/refresh", {"refresh_token": first["refresh_token"]})
    assert (again.status, again.json()["reason"]) == (401, "refresh_reused")
    # whoever had the newer one is out as well: nobody can tell which of the two is the thief
    after = await house.call("POST", "/api/v1/auth/refresh", {"refresh_token": second.json()["refresh_token"]})
    assert after.json()["reason"] == "session_ended"
    assert (await house.call("GET", "/api/v1/auth/me", token=second.json()["access_token"])).status == 401
    assert [event.name for event in await house.events()][-1] == "auth.refresh.reused"
    assert house.authority.settled


async def test_what_is_no_refresh_token_ends_nothing(house: House) -> None:
    await house.user("jane")
    first = (await login(house)).json()
    for nonsense in ("", "bwr_", "bwr_" + "a" * 60, first["access_token"][:200]):
        answer = await house.call("POST", "/api/v1/auth/refresh", {"refresh_token": nonsense})
        assert (answer.status, answer.json()["reason"]) == (401, "invalid_token"), nonsense
    assert (await house.call("POST", "/api/v1/auth/refresh", {"refresh_token": first["refresh_token"]})).status == 200


async def test_an_idle_session_is_over(house: House) -> None:
    await house.user("jane")
    token = (await login(house)).json()["refresh_token"]
    house.clock.advance(house.settings.session_idle_s + 1)
    over = await house.call("POST", "/api/v1/auth/refresh", {"refresh_token": token})
    assert (over.status, over.json()["reason"]) == (401, "session_ended")


async def test_a_session_ends_after_its_whole_life_however_busy(house: House) -> None:
    await house.user("jane")
    answer = await login(house)
    for _ in range(house.settings.session_ttl_s // house.settings.session_idle_s + 1):
        told = answer.json()
        house.clock.advance(house.settings.session_idle_s - 60)
        answer = await house.call("POST", "/api/v1/auth/refresh", {"refresh_token": told["refresh_token"]})
    assert (answer.status, answer.json()["reason"]) == (401, "session_ended")
    assert told["expires_in"] < house.settings.access_ttl_s, "a token that outlives its session"


async def test_a_disabled_user_s_session_does_not_go_on(house: House) -> None:
    await house.user("jane")
    token = (await login(house)).json()["refresh_token"]
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET is_active = false WHERE username = 'jane'")
    assert (await house.call("POST", "/api/v1/auth/refresh", {"refresh_token": token})).status == 401


async def test_the_sixth_session_ends_the_oldest(house: House) -> None:
    await house.user("jane")
    opened = [(await login(house)).json() for _ in range(6)]
    live = (await house.call("GET", "/api/v1/sessions", token=opened[-1]["access_token"])).json()["items"]
    assert [session["id"] for session in live] == [session["session_id"] for session in opened[:0:-1]]
    assert (await house.call("GET", "/api/v1/auth/me", token=opened[0]["access_token"])).status == 401
