"""The page of the second factor in a real browser: by passkey, without scripts, and with nothing to complain of."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import uvicorn
from aiohttp import web
from openid_provider import Provider, connect

from bailiwick.identity.cookie_sessions import CookieSessions
from people_fixtures import House

sys.path.insert(0, str(Path(__file__).parent.parent / "stack"))
from browser import Browser, browser

_LAPTOP = {
    "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
    "isUserVerified": True, "automaticPresenceSimulation": True,
}  # fmt: skip


@pytest.fixture
async def login(house: House, provider: Provider) -> AsyncIterator[str]:
    """Where a browser begins to sign in; whoever comes in needs a second factor."""
    listening = socket.create_server(("127.0.0.1", 0))
    here = f"http://localhost:{listening.getsockname()[1]}"
    object.__setattr__(house.settings, "public_url", here)
    object.__setattr__(house.settings, "dev", True)
    house.cookies = CookieSessions(house.settings, house.ids)

    def agreed(request: web.Request) -> web.Response:
        returned = provider.authorize(str(request.url))
        back = f"{request.query['redirect_uri']}?{urlencode(returned)}"
        return web.Response(status=302, headers={"Location": back})

    provider.pages["/authorize"] = agreed
    await connect(house, provider)
    house.sign_ins._settings = house.settings.model_copy(update={"dev": False, "mfa_roles": ("operator",)})
    server = uvicorn.Server(uvicorn.Config(house.lanes, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    yield f"{here}/api/v1/auth/oidc/corp/login?session=cookie&return_to=/api/v1/auth/me"
    server.should_exit = True
    await serving


async def test_a_person_comes_in_by_the_page(login: str, tmp_path: Path) -> None:
    await asyncio.to_thread(_walk, login, tmp_path)


def _walk(login: str, tmp_path: Path) -> None:
    with browser() as chromium:
        chromium.do("WebAuthn.enable")
        chromium.do("WebAuthn.addVirtualAuthenticator", options=_LAPTOP)

        # the first time a factor is enrolled on the way in
        _open(chromium, login, "Add a second factor")
        chromium.screenshot(tmp_path / "enrol.png")
        chromium.click("#passkey")
        told = chromium.until("document.querySelector('.codes')?.innerText")
        codes = re.findall(r"\S+", told)
        assert len(codes) == 10
        chromium.screenshot(tmp_path / "codes.png")
        chromium.click("a.button")
        _is_in(chromium)

        # then it is used
        _open(chromium, login, "One more step")
        chromium.screenshot(tmp_path / "step.png")
        assert chromium.js("document.activeElement.tagName") == "BODY", "the passkey is the first choice, not the code"
        chromium.click("#passkey")
        _is_in(chromium)

        # a passkey that is not given leaves the other way
        chromium.do("WebAuthn.disable")
        chromium.do("WebAuthn.enable")
        chromium.do("WebAuthn.addVirtualAuthenticator", options={**_LAPTOP, "automaticPresenceSimulation": True})
        _open(chromium, login, "One more step")
        chromium.click("#passkey")
        assert "No passkey was used" in chromium.until("document.getElementById('passkey-told').innerText")
        assert not _complaints(chromium)

        # without scripts by a code, after a wrong one
        chromium.do("Emulation.setScriptExecutionDisabled", value=True)
        _open(chromium, login, "One more step")
        assert chromium.js("document.getElementById('passkey').hidden")
        _send(chromium, "000000")
        assert "not right" in chromium.until("document.querySelector('[role=alert]')?.innerText")
        chromium.screenshot(tmp_path / "wrong.png")
        _send(chromium, codes[0])
        _is_in(chromium)
        assert not [each for each in _complaints(chromium) if "401" not in each]


def _complaints(chromium: Browser) -> list[str]:
    """But for the icon that browsers look for beside an answer in JSON."""
    return [each for each in chromium.complaints if "favicon.ico" not in each]


def _open(chromium: Browser, login: str, title: str) -> None:
    chromium.do("Network.clearBrowserCookies")
    chromium.open(login)
    chromium.until(f"document.querySelector('h1')?.innerText === {title!r} && document.readyState === 'complete'")


def _send(chromium: Browser, code: str) -> None:
    chromium.js(f"void (document.getElementById('code').value = {code!r})")
    chromium.click("form:not(#by-passkey) button[type=submit]")


def _is_in(chromium: Browser) -> None:
    assert "jane.doe" in chromium.until("location.pathname === '/api/v1/auth/me' && document.body?.innerText")
