"""Accounts from the machine itself: what the commands do holds on every worker when they return."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from rig import PASSWORD, Stack, call, installation

CHOSEN = "long enough for all"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(WORKERS="2") as made:
        yield made


def told(stack: Stack, *arguments: str) -> Any:
    done = stack.cli("user", *arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def accept(stack: Stack, link: dict[str, Any]) -> int:
    body = {"token": link["token"], "password": CHOSEN}
    return call("POST", f"{stack.api}/api/v1/auth/invitations/accept", body=body).status


def alive(stack: Stack, token: str) -> bool:
    answers = {call("GET", f"{stack.api}/api/v1/auth/me", token=token).status for _ in range(6)}
    assert len(answers) == 1, answers
    return answers == {200}


def test_an_account_from_its_making_to_its_reset(stack: Stack) -> None:
    made = told(stack, "create", "jane", "--email", "jane@example.com", "--role", "operator")
    assert made["invitation"]["url"].startswith(f"{stack.api}/invitation#bwi_")
    assert accept(stack, made["invitation"]) == 200
    token = stack.login("jane", CHOSEN)
    assert [each["username"] for each in told(stack, "list")] == ["admin", "jane"]
    assert told(stack, "show", "jane")["role"] == "operator"
    assert [each["method"] for each in told(stack, "sessions", "jane")] == ["local"]
    assert alive(stack, token)

    assert stack.cli("user", "disable", "jane").returncode == 0
    assert not alive(stack, token)
    assert stack.cli("user", "sessions", "jane").returncode == 3
    waits = stack.cli("user", "enable", "jane")  # whoever is at the machine may be anybody: two others agree
    assert waits.returncode == 3 and "2 more must approve" in waits.stdout and "admin" in waits.stdout, waits
    enabled = stack.agreed("PATCH", "/api/v1/users/jane", {"is_active": True})
    assert (enabled.status, enabled.json["is_active"]) == (200, True)
    assert stack.admin("DELETE", "/api/v1/users/ada").status == 204  # what follows is about the last administrator

    token = stack.login("jane", CHOSEN)
    link = told(stack, "reset-password", "jane")
    assert not alive(stack, token)
    assert [accept(stack, link) for _ in range(2)] == [200, 401]
    token = stack.login("jane", CHOSEN)
    assert told(stack, "reset-mfa", "jane")["sessions_ended"] == 1
    assert not alive(stack, token)


def test_the_last_administrator_comes_in_again(stack: Stack) -> None:
    for _ in range(10):
        call("POST", f"{stack.api}/api/v1/auth/login/local", body={"username": "admin", "password": "wrong"})
    login = {"username": "admin", "password": PASSWORD}
    assert call("POST", f"{stack.api}/api/v1/auth/login/local", body=login).reason == "account_locked"
    # nobody else is there to agree to an unlock; development mode does not change that
    refused = stack.cli("user", "unlock", "admin")
    assert refused.returncode == 1 and "override_no_checker" in refused.stderr and "invite" in refused.stderr, refused
    assert call("POST", f"{stack.api}/api/v1/auth/login/local", body=login).reason == "account_locked"
    link = told(stack, "reset-password", "admin")
    assert accept(stack, link) == 200
    stack.token = stack.login("admin", CHOSEN)
    unlock = stack.admin("POST", "/api/v1/users/admin/unlock")
    assert (unlock.status, unlock.reason) == (422, "override_no_checker"), unlock


def test_what_cannot_be_done_is_told(stack: Stack) -> None:
    for arguments, code in (
        (("show", "nobody"), 3),
        (("disable", "admin"), 1),
        (("create", "a b", "--email", "a@example.com"), 2),
        (("create", "ann", "--email", "a@example.com", "--role", "king"), 2),
        (("create", "admin", "--email", "a@example.com"), 1),
    ):
        done = stack.cli("user", *arguments)
        assert done.returncode == code and done.stderr.startswith("bailiwick: "), (arguments, done)
