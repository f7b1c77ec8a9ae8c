"""No way of signing in skips the second factor: every route under which somebody may come in is declared here.

A route that is added later fails the first test until it is declared, and a first factor must be driven to its end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from soft_key import SoftKey

from bailiwick.identity import api
from bailiwick.identity.login import factor_page_api, oidc_api, saml_api
from people_fixtures import PASSWORD, Answer, House

ROOT = "/api/v1/auth/"
Drive = Callable[[House], Awaitable[Answer]]


async def by_password(house: House) -> Answer:
    return await house.call("POST", f"{ROOT}login/local", {"username": "jane", "password": PASSWORD})


async def by_a_key_without_its_person(house: House) -> Answer:
    """A passkey alone is two factors only where it verified its person; otherwise it opens nothing."""
    key = house.keys["jane"]  # type: ignore[attr-defined]
    key.verifies = False
    options = (await house.call("POST", f"{ROOT}login/passkey/options")).json()["publicKey"]
    return await house.call("POST", f"{ROOT}login/passkey/verify", {"credential": key.get(options)})


# First factors: with each of them alone, somebody whose account has or needs a second one gets no session.
FIRST: dict[str, tuple[Drive, set[str]]] = {
    "POST login/local": (by_password, {"mfa_required"}),
    "POST login/passkey/verify": (by_a_key_without_its_person, {"invalid_passkey"}),
}
# First factors that need a provider of their kind: which test drives them there.
BY_PROVIDERS = {
    "POST login/ldap": ("test_login_ldap.py", "test_a_second_factor_is_owed_after_the_directory_too"),
    "GET oidc/callback": ("test_login_oidc.py", "test_the_second_factor_is_ours_whatever_the_provider_says"),
    "GET oidc/{name}/callback": ("test_login_oidc.py", "test_the_second_factor_is_ours_whatever_the_provider_says"),
    "POST saml/{name}/acs": ("test_saml_sign_in.py", "test_the_second_factor_is_not_skipped"),
}
# Second factors: they go on from a first one, by its `mfa_token`, and open nothing without.
SECOND = {
    "POST mfa": {"code": "123456"},
    "POST mfa/enrolment": {},
    "POST mfa/enrolment/confirm": {"code": "123456"},
    "POST mfa/webauthn/options": {},
    "POST mfa/webauthn/verify": {"credential": "ASSERTION"},
    "POST mfa/enrolment/webauthn/options": {},
    "POST mfa/enrolment/webauthn/verify": {"credential": "ATTESTATION"},
}
# Routes that open no session, each with the reason.
NO_SESSION = {
    "POST login/passkey/options": "asks a passkey",
    "GET oidc/login": "sends the browser to a provider",
    "GET oidc/{name}/login": "sends the browser to a provider",
    "POST oidc/{name}/backchannel-logout": "ends sessions",
    "GET saml/{name}/metadata": "tells who we are",
    "GET saml/{name}/login": "sends the browser to a provider",
    "GET saml/{name}/slo": "ends sessions",
    "POST saml/{name}/slo": "ends sessions",
    "POST invitations/accept": "sets a password, by which one then signs in",
    "POST refresh": "goes on with a session that is open, as it was proven",
}
# Pages and files, which the document does not have.
PAGES = {
    "GET saml/submit.js": "a file",
    "GET second-factor/{name}": "a file",
    "GET second-factor": "shows what a waiting sign-in owes",
    "POST second-factor": "a second factor, by the cookie of a first one (test_factor_page.py)",
}
# Routes for somebody who is signed in already; the document says that they take a credential.
SIGNED_IN = "a bearer token"


def operations() -> dict[str, dict[str, Any]]:
    app = FastAPI()
    nobody = cast(Any, None)
    app.include_router(api.routes(*[nobody] * api.routes.__code__.co_argcount))
    app.include_router(oidc_api.routes(nobody, nobody))
    app.include_router(saml_api.routes(nobody, nobody))
    return {
        f"{method.upper()} {path.removeprefix(ROOT)}": operation
        for path, told in app.openapi()["paths"].items()
        for method, operation in told.items()
        if path.startswith(ROOT) or not operation.get("security")
    }


def pages() -> set[str]:
    nobody = cast(Any, None)
    routers = (
        api.routes(*[nobody] * api.routes.__code__.co_argcount), oidc_api.routes(nobody, nobody),
        saml_api.routes(nobody, nobody), factor_page_api.routes(nobody, nobody, nobody),
    )  # fmt: skip
    return {
        f"{method} {route.path.removeprefix(ROOT)}"
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and not route.include_in_schema
        for method in route.methods
    }


OPERATIONS = operations()
OPEN = sorted(name for name, operation in OPERATIONS.items() if not operation.get("security"))


@pytest.mark.parametrize("operation", OPEN)
def test_every_open_route_is_declared(operation: str) -> None:
    declared = [operation in table for table in (FIRST, BY_PROVIDERS, SECOND, NO_SESSION)]
    assert sum(declared) == 1, f"{operation} takes no credential: declare which factor it takes, or why none"


def test_nothing_is_declared_that_is_not_there() -> None:
    assert FIRST.keys() | BY_PROVIDERS.keys() | SECOND.keys() | NO_SESSION.keys() == set(OPEN)


def test_every_page_is_declared() -> None:
    assert pages() == PAGES.keys()


@pytest.mark.parametrize(("file", "test"), sorted(set(BY_PROVIDERS.values())))
def test_what_drives_a_provider_is_there_and_looks_for_the_factor(file: str, test: str) -> None:
    text = (Path(__file__).parent / file).read_text()
    body = text.partition(f"async def {test}(")[2].partition("\nasync def ")[0]
    assert '"mfa_enrolment_required"' in body or '"mfa_required"' in body


async def enrolled(house: House) -> None:
    token = await house.signed_in("jane", "viewer")
    key = SoftKey()
    options = (await house.call("POST", f"{ROOT}factors/webauthn/options", token=token)).json()["publicKey"]
    body = {"credential": key.create(options)}
    assert (await house.call("POST", f"{ROOT}factors/webauthn/verify", body, token=token)).status == 201
    house.keys = {"jane": key}  # type: ignore[attr-defined]


async def sessions(house: House) -> int:
    return int(await house.value("SELECT count(*) FROM refresh_tokens"))


@pytest.mark.parametrize("operation", sorted(FIRST))
async def test_a_first_factor_alone_opens_no_session(house: House, operation: str) -> None:
    await enrolled(house)
    drive, reasons = FIRST[operation]
    got = await drive(house)
    assert got.status == 401 and got.json()["reason"] in reasons, got.body
    assert "access_token" not in got.json()
    assert await sessions(house) == 0


@pytest.mark.parametrize("operation", sorted(SECOND))
async def test_a_second_factor_opens_nothing_without_its_first(house: House, operation: str) -> None:
    await enrolled(house)
    key: SoftKey = house.keys["jane"]  # type: ignore[attr-defined]
    asked = (await house.call("POST", f"{ROOT}login/passkey/options")).json()["publicKey"]
    made = {"rp": {"id": "bailiwick.example.com"}, "user": {"id": "AAAA"}, "challenge": asked["challenge"]}
    answers = {"ASSERTION": lambda: key.get(asked), "ATTESTATION": lambda: SoftKey().create(made)}
    body = {name: answers[value]() if value in answers else value for name, value in SECOND[operation].items()}
    for token in ("", "bwm_" + "a" * 43):
        got = await house.call("POST", ROOT + operation.split(" ")[1], {**body, "mfa_token": token})
        assert (got.status, got.json()["reason"]) == (401, "invalid_token"), got.body
    assert await sessions(house) == 0


async def test_a_waiting_sign_in_that_owes_a_factor_may_not_enrol_one(house: House) -> None:
    await enrolled(house)
    owed = (await by_password(house)).json()
    for path in ("mfa/enrolment", "mfa/enrolment/webauthn/options"):
        got = await house.call("POST", ROOT + path, {"mfa_token": owed["mfa_token"]})
        assert (got.status, got.json()["reason"]) == (401, "invalid_token")


async def test_what_goes_on_is_no_better_proven_than_what_began(house: House) -> None:
    """Refreshing carries the proof of the sign-in, and never another."""
    await house.user("jane", "viewer")
    began = (await by_password(house)).json()
    went_on = await house.call("POST", f"{ROOT}refresh", {"refresh_token": began["refresh_token"]})
    assert went_on.status == 200
    amr = await house.value("SELECT amr FROM sessions")
    assert amr == ["pwd"]
