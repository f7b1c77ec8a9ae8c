"""API keys: less than their maker, told once, ended at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.evidence.events import Actor, Context
from bailiwick.identity.api_keys import ApiKeyEntry, compose, holds, load_api_keys, parse
from bailiwick.kernel.errors import Conflict
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


async def patched(house: House, token: str, key: dict[str, Any], **patch: Any) -> tuple[int, dict[str, Any]]:
    answer = await house.call("PATCH", f"{KEYS}/{key['id']}", patch, token=token)
    return answer.status, answer.json()


async def test_a_key_is_shown_to_its_owner_and_to_administrators_also_when_it_is_over(house: House) -> None:
    olga, vera = await house.signed_in("olga", role="operator"), await house.signed_in("vera", role="viewer")
    root = await house.signed_in("root")
    told = await made(house, olga)
    path = f"{KEYS}/{told['id']}"
    for token in (olga, root):
        answer = await house.call("GET", path, token=token)
        assert (answer.status, answer.headers["etag"]) == (200, '"1"')
        assert answer.json() == {member: value for member, value in told.items() if member != "api_key"}
    assert (await house.call("GET", path, token=vera)).status == 404
    assert (await house.call("GET", f"{KEYS}/{'0' * 12}", token=olga)).status == 404
    assert (await house.call("GET", f"{KEYS}/a%00bcdefghijk", token=olga)).status == 400
    assert (await house.call("DELETE", path, token=olga)).status == 204
    assert (await house.call("GET", path, token=olga)).json()["ended_at"] is not None


async def test_what_is_taken_from_a_key_holds_when_the_answer_comes(house: House) -> None:
    olga = await house.signed_in("olga", role="operator")
    told = await made(house, olga, permissions=["servers:read", "servers:write"], rate_limit=60)
    until = house.clock.now() + timedelta(days=3)
    status, after = await patched(
        house, olga, told, name="weekly", permissions=["servers:read"], rate_limit=6, expires_at=until.isoformat()
    )
    assert (status, after["name"], after["permissions"], after["rate_limit"], after["version"]) == (
        200, "weekly", ["servers:read"], 6, 2,
    )  # fmt: skip
    stored = await entry(house, told["id"])
    assert stored is not None
    assert (stored.permissions, stored.rate_limit, stored.expires_at) == (frozenset({"servers:read"}), 6, until)
    assert house.authority.settled and (await house.feed())[-1] == ("api_key", told["id"])
    event = (await house.events())[-1]
    assert event.name == "api-key.changed" and event.details["widened"] is False
    assert event.details["changed"] == ["name", "permissions", "rate_limit", "expires_at"]
    # said again it changes nothing, and leaves no event of a change
    before = len(await house.events())
    assert (await patched(house, olga, told, permissions=["servers:read"]))[1]["version"] == 2
    assert (await patched(house, olga, told))[1]["version"] == 2
    assert len(await house.events()) == before


async def test_a_key_that_is_switched_off_is_nobody_s_until_it_is_switched_on(house: House) -> None:
    olga = await house.signed_in("olga", role="operator")
    told = await made(house, olga)
    assert (await patched(house, olga, told, is_active=False))[0] == 200
    assert await entry(house, told["id"]) is None
    rotated = await house.call("POST", f"{KEYS}/{told['id']}/rotate", {}, token=olga)
    assert (rotated.status, rotated.json()["reason"]) == (409, "conflict")
    assert (await patched(house, olga, told, is_active=True))[0] == 200
    assert await entry(house, told["id"]) is not None
    assert (await house.events())[-1].details["widened"] is True
    assert (await house.call("DELETE", f"{KEYS}/{told['id']}", token=olga)).status == 204
    assert (await patched(house, olga, told, is_active=True))[0] == 404


@pytest.mark.parametrize("permission", ["users:write", "self", "audit:read"])
async def test_a_key_never_gets_more_than_its_owner_holds(house: House, permission: str) -> None:
    olga = await house.signed_in("olga", role="operator")
    told = await made(house, olga)
    status, refused = await patched(house, olga, told, permissions=["servers:read", permission])
    assert (status, refused["reason"]) == (403, "permission_denied")
    stored = await entry(house, told["id"])
    assert stored is not None and stored.permissions == {"servers:read"}


async def test_what_its_owner_lost_since_is_not_given_back_to_a_key(house: House) -> None:
    olga = await house.signed_in("olga", role="operator")
    told = await made(house, olga, permissions=["servers:read", "servers:write"])
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET role = 'viewer' WHERE username = 'olga'")
    assert (await patched(house, olga, told, permissions=["servers:read"]))[0] == 200
    assert (await patched(house, olga, told, permissions=["servers:read", "servers:write"]))[0] == 403


async def test_a_key_lives_a_year_from_when_it_was_made_however_often_its_end_is_moved(house: House) -> None:
    olga = await house.signed_in("olga", role="operator")
    told = await made(house, olga)
    last = house.clock.now() + timedelta(days=366)
    house.clock.advance(timedelta(days=30).total_seconds())
    olga = await house.signed_in("olga")
    assert (await patched(house, olga, told, expires_at=last.isoformat()))[0] == 200
    for until in (last + timedelta(seconds=1), house.clock.now(), house.clock.now() - timedelta(days=1)):
        status, refused = await patched(house, olga, told, expires_at=until.isoformat())
        assert (status, refused["reason"]) == (400, "invalid_request"), until
    stored = await entry(house, told["id"])
    assert stored is not None and stored.expires_at == last


@pytest.mark.parametrize(
    "patch",
    [
        {"permissions": ["servers:read", "servers:write"]},
        {"rate_limit": 61},
        {"rate_limit": None},
        {"days_more": 1},
        {"name": "mine now"},
        {"is_active": True},
    ],
)
async def test_an_administrator_only_takes_from_somebody_else_s_key(house: House, patch: dict[str, Any]) -> None:
    olga, root = await house.signed_in("olga", role="operator"), await house.signed_in("root")
    told = await made(house, olga, rate_limit=60)
    if "is_active" in patch:
        assert (await patched(house, root, told, is_active=False))[0] == 200
    if "days_more" in patch:
        patch = {"expires_at": (house.clock.now() + timedelta(days=91)).isoformat()}
    status, refused = await patched(house, root, told, **patch)
    assert (status, refused["reason"]) == (403, "permission_denied")
    assert (await patched(house, root, told, rate_limit=1))[0] == 200


async def test_somebody_else_s_key_is_not_there_to_change(house: House) -> None:
    olga, vera = await house.signed_in("olga", role="operator"), await house.signed_in("vera", role="operator")
    told = await made(house, olga)
    for patch in ({"is_active": False}, {"name": "mine"}, {"permissions": ["servers:write"]}):
        assert (await patched(house, vera, told, **patch))[0] == 404
    assert (await entry(house, told["id"])) is not None


@pytest.mark.parametrize(
    "patch",
    [
        {"permissions": []},
        {"permissions": None},
        {"permissions": ["everything"]},
        {"name": "a\x00"},
        {"name": ""},
        {"name": None},
        {"rate_limit": 0},
        {"rate_limit": 1_000_001},
        {"expires_at": None},
        {"expires_at": "2027-01-05T09:00:00"},
        {"expires_at": "9999-12-31T23:59:59-14:00"},
        {"expires_at": "0001-01-01T00:00:00+14:00"},
        {"expires_at": "never"},
        {"is_active": None},
        {"username": "vera"},
        {"secret_hash": "00"},
        {"id": "0" * 12},
        {"more": 1},
    ],
)
async def test_what_is_no_change_of_a_key_is_refused(house: House, patch: dict[str, Any]) -> None:
    olga = await house.signed_in("olga", role="operator")
    told = await made(house, olga)
    status, refused = await patched(house, olga, told, **patch)
    assert (status, refused["reason"]) == (400, "invalid_request")
    assert (await house.call("GET", f"{KEYS}/{told['id']}", token=olga)).json()["version"] == 1


async def test_a_change_of_what_was_changed_since_is_refused(house: House) -> None:
    olga = await house.signed_in("olga", role="operator")
    told = await made(house, olga)
    assert (await patched(house, olga, told, name="weekly"))[0] == 200
    late = await house.call("PATCH", f"{KEYS}/{told['id']}", {"name": "daily"}, token=olga, headers={"if-match": '"1"'})
    assert (late.status, late.json()["reason"]) == (412, "version_mismatch")


async def test_who_gives_a_key_more_proves_himself_as_for_a_new_one_and_taking_needs_no_proof(house: House) -> None:
    olga = await house.signed_in("olga", role="operator")
    told = await made(house, olga, permissions=["servers:read", "servers:write"])
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET mfa_enabled = true WHERE username = 'olga'")
    refusals = [
        await house.call("POST", KEYS, BODY, token=olga),
        await house.call("POST", f"{KEYS}/{told['id']}/rotate", {}, token=olga),
        await house.call("PATCH", f"{KEYS}/{told['id']}", {"permissions": ["policies:read"]}, token=olga),
    ]
    assert {(got.status, got.json()["reason"]) for got in refusals} == {(401, "insufficient_user_authentication")}
    assert (await patched(house, olga, told, permissions=["servers:read"]))[0] == 200
    proven = await house.signed_in("olga", amr=("pwd", "otp", "mfa"))
    assert (await patched(house, proven, told, permissions=["policies:read"]))[0] == 200


async def test_a_key_changes_no_key(house: House) -> None:
    olga = await house.signed_in("olga", role="operator")
    told = await made(house, olga)
    for method, body in (("GET", None), ("PATCH", {"name": "mine"})):
        as_key = {"x-test-permissions": "servers:read servers:write"}
        answer = await house.call(method, f"{KEYS}/{told['id']}", body, token=olga, headers=as_key)
        assert (answer.status, answer.json()["reason"]) == (403, "permission_denied")


async def test_where_nothing_is_given_out_a_key_is_still_given_less(house: House) -> None:
    olga = await house.signed_in("olga", role="operator")
    told = await made(house, olga)
    async with house.owner.begin() as tx:
        await tx.run(
            "SET LOCAL session_replication_role = replica"
        )  # the override it was thrown by is beside the point
        await tx.run(
            "INSERT INTO bailiwick.switches (id, zone, name, reason, thrown_by, thrown_at, thrown_as)"
            " VALUES (:id, 'default', 'provision', 'test', 'root', :now, 'none')",
            id=house.ids(),
            now=house.clock.now(),
        )
    for patch in ({"permissions": ["servers:read", "servers:write"]}, {"name": "weekly"}):
        assert (await patched(house, olga, told, **patch))[0] == 503
    assert (await patched(house, olga, told, is_active=False))[0] == 200
    assert (await patched(house, olga, told, is_active=True))[0] == 503


async def test_a_key_that_was_given_less_meanwhile_is_not_widened_unawares(house: House) -> None:
    olga = await house.signed_in("olga", role="operator")
    told = await made(house, olga)
    context = Context("default", Actor(user="olga"))
    with pytest.raises(Conflict):
        await house.api_keys.change(
            context, "operator", told["id"], {"permissions": ["servers:write"]}, owner="olga", widen=False
        )
    stored = await entry(house, told["id"])
    assert stored is not None and stored.permissions == {"servers:read"}
