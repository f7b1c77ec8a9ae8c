"""Accounts of people whom a provider vouches for: found by its id of them, never by a name somebody may choose."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from bailiwick.evidence.events import Actor, Context
from bailiwick.identity.provisioning import Arrival, Provisioned, provision
from bailiwick.identity.standing import lock_administrators
from bailiwick.kernel.errors import BailiwickError
from people_fixtures import House

JANE = Arrival("oidc:corp", "sub-1", "jane@example.com", "jane@example.com", "Jane Doe", "viewer")


async def arrive(house: House, arrival: Arrival = JANE, **options: Any) -> Provisioned:
    async with house.database.begin() as tx:
        return await provision(
            tx, Context("default", Actor()), arrival, now=house.clock.now(), ids=house.ids, recorder=house.recorder,
            **options,
        )  # fmt: skip


async def group(house: House, name: str, role: str | None = None, external_id: str | None = None) -> str:
    identifier = house.ids()
    async with house.database.begin() as tx:
        await tx.run(
            "INSERT INTO groups (id, zone, name, role, external_id, created_at, updated_at)"
            " VALUES (:id, 'default', :name, :role, :external, now(), now())",
            id=identifier,
            name=name,
            role=role,
            external=external_id,
        )
    return identifier


async def refused(house: House, arrival: Arrival = JANE, **options: Any) -> str:
    with pytest.raises(BailiwickError) as raised:
        await arrive(house, arrival, **options)
    return raised.value.reason


async def test_the_first_arrival_makes_the_account_and_the_next_finds_it(house: House) -> None:
    first = await arrive(house)
    assert first.created and first.revision is None
    assert (first.user["username"], first.user["role"], first.user["email"]) == (
        "jane@example.com", "viewer", "jane@example.com",
    )  # fmt: skip
    # the provider renames her: the account stays, whatever the name
    again = await arrive(house, replace(JANE, username="jane.roe", email="roe@example.com", full_name="Jane Roe"))
    assert not again.created and again.user["username"] == "jane@example.com"
    assert (again.user["email"], again.user["full_name"]) == ("roe@example.com", "Jane Roe")
    events = [event.name for event in await house.events()]
    assert events == ["user.created", "user.changed"]
    assert ("user", "jane@example.com") in await house.feed()


async def test_nobody_gets_an_account_by_choosing_its_name_or_address(house: House) -> None:
    await house.user("root")
    assert await refused(house, replace(JANE, username="root", role="admin")) == "account_not_linked"
    assert await refused(house, replace(JANE, email="Root@example.com")) == "account_not_linked"
    assert await house.value("SELECT count(*) FROM user_identities") == 0


async def test_an_account_is_linked_where_an_administrator_said_so(house: House) -> None:
    await house.user("jane", "operator")
    assert await refused(house, replace(JANE, username="jane")) == "account_not_linked"
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET external_id = 'sub-1' WHERE username = 'jane'")
    linked = await arrive(house, replace(JANE, role=None), link_by_id=True)
    assert (linked.user["username"], linked.user["role"], linked.created) == ("jane", "operator", False)
    assert [event.details["by"] for event in await house.events() if event.name == "user.linked"] == ["external id"]


async def test_linking_by_name_is_the_provider_s_setting_and_takes_one_account_once(house: House) -> None:
    await house.user("jane", "operator")
    linked = await arrive(house, replace(JANE, username="JANE", role=None), link_by_name=True)
    assert linked.user["username"] == "jane"
    stranger = replace(JANE, subject="sub-2", username="jane")
    assert await refused(house, stranger, link_by_name=True) == "account_not_linked"


async def test_accounts_are_not_made_where_they_may_not_be(house: House) -> None:
    assert await refused(house, create=False) == "not_provisioned"
    assert await house.value("SELECT count(*) FROM users") == 0


async def test_a_disabled_account_stays_disabled(house: House) -> None:
    await arrive(house)
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET is_active = false")
    assert await refused(house) == "account_disabled"


async def test_nobody_maps_him_to_a_role_so_he_has_none(house: House) -> None:
    assert (await arrive(house, replace(JANE, role=None))).user["role"] == "none"


async def test_groups_follow_the_provider_and_leave_other_memberships_alone(house: House) -> None:
    await house.user("root")
    await arrive(house)
    await group(house, "Operators", "operator")
    await group(house, "staff", external_id="cn=staff,dc=example")
    kept = await group(house, "by hand", "auditor")
    async with house.database.begin() as tx:
        await tx.run("INSERT INTO group_members VALUES (:id, 'default', 'jane@example.com', 'api', now())", id=kept)
    there = await arrive(house, replace(JANE, groups=["operators", "cn=staff,dc=example", "unknown"]))
    assert there.user["role"] == "operator" and there.revision is not None
    gone = await arrive(house, replace(JANE, groups=[]))
    # the membership made by hand stays, and its role holds
    assert gone.user["role"] == "auditor" and gone.revision is not None
    assert await house.value("SELECT count(*) FROM group_members") == 1
    unchanged = await arrive(house, replace(JANE, groups=None))
    assert unchanged.user["role"] == "auditor" and unchanged.revision is None
    names = [event.name for event in await house.events()]
    assert names.count("group.members.added") == 2 and names.count("group.members.removed") == 2


async def test_the_last_administrator_does_not_lose_his_role_by_signing_in(house: House) -> None:
    await house.user("root")
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET external_id = 'sub-1'")
    assert await refused(house, replace(JANE, username="root", email="", role="viewer"), link_by_id=True) == "conflict"


@pytest.mark.parametrize(
    "change",
    [
        {"subject": ""},
        {"subject": "a\x00"},
        {"subject": "x" * 501},
        {"username": ""},
        {"username": "../etc"},
        {"username": "a b"},
        {"email": "no address"},
        {"full_name": "a\x00"},
        {"role": "root"},
    ],
)
async def test_what_cannot_be_an_account_is_refused(house: House, change: dict[str, Any]) -> None:
    assert await refused(house, replace(JANE, **change)) == "invalid_request"


async def test_who_is_known_waits_for_nobody(house: House) -> None:
    await house.user("root")
    await group(house, "Operators", "operator")
    told = replace(JANE, groups=["operators"])
    await arrive(house, told)
    before = len(await house.events())
    async with house.database.begin() as tx:
        await lock_administrators(tx, "default")
        async with asyncio.timeout(10):
            again = await arrive(house, told)
        assert again.user["username"] == JANE.username and not again.user["has_factors"]
        for news in (
            replace(told, role="auditor"), replace(told, groups=[]), replace(told, full_name="Jane Roe"),
        ):  # fmt: skip
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await arrive(house, news)
    assert len(await house.events()) == before


async def test_two_at_once_of_one_person_make_one_account_and_both_come_in(house: House) -> None:
    await house.user("root")
    await asyncio.gather(*(arrive(house, replace(JANE, role=role)) for role in ("viewer", "operator") * 3),
                         return_exceptions=True)  # fmt: skip
    assert await house.value("SELECT count(*) FROM user_identities") == 1
    arrivals = [arrive(house, replace(JANE, role=role)) for role in ("viewer", "operator", "auditor") * 2]
    found = await asyncio.gather(*arrivals)
    assert {each.user["username"] for each in found} == {JANE.username}


async def test_another_provider_that_calls_somebody_the_same_is_not_believed(house: House) -> None:
    await house.user("jane", "admin")
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET external_id = 'sub-1' WHERE username = 'jane'")
    stranger = replace(JANE, provider="saml:https://other.example.com", username="someone", email="")
    assert await refused(house, stranger) == "account_not_linked"
