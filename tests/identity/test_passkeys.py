"""Passkeys, by an authenticator in software: what they open, and what about them is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from soft_key import SoftKey, encoded

from bailiwick.identity.factors import webauthn
from bailiwick.identity.factors.keys import CHALLENGE_LIFE
from bailiwick.identity.login.lockout import MAX_FAILURES
from bailiwick.kernel.errors import Conflict
from people_fixtures import PASSWORD, Answer, House

LOGIN = "/api/v1/auth/login/local"
ALONE = "/api/v1/auth/login/passkey"
SECOND = "/api/v1/auth/mfa/webauthn"
OWN = "/api/v1/auth/factors/webauthn"


async def asked(house: House, path: str, body: Any = None, token: str = "") -> dict[str, Any]:
    got = await house.call("POST", f"{path}/options", body, token=token)
    assert got.status == 200, got.body
    assert got.headers["cache-control"] == "no-store"
    options: dict[str, Any] = got.json()["publicKey"]
    return options


async def enrolled(house: House, key: SoftKey, username: str = "jane", name: str = "Laptop") -> Answer:
    token = await house.signed_in(username, "viewer", amr=("pwd", "otp", "mfa"))
    made = key.create(await asked(house, OWN, token=token))
    got = await house.call("POST", f"{OWN}/verify", {"name": name, "credential": made}, token=token)
    assert got.status == 201, got.body
    return got


async def alone(house: House, key: SoftKey, **forged: Any) -> Answer:
    used = key.get(await asked(house, ALONE), **forged)
    return await house.call("POST", f"{ALONE}/verify", {"credential": used})


async def owed(house: House, username: str = "jane") -> dict[str, Any]:
    got = await house.call("POST", LOGIN, {"username": username, "password": PASSWORD})
    assert got.json()["reason"] == "mfa_required", got.body
    told: dict[str, Any] = got.json()
    return told


async def second(house: House, key: SoftKey, username: str = "jane", **forged: Any) -> Answer:
    token = (await owed(house, username))["mfa_token"]
    used = key.get(await asked(house, SECOND, {"mfa_token": token}), **forged)
    return await house.call("POST", f"{SECOND}/verify", {"mfa_token": token, "credential": used})


def amr(answer: Answer) -> list[str]:
    found: list[str] = json.loads(base64.urlsafe_b64decode(answer.json()["access_token"].split(".")[1] + "=="))[3]
    return found


async def test_a_passkey_that_verified_its_person_opens_a_session_alone(house: House) -> None:
    key = SoftKey()
    made = await enrolled(house, key)
    assert [(factor["kind"], factor["name"]) for factor in made.json()["factors"]] == [("webauthn", "Laptop")]
    assert len(made.json()["recovery_codes"]) == 10
    got = await alone(house, key)
    assert got.status == 200, got.body
    assert amr(got) == ["hwk", "user", "mfa"]
    names = [event.name for event in await house.events()]
    assert names == ["auth.factor.enrolled", "auth.login.success"]
    assert (await house.events())[-1].details["method"] == "passkey"


async def test_signing_in_alone_asks_nobody_by_name_and_wants_the_person_verified(house: House) -> None:
    options = await asked(house, ALONE)
    assert options["userVerification"] == "required"
    assert not options.get("allowCredentials")
    assert options["rpId"] == "bailiwick.example.com"
    key = SoftKey(verifies=False)
    await enrolled(house, key)
    got = await alone(house, key)
    assert (got.status, got.json()["reason"]) == (401, "invalid_passkey")


async def test_a_passkey_is_the_second_factor_of_a_password(house: House) -> None:
    key, other = SoftKey(verifies=False), SoftKey()
    await enrolled(house, key)
    await enrolled(house, other, name="Phone")
    told = await owed(house)
    assert told["methods"] == ["webauthn", "recovery_code"]
    options = await asked(house, SECOND, {"mfa_token": told["mfa_token"]})
    assert {each["id"] for each in options["allowCredentials"]} == {encoded(key.identifier), encoded(other.identifier)}
    got = await second(house, key)
    assert (got.status, amr(got)) == (200, ["pwd", "hwk", "mfa"])
    got = await second(house, other)
    assert (got.status, amr(got)) == (200, ["pwd", "hwk", "user", "mfa"])


@pytest.mark.parametrize(
    "forged",
    [
        {"origin": "https://bailiwick.example.com.evil.example"},
        {"origin": "http://bailiwick.example.com"},
        {"origin": "https://bailiwick.example.com:8443"},
        {"type": "webauthn.create"},
        {"challenge": encoded(bytes(32))},
        {"challenge": "short"},
        {"rp_id": "example.com"},
    ],
    ids=str,
)
async def test_what_was_signed_for_another_site_or_challenge_is_refused(house: House, forged: dict[str, Any]) -> None:
    key = SoftKey()
    await enrolled(house, key)
    for got in (await alone(house, key, **forged), await second(house, key, **forged)):
        assert (got.status, got.json()["reason"]) == (401, "invalid_passkey")
    assert await house.value("SELECT count(*) FROM sessions WHERE method <> 'local'") == 0
    assert (await alone(house, key)).status == 200


async def test_a_challenge_is_answered_once_and_within_five_minutes(house: House) -> None:
    key = SoftKey(counts=False)
    await enrolled(house, key)
    used = key.get(await asked(house, ALONE))
    for expected in (200, 401):
        assert (await house.call("POST", f"{ALONE}/verify", {"credential": used})).status == expected
    used = key.get(await asked(house, ALONE))
    house.clock.advance(CHALLENGE_LIFE.total_seconds() + 1)
    assert (await house.call("POST", f"{ALONE}/verify", {"credential": used})).status == 401
    # a wrong answer uses it up as well
    options = await asked(house, ALONE)
    for origin, expected in (("https://evil.example", 401), (key.origin, 401)):
        used = key.get(options, origin=origin)
        assert (await house.call("POST", f"{ALONE}/verify", {"credential": used})).status == expected
    assert await house.value("SELECT count(*) FROM passkey_challenges") == 0


async def test_a_challenge_is_good_for_what_it_was_asked_for_alone(house: House) -> None:
    key = SoftKey()
    await enrolled(house, key)
    told = await owed(house)
    second_options = await asked(house, SECOND, {"mfa_token": told["mfa_token"]})
    got = await house.call("POST", f"{ALONE}/verify", {"credential": key.get(second_options)})
    assert got.json()["reason"] == "invalid_passkey"
    other = await owed(house)
    body = {"mfa_token": other["mfa_token"], "credential": key.get(second_options)}
    assert (await house.call("POST", f"{SECOND}/verify", body)).json()["reason"] == "invalid_passkey"
    body = {"mfa_token": told["mfa_token"], "credential": key.get(await asked(house, ALONE))}
    assert (await house.call("POST", f"{SECOND}/verify", body)).json()["reason"] == "invalid_passkey"


async def test_somebody_else_s_key_is_nobody_s(house: House) -> None:
    jane, eve = SoftKey(), SoftKey()
    await enrolled(house, jane)
    await enrolled(house, eve, "eve")
    token = (await owed(house))["mfa_token"]
    used = eve.get(await asked(house, SECOND, {"mfa_token": token}))
    got = await house.call("POST", f"{SECOND}/verify", {"mfa_token": token, "credential": used})
    assert got.json()["reason"] == "invalid_passkey"
    eve.user = jane.user  # and it does not become hers by saying so
    assert (await alone(house, eve)).json()["reason"] == "invalid_passkey"
    assert (await alone(house, jane, handle=False)).json()["reason"] == "invalid_passkey"
    taken = SoftKey(identifier=jane.identifier)
    token = await house.signed_in("eve", amr=("pwd", "otp", "mfa"))
    made = taken.create(await asked(house, OWN, token=token))
    got = await house.call("POST", f"{OWN}/verify", {"credential": made}, token=token)
    assert (got.status, got.json()["reason"]) == (409, "already_exists")
    assert (await alone(house, jane)).status == 200


async def test_a_copied_key_is_put_out_of_use_and_told_of(house: House) -> None:
    key = SoftKey()
    await enrolled(house, key)
    thief = key.copied()
    assert (await alone(house, key)).status == 200
    got = await alone(house, thief)
    assert (got.status, got.json()["reason"]) == (401, "passkey_cloned")
    event = next(event for event in await house.events() if event.name == "auth.factor.cloned")
    assert event.details == {"factor": event.details["factor"], "kind": "webauthn", "known": 2, "shown": 2}
    for copy in (key, thief):  # nobody can tell which of the two is the thief's
        assert (await alone(house, copy)).json()["reason"] == "invalid_passkey"
    # and the password alone does not open the account because of it
    assert (await owed(house))["methods"] == ["recovery_code"]


async def test_a_copied_second_factor_is_found_too(house: House) -> None:
    key = SoftKey()
    await enrolled(house, key)
    thief = key.copied()
    assert (await second(house, key)).status == 200
    assert (await second(house, thief)).json()["reason"] == "passkey_cloned"


async def test_a_key_without_a_count_is_not_taken_for_a_copy(house: House) -> None:
    key = SoftKey(counts=False)
    await enrolled(house, key)
    for _ in range(3):
        assert (await alone(house, key)).status == 200


async def test_guessing_by_keys_locks_the_account(house: House) -> None:
    key = SoftKey()
    await enrolled(house, key)
    for _ in range(MAX_FAILURES):
        assert (await second(house, key, origin="https://evil.example")).json()["reason"] == "invalid_passkey"
    assert (await alone(house, key)).json()["reason"] == "account_locked"
    house.clock.advance(16 * 60)
    assert (await alone(house, key)).status == 200


async def test_a_disabled_account_is_not_opened_by_its_key(house: House) -> None:
    key = SoftKey()
    await enrolled(house, key)
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET is_active = false WHERE username = 'jane'")
    assert (await alone(house, key)).json()["reason"] == "account_disabled"


async def test_a_passkey_may_be_the_factor_that_a_sign_in_enrols(house: House) -> None:
    await house.user("jane", "viewer")
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET mfa_enabled = true")
    got = await house.call("POST", LOGIN, {"username": "jane", "password": PASSWORD})
    assert (got.json()["reason"], got.json()["methods"]) == ("mfa_enrolment_required", ["webauthn", "totp"])
    token, key, path = got.json()["mfa_token"], SoftKey(), "/api/v1/auth/mfa/enrolment/webauthn"
    made = key.create(await asked(house, path, {"mfa_token": token}))
    done = await house.call("POST", f"{path}/verify", {"mfa_token": token, "name": "Key", "credential": made})
    assert done.status == 200, done.body
    assert amr(done) == ["pwd", "hwk", "mfa"] and len(done.json()["recovery_codes"]) == 10
    assert (await house.call("POST", f"{path}/options", {"mfa_token": token})).status == 401
    assert (await alone(house, key)).status == 200


async def test_a_key_steps_a_session_up(house: House) -> None:
    key = SoftKey()
    await enrolled(house, key)
    token = (await second(house, key)).json()["access_token"]
    house.clock.advance(16 * 60)
    assert (await house.call("POST", f"{OWN}/options", token=token)).json()["reason"] == (
        "insufficient_user_authentication"
    )
    path = "/api/v1/auth/step-up/webauthn"
    used = key.get(await asked(house, path, token=token))
    fresh = await house.call("POST", f"{path}/verify", {"credential": used}, token=token)
    assert fresh.status == 200 and "mfa" in amr(fresh)
    assert (await house.call("POST", f"{OWN}/options", token=fresh.json()["access_token"])).status == 200


def test_the_relying_party_is_the_installation_s_own_address() -> None:
    told = webauthn.RelyingParty.of("https://Login.Example.com:443/x")
    assert (told.id, told.origin) == ("login.example.com", "https://login.example.com")
    told = webauthn.RelyingParty.of("http://localhost:8080")
    assert (told.id, told.origin) == ("localhost", "http://localhost:8080")
    for address in ("http://127.0.0.1:8080", "https://[::1]:8443"):
        with pytest.raises(Conflict, match="passkeys_unavailable"):
            webauthn.RelyingParty.of(address)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400), client=st.binary(max_size=200), attestation=st.booleans())
def test_no_bytes_break_the_judgement(data: bytes, client: bytes, attestation: bool) -> None:
    party = webauthn.RelyingParty("example.com", "https://example.com")
    response = {"clientDataJSON": encoded(client), "attestationObject": encoded(data)}
    response |= {"authenticatorData": encoded(data), "signature": encoded(client), "userHandle": encoded(client)}
    credential = {"id": encoded(data), "rawId": encoded(data), "type": "public-key", "response": response}
    with pytest.raises(webauthn.InvalidPasskey):
        if attestation:
            webauthn.check_registration(party, credential, bytes(32))
        else:
            webauthn.check_assertion(
                party, credential, bytes(32), webauthn.KnownKey(b"k", b"\xa1\x01\x02", 0), verify_user=False
            )
