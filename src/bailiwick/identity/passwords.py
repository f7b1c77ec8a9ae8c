"""Passwords and secrets: argon2id apart from the event loop, so that sign-ins cannot starve checks.

Parameters are OWASP's for argon2id: 19 MiB, two passes, one lane.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import unicodedata
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Protocol, TypeVar

from bailiwick.identity.breached import BreachList
from bailiwick.identity.hasher import make_hasher, matches
from bailiwick.identity.hashers import Cost
from bailiwick.kernel.errors import InvalidRequest, Unavailable

T = TypeVar("T")

MIN_LENGTH = 12
MAX_LENGTH = 256
COST = Cost(memory_kib=19 * 1024, passes=2, lanes=1)


class Hashing(Protocol):
    """Where hashes are made: in processes (``hashers.py``)."""

    async def hash(self, password: str) -> str:
        """The argon2id hash."""
        ...

    async def matches(self, stored: str, password: str) -> bool:
        """Whether ``password`` is the one hashed as ``stored``."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


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


@cache
def _hash_of_nobody(cost: Cost) -> str:
    """What nobody's password is verified against, so that an unknown user takes as long as a known one."""
    return make_hasher(cost.memory_kib, cost.passes, cost.lanes).hash("nobody has this password")


class Passwords:
    """Hashes and verifies, at most ``threads`` at once and ``waiting`` more in line.

    ``hashing`` is where, which must hash by ``cost``; without it in threads of this process.
    """

    def __init__(
        self,
        breached: BreachList | None = None,
        *,
        threads: int = 2,
        waiting: int = 64,
        cost: Cost = COST,
        hashing: Hashing | None = None,
    ) -> None:
        self._breached = breached
        self._hasher = make_hasher(cost.memory_kib, cost.passes, cost.lanes)
        self._hashing = hashing
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._room = threads + waiting
        self._pending = 0
        self._nobody = _hash_of_nobody(cost)

    async def check(self, password: str, *, username: str, email: str) -> None:
        """Raises ``invalid_request`` or ``password_breached`` for a password we do not take (NIST 800-63B §5.1.1.2),
        and ``Unavailable`` where the list of breached ones cannot be read."""
        check_password(password, username=username, email=email)
        breached = self._breached
        if breached is not None and await self._in_thread(lambda: breached.holds(_normal(password))):
            raise InvalidRequest(reason="password_breached")

    async def hash(self, password: str) -> str:
        """The argon2id hash; raises ``Unavailable`` (``not_ready``) when the line is full."""
        normal, hashing = _normal(password), self._hashing
        if hashing is not None:
            return await self._in_line(lambda: hashing.hash(normal))
        return await self._in_thread(lambda: self._hasher.hash(normal))

    async def verify(self, stored: str | None, password: str) -> Verified:
        """Whether ``password`` is the one hashed as ``stored``; None takes the same time and is never right.

        Raises ``Unavailable`` (``not_ready``) when the line is full.
        """
        normal, known, hashing = _normal(password), stored or self._nobody, self._hashing
        if hashing is not None:
            right = await self._in_line(lambda: hashing.matches(known, normal))
        else:
            right = await self._in_thread(lambda: matches(self._hasher, known, normal))
        ok = right and stored is not None
        return Verified(ok, ok and self._hasher.check_needs_rehash(stored or ""))

    def close(self) -> None:
        """Let the threads end, and the processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._hashing is not None:
            self._hashing.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await self._in_line(lambda: asyncio.get_running_loop().run_in_executor(self._pool, work))

    async def _in_line(self, work: Callable[[], Awaitable[T]]) -> T:
        if self._pending >= self._room:
            raise Unavailable("Too many passwords are being checked; try again.", headers={"Retry-After": "1"})
        self._pending += 1
        job = asyncio.ensure_future(work())
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
