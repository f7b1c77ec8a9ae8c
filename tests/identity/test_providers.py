"""Identity providers as they are kept: changed by whoever may, their secrets sealed to where they are sent."""

from __future__ import annotations

from typing import Any

import pytest

from bailiwick.identity.directories import normal_dn
from bailiwick.identity.providers import unseal
from bailiwick.kernel.crypto import SealError
from people_fixtures import House

PATH = "/api/v1/identity-providers"
CORP: dict[str, Any] = {
    "name": "corp",
    "kind": "ldap",
    "options": {
        "urls": ["ldaps://dc1.example.com"],
        "bind_dn": "cn=reader,dc=example,dc=com",
        "base_dn": "dc=example,dc=com",
    },
    "secrets": {"bind_password": "reader's secret"},
}


async def test_a_provider_is_made_shown_changed_and_removed(house: House) -> None:
    token = await house.signed_in("root")
    made = await house.call("POST", PATH, CORP, token=token)
    assert made.status == 201, made
    assert made.json()["options"]["urls"] == ["ldaps://dc1.example.com:636"]
    assert b"reader's secret" not in made.body
    assert (await house.call("POST", PATH, CORP, token=token)).json()["reason"] == "already_exists"
    patch = {"enabled": False, "options": {"base_dn": "ou=people,dc=example,dc=com"}}
    stale = await house.call("PATCH", f"{PATH}/corp", patch, token=token, headers={"if-match": '"9"'})
    assert stale.status == 412
    changed = await house.call("PATCH", f"{PATH}/corp", patch, token=token)
    assert (changed.json()["enabled"], changed.json()["version"]) == (False, 2)
    shown = (await house.call("GET", f"{PATH}/corp", token=token)).json()
    assert shown["options"]["base_dn"] == "ou=people,dc=example,dc=com"
    assert shown["options"]["user_filter"] == "(uid={username})"
    assert [each["name"] for each in (await house.call("GET", PATH, token=token)).json()["items"]] == ["corp"]
    assert house.providers.secrets(await house.providers.get("default", "corp")) == {"bind_password": "reader's secret"}
    assert (await house.call("DELETE", f"{PATH}/corp", token=token)).status == 204
    assert (await house.call("GET", f"{PATH}/corp", token=token)).status == 404
    told = [(event.code, event.details) for event in await house.events() if event.code.startswith("BW14")]
    assert told == [
        ("BW1401", {"kind": "ldap", "enabled": True}),
        ("BW1402", {"kind": "ldap", "enabled": False, "changed": ["enabled", "options"]}),
        ("BW1403", {"kind": "ldap", "enabled": False}),
    ]


async def test_only_administrators_change_providers(house: House) -> None:
    await house.call("POST", PATH, CORP, token=await house.signed_in("root"))
    for role, reads in (("operator", 200), ("auditor", 200), ("viewer", 403)):
        token = await house.signed_in(role, role)
        assert (await house.call("GET", PATH, token=token)).status == reads
        for method, path in (("POST", PATH), ("PATCH", f"{PATH}/corp"), ("DELETE", f"{PATH}/corp")):
            body = CORP if method == "POST" else {} if method == "PATCH" else None
            assert (await house.call(method, path, body, token=token)).status == 403


@pytest.mark.parametrize(
    "moved", [{"urls": ["ldaps://evil.example.com"]}, {"ca": "another"}, {"bind_dn": "cn=other,dc=example,dc=com"}]
)
async def test_a_provider_that_is_led_elsewhere_needs_its_secrets_anew(house: House, moved: dict[str, Any]) -> None:
    token = await house.signed_in("root")
    await house.call("POST", PATH, CORP, token=token)
    refused = await house.call("PATCH", f"{PATH}/corp", {"options": moved}, token=token)
    assert (refused.status, refused.json()["reason"]) == (400, "invalid_request")
    patch = {"options": moved, "secrets": {"bind_password": "new"}}
    assert (await house.call("PATCH", f"{PATH}/corp", patch, token=token)).status == 200
    assert house.providers.secrets(await house.providers.get("default", "corp")) == {"bind_password": "new"}


async def test_an_address_altered_in_the_database_gets_no_secret(house: House) -> None:
    await house.call("POST", PATH, CORP, token=await house.signed_in("root"))
    async with house.database.begin() as tx:
        await tx.run(
            "UPDATE identity_providers SET options = jsonb_set(options, '{urls}', '[\"ldaps://evil.example.com:636\"]')"
        )
    with pytest.raises(SealError):
        unseal(house.sealer, await house.providers.get("default", "corp"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"urls": []},
        {"urls": ["http://dc1.example.com"]},
        {"urls": ["ldap://user:word@dc1.example.com"]},
        {"urls": ["ldap://dc1.example.com/dc=example"]},
        {"urls": ["ldap://dc1.example.com:99999"]},
        {"urls": ["ldapi:///run/slapd"]},
        {"user_filter": "(uid=jane)"},
        {"user_filter": "(uid={username}"},
        {"user_filter": "(uid={username})(x={other})"},
        {"username_attribute": "uid)(objectClass=*"},
        {"roles": {"cn=x,dc=y": "root"}},
        {"base_dn": "a\x00b"},
        {"unknown": 1},
    ],
)
async def test_options_that_cannot_be_meant_are_refused(house: House, wrong: dict[str, Any]) -> None:
    body = {**CORP, "options": {**CORP["options"], **wrong}}
    token = await house.signed_in("root")
    assert (await house.call("POST", PATH, body, token=token)).status in (400, 422)
    await house.call("POST", PATH, CORP, token=token)
    if "urls" not in wrong:
        assert (await house.call("PATCH", f"{PATH}/corp", {"options": wrong}, token=token)).status == 400


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("CN=Ops, OU=Groups,DC=example,DC=com", "cn=ops,ou=groups,dc=example,dc=com", True),
        (r"cn=a\, b,dc=x", r"cn=a\2c b,dc=x", True),
        (r"cn=a\\,dc=x", r"cn=a\5C,dc=x", True),
        ("cn=Ж,dc=x", r"cn=\d0\96,dc=x", True),
        ("cn=a+uid=b,dc=x", "uid=b+cn=a,dc=x", True),
        (r"cn=a\,dc=x", "cn=a,dc=x", False),
        ("cn=a,dc=x", "cn=a,dc=x,dc=x", False),
        ("cn=a,dc=x,", "cn=a,dc=x", False),
        (r"cn=a\+uid=b,dc=x", "cn=a+uid=b,dc=x", False),
    ],
)
def test_two_spellings_of_a_dn(one: str, other: str, same: bool) -> None:
    assert (normal_dn(one) == normal_dn(other)) is same
