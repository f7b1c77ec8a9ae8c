"""What OpenID providers are configured by and what they say, judged without one: presets, addresses, hostile input."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey
from pydantic import ValidationError

from bailiwick.identity.login.oidc_options import OidcOptions, claim, claimed, may_return_to, username_of
from bailiwick.identity.login.oidc_tokens import (
    Expected,
    ProviderFault,
    checked_url,
    parse_keys,
    parse_metadata,
    verify_id_token,
    verify_logout_token,
)

_TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"
_ISSUER = "https://login.example.com"
_KEYS = parse_keys({"keys": [ECKey.generate_key("P-256", {"kid": "one"}).as_dict(private=False)]})
_EXPECTED = Expected(_ISSUER, "client", ("ES256",), 1_000_000.0, "nonce")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def options(**given: Any) -> OidcOptions:
    return OidcOptions.model_validate({"issuer": _ISSUER, "client_id": "client", **given})


GOOD: list[dict[str, Any]] = [
    {"preset": "entra", "issuer": f"https://login.microsoftonline.com/{_TENANT}/v2.0"},
    {"preset": "google", "issuer": "https://accounts.google.com", "require": {"hd": "example.com"}},
    {"preset": "okta", "issuer": "https://acme.okta.com"},
    {"preset": "keycloak", "issuer": "https://login.example.com/realms/corp"},
    {"issuer": "http://127.0.0.1:3000"},
]
BAD: list[dict[str, Any]] = [
    {"preset": "entra", "issuer": "https://login.microsoftonline.com/common/v2.0"},
    {"preset": "entra", "issuer": "https://login.microsoftonline.com/organizations/v2.0"},
    {"preset": "entra", "issuer": f"https://evil.example/login.microsoftonline.com/{_TENANT}/v2.0"},
    {"preset": "google", "issuer": "https://accounts.google.com"},
    {"preset": "google", "issuer": "https://accounts.google.com.evil.example", "require": {"hd": "example.com"}},
    {"issuer": "http://login.example.com"},
    {"issuer": "https://login.example.com?x=1"},
    {"issuer": "https://user@login.example.com"},
    {"issuer": "https://login.example.com/#x"},
    {"algorithms": ["none"]},
    {"algorithms": ["HS256"]},
    {"algorithms": []},
    {"return_to": ["https://console.example.com/path"]},
    {"return_to": ["*"]},
    {"after_logout": "javascript:alert(1)"},
    {"roles": {"ops": "owner"}},
    {"unknown": 1},
]


@pytest.mark.parametrize("given", GOOD)
def test_the_presets_fit_their_providers(given: dict[str, Any]) -> None:
    assert options(**given).asked_scopes.split()[0] == "openid"


@pytest.mark.parametrize("given", BAD)
def test_what_would_let_others_in_is_refused_when_it_is_configured(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        options(**given)


def test_a_claim_is_found_by_its_name_before_its_path() -> None:
    said = {"realm_access": {"roles": ["a"]}, "https://example.com/groups": ["b"], "x.y": 1, "x": {"y": 2}}
    assert claim(said, "realm_access.roles") == ["a"]
    assert claim(said, "https://example.com/groups") == ["b"]
    assert claim(said, "x.y") == 1
    assert claim(said, "realm_access.roles.more") is None


@pytest.mark.parametrize(
    ("said", "name"),
    [("jane.doe", "jane.doe"), (" Jäne Doe ", "J-ne-Doe"), ("jane@example.com", "jane@example.com"), ("../etc", "etc")],
)
def test_a_user_name_is_made_of_what_is_said(said: str, name: str) -> None:
    assert username_of(said) == name


@given(JSON)
def test_a_user_name_has_no_odd_characters(said: Any) -> None:
    name = username_of(said)
    assert name == "" or (name.isascii() and name[0].isalnum() and not set(name) & set(" /\\<>\"'\n\0"))


@given(st.text(max_size=40) | st.text(alphabet="/\\@:.?#%\t\nabhtps", max_size=20))
def test_a_browser_is_sent_nowhere_else(place: str) -> None:
    """However a browser reads what is let through, it stays here or goes to the origin that is listed."""
    if may_return_to(place, ["https://console.example.com"]):
        read = urlsplit(urljoin("https://bailiwick.example.com/api/", place.replace("\\", "/")))
        assert (read.scheme, read.netloc) in {("https", "bailiwick.example.com"), ("https", "console.example.com")}


@given(JSON)
def test_documents_of_any_shape_are_refused_and_nothing_else_happens(document: Any) -> None:
    with pytest.raises(ProviderFault):
        parse_metadata(document, _ISSUER)
    with pytest.raises(ProviderFault):
        parse_keys({"keys": document})


@given(st.dictionaries(st.sampled_from(["kty", "crv", "n", "e", "x", "y", "kid", "use", "alg", "key_ops"]), JSON))
def test_keys_of_any_shape_are_left_out(jwk: dict[str, Any]) -> None:
    good = {"kty": "EC", "crv": "P-256"}
    for each in (jwk, {**jwk, **good}, {**jwk, "kty": "RSA"}, {**jwk, "kty": "OKP", "crv": "Ed25519"}):
        with pytest.raises(ProviderFault):
            parse_keys({"keys": [each]})


def segment(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@given(st.text() | st.builds(lambda head, body: f"{segment(head)}.{segment(body)}.AAAA", JSON, JSON))
def test_tokens_of_any_shape_are_refused(token: str) -> None:
    for verify in (verify_id_token, verify_logout_token):
        with pytest.raises(ProviderFault):
            verify(token, _KEYS, _EXPECTED)


@given(st.dictionaries(st.sampled_from(["sub", "email", "groups", "amr", "acr", "sid", "name", "_claim_names"]), JSON))
def test_claims_of_any_shape_give_nobody_a_role(said: dict[str, Any]) -> None:
    try:
        person = claimed(options(roles={"ops": "admin"}), said)
    except ProviderFault:
        return
    assert person.role == ("admin" if "ops" in person.groups else "none")
    assert "mfa" not in person.amr and person.email == ""


@given(st.text(max_size=30))
def test_an_address_is_https_or_near(text: str) -> None:
    for given_ in (text, f"https://{text}", f"http://{text}"):
        try:
            read = urlsplit(checked_url(given_, "it"))
        except ProviderFault:
            continue
        assert read.scheme == "https" or read.hostname in {"127.0.0.1", "::1", "localhost"}
