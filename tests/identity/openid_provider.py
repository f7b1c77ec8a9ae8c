"""An OpenID provider of ours that says what a test wants it to, right or wrong."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote_plus, urlencode, urlsplit

import pytest
from aiohttp import web
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from people_fixtures import Answer, House

CLIENT = "bailiwick client"
SECRET = "s+cret: of/ours"
SUBJECT = "248289761001"
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"

Change = Callable[[dict[str, Any]], None]
Key = RSAKey | ECKey | OKPKey


def nothing(_: dict[str, Any]) -> None:
    """No change."""


@dataclass
class Provider:
    """What it answers, and what it was asked. Times are those of ``now``."""

    now: Callable[[], float]
    issuer: str = ""
    key: Key = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "one"}))
    alg: str = "ES256"
    claims: dict[str, Any] = field(default_factory=dict)
    change_metadata: Change = nothing
    change_claims: Change = nothing
    change_header: Change = nothing
    change_tokens: Change = nothing
    change_userinfo: Change = nothing
    sign: Callable[[dict[str, Any], dict[str, Any]], str] | None = None
    published: list[dict[str, Any]] | None = None
    pages: dict[str, Callable[[web.Request], Any]] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    handed_out: int = 0

    def metadata(self) -> dict[str, Any]:
        document = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize?tenant=1",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "end_session_endpoint": f"{self.issuer}/end",
            "response_types_supported": ["code"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "PS256", "EdDSA", "none", "HS256"],
            "code_challenge_methods_supported": ["plain", "S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        }
        self.change_metadata(document)
        return document

    def keys(self) -> list[dict[str, Any]]:
        return self.published if self.published is not None else [self.key.as_dict(private=False)]

    def authorize(self, url: str) -> dict[str, str]:
        """What the browser is sent back with, the person having agreed."""
        asked = dict(parse_qsl(urlsplit(url).query))
        code = f"code-{self.handed_out}"
        self.handed_out += 1
        self.codes[code] = asked
        return {"code": code, "state": asked["state"]}

    def token(self, claims: dict[str, Any], **header: Any) -> str:
        protected = {"alg": self.alg, "kid": self.key.kid, **header}
        self.change_header(protected)
        if self.sign is not None:
            return self.sign(protected, claims)
        # by hand, since libraries will not sign every header
        text = f"{encoded(json.dumps(protected).encode())}.{encoded(json.dumps(claims).encode())}"
        algorithm = jws.JWSRegistry(algorithms=[self.alg]).get_alg(self.alg)
        return f"{text}.{encoded(algorithm.sign(text.encode(), self.key))}"

    def id_token(self, nonce: str, access_token: str) -> str:
        now = int(self.now())
        digest = hashlib.sha256(access_token.encode()).digest()[:16]
        claims = {
            "iss": self.issuer, "aud": CLIENT, "sub": SUBJECT, "iat": now, "exp": now + 300, "nonce": nonce,
            "at_hash": encoded(digest), "preferred_username": "jane.doe", "name": "Jane Doe", "sid": "sid-1",
            "email": "jane.doe@example.com", "email_verified": True, "groups": ["ops"], "amr": ["pwd"], **self.claims,
        }  # fmt: skip
        self.change_claims(claims)
        return self.token(claims)

    def logout_token(self, **claims: Any) -> str:
        now = int(self.now())
        said = {
            "iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 120, "jti": f"jti-{len(self.asked)}-{now}",
            "events": {LOGOUT_EVENT: {}}, **claims,
        }  # fmt: skip
        return self.token({name: value for name, value in said.items() if value is not None}, typ="logout+jwt")

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: values[0] for name, values in parse_qs((await request.read()).decode()).items()}
        scheme, _, pair = request.headers.get("authorization", "").partition(" ")
        client, _, secret = base64.b64decode(pair).decode().partition(":")
        if (scheme, unquote_plus(client), unquote_plus(secret)) != ("Basic", CLIENT, SECRET):
            return web.json_response({"error": "invalid_client"}, status=401)
        asked = self.codes.pop(form.get("code", ""), None)
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if (
            asked is None
            or asked["code_challenge"] != encoded(verifier)
            or asked["code_challenge_method"] != "S256"
            or asked["redirect_uri"] != form.get("redirect_uri")
            or form.get("grant_type") != "authorization_code"
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        access_token = "access-token"
        tokens = {"access_token": access_token, "id_token": self.id_token(asked["nonce"], access_token)}
        self.change_tokens(tokens)
        return web.json_response(tokens)

    def _userinfo(self, request: web.Request) -> web.Response:
        if request.headers.get("authorization") != "Bearer access-token":
            return web.Response(status=401)
        told = {"sub": SUBJECT, "department": "treasury", "groups": ["nobodies"]}
        self.change_userinfo(told)
        return web.json_response(told)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.path in self.pages:
            made = self.pages[request.path](request)
            return await made if asyncio.iscoroutine(made) else made
        if request.path == "/.well-known/openid-configuration":
            return web.json_response(self.metadata())
        if request.path == "/keys":
            return web.json_response({"keys": self.keys()})
        if request.path == "/token":
            return await self._token(request)
        return self._userinfo(request) if request.path == "/userinfo" else web.Response(status=404)


@asynccontextmanager
async def running(provider: Provider) -> AsyncIterator[Provider]:
    """The provider on a port of its own."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provider.answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    provider.issuer = f"http://127.0.0.1:{port}"
    try:
        yield provider
    finally:
        await runner.cleanup()


class Browser:
    """A browser that signs in here: it keeps cookies, and goes to the provider and back."""

    def __init__(self, house: House, provider: Provider, name: str = "corp") -> None:
        self.house = house
        self.provider = provider
        self.name = name
        self.cookies: dict[str, str] = {}

    async def get(self, path: str, **headers: str) -> Answer:
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = await self.house.call("GET", path, headers={"cookie": cookie, **headers})
        if "set-cookie" in answer.headers:
            name, _, value = answer.headers["set-cookie"].split(";")[0].partition("=")
            self.cookies.pop(name, None)
            if value.strip('"'):
                self.cookies[name] = value
        return answer

    async def begin(self, query: str = "") -> str:
        """The address at the provider that the browser is sent to."""
        answer = await self.get(f"/api/v1/auth/oidc/{self.name}/login{query}")
        assert answer.status == 302, answer.json()
        return answer.headers["location"]

    async def come_back(self, returned: dict[str, str], name: str | None = None) -> Answer:
        return await self.get(f"/api/v1/auth/oidc/{name or self.name}/callback?{urlencode(returned)}")

    async def sign_in(self) -> Answer:
        return await self.come_back(self.provider.authorize(await self.begin()))


async def connect(house: House, provider: Provider, name: str = "corp", **options: Any) -> None:
    """Configure the provider as an administrator does."""
    wanted = {"issuer": provider.issuer, "client_id": CLIENT, "roles": {"ops": "operator"}, **options}
    body = {"name": name, "kind": "oidc", "options": wanted, "secrets": {"client_secret": SECRET}}
    token = await house.signed_in("root")
    answer = await house.call("POST", "/api/v1/identity-providers", body, token=token)
    assert answer.status == 201, answer.json()


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    """A token with the algorithm ``none``."""
    return f"{encoded(json.dumps({**header, 'alg': 'none'}).encode())}.{encoded(json.dumps(claims).encode())}."


def by_secret(secret: bytes) -> Callable[[dict[str, Any], dict[str, Any]], str]:
    """Signs with HMAC, as somebody does who hopes that a public key is taken for a secret."""

    def sign(header: dict[str, Any], claims: dict[str, Any]) -> str:
        head = encoded(json.dumps({**header, "alg": "HS256"}).encode())
        text = f"{head}.{encoded(json.dumps(claims).encode())}"
        return f"{text}.{encoded(hmac.digest(secret, text.encode(), 'sha256'))}"

    return sign


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture
async def provider(house: House) -> AsyncIterator[Provider]:
    async with running(Provider(house.clock.time)) as made:
        yield made


@pytest.fixture
async def browser(house: House, provider: Provider) -> Browser:
    await connect(house, provider)
    return Browser(house, provider)


async def failure(house: House) -> dict[str, Any]:
    """The last event, which must be that of a failed sign-in."""
    event = (await house.events())[-1]
    assert (event.code, event.outcome, event.details["method"]) == ("BW1002", "failure", "oidc")
    return {"reasons": event.reasons, **event.details}


async def refused(browser: Browser, cause: str, reason: str = "provider_answer_invalid") -> None:
    """The browser signs in, and is refused for ``cause``, which stands in the record and not in the answer."""
    answer = await browser.sign_in()
    status = 503 if reason == "provider_unavailable" else 401
    assert (answer.status, answer.json()["reason"]) == (status, reason), answer.json()
    told = await failure(browser.house)
    assert told["provider"] == "corp" and told["reasons"] == (reason,)
    assert cause in told["cause"], told
    assert cause not in answer.body.decode()
    assert await browser.house.value("SELECT count(*) FROM sessions WHERE method = 'oidc'") == 0
