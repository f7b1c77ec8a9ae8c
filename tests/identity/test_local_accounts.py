"""Local accounts: breached passwords refused, resets that work once, failures counted by network, hashes made anew."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from bailiwick.identity.breached import BreachList
from bailiwick.identity.invitations import RESET_LIFE
from bailiwick.identity.login.lockout import LOCK
from bailiwick.kernel.errors import InvalidRequest, Unavailable
from people_fixtures import PASSWORD, House

LOGIN = "/api/v1/auth/login/local"
KNOWN = ["password123456", "correcthorsebattery", "pässword pässword"]
FRESH = "nobody ever had this one"


def digest(password: str) -> bytes:
    return hashlib.sha1(password.encode(), usedforsecurity=False).digest()


def ranges(folder: Path, *passwords: str) -> Path:
    """A folder as the downloaders write it: every range that is asked for here, with what surrounds a hit."""
    folder.mkdir()
    for password in (*passwords, FRESH):
        text = digest(password).hex().upper()
        lines = ["0" * 35 + ":3", text[5:] + (":17" if password in passwords else ":0"), "F" * 35 + ":1"]
        (folder / f"{text[:5]}.txt").write_text("\r\n".join(lines))
    return folder


def sorted_file(path: Path, *passwords: str) -> Path:
    others = [hashlib.sha1(bytes([each]), usedforsecurity=False).digest() for each in range(200)]
    path.write_bytes(b"".join(sorted([*map(digest, passwords), *others])))
    return path


@pytest.mark.parametrize("form", [ranges, sorted_file])
def test_a_breached_password_is_found_in_either_form(tmp_path: Path, form: object) -> None:
    listed = BreachList(form(tmp_path / "list", *KNOWN))  # type: ignore[operator]
    assert [listed.holds(password) for password in KNOWN] == [True] * 3
    assert not listed.holds(FRESH)


def test_a_list_that_cannot_be_read_makes_no_password_clean(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"x" * 21)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name in ("odd", "empty", "folder", "gone"):
        with pytest.raises(Unavailable):
            BreachList(tmp_path / name).holds(FRESH)


async def test_breached_passwords_are_refused_wherever_one_is_chosen(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = BreachList(sorted_file(tmp_path / "list", *KNOWN))
    monkeypatch.setattr(house.passwords, "_breached", listed)
    token = await house.signed_in("root")
    person = {"username": "jane", "email": "jane@example.com", "role": "viewer"}
    made = await house.call("POST", "/api/v1/users", {**person, "password": KNOWN[0]}, token=token)
    assert (made.status, made.json()["reason"]) == (400, "password_breached")
    invited = (await house.call("POST", "/api/v1/users", person, token=token)).json()["invitation"]["token"]
    accept = "/api/v1/auth/invitations/accept"
    # decomposed letters are the same password
    for password in (KNOWN[0], "pässword pässword"):
        got = await house.call("POST", accept, {"token": invited, "password": password})
        assert (got.status, got.json()["reason"]) == (400, "password_breached")
    assert (await house.call("POST", accept, {"token": invited, "password": FRESH})).status == 200
    session = (await house.call("POST", LOGIN, {"username": "jane", "password": FRESH})).json()["access_token"]
    change = {"current_password": FRESH, "new_password": KNOWN[1]}
    got = await house.call("POST", "/api/v1/auth/password", change, token=session)
    assert (got.status, got.json()["reason"]) == (400, "password_breached")
    with pytest.raises(InvalidRequest):
        await house.passwords.check("short", username="a", email="b")


async def test_a_reset_ends_password_and_sessions_and_its_link_works_once(house: House) -> None:
    root = await house.signed_in("root")
    await house.user("jane", "viewer")
    session = (await house.call("POST", LOGIN, {"username": "jane", "password": PASSWORD})).json()["access_token"]
    got = await house.call("POST", "/api/v1/users/jane/password-reset", token=root)
    assert got.status == 201 and got.headers["cache-control"] == "no-store"
    link = got.json()["reset"]
    assert link["url"] == f"https://bailiwick.example.com/password-reset#{link['token']}"
    assert (await house.call("GET", "/api/v1/auth/me", token=session)).status == 401
    assert (await house.call("POST", LOGIN, {"username": "jane", "password": PASSWORD})).status == 401
    assert house.authority.settled
    event = next(event for event in await house.events() if event.name == "user.password.reset")
    assert event.details == {"sessions_ended": 1}
    body = {"token": link["token"], "password": FRESH}
    for expected in (200, 401):
        assert (await house.call("POST", "/api/v1/auth/invitations/accept", body)).status == expected
    assert (await house.call("POST", LOGIN, {"username": "jane", "password": FRESH})).status == 200


async def test_a_reset_runs_out_and_a_later_one_replaces_it(house: House) -> None:
    root = await house.signed_in("root")
    await house.user("jane", "viewer")
    path, accept = "/api/v1/users/jane/password-reset", "/api/v1/auth/invitations/accept"
    first, second = [(await house.call("POST", path, token=root)).json()["reset"]["token"] for _ in range(2)]
    got = await house.call("POST", accept, {"token": first, "password": FRESH})
    assert got.json()["reason"] == "invalid_token"
    house.clock.advance(RESET_LIFE.total_seconds())
    got = await house.call("POST", accept, {"token": second, "password": FRESH})
    assert got.json()["reason"] == "token_expired"


async def test_the_last_administrator_is_reset_at_the_machine_alone(house: House) -> None:
    root = await house.signed_in("root")
    got = await house.call("POST", "/api/v1/users/root/password-reset", token=root)
    assert got.status == 409
    assert (await house.call("POST", LOGIN, {"username": "root", "password": PASSWORD})).status == 200
    assert (await house.call("POST", "/api/v1/users/nobody/password-reset", token=root)).status == 404


async def test_a_lock_ends_by_itself_and_no_account_lifts_one_alone(house: House) -> None:
    root = await house.signed_in("root")
    await house.user("jane", "viewer")
    for _ in range(10):
        await house.call("POST", LOGIN, {"username": "jane", "password": "wrong"})
    right = {"username": "jane", "password": PASSWORD}
    assert (await house.call("POST", LOGIN, right)).json()["reason"] == "account_locked"
    # the route is of the overrides, and only refuses (tests/assurance/test_overrides.py)
    assert (await house.call("POST", "/api/v1/users/jane/unlock", token=root)).status == 404
    assert (await house.call("POST", LOGIN, right)).json()["reason"] == "account_locked"
    house.clock.advance(LOCK.total_seconds())
    assert (await house.call("POST", LOGIN, right)).status == 200


async def test_failures_are_counted_by_network_over_all_accounts(house: House) -> None:
    house.sign_in_throttle = house.throttle(5)
    await house.user("jane", "viewer")
    right = {"username": "jane", "password": PASSWORD}
    for _ in range(8):  # what turns out well does not count
        assert (await house.call("POST", LOGIN, right)).status == 200
    for number in range(5):  # each name once, so that no account is locked
        got = await house.call("POST", LOGIN, {"username": f"user{number}", "password": "wrong"})
        assert got.json()["reason"] == "invalid_credentials"
    got = await house.call("POST", LOGIN, right)
    assert (got.status, got.json()["reason"]) == (429, "rate_limited")
    assert int(got.headers["retry-after"]) >= 1
    # the other doors are closed to that network too, and none to others
    got = await house.call("POST", "/api/v1/auth/invitations/accept", {"token": "bwi_x", "password": FRESH})
    assert got.status == 429
    assert (await house.call("POST", LOGIN, right, headers={"x-test-ip": "203.0.113.4"})).status == 200
    house.clock.advance(13)
    assert (await house.call("POST", LOGIN, right)).status == 200


async def test_neighbours_of_an_ipv6_network_are_counted_together(house: House) -> None:
    house.sign_in_throttle = house.throttle(2)
    answers = []
    for last in range(3):
        headers = {"x-test-ip": f"2001:db8:1:2::{last}"}
        answers.append((await house.call("POST", LOGIN, {"username": "a", "password": "b"}, headers=headers)).status)
    assert answers == [401, 401, 429]


async def test_a_hash_of_weaker_parameters_is_made_anew_at_the_next_sign_in(house: House) -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash(PASSWORD)
    await house.user("jane", "viewer", password_hash=weak)
    for _ in range(2):
        assert (await house.call("POST", LOGIN, {"username": "jane", "password": PASSWORD})).status == 200
    stored = await house.value("SELECT password_hash FROM users WHERE username = 'jane'")
    assert stored != weak and "m=19456,t=2,p=1" in stored
