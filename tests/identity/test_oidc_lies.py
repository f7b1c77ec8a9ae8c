"""An OpenID provider whose tokens do not hold, whose keys change, who is away, or who lies."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.jwk import ECKey, OKPKey, RSAKey
from openid_provider import (
    CLIENT,
    Browser,
    Provider,
    by_secret,
    connect,
    encoded,
    failure,
    refused,
    running,
    unsigned,
)

from bailiwick.identity.login import oidc_client
from people_fixtures import Answer, House

# ---------------------------------------------------------------------- tokens that do not hold

HOUR = 3600
WRONG_CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "another issuer": ({"iss": "https://evil.example"}, "another issuer"),
    "the issuer with a slash": ({"iss": "SLASH"}, "another issuer"),
    "no issuer": ({"iss": None}, "another issuer"),
    "another audience": ({"aud": "somebody"}, "(aud)"),
    "no audience": ({"aud": None}, "audience"),
    "an audience that is no text": ({"aud": [7, CLIENT]}, "audience"),
    "several audiences and no azp": ({"aud": [CLIENT, "other"]}, "(azp)"),
    "another azp": ({"azp": "other"}, "(azp)"),
    "expired": ({"exp": -61}, "too old"),
    "no expiry": ({"exp": None}, "when it ends"),
    "an expiry that is not a number": ({"exp": "tomorrow"}, "not an instant"),
    "an expiry that is true": ({"exp": True}, "not an instant"),
    "an endless expiry": ({"exp": float("inf")}, "not an instant"),
    "of the future": ({"iat": 61, "exp": HOUR}, "from the future"),
    "not yet": ({"nbf": 61}, "from the future"),
    "made long ago": ({"iat": -HOUR, "exp": HOUR}, "too old"),
    "no time of making": ({"iat": None}, "when it was made"),
    "another nonce": ({"nonce": "n"}, "(nonce)"),
    "no nonce": ({"nonce": None}, "(nonce)"),
    "another access token": ({"at_hash": "x"}, "(at_hash)"),
    "no subject": ({"sub": None}, "(sub)"),
    "a subject that is a number": ({"sub": 7}, "(sub)"),
    "a long subject": ({"sub": "s" * 256}, "(sub)"),
    "a subject of half a character": ({"sub": "\ud800"}, "(sub)"),
    "a logout token": ({"events": {}}, "logout token"),
    "no name": ({"preferred_username": None}, "names the person"),
    "groups left out": ({"groups": None, "_claim_names": {"groups": "src1"}}, "too many"),
}


async def test_a_token_that_says_something_else_is_refused(browser: Browser, provider: Provider) -> None:
    now = int(provider.now())

    def drop_none(claims: dict[str, Any]) -> None:
        for name in [name for name, value in claims.items() if value is None]:
            del claims[name]

    provider.change_claims = drop_none
    for said, cause in WRONG_CLAIMS.values():
        provider.claims = {
            name: now + value if name in ("iat", "exp", "nbf") and type(value) is int else value
            for name, value in said.items()
        }
        if provider.claims.get("iss") == "SLASH":
            provider.claims["iss"] = provider.issuer + "/"
        await refused(browser, cause)
    provider.claims = {}
    assert (await browser.sign_in()).status == 200


async def test_clocks_may_differ_by_a_minute(browser: Browser, provider: Provider) -> None:
    now = int(provider.now())
    for claims in ({"exp": now - 59}, {"iat": now + 59}, {"nbf": now + 59}, {"aud": [CLIENT]}):
        provider.claims = claims
        assert (await browser.sign_in()).status == 200, claims


async def test_a_token_without_signature_is_refused(browser: Browser, provider: Provider) -> None:
    provider.sign = unsigned
    await refused(browser, "algorithm")


@pytest.mark.parametrize("form", ["pem", "der", "jwk", "secret"])
async def test_a_public_key_is_no_secret(house: House, provider: Provider, form: str) -> None:
    key = RSAKey.generate_key(2048, {"kid": "r"})
    provider.key, provider.alg = key, "RS256"
    secret = {
        "pem": key.as_pem(private=False),
        "der": key.as_der(private=False),
        "jwk": str(key.as_dict(private=False)).encode(),
        "secret": b"s+cret: of/ours",
    }
    provider.sign = by_secret(secret[form])
    await connect(house, provider)
    await refused(Browser(house, provider), "algorithm")


async def test_a_secret_among_the_keys_is_left_alone(browser: Browser, provider: Provider) -> None:
    provider.published = [{"kty": "oct", "k": encoded(b"s" * 32), "kid": "one"}]
    await refused(browser, "no public key")
    await browser.house.provider_clients.close()
    provider.published.append(provider.key.as_dict(private=False))
    assert (await browser.sign_in()).status == 200


async def test_a_key_says_what_it_is_for(browser: Browser, provider: Provider) -> None:
    for unfit in ({"use": "enc"}, {"alg": "ES384"}, {"key_ops": ["encrypt"]}):
        await browser.house.provider_clients.close()
        provider.published = [{**provider.key.as_dict(private=False), **unfit}]
        await refused(browser, "no public key")


async def test_a_short_key_is_no_key(browser: Browser, provider: Provider) -> None:
    short = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    provider.published = [{"kty": "RSA", "kid": "one", "n": encoded(short.n.to_bytes(128)), "e": "AQAB"}]
    await refused(browser, "no public key")


async def test_a_signature_by_another_key_of_the_same_name_is_refused(browser: Browser, provider: Provider) -> None:
    provider.published = [ECKey.generate_key("P-256", {"kid": "one"}).as_dict(private=False)]
    await refused(browser, "signature")


async def test_a_key_that_comes_with_the_token_is_not_looked_at(browser: Browser, provider: Provider) -> None:
    other = ECKey.generate_key("P-256", {"kid": "two"})
    provider.published = [provider.key.as_dict(private=False)]
    provider.key = other
    provider.change_header = lambda header: header.update(jwk=other.as_dict(private=False), jku="http://127.0.0.1/x")
    await refused(browser, "does not publish")


async def test_a_token_of_another_kind_is_refused(browser: Browser, provider: Provider) -> None:
    headers: list[tuple[dict[str, Any], str]] = [
        ({"crit": ["x"], "x": 1}, "extensions"),
        ({"b64": False, "crit": ["b64"]}, "extensions"),
        ({"typ": "at+jwt"}, "another type"),
        ({"typ": "logout+jwt"}, "another type"),
        ({"kid": 7}, "not a signed token"),
        ({"alg": ["ES256"]}, "algorithm"),
        ({"alg": "RS256"}, "does not publish"),
    ]
    for header, cause in headers:
        provider.change_header = partial(dict.update, **header)
        await refused(browser, cause)


async def test_what_is_no_token_is_refused(browser: Browser, provider: Provider) -> None:
    for token in ("", "a.b", "a.b.c.d", "é.b.c", "e30.e30.", "bnVsbA.e30.x", "x" * 40_000, None, 7, {"a": 1}):
        provider.change_tokens = partial(dict.update, id_token=token)
        await refused(browser, "ID token")


async def test_a_name_that_stands_twice_is_refused(browser: Browser, provider: Provider) -> None:
    head = encoded(b'{"alg":"ES256","alg":"none"}')
    provider.sign = lambda header, claims: f"{head}.e30.x"
    await refused(browser, "not a signed token")


# ---------------------------------------------------------------------- keys change


async def test_keys_may_rotate_and_nobody_makes_us_read_them_again_and_again(
    house: House, browser: Browser, provider: Provider
) -> None:
    assert (await browser.sign_in()).status == 200
    provider.key = ECKey.generate_key("P-256", {"kid": "two"})
    assert (await browser.sign_in()).status == 200, "an unknown key has the set read again"
    assert provider.asked.count("/keys") == 2
    provider.published = provider.keys()
    provider.key = ECKey.generate_key("P-256", {"kid": "three"})
    for _ in range(5):
        assert (await browser.sign_in()).status == 401
    assert provider.asked.count("/keys") == 2, "not again within half a minute"
    house.clock.advance(oidc_client.REFETCH_EVERY_S)
    provider.published = None
    assert (await browser.sign_in()).status == 200
    assert provider.asked.count("/keys") == 3


async def test_a_key_that_was_withdrawn_is_believed_no_longer_than_ten_minutes(
    house: House, browser: Browser, provider: Provider
) -> None:
    assert (await browser.sign_in()).status == 200
    provider.published = [ECKey.generate_key("P-256", {"kid": "two"}).as_dict(private=False)]
    house.clock.advance(oidc_client.KEYS_LIFE_S + 1)
    assert (await browser.sign_in()).status == 401


async def test_an_edwards_curve_is_known(browser: Browser, provider: Provider) -> None:
    provider.key, provider.alg = OKPKey.generate_key("Ed25519", {"kid": "o"}), "Ed25519"
    provider.change_metadata = lambda said: said.update(id_token_signing_alg_values_supported=["Ed25519"])
    provider.change_claims = lambda claims: claims.pop("at_hash")
    assert (await browser.sign_in()).status == 200


# ---------------------------------------------------------------------- providers that are away, or lie


async def timed_out(browser: Browser) -> None:
    began = time.monotonic()
    answer: Answer = await browser.get("/api/v1/auth/oidc/corp/login")
    assert (answer.status, answer.json()["reason"]) == (503, "provider_unavailable")
    assert time.monotonic() - began < 10


async def test_a_provider_that_takes_half_a_minute_holds_up_nobody(
    house: House, browser: Browser, provider: Provider
) -> None:
    slow = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await slow.wait()
        return web.Response()

    provider.pages["/.well-known/openid-configuration"] = wait
    waiting = [asyncio.create_task(timed_out(Browser(house, provider))) for _ in range(8)]
    await house.user("local", "viewer")
    login = {"username": "local", "password": "correct horse battery"}
    assert (await house.call("POST", "/api/v1/auth/login/local", login)).status == 200
    assert not any(task.done() for task in waiting), "the others wait still"
    await asyncio.gather(*waiting)
    assert len(provider.asked) == 1, "one asks for all, and the failure is remembered"
    slow.set()
    provider.pages.clear()
    house.clock.advance(oidc_client.FAILURE_LIFE_S)
    assert (await browser.sign_in()).status == 200, "and is well again by itself"


@pytest.mark.parametrize("page", ["/keys", "/token"])
async def test_a_slow_page_is_given_up(house: House, browser: Browser, provider: Provider, page: str) -> None:
    forever = asyncio.Event()

    async def drip(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"{")
        await forever.wait()
        return answer

    provider.pages[page] = drip
    await refused(browser, "no answer in time", "provider_unavailable")
    forever.set()


async def test_nobody_there(house: House, browser: Browser, provider: Provider) -> None:
    async with running(Provider(house.clock.time)) as gone:
        await connect(house, gone, "gone")
    answer = await Browser(house, gone, "gone").get("/api/v1/auth/oidc/gone/login")
    assert (answer.status, answer.json()["reason"]) == (503, "provider_unavailable")
    assert (await browser.sign_in()).status == 200


@pytest.mark.parametrize("page", ["/.well-known/openid-configuration", "/keys", "/token"])
async def test_an_answer_that_is_none_is_refused(house: House, browser: Browser, provider: Provider, page: str) -> None:
    here = f"{provider.issuer}{page}"
    answers: dict[str, web.Response] = {
        "redirect": web.Response(status=302, headers={"location": here}),
        "huge": web.Response(body=b'{"a": "' + b"a" * (5 << 20) + b'"}', content_type="application/json"),
        "bomb": web.Response(body=b"\x1f\x8b\x08\x00" + b"\x00" * 99, headers={"content-encoding": "gzip"}),
        "text": web.Response(text="<html>"),
        "list": web.json_response([1]),
        "deep": web.Response(text="[" * 60_000),
        "error": web.json_response({"error": "server_error"}, status=500),
    }
    for how, answer in answers.items():
        await house.provider_clients.close()
        provider.asked.clear()
        provider.pages[page] = partial(lambda answer, _: answer, answer)
        first = await browser.get("/api/v1/auth/oidc/corp/login")
        if first.status == 302:
            first = await browser.come_back(provider.authorize(first.headers["location"]))
        away = how == "error" and page != "/token"
        assert first.status == (503 if away else 401), how
        assert {"redirect": "redirect", "huge": "64 KiB"}.get(how, "") in (await failure(house))["cause"]
        assert len(provider.asked) <= 3, "a redirect is not followed"


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "another issuer": ({"issuer": "https://login.example"}, "another issuer"),
    "no issuer": ({"issuer": None}, "another issuer"),
    "plain http": ({"token_endpoint": "http://idp.example/token"}, "not an https address"),
    "no address": ({"jwks_uri": 7}, "not an address"),
    "a script": ({"authorization_endpoint": "javascript:alert(1)"}, "not an"),
    "a user in an address": ({"authorization_endpoint": "https://a@idp.example/"}, "not an address"),
    "a line in an address": ({"authorization_endpoint": "https://idp.example/\r\nx: y"}, "not an address"),
    "only secrets": ({"id_token_signing_alg_values_supported": ["HS256", "none"]}, "no algorithm"),
    "no PKCE": ({"code_challenge_methods_supported": ["plain"]}, "PKCE"),
    "only implicit": ({"response_types_supported": ["id_token"]}, "code flow"),
    "no list": ({"response_types_supported": "code"}, "not a list"),
}


async def test_a_discovery_document_that_lies_is_refused(browser: Browser, provider: Provider) -> None:
    for case, (said, cause) in LIES.items():
        provider.change_metadata = partial(dict.update, **said)
        await browser.house.provider_clients.close()
        answer = await browser.get("/api/v1/auth/oidc/corp/login")
        assert (answer.status, answer.json()["reason"]) == (401, "provider_answer_invalid"), case
        assert cause in (await failure(browser.house))["cause"], case


@pytest.mark.parametrize("address", ["http://169.254.169.254/", "https://10.0.0.1/"])
async def test_a_provider_does_not_lead_us_to_what_is_inside(
    house: House, browser: Browser, provider: Provider, address: str
) -> None:
    if address.startswith("https"):
        provider.change_metadata = lambda document: document.update(jwks_uri=f"{address}keys")
        await refused(browser, "private")
    else:
        token = await house.signed_in("root")
        body = {"name": "inside", "kind": "oidc", "options": {"issuer": address, "client_id": "c"}}
        answer = await house.call("POST", "/api/v1/identity-providers", body, token=token)
        assert answer.status in (400, 422), "plain http beyond loopback is refused when it is configured"


async def test_a_wrong_client_secret_is_told_to_the_operator(house: House, browser: Browser) -> None:
    token = await house.signed_in("root")
    patch = {"secrets": {"client_secret": "another"}}
    assert (await house.call("PATCH", "/api/v1/identity-providers/corp", patch, token=token)).status == 200
    await refused(browser, "invalid_client")


async def test_a_provider_that_is_switched_off_signs_nobody_in(
    house: House, browser: Browser, provider: Provider
) -> None:
    returned = provider.authorize(await browser.begin())
    token = await house.signed_in("root")
    assert (await house.call("PATCH", "/api/v1/identity-providers/corp", {"enabled": False}, token=token)).status == 200
    assert (await browser.come_back(returned)).json()["reason"] == "sign_in_not_begun"
    assert (await browser.get("/api/v1/auth/oidc/corp/login")).status == 404


# ---------------------------------------------------------------------- the test of a provider


async def walked(house: House, name: str = "corp") -> dict[str, tuple[bool, str, str]]:
    """The steps of a test: whether each passed, what was seen, and how to mend it."""
    token = await house.signed_in("root")
    answer = await house.call("POST", f"/api/v1/identity-providers/{name}/test", {}, token=token)
    assert answer.status == 200, answer.json()
    steps = {step["step"]: (step["passed"], step["detail"], step["mend"]) for step in answer.json()["steps"]}
    assert answer.json()["verdict"] == ("PASS" if all(step[0] for step in steps.values()) else "FAIL")
    return steps


async def test_a_test_names_what_is_wrong_and_what_mends_it(house: House, browser: Browser, provider: Provider) -> None:
    there = f"{house.settings.issuer}/api/v1/auth/oidc/corp/callback"
    back = web.Response(status=302, headers={"location": f"{there}?error=login_required"})
    provider.pages["/authorize"] = lambda _: back
    steps = await walked(house)
    assert {name: passed for name, (passed, *_) in steps.items()} == dict.fromkeys(
        ["discovery", "keys", "client", "return"], True
    ), steps
    provider.pages["/authorize"] = lambda _: web.Response(status=400)
    assert there in (await walked(house))["return"][2]
    provider.pages["/authorize"] = lambda _: web.Response(text="<html>")
    assert there in (await walked(house))["return"][1]
    provider.pages["/token"] = lambda _: web.json_response({"error": "invalid_client"}, status=401)
    assert "client_secret" in (await walked(house))["client"][2]
    provider.pages["/token"] = lambda _: web.json_response({"access_token": "a", "id_token": "b"})
    assert (await walked(house))["client"][0] is False
    provider.published = [{"kty": "oct", "k": "c2VjcmV0", "kid": "one"}]
    assert (await walked(house))["keys"][0] is False
    provider.change_metadata = lambda said: said.update(issuer=provider.issuer + "/")
    assert "slash by slash" in (await walked(house))["discovery"][2]
    assert "s+cret" not in str([event.details for event in await house.events()])
