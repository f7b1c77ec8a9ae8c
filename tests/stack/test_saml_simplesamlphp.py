"""The whole program and a provider that others made: SimpleSAMLphp signs people in, and out, by what SAML says."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from rig import Got, Stack, call, installation

sys.path.append(str(Path(__file__).parent.parent))

from simplesamlphp import Browser, SimpleSamlPhp, simplesamlphp

PROVIDERS = "/api/v1/identity-providers"
AUTH = "/api/v1/auth/saml/campus"
ADA = ("ada", "analytical")


@pytest.fixture(scope="module")
def idp() -> Iterator[SimpleSamlPhp]:
    with simplesamlphp() as made:
        yield made


@pytest.fixture(scope="module")
def stack(idp: SimpleSamlPhp) -> Iterator[Stack]:
    with installation(WORKERS="2") as made:
        made.govern("pay")
        options = {"metadata": idp.metadata, "roles": {"ops": "operator"}, "username_attribute": "uid"}
        connected = made.admin("POST", PROVIDERS, {"name": "campus", "kind": "saml", "options": options})
        assert connected.status == 201, connected
        trust(made, idp)
        yield made


def trust(stack: Stack, idp: SimpleSamlPhp, **how: Any) -> None:
    idp.trust(call("GET", f"{stack.api}{AUTH}/metadata").text, **how)


def sign_in(stack: Stack, idp: SimpleSamlPhp, browser: Browser, who: tuple[str, str] = ADA) -> Got:
    sent = call("GET", f"{stack.api}{AUTH}/login")
    assert sent.status == 302, sent
    action, fields = idp.sign_in(browser, sent.headers["location"], *who)
    assert action == f"{stack.api}{AUTH}/acs"
    cookie = sent.headers["set-cookie"].split(";")[0]
    return call("POST", action, form=fields, headers={"Cookie": cookie})


def me(stack: Stack, token: str) -> Got:
    return call("GET", f"{stack.api}/api/v1/auth/me", token=token)


@pytest.mark.parametrize("sign_response", [True, False], ids=["response signed too", "assertion signed"])
def test_a_person_signs_in(stack: Stack, idp: SimpleSamlPhp, sign_response: bool) -> None:
    trust(stack, idp, sign_response=sign_response)
    got = sign_in(stack, idp, Browser())
    assert got.status == 200, got
    assert got.json["user"] == {"username": "ada", "role": "operator", "email": "ada@example.com"}
    assert me(stack, got.json["access_token"]).json["full_name"] == "Ada Lovelace"


def test_somebody_without_a_mapped_group_may_do_nothing(stack: Stack, idp: SimpleSamlPhp) -> None:
    trust(stack, idp)
    got = sign_in(stack, idp, Browser(), ("bob", "builder"))
    assert (got.status, got.json["user"]["role"]) == (200, "none")
    assert call("GET", f"{stack.api}/api/v1/servers", token=got.json["access_token"]).status == 403


def test_it_encrypts_by_cbc_which_is_refused_unless_configured(stack: Stack, idp: SimpleSamlPhp) -> None:
    trust(stack, idp, encrypt=True)
    refused = sign_in(stack, idp, Browser())
    assert (refused.status, refused.reason) == (401, "provider_answer_invalid")
    try:
        allowed = {"options": {"allow_cbc": True, "require_encryption": True}}
        assert stack.admin("PATCH", f"{PROVIDERS}/campus", allowed).status == 200
        assert sign_in(stack, idp, Browser()).status == 200
    finally:
        back = {"options": {"allow_cbc": False, "require_encryption": False}}
        assert stack.admin("PATCH", f"{PROVIDERS}/campus", back).status == 200
        trust(stack, idp)


def test_a_request_by_post_is_verified_there_and_answered(stack: Stack, idp: SimpleSamlPhp) -> None:
    trust(stack, idp)
    try:
        assert stack.admin("PATCH", f"{PROVIDERS}/campus", {"options": {"binding": "post"}}).status == 200
        sent = call("GET", f"{stack.api}{AUTH}/login", headers={"Accept": "application/json"})
        assert set(sent.json["fields"]) == {"SAMLRequest", "RelayState"}
        action, fields = idp.sign_in(Browser(), sent.json["url"], *ADA, sent.json["fields"])
        cookie = sent.headers["set-cookie"].split(";")[0]
        assert call("POST", action, form=fields, headers={"Cookie": cookie}).status == 200
    finally:
        assert stack.admin("PATCH", f"{PROVIDERS}/campus", {"options": {"binding": "redirect"}}).status == 200


def test_the_test_button_says_whether_the_provider_takes_our_requests(stack: Stack, idp: SimpleSamlPhp) -> None:
    trust(stack, idp)
    # the command reads settings, and not the options that `up` was given
    stack.environment["BAILIWICK_PUBLIC_URL"] = stack.api
    told = stack.cli("idp", "test", "campus", "--json")
    assert told.returncode == 0, told.stdout + told.stderr
    assert [step["step"] for step in json.loads(told.stdout)["steps"]] == [
        "keys", "metadata", "certificates", "roles", "request",
    ]  # fmt: skip
    try:
        idp.forget()
        told = stack.cli("idp", "test", "campus")
        assert told.returncode == 1 and f"Give the provider our metadata, {stack.api}{AUTH}/metadata" in told.stdout
    finally:
        trust(stack, idp)


def test_signing_out_here_signs_out_there(stack: Stack, idp: SimpleSamlPhp) -> None:
    trust(stack, idp)
    browser = Browser()
    token = sign_in(stack, idp, browser).json["access_token"]
    out = call("POST", f"{stack.api}/api/v1/auth/saml/logout", token=token)
    assert me(stack, token).status == 401
    back = browser.get(out.json["logout_url"], until=stack.api)
    assert urlsplit(back.url).path == f"{AUTH}/slo", back
    ended = call("GET", back.url)
    assert (ended.status, ended.json) == (200, {"signed_out_everywhere": True})
    sent = call("GET", f"{stack.api}{AUTH}/login")
    asked = browser.get(sent.headers["location"])
    assert 'name="password"' in asked.text  # it asks again: its own session is over


def test_signing_out_there_signs_out_here(stack: Stack, idp: SimpleSamlPhp) -> None:
    trust(stack, idp)
    browser = Browser()
    token = sign_in(stack, idp, browser).json["access_token"]
    assert me(stack, token).status == 200
    request = browser.get(f"{idp.base}/saml2/idp/SingleLogoutService.php?ReturnTo={idp.base}/done", until=stack.api)
    assert urlsplit(request.url).path == f"{AUTH}/slo", request.text[:2000]
    answer = call("GET", request.url)
    assert answer.status == 302 and answer.headers["location"].startswith(idp.base), answer
    assert me(stack, token).status == 401
    done = browser.get(answer.headers["location"], until=f"{idp.base}/done")
    assert done.url == f"{idp.base}/done"
