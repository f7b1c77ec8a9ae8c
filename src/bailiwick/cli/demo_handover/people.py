"""The people of the story: made on the machine, each with a password and a second factor of his own."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field

from bailiwick.cli.demo.exchange import NOBODY, Bearer
from bailiwick.identity.factors import totp

CAST = {
    "ada": "admin",
    "eve": "operator",
    "erik": "operator",
    "olga": "ops_owner",
    "otto": "ops_owner",
    "sam": "security_owner",
    "mia": "product_owner",
    "vic": "auditor",
    "finn": "finance_owner",
}
"""Everybody beside the first administrator. eve works on the release, olga runs it and takes over; erik, otto, sam and
mia sign for the four teams, and produce nothing of what they sign."""


@dataclass(slots=True)
class Person:
    """Somebody with a password and, once enrolled, an authenticator app."""

    name: str
    password: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    bearer: Bearer = NOBODY
    _secret: bytes = b""
    _last: int = -1

    def enrolled(self, secret: str) -> None:
        """Take over the secret of the app, in base32."""
        self._secret, self._last = base64.b32decode(secret + "=" * (-len(secret) % 8)), -1

    @property
    def has_app(self) -> bool:
        """Whether there is an app."""
        return bool(self._secret)

    def code(self, now: float) -> tuple[str, float]:
        """The next code that was not used yet, and how many seconds to wait before it is taken."""
        step = int(now) // totp.STEP_S
        self._last = max(step - 1, self._last + 1)
        return totp.code_at(self._secret, self._last), max(0.0, (self._last - 1) * totp.STEP_S - now + 0.2)
