"""Sessions of browsers: the same session as by tokens, in cookies no script reads, and no other site's request by them."""

from __future__ import annotations

import base64

import pytest
from console_page import HERE, LOGIN, Page
from openid_provider import Browser, Provider, connect

from bailiwick.identity.cookie_sessions import PLAIN_SESSION_COOKIE, REFRESH_COOKIE, SESSION_COOKIE, CookieSessions
from bailiwick.identity.factors import totp
from people_fixtures import PASSWORD, House


@pytest.fixture
async def page(house: House) -> Page:
    await house.user("root")
    page = Page(house)
    assert (await page.sign_in()).status == 200
    return page


async def test_a_sign_in_sets_the_cookies_and_tells_no_token(house: House) -> None:
    await house.user("root")
    answer = await Page(house).sign_in()
    assert answer.status == 200
    told = answer.json()
    assert {"access_token", "token", "refresh_token"}.isdisjoint(told) and len(told["csrf_token"]) == 43
    assert (told["user"]["username"], told["must_change_password"]) == ("root", False)
    session, refresh = answer.cookies
    assert session.startswith(f"{SESSION_COOKIE}=")
    assert session.split("; ")[1:] == ["Max-Age=43200", "Path=/", "HttpOnly", "Secure", "SameSite=Lax"]
    assert refresh.startswith(f"{REFRESH_COOKIE}=")
    path = "Path=/api/v1/auth/refresh"
    assert refresh.split("; ")[1:] == ["Max-Age=43200", path, "HttpOnly", "Secure", "SameSite=Strict"]
    assert answer.headers["cache-control"] == "no-store"


async def test_without_asking_nothing_becomes_a_cookie(house: House) -> None:
    await house.user("root")
    answer = await house.call("POST", LOGIN, {"username": "root", "password": PASSWORD})
    assert answer.status == 200 and not answer.cookies and "access_token" in answer.json()
    asked = {"x-bailiwick-session": "sugar", "origin": HERE}
    odd = await house.call("POST", LOGIN, {"username": "root", "password": PASSWORD}, headers=asked)
    assert (odd.status, odd.json()["reason"]) == (400, "invalid_request")


async def test_the_cookie_reads_and_the_session_s_token_changes(page: Page) -> None:
    assert (await page.call("GET", "/api/v1/auth/me", origin="", sec_fetch_site="", x_csrf_token="")).status == 200
    body = {"username": "eve", "email": "eve@example.com", "role": "viewer"}
    assert (await page.call("POST", "/api/v1/users", body)).status == 201
    assert (await page.call("GET", "/api/v1/auth/csrf")).json() == {"csrf_token": page.csrf}


FORGED = [
    {"x_csrf_token": ""},
    {"x_csrf_token": "a" * 43},
    {"origin": "https://evil.example.com"},
    {"origin": "null"},
    {"origin": "http://bailiwick.example.com"},
    {"origin": "https://bailiwick.example.com.evil.example"},
    {"origin": "https://bailiwick.example.com:444"},
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-site"},
    {"sec_fetch_site": "none"},
    {"origin": "", "sec_fetch_site": ""},
]


@pytest.mark.parametrize("headers", FORGED)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/users"),
        ("PATCH", "/api/v1/users/root"),
        ("DELETE", "/api/v1/users/root"),
        ("POST", "/api/v1/auth/logout"),
        ("POST", "/api/v1/auth/refresh"),
        ("POST", "/api/v1/auth/oidc/logout"),
    ],
)
async def test_what_another_site_sends_changes_nothing(
    page: Page, method: str, path: str, headers: dict[str, str]
) -> None:
    refused = await page.call(method, path, **headers)
    assert (refused.status, refused.json()["reason"]) == (403, "csrf_refused"), headers
    assert not refused.cookies
    assert await page.house.value("SELECT count(*) FROM sessions WHERE ended_at IS NULL") == 1
    assert await page.house.value("SELECT count(*) FROM users") == 1


async def test_one_header_of_the_browser_s_two_is_enough(page: Page) -> None:
    assert (await page.call("POST", "/api/v1/auth/recovery-codes", origin="")).status == 409
    assert (await page.call("POST", "/api/v1/auth/recovery-codes", sec_fetch_site="")).status == 409


async def test_nobody_is_signed_in_by_another_site(house: House) -> None:
    await house.user("root")
    refused = await Page(house).sign_in(origin="https://evil.example.com", sec_fetch_site="cross-site")
    assert (refused.status, refused.json()["reason"]) == (403, "csrf_refused") and not refused.cookies


async def test_the_token_of_one_session_is_no_use_in_another(page: Page) -> None:
    other = Page(page.house)
    await other.sign_in()
    assert other.csrf != page.csrf
    refused = await other.call("POST", "/api/v1/auth/logout", x_csrf_token=page.csrf)
    assert refused.json()["reason"] == "csrf_refused"


async def test_a_bearer_beside_the_cookie_is_what_counts(page: Page) -> None:
    token = await page.house.signed_in("ann", "viewer")
    me = await page.call("GET", "/api/v1/auth/me", authorization=f"Bearer {token}")
    assert me.json()["username"] == "ann"
    # and needs nothing against forgery, as no browser sends one by itself
    ended = await page.call("POST", "/api/v1/auth/logout", authorization=f"Bearer {token}", x_csrf_token="", origin="")
    assert ended.status == 204 and not ended.cookies
    assert (await page.call("GET", "/api/v1/auth/me")).json()["username"] == "root"
    # nor does the cookie stand in for another kind of credential, or for one that does not hold
    for credential in ("Basic cm9vdDpyb290", "Bearer "):
        refused = await page.call("GET", "/api/v1/auth/me", authorization=credential)
        assert refused.status == 401, credential


async def test_refreshing_rotates_and_twice_ends_the_session(page: Page) -> None:
    before = dict(page.cookies)
    answer = await page.call("POST", "/api/v1/auth/refresh")
    assert answer.status == 200 and len(answer.cookies) == 2 and "refresh_token" not in answer.json()
    assert page.cookies[REFRESH_COOKIE] != before[REFRESH_COOKIE]
    assert answer.json()["csrf_token"] == page.csrf, "other pages of the browser go on with theirs"
    page.cookies = before
    again = await page.call("POST", "/api/v1/auth/refresh")
    assert (again.status, again.json()["reason"]) == (401, "refresh_reused")
    assert (await page.call("GET", "/api/v1/auth/me")).json()["reason"] == "session_ended"


async def test_without_any_refresh_token_it_says_so(house: House) -> None:
    answer = await house.call("POST", "/api/v1/auth/refresh")
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")


async def test_signing_out_ends_the_session_and_has_the_browser_forget_it(page: Page) -> None:
    held = dict(page.cookies)
    answer = await page.call("POST", "/api/v1/auth/logout")
    assert answer.status == 204 and page.cookies == {}
    assert all("Max-Age=0" in cookie for cookie in answer.cookies) and len(answer.cookies) == 2
    page.cookies = held
    assert (await page.call("GET", "/api/v1/auth/me")).json()["reason"] == "session_ended"


async def test_an_administrator_s_revocation_holds_on_cookies(page: Page) -> None:
    house = page.house
    victim = Page(house)
    await house.user("eve", "viewer")
    await victim.sign_in("eve")
    session = await house.value("SELECT id FROM sessions WHERE username = 'eve'")
    assert (await page.call("DELETE", f"/api/v1/sessions/{session}")).status == 204
    assert (await victim.call("GET", "/api/v1/auth/me")).json()["reason"] == "session_ended"
    assert (await victim.call("POST", "/api/v1/auth/refresh")).json()["reason"] == "session_ended"


async def test_an_idle_session_is_not_refreshed(page: Page) -> None:
    page.house.clock.advance(page.house.settings.session_idle_s + 1)
    assert (await page.call("POST", "/api/v1/auth/refresh")).json()["reason"] == "session_ended"


@pytest.mark.parametrize("value", ['"a.b.c~ssssssssssssssssssss"', "a.b.c", "bwk_aaaa", "a.b.c~short", "~", "a" * 5000])
async def test_an_odd_cookie_is_nobody(page: Page, value: str) -> None:
    answer = await page.call("GET", "/api/v1/auth/me", cookie=f"{SESSION_COOKIE}={value}")
    assert answer.status in (400, 401), answer
    # and keeps nobody from signing in
    assert (await page.sign_in()).status == 200


async def test_two_session_cookies_are_refused(page: Page) -> None:
    cookie = f"{SESSION_COOKIE}={page.cookies[SESSION_COOKIE]}"
    answer = await page.call("GET", "/api/v1/auth/me", cookie=f"{cookie}; {cookie}")
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")


async def test_an_openid_provider_s_answer_sets_cookies_and_goes_on(house: House, provider: Provider) -> None:
    await connect(house, provider)
    browser = Browser(house, provider)
    at_provider = await browser.begin("?session=cookie&return_to=/console")
    answer = await browser.come_back(provider.authorize(at_provider))
    assert (answer.status, answer.headers["location"]) == (303, "/console")
    page = Page(house)
    page.take(answer)
    assert SESSION_COOKIE in page.cookies and REFRESH_COOKIE in page.cookies
    me = await page.call("GET", "/api/v1/auth/me")
    assert me.status == 200
    page.csrf = (await page.call("GET", "/api/v1/auth/csrf")).json()["csrf_token"]
    signed_out = await page.call("POST", "/api/v1/auth/oidc/logout")
    assert signed_out.status == 200 and page.cookies == {}


async def test_after_a_second_factor_it_is_cookies_too(page: Page) -> None:
    house = page.house
    begun = await page.call("POST", "/api/v1/auth/factors/totp", {"name": "app"})
    assert begun.status == 201, begun
    secret = base64.b32decode(begun.json()["secret"])

    def code() -> str:
        return totp.code_at(secret, int(house.clock.time()) // totp.STEP_S)

    assert (await page.call("POST", "/api/v1/auth/factors/totp/confirm", {"code": code()})).status == 200
    house.clock.advance(60)
    due = await Page(house).sign_in()
    assert due.json()["reason"] == "mfa_required" and not due.cookies
    answered = Page(house)
    body = {"mfa_token": due.json()["mfa_token"], "code": code()}
    answer = await answered.call("POST", "/api/v1/auth/mfa", body, x_bailiwick_session="cookie")
    assert answer.status == 200 and SESSION_COOKIE in answered.cookies and "access_token" not in answer.json()
    # and a step-up of such a session renews its cookie
    house.clock.advance(60)
    again = await answered.call("POST", "/api/v1/auth/step-up", {"code": code()})
    assert again.status == 200 and len(again.cookies) == 1 and "access_token" not in again.json()


async def test_over_plain_http_the_names_differ(house: House) -> None:
    local = house.settings.model_copy(update={"dev": True, "public_url": "http://127.0.0.1:8080"})
    house.cookies = CookieSessions(local, house.ids)
    await house.user("root")
    page = Page(house)
    answer = await page.sign_in(origin="http://127.0.0.1:8080")
    assert answer.status == 200 and PLAIN_SESSION_COOKIE in page.cookies
    assert not any("Secure" in cookie for cookie in answer.cookies)
    assert (await page.call("GET", "/api/v1/auth/me")).status == 200


async def test_each_zone_has_cookies_of_its_own(page: Page) -> None:
    house = page.house
    await house.zone("second")
    await house.user("root", zone="second")
    first = dict(page.cookies)
    answer = await page.sign_in(x_test_zone="second")
    assert answer.status == 200 and page.cookies.items() > first.items(), "the other zone's session goes on beside it"
    assert "Path=/z/second/api/v1/auth/refresh" in answer.cookies[1]
    assert (await page.call("GET", "/api/v1/auth/me", x_test_zone="second")).json()["zone"] == "second"
    assert (await page.call("GET", "/api/v1/auth/me")).json()["zone"] == "default"
