"""The page of a browser whose sign-in by a provider owes its second factor: shown, sent, forged, and over."""

from __future__ import annotations

import base64
import json
import re
from html import unescape
from typing import Any

import pytest
from camera import seen_by_a_camera
from console_page import HTML, Page
from openid_provider import Browser, Provider, connect
from soft_key import SoftKey
from test_saml_sign_in import FORM, Corp

from bailiwick.identity.cookie_sessions import SESSION_COOKIE
from bailiwick.identity.factors import totp
from bailiwick.identity.login.factor_page import COOKIE, PATH
from bailiwick.identity.login.outcomes import PENDING_LIFE
from people_fixtures import Answer, House
from saml_idp import sign

AUTH = "/api/v1/auth"


class Person:
    """Jane, who comes by the OpenID provider, and her browser."""

    def __init__(self, house: House, provider: Provider) -> None:
        self.house = house
        self.provider = provider
        self.page = Page(house)
        self.secret = b""
        self.key = SoftKey()
        self.recovery: list[str] = []

    async def come(self, query: str = "?session=cookie&return_to=/console", accept: str = HTML) -> Answer:
        """Sign in at the provider, as far as it leads."""
        browser = Browser(self.house, self.provider)
        returned = self.provider.authorize(await browser.begin(query))
        back = f"{AUTH}/oidc/corp/callback?code={returned['code']}&state={returned['state']}"
        return self.page.take(await browser.get(back, accept=accept))

    async def shown(self) -> str:
        answer = await self.page.call("GET", PATH, accept=HTML)
        assert answer.status == 200, answer
        return answer.body.decode()

    async def send(self, form: dict[str, str], **headers: str) -> Answer:
        """Send a form of the page as it stands."""
        return await self.page.submit(PATH, {"csrf": field(await self.shown(), "csrf"), **form}, **headers)

    def code(self) -> str:
        return totp.code_at(self.secret, int(self.house.clock.time()) // totp.STEP_S)

    async def token(self) -> str:
        return str((await self.come("", accept="application/json")).json()["access_token"])

    async def enrol_app(self) -> None:
        token = await self.token()
        begun = await self.house.call("POST", f"{AUTH}/factors/totp", {"name": "app"}, token=token)
        self.secret = base64.b32decode(begun.json()["secret"])
        body = {"code": self.code()}
        done = await self.house.call("POST", f"{AUTH}/factors/totp/confirm", body, token=token)
        self.recovery = done.json()["recovery_codes"]
        self.house.clock.advance(60)

    async def enrol_key(self) -> None:
        token = await self.token()
        options = (await self.house.call("POST", f"{AUTH}/factors/webauthn/options", token=token)).json()["publicKey"]
        body = {"credential": self.key.create(options)}
        done = await self.house.call("POST", f"{AUTH}/factors/webauthn/verify", body, token=token)
        assert done.status == 201, done

    async def need_a_factor(self) -> None:
        await self.token()
        async with self.house.database.begin() as tx:
            await tx.run("UPDATE users SET mfa_enabled = true WHERE username = 'jane.doe'")

    async def cookie_sessions(self) -> int:
        return int(await self.house.value("SELECT count(*) FROM sessions WHERE 'mfa' = ANY(amr)"))


def field(html: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', html)
    assert found, html
    return unescape(found[1])


def options(html: str) -> dict[str, Any]:
    found = re.search(r'data-options="([^"]*)"', html)
    assert found, html
    told: dict[str, Any] = json.loads(unescape(found[1]))
    return told


@pytest.fixture
async def jane(house: House, provider: Provider) -> Person:
    await connect(house, provider)
    return Person(house, provider)


# ---------------------------------------------------------------------- who is led there


async def test_a_browser_is_led_to_the_page_and_ends_where_it_wanted_to_go(jane: Person) -> None:
    await jane.enrol_app()
    led = await jane.come()
    assert (led.status, led.headers["location"]) == (303, PATH)
    (told,) = [cookie for cookie in led.cookies if cookie.startswith(COOKIE)]
    assert told.split("; ")[1:] == ["Max-Age=300", "Path=/", "HttpOnly", "Secure", "SameSite=Lax"]
    assert led.headers["cache-control"] == "no-store" and not led.body
    assert "jane.doe" in await jane.shown()

    answer = await jane.send({"code": jane.code()})
    assert (answer.status, answer.headers["location"]) == (303, "/console"), answer
    assert COOKIE not in jane.page.cookies, "the page's cookie is forgotten"
    me = (await jane.page.call("GET", f"{AUTH}/me")).json()
    row = await jane.house.value(
        "SELECT json_build_array(method, amr, origin->>'provider') FROM sessions WHERE id = :id", id=me["session_id"]
    )
    assert row == ["oidc", ["fed", "pwd", "otp", "mfa"], "corp"]
    assert (await jane.house.events())[-1].code == "BW1001"


@pytest.mark.parametrize("accept", ["application/json", "*/*", "", "text/html, application/json"])
async def test_a_program_is_told_as_ever(jane: Person, accept: str) -> None:
    await jane.enrol_app()
    answer = await jane.come(accept=accept)
    assert (answer.status, answer.json()["reason"]) == (401, "mfa_required")
    assert answer.json()["mfa_token"].startswith("bwm_") and COOKIE not in jane.page.cookies


async def test_another_refusal_is_not_a_page(jane: Person) -> None:
    await jane.token()
    async with jane.house.database.begin() as tx:
        await tx.run("UPDATE users SET is_active = false WHERE username = 'jane.doe'")
    answer = await jane.come()
    assert (answer.status, answer.json()["reason"]) == (401, "account_disabled")


async def test_after_saml_it_is_the_same_page(house: House) -> None:
    corp = Corp(house)
    await corp.connect()
    assert (await corp.sign_in()).status == 200
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET mfa_enabled = true WHERE username = 'jane'")
    begun = await corp.begin("?session=cookie&return_to=/console")
    said = corp.said(begun)
    response = said.response(sign(said.assertion()))
    FORM["accept"] = HTML
    try:
        led = await corp.post(response, begun)
    finally:
        del FORM["accept"]
    assert (led.status, led.headers["location"]) == (303, PATH)
    assert any(cookie.startswith("__Host-bw-saml-") and "Max-Age=0" in cookie for cookie in led.cookies)
    page = Page(house)
    page.take(led)
    html = (await page.call("GET", PATH, accept=HTML)).body.decode()
    assert "needs a second factor" in html
    begun_app = await page.submit(PATH, {"csrf": field(html, "csrf"), "step": "app"})
    secret = base64.b32decode(re.search(r"<code>([A-Z2-7]{32})</code>", begun_app.body.decode())[1])  # type: ignore[index]
    code = totp.code_at(secret, int(house.clock.time()) // totp.STEP_S)
    answer = await page.submit(PATH, {"csrf": field(html, "csrf"), "code": code})
    assert answer.status == 200 and 'href="/console"' in answer.body.decode()
    assert (await page.call("GET", f"{AUTH}/me")).json()["username"] == "jane"


async def test_each_zone_has_a_page_of_its_own(jane: Person) -> None:
    await jane.house.zone("second")
    answer = await jane.page.call("GET", PATH, accept=HTML, x_test_zone="second", cookie=f"{COOKIE}=bwm_{'a' * 43}")
    assert answer.status == 401 and b"over" in answer.body
    assert answer.cookies[0].startswith(f"{COOKIE}-second=;")


# ---------------------------------------------------------------------- what it is made of


async def test_the_page_runs_nothing_inline_and_tells_no_token(jane: Person) -> None:
    await jane.enrol_key()
    await jane.come()
    answer = await jane.page.call("GET", PATH, accept=HTML)
    html = answer.body.decode()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "same-origin", "or browsers would send Origin: null with the form"
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "form-action 'self';" in policy
    assert jane.page.cookies[COOKIE] not in html
    assert re.findall(r"<script[^>]*>", html) == ['<script src="second-factor/passkey.js">']
    assert "<style" not in html and not re.search(r"\s(style|on\w+)=", html)
    for name, kind in (("passkey.js", "text/javascript"), ("page.css", "text/css")):
        file = await jane.page.call("GET", f"{PATH}/{name}")
        assert file.status == 200 and file.headers["content-type"].startswith(kind)
    for name in ("frame.html", "..%2fforms.py", "other"):
        assert (await jane.page.call("GET", f"{PATH}/{name}")).status == 404


async def test_the_browser_may_go_on_to_a_page_that_the_provider_lists(house: House, provider: Provider) -> None:
    await connect(house, provider, return_to=["https://console.example.com"])
    jane = Person(house, provider)
    await jane.enrol_app()
    await jane.come("?session=cookie&return_to=https://console.example.com/in?a=1")
    policy = (await jane.page.call("GET", PATH, accept=HTML)).headers["content-security-policy"]
    assert "form-action 'self' https://console.example.com;" in policy
    answer = await jane.send({"code": jane.code()})
    assert answer.headers["location"].startswith("https://console.example.com/in?a=")


# ---------------------------------------------------------------------- each factor


async def test_a_recovery_code_does(jane: Person) -> None:
    await jane.enrol_app()
    await jane.come()
    assert (await jane.send({"code": f" {jane.recovery[0]} "})).status == 303
    await jane.come()
    again = await jane.send({"code": jane.recovery[0]})
    assert again.status == 401 and "not right" in again.body.decode()


async def test_a_passkey_does(jane: Person) -> None:
    await jane.enrol_key()
    await jane.come()
    html = await jane.shown()
    assert "Recovery code" in html, "the way of who runs no scripts"
    credential = json.dumps(jane.key.get(options(html)))
    answer = await jane.page.submit(PATH, {"csrf": field(html, "csrf"), "credential": credential})
    assert answer.status == 303, answer
    assert "hwk" in await jane.house.value("SELECT amr FROM sessions ORDER BY created_at DESC, id DESC LIMIT 1")
    # once, and nothing else that looks like one
    await jane.come()
    for wrong in (credential, "{}", "[]", "{", "null", '{"id": "\\u0000"}'):
        refused = await jane.send({"credential": wrong})
        assert refused.status == 401, refused
    assert b"over" in refused.body, "it was tried often enough"


async def test_who_needs_a_factor_enrols_an_app_on_the_page(jane: Person) -> None:
    await jane.need_a_factor()
    await jane.come()
    html = await jane.shown()
    assert "data-enrol" in html and 'name="code"' not in html
    shown = (await jane.send({"step": "app"})).body.decode()
    found = re.search(r"<code>([A-Z2-7]{32})</code>", shown)
    assert found and 'href="otpauth://totp/' in shown
    picture, link = re.search(r'<img src="([^"]+)"', shown), re.search(r'href="(otpauth:[^"]+)"', shown)
    assert picture and link and seen_by_a_camera(picture[1]) == unescape(link[1])
    jane.secret = base64.b32decode(found[1])
    wrong = await jane.send({"code": "000000"})
    assert wrong.status == 401 and found[1] not in wrong.body.decode() and 'name="code"' in wrong.body.decode()
    answer = await jane.send({"code": jane.code()})
    html = answer.body.decode()
    assert answer.status == 200 and len(re.findall(r"<li><code>", html)) == 10 and 'href="/console"' in html
    assert SESSION_COOKIE in jane.page.cookies and COOKIE not in jane.page.cookies
    assert (await jane.page.call("GET", f"{AUTH}/me")).json()["username"] == "jane.doe"


async def test_who_needs_a_factor_enrols_a_passkey_on_the_page(jane: Person) -> None:
    await jane.need_a_factor()
    await jane.come()
    html = await jane.shown()
    credential = json.dumps(jane.key.create(options(html)))
    answer = await jane.page.submit(PATH, {"csrf": field(html, "csrf"), "credential": credential})
    assert answer.status == 200 and b"Your recovery codes" in answer.body
    assert (await jane.page.call("GET", f"{AUTH}/me")).status == 200


async def test_who_wanted_tokens_gets_them_in_the_end(jane: Person) -> None:
    await jane.enrol_app()
    assert (await jane.come("?return_to=/console")).status == 303
    answer = await jane.send({"code": jane.code()})
    told = answer.json()
    assert (answer.status, told["user"]["username"], told["return_to"]) == (200, "jane.doe", "/console")
    assert told["access_token"] and SESSION_COOKIE not in jane.page.cookies


# ---------------------------------------------------------------------- forged, wrong, over

FORGED = [
    {"origin": "https://evil.example.com", "sec_fetch_site": "cross-site"},
    {"origin": "null"},
    {"origin": "http://bailiwick.example.com"},
    {"sec_fetch_site": "same-site"},
    {"origin": "", "sec_fetch_site": ""},
]


@pytest.mark.parametrize("headers", FORGED)
async def test_another_site_sends_nothing_for_it(jane: Person, headers: dict[str, str]) -> None:
    await jane.enrol_app()
    await jane.come()
    refused = await jane.send({"code": jane.code()}, **headers)
    assert (refused.status, refused.json()["reason"]) == (403, "csrf_refused")
    assert await jane.cookie_sessions() == 0
    assert (await jane.send({"code": jane.code()})).status == 303, "which spoils nothing"


async def test_the_token_against_forgery_is_of_this_sign_in(jane: Person) -> None:
    await jane.enrol_app()
    await jane.come()
    other = field(await jane.shown(), "csrf")
    await jane.come()
    for csrf in ("", "a" * 43, other, "é"):
        refused = await jane.page.submit(PATH, {"csrf": csrf, "code": jane.code()})
        assert (refused.status, refused.json()["reason"]) == (403, "csrf_refused"), csrf
    assert await jane.cookie_sessions() == 0


async def test_guessing_ends_it(jane: Person) -> None:
    await jane.enrol_app()
    await jane.come()
    for _ in range(4):
        wrong = await jane.send({"code": "000000"})
        assert wrong.status == 401 and 'role="alert"' in wrong.body.decode(), wrong
    last = await jane.page.submit(PATH, {"csrf": field(await jane.shown(), "csrf"), "code": "000000"})
    assert last.status == 401 and b"over" in last.body and COOKIE not in jane.page.cookies
    failures = [event for event in await jane.house.events() if event.reasons == ("invalid_code",)]
    assert len(failures) == 5 and await jane.cookie_sessions() == 0


async def test_failures_are_counted_by_network_as_everywhere(jane: Person) -> None:
    await jane.enrol_app()
    jane.house.sign_in_throttle = jane.house.throttle(2)
    await jane.come()
    answers = [await jane.send({"code": "000000"}) for _ in range(3)]
    assert [answer.status for answer in answers] == [401, 401, 429]
    assert "Wait a minute" in answers[2].body.decode()


async def test_it_lasts_five_minutes(jane: Person) -> None:
    await jane.enrol_app()
    await jane.come()
    html = await jane.shown()
    jane.house.clock.advance(PENDING_LIFE.total_seconds() + 1)
    for answer in (
        await jane.page.call("GET", PATH, accept=HTML, cookie=f"{COOKIE}={jane.page.cookies[COOKIE]}"),
        await jane.page.submit(PATH, {"csrf": field(html, "csrf"), "code": jane.code()}),
    ):
        assert answer.status == 401 and b"over" in answer.body


async def test_without_a_sign_in_there_is_nothing_to_see(house: House) -> None:
    page = Page(house)
    for answer in (await page.call("GET", PATH, accept=HTML), await page.submit(PATH, {"code": "123456"})):
        assert answer.status == 401 and b"Start again" in answer.body


@pytest.mark.parametrize(
    "raw", [b"csrf=a&csrf=b", b"code=" + b"1" * 41, b"code=%ff", b"a", b"csrf=%00", b"&".join([b"x=1"] * 30), b"\xff"]
)
async def test_an_odd_form_is_told_so(jane: Person, raw: bytes) -> None:
    await jane.enrol_app()
    await jane.come()
    cookie = f"{COOKIE}={jane.page.cookies[COOKIE]}"
    headers = {**FORM, "cookie": cookie, "origin": "https://bailiwick.example.com"}
    answer = await jane.house.call("POST", PATH, raw=raw, headers=headers)
    assert answer.status in (400, 403), answer
