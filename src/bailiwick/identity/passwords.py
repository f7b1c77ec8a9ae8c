"""Passwords and secrets: argon2id in threads of its own, so that sign-ins cannot starve checks.

Parameters are OWASP's for argon2id: 19 MiB, two passes, one lane.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import unicodedata
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from argon2.low_level import Type

from bailiwick.identity.breached import BreachList
from bailiwick.kernel.errors import InvalidRequest, Unavailable

T = TypeVar("T")

MIN_LENGTH = 12
MAX_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Verified:
    """Whether a password was right, and whether its hash should be made anew under today's parameters."""

    ok: bool
    outdated: bool = False


def check_password(password: str, *, username: str, email: str) -> None:
    """Raises ``invalid_request`` for a password we do not take: by length, and the user's own names (NIST 800-63B)."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise InvalidRequest(f"A password must have {MIN_LENGTH} to {MAX_LENGTH} characters.")
    if _normal(password).casefold() in {username.casefold(), email.casefold()}:
        raise InvalidRequest("A password must not be the user name or the e-mail address.")


class Passwords:
    """Hashes and verifies, at most ``threads`` at once and ``waiting`` more in line."""

    def __init__(
        self,
        breached: BreachList | None = None,
        *,
        threads: int = 2,
        waiting: int = 64,
        memory_kib: int = 19 * 1024,
        passes: int = 2,
        lanes: int = 1,
    ) -> None:
        self._breached = breached
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=lanes, type=Type.ID)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._room = threads + waiting
        self._pending = 0
        # what nobody's password is verified against, so that an unknown user takes as long as a known one
        self._nobody = self._hasher.hash("nobody has this password")

    async def check(self, password: str, *, username: str, email: str) -> None:
        """Raises ``invalid_request`` or ``password_breached`` for a password we do not take (NIST 800-63B §5.1.1.2),
        and ``Unavailable`` where the list of breached ones cannot be read."""
        check_password(password, username=username, email=email)
        breached = self._breached
        if breached is not None and await self._run(lambda: breached.holds(_normal(password))):
            raise InvalidRequest(reason="password_breached")

    async def hash(self, password: str) -> str:
        """The argon2id hash; raises ``Unavailable`` (``not_ready``) when the line is full."""
        return await self._run(lambda: self._hasher.hash(_normal(password)))

    async def verify(self, stored: str | None, password: str) -> Verified:
        """Whether ``password`` is the one hashed as ``stored``; None takes the same time and is never right.

        Raises ``Unavailable`` (``not_ready``) when the line is full.
        """
        right = await self._run(lambda: self._matches(stored or self._nobody, _normal(password)))
        ok = right and stored is not None
        return Verified(ok, ok and self._hasher.check_needs_rehash(stored or ""))

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except VerifyMismatchError:
            return False
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._pending >= self._room:
            raise Unavailable("Too many passwords are being checked; try again.", headers={"Retry-After": "1"})
        self._pending += 1
        job = asyncio.get_running_loop().run_in_executor(self._pool, work)
        job.add_done_callback(self._done)
        return await job

    def _done(self, _job: asyncio.Future[T]) -> None:
        self._pending -= 1


class VerifiedSecrets:
    """Application secrets found right before, so that a repeated one costs an HMAC and not an argon2.

    An entry is keyed by the process's own key over the stored hash and the secret: rotating the secret changes the
    hash and so forgets the entry, and a memory dump shows no secret. Only right secrets are remembered.
    """

    def __init__(self, passwords: Passwords, process_key: bytes, capacity: int = 10_000) -> None:
        """``process_key`` is 32 random bytes that live as long as the process."""
        self._passwords = passwords
        self._key = process_key
        self._capacity = capacity
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Verified]] = {}

    def known(self, stored: str, secret: str) -> bool:
        """Whether this secret was found right for this hash before."""
        digest = self._digest(stored, secret)
        if digest not in self._right:
            return False
        self._right.move_to_end(digest)
        return True

    async def verify(self, stored: str, secret: str) -> bool:
        """Whether ``secret`` is the one hashed as ``stored``. Those who ask the same at once share one answer."""
        if self.known(stored, secret):
            return True
        digest = self._digest(stored, secret)
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(self._passwords.verify(stored, secret))
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        verified = await asyncio.shield(task)
        if verified.ok:
            self._right[digest] = None
            if len(self._right) > self._capacity:
                self._right.popitem(last=False)
        return verified.ok

    def clear(self) -> None:
        """Forget everything."""
        self._right.clear()

    def _digest(self, stored: str, secret: str) -> bytes:
        material = f"{len(stored)}:{stored}{secret}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, material, hashlib.sha256).digest()


def _normal(password: str) -> str:
    # the same keys give different code points on different systems (RFC 8265 §4)
    return unicodedata.normalize("NFC", password).encode("utf-8", "replace").decode()
