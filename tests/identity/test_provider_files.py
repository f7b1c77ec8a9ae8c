"""Providers from a file: what it means, how it differs from what is there, and that twice changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.evidence.events import Actor, Context
from bailiwick.identity.provider_files import Difference, Source, compare, draft_of
from bailiwick.kernel.errors import BailiwickError, InvalidRequest
from bailiwick.kernel.rfc7396 import difference, merge
from people_fixtures import House

SECRETS = {("env", "WORD"): "first", ("file", "word"): "second", ("file", "ca.pem"): "-----BEGIN CERTIFICATE-----"}
OPTIONS = {"urls": ["ldaps://dc1.example.com"], "bind_dn": "cn=reader,dc=example", "base_dn": "dc=example"}
SPEC: dict[str, Any] = {"type": "ldap", "options": OPTIONS, "secrets": {"bind_password": {"env": "WORD"}}}
HERE = Context("default", Actor(user="os:root"))


def read(source: Source, name: str) -> str:
    try:
        return SECRETS[source, name]
    except KeyError:
        raise InvalidRequest(f"There is no {name}.") from None


async def apply(house: House, spec: dict[str, Any], name: str = "corp") -> Difference:
    """What the command does with one document."""
    found = compare(draft_of(name, spec, read), *await house.providers.known("default", name))
    if found.what == "create":
        await house.providers.create(HERE, found.draft)
    elif found.what == "change":
        await house.providers.change(HERE, name, found.patch)
    return found


async def secrets(house: House) -> dict[str, str]:
    return house.providers.secrets(await house.providers.get("default", "corp"))


async def test_a_file_makes_a_provider_and_twice_changes_nothing(house: House) -> None:
    assert (await apply(house, SPEC)).what == "create"
    made = await house.providers.get("default", "corp")
    assert made.kind == "ldap" and made.enabled and await secrets(house) == {"bind_password": "first"}
    assert (await apply(house, SPEC)).what == "same"
    assert (await house.providers.get("default", "corp")).version == made.version
    assert [event.name for event in await house.events()] == ["idp.created"]


async def test_what_is_not_named_any_more_falls_back(house: House) -> None:
    roles = {"cn=ops,dc=example": "operator", "cn=all,dc=example": "viewer"}
    await apply(house, {**SPEC, "options": {**OPTIONS, "roles": roles, "timeout_s": 9, "group_base_dn": "ou=groups"}})
    found = await apply(house, {**SPEC, "options": {**OPTIONS, "roles": {"cn=ops,dc=example": "admin"}}})
    assert found.patch["options"] == {
        "roles": {"cn=all,dc=example": None, "cn=ops,dc=example": "admin"}, "timeout_s": 5, "group_base_dn": None,
    }  # fmt: skip
    now = await house.providers.get("default", "corp")
    assert now.options["roles"] == {"cn=ops,dc=example": "admin"} and now.options["timeout_s"] == 5
    assert (
        await apply(house, {**SPEC, "options": {**OPTIONS, "roles": {"cn=ops,dc=example": "admin"}}})
    ).what == "same"


async def test_secrets_come_by_reference_and_are_told_by_name_alone(house: House) -> None:
    await apply(house, SPEC)
    found = await apply(house, {**SPEC, "enabled": False, "secrets": {"bind_password": {"file": "word"}}})
    assert found.document()["changes"] == {"enabled": False, "secrets": ["bind_password"]}
    assert "second" not in str(found.document())
    assert await secrets(house) == {"bind_password": "second"}
    # one that is not named stays, and null removes
    assert (await apply(house, {**SPEC, "enabled": False, "secrets": {}})).what == "same"
    await apply(house, {**SPEC, "enabled": False, "secrets": {"bind_password": None}})
    assert await secrets(house) == {}


async def test_another_address_needs_the_secrets_in_the_file(house: House) -> None:
    await apply(house, SPEC)
    elsewhere = {**SPEC, "options": {**OPTIONS, "urls": ["ldaps://dc2.example.com"]}}
    with pytest.raises(BailiwickError, match="anew"):
        await apply(house, {**elsewhere, "secrets": {}})
    assert (await apply(house, elsewhere)).what == "change"


async def test_a_kind_does_not_change(house: House) -> None:
    await apply(house, SPEC)
    options = {"issuer": "https://id.example.com", "client_id": "bailiwick"}
    with pytest.raises(BailiwickError, match="is of the kind ldap"):
        await apply(house, {"type": "oidc", "options": options})


async def test_long_options_may_lie_in_files(house: House) -> None:
    draft = draft_of("corp", {**SPEC, "options": {**OPTIONS, "ca": {"file": "ca.pem"}}}, read)
    assert draft.options["ca"] == "-----BEGIN CERTIFICATE-----"


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {**SPEC, "type": "kerberos"},
        {**SPEC, "type": ["ldap"]},
        {**SPEC, "enabled": "yes"},
        {**SPEC, "options": None},
        {**SPEC, "options": {**OPTIONS, "base_dm": "x"}},
        {**SPEC, "options": {**OPTIONS, 1: "x"}},
        {**SPEC, "secrets": {"bind_password": "written down"}},
        {**SPEC, "secrets": {"bind_password": {"env": "MISSING"}}},
        {**SPEC, "secrets": {"bind_password": {"vault": "x"}}},
        {**SPEC, "secrets": {"bind_password": {"env": "WORD", "file": "word"}}},
        {**SPEC, "secrets": {"client_secret": {"env": "WORD"}}},
        {**SPEC, "extra": 1},
    ],
)
def test_what_is_wrong_is_said_and_no_value_told(spec: dict[str, Any]) -> None:
    with pytest.raises(BailiwickError) as raised:
        draft_of("corp", spec, read)
    assert raised.value.status == 400
    assert "written down" not in raised.value.detail and "first" not in raised.value.detail


def test_a_name_is_a_name() -> None:
    with pytest.raises(BailiwickError):
        draft_of("../corp", SPEC, read)


_LEAF = st.one_of(st.integers(), st.text(max_size=3), st.booleans(), st.lists(st.integers(), max_size=2))
_OBJECT = st.recursive(_LEAF, lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=4), max_leaves=12)


@given(st.dictionaries(st.sampled_from("abcd"), _OBJECT), st.dictionaries(st.sampled_from("abcd"), _OBJECT))
def test_the_difference_leads_from_one_to_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    patch = difference(before, after)
    assert merge(before, patch) == after
    assert (patch == {}) == (before == after)
