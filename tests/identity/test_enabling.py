"""A disabled account is enabled by two persons; what SCIM disabled, by SCIM; each way around that is tried once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from bailiwick.evidence.events import Actor, Context
from bailiwick.identity.enabling import ENABLE
from bailiwick.identity.provisioning import Arrival, Provisioned, link_identity, provision
from bailiwick.identity.removal import remove_user
from bailiwick.identity.standing import lock_administrators
from bailiwick.identity.users import User
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.permissions import STEP_UP
from bailiwick.kernel.quorum import Approval
from people_fixtures import House

JANE = "/api/v1/users/jane"
PATCH = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"]}


class Desk:
    """root and ada are administrators; jane, an operator, is disabled by root."""

    def __init__(self, house: House) -> None:
        self.house = house

    async def open(self) -> Desk:
        await self.house.signed_in("root")
        await self.house.user("ada")
        await self.house.user("jane", "operator")
        assert (await self.patch({"is_active": False}))[0] == 200
        return self

    async def patch(self, body: dict[str, Any], who: str = "root") -> tuple[int, Any]:
        token = await self.house.signed_in(who)
        answer = await self.house.call("PATCH", JANE, body, token=token)
        return answer.status, answer.json()

    async def ask(self, body: dict[str, Any] | None = None, who: str = "root") -> Any:
        status, said = await self.patch(body or {"is_active": True}, who)
        assert (status, said["is_active"]) == (202, False), said
        return said["approval"]

    async def scim(self, *, active: bool, who: str = "idp") -> int:
        token = await self.house.signed_in(who)
        identifier = await self.house.value("SELECT id FROM users WHERE username = 'jane'")
        body = {**PATCH, "Operations": [{"op": "replace", "path": "active", "value": active}]}
        answer = await self.house.call("PATCH", f"/scim/v2/Users/{identifier}", body, token=token)
        if answer.status == 403:
            assert "disabled here" in answer.json()["detail"]
        return answer.status

    async def active(self) -> bool:
        return bool(await self.house.value("SELECT is_active FROM users WHERE username = 'jane'"))


@pytest.fixture
async def desk(house: House) -> Desk:
    return await Desk(house).open()


async def refusal(awaited: Coroutine[Any, Any, Any]) -> str:
    with pytest.raises(BailiwickError) as refused:
        await awaited
    return refused.value.reason


async def test_it_waits_for_another_and_is_done_when_it_is_sent_again(desk: Desk) -> None:
    waits = await desk.ask()
    assert (waits["action"], waits["needed"], waits["candidates"]) == ("user.enable", 1, ["ada"])
    assert waits["payload"]["username"] == "jane" and waits["payload"]["change"] == {"is_active": True}
    assert (await desk.ask())["id"] == waits["id"] == (await desk.ask(who="ada"))["id"]
    await desk.house.approve(waits, "ada")
    status, said = await desk.patch({"is_active": True})
    assert (status, said["is_active"], said["disabled_by"]) == (200, True, None)
    event = next(each for each in await desk.house.events() if each.name == "user.enabled")
    assert (event.details["approval"], event.details["approved_by"]) == (waits["id"], ["ada"])
    # once: disabled again, it is asked for again
    assert (await desk.patch({"is_active": True}))[0] == 200
    await desk.patch({"is_active": False})
    assert (await desk.ask())["id"] != waits["id"]


async def test_with_nobody_else_it_waits_and_says_whom_to_invite(desk: Desk) -> None:
    async with desk.house.database.begin() as tx:
        await tx.run("UPDATE users SET is_active = false WHERE username = 'ada'")
    waits = await desk.ask()
    assert waits["candidates"] == [] and "invite somebody who is admin or security_owner" in waits["blocked"]


async def test_narrowing_stays_one_persons(desk: Desk) -> None:
    status, said = await desk.patch({"is_active": False, "full_name": "Jane"})
    assert (status, said["full_name"], said["is_active"]) == (200, "Jane", False)


# --- ways around it


async def by_himself(desk: Desk) -> None:
    assert await refusal(desk.house.approve(await desk.ask(), "root")) == "approval_own_request"


async def by_his_second_account(desk: Desk) -> None:
    await desk.house.user("second")
    async with desk.house.database.begin() as tx:
        await tx.run("UPDATE users SET email = 'root+2@example.com' WHERE username = 'second'")
    assert await refusal(desk.house.approve(await desk.ask(), "second")) == "approval_same_person"


async def by_an_account_he_made(desk: Desk) -> None:
    made = {"username": "puppet", "email": "puppet@example.com", "role": "admin"}
    token = await desk.house.signed_in("root")
    assert (await desk.house.call("POST", "/api/v1/users", made, token=token)).status == 201
    assert await refusal(desk.house.approve(await desk.ask(), "puppet")) == "approval_related_account"


async def by_whom_it_concerns(desk: Desk) -> None:
    """An account of the person who is disabled does not let him in."""
    await desk.house.user("jane2")
    async with desk.house.database.begin() as tx:
        await tx.run("UPDATE users SET email = 'jane+admin@example.com' WHERE username = 'jane2'")
    waits = await desk.ask()
    assert "jane2" not in waits["candidates"]
    assert await refusal(desk.house.approve(waits, "jane2")) == "approval_concerned"


async def by_an_operator(desk: Desk) -> None:
    await desk.house.user("olga", "operator")
    assert await refusal(desk.house.approve(await desk.ask(), "olga", "operator")) == "permission_denied"


async def by_asking_twice(desk: Desk) -> None:
    assert len({(await desk.ask())["id"] for _ in range(3)}) == 1


async def by_a_changed_payload(desk: Desk) -> None:
    """Approved is what was read: enabling, and not a role with it."""
    waits = await desk.ask()
    await desk.house.approve(waits, "ada")
    more = await desk.ask({"is_active": True, "role": "admin"})
    assert more["id"] != waits["id"] and more["payload"]["change"] == {"is_active": True, "role": "admin"}
    mixed = {**more, "payload_sha256": waits["payload_sha256"]}
    assert await refusal(desk.house.approve(mixed, "ada")) == "approval_changed"


async def by_a_moved_target(desk: Desk) -> None:
    """Raised after it was approved, the account is another one than was looked at."""
    waits = await desk.ask()
    await desk.house.approve(waits, "ada")
    assert (await desk.patch({"role": "admin"}))[0] == 200
    assert (await desk.ask())["id"] != waits["id"]


async def by_a_namesake(desk: Desk) -> None:
    waits = await desk.ask()
    await desk.house.approve(waits, "ada")
    token = await desk.house.signed_in("root")
    assert (await desk.house.call("DELETE", JANE, token=token)).status == 204
    await desk.house.user("jane", "admin", is_active=False)
    assert (await desk.ask())["id"] != waits["id"]


async def by_waiting_it_out(desk: Desk) -> None:
    waits = await desk.ask()
    await desk.house.approve(waits, "ada")
    clock = desk.house.clock
    assert isinstance(clock, FakeClock)
    clock.advance(24 * 3600 + 1)
    assert (await desk.ask())["id"] != waits["id"]
    assert await refusal(desk.house.approve(waits, "ada")) == "approval_ended"


async def by_who_has_left(desk: Desk) -> None:
    waits = await desk.ask()
    await desk.house.approve(waits, "ada")
    async with desk.house.database.begin() as tx:
        await tx.run("UPDATE users SET is_active = false WHERE username = 'ada'")
    assert (await desk.ask())["id"] == waits["id"]


@pytest.mark.parametrize(
    "actor",
    [{"session": "key:k1"}, {"session": ""}, {"session": "s", "application": "agent"}, {"session": "s", "mandate": "m"},
     {"session": "s", "delegation": "d"}],
    ids=["key", "at the machine", "service account", "mandate", "delegate"],
)  # fmt: skip
async def test_who_is_no_signed_in_person_needs_one_more(desk: Desk, actor: dict[str, str]) -> None:
    context = Context("default", Actor(user="root", **actor))
    waits = await desk.house.users.change(context, "jane", {"is_active": True})
    assert isinstance(waits, Approval) and waits.missing == 2
    await desk.house.approve(waits.document(), "ada")
    assert isinstance(await desk.house.users.change(context, "jane", {"is_active": True}), Approval)
    assert not await desk.active()


async def by_scim(desk: Desk) -> None:
    """What a person disabled the provider does not undo."""
    assert await desk.scim(active=True) == 403


async def by_scim_saying_false_first(desk: Desk) -> None:
    assert [await desk.scim(active=False), await desk.scim(active=True)] == [200, 403]


async def by_a_whole_scim_document(desk: Desk) -> None:
    identifier = await desk.house.value("SELECT id FROM users WHERE username = 'jane'")
    body = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": "jane", "active": True}
    answer = await desk.house.call("PUT", f"/scim/v2/Users/{identifier}", body, token=await desk.house.signed_in("idp"))
    assert answer.status == 403


async def by_deleting_it_and_making_it_anew(desk: Desk) -> None:
    token = await desk.house.signed_in("root")
    for body in (
        {"username": "Jane", "email": "other@example.com"},
        {"username": "jane.doe", "email": "Jane+new@example.com"},
    ):
        assert (await desk.house.call("DELETE", JANE, token=token)).status == 204
        answer = await desk.house.call("POST", "/api/v1/users", {**body, "role": "operator"}, token=token)
        said = answer.json()
        assert (answer.status, said["is_active"], said["disabled_by"]) == (201, False, "here"), said
        async with desk.house.database.begin() as tx:
            await tx.run("UPDATE users SET username = 'jane' WHERE username = :name", name=body["username"])
    assert isinstance(await desk.ask(), dict)


async def by_scim_deleting_it_and_making_it_anew(desk: Desk) -> None:
    """A directory does so by itself. Nothing of it is refused, so that it does not try for ever."""
    token = await desk.house.signed_in("idp")
    for more in ({"active": True}, {"active": False}):
        identifier = await desk.house.value("SELECT id FROM users WHERE username = 'jane'")
        assert (await desk.house.call("DELETE", f"/scim/v2/Users/{identifier}", token=token)).status == 204
        body = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": "jane", **more}
        answer = await desk.house.call("POST", "/scim/v2/Users", body, token=token)
        assert (answer.status, answer.json()["active"]) == (201, False)
        assert await desk.scim(active=True) == 403


async def by_a_new_name_in_the_directory(desk: Desk) -> None:
    """What it calls the person in truth is the same; and among many at once he is told from the others."""
    token = await desk.house.signed_in("idp")
    async with desk.house.database.begin() as tx:
        await tx.run("UPDATE users SET external_id = 'E-7' WHERE username = 'jane'")
    assert (await desk.house.call("DELETE", JANE, token=token)).status == 204

    async def made(name: str, external: str) -> bool:
        body = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": name, "externalId": external}
        answer = await desk.house.call("POST", "/scim/v2/Users", body, token=token)
        assert answer.status == 201
        return bool(answer.json()["active"])

    assert await asyncio.gather(made("j.roe", "e-7"), made("joe", "E-8"), made("jan", "E-9")) == [False, True, True]
    async with desk.house.database.begin() as tx:
        await tx.run("UPDATE users SET username = 'jane' WHERE username = 'j.roe'")


async def by_signing_in(desk: Desk) -> None:
    """A provider that makes accounts makes none, by whatever it calls him that he was called here."""
    async with desk.house.database.begin() as tx:
        await link_identity(tx, "default", "oidc:corp", "sub-1", "jane", desk.house.clock.now())
    token = await desk.house.signed_in("root")
    assert (await desk.house.call("DELETE", JANE, token=token)).status == 204
    for arrival in (
        Arrival("oidc:corp", "sub-1", "j.roe", "roe@example.com"),
        Arrival("oidc:other", "sub-2", "JANE"),
        Arrival("saml:corp", "sub-3", "jd", "jane@example.com"),
    ):
        assert await refusal(arrive(desk, arrival)) == "account_disabled"
    assert (await arrive(desk, Arrival("oidc:corp", "sub-4", "joe"))).created
    await desk.house.user("jane", is_active=False)


async def arrive(desk: Desk, arrival: Arrival) -> Provisioned:
    house = desk.house
    async with house.database.begin() as tx:
        return await provision(
            tx, Context("default", Actor()), arrival, now=house.clock.now(), ids=house.ids, recorder=house.recorder
        )


CHEATS: list[Callable[[Desk], Coroutine[Any, Any, None]]] = [
    by_himself, by_his_second_account, by_an_account_he_made, by_whom_it_concerns, by_an_operator, by_asking_twice,
    by_a_changed_payload, by_a_moved_target, by_a_namesake, by_waiting_it_out, by_who_has_left, by_scim,
    by_scim_saying_false_first, by_a_whole_scim_document, by_deleting_it_and_making_it_anew,
    by_scim_deleting_it_and_making_it_anew, by_a_new_name_in_the_directory, by_signing_in,
]  # fmt: skip


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda each: each.__name__)
async def test_every_way_around_the_second_person_is_closed(desk: Desk, cheat: Callable[[Desk], Any]) -> None:
    await cheat(desk)
    assert not await desk.active()


async def test_at_the_same_time_it_is_done_once(desk: Desk) -> None:
    await desk.house.approve(await desk.ask(), "ada")
    context = Context("default", Actor(user="root", session="s"))
    await asyncio.gather(*(desk.house.users.change(context, "jane", {"is_active": True}) for _ in range(4)))
    assert await desk.active()
    assert [each.name for each in await desk.house.events()].count("user.enabled") == 1


# --- made anew


async def test_two_persons_let_in_again_whose_account_was_deleted(desk: Desk) -> None:
    token = await desk.house.signed_in("root")
    assert (await desk.house.call("DELETE", JANE, token=token)).status == 204
    body = {"username": "jane", "email": "jane@example.com", "role": "operator"}
    assert (await desk.house.call("POST", "/api/v1/users", body, token=token)).status == 201
    made, disabled = [each for each in await desk.house.events() if each.subject.id == "jane"][-2:]
    assert (made.name, disabled.name) == ("user.created", "user.disabled")
    assert disabled.details["cause"] == "disabled here before"
    await desk.house.approve(await desk.ask(), "ada")
    assert (await desk.patch({"is_active": True}))[0] == 200
    # from then on he is anybody
    assert (await desk.house.call("DELETE", JANE, token=token)).status == 204
    assert await desk.house.value("SELECT count(*) FROM kept_out") == 0
    made = (await desk.house.call("POST", "/api/v1/users", body, token=token)).json()
    assert made["is_active"] is True


async def test_a_deletion_under_way_is_waited_for(desk: Desk) -> None:
    """Whoever makes the account while it is deleted does not look before the deletion is over."""
    token = await desk.house.signed_in("root")
    body = {"username": "jane", "email": "jane@example.com", "role": "viewer"}
    async with desk.house.database.begin() as tx:
        user = await desk.house.users.get("default", "jane")
        await lock_administrators(tx, "default")
        await remove_user(
            tx, Context("default", Actor(user="root")), user, desk.house.recorder, desk.house.authority,
            desk.house.clock.now(),
        )  # fmt: skip
        making = asyncio.create_task(desk.house.call("POST", "/api/v1/users", body, token=token))
        async with asyncio.timeout(30):
            while not await desk.house.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                assert not making.done(), making.result().json()
                await asyncio.sleep(0.02)
    assert (await making).json()["is_active"] is False


async def test_whom_the_provider_disabled_it_makes_anew(house: House) -> None:
    """Its word alone was against him, so its word is enough."""
    desk = Desk(house)
    await house.signed_in("root")
    await house.user("jane", "operator")
    assert await desk.scim(active=False) == 200
    token = await house.signed_in("idp")
    identifier = await house.value("SELECT id FROM users WHERE username = 'jane'")
    assert (await house.call("DELETE", f"/scim/v2/Users/{identifier}", token=token)).status == 204
    body = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": "jane"}
    assert (await house.call("POST", "/scim/v2/Users", body, token=token)).json()["active"] is True


# --- SCIM


async def test_the_provider_takes_back_what_it_said_itself(house: House) -> None:
    desk = Desk(house)
    await house.signed_in("root")
    await house.user("jane", "operator")
    assert await desk.scim(active=False) == 200
    assert await house.value("SELECT disabled_by FROM users WHERE username = 'jane'") == "scim:idp"
    # another account than that by which it comes does not
    assert await desk.scim(active=True, who="root") == 403
    assert (await desk.patch({"is_active": True}))[0] == 202
    assert await desk.scim(active=True) == 200
    assert await desk.active()


async def test_who_disables_it_here_takes_it_out_of_the_providers_hand(house: House) -> None:
    desk = Desk(house)
    await house.signed_in("root")
    await house.user("jane", "operator")
    assert await desk.scim(active=False) == 200
    status, said = await desk.patch({"is_active": False})
    assert (status, said["disabled_by"]) == (200, "here")
    assert await desk.scim(active=True) == 403
    assert [each.details.get("changed") for each in await house.events() if each.name == "user.changed"] == [
        ["disabled_by"]
    ]


async def test_who_is_made_disabled_by_the_provider_is_enabled_by_it(house: House) -> None:
    desk = Desk(house)
    token = await house.signed_in("idp")
    body = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": "jane", "active": False,
            "emails": [{"value": "jane@example.com"}]}  # fmt: skip
    assert (await house.call("POST", "/scim/v2/Users", body, token=token)).status == 201
    assert await desk.scim(active=True) == 200
    assert isinstance(await house.users.get("default", "jane"), User)


def test_who_approves_proved_himself_just_now() -> None:
    assert ENABLE.permission in STEP_UP and ENABLE.needed == 1 and ENABLE.life <= timedelta(hours=24)
