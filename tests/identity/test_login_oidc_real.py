"""Signing in by a real OpenID provider (npm oidc-provider), in and out, over real connections."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import pytest
import uvicorn

from bailiwick.identity.cookie_sessions import CookieSessions
from bailiwick.kernel.clock import SystemClock
from people_fixtures import House

_ROOT = Path(__file__).parent.parent.parent
_CALLBACK = "/api/v1/auth/oidc/corp/callback"
_PEOPLE = {
    "7c9e6679": {
        "preferred_username": "jane.doe",
        "name": "Jane Doe",
        "email": "jane.doe@example.com",
        "email_verified": True,
        "groups": ["ops", "all"],
    },
    "550e8400": {"preferred_username": "joe", "email": "joe@example.com", "email_verified": True, "groups": ["all"]},
}


@dataclass
class Stage:
    """The house at ``api`` and the provider at ``issuer``."""

    house: House
    api: str
    issuer: str

    async def connect(self, client_id: str, secret: str, **options: Any) -> None:
        wanted = {"issuer": self.issuer, "client_id": client_id, "roles": {"ops": "operator"}, **options}
        body = {
            "name": "corp", "kind": "oidc", "options": wanted, "secrets": {"client_secret": secret} if secret else {},
        }  # fmt: skip
        answer = await self.house.call(
            "POST", "/api/v1/identity-providers", body, token=await self.house.signed_in("root")
        )
        assert answer.status == 201, answer.json()


@pytest.fixture
async def stage(database_url: str) -> AsyncIterator[Stage]:
    installed = await asyncio.create_subprocess_exec(_ROOT / "tools/npm-needs.sh", stdout=subprocess.PIPE)
    place = (await installed.communicate())[0].decode().strip()
    assert installed.returncode == 0
    house = House(database_url, SystemClock())  # type: ignore[arg-type]  # the provider knows no other time
    await house.reset()
    plain = house.settings.model_copy(update={"public_url": "http://127.0.0.1"})
    house.cookies = CookieSessions(plain, house.ids)
    server = uvicorn.Server(uvicorn.Config(house.lanes, "127.0.0.1", 0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    api = f"http://127.0.0.1:{port}"
    object.__setattr__(house.settings, "public_url", api)
    clients = [
        {
            "client_id": "bailiwick",
            "client_secret": "a secret: of/ours+",
            "redirect_uris": [api + _CALLBACK],
            "post_logout_redirect_uris": ["https://console.example.com/bye"],
            "backchannel_logout_uri": f"{api}/api/v1/auth/oidc/corp/backchannel-logout",
            "backchannel_logout_session_required": True,
        },
        {
            "client_id": "public",
            "token_endpoint_auth_method": "none",
            "id_token_signed_response_alg": "ES256",
            "redirect_uris": [api + _CALLBACK],
        },
    ]
    node = await asyncio.create_subprocess_exec(
        "node", _ROOT / "tests/node/openid_provider.mjs", f"{place}/node_modules",
        json.dumps({"clients": clients, "people": _PEOPLE}), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert node.stdout is not None and node.stdin is not None
    port = int(await asyncio.wait_for(node.stdout.readline(), 20))
    try:
        yield Stage(house, api, f"http://127.0.0.1:{port}")
    finally:
        node.stdin.close()
        await asyncio.wait_for(node.wait(), 10)
        server.should_exit = True
        await serving
        await house.close()


@pytest.fixture
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=aiohttp.ClientTimeout(20)) as session:
        yield session


async def page(browser: aiohttp.ClientSession, url: str, form: dict[str, str] | None = None) -> tuple[int, str, str]:
    """A page as a browser comes to it: status, address, text."""
    method = "GET" if form is None else "POST"
    async with browser.request(method, url, data=form) as answer:
        return answer.status, str(answer.url), await answer.text()


async def sign_in(stage: Stage, browser: aiohttp.ClientSession, subject: str) -> tuple[int, dict[str, Any]]:
    """Through the provider's own pages: name, consent, and back."""
    status, url, text = await page(browser, f"{stage.api}/api/v1/auth/oidc/corp/login?return_to=/console")
    while not url.startswith(stage.api):
        action = re.search(r'action="([^"]+)"', text)
        assert status == 200 and action, text
        form = {"prompt": "consent"} if 'value="consent"' in text else {"prompt": "login"}
        if form["prompt"] == "login":
            form |= {"login": subject, "password": "anything"}
        status, url, text = await page(browser, unescape(action[1]), form)
    return status, json.loads(text)


async def alive(stage: Stage, token: str) -> bool:
    return (await stage.house.call("GET", "/api/v1/auth/me", token=token)).status == 200


async def test_in_and_out(stage: Stage, browser: aiohttp.ClientSession) -> None:
    await stage.connect("bailiwick", "a secret: of/ours+", after_logout="https://console.example.com/bye")
    status, told = await sign_in(stage, browser, "7c9e6679")
    assert status == 200, told
    assert told["user"] == {"username": "jane.doe", "role": "operator", "email": "jane.doe@example.com"}
    assert told["return_to"] == "/console"
    row = await stage.house.value("SELECT origin::text FROM sessions WHERE method = 'oidc'")
    origin = json.loads(row)
    assert (origin["issuer"], origin["subject"]) == (stage.issuer, "7c9e6679") and origin["sid"]

    # somebody else, in another browser, is somebody else: no group of his is mapped
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as other:
        status, joe = await sign_in(stage, other, "550e8400")
    assert (status, joe["user"]["username"], joe["user"]["role"]) == (200, "joe", "none")

    # again in the same browser, which the provider knows by now
    status, again = await sign_in(stage, browser, "7c9e6679")
    assert (status, again["user"]["username"]) == (200, "jane.doe")

    # signing out of one session leads to the provider's page, which ends the other by the back channel
    answer = await stage.house.call("POST", "/api/v1/auth/oidc/logout", token=told["access_token"])
    end = answer.json()["end_session_url"]
    assert end.startswith(f"{stage.issuer}/session/end?client_id=bailiwick&id_token_hint=")
    # the provider reads the hint: one that is not its own, or of another client, it refuses
    hint = dict(parse_qsl(urlsplit(end).query))["id_token_hint"]
    for complaint, wrong in {
        "could not decode id_token_hint": end.replace(hint, "nonsense"),
        "could not validate id_token_hint": end.replace(hint, hint[:-4] + ("AAAA" if hint[-4:] != "AAAA" else "BBBB")),
        "client_id does not match": end.replace("client_id=bailiwick", "client_id=public"),
    }.items():
        status, _, text = await page(browser, wrong)
        assert status == 400 and complaint in text, text
    assert not await alive(stage, told["access_token"]) and await alive(stage, again["access_token"])
    status, _, text = await page(browser, end)
    xsrf, action = re.search(r'name="xsrf" value="([^"]+)"', text), re.search(r'action="([^"]+)"', text)
    assert status == 200 and xsrf and action, text
    async with browser.post(
        unescape(action[1]), data={"xsrf": xsrf[1], "logout": "yes"}, allow_redirects=False
    ) as answered:
        assert answered.status in (302, 303), await answered.text()
        assert answered.headers["location"].startswith("https://console.example.com/bye")
    assert not await alive(stage, again["access_token"]), "ended by the back channel"
    assert await alive(stage, joe["access_token"])


async def test_a_public_client_by_pkce_alone(stage: Stage, browser: aiohttp.ClientSession) -> None:
    await stage.connect("public", "", algorithms=["ES256"])
    status, told = await sign_in(stage, browser, "7c9e6679")
    assert (status, told["user"]["username"]) == (200, "jane.doe"), told


async def test_a_wrong_secret_is_told_to_the_operator(stage: Stage, browser: aiohttp.ClientSession) -> None:
    await stage.connect("bailiwick", "another secret")
    status, told = await sign_in(stage, browser, "7c9e6679")
    assert (status, told["reason"]) == (401, "provider_answer_invalid")
    assert "invalid_client" in (await stage.house.events())[-1].details["cause"]


async def test_who_stops_at_the_provider_is_not_signed_in(stage: Stage, browser: aiohttp.ClientSession) -> None:
    await stage.connect("bailiwick", "a secret: of/ours+")
    _, _, text = await page(browser, f"{stage.api}/api/v1/auth/oidc/corp/login")
    abort = re.search(r'href="([^"]+/abort)"', text)
    assert abort, text
    status, _, text = await page(browser, unescape(abort[1]))
    assert (status, json.loads(text)["reason"]) == (401, "provider_refused")
