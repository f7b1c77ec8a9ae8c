"""What is privileged takes a person who proved himself just now; who comes from elsewhere takes a second factor."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from pydantic import ValidationError

from bailiwick.identity.login.sign_ins import outside
from bailiwick.kernel.http import Caller
from bailiwick.kernel.permissions import STEP_UP, Permission, allowed
from bailiwick.kernel.settings import Settings
from people_fixtures import PASSWORD, Answer, House
from standing_routes import routers

LOGIN = "/api/v1/auth/login/local"
MFA = ("pwd", "otp", "mfa")
INSIDE, ELSEWHERE = "10.1.2.3", "203.0.113.9"


def set_to(house: House, monkeypatch: pytest.MonkeyPatch, **changed: object) -> None:
    monkeypatch.setattr(house.sign_ins, "_settings", house.settings.model_copy(update=changed))


async def give_factor(house: House, username: str) -> None:
    async with house.database.begin() as tx:
        await tx.run(
            "INSERT INTO factors (id, zone, username, kind, name, created_at, confirmed_at)"
            " VALUES (:id, 'default', :u, 'totp', 'app', now(), now())",
            id=house.ids(),
            u=username,
        )


async def make_user(house: House, token: str, name: str = "new") -> Answer:
    body = {"username": name, "email": f"{name}@example.com", "role": "viewer"}
    return await house.call("POST", "/api/v1/users", body, token=token)


async def test_who_has_a_factor_must_have_used_it_within_fifteen_minutes(house: House) -> None:
    weak = await house.signed_in("root")
    await give_factor(house, "root")
    got = await make_user(house, weak)
    assert (got.status, got.json()["reason"]) == (401, "insufficient_user_authentication")
    challenge = got.headers["www-authenticate"]
    assert 'acr_values="urn:bailiwick:acr:2fa"' in challenge and 'max_age="900"' in challenge
    strong = await house.signed_in("root", amr=MFA)
    assert (await make_user(house, strong)).status == 201
    house.clock.advance(15 * 60 + 1)
    assert (await make_user(house, strong, "late")).status == 401
    # reading goes on
    assert (await house.call("GET", "/api/v1/users", token=strong)).status == 200


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_is_put_an_hour_off_makes_no_proof_a_fresh_one(house: House, hours: int) -> None:
    strong = await house.signed_in("root", amr=MFA)
    await give_factor(house, "root")
    house.clock.set_wall(hours * 3600)
    refused = await make_user(house, strong)
    assert (refused.status, refused.json()["reason"]) == (401, "insufficient_user_authentication")
    # whoever proves himself by the clock as it is now may go on, and one of another machine that is a little ahead
    again = await house.signed_in("root", amr=MFA)
    assert (await make_user(house, again)).status == 201
    house.clock.set_wall(-50)
    assert (await make_user(house, again, "ahead")).status == 201


async def test_whose_role_needs_a_factor_must_use_one_even_if_he_has_none(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await house.signed_in("root")
    assert (await make_user(house, token, "first")).status == 201  # his role needs none here
    set_to(house, monkeypatch, mfa_roles=("admin",))
    assert (await make_user(house, token, "second")).status == 401
    set_to(house, monkeypatch, mfa_roles=("admin",), dev=True)
    assert (await make_user(house, token, "third")).status == 201
    await give_factor(house, "root")  # development mode is no way around one that is enrolled
    assert (await make_user(house, token, "fourth")).status == 401


def privileged_routes() -> dict[str, Permission]:
    found = {}
    for router in routers():
        for route in router.routes:
            for dependency in route.dependant.dependencies if isinstance(route, APIRoute) else ():
                permission = getattr(dependency.call, "permission", None)
                if isinstance(route, APIRoute) and permission in STEP_UP:
                    found[f"{'/'.join(sorted(route.methods))} {route.path}"] = permission
    return found


async def test_every_privileged_route_of_these_rooms_demands_it(house: House) -> None:
    token = await house.signed_in("root")
    await give_factor(house, "root")
    routes = privileged_routes()
    assert {
        "POST /api/v1/users",
        "PATCH /api/v1/users/{username}",
        "DELETE /api/v1/users/{username}/mfa",
        "POST /api/v1/users/{username}/password-reset",
        "POST /api/v1/applications/{name}/secret",
        "POST /api/v1/zones/{name}/archive",
    } <= routes.keys()
    bodies = {
        "POST /api/v1/users": {"username": "a", "email": "a@example.com", "role": "viewer"},
        "PATCH /api/v1/users/{username}": {"full_name": "A"},
    }
    for route in routes:
        method, path = route.split(" ")
        got = await house.call(
            method, path.replace("{username}", "jane").replace("{name}", "x"), bodies.get(route), token=token
        )
        assert (got.status, got.json()["reason"]) == (401, "insufficient_user_authentication"), route


async def test_an_api_key_reaches_nothing_of_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.user("root")
    key = Caller("default", "root", "admin", "", key="k" * 12, permissions=frozenset(Permission))

    async def authenticate(_request: object) -> Caller:
        return key

    monkeypatch.setattr(house, "authenticate", authenticate)
    got = await make_user(house, "any")
    assert (got.status, got.json()["reason"]) == (403, "session_needed")
    assert (await house.call("GET", "/api/v1/users", token="any")).status == 200


def test_the_table_declares_it_and_nobody_lost_by_the_finer_permissions() -> None:
    assert STEP_UP >= {Permission.USERS_WRITE, Permission.KEYS_ROTATE, Permission.SIEM_WRITE, Permission.ARCHIVE_PURGE}
    for finer, broader in (
        (Permission.APPLICATIONS_SECRETS, Permission.APPLICATIONS_WRITE),
        (Permission.ZONES_ARCHIVE, Permission.ZONES_WRITE),
        (Permission.APPROVALS_VOTE, Permission.APPROVALS_READ),
    ):
        for role in ("admin", "operator", "auditor", "viewer"):
            assert allowed(role, finer) == allowed(role, broader), (role, finer)


async def test_who_signs_in_from_elsewhere_needs_a_factor_whoever_he_is(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to(house, monkeypatch, mfa_required_outside=("10.1.0.0/16", "2001:db8::/32"), dev=True)
    await house.user("vera", "viewer")
    body = {"username": "vera", "password": PASSWORD}
    for ip, status in ((INSIDE, 200), ("2001:db8::7", 200), (ELSEWHERE, 401), ("2001:db9::1", 401), ("", 401)):
        got = await house.call("POST", LOGIN, body, headers={"x-test-ip": ip})
        assert got.status == status, ip
    assert got.json()["reason"] == "mfa_enrolment_required"


@pytest.mark.parametrize(
    ("ip", "networks", "expected"),
    [
        (ELSEWHERE, (), False),
        ("", (), False),
        (INSIDE, ("10.0.0.0/8",), False),
        (ELSEWHERE, ("10.0.0.0/8", "203.0.113.0/24"), False),
        (ELSEWHERE, ("10.0.0.0/8",), True),
        ("::ffff:10.0.0.1", ("10.0.0.0/8",), True),
        ("nonsense", ("0.0.0.0/0",), True),
    ],
)
def test_where_an_address_is(ip: str, networks: tuple[str, ...], expected: bool) -> None:
    assert outside(ip, networks) is expected


def test_a_network_that_is_none_is_told_at_the_start() -> None:
    told = Settings(data_dir=Path("/tmp"), mfa_required_outside="10.0.0.0/8, 192.168.0.0/16")  # type: ignore[arg-type]
    assert told.mfa_required_outside == ("10.0.0.0/8", "192.168.0.0/16")
    with pytest.raises(ValidationError):
        Settings(data_dir=Path("/tmp"), mfa_required_outside=("10.0.0.0/33",))
