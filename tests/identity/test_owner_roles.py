"""The owner roles by every way in which a role is given: accounts, groups, SCIM, directories and providers."""

from __future__ import annotations

import pytest

from bailiwick.identity.directories import LdapOptions
from bailiwick.identity.standing import RANKS, highest
from bailiwick.kernel.permissions import OWNER_ROLES
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
