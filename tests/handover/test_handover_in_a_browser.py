"""A handover signed in a real browser by its virtual authenticator; the pack then holds offline."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from aiohttp import web
from handover_desk import Desk
from ledger_world import World
from prometheus_client import CollectorRegistry

from bailiwick.identity.cookie_sessions import CookieSessions
from bailiwick.kernel.front import Front
from bailiwick.kernel.metrics import Metrics
from bailiwick_verify.cli import main as verify
from people_fixtures import PASSWORD, House

sys.path.insert(0, str(Path(__file__).parent.parent / "stack"))
from browser import Browser, browser

_LAPTOP = {
    "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
    "isUserVerified": True, "automaticPresenceSimulation": True,
}  # fmt: skip

# the text of a page whose contrast with what is behind it is less than WCAG AA asks for
_FAINT = """(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) {
    const found = rgb(getComputedStyle(e).backgroundColor); if (found.length < 4 || found[3] === 1) return found; }
    return [255, 255, 255]; };
  const faint = [];
  for (const e of document.querySelectorAll('body *')) {
    const text = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('').trim();
    if (!text || !e.checkVisibility()) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push([e.tagName, text.slice(0, 40), (a + 0.05) / (b + 0.05)]);
  }
  return faint;
})()"""
_SWAP = """UPDATE bailiwick.handovers
SET document = convert_to(replace(convert_from(document, 'UTF8'), :before, :after), 'UTF8'),
sha256 = encode(sha256(convert_to(replace(convert_from(document, 'UTF8'), :before, :after), 'UTF8')), 'hex')"""
_TITLE = "Handover of production: The makers to Operations"
_TOLD = "document.querySelector('[role=status]')?.innerText"
_FAILED = "document.querySelector('[role=alert]')?.innerText"
_ANOTHER_HASH = """document.addEventListener('readystatechange', () => {
  const yours = document.getElementById('yours');
  if (yours) yours.dataset.sha256 = '0'.repeat(64);
})"""
_UNLABELLED = """[...document.querySelectorAll('input:not([type=hidden]), select, textarea')]
  .filter(each => !each.labels.length).map(each => each.outerHTML)"""
_UNNAMED = """[...document.querySelectorAll('button, a, summary')].filter(each => !each.textContent.trim())
  .map(each => each.outerHTML)"""


@dataclass
class Room:
    """The desk behind a front that browsers reach at ``here``, and one browser."""

    desk: Desk
    here: str
    chromium: Browser
    pictures: Path

    async def do(self, what: Callable[[Browser], Any]) -> Any:
        """Something in the browser, while the server answers."""
        return await asyncio.to_thread(what, self.chromium)

    async def open(self, path: str, heading: str) -> None:
        await self.do(lambda chromium: chromium.open(f"{self.here}{path}"))
        await self.heading(heading)

    async def read(self, expression: str) -> Any:
        """The value of an expression, once it is truthy."""
        return await self.do(lambda chromium: chromium.until(expression))

    async def now(self, expression: str) -> Any:
        return await self.do(lambda chromium: chromium.js(expression))

    async def heading(self, text: str) -> None:
        await self.read(f"document.querySelector('h1')?.innerText === {text!r} && document.readyState === 'complete'")

    async def click(self, selector: str) -> None:
        await self.do(lambda chromium: chromium.click(selector))

    async def type(self, name: str, text: str) -> None:
        await self.read(f"!!document.getElementById({name!r})?.checkVisibility()")
        await self.now(f"void (document.getElementById({name!r}).value = {text!r})")

    async def press(self, key: str) -> None:
        code = {"Tab": 9, "Enter": 13}[key]
        more = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.do(
                lambda chromium, kind=kind: chromium.do(
                    "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more
                )
            )

    async def tab_to(self, selector: str) -> None:
        """By the keyboard alone."""
        for _ in range(40):
            await self.press("Tab")
            if await self.now(f"document.activeElement?.matches({selector!r})"):
                assert await self.now("document.activeElement.matches(':focus-visible')")
                return
        raise AssertionError(f"{selector} is not reached by the keyboard")

    async def sign_in(self, name: str) -> None:
        await self.do(lambda chromium: chromium.do("Network.clearBrowserCookies"))
        await self.open("/console/handovers", "Sign in")
        await self.type("username", name)
        await self.type("password", PASSWORD)
        await self.click("#by-password button")

    async def enrol(self, name: str) -> list[str]:
        """Sign in, make a passkey on the way; the recovery codes."""
        await self.sign_in(name)
        await self.read("document.getElementById('enrol').checkVisibility()")
        assert await self.now("document.activeElement.id") == "enrol-title"
        await self.click("#make-passkey")
        told = await self.read("document.querySelector('.codes').innerText")
        await self.click("#codes a.button")
        await self.heading("Handovers")
        return str(told).split()

    async def picture(self, name: str) -> None:
        """At the width of a desk and of a telephone, in the light and in the dark, and whether all of it can be read."""
        for width in (1280, 360):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            await self.do(lambda chromium, size=size: chromium.do("Emulation.setDeviceMetricsOverride", **size))
            for scheme in ("dark", "light"):
                media = [{"name": "prefers-color-scheme", "value": scheme}]
                await self.do(lambda chromium, media=media: chromium.do("Emulation.setEmulatedMedia", features=media))
                assert await self.now(_FAINT) == [], (name, width, scheme)
                height = await self.now("document.documentElement.scrollHeight")
                clip = {"x": 0, "y": 0, "width": width, "height": min(height, 6000), "scale": 1}
                taken = await self.do(
                    lambda chromium, clip=clip: chromium.do(
                        "Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True
                    )
                )
                (self.pictures / f"{name}-{width}-{scheme}.png").write_bytes(base64.b64decode(taken["data"]))
            wide = await self.now("document.documentElement.scrollWidth")
            assert wide <= width, f"{name} is {wide} px wide on {width} px"
        await self.do(lambda chromium: chromium.do("Emulation.clearDeviceMetricsOverride"))
        assert await self.now(_UNLABELLED) == [] and await self.now(_UNNAMED) == [], name
        assert await self.now("document.documentElement.lang") == "en"
        assert await self.now("document.querySelectorAll('h1').length") == 1

    def complaints(self) -> list[str]:
        """What the console showed beside the refusals that a test brought about."""
        return [each for each in self.chromium.complaints if "the server responded with a status of 4" not in each]


@pytest.fixture
async def room(house: House, database_url: str, tmp_path: Path) -> AsyncIterator[Room]:
    listening = socket.create_server(("127.0.0.1", 0))
    here = f"http://localhost:{listening.getsockname()[1]}"
    object.__setattr__(house.settings, "public_url", here)
    object.__setattr__(house.settings, "dev", True)
    house.cookies = CookieSessions(house.settings, house.ids)
    world = await World.make(database_url, tmp_path)
    house.clock.simulated = False
    world.clock = house.clock
    world.keys._clock = house.clock
    desk = await Desk(house, world, tmp_path, here).open()
    async with desk.stage.database.begin() as tx:
        await tx.run("UPDATE users SET mfa_enabled = true WHERE username = 'sam'")
    metrics = Metrics(CollectorRegistry())
    front = Front(house.lanes, {}, ids=house.ids, clock=house.clock, metrics=metrics)
    server = uvicorn.Server(uvicorn.Config(front, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    pictures = Path(os.environ.get("BAILIWICK_TEST_PICTURES", tmp_path))
    opened = browser()
    chromium = await asyncio.to_thread(opened.__enter__)
    try:
        chromium.do("WebAuthn.enable")
        chromium.do("WebAuthn.addVirtualAuthenticator", options=_LAPTOP)
        yield Room(desk, here, chromium, pictures)
    finally:
        await asyncio.to_thread(opened.__exit__, None, None, None)
        server.should_exit = True
        await serving
        await world.close()


async def test_a_team_signs_by_a_passkey_on_the_page(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    desk = room.desk
    await room.enrol("sam")
    assert "No handover waits" in await room.now("document.querySelector('main').innerText")
    built = await desk.build()
    await room.open("/console/handovers", "Handovers")
    await room.picture("list")
    await room.click("section a")
    await room.read("!!document.getElementById('signing')")
    await room.picture("waiting")

    # it is a while since he proved himself, so he does again; by the keyboard
    desk.stage.clock.advance(20 * 60)
    await room.tab_to("#by-passkey")
    await room.press("Enter")
    await room.read("document.getElementById('prove').checkVisibility()")
    assert await room.now("document.activeElement.id") == "prove-title"
    assert "prove that it is still you" in await room.now(_TOLD)
    await room.picture("prove")
    await room.tab_to("#prove-passkey")
    await room.press("Enter")
    await room.read(f"{_TOLD} === 'You signed for security, by a passkey.'")
    assert await room.now("document.activeElement.id") == "told"
    await room.picture("signed")
    (signed,) = (await desk.found(built)).signatures
    assert (signed.team, signed.person, signed.how, signed.sha256) == ("security", "sam", "webauthn", built["sha256"])
    client = json.loads(base64.urlsafe_b64decode(signed.assertion["client_data"] + "=="))
    assert client["origin"] == room.here and client["type"] == "webauthn.get"
    assert room.complaints() == []

    # the other three by step-up; accepted, and checked by somebody who has the log's key alone
    for team in ("engineering", "operations", "management"):
        assert (await desk.sign(built, team))[0] == 200
    status, said = await desk.say("olga", "POST", f"/{built['id']}/accept", {"sha256": built["sha256"]})
    assert status == 200, said
    path = await desk.zipped(said)
    key = path.with_suffix(".key")
    key.write_text("".join(f"{each}\n" for each in await desk.trusted()))
    assert await asyncio.to_thread(verify, ["pack", str(path), "--key", str(key), "--accepted"]) == 0
    assert "sam" in capsys.readouterr().out
    await room.open(f"/console/handovers/{built['id']}", _TITLE)
    assert "accepted by olga" in await room.now("document.getElementById('yours').innerText")
    await room.picture("accepted")


async def test_a_team_refuses_with_a_ground_and_a_recovery_code(room: Room) -> None:
    desk = room.desk
    codes = await room.enrol("sam")
    built = await desk.build()
    await room.open(f"/console/handovers/{built['id']}", _TITLE)
    desk.stage.clock.advance(20 * 60)
    await room.click("#refusal summary")
    await room.click("#refusing button")
    assert await room.now("document.querySelector('#reason:invalid') !== null"), "a ground is needed"
    await room.type("reason", "the runbooks <b>are</b> old")
    await room.click("#refusing button")
    await room.type("code", "000000")
    await room.click("#prove-code button[type=submit]")
    told = await room.read(_FAILED)
    assert told.endswith("(invalid_code)")
    await room.picture("wrong-code")
    await room.type("code", codes[0])
    await room.click("#prove-code button[type=submit]")
    await room.read(f"{_TOLD} === 'You refused the pack for security.'")
    found = await desk.found(built)
    assert found.refusal is not None and found.refusal.reason == "the runbooks <b>are</b> old"
    assert "the runbooks <b>are</b> old" in await room.now("document.querySelector('main').innerText")
    await room.picture("refused")
    assert room.complaints() == []


async def _swap(desk: Desk, before: str, after: str) -> None:
    """Alter what the packs say, and their SHA-256 with it, past the trigger that keeps them."""
    async with desk.people.owner.begin() as tx:
        await tx.run("SET LOCAL session_replication_role = replica")
        await tx.run(_SWAP, before=before, after=after)


async def test_what_changed_meanwhile_is_not_signed(room: Room) -> None:
    desk = room.desk
    await room.enrol("sam")
    built = await desk.build()
    await room.open(f"/console/handovers/{built['id']}", _TITLE)
    await _swap(desk, "makers", "others")
    await room.click("#by-passkey")
    told = await room.read(_FAILED)
    assert told.endswith("(handover_changed)")
    # another pack came in its place
    await _swap(desk, "others", "makers")
    await desk.build()
    await room.click("#by-passkey")
    await room.read(f"{_FAILED}.endsWith('(handover_over)')")
    assert (await desk.found(built)).signatures == ()
    assert room.complaints() == []


async def test_the_script_signs_no_hash_but_the_one_on_the_page(room: Room) -> None:
    await room.enrol("sam")
    built = await room.desk.build()
    await room.do(lambda chromium: chromium.do("Page.addScriptToEvaluateOnNewDocument", source=_ANOTHER_HASH))
    await room.open(f"/console/handovers/{built['id']}", _TITLE)
    await room.click("#by-passkey")
    told = await room.read(_FAILED)
    assert told == "What you would sign is not what this page shows. (handover_changed)"


async def test_another_person_has_nothing_of_it(room: Room) -> None:
    """In the same browser, beside sam's passkey, otto signs neither as sam nor by it."""
    desk = room.desk
    await room.enrol("sam")
    built = await desk.build()
    await room.click("#sign-out")
    await room.read("document.getElementById('first')?.checkVisibility()")
    await room.picture("sign-in")
    await room.sign_in("otto")
    await room.heading("Handovers")
    await room.open(f"/console/handovers/{built['id']}", _TITLE)
    assert "You can sign for operations" in await room.now("document.getElementById('yours').innerText")
    assert not await room.now("document.getElementById('by-passkey')")
    await room.click("#by-factor")
    await room.read("document.getElementById('prove').checkVisibility()")
    await room.click("#prove-passkey")
    told = await room.read(_FAILED)
    assert told == "There is no passkey of yours. (conflict)"
    # finn speaks for nobody, viv may not look
    await room.sign_in("finn")
    await room.heading("Handovers")
    await room.open(f"/console/handovers/{built['id']}", _TITLE)
    assert "speak for none" in await room.now("document.querySelector('main').innerText")
    await room.sign_in("viv")
    await room.heading("That did not go")
    await room.picture("denied")
    assert (await desk.found(built)).signatures == ()
    assert room.complaints() == []


async def test_nobody_frames_it(room: Room) -> None:
    async def answer(request: web.Request) -> web.Response:
        framed = f"<iframe src='{room.here}/console/sign-in'></iframe>"
        return web.Response(text=f"<title>elsewhere</title>{framed}", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await room.do(lambda chromium: chromium.open(f"http://127.0.0.1:{runner.addresses[0][1]}/"))
        await room.read("document.title === 'elsewhere' && document.readyState === 'complete'")
        for _ in range(200):
            await room.now("1")
            if any("frame-ancestors" in each for each in room.chromium.complaints):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(room.chromium.complaints)
    finally:
        await runner.cleanup()
