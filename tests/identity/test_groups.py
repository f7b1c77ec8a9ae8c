"""Groups and the roles they give: the highest holds, at once, and never without a permission or an administrator."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.evidence.events import Actor, Context
from bailiwick.identity.groups import Members
from bailiwick.identity.loader import load_users
from bailiwick.identity.standing import NO_ROLE, RANKS, highest
from bailiwick.kernel.errors import Denied
from bailiwick.kernel.permissions import Role
from people_fixtures import House

GROUPS = "/api/v1/groups"


async def made(house: House, token: str, **body: Any) -> dict[str, Any]:
    answer = await house.call("POST", GROUPS, {"name": "staff", **body}, token=token)
    assert answer.status == 201, answer.body
    told: dict[str, Any] = answer.json()
    return told


async def role(house: House, username: str) -> str:
    """What the workers' memory would say."""
    async with house.database.begin() as tx:
        return (await load_users(tx, "default", username))[username].role


def test_every_role_has_its_rank() -> None:
    assert {NO_ROLE, *Role} == set(RANKS)
    assert highest([]) == NO_ROLE and highest(["viewer", "admin", "auditor"]) == "admin"


async def test_a_group_is_made_shown_changed_listed_and_deleted(house: House) -> None:
    root = await house.signed_in("root")
    await house.user("olga", "viewer")
    first = await made(house, root, description="All", owner="root", members=["olga"])
    assert (first["members"], first["kind"], first["role"], first["source"]) == (1, "group", None, "api")
    shown = await house.call("GET", f"{GROUPS}/STAFF", token=root)
    assert shown.json() == first and shown.headers["etag"] == '"1"'
    changed = await house.call("PATCH", f"{GROUPS}/staff", {"kind": "team", "owner": None}, token=root)
    assert (changed.json()["kind"], changed.json()["owner"], changed.json()["version"]) == ("team", None, 2)
    stale = await house.call("PATCH", f"{GROUPS}/staff", {"name": "x"}, token=root, headers={"if-match": '"1"'})
    assert stale.status == 412
    await made(house, root, name="another")
    page = (await house.call("GET", f"{GROUPS}?limit=1", token=root)).json()
    assert [group["name"] for group in page["items"]] == ["another"]
    rest = (await house.call("GET", f"{GROUPS}?limit=1&cursor={page['next']}", token=root)).json()
    assert ([group["name"] for group in rest["items"]], rest["next"]) == (["staff"], None)
    members = (await house.call("GET", f"{GROUPS}/{first['id']}/members", token=root)).json()
    assert [(each["username"], each["source"]) for each in members["items"]] == [("olga", "api")]
    assert (await house.call("DELETE", f"{GROUPS}/staff", token=root)).status == 204
    assert (await house.call("GET", f"{GROUPS}/staff", token=root)).status == 404
    names = [event.name for event in await house.events()]
    assert names == ["group.created", "group.members.added", "group.changed", "group.created", "group.deleted"]


async def test_the_highest_role_holds_and_one_s_own_comes_back(house: House) -> None:
    root = await house.signed_in("root")
    await house.signed_in("olga", "viewer")
    await made(house, root, name="ops", role="operator")
    await made(house, root, name="audit", role="auditor")
    for group in ("ops", "audit"):
        assert (await house.call("PUT", f"{GROUPS}/{group}/members/olga", token=root)).status == 204
    assert await role(house, "olga") == "operator"
    shown = (await house.call("GET", "/api/v1/users/olga", token=root)).json()
    assert (shown["role"], shown["own_role"]) == ("operator", "viewer")
    assert (await house.call("DELETE", f"{GROUPS}/ops/members/olga", token=root)).status == 204
    assert await role(house, "olga") == "auditor"
    # what is taken is gone everywhere before the answer
    assert house.authority.settled and ("user", "olga") in await house.feed()
    changed = await house.call("PATCH", "/api/v1/users/olga", {"role": "operator"}, token=root)
    assert (changed.json()["role"], changed.json()["own_role"]) == ("operator", "operator")
    assert (await house.call("PATCH", "/api/v1/users/olga", {"role": "viewer"}, token=root)).json()["role"] == "auditor"
    assert (await house.call("DELETE", f"{GROUPS}/audit", token=root)).status == 204
    assert await role(house, "olga") == "viewer"
    assert await house.value("SELECT own_role FROM users WHERE username = 'olga'") is None


async def test_a_group_s_new_role_reaches_every_member(house: House) -> None:
    root = await house.signed_in("root")
    people = [f"p{number:03}" for number in range(230)]
    for name in people:
        await house.user(name, "viewer", password_hash=None)
    await made(house, root, members=people)
    assert (await house.call("PATCH", f"{GROUPS}/staff", {"role": "operator"}, token=root)).status == 200
    assert {await role(house, name) for name in people} == {"operator"}
    # so many are not announced one by one
    assert (await house.feed())[-1] == ("zone", "default")
    told = [len(event.details["members"]) for event in await house.events() if event.name == "group.members.added"]  # type: ignore[arg-type]
    assert sum(told) == 230 and max(told) <= 50


async def test_the_last_administrator_stays_one(house: House) -> None:
    root = await house.signed_in("root")
    await made(house, root, name="admins", role="admin", members=["root"])
    demoted = await house.call("PATCH", "/api/v1/users/root", {"role": "viewer"}, token=root)
    assert (demoted.json()["role"], demoted.json()["own_role"]) == ("admin", "viewer")
    for method, path, body in (
        ("DELETE", "admins", None),
        ("DELETE", "admins/members/root", None),
        ("PATCH", "admins", {"role": "auditor"}),
    ):
        answer = await house.call(method, f"{GROUPS}/{path}", body, token=root)
        assert (answer.status, answer.json()["reason"]) == (409, "conflict"), path
    assert (await house.call("DELETE", "/api/v1/users/root", token=root)).status == 409
    assert await role(house, "root") == "admin"


async def test_who_may_not_widen_does_not_by_way_of_a_group(house: House) -> None:
    await house.user("olga", "viewer")
    context = Context("default", Actor(user="key"))
    group = await house.groups.create(context, "ops", role="operator")
    with pytest.raises(Denied):
        await house.groups.change(context, group.id, {}, Members().adding(["olga"]), widen=False)
    with pytest.raises(Denied):
        await house.groups.create(context, "more", role="viewer", members=["olga"], widen=False) and None
        await house.groups.change(context, "more", {"role": "admin"}, widen=False)
    assert await role(house, "olga") == "viewer"


async def test_only_administrators_keep_groups(house: House) -> None:
    olga, vera = await house.signed_in("olga", "operator"), await house.signed_in("vera", "viewer")
    assert (await house.call("GET", GROUPS, token=olga)).status == 200
    assert (await house.call("GET", GROUPS, token=vera)).status == 403
    for method, path in (("POST", ""), ("PATCH", "/x"), ("DELETE", "/x"), ("PUT", "/x/members/vera")):
        body = {"name": "x"} if method in ("POST", "PATCH") else None
        assert (await house.call(method, GROUPS + path, body, token=olga)).status == 403, path


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": "a\x00"},
        {"name": "x" * 201},
        {"role": "root"},
        {"kind": "gang"},
        {"owner": "nobody"},
        {"members": ["nobody"]},
        {"more": 1},
    ],
)
async def test_what_is_no_group_is_refused(house: House, body: dict[str, Any]) -> None:
    root = await house.signed_in("root")
    answer = await house.call("POST", GROUPS, {"name": "staff", **body}, token=root)
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")
    assert await house.value("SELECT count(*) FROM groups") == 0


async def test_a_deleted_user_leaves_nothing_for_a_namesake(house: House) -> None:
    root, olga = await house.signed_in("root"), await house.signed_in("olga", "operator")
    key = await house.call("POST", "/api/v1/api-keys", {"name": "k", "permissions": ["servers:read"]}, token=olga)
    await made(house, root, role="auditor", members=["olga"], owner="olga")
    assert (await house.call("DELETE", "/api/v1/users/olga", token=root)).status == 204
    assert house.authority.settled
    assert ("revocation", "user/olga") in await house.feed() and ("api_key", key.json()["id"]) in await house.feed()
    await house.user("olga", "viewer")
    assert (await house.call("GET", "/api/v1/auth/me", token=olga)).status == 401
    assert await role(house, "olga") == "viewer"
    shown = (await house.call("GET", f"{GROUPS}/staff", token=root)).json()
    assert (shown["owner"], shown["members"]) == (None, 0)


names = st.frozensets(st.sampled_from("abcdef"), max_size=4)


@given(st.none() | names, st.lists(st.tuples(st.booleans(), names), max_size=6))
def test_changes_of_members_fold_into_one(
    only: frozenset[str] | None, steps: list[tuple[bool, frozenset[str]]]
) -> None:
    before = frozenset("abc")
    wanted, folded = set(before if only is None else only), Members(only=only)
    for adds, named in steps:
        wanted = wanted | named if adds else wanted - named
        folded = folded.adding(named) if adds else folded.removing(named)
    coming = ((folded.only or frozenset()) | folded.add) - folded.remove
    after = (before if folded.only is None else frozenset()) - folded.remove | coming
    assert after == wanted
