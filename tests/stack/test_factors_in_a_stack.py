"""Second factors through a whole installation: an administrator beyond development mode, his codes, each step's event."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rig import Got, Stack, call, claims, installation

from bailiwick.evidence.codes import EVENT_TYPES
from bailiwick.identity.factors import totp

LOGIN = {"username": "carla", "password": "long enough for all"}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(WORKERS="2") as made:
        person = {**LOGIN, "email": "carla@example.com", "role": "admin", "mfa_enabled": True}
        assert made.admin("POST", "/api/v1/users", person).status == 201
        yield made


class Person:
    """Somebody at the API, with an authenticator app."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.secret = b""
        self.token = ""
        self._last = -1

    def post(self, path: str, body: Any = None, method: str = "POST") -> Got:
        got = call(method, f"{self.stack.api}/api/v1/auth/{path}", token=self.token, body=body)
        assert got.status < 300, (path, got)
        changes = [
            event for event in self.stack.story(got.headers["x-request-id"]) if EVENT_TYPES[event["code"]].mutation
        ]
        assert changes, f"{path} leaves no event of a change"
        return got

    def code(self) -> str:
        """A code that was not used: with one step of skew there are three at a time."""
        step = max(int(time.time()) // totp.STEP_S - 1, self._last + 1)
        self._last = step
        while step > int(time.time()) // totp.STEP_S + 1:
            time.sleep(0.5)
        return totp.code_at(self.secret, step)

    def take(self, told: dict[str, Any]) -> None:
        text = told["secret"]
        self.secret, self._last = base64.b32decode(text + "=" * (-len(text) % 8)), -1


def test_every_step_with_a_second_factor(stack: Stack) -> None:
    carla = Person(stack)
    refused = call("POST", f"{stack.api}/api/v1/auth/login/local", body=LOGIN)
    assert (refused.status, refused.reason) == (401, "mfa_enrolment_required")
    pending = {"mfa_token": refused.json["mfa_token"]}
    carla.take(carla.post("mfa/enrolment", pending).json)
    signed_in = carla.post("mfa/enrolment/confirm", {**pending, "code": carla.code()}).json
    carla.token = signed_in["access_token"]
    assert claims(carla.token)["acr"] == "urn:bailiwick:acr:2fa" and len(signed_in["recovery_codes"]) == 10

    again = call("POST", f"{stack.api}/api/v1/auth/login/local", body=LOGIN)
    assert again.reason == "mfa_required"
    answered = carla.post("mfa", {"mfa_token": again.json["mfa_token"], "code": signed_in["recovery_codes"][0]}).json
    assert claims(answered["access_token"])["amr"] == ["pwd", "rcv", "mfa"]
    carla.token = carla.post("step-up", {"code": carla.code()}).json["access_token"]
    first = stack_factors(stack, carla)[0]["id"]
    app = carla.post("factors/totp", {"name": "second phone"}).json
    old, carla_last = carla.secret, carla._last
    carla.take(app)
    assert len(carla.post("factors/totp/confirm", {"code": carla.code()}).json["factors"]) == 2
    carla.post("recovery-codes")
    carla.post(f"factors/{first}", method="DELETE")
    assert [factor["name"] for factor in stack_factors(stack, carla)] == ["second phone"]
    assert old != carla.secret and carla_last >= 0
    # whoever is reset enrols anew, and the session he had is over everywhere
    assert stack.admin("DELETE", "/api/v1/users/carla/mfa").json["factors_removed"] == 1
    assert call("GET", f"{stack.api}/api/v1/auth/me", token=carla.token).status == 401
    assert call("POST", f"{stack.api}/api/v1/auth/login/local", body=LOGIN).reason == "mfa_enrolment_required"


def stack_factors(stack: Stack, person: Person) -> list[dict[str, Any]]:
    return list(call("GET", f"{stack.api}/api/v1/auth/factors", token=person.token).json["factors"])


def test_an_api_key_works_as_bearer_and_header_and_ends_at_once(stack: Stack) -> None:
    made = stack.admin("POST", "/api/v1/api-keys", {"name": "nightly", "permissions": ["servers:read"]}).json
    key, servers = made["api_key"], f"{stack.api}/api/v1/servers"
    assert call("GET", servers, token=key).status == 200
    assert call("GET", servers, headers={"X-API-Key": key}).status == 200
    assert call("GET", servers, token=key, headers={"X-API-Key": key}).reason == "invalid_token"
    assert call("GET", f"{stack.api}/api/v1/users", token=key).reason == "permission_denied"
    assert call("POST", f"{stack.api}/api/v1/auth/password", token=key, body={}).status in {400, 403}
    assert call("GET", f"{stack.api}/api/v1/auth/me", token=key).json["username"] == "admin"
    assert stack.admin("DELETE", f"/api/v1/api-keys/{made['id']}").status == 204
    assert {call("GET", servers, token=key).status for _ in range(10)} == {401}, "a worker still takes it"
    assert call("GET", servers, token=key[:-1] + ("0" if key[-1] != "0" else "1")).reason == "invalid_token"


def test_what_is_taken_from_an_api_key_no_worker_lets_it_do_after_the_answer(stack: Stack) -> None:
    made = stack.admin("POST", "/api/v1/api-keys", {"name": "nightly", "permissions": ["servers:read", "users:read"]})
    key, path = made.json["api_key"], f"/api/v1/api-keys/{made.json['id']}"
    servers, users = f"{stack.api}/api/v1/servers", f"{stack.api}/api/v1/users"
    assert {call("GET", users, token=key).status for _ in range(5)} == {200}
    for _ in range(3):
        assert stack.admin("PATCH", path, {"permissions": ["servers:read"]}).status == 200
        assert {call("GET", users, token=key).status for _ in range(5)} == {403}, "a worker still lets it"
        assert stack.admin("PATCH", path, {"is_active": False}).status == 200
        assert {call("GET", servers, token=key).status for _ in range(5)} == {401}, "a worker still takes it"
        assert (
            stack.admin("PATCH", path, {"is_active": True, "permissions": ["servers:read", "users:read"]}).status == 200
        )
        assert {call("GET", users, token=key).status for _ in range(5)} == {200}
    assert call("PATCH", stack.api + path, token=key, body={"name": "mine"}).status == 403
    assert stack.admin("GET", path).json["name"] == "nightly"


def test_an_api_key_has_a_limit_of_its_own_over_all_workers_and_tells_when_it_was_used(stack: Stack) -> None:
    servers = f"{stack.api}/api/v1/servers"
    body = {"name": "limited", "permissions": ["servers:read"], "rate_limit": 3}
    limited, other = (stack.admin("POST", "/api/v1/api-keys", {**body, "rate_limit": n}).json for n in (3, None))
    assert limited["rate_limit"] == 3 and limited["last_used_at"] is None
    answers = [call("GET", servers, token=limited["api_key"]) for _ in range(8)]
    assert [got.status for got in answers[:3]] == [200] * 3
    refused = answers[-1]
    assert (refused.status, refused.reason) == (429, "rate_limited") and int(refused.headers["retry-after"]) >= 1
    assert "3" in answers[0].headers["ratelimit-policy"]
    # the person behind it, and another key of hers, go on
    assert call("GET", servers, token=other["api_key"]).status == 200
    assert stack.admin("GET", "/api/v1/servers").status == 200
    deadline = time.monotonic() + 30
    while True:
        listed = {key["id"]: key for key in stack.admin("GET", "/api/v1/api-keys").json["items"]}
        if listed[limited["id"]]["last_used_at"] and listed[other["id"]]["last_used_at"]:
            break
        assert time.monotonic() < deadline, listed
        time.sleep(0.2)
