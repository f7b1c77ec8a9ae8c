"""The ID token that a session keeps to end at its provider: sealed, bounded, and gone when the session is."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from openid_provider import CLIENT, SUBJECT, Browser, Provider

from bailiwick.app.kek import SEALED, KekRotation
from bailiwick.identity.factors import totp
from bailiwick.identity.login.id_tokens import MAX_HELD
from bailiwick.kernel.crypto import Sealer
from people_fixtures import House

AUTH = "/api/v1/auth"
KEPT = "SELECT count(*) FROM sessions WHERE id_token_sealed IS NOT NULL"


async def sign_out(house: House, token: str) -> dict[str, str]:
    """What the provider is asked by the address that signing out leads to."""
    answer = await house.call("POST", f"{AUTH}/oidc/logout", token=token)
    assert answer.status == 200, answer
    return dict(parse_qsl(urlsplit(answer.json()["end_session_url"]).query))


def claims(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    told: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return told


async def test_the_hint_is_the_token_that_the_provider_gave(house: House, browser: Browser) -> None:
    first = (await browser.sign_in()).json()["access_token"]
    house.clock.advance(7)
    second = (await browser.sign_in()).json()["access_token"]
    assert await house.value(KEPT) == 2
    asked = await sign_out(house, second)
    assert asked["client_id"] == CLIENT
    hint = claims(asked["id_token_hint"])
    assert (hint["sub"], hint["aud"], hint["sid"]) == (SUBJECT, CLIENT, "sid-1")
    assert claims((await sign_out(house, first))["id_token_hint"])["iat"] == hint["iat"] - 7, "each has its own"
    # once: the session is over, and with it what was kept of it
    again = await house.call("POST", f"{AUTH}/oidc/logout", token=first)
    assert again.status == 401 and await house.value(KEPT) == 0


async def test_it_is_kept_sealed_and_to_its_session_alone(house: House, browser: Browser) -> None:
    for _ in range(2):
        token = (await browser.sign_in()).json()["access_token"]
    rows = await house.value("SELECT json_agg(encode(id_token_sealed, 'escape')) FROM sessions WHERE method = 'oidc'")
    assert all(text.startswith("BW1") and "jane" not in text and "eyJ" not in text for text in rows)
    async with house.database.begin() as tx:  # somebody with the database puts one session's into the other
        await tx.run(
            "UPDATE sessions s SET id_token_sealed = o.id_token_sealed FROM sessions o"
            " WHERE s.method = 'oidc' AND o.method = 'oidc' AND o.id <> s.id"
        )
    asked = await sign_out(house, token)
    assert "id_token_hint" not in asked and asked["client_id"] == CLIENT, "which opens nothing and ends it all the same"


async def by_logout(house: House, token: str) -> None:
    assert (await house.call("POST", f"{AUTH}/logout", token=token)).status == 204


async def by_administrator(house: House, token: str) -> None:
    session = await house.value("SELECT id FROM sessions WHERE method = 'oidc'")
    root = await house.signed_in("root")
    assert (await house.call("DELETE", f"/api/v1/sessions/{session}", token=root)).status == 204


async def by_disabling(house: House, token: str) -> None:
    root = await house.signed_in("root")
    changed = await house.call("PATCH", "/api/v1/users/jane.doe", {"is_active": False}, token=root)
    assert changed.status == 200, changed


async def by_too_many(house: House, token: str) -> None:
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET password_hash = (SELECT password_hash FROM users WHERE username = 'root')")
    from people_fixtures import PASSWORD

    for _ in range(house.settings.max_sessions):
        body = {"username": "jane.doe", "password": PASSWORD}
        assert (await house.call("POST", f"{AUTH}/login/local", body)).status == 200


@pytest.mark.parametrize("end", [by_logout, by_administrator, by_disabling, by_too_many], ids=lambda end: end.__name__)
async def test_it_goes_with_the_session_however_that_ends(
    house: House, browser: Browser, end: Callable[[House, str], Awaitable[None]]
) -> None:
    token = (await browser.sign_in()).json()["access_token"]
    assert await house.value(KEPT) == 1
    await end(house, token)
    assert await house.value("SELECT ended_at IS NOT NULL FROM sessions WHERE method = 'oidc'")
    assert await house.value(KEPT) == 0


async def test_the_provider_s_own_logout_takes_it_too(house: House, browser: Browser, provider: Provider) -> None:
    await browser.sign_in()
    raw = f"logout_token={provider.logout_token(sub=SUBJECT, sid='sid-1')}".encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    ended = await house.call("POST", f"{AUTH}/oidc/corp/backchannel-logout", raw=raw, headers=headers)
    assert ended.json() == {"sessions_ended": 1} and await house.value(KEPT) == 0


async def test_one_too_long_for_an_address_is_not_kept(house: House, browser: Browser, provider: Provider) -> None:
    provider.claims = {"padding": "x" * MAX_HELD}
    token = (await browser.sign_in()).json()["access_token"]
    assert await house.value(KEPT) == 0
    assert (await sign_out(house, token)).keys() == {"client_id"}


async def test_where_nobody_can_be_signed_out_none_is_kept(house: House, browser: Browser, provider: Provider) -> None:
    provider.change_metadata = lambda document: document.pop("end_session_endpoint")
    token = (await browser.sign_in()).json()["access_token"]
    assert await house.value(KEPT) == 0
    answer = await house.call("POST", f"{AUTH}/oidc/logout", token=token)
    assert answer.json() == {"end_session_url": None}


async def test_it_waits_with_a_sign_in_that_owes_a_factor(house: House, browser: Browser) -> None:
    await browser.sign_in()
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET mfa_enabled = true WHERE username = 'jane.doe'")
    pending = {"mfa_token": (await browser.sign_in()).json()["mfa_token"]}
    assert await house.value("SELECT count(*) FROM pending_sign_ins WHERE id_token_sealed IS NOT NULL") == 1
    begun = await house.call("POST", f"{AUTH}/mfa/enrolment", pending)
    secret = base64.b32decode(begun.json()["secret"])
    # the key-encryption key changes meanwhile
    fresh = Sealer({"k1": b"k" * 32, "k2": b"n" * 32}, "k2")
    await rewrap(house, fresh)
    code = totp.code_at(secret, int(house.clock.time()) // totp.STEP_S)
    done = await house.call("POST", f"{AUTH}/mfa/enrolment/confirm", {**pending, "code": code})
    assert done.status == 200, done
    await rewrap(house, fresh)
    assert claims((await sign_out(house, done.json()["access_token"]))["id_token_hint"])["sub"] == SUBJECT


async def rewrap(house: House, fresh: Sealer) -> None:
    """Rotate the KEK, the old one being gone afterwards."""
    rotation = KekRotation(house.database, house.recorder, None, None, None)  # type: ignore[arg-type]  # of none of them
    for column in SEALED:
        if column.table in ("sessions", "pending_sign_ins", "factors", "identity_providers"):
            assert await rotation._rewrap(column, fresh) >= 0
    only = Sealer({"k2": b"n" * 32}, "k2")
    house.sign_ins.replace_sealer(only)
    house.providers.replace_sealer(only)
