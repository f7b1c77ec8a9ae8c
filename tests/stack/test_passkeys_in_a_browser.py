"""Passkeys made and used by a real browser, with a virtual authenticator, against a whole installation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from browser import Browser, browser
from rig import Got, Stack, call, claims, installation

from bailiwick.evidence.codes import EVENT_TYPES

LOGIN = {"username": "carla", "password": "long enough for all"}
AUTH = "/api/v1/auth"

# What a page does with each kind of options.
_CREATE = """(async options => {
  const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(options);
  return (await navigator.credentials.create({publicKey})).toJSON();
})"""
_GET = """(async options => {
  const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(options);
  try { return (await navigator.credentials.get({publicKey})).toJSON(); } catch (error) { return {error: error.name}; }
})"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(
        WORKERS="2",
        BAILIWICK_PUBLIC_URL="http://localhost:{api_port}",
        BAILIWICK_TRUSTED_PROXIES="127.0.0.0/8",
        BAILIWICK_MFA_REQUIRED_OUTSIDE="127.0.0.0/8",
    ) as made:
        person = {**LOGIN, "email": "carla@example.com", "role": "operator"}
        assert made.admin("POST", "/api/v1/users", person).status == 201
        yield made


class Authenticator:
    """The browser's virtual authenticator, as built into a laptop."""

    def __init__(self, chromium: Browser) -> None:
        self.chromium = chromium
        chromium.do("WebAuthn.enable")
        self.id = chromium.do(
            "WebAuthn.addVirtualAuthenticator",
            options={
                "protocol": "ctap2",
                "transport": "internal",
                "hasResidentKey": True,
                "hasUserVerification": True,
                "isUserVerified": True,
                "automaticPresenceSimulation": True,
            },
        )["authenticatorId"]

    def use(self, script: str, options: dict[str, Any]) -> dict[str, Any]:
        return dict(self.chromium.js(f"{script}({json.dumps(options)})"))

    def verified(self, yes: bool) -> None:
        self.chromium.do("WebAuthn.setUserVerified", authenticatorId=self.id, isUserVerified=yes)

    def key(self) -> dict[str, Any]:
        (found,) = self.chromium.do("WebAuthn.getCredentials", authenticatorId=self.id)["credentials"]
        return dict(found)

    def put_back(self, key: dict[str, Any]) -> None:
        """Continue with a copy made earlier."""
        self.chromium.do("WebAuthn.removeCredential", authenticatorId=self.id, credentialId=self.key()["credentialId"])
        self.chromium.do("WebAuthn.addCredential", authenticatorId=self.id, credential=key)


def post(stack: Stack, path: str, body: Any = None, token: str = "", *, change: bool = True) -> Got:
    got = call("POST", f"{stack.api}{AUTH}/{path}", token=token, body=body)
    assert got.status < 300, (path, got)
    if change:
        events = stack.story(got.headers["x-request-id"])
        assert any(EVENT_TYPES[event["code"]].mutation for event in events), f"{path} leaves no event of a change"
    return got


def options(stack: Stack, path: str, body: Any = None, token: str = "") -> dict[str, Any]:
    return dict(post(stack, f"{path}/options", body, token, change=False).json["publicKey"])


def alone(stack: Stack, laptop: Authenticator) -> Got:
    used = laptop.use(_GET, options(stack, "login/passkey"))
    return call("POST", f"{stack.api}{AUTH}/login/passkey/verify", body={"credential": used})


def owed(stack: Stack) -> dict[str, Any]:
    got = call("POST", f"{stack.api}{AUTH}/login/local", body=LOGIN)
    assert (got.status, got.reason) == (401, "mfa_required")
    return dict(got.json)


def test_a_passkey_from_its_making_to_its_copy(stack: Stack) -> None:
    with browser() as chromium:
        chromium.open(f"{stack.api.replace('127.0.0.1', 'localhost')}/docs")
        chromium.until("location.hostname === 'localhost' && document.readyState === 'complete'")
        laptop = Authenticator(chromium)

        # made by whoever just signed in
        token = stack.login(LOGIN["username"], LOGIN["password"])
        made = laptop.use(_CREATE, options(stack, "factors/webauthn", token=token))
        body = {"name": "Laptop", "credential": made}
        enrolled = post(stack, "factors/webauthn/verify", body, token).json
        assert [(each["kind"], each["name"]) for each in enrolled["factors"]] == [("webauthn", "Laptop")]
        assert len(enrolled["recovery_codes"]) == 10

        # the second factor of a password
        waiting = owed(stack)
        assert waiting["methods"] == ["webauthn", "recovery_code"]
        used = laptop.use(_GET, options(stack, "mfa/webauthn", {"mfa_token": waiting["mfa_token"]}))
        body = {"mfa_token": waiting["mfa_token"], "credential": used}
        token = post(stack, "mfa/webauthn/verify", body).json["access_token"]
        assert claims(token)["acr"] == "urn:bailiwick:acr:2fa"

        # alone: discoverable, its person verified; the browser itself refuses one that is not
        got = alone(stack, laptop)
        assert got.status == 200, got
        assert claims(got.json["access_token"])["amr"] == ["hwk", "user", "mfa"]
        assert got.json["user"]["username"] == "carla"
        laptop.verified(False)
        assert laptop.use(_GET, options(stack, "login/passkey")) == {"error": "NotAllowedError"}
        laptop.verified(True)
        token = got.json["access_token"]
        used = laptop.use(_GET, options(stack, "step-up/webauthn", token=token))
        fresh = post(stack, "step-up/webauthn/verify", {"credential": used}, token).json["access_token"]
        assert claims(fresh)["auth_time"] >= claims(token)["auth_time"]

        # what another site's page got signed is worth nothing here
        forged = {**options(stack, "login/passkey"), "rpId": "127.0.0.1"}
        assert "error" in laptop.use(_GET, forged)

        # a copy: whoever comes second is found out, and the key is out of use for both
        copy = laptop.key()
        assert alone(stack, laptop).status == 200
        laptop.put_back(copy)
        refused = alone(stack, laptop)
        assert (refused.status, refused.reason) == (401, "passkey_cloned")
        told = stack.story(refused.headers["x-request-id"])
        assert {"auth.factor.cloned", "auth.login.failure"} <= {event["name"] for event in told}
        assert (alone(stack, laptop).reason, owed(stack)["methods"]) == ("invalid_passkey", ["recovery_code"])


def test_a_sign_in_that_needs_a_factor_enrols_a_passkey(stack: Stack) -> None:
    person = {"username": "dora", "email": "dora@example.com", "role": "viewer", "password": LOGIN["password"]}
    assert stack.admin("POST", "/api/v1/users", {**person, "mfa_enabled": True}).status == 201
    with browser() as chromium:
        chromium.open(f"{stack.api.replace('127.0.0.1', 'localhost')}/docs")
        chromium.until("location.hostname === 'localhost' && document.readyState === 'complete'")
        laptop = Authenticator(chromium)
        body = {"username": "dora", "password": person["password"]}
        waiting = call("POST", f"{stack.api}{AUTH}/login/local", body=body).json
        assert waiting["reason"] == "mfa_enrolment_required"
        pending = {"mfa_token": waiting["mfa_token"]}
        made = laptop.use(_CREATE, options(stack, "mfa/enrolment/webauthn", pending))
        done = post(stack, "mfa/enrolment/webauthn/verify", {**pending, "name": "Laptop", "credential": made}).json
        assert claims(done["access_token"])["amr"] == ["pwd", "hwk", "mfa"]
        assert alone(stack, laptop).status == 200


def test_who_comes_through_a_proxy_from_elsewhere_needs_a_factor(stack: Stack) -> None:
    person = {"username": "vera", "email": "vera@example.com", "role": "viewer", "password": LOGIN["password"]}
    assert stack.admin("POST", "/api/v1/users", person).status == 201
    body = {"username": "vera", "password": person["password"]}

    def login(forwarded: str) -> Got:
        headers = {"X-Forwarded-For": forwarded} if forwarded else {}
        return call("POST", f"{stack.api}{AUTH}/login/local", body=body, headers=headers)

    assert login("").status == 200
    assert login("127.0.0.9").status == 200
    for elsewhere in ("203.0.113.9", "127.0.0.1, 203.0.113.9", "10.0.0.1"):
        got = login(elsewhere)
        assert (got.status, got.reason) == (401, "mfa_enrolment_required"), elsewhere
