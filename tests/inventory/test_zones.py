from __future__ import annotations

import asyncio
from functools import partial

import pytest

from bailiwick.identity.bootstrap import create_first_administrator
from bailiwick.inventory.loader import load_zones
from people_fixtures import House

OTHER = {"x-test-zone": "other"}


async def test_a_zone_is_made_with_its_keys_and_changed(house: House) -> None:
    token = await house.signed_in("root")
    made = await house.call("POST", "/api/v1/zones", {"name": "other", "description": "d"}, token=token)
    assert (made.status, made.json()["state"], made.headers["etag"]) == (201, "active", '"1"')
    assert house.authority.keyed == ["other"]
    changed = await house.call("PATCH", "/api/v1/zones/other", {"description": "e"}, token=token)
    assert (changed.json()["description"], changed.json()["version"]) == ("e", 2)
    stale = await house.call(
        "PATCH", "/api/v1/zones/other", {"description": "f"}, token=token, headers={"if-match": "1"}
    )
    assert stale.status == 412
    listed = await house.call("GET", "/api/v1/zones", token=token)
    assert [zone["name"] for zone in listed.json()["items"]] == ["default", "other"]
    assert [event.name for event in await house.events()] == ["zone.created", "zone.changed"]
    assert await house.feed() == [("zone", "other"), ("zone", "other")]


async def test_a_zone_may_come_with_its_administrator(house: House) -> None:
    maker = partial(
        create_first_administrator, clock=house.clock, ids=house.ids, recorder=house.recorder, passwords=house.passwords
    )
    house.zones._administrators = maker
    token = await house.signed_in("root")
    made = await house.call("POST", "/api/v1/zones", {"name": "other"}, token=token)
    administrator = made.json()["administrator"]
    assert made.headers["cache-control"] == "no-store"
    login = {"username": administrator["username"], "password": administrator["one_time_password"]}
    signed_in = await house.call("POST", "/api/v1/auth/login/local", login, headers=OTHER)
    assert (signed_in.status, signed_in.json()["must_change_password"]) == (200, True)
    assert (await house.call("POST", "/api/v1/auth/login/local", login)).status == 401


async def test_of_many_who_create_the_same_zone_one_wins(house: House) -> None:
    token = await house.signed_in("root")
    answers = await asyncio.gather(
        *(house.call("POST", "/api/v1/zones", {"name": "other"}, token=token) for _ in range(8))
    )
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7
    assert house.authority.keyed == ["other"]


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a_b", "a.b", "a" * 64, "a\u0000", "../x", "é"])
async def test_a_zones_name_fits_in_a_url(house: House, name: str) -> None:
    token = await house.signed_in("root")
    assert (await house.call("POST", "/api/v1/zones", {"name": name}, token=token)).status == 400


async def test_another_zones_administrator_governs_no_zones(house: House) -> None:
    await house.zone("other")
    await house.zone("third")
    token = await house.signed_in("root", zone="other")
    for method, path, body in (
        ("POST", "/api/v1/zones", {"name": "fourth"}),
        ("PATCH", "/api/v1/zones/other", {"description": "x"}),
        ("POST", "/api/v1/zones/third/archive", None),
        ("POST", "/api/v1/zones/default/archive", None),
    ):
        answer = await house.call(method, path, body, token=token, headers=OTHER)
        assert (answer.status, answer.json()["reason"]) == (403, "permission_denied")
    listed = await house.call("GET", "/api/v1/zones", token=token, headers=OTHER)
    assert [zone["name"] for zone in listed.json()["items"]] == ["other"]
    assert (await house.call("GET", "/api/v1/zones/third", token=token, headers=OTHER)).status == 404


async def test_nothing_changes_in_an_archived_zone(house: House) -> None:
    await house.zone("other")
    token, there = await house.signed_in("root"), await house.signed_in("boss", zone="other")
    archived = await house.call("POST", "/api/v1/zones/other/archive", token=token)
    assert (archived.status, archived.json()["state"]) == (200, "archived")
    assert len(house.authority.settled) == 1
    again = await house.call("POST", "/api/v1/zones/other/archive", token=token)
    assert again.json()["version"] == archived.json()["version"]
    for method, path, body in (
        ("POST", "/api/v1/servers", {"name": "x", "endpoint": "https://pay.example.com"}),
        ("POST", "/api/v1/credentials", {"name": "x", "kind": "none"}),
        ("POST", "/api/v1/users", {"username": "x", "email": "x@example.com", "role": "viewer"}),
        ("PATCH", "/api/v1/users/boss", {"full_name": "x"}),
        ("POST", "/api/v1/applications", {"name": "x"}),
    ):
        answer = await house.call(method, path, body, token=there, headers=OTHER)
        assert (answer.status, answer.json()["reason"]) == (403, "zone_archived"), path
    login = {"username": "boss", "password": "correct horse battery"}
    assert (await house.call("POST", "/api/v1/auth/login/local", login, headers=OTHER)).status == 403
    assert (await house.call("PATCH", "/api/v1/zones/other", {"description": "x"}, token=token)).status == 403
    async with house.database.begin() as tx:
        assert {name: zone.archived for name, zone in (await load_zones(tx)).items()} == {
            "default": False,
            "other": True,
        }


async def test_the_default_zone_stays(house: House) -> None:
    token = await house.signed_in("root")
    answer = await house.call("POST", "/api/v1/zones/default/archive", token=token)
    assert (answer.status, answer.json()["reason"]) == (409, "conflict")


async def test_archiving_waits_for_changes_under_way_and_stops_those_after(house: House) -> None:
    await house.zone("other")
    token, there = await house.signed_in("root"), await house.signed_in("boss", zone="other")
    answers = await asyncio.gather(
        house.call("POST", "/api/v1/zones/other/archive", token=token),
        *(
            house.call("POST", "/api/v1/credentials", {"name": f"c{n}", "kind": "none"}, token=there, headers=OTHER)
            for n in range(6)
        ),
    )
    assert answers[0].status == 200
    made = sum(answer.status == 201 for answer in answers[1:])
    assert {answer.status for answer in answers[1:]} <= {201, 403}
    assert await house.value("SELECT count(*) FROM credentials") == made
