"""API keys: less than their maker, told once, ended at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.identity.api_keys import ApiKeyEntry, compose, holds, load_api_keys, parse
from people_fixtures import House

KEYS = "/api/v1/api-keys"
BODY = {"name": "nightly", "permissions": ["servers:read"]}


async def made(house: House, token: str, **more: Any) -> dict[str, Any]:
    answer = await house.call("POST", KEYS, {**BODY, **more}, token=token)
    assert answer.status == 201, answer.body
    told: dict[str, Any] = answer.json()
    return told


async def entry(house: House, identifier: str) -> ApiKeyEntry | None:
    async with house.database.begin() as tx:
        return (await load_api_keys(tx, "default", identifier)).get(identifier)


def test_a_key_is_read_back_and_a_mistyped_one_is_not() -> None:
    text = compose("a" * 12, "b" * 50)
    assert parse(text) == ("a" * 12, "b" * 50)
    for place in range(len(text)):
        other = text[:place] + ("c" if text[place] != "c" else "d") + text[place + 1 :]
        assert parse(other) is None, place


@given(st.text(max_size=90))
def test_no_text_is_a_key_by_chance(text: str) -> None:
    assert parse(text) is None
    assert parse("bwk_" + text) is None


async def test_a_key_is_told_once_and_only_its_hash_is_kept(house: House) -> None:
    token = await house.signed_in("olga", role="operator")
    told = await made(house, token, rate_limit=60)
    identifier, secret = parse(told["api_key"]) or ("", "")
    assert identifier == told["id"]
    stored = await entry(house, identifier)
    assert stored is not None and stored.permissions == {"servers:read"} and stored.rate_limit == 60
    assert holds(stored, secret, house.clock.now())
    assert not holds(stored, secret[::-1], house.clock.now())
    assert not holds(stored, secret, house.clock.now() + timedelta(days=91))
    listed = (await house.call("GET", KEYS, token=token)).json()["items"]
    assert [key["id"] for key in listed] == [identifier]
    assert "api_key" not in listed[0] and "secret_hash" not in listed[0]
    event = (await house.events())[-1]
    assert (event.name, event.details["permissions"]) == ("api-key.created", ["servers:read"])


@pytest.mark.parametrize("permission", ["users:write", "self"])
async def test_nobody_gives_a_key_what_he_does_not_have_or_his_account(house: House, permission: str) -> None:
    token = await house.signed_in("olga", role="operator")
    answer = await house.call("POST", KEYS, {**BODY, "permissions": [permission]}, token=token)
    assert (answer.status, answer.json()["reason"]) == (403, "permission_denied")
    assert await house.value("SELECT count(*) FROM api_keys") == 0


@pytest.mark.parametrize(
    "body",
    [
        {"permissions": []},
        {"permissions": ["everything"]},
        {"days": 0},
        {"days": 367},
        {"name": ""},
        {"name": "a\x00"},
        {"rate_limit": 0},
        {"more": 1},
    ],
)
async def test_what_is_no_key_is_refused(house: House, body: dict[str, Any]) -> None:
    token = await house.signed_in("olga", role="operator")
    answer = await house.call("POST", KEYS, {**BODY, **body}, token=token)
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")


async def test_rotation_leaves_the_old_key_good_for_the_overlap(house: House) -> None:
    token = await house.signed_in("olga", role="operator")
    old = await made(house, token)
    answer = await house.call("POST", f"{KEYS}/{old['id']}/rotate", {"overlap_minutes": 10}, token=token)
    assert answer.status == 201
    fresh = answer.json()
    assert (fresh["name"], fresh["permissions"]) == (old["name"], old["permissions"])
    assert fresh["api_key"] != old["api_key"]
    stored = await entry(house, old["id"])
    assert stored is not None
    secret = (parse(old["api_key"]) or ("", ""))[1]
    assert holds(stored, secret, house.clock.now() + timedelta(minutes=9))
    assert not holds(stored, secret, house.clock.now() + timedelta(minutes=11))
    assert house.authority.settled


async def test_an_ended_key_is_gone_when_the_answer_comes(house: House) -> None:
    token = await house.signed_in("olga", role="operator")
    told = await made(house, token)
    assert (await house.call("DELETE", f"{KEYS}/{told['id']}", token=token)).status == 204
    assert await entry(house, told["id"]) is None
    assert house.authority.settled
    assert ("api_key", told["id"]) in await house.feed()
    assert (await house.call("DELETE", f"{KEYS}/{told['id']}", token=token)).status == 404


async def test_another_person_s_key_is_out_of_reach_but_an_administrator_ends_it(house: House) -> None:
    olga, vera, root = (
        await house.signed_in("olga", role="operator"),
        await house.signed_in("vera", role="viewer"),
        await house.signed_in("root"),
    )
    told = await made(house, olga)
    assert (await house.call("DELETE", f"{KEYS}/{told['id']}", token=vera)).status == 404
    assert (await house.call("POST", f"{KEYS}/{told['id']}/rotate", {}, token=root)).status == 404
    assert (await house.call("GET", KEYS, token=vera)).json()["items"] == []
    assert (await house.call("DELETE", f"{KEYS}/{told['id']}", token=root)).status == 204


async def test_a_person_has_a_bounded_number_of_keys(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bailiwick.identity.api_keys.MAX_KEYS", 2)
    token = await house.signed_in("olga", role="operator")
    await made(house, token)
    await made(house, token)
    assert (await house.call("POST", KEYS, BODY, token=token)).status == 409
