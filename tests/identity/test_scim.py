"""SCIM as Entra and Okta speak it, and that it can do nothing the permission table would not allow."""

from __future__ import annotations

import json
from typing import Any

import pytest

from people_fixtures import Answer, House

USERS, GROUPS = "/scim/v2/Users", "/scim/v2/Groups"
KEY = {"x-test-permissions": "scim:write"}
BOTH = {"x-test-permissions": "scim:write users:write"}
JANE = {
    "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
    "userName": "jane@example.com",
    "externalId": "e-1",
    "name": {"givenName": "Jane", "familyName": "Doe"},
    "emails": [{"value": "jane@example.com", "type": "work", "primary": True}],
    "active": True,
}


class Client:
    """A key of the administrator's, with the permissions of the test's choosing."""

    def __init__(self, house: House, token: str, held: dict[str, str] = KEY) -> None:
        self.house, self.token, self.held = house, token, held

    async def __call__(
        self, method: str, path: str, body: Any = None, *, status: int | None = None, **headers: str
    ) -> Answer:
        sent = {**self.held, **{name.replace("_", "-"): value for name, value in headers.items()}}
        answer = await self.house.call(method, path, body, token=self.token, headers=sent)
        if answer.body:
            assert answer.headers["content-type"].startswith("application/scim+json")
        if status is not None:
            assert answer.status == status, answer.body
        return answer

    async def user(self, name: str = "jane@example.com", **more: Any) -> dict[str, Any]:
        body = {**JANE, "userName": name, "emails": [{"value": f"{name.split('@')[0]}@example.com"}], **more}
        made: dict[str, Any] = (await self("POST", USERS, body, status=201)).json()
        return made

    async def patch(self, resource: dict[str, Any], *operations: dict[str, Any], status: int = 200) -> Any:
        body = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": list(operations)}
        kind = "Groups" if "Group" in str(resource["schemas"]) else "Users"
        return (await self("PATCH", f"/scim/v2/{kind}/{resource['id']}", body, status=status)).json()

    async def found(self, path: str, filter: str) -> list[str]:
        from urllib.parse import quote

        page = (await self("GET", f"{path}?filter={quote(filter)}", status=200)).json()
        return sorted(each.get("userName") or each["displayName"] for each in page["Resources"])


@pytest.fixture
async def scim(house: House) -> Client:
    return Client(house, await house.signed_in("root"))


async def test_a_user_is_made_read_replaced_and_deleted(house: House, scim: Client) -> None:
    answer = await scim("POST", USERS, JANE, status=201)
    made = answer.json()
    assert answer.headers["etag"] == made["meta"]["version"] == 'W/"1"'
    assert answer.headers["location"] == made["meta"]["location"] and made["meta"]["location"].endswith(made["id"])
    assert (made["displayName"], made["roles"][0]["value"]) == ("Jane Doe", "viewer")
    url = f"{USERS}/{made['id']}"
    assert (await scim("GET", url, status=200)).json() == made
    assert (await scim("GET", url, if_none_match='W/"1"')).status == 304
    replaced = (
        await scim("PUT", url, {**JANE, "name": {}, "displayName": "J.", "externalId": None}, status=200)
    ).json()
    assert "externalId" not in replaced and "name" not in replaced and replaced["displayName"] == "J."
    assert (await scim("PUT", url, JANE, if_match='W/"1"')).status == 412
    assert (await scim("DELETE", url, status=204)).body == b""
    assert (await scim("GET", url)).status == 404
    names = [event.name for event in await house.events()]
    assert names[:2] == ["user.created", "user.changed"] and "user.deleted" in names
    created = (await house.events())[0]
    assert created.details["cause"] == "scim"


async def test_deactivation_ends_sessions_and_mandates_with_it(house: House, scim: Client) -> None:
    made = await scim.user("jane")
    token = await house.signed_in("jane")
    assert (await house.call("GET", "/api/v1/auth/me", token=token)).status == 200
    # Entra quotes the truth and shouts the operation
    after = await scim.patch(made, {"op": "Replace", "path": "active", "value": "False"})
    assert after["active"] is False
    assert (await house.call("GET", "/api/v1/auth/me", token=token)).status == 401
    assert ("revocation", "user/jane") in await house.feed() and house.authority.settled
    assert await house.value("SELECT count(*) FROM sessions WHERE ended_at IS NULL AND username = 'jane'") == 0
    # one transaction: the revocation, the ended session and the event stand or fall together
    assert "user.disabled" in [event.name for event in await house.events()]
    again = await scim.patch(made, {"op": "replace", "value": {"active": True}})  # Okta names no path
    assert again["active"] is True


async def test_deletion_ends_everything(house: House, scim: Client) -> None:
    made = await scim.user("jane")
    token = await house.signed_in("jane")
    await scim("DELETE", f"{USERS}/{made['id']}", status=204)
    assert (await house.call("GET", "/api/v1/auth/me", token=token)).status == 401
    assert ("revocation", "user/jane") in await house.feed() and house.authority.settled


@pytest.mark.parametrize(
    ("operations", "wanted"),
    [
        ([{"op": "add", "path": "title", "value": "Head"}], {"title": "Head"}),
        ([{"op": "Add", "value": {"name.givenName": "J", "title": "T"}}], {"title": "T"}),
        ([{"op": "replace", "path": "name", "value": {"familyName": "Roe"}}],
         {"name": {"givenName": "Jane", "familyName": "Roe"}}),
        ([{"op": "replace", "path": 'emails[type eq "work"].value', "value": "roe@example.com"}],
         {"emails": [{"value": "roe@example.com", "type": "work", "primary": True}]}),
        ([{"op": "remove", "path": "emails"},
          {"op": "Add", "path": 'emails[type eq "work"].value', "value": "new@example.com"}],
         {"emails": [{"value": "new@example.com", "type": "work", "primary": True}]}),
        ([{"op": "add", "path": "emails", "value": [{"value": "second@example.com", "primary": True}]}],
         {"emails": [{"value": "second@example.com", "type": "work", "primary": True}]}),
        ([{"op": "remove", "path": "externalId"}], {"externalId": None}),
        ([{"op": "replace", "path": "displayName", "value": None}], {"displayName": None}),
        ([{"op": "replace", "path": "urn:ietf:params:scim:schemas:core:2.0:User:title", "value": "U"}], {"title": "U"}),
        ([{"op": "add", "path": "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department", "value": "D"},
          {"op": "add", "path": 'phoneNumbers[type eq "work"].value', "value": "1"}], {"title": None}),
        ([{"op": "replace", "value": {"id": "other", "displayName": "Okta"}}], {"displayName": "Okta"}),
    ],
)  # fmt: skip
async def test_patches_in_the_dialects_of_directories(
    scim: Client, operations: list[dict[str, Any]], wanted: dict[str, Any]
) -> None:
    made = await scim.user()
    after = await scim.patch(made, *operations)
    assert {key: after.get(key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("operation", "scim_type"),
    [
        ({"op": "move", "path": "title", "value": "x"}, "invalidSyntax"),
        ({"op": "replace", "path": "nonsense", "value": "x"}, "invalidPath"),
        ({"op": "replace", "path": "title[", "value": "x"}, "invalidPath"),
        ({"op": "replace", "path": "userName", "value": "other"}, "mutability"),
        ({"op": "replace", "path": "groups", "value": []}, "mutability"),
        ({"op": "replace", "path": "id", "value": "x"}, "mutability"),
        ({"op": "remove"}, "noTarget"),
        ({"op": "replace", "path": 'emails[type eq "home"].value', "value": "a@b.c"}, "noTarget"),
        ({"op": "replace", "path": "emails", "value": "nonsense"}, "invalidValue"),
        ({"op": "replace", "path": "active", "value": "maybe"}, "invalidValue"),
        ({"op": "replace", "path": "displayName", "value": "a\x00"}, "invalidValue"),
        ({"op": "replace", "path": "displayName", "value": "\ud800"}, "invalidValue"),
        ({"op": "replace", "path": "roles", "value": [{"value": "root"}]}, "invalidValue"),
        ({"op": "add", "value": "x"}, "invalidValue"),
    ],
)
async def test_what_is_no_patch_is_told_so_and_changes_nothing(
    scim: Client, operation: dict[str, Any], scim_type: str
) -> None:
    made = await scim.user()
    first = {"op": "replace", "path": "title", "value": "first"}
    told = await scim.patch(made, first, operation, status=400)
    assert told["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:Error"]
    assert (told["scimType"], told["status"]) == (scim_type, "400")
    assert "title" not in (await scim("GET", f"{USERS}/{made['id']}")).json()


@pytest.mark.parametrize(
    ("filter", "names"),
    [
        ('userName eq "ANNA"', ["anna"]),
        ('externalId eq "x-bob"', ["bob"]),
        ('externalId eq "X-BOB"', []),
        ('userName sw "b" and active eq true', ["bob"]),
        ('not (userName sw "b")', ["anna", "root"]),
        ('title pr', ["anna"]),
        ('not (title pr)', ["bob", "root"]),
        ('title eq null and userName ne "root"', ["bob"]),
        ('emails[type eq "work" and value ew "@example.com"]', ["anna", "bob", "root"]),
        ('emails.value co "ANNA" or userName eq "bob"', ["anna", "bob"]),
        ('groups.display eq "staff"', ["anna"]),
        ('roles.value eq "admin"', ["root"]),
        ('meta.created gt "2020-01-01T00:00:00Z"', ["anna", "bob", "root"]),
        ('meta.lastModified lt "2020-01-01T00:00:00Z"', []),
        ('active eq "False"', []),
        ('urn:ietf:params:scim:schemas:core:2.0:User:userName eq "anna"', ["anna"]),
        ('userName eq "\' OR 1=1 --"', []),
        ('userName co "%"', []),
        ('userName eq "a" or userName eq "b" and userName eq "c"', []),
    ],
)  # fmt: skip
async def test_filters(scim: Client, filter: str, names: list[str]) -> None:
    anna = await scim.user("anna", externalId="x-anna", title="Head")
    await scim.user("bob", externalId="x-bob")
    await scim("POST", GROUPS, {"displayName": "staff", "members": [{"value": anna["id"]}]}, status=201)
    assert await scim.found(USERS, filter) == names


@pytest.mark.parametrize(
    "query",
    [
        "filter=nonsense",
        "filter=userName%20eq",
        "filter=secret%20eq%20%22x%22",
        "filter=password_hash%20pr",
        "filter=active%20gt%20true",
        "filter=meta.created%20gt%20%22now%22",
        "filter=urn:other:userName%20eq%20%22x%22",
        "sortBy=password_hash",
        "sortOrder=sideways",
        "startIndex=x",
        "count=1e9",
        "attributes=" + ",".join("a" * 101),
        "attributes=a[b",
    ],
)
async def test_queries_that_mean_nothing_are_refused(scim: Client, query: str) -> None:
    answer = await scim("GET", f"{USERS}?{query}", status=400)
    assert answer.json()["scimType"] in ("invalidFilter", "invalidPath", "invalidValue", "tooMany")


async def test_pages_orders_and_chosen_attributes(scim: Client) -> None:
    for name in ("anna", "bob", "cleo"):
        await scim.user(name, title=name[::-1])
    page = (await scim("GET", f"{USERS}?startIndex=2&count=2&sortBy=userName&sortOrder=descending")).json()
    assert (page["totalResults"], page["startIndex"], page["itemsPerPage"]) == (4, 2, 2)
    assert [each["userName"] for each in page["Resources"]] == ["cleo", "bob"]
    none = (await scim("GET", f"{USERS}?count=0")).json()
    assert (none["totalResults"], none["Resources"]) == (4, [])
    chosen = (await scim("GET", f"{USERS}?attributes=userName,name.givenName&filter=userName%20eq%20%22bob%22")).json()
    assert chosen["Resources"][0].keys() == {"schemas", "id", "userName", "name"}
    assert chosen["Resources"][0]["name"] == {"givenName": "Jane"}
    cut = (await scim("GET", f"{USERS}?excludedAttributes=name,emails,id&count=1")).json()["Resources"][0]
    assert "name" not in cut and "emails" not in cut and "id" in cut


async def test_what_is_taken_is_taken(scim: Client) -> None:
    await scim.user("jane")
    for body in ({**JANE, "userName": "JANE", "emails": []}, {**JANE, "userName": "other",
                 "emails": [{"value": "Jane@example.com"}]}):  # fmt: skip
        told = (await scim("POST", USERS, body, status=409)).json()
        assert told["scimType"] == "uniqueness"


async def test_groups_and_their_members(house: House, scim: Client) -> None:
    anna, bob = await scim.user("anna"), await scim.user("bob")
    made = (await scim("POST", GROUPS, {"displayName": "staff", "externalId": "g-1",
                                        "members": [{"value": anna["id"]}]}, status=201)).json()  # fmt: skip
    assert [each["display"] for each in made["members"]] == ["anna"]
    add = {"op": "Add", "path": "members", "value": [{"value": bob["id"]}]}
    after = await scim.patch(made, add)
    assert [each["display"] for each in after["members"]] == ["anna", "bob"]
    assert after["meta"]["version"] != made["meta"]["version"]
    after = await scim.patch(made, {"op": "remove", "path": f'members[value eq "{anna["id"]}"]'})
    assert [each["display"] for each in after["members"]] == ["bob"]
    after = await scim.patch(made, {"op": "Remove", "path": "members", "value": [{"value": bob["id"]}]}, add)
    assert [each["display"] for each in after["members"]] == ["bob"]
    after = await scim.patch(made, {"op": "replace", "value": {"id": made["id"], "displayName": "Staff 2"}})
    assert after["displayName"] == "Staff 2"
    after = await scim.patch(made, {"op": "replace", "path": "members", "value": [{"value": anna["id"]}]})
    assert [each["display"] for each in after["members"]] == ["anna"]
    assert [group["display"] for group in (await scim("GET", f"{USERS}/{anna['id']}")).json()["groups"]] == ["Staff 2"]
    url = f"{GROUPS}/{made['id']}"
    assert "members" not in (await scim("GET", f"{url}?excludedAttributes=members")).json()
    assert await scim.found(GROUPS, f'members.value eq "{anna["id"]}"') == ["Staff 2"]
    put = (await scim("PUT", url, {"displayName": "Staff 3"}, status=200)).json()
    assert "members" not in put and "externalId" not in put
    await scim.patch(made, {"op": "add", "path": "members", "value": [{"value": "nobody"}]}, status=400)
    await scim("DELETE", url, status=204)
    assert (await scim("GET", url)).status == 404
    assert (await scim("GET", f"{GROUPS}/Staff%203")).status in (400, 404)


# ---------------------------------------------------------------------- under the same permission table


async def test_a_key_without_users_write_makes_nobody_more_than_a_viewer(house: House, scim: Client) -> None:
    for role in ("admin", "operator", "auditor"):
        told = (await scim("POST", USERS, {**JANE, "roles": [{"value": role}]}, status=403)).json()
        assert told["reason"] == "permission_denied"
    jane = await scim.user()
    await scim.patch(jane, {"op": "add", "path": "roles", "value": [{"value": "admin"}]}, status=403)
    await scim("PUT", f"{USERS}/{jane['id']}", {**JANE, "roles": ["operator"]}, status=403)
    # nor by way of a group that gives a role
    group = await house.groups.create(_context(), "ops", role="operator")
    add = {"op": "add", "path": "members", "value": [{"value": jane["id"]}]}
    resource = (await scim("GET", f"{GROUPS}/{group.id}")).json()
    await scim.patch(resource, add, status=403)
    await scim("PUT", f"{GROUPS}/{group.id}", {"displayName": "ops", "members": [{"value": jane["id"]}]}, status=403)
    assert await house.value("SELECT role FROM users WHERE username = 'jane@example.com'") == "viewer"
    # with both permissions the same is done
    both = Client(house, scim.token, BOTH)
    await both.patch(resource, add)
    assert await house.value("SELECT role FROM users WHERE username = 'jane@example.com'") == "operator"


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "emails", "value": [{"value": "thief@example.com"}]},
        {"op": "replace", "path": "externalId", "value": "thief"},
        {"op": "replace", "path": "active", "value": True},
    ],
    ids=["address", "external id", "enabling"],
)
async def test_a_key_without_users_write_opens_no_way_into_a_powerful_account(
    house: House, scim: Client, operation: dict[str, Any]
) -> None:
    await house.user("olga", "operator")
    if operation["path"] == "active":
        people = {each["userName"]: each for each in (await scim("GET", USERS)).json()["Resources"]}
        await scim.patch(people["olga"], {"op": "replace", "path": "active", "value": False})
    found = (await scim("GET", f"{USERS}?filter=userName%20eq%20%22olga%22")).json()["Resources"][0]
    await scim.patch(found, operation, status=403)
    assert await house.value("SELECT email FROM users WHERE username = 'olga'") == "olga@example.com"
    await Client(house, scim.token, BOTH).patch(found, operation)


async def test_but_it_may_put_anybody_out_save_the_last_administrator(house: House, scim: Client) -> None:
    await house.user("olga", "operator")
    people = {each["userName"]: each for each in (await scim("GET", USERS)).json()["Resources"]}
    assert (await scim.patch(people["olga"], {"op": "replace", "value": {"active": False}}))["active"] is False
    await scim.patch(people["root"], {"op": "replace", "value": {"active": False}}, status=409)
    await scim("DELETE", f"{USERS}/{people['root']['id']}", status=409)


async def test_without_scim_write_nothing_of_it_opens(house: House, scim: Client) -> None:
    other = Client(house, scim.token, {"x-test-permissions": "users:write users:read"})
    olga = Client(house, await house.signed_in("olga", "operator"), KEY)
    for client in (other, olga):
        for method, path in (("GET", USERS), ("POST", USERS), ("GET", GROUPS), ("GET", "/scim/v2/Schemas")):
            assert (await client(method, path, JANE if method == "POST" else None)).status == 403
    assert (await house.call("GET", USERS)).status == 401


async def test_secrets_are_neither_shown_nor_taken(scim: Client) -> None:
    made = await scim.user("jane", password="planted password")
    assert "password" not in json.dumps(made)
    assert "password" not in (await scim("GET", USERS)).body.decode()


# ---------------------------------------------------------------------- discovery, bad input


async def test_discovery_says_what_is_there(scim: Client) -> None:
    config = (await scim("GET", "/scim/v2/ServiceProviderConfig", status=200)).json()
    assert config["bulk"]["supported"] is False and config["patch"]["supported"] and config["etag"]["supported"]
    types = (await scim("GET", "/scim/v2/ResourceTypes", status=200)).json()["Resources"]
    assert [each["endpoint"] for each in types] == ["/Users", "/Groups"]
    schemas = (await scim("GET", "/scim/v2/Schemas", status=200)).json()["Resources"]
    for path in ("ResourceTypes/User", f"Schemas/{schemas[0]['id']}"):
        assert (await scim("GET", f"/scim/v2/{path}")).status == 200
    assert (await scim("GET", "/scim/v2/Schemas/urn:none")).status == 404
    assert (await scim("GET", "/scim/v2/Schemas?filter=id%20pr")).status == 403
    # every attribute that is kept is declared, and every one declared is answered
    declared = {attribute["name"] for attribute in schemas[0]["attributes"]}
    anna = await scim.user("anna", title="Head")
    await scim("POST", GROUPS, {"displayName": "staff", "members": [{"value": anna["id"]}]}, status=201)
    shown = (await scim("GET", f"{USERS}/{anna['id']}")).json()
    assert shown.keys() - {"schemas", "id", "externalId", "meta"} == declared


@pytest.mark.parametrize(
    "raw",
    [b"", b"nonsense", b"[]", b"null", b"{}", b"[" * 100_000, b'{"userName": 1}', b'{"userName": "\xff"}',
     b'{"userName": "a", "name": 3}', b'{"userName": "a", "emails": {"value": 7}}', b'{"userName": "a", "active": 2}',
     b'{"userName": "a", "roles": {"value": ["x"]}}', b'{"userName": "a/../b"}',
     b'{"userName": "a", "externalId": "\\u0000"}', b'{"userName": "a", "externalId": "\\ud800"}',
     b'{"userName": "a", "title": 1e999}'],
)  # fmt: skip
async def test_bodies_that_are_none_are_told_so(house: House, scim: Client, raw: bytes) -> None:
    headers = {**KEY, "content-type": "application/scim+json"}
    answer = await house.call("POST", USERS, raw=raw, token=scim.token, headers=headers)
    assert answer.status == 400 and answer.json()["scimType"] in ("invalidSyntax", "invalidValue")
    made = await scim.user()
    for method in ("PUT", "PATCH"):
        answer = await house.call(method, f"{USERS}/{made['id']}", raw=raw, token=scim.token, headers=headers)
        assert answer.status == 400, (method, answer.body)


def _context() -> Any:
    from bailiwick.evidence.events import Actor, Context

    return Context("default", Actor(user="root"))
