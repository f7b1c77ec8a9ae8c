from __future__ import annotations

import asyncio
import threading

import pytest
from argon2 import PasswordHasher

from bailiwick.identity.passwords import Passwords, VerifiedSecrets, check_password
from bailiwick.kernel.errors import InvalidRequest, Unavailable


@pytest.fixture
def passwords() -> Passwords:
    return Passwords(waiting=4)


async def test_hashes_are_argon2id_with_the_parameters_chosen(passwords: Passwords) -> None:
    stored = await passwords.hash("correct horse battery")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (await passwords.verify(stored, "correct horse battery")).ok
    assert not (await passwords.verify(stored, "correct horse batterz")).ok


async def test_a_hash_of_other_parameters_is_right_and_outdated(passwords: Passwords) -> None:
    old = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash("correct horse battery")
    verified = await passwords.verify(old, "correct horse battery")
    assert (verified.ok, verified.outdated) == (True, True)
    wrong = await passwords.verify(old, "wrong horse battery")
    assert (wrong.ok, wrong.outdated) == (False, False)


@pytest.mark.parametrize("stored", ["", "x", "$argon2id$v=19$m=19456,t=2,p=1$AAAA", "$2b$12$abcdefghijklmnopqrstuv"])
async def test_a_hash_that_is_none_is_never_right(passwords: Passwords, stored: str) -> None:
    assert not (await passwords.verify(stored, "correct horse battery")).ok


async def test_nobodys_password_is_worked_on_like_anybodys(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked_on: list[str] = []
    real = PasswordHasher.verify

    def counting(self: PasswordHasher, stored: str, password: str) -> bool:
        worked_on.append(stored)
        return real(self, stored, password)  # type: ignore[arg-type]

    monkeypatch.setattr(PasswordHasher, "verify", counting)
    for guess in ("correct horse battery", "nobody has this password"):
        assert not (await passwords.verify(None, guess)).ok
    assert len(worked_on) == 2
    assert worked_on[0].startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_the_same_password_typed_on_another_system_is_the_same(passwords: Passwords) -> None:
    stored = await passwords.hash("pâssword-länge")
    assert (await passwords.verify(stored, "pa\u0302ssword-la\u0308nge")).ok


async def test_a_full_line_is_refused_and_empties_again(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(threads=2, waiting=1)
    let_go = threading.Event()
    monkeypatch.setattr(PasswordHasher, "hash", lambda self, password: let_go.wait() and "h")
    working = [asyncio.create_task(passwords.hash("p")) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as refused:
        await passwords.hash("p")
    assert (refused.value.reason, refused.value.status, refused.value.headers) == (
        "not_ready",
        503,
        {"Retry-After": "1"},
    )
    working[2].cancel()  # a caller who goes away gives his place back
    let_go.set()
    await asyncio.gather(*working, return_exceptions=True)
    assert await passwords.hash("p") == "h"
    passwords.close()


@pytest.mark.parametrize("password", ["", "short", "x" * 11, "x" * 257, "jane.doe.jane", "Jane@Example.com"])
def test_passwords_are_refused_by_length_and_for_being_a_name(password: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_password(password, username="Jane.Doe.Jane", email="jane@example.com")
    assert not password or password not in refused.value.detail


@pytest.mark.parametrize("password", ["x" * 12, "x" * 256, "zwölf zeichen", "with\ttabs and \x00"])
def test_every_other_password_is_taken(password: str) -> None:
    check_password(password, username="jane.doe", email="jane@example.com")


async def test_a_right_secret_costs_argon2_once(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = VerifiedSecrets(passwords, b"k" * 32, capacity=2)
    first, second = await passwords.hash("secret one"), await passwords.hash("secret two")
    asked = 0
    real = passwords.verify

    async def counting(stored: str | None, password: str) -> object:
        nonlocal asked
        asked += 1
        return await real(stored, password)

    monkeypatch.setattr(passwords, "verify", counting)
    assert await asyncio.gather(*(secrets.verify(first, "secret one") for _ in range(50))) == [True] * 50
    assert asked == 1
    assert await secrets.verify(first, "secret one")
    assert asked == 1
    assert not await secrets.verify(first, "secret two")
    assert not await secrets.verify(first, "secret two")
    assert asked == 3
    assert not secrets.known(second, "secret one"), "a rotated hash forgets what was right before"
    assert await secrets.verify(second, "secret two")
    secrets.clear()
    assert not secrets.known(first, "secret one")


async def test_the_memory_of_right_secrets_is_bounded_and_shows_none(passwords: Passwords) -> None:
    secrets = VerifiedSecrets(passwords, b"k" * 32, capacity=2)
    stored = [await passwords.hash(f"secret {number}") for number in range(3)]
    for number, hashed in enumerate(stored):
        assert await secrets.verify(hashed, f"secret {number}")
    assert [secrets.known(hashed, f"secret {number}") for number, hashed in enumerate(stored)] == [False, True, True]
    assert b"secret" not in b"".join(secrets._right)
