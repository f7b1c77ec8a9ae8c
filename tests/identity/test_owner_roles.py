"""The owner roles by every way in which a role is given: accounts, groups, SCIM, directories and providers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bailiwick.evidence.events import Context
from bailiwick.identity.directories import LdapOptions
from bailiwick.identity.holders import holders
from bailiwick.identity.loader import load_users
from bailiwick.identity.provisioning import Arrival, provision
from bailiwick.identity.standing import RANKS, highest
from bailiwick.kernel.http import Caller
from bailiwick.kernel.permissions import OWNER_ROLES, Permission, Role
from people_fixtures import House

ADMIN = {"x-test-permissions": "scim:write users:write users:read"}
SCIM_ONLY = {"x-test-permissions": "scim:write users:read"}


@pytest.mark.parametrize("role", OWNER_ROLES)
async def test_an_owner_is_made_by_account_and_by_group(house: House, role: str) -> None:
    root = await house.signed_in("root")
    jane = {"username": "jane", "email": "jane@corp.net", "role": role}
    assert (await house.call("POST", "/api/v1/users", jane, token=root)).json()["role"] == role
    await house.user("joe", "viewer")
    group = {"name": "owners", "role": role, "members": ["joe"]}
    assert (await house.call("POST", "/api/v1/groups", group, token=root)).status == 201
    assert (await house.call("GET", "/api/v1/users/joe", token=root)).json()["role"] == role
    application = {"name": "agent", "role": role}
    assert (await house.call("POST", "/api/v1/applications", application, token=root)).status == 400


async def test_scim_gives_an_owner_role_only_with_the_permission_to_widen(house: House) -> None:
    root = await house.signed_in("root")
    jane = {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "userName": "jane",
        "emails": [{"value": "jane@corp.net"}],
        "roles": [{"value": "security_owner"}],
    }
    assert (await house.call("POST", "/scim/v2/Users", jane, token=root, headers=SCIM_ONLY)).status == 403
    made = await house.call("POST", "/scim/v2/Users", jane, token=root, headers=ADMIN)
    assert made.status == 201, made.body
    where = f"/scim/v2/Users/{made.json()['id']}"
    # from one plane to another gives what the one before did not have, whichever ranks higher
    for role, status in (("finance_owner", 403), ("ops_owner", 403), ("auditor", 200), ("finance_owner", 403)):
        changed = {**jane, "roles": [{"value": role}]}
        assert (await house.call("PUT", where, changed, token=root, headers=SCIM_ONLY)).status == status, role


def test_directories_and_providers_map_to_owner_roles() -> None:
    options = LdapOptions.model_validate(
        {
            "urls": ["ldaps://dc1.corp.net"],
            "base_dn": "dc=corp,dc=net",
            "roles": {f"cn={role},dc=corp,dc=net": role for role in OWNER_ROLES},
        }
    )
    assert set(options.role_of_group().values()) == set(OWNER_ROLES) <= set(RANKS)
    assert highest({"viewer", "product_owner", "security_owner"}) == "security_owner"
    assert highest(["operator", "finance_owner"]) == "operator"


async def owns(house: House, name: str) -> tuple[str, list[str]]:
    user = (await house.call("GET", f"/api/v1/users/{name}", token=await house.signed_in("root"))).json()
    return user["role"], user["owns"]


async def test_planes_add_up_whichever_role_ranks_higher(house: House) -> None:
    await house.user("joe", "operator")
    root = await house.signed_in("root")
    for name, role in (("finance", "finance_owner"), ("product", "product_owner"), ("ops", "ops_owner")):
        group = {"name": name, "role": role, "members": ["joe"]}
        assert (await house.call("POST", "/api/v1/groups", group, token=root)).status == 201
    assert await owns(house, "joe") == ("ops_owner", ["finance_owner", "product_owner"])
    assert ("user", "joe") in await house.feed()
    async with house.database.begin() as tx:
        joe = (await load_users(tx, "default", "joe"))["joe"]
        assert await holders(tx, "default", [Role.FINANCE_OWNER]) == ["joe"]
    caller = Caller("default", "joe", joe.role, "s", owns=joe.owns)
    assert caller.may(Permission.OVERRIDES_APPROVE)  # which owning operations does not give
    assert not caller.may(Permission.WAIVERS_APPROVE)
    # a group that gives no higher role is left, and what it gave is gone before that is answered
    settled = len(house.authority.settled)
    assert (await house.call("DELETE", "/api/v1/groups/finance/members/joe", token=root)).status in (200, 204)
    assert await owns(house, "joe") == ("ops_owner", ["product_owner"])
    assert len(house.authority.settled) == settled + 1
    assert (await house.call("DELETE", "/api/v1/groups/ops", token=root)).status == 204
    assert await owns(house, "joe") == ("operator", ["product_owner"])


async def test_a_plane_by_group_widens_and_takes_the_permission_for_it(house: House) -> None:
    await house.user("joe", "operator")
    root = await house.signed_in("root")
    group = {"name": "finance", "role": "finance_owner"}
    assert (await house.call("POST", "/api/v1/groups", group, token=root)).status == 201
    scim = await house.call("GET", "/scim/v2/Groups", token=root, headers=ADMIN)
    where = f"/scim/v2/Groups/{scim.json()['Resources'][0]['id']}"
    users = await house.call("GET", "/scim/v2/Users?filter=userName%20eq%20%22joe%22", token=root, headers=ADMIN)
    joe = users.json()["Resources"][0]["id"]
    join = {"Operations": [{"op": "add", "path": "members", "value": [{"value": joe}]}]}
    # his role stays operator, which ranks higher: the plane is more than he had all the same
    assert (await house.call("PATCH", where, join, token=root, headers=SCIM_ONLY)).status == 403
    assert await owns(house, "joe") == ("operator", [])
    assert (await house.call("PATCH", where, join, token=root, headers=ADMIN)).status in (200, 204)
    assert await owns(house, "joe") == ("operator", ["finance_owner"])


async def test_the_group_of_a_directory_or_provider_gives_its_plane(house: House) -> None:
    """Nested groups come resolved from the directory (tests/identity/test_login_ldap.py); by name they are met here."""
    root = await house.signed_in("root")
    group = {"name": "Treasury", "role": "finance_owner", "external_id": "cn=treasury,dc=corp,dc=net"}
    assert (await house.call("POST", "/api/v1/groups", group, token=root)).status == 201
    arrival = Arrival(
        "corp", "u-1", "joe", "joe@corp.net", "Joe", role="operator", groups=("cn=treasury,dc=corp,dc=net",)
    )
    async with house.database.begin() as tx:
        await provision(tx, Context("default"), arrival, now=house.clock.now(), ids=house.ids, recorder=house.recorder)
    assert await owns(house, "joe") == ("operator", ["finance_owner"])
    async with house.database.begin() as tx:
        left = replace(arrival, groups=())
        done = await provision(
            tx, Context("default"), left, now=house.clock.now(), ids=house.ids, recorder=house.recorder
        )
    assert await owns(house, "joe") == ("operator", []) and done.revision is not None
