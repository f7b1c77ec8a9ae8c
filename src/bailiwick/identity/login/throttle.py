"""Failed sign-ins are counted by where they come from, beside the lock of the account: many accounts may be tried from
one network, each too seldom for its lock.

Only failures count. Each attempt is counted when it begins and given back when it turns out well, so that attempts made
at once learn no more than those made in turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from fastapi import Depends, Request

from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.ratelimit import HotLimits, network_of

# what a guess is answered with; anything else, such as a second factor owed, says that the proof held or none was given
_WRONG = frozenset(
    {"invalid_credentials", "invalid_code", "invalid_passkey", "passkey_cloned", "invalid_token", "account_locked"}
)


class SignInThrottle:
    """Counts failed sign-ins per network address (IPv6: per /64) among the workers of this machine."""

    def __init__(self, limits: HotLimits, per_minute: int) -> None:
        self._limits = limits
        self._per_minute = per_minute

    @contextmanager
    def attempt(self, ip: str) -> Iterator[None]:
        """An attempt to sign in from ``ip``. Raises ``rate_limited`` (429) after too many failed ones."""
        network = network_of(ip)
        self._limits.require("sign_in", network, self._per_minute)
        wrong = False
        try:
            yield
        except BailiwickError as error:
            wrong = error.reason in _WRONG
            raise
        finally:
            if not wrong:
                self._limits.give_back("sign_in", network, self._per_minute)


async def counted(request: Request) -> AsyncIterator[None]:
    """The dependency of every route at which somebody may guess; the composition root puts a throttle at
    ``app.state.throttle``."""
    throttle: SignInThrottle = request.app.state.throttle
    with throttle.attempt(request.state.ip):
        yield


COUNTED = [Depends(counted)]
