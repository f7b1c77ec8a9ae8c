"""Signing in by an OpenID provider that is right, that is wrong, and that wants to be somebody else."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from joserfc.jwk import ECKey, RSAKey
from openid_provider import (
    CLIENT,
    SUBJECT,
    Browser,
    Provider,
    connect,
    failure,
    refused,
    running,
)

from bailiwick.identity.factors import totp
from people_fixtures import Answer, House


def need_a_factor(house: House, role: str) -> None:
    """Whoever has the role needs a second factor from now on."""
    house.sign_ins._settings = house.settings.model_copy(update={"mfa_roles": (role,)})


# ---------------------------------------------------------------------- a provider that is right


async def test_somebody_new_signs_in_with_the_role_of_his_group(house: House, browser: Browser) -> None:
    answer = await browser.sign_in()
    assert answer.status == 200, answer.json()
    told = answer.json()
    assert told["user"] == {"username": "jane.doe", "role": "operator", "email": "jane.doe@example.com"}
    assert told["refresh_token"] and answer.headers["cache-control"] == "no-store"
    assert not browser.cookies, "the cookie of the sign-in is forgotten"
    me = await house.call("GET", "/api/v1/auth/me", token=told["access_token"])
    assert (me.status, me.json()["username"]) == (200, "jane.doe")
    session = (await house.call("GET", "/api/v1/sessions", token=told["access_token"])).json()["items"][0]
    assert (session["method"], session["amr"]) == ("oidc", ["fed", "pwd"])
    await house.call("POST", "/api/v1/auth/logout", token=told["access_token"])
    again = await browser.sign_in()
    assert again.json()["user"]["username"] == "jane.doe"
    assert await house.value("SELECT count(*) FROM users WHERE username <> 'root'") == 1


async def test_what_the_browser_takes_along_is_bound_to_it(house: House, browser: Browser, provider: Provider) -> None:
    answer = await browser.get("/api/v1/auth/oidc/corp/login")
    asked = dict(parse_qsl(urlsplit(answer.headers["location"]).query))
    assert answer.headers["location"].startswith(f"{provider.issuer}/authorize?tenant=1&")
    assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
    assert asked["scope"] == "openid profile email"
    assert asked["redirect_uri"] == f"{house.settings.issuer}/api/v1/auth/oidc/corp/callback"
    assert min(len(asked[name]) for name in ("state", "nonce", "code_challenge")) == 43
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Path=/" in cookie and "Max-Age=600" in cookie
    row = await house.value("SELECT row_to_json(o)::text FROM oidc_sign_ins o")
    secrets = [asked["state"], asked["nonce"], *browser.cookies.values()]
    assert not any(secret in row for secret in secrets), "the database must not be enough to finish a sign-in"


async def test_the_names_of_the_seed_lead_to_the_same(house: House, browser: Browser, provider: Provider) -> None:
    for query in ("?provider=corp", ""):
        begun = await browser.get(f"/api/v1/auth/oidc/login{query}", accept="application/json")
        returned = provider.authorize(begun.json()["authorization_url"])
        done = await browser.get(f"/api/v1/auth/oidc/callback?code={returned['code']}&state={returned['state']}")
        assert (done.status, done.json()["user"]["username"]) == (200, "jane.doe")
    assert (await browser.get("/api/v1/auth/oidc/login?provider=other")).status == 404


@pytest.mark.parametrize(
    ("key", "alg"),
    [
        (RSAKey.generate_key(2048, {"kid": "r"}), "RS256"),
        (RSAKey.generate_key(2048, {"kid": "r"}), "PS256"),
        (ECKey.generate_key("P-256", {"kid": "e"}), "ES256"),
    ],
)
async def test_each_family_of_keys_is_known(browser: Browser, provider: Provider, key: Any, alg: str) -> None:
    provider.key, provider.alg = key, alg
    assert (await browser.sign_in()).status == 200


async def test_a_group_that_is_gone_takes_its_role_along(house: House, browser: Browser, provider: Provider) -> None:
    first = (await browser.sign_in()).json()
    provider.claims = {"groups": ["others"]}
    second = (await browser.sign_in()).json()
    assert (first["user"]["role"], second["user"]["role"]) == ("operator", "none")
    # signed in, and everything denied
    assert (await house.call("GET", "/api/v1/auth/me", token=second["access_token"])).status == 200
    assert (await house.call("GET", "/api/v1/servers", token=second["access_token"])).status == 403
    assert house.authority.settled, "what was taken away is waited for"
    provider.change_claims = lambda claims: claims.pop("groups")
    assert (await browser.sign_in()).json()["user"]["role"] == "none"


async def test_the_highest_of_several_roles_counts(house: House, provider: Provider) -> None:
    await connect(house, provider, roles={"ops": "operator", "it": "auditor", "read": "viewer"})
    provider.claims = {"groups": ["read", "it", "ops", "unknown"]}
    assert (await Browser(house, provider).sign_in()).json()["user"]["role"] == "operator"


async def test_nobody_becomes_somebody_else_by_his_name_or_address(
    house: House, browser: Browser, provider: Provider
) -> None:
    await house.user("jane.doe", "admin")
    for claims in ({}, {"preferred_username": "JANE.DOE", "email": "x@example.com"}, {"preferred_username": "other"}):
        provider.claims = claims
        answer = await browser.sign_in()
        assert (answer.status, answer.json()["reason"]) == (403, "account_not_linked"), claims
        assert (await failure(house))["reasons"] == ("account_not_linked",)
    assert await house.value("SELECT count(*) FROM sessions WHERE method = 'oidc'") == 0


async def test_an_external_id_counts_where_the_provider_is_the_one_that_gives_them(
    house: House, browser: Browser, provider: Provider
) -> None:
    async def known_by_id(username: str, subject: str) -> None:
        await house.user(username, "viewer")
        async with house.database.begin() as tx:
            await tx.run("UPDATE users SET external_id = :id WHERE username = :name", id=subject, name=username)

    await known_by_id("jd", SUBJECT)
    assert (await browser.sign_in()).json()["reason"] == "account_not_linked", "not by any provider's word"
    await known_by_id("scim", "sub-2")
    provider.claims = {"sub": "sub-2", "preferred_username": "x", "email": ""}
    await connect(house, provider, "scim", link_by_external_id=True)
    assert (await Browser(house, provider, "scim").sign_in()).json()["user"]["username"] == "scim"


async def test_another_subject_is_another_person(house: House, browser: Browser, provider: Provider) -> None:
    assert (await browser.sign_in()).status == 200
    provider.claims = {"sub": "somebody-else"}
    assert (await browser.sign_in()).json()["reason"] == "account_not_linked"
    provider.claims = {"sub": "somebody-else", "preferred_username": "joe", "email": "joe@example.com"}
    assert (await browser.sign_in()).json()["user"]["username"] == "joe"


async def test_a_provider_led_to_another_issuer_vouches_for_nobody_known(
    house: House, browser: Browser, provider: Provider
) -> None:
    assert (await browser.sign_in()).status == 200
    async with running(Provider(house.clock.time)) as other:
        patch = {"options": {"issuer": other.issuer}, "secrets": {"client_secret": "s+cret: of/ours"}}
        token = await house.signed_in("root")
        assert (await house.call("PATCH", "/api/v1/identity-providers/corp", patch, token=token)).status == 200
        answer = await Browser(house, other).sign_in()
    assert answer.json()["reason"] == "account_not_linked", "the same subject of another issuer is another person"


async def test_an_address_that_nobody_verified_is_not_taken(house: House, browser: Browser, provider: Provider) -> None:
    provider.claims = {"email_verified": False}
    assert (await browser.sign_in()).json()["user"]["email"] == ""
    await connect(house, provider, "trusting", trusts_email=True)
    assert (await Browser(house, provider, "trusting").sign_in()).json()["user"]["email"] == "jane.doe@example.com"


async def test_accounts_are_made_only_where_that_is_wanted(house: House, provider: Provider) -> None:
    await connect(house, provider, create_users=False)
    answer = await Browser(house, provider).sign_in()
    assert (answer.status, answer.json()["reason"]) == (403, "not_provisioned")


async def test_the_disabled_stay_out(house: House, browser: Browser) -> None:
    assert (await browser.sign_in()).status == 200
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET is_active = false WHERE username = 'jane.doe'")
    assert (await browser.sign_in()).json()["reason"] == "account_disabled"


async def test_claims_may_be_required_and_be_of_the_userinfo(house: House, provider: Provider) -> None:
    await connect(house, provider, userinfo=True, require={"department": "treasury"})
    browser = Browser(house, provider)
    told = (await browser.sign_in()).json()
    assert told["user"]["role"] == "operator", "the signed groups count, not those of the userinfo"
    provider.change_userinfo = lambda said: said.update(department="kitchen")
    await house.call("POST", "/api/v1/auth/logout", token=told["access_token"])
    assert (await browser.sign_in()).json()["reason"] == "provider_answer_invalid"
    provider.change_userinfo = lambda said: said.update(sub="somebody-else")
    assert (await browser.sign_in()).status == 401
    assert "somebody else" in (await failure(house))["cause"]


# ---------------------------------------------------------------------- the second factor


async def test_the_second_factor_is_ours_whatever_the_provider_says(house: House, provider: Provider) -> None:
    await connect(house, provider, roles={"ops": "admin"})
    provider.claims = {"amr": ["pwd", "mfa", "otp", "sudo", 7], "acr": "strong"}
    need_a_factor(house, "admin")
    answer = await Browser(house, provider).sign_in()
    told = answer.json()
    assert (answer.status, told["reason"]) == (401, "mfa_enrolment_required")
    assert await house.value("SELECT amr FROM pending_sign_ins") == ["fed", "pwd", "otp"]
    assert await house.value("SELECT origin->>'sid' FROM pending_sign_ins") == "sid-1"
    begun = await house.call("POST", "/api/v1/auth/mfa/enrolment", {"mfa_token": told["mfa_token"]})
    secret = base64.b32decode(begun.json()["secret"] + "=" * (-len(begun.json()["secret"]) % 8))
    code = totp.code_at(secret, int(house.clock.time()) // totp.STEP_S)
    done = await house.call(
        "POST", "/api/v1/auth/mfa/enrolment/confirm", {"mfa_token": told["mfa_token"], "code": code}
    )
    assert done.status == 200, done.json()
    assert await house.value("SELECT origin->>'sid' FROM sessions WHERE method = 'oidc'") == "sid-1"


@pytest.mark.parametrize(
    ("options", "claims"),
    [
        ({"trusts_mfa": True}, {"amr": ["pwd", "mfa"]}),
        ({"trusts_mfa": True, "mfa_acr": ["phrh"]}, {"acr": "phrh"}),
    ],
)
async def test_a_provider_may_be_trusted_with_the_second_factor(
    house: House, provider: Provider, options: dict[str, Any], claims: dict[str, Any]
) -> None:
    await connect(house, provider, roles={"ops": "admin"}, **options)
    need_a_factor(house, "admin")
    browser = Browser(house, provider)
    assert (await browser.sign_in()).json()["reason"] == "mfa_enrolment_required", "only where it proves it"
    provider.claims = claims
    answer = await browser.sign_in()
    assert answer.status == 200, answer.json()
    assert "mfa" in await house.value("SELECT amr FROM sessions WHERE method = 'oidc'")


# ---------------------------------------------------------------------- answers that are not ours


async def test_an_answer_counts_once(house: House, browser: Browser, provider: Provider) -> None:
    returned = provider.authorize(await browser.begin())
    cookies = dict(browser.cookies)
    assert (await browser.come_back(returned)).status == 200
    for again in (returned, {**returned, "code": provider.authorize(await browser.begin())["code"]}):
        browser.cookies.update(cookies)
        answer = await browser.come_back(again)
        assert (answer.status, answer.json()["reason"]) == (401, "sign_in_not_begun")


async def test_a_code_counts_once(browser: Browser, provider: Provider) -> None:
    first = provider.authorize(await browser.begin())
    assert (await browser.come_back(first)).status == 200
    second = provider.authorize(await browser.begin())
    answer = await browser.come_back({**second, "code": first["code"]})
    assert answer.status == 401 and "invalid_grant" in (await failure(browser.house))["cause"]


async def test_an_answer_belongs_to_the_browser_that_began(house: House, browser: Browser, provider: Provider) -> None:
    returned = provider.authorize(await browser.begin())
    other = Browser(house, provider)
    await other.begin()
    for stranger in (Browser(house, provider), other):
        answer = await stranger.come_back(returned)
        assert (answer.status, answer.json()["reason"]) == (401, "sign_in_not_begun")
    assert (await browser.come_back(returned)).status == 200, "which strangers cannot spoil"


async def test_a_code_of_another_browser_is_refused(house: House, browser: Browser, provider: Provider) -> None:
    stolen = provider.authorize(await browser.begin())
    thief = Browser(house, provider)
    own = provider.authorize(await thief.begin())
    answer = await thief.come_back({**own, "code": stolen["code"]})
    assert answer.status == 401 and "invalid_grant" in (await failure(house))["cause"], "PKCE binds the code"


async def test_two_sign_ins_in_one_browser_do_not_disturb_each_other(browser: Browser, provider: Provider) -> None:
    first, second = provider.authorize(await browser.begin()), provider.authorize(await browser.begin())
    assert (await browser.come_back(first)).status == 200
    assert (await browser.come_back(second)).status == 200


async def test_a_sign_in_takes_no_longer_than_ten_minutes(house: House, browser: Browser, provider: Provider) -> None:
    returned = provider.authorize(await browser.begin())
    house.clock.advance(601)
    assert (await browser.come_back(returned)).json()["reason"] == "sign_in_not_begun"


async def test_one_provider_does_not_answer_for_another(house: House, browser: Browser, provider: Provider) -> None:
    async with running(Provider(house.clock.time)) as evil:
        await connect(house, evil, "evil")
        begun = provider.authorize(await browser.begin())
        mixed = await browser.come_back(begun, "evil")
        assert (mixed.status, mixed.json()["reason"]) == (401, "sign_in_not_begun")
        assert (await failure(house))["cause"] == "mix-up"
        assert "/token" not in evil.asked, "the code of one provider does not reach another"
        # also at the address that they share, where only `iss` tells (RFC 9207)
        begun = provider.authorize(await browser.begin())
        answer = await browser.come_back({**begun, "iss": evil.issuer})
        assert answer.status == 401 and "another provider" in (await failure(house))["cause"]
        assert provider.asked.count("/token") == 0


async def test_a_provider_that_names_itself_must_do_so(browser: Browser, provider: Provider) -> None:
    provider.change_metadata = lambda said: said.update(authorization_response_iss_parameter_supported=True)
    await refused(browser, "(iss)")
    returned = provider.authorize(await browser.begin())
    assert (await browser.come_back({**returned, "iss": provider.issuer})).status == 200


async def test_a_refusal_by_the_provider_is_told_as_one(house: House, browser: Browser, provider: Provider) -> None:
    state = provider.authorize(await browser.begin())["state"]
    answer = await browser.come_back({"state": state, "error": "access_denied\x1b[31m", "error_description": "<b>"})
    assert (answer.status, answer.json()["reason"]) == (401, "provider_refused")
    assert (await failure(house))["cause"] == "the provider answers access_denied?[31m"


@pytest.mark.parametrize("query", ["", "code=1", "state=1&state=2", "state=1&code=1&code=1", "state=%00"])
async def test_a_malformed_answer_is_refused(browser: Browser, query: str) -> None:
    assert (await browser.get(f"/api/v1/auth/oidc/corp/callback?{query}")).status == 400


async def test_where_to_go_afterwards_is_bounded(house: House, provider: Provider) -> None:
    await connect(house, provider, return_to=["https://console.example.com"])
    browser = Browser(house, provider)
    for place in ("/console/servers?a=1", "https://console.example.com/x"):
        url = await browser.begin(f"?return_to={quote(place, safe='')}")
        assert (await browser.come_back(provider.authorize(url))).json()["return_to"] == place
    for place in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        answer = await browser.get(f"/api/v1/auth/oidc/corp/login?return_to={quote(place, safe='')}")
        assert answer.status == 400, place


# ---------------------------------------------------------------------- out again


async def back_channel(house: House, token: str, name: str = "corp", **headers: str) -> Answer:
    sent = {"content-type": "application/x-www-form-urlencoded", **headers}
    path = f"/api/v1/auth/oidc/{name}/backchannel-logout"
    return await house.call("POST", path, headers=sent, raw=f"logout_token={token}".encode())


@pytest.mark.parametrize("claims", [{"sub": SUBJECT}, {"sid": "sid-1"}, {"sub": SUBJECT, "sid": "sid-1"}])
async def test_a_logout_at_the_provider_ends_the_sessions_it_names(
    house: House, browser: Browser, provider: Provider, claims: dict[str, str]
) -> None:
    first = (await browser.sign_in()).json()
    provider.claims = {"sid": "sid-2"}
    second = (await browser.sign_in()).json()
    provider.claims = {"sub": "joe", "preferred_username": "joe", "email": "j@example.com", "sid": "sid-3"}
    joe = (await browser.sign_in()).json()
    settled = len(house.authority.settled)
    answer = await back_channel(house, provider.logout_token(**claims))
    ended = 1 if "sid" in claims else 2
    assert (answer.status, answer.json()) == (200, {"sessions_ended": ended}), answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert len(house.authority.settled) == settled + 1, "it answers when every worker knows"
    assert (await house.call("GET", "/api/v1/auth/me", token=first["access_token"])).status == 401
    assert (await house.call("GET", "/api/v1/auth/me", token=second["access_token"])).status == (
        200 if "sid" in claims else 401
    )
    assert (await house.call("GET", "/api/v1/auth/me", token=joe["access_token"])).status == 200
    refreshed = await house.call("POST", "/api/v1/auth/refresh", {"refresh_token": first["refresh_token"]})
    assert refreshed.json()["reason"] == "session_ended"
    told = [event for event in await house.events() if event.code == "BW1005"]
    assert [event.details["username"] for event in told] == ["jane.doe"] * ended


async def test_a_logout_reaches_sign_ins_under_way(house: House, browser: Browser, provider: Provider) -> None:
    need_a_factor(house, "operator")
    pending = (await browser.sign_in()).json()["mfa_token"]
    returned = provider.authorize(await browser.begin())
    assert (await back_channel(house, provider.logout_token(sid="sid-1"))).status == 200
    gone = await house.call("POST", "/api/v1/auth/mfa/enrolment", {"mfa_token": pending})
    assert gone.json()["reason"] == "invalid_token"
    assert (await browser.come_back(returned)).json()["reason"] == "session_ended"
    provider.claims = {"sid": "sid-of-a-new-stay"}
    assert (await browser.sign_in()).json()["reason"] == "mfa_enrolment_required"


WRONG_LOGOUTS: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://evil.example"},
    "another audience": {"aud": "other"},
    "expired": {"exp": 1},
    "old": {"iat": 1},
    "no event": {"events": None},
    "another event": {"events": {"http://schemas.openid.net/secevent/risc": {}}},
    "a nonce": {"nonce": "n"},
    "no id": {"jti": None},
    "nobody": {"sub": None, "sid": None},
    "a number": {"sid": 7},
}


async def test_a_logout_token_that_does_not_hold_ends_nothing(
    house: House, browser: Browser, provider: Provider
) -> None:
    token = (await browser.sign_in()).json()["access_token"]
    for case, said in WRONG_LOGOUTS.items():
        answer = await back_channel(house, provider.logout_token(**{"sub": SUBJECT, "sid": "sid-1", **said}))
        assert (answer.status, answer.json()["reason"]) == (400, "invalid_request"), case
    assert (await house.call("GET", "/api/v1/auth/me", token=token)).status == 200


async def test_forged_and_repeated_logout_tokens_end_nothing(
    house: House, browser: Browser, provider: Provider
) -> None:
    good = provider.logout_token(sub=SUBJECT)
    forged = [
        replace_signer(provider).logout_token(sub=SUBJECT),
        provider.id_token("n", "a"),
        "x",
        "",
    ]
    token = (await browser.sign_in()).json()["access_token"]
    for each in forged:
        assert (await back_channel(house, each)).status == 400
    assert (await back_channel(house, good, **{"content-type": "application/json"})).status == 400
    assert (await back_channel(house, good, "other")).status == 404
    assert (await house.call("GET", "/api/v1/auth/me", token=token)).status == 200
    assert (await back_channel(house, good)).json() == {"sessions_ended": 1}
    house.clock.advance(5)
    token = (await browser.sign_in()).json()["access_token"]
    assert (await back_channel(house, good)).status == 400, "a logout is told once"
    assert (await house.call("GET", "/api/v1/auth/me", token=token)).status == 200


def replace_signer(provider: Provider) -> Provider:
    return replace(provider, key=ECKey.generate_key("P-256", {"kid": "one"}))


async def test_signing_out_here_leads_to_signing_out_there(house: House, provider: Provider) -> None:
    await connect(house, provider, after_logout="https://console.example.com/bye")
    browser = Browser(house, provider)
    token = (await browser.sign_in()).json()["access_token"]
    answer = await house.call("POST", "/api/v1/auth/oidc/logout", token=token)
    assert answer.status == 200, answer.json()
    url = urlsplit(answer.json()["end_session_url"])
    assert f"{url.scheme}://{url.netloc}{url.path}" == f"{provider.issuer}/end"
    asked = dict(parse_qsl(url.query))
    assert asked.pop("id_token_hint").count(".") == 2  # which test_logout_hint.py looks into
    assert asked == {"client_id": CLIENT, "post_logout_redirect_uri": "https://console.example.com/bye"}
    assert (await house.call("GET", "/api/v1/auth/me", token=token)).status == 401
    local = await house.signed_in("root")
    assert (await house.call("POST", "/api/v1/auth/oidc/logout", token=local)).json() == {"end_session_url": None}


async def test_a_provider_by_which_people_came_is_disabled_and_not_deleted(house: House, provider: Provider) -> None:
    await connect(house, provider)
    token = await house.signed_in("root")
    assert (await Browser(house, provider).sign_in()).status == 200
    refused = await house.call("DELETE", "/api/v1/identity-providers/corp", token=token)
    assert (refused.status, refused.json()["reason"], refused.json()["users"]) == (409, "in_use", 1)
