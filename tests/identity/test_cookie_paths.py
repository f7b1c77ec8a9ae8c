"""Every way of signing in may end in a cookie session, which is then the same session whichever way led to it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from console_page import LOGIN, Page
from openid_provider import Browser, Provider, connect
from slapd import BASE, HOST, READER, READER_WORD, WORD, Slapd, cn, running
from soft_key import SoftKey
from test_saml_sign_in import Corp

from bailiwick.identity.cookie_sessions import REFRESH_COOKIE, SESSION_COOKIE
from bailiwick.identity.factors import totp
from bailiwick.identity.login.ldap import Directories, LdapLogin
from bailiwick.inventory.resolver import Resolver
from bailiwick.kernel.settings import Settings
from people_fixtures import PASSWORD, Answer, House, Names
from saml_idp import sign

AUTH = "/api/v1/auth"


class Rig:
    """A house with a provider of each kind."""

    def __init__(self, house: House, slapd: Slapd, provider: Provider) -> None:
        self.house = house
        self.slapd = slapd
        self.provider = provider
        self.page = Page(house)
        self.secret = b""
        self.key = SoftKey()

    async def as_cookie(self, path: str, body: dict[str, Any]) -> Answer:
        return await self.page.call("POST", f"{AUTH}/{path}", body, x_bailiwick_session="cookie")

    async def first_factor(self) -> str:
        """The `mfa_token` of a sign-in by password alone."""
        due = await self.as_cookie("login/local", {"username": "jane", "password": PASSWORD})
        assert due.status == 401 and not due.cookies, due
        return str(due.json()["mfa_token"])

    def code(self) -> str:
        return totp.code_at(self.secret, int(self.house.clock.time()) // totp.STEP_S)

    async def enrol_app(self) -> None:
        token = await self.house.signed_in("jane", "viewer")
        begun = await self.house.call("POST", f"{AUTH}/factors/totp", {"name": "app"}, token=token)
        self.secret = base64.b32decode(begun.json()["secret"])
        body = {"code": self.code()}
        assert (await self.house.call("POST", f"{AUTH}/factors/totp/confirm", body, token=token)).status == 200
        self.house.clock.advance(60)

    async def enrol_key(self) -> None:
        token = await self.house.signed_in("jane", "viewer")
        options = (await self.house.call("POST", f"{AUTH}/factors/webauthn/options", token=token)).json()["publicKey"]
        body = {"credential": self.key.create(options)}
        assert (await self.house.call("POST", f"{AUTH}/factors/webauthn/verify", body, token=token)).status == 201

    async def need_a_factor(self) -> None:
        await self.house.user("jane", "viewer")
        async with self.house.database.begin() as tx:
            await tx.run("UPDATE users SET mfa_enabled = true WHERE username = 'jane'")


@pytest.fixture(scope="module")
def slapd() -> Iterator[Slapd]:
    with running() as made:
        yield made


@pytest.fixture
async def rig(house: House, slapd: Slapd, provider: Provider) -> AsyncIterator[Rig]:
    settings = Settings(data_dir=Path("/tmp"), allow_upstream_networks=("127.0.0.0/8",))
    resolver = Resolver(house.database, house.clock, house.recorder, settings, Names({HOST: ["127.0.0.1"]}))
    house.directories = Directories(house.providers, resolver, house.clock)
    shared = (house.database, house.clock, house.recorder, house.providers)
    house.ldap_login = LdapLogin(*shared, house.admissions, house.directories)
    yield Rig(house, slapd, provider)


async def by_password(rig: Rig) -> Answer:
    await rig.house.user("jane", "viewer")
    return await rig.page.call("POST", LOGIN, {"username": "jane", "password": PASSWORD}, x_bailiwick_session="cookie")


async def by_directory(rig: Rig) -> Answer:
    options = {
        "urls": [rig.slapd.ldaps], "ca": rig.slapd.authority.pem, "bind_dn": READER, "base_dn": BASE,
        "roles": {cn("engineers"): "viewer"},
    }  # fmt: skip
    body = {"name": "corp", "kind": "ldap", "options": options, "secrets": {"bind_password": READER_WORD}}
    made = await rig.house.call("POST", "/api/v1/identity-providers", body, token=await rig.house.signed_in("root"))
    assert made.status == 201, made
    return await rig.as_cookie("login/ldap", {"username": "jane", "password": WORD})


async def by_openid(rig: Rig, *, onward: str = "&return_to=/console") -> Answer:
    await connect(rig.house, rig.provider, roles={"ops": "viewer"})
    browser = Browser(rig.house, rig.provider)
    at_provider = await browser.begin(f"?session=cookie{onward}")
    return rig.page.take(await browser.come_back(rig.provider.authorize(at_provider)))


async def by_openid_to_nowhere(rig: Rig) -> Answer:
    return await by_openid(rig, onward="")


async def by_saml(rig: Rig) -> Answer:
    corp = Corp(rig.house)
    assert (await corp.connect()).status == 201
    begun = await corp.begin("?session=cookie&return_to=/console")
    said = corp.said(begun)
    return rig.page.take(await corp.post(said.response(sign(said.assertion())), begun))


async def by_passkey(rig: Rig) -> Answer:
    await rig.enrol_key()
    options = (await rig.page.call("POST", f"{AUTH}/login/passkey/options")).json()["publicKey"]
    return await rig.as_cookie("login/passkey/verify", {"credential": rig.key.get(options)})


async def by_password_and_app(rig: Rig) -> Answer:
    await rig.enrol_app()
    return await rig.as_cookie("mfa", {"mfa_token": await rig.first_factor(), "code": rig.code()})


async def by_password_and_passkey(rig: Rig) -> Answer:
    await rig.enrol_key()
    pending = {"mfa_token": await rig.first_factor()}
    options = (await rig.page.call("POST", f"{AUTH}/mfa/webauthn/options", pending)).json()["publicKey"]
    return await rig.as_cookie("mfa/webauthn/verify", {**pending, "credential": rig.key.get(options)})


async def by_password_enrolling_an_app(rig: Rig) -> Answer:
    await rig.need_a_factor()
    pending = {"mfa_token": await rig.first_factor()}
    begun = await rig.page.call("POST", f"{AUTH}/mfa/enrolment", pending)
    rig.secret = base64.b32decode(begun.json()["secret"])
    return await rig.as_cookie("mfa/enrolment/confirm", {**pending, "code": rig.code()})


async def by_password_enrolling_a_passkey(rig: Rig) -> Answer:
    await rig.need_a_factor()
    pending = {"mfa_token": await rig.first_factor()}
    asked = (await rig.page.call("POST", f"{AUTH}/mfa/enrolment/webauthn/options", pending)).json()["publicKey"]
    return await rig.as_cookie("mfa/enrolment/webauthn/verify", {**pending, "credential": rig.key.create(asked)})


# each way in, how the session says that it was opened, and by what
WAYS: dict[Callable[[Rig], Awaitable[Answer]], tuple[str, list[str]]] = {
    by_password: ("local", ["pwd"]),
    by_directory: ("ldap", ["pwd"]),
    by_openid: ("oidc", ["fed", "pwd"]),
    by_openid_to_nowhere: ("oidc", ["fed", "pwd"]),
    by_saml: ("saml", ["fed"]),
    by_passkey: ("passkey", ["hwk", "user", "mfa"]),
    by_password_and_app: ("local", ["pwd", "otp", "mfa"]),
    by_password_and_passkey: ("local", ["pwd", "hwk", "user", "mfa"]),
    by_password_enrolling_an_app: ("local", ["pwd", "otp", "mfa"]),
    by_password_enrolling_a_passkey: ("local", ["pwd", "hwk", "mfa"]),
}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_cookie_session_is_the_same_whichever_way_led_to_it(
    rig: Rig, way: Callable[[Rig], Awaitable[Answer]]
) -> None:
    page, house = rig.page, rig.house
    answer = await way(rig)
    assert answer.status in (200, 303), answer
    if answer.status == 303:
        assert answer.headers["location"] == "/console"
    assert not any(name in answer.body for name in (b"access_token", b"refresh_token", b'"token"'))
    held = [cookie for cookie in answer.cookies if cookie.split("=")[0] in (SESSION_COOKIE, REFRESH_COOKIE)]
    assert len(held) == 2
    assert all("; HttpOnly" in cookie and "; Secure" in cookie for cookie in held)
    session = (await page.call("GET", f"{AUTH}/me")).json()["session_id"]
    row = await house.value("SELECT json_build_array(method, amr) FROM sessions WHERE id = :id", id=session)
    assert row == [*WAYS[way]]

    # it changes nothing without its token against forgery, which it can ask for
    page.csrf = ""
    refused = await page.call("POST", f"{AUTH}/refresh")
    assert (refused.status, refused.json()["reason"]) == (403, "csrf_refused")
    assert (await page.call("GET", f"{AUTH}/csrf")).json()["csrf_token"] == page.csrf != ""
    before = page.cookies[REFRESH_COOKIE]
    assert (await page.call("POST", f"{AUTH}/refresh")).status == 200 and page.cookies[REFRESH_COOKIE] != before
    assert (await page.call("GET", f"{AUTH}/me")).json()["session_id"] == session

    kept = dict(page.cookies)
    assert (await page.call("POST", f"{AUTH}/logout")).status == 204
    assert not {SESSION_COOKIE, REFRESH_COOKIE} & page.cookies.keys()
    page.cookies = kept
    assert (await page.call("GET", f"{AUTH}/me")).json()["reason"] == "session_ended"
    assert (await page.call("POST", f"{AUTH}/refresh")).json()["reason"] == "session_ended"


@pytest.mark.parametrize("way", [by_directory, by_passkey, by_password_and_app], ids=lambda way: way.__name__)
async def test_another_site_s_page_signs_nobody_in(rig: Rig, way: Callable[[Rig], Awaitable[Answer]]) -> None:
    async def elsewhere(path: str, body: dict[str, Any]) -> Answer:
        return await rig.page.call(
            "POST", f"{AUTH}/{path}", body, x_bailiwick_session="cookie", origin="https://evil.example.com",
            sec_fetch_site="cross-site",
        )  # fmt: skip

    rig.as_cookie = elsewhere  # type: ignore[method-assign]
    rig.first_factor = _owed(rig)  # type: ignore[method-assign]
    refused = await way(rig)
    assert (refused.status, refused.json()["reason"]) == (403, "csrf_refused"), refused
    assert not refused.cookies


def _owed(rig: Rig) -> Callable[[], Awaitable[str]]:
    async def owed() -> str:
        due = await rig.house.call("POST", LOGIN, {"username": "jane", "password": PASSWORD})
        return str(due.json()["mfa_token"])

    return owed
