from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from bailiwick.identity.applications import may_hand_out, new_secret, well_formed
from bailiwick.identity.loader import ApplicationEntry, load_applications
from bailiwick.inventory.servers import require_servers
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.ids import Ids
from people_fixtures import House

BODY = {"name": "agent", "grants": {"payments": ["payments:write", "payments:read", "payments:read"]}}


@pytest.fixture
async def token(house: House) -> str:
    await house.server("payments")
    return await house.signed_in("root")


async def entry(house: House, name: str = "agent") -> ApplicationEntry:
    async with house.database.begin() as tx:
        (found,) = (await load_applications(tx, "default", name)).values()
    return found


async def create(house: House, token: str, **members: Any) -> dict[str, Any]:
    answer = await house.call("POST", "/api/v1/applications", {**BODY, **members}, token=token)
    assert answer.status == 201, answer.body
    return answer.json()  # type: ignore[no-any-return]


def test_a_secret_can_be_told_from_chance() -> None:
    secret = new_secret(Ids())
    assert re.fullmatch(r"bws_[A-Za-z0-9_-]{43}[0-9A-Za-z]{6}", secret)
    assert well_formed(secret)
    assert not well_formed(secret[:-1] + ("0" if secret[-1] != "0" else "1"))
    assert not well_formed(secret + "\n")
    assert not well_formed("bws_" + "a" * 49)


def test_nobody_hands_out_more_than_he_holds() -> None:
    assert may_hand_out("admin", "admin")
    assert may_hand_out("operator", "operator")
    assert may_hand_out("operator", "viewer")
    assert not may_hand_out("operator", "admin")
    assert not may_hand_out("operator", "auditor")
    assert not may_hand_out("operator", "root")
    assert not may_hand_out("root", "viewer")


async def test_a_secret_is_shown_once_and_kept_as_a_hash(house: House, token: str) -> None:
    made = await house.call("POST", "/api/v1/applications", BODY, token=token)
    body = made.json()
    assert (made.status, made.headers["cache-control"], made.headers["etag"]) == (201, "no-store", '"1"')
    assert (body["role"], body["grants"]) == ("viewer", {"payments": ["payments:read", "payments:write"]})
    secret = body["client_secret"]
    assert well_formed(secret)
    for path in ("applications", "applications/agent"):
        shown = await house.call("GET", f"/api/v1/{path}", token=token)
        assert secret not in shown.body.decode()
        assert "argon2" not in shown.body.decode()
    assert secret not in str(await house.events())
    assert (await house.value("SELECT secret_hash FROM applications")).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    loaded = await entry(house)
    assert (loaded.id, loaded.grants) == (body["client_id"], {"payments": ("payments:read", "payments:write")})
    assert "argon2" not in repr(loaded)
    assert await house.applications.verify(loaded, secret)
    assert not await house.applications.verify(loaded, new_secret(house.ids))
    assert await house.feed() == [("application", "agent")]


async def test_rotation_ends_the_old_secret_whatever_was_remembered(house: House, token: str) -> None:
    first = (await create(house, token))["client_secret"]
    assert await house.applications.verify(await entry(house), first)
    rotated = await house.call("POST", "/api/v1/applications/agent/secret", token=token)
    assert (rotated.status, rotated.headers["cache-control"]) == (200, "no-store")
    second = rotated.json()["client_secret"]
    assert second != first
    assert not await house.applications.verify(await entry(house), first)
    assert await house.applications.verify(await entry(house), second)
    assert [event.name for event in await house.events()] == ["application.created", "application.secret.rotated"]
    assert house.authority.settled == [2]


async def test_wrong_secrets_are_throttled_for_each_application(house: House, token: str) -> None:
    secret = (await create(house, token))["client_secret"]
    other = (await create(house, token, name="other"))["client_secret"]
    mine = await entry(house)
    house.applications._throttle._per_minute = 5
    for _ in range(5):
        assert not await house.applications.verify(mine, new_secret(house.ids))
    with pytest.raises(BailiwickError) as refused:
        await house.applications.verify(mine, new_secret(house.ids))
    assert (refused.value.reason, refused.value.status) == ("rate_limited", 429)
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 61
    assert await house.applications.verify(await entry(house, "other"), other)
    assert not await house.applications.verify(mine, "guess"), "what has not our form costs nothing and tells nothing"
    house.clock.advance(60)
    assert await house.applications.verify(mine, secret)
    for _ in range(5):
        assert not await house.applications.verify(mine, new_secret(house.ids))
    assert await house.applications.verify(mine, secret), "a secret known to be right passes a throttle"


async def test_disabling_ends_what_was_issued(house: House, token: str) -> None:
    made = await create(house, token)
    off = await house.call("PATCH", "/api/v1/applications/agent", {"is_active": False}, token=token)
    assert (off.status, off.json()["is_active"]) == (200, False)
    assert (await house.feed())[1:] == [("application", "agent"), ("revocation", f"application/{made['client_id']}")]
    assert house.authority.settled == [3]
    assert (await entry(house)).is_active is False
    on = await house.call("PATCH", "/api/v1/applications/agent", {"is_active": True}, token=token)
    assert on.json()["is_active"] is True
    assert [event.name for event in await house.events()] == [
        "application.created",
        "application.disabled",
        "application.enabled",
    ]


async def test_grants_are_merged_server_by_server(house: House, token: str) -> None:
    await house.server("a", "b", "c")
    await create(house, token, grants={"a": ["x"], "b": ["y"]}, description="d")
    answer = await house.call(
        "PATCH", "/api/v1/applications/agent", {"grants": {"a": None, "c": ["z"]}, "description": None}, token=token
    )
    assert (answer.json()["grants"], answer.json()["description"]) == ({"b": ["y"], "c": ["z"]}, "")
    assert house.authority.settled == [2]
    none = await house.call("PATCH", "/api/v1/applications/agent", {"grants": None}, token=token)
    assert none.json()["grants"] == {}
    same = await house.call("PATCH", "/api/v1/applications/agent", {"grants": {}}, token=token)
    assert same.json()["version"] == none.json()["version"]
    stale = await house.call(
        "PATCH", "/api/v1/applications/agent", {"role": "viewer"}, token=token, headers={"if-match": '"1"'}
    )
    assert stale.status == 412


async def test_grants_name_servers_that_are_there(house: House, token: str) -> None:
    async def refused(method: str, path: str, body: dict[str, Any]) -> list[str]:
        answer = await house.call(method, path, body, token=token)
        assert (answer.status, answer.json()["reason"]) == (400, "unknown_granted_server"), answer.body
        return answer.json()["servers"]  # type: ignore[no-any-return]

    path = "/api/v1/applications"
    wrong = {"name": "agent", "grants": {"paymnets": ["x"], "payments": ["x"], "nowhere": ["x"]}}
    assert await refused("POST", path, wrong) == ["nowhere", "paymnets"]
    assert await house.value("SELECT count(*) FROM applications") == 0
    await house.zone("other")
    await house.server("elsewhere", zone="other")
    assert await refused("POST", path, {"name": "agent", "grants": {"elsewhere": ["x"]}}) == ["elsewhere"]

    await create(house, token)
    assert await refused("PATCH", f"{path}/agent", {"grants": {"paymnets": ["x"]}}) == ["paymnets"]
    await house.server("files")
    assert (await house.call("PATCH", f"{path}/agent", {"grants": {"files": ["x"]}}, token=token)).status == 200
    # a server that goes away locks nobody out of changing the rest, or of taking the grant away
    await house.value("DELETE FROM servers WHERE name = 'files' RETURNING name")
    kept = await house.call("PATCH", f"{path}/agent", {"grants": {"payments": ["y"]}}, token=token)
    assert kept.json()["grants"] == {"files": ["x"], "payments": ["y"]}
    gone = await house.call("PATCH", f"{path}/agent", {"grants": {"files": None}}, token=token)
    assert gone.json()["grants"] == {"payments": ["y"]}


async def test_a_granted_server_cannot_go_while_the_grant_is_being_written(house: House, token: str) -> None:
    async with house.database.begin() as tx:
        await require_servers(tx, "default", ["payments"])
        deleting = asyncio.ensure_future(house.value("DELETE FROM servers WHERE name = 'payments' RETURNING name"))
        done, _ = await asyncio.wait({deleting}, timeout=0.3)
        assert not done
    assert await deleting == "payments"


async def test_grants_stay_bounded_over_many_patches(house: House, token: str) -> None:
    await house.server(*(f"s{n}" for n in range(150)), *(f"t{n}" for n in range(100)))
    await create(house, token, grants={f"s{n}": ["x"] for n in range(150)})
    more = {"grants": {f"t{n}": ["x"] for n in range(100)}}
    answer = await house.call("PATCH", "/api/v1/applications/agent", more, token=token)
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "a/b"},
        {"name": "agent", "secret": "mine"},
        {"name": "agent", "client_secret": "mine"},
        {"name": "agent", "client_id": "mine"},
        {"name": "agent", "secret_hash": "mine"},
        {"name": "agent", "is_active": True},
        {"name": "agent", "zone": "other"},
        {"name": "agent", "role": "owner"},
        {"name": "agent", "description": "a\u0000"},
        {"name": "agent", "grants": {"a": "x"}},
        {"name": "agent", "grants": {"a": ["X Y"]}},
        {"name": "agent", "grants": {"a\u0000": ["x"]}},
        {"name": "agent", "grants": {"a": None}},
        {"name": "agent", "grants": {"a": ["x"] * 101}},
        {"name": "agent", "grants": {f"s{n}": ["x"] for n in range(201)}},
    ],
)
async def test_a_malformed_application_is_refused(house: House, token: str, body: dict[str, Any]) -> None:
    answer = await house.call("POST", "/api/v1/applications", body, token=token)
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")
    assert await house.value("SELECT count(*) FROM applications") == 0


@pytest.mark.parametrize(
    "patch",
    [{"name": "x"}, {"role": None}, {"is_active": None}, {"secret_hash": "x"}, {"client_id": "x"}, {"zone": "x"}],
)
async def test_nothing_else_can_be_assigned(house: House, token: str, patch: dict[str, Any]) -> None:
    await create(house, token)
    answer = await house.call("PATCH", "/api/v1/applications/agent", patch, token=token)
    assert answer.status == 400


async def test_of_many_who_create_the_same_application_one_wins(house: House, token: str) -> None:
    answers = await asyncio.gather(*(house.call("POST", "/api/v1/applications", BODY, token=token) for _ in range(10)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 9


async def test_an_operator_cannot_rise_by_an_application(house: House, token: str) -> None:
    operator = await house.signed_in("op", "operator")
    path = "/api/v1/applications"
    for role, status in (("admin", 403), ("auditor", 403), ("operator", 201), ("viewer", 201)):
        body = {"name": f"by-op-{role}", "role": role}
        assert (await house.call("POST", path, body, token=operator)).status == status
    await create(house, token, role="admin")
    assert (await house.call("POST", f"{path}/agent/secret", token=operator)).status == 403
    assert (await house.call("PATCH", f"{path}/agent", {"grants": {"x": ["y"]}}, token=operator)).status == 403
    assert (await house.call("PATCH", f"{path}/agent", {"role": "viewer"}, token=operator)).status == 403
    assert (await house.call("PATCH", f"{path}/by-op-viewer", {"role": "admin"}, token=operator)).status == 403
    assert (await house.call("PATCH", f"{path}/agent", {"is_active": False}, token=operator)).status == 200
    assert (await house.call("PATCH", f"{path}/agent", {"is_active": True}, token=operator)).status == 403


@pytest.mark.parametrize(
    ("role", "read", "write"), [("viewer", 403, 403), ("auditor", 200, 403), ("operator", 200, 201)]
)
async def test_who_may(house: House, role: str, read: int, write: int) -> None:
    await house.server("payments")
    token = await house.signed_in(f"the-{role}", role)
    assert (await house.call("GET", "/api/v1/applications", token=token)).status == read
    assert (await house.call("POST", "/api/v1/applications", BODY, token=token)).status == write
