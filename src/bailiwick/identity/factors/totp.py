"""Time-based one-time codes (RFC 6238): SHA-1, six digits, thirty seconds, which every authenticator app speaks."""

from __future__ import annotations

import base64
import hmac
import os
from urllib.parse import quote, urlencode

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP

DIGITS = 6
STEP_S = 30
SECRET_BYTES = 20
_SKEW = 1  # steps to either side


def new_secret() -> bytes:
    """A secret of the length RFC 4226 recommends."""
    return os.urandom(SECRET_BYTES)


def code_at(secret: bytes, step: int) -> str:
    """The code of time step ``step`` (seconds since the epoch // 30)."""
    return HOTP(secret, DIGITS, SHA1(), enforce_key_length=False).generate(step).decode()  # noqa: S303 - RFC 6238


def matching_step(secret: bytes, code: str, now: float, last_step: int) -> int | None:
    """The time step whose code ``code`` is, at most one step away from ``now``; None when it is none.

    Steps up to ``last_step`` are used up: a code works once (RFC 6238 §5.2).
    """
    current = int(now) // STEP_S
    found = None
    for step in range(current - _SKEW, current + _SKEW + 1):
        # every step is compared, so that time tells nothing about which one fits
        if hmac.compare_digest(code_at(secret, step).encode(), code.encode()) and step > last_step:
            found = step if found is None else found
    return found


def encoded(secret: bytes) -> str:
    """The secret as people type it into an app: base32 without padding."""
    return base64.b32encode(secret).decode().rstrip("=")


def provisioning_uri(secret: bytes, issuer: str, account: str) -> str:
    """The ``otpauth://`` URI that apps read from a QR code."""
    label = f"{quote(issuer, safe='')}:{quote(account, safe='')}"
    query = {"secret": encoded(secret), "issuer": issuer, "algorithm": "SHA1", "digits": DIGITS, "period": STEP_S}
    return f"otpauth://totp/{label}?{urlencode(query, quote_via=quote)}"


def qr_code(uri: str) -> str:
    """The URI as a picture for an app's camera: a PNG in a ``data:`` URI."""
    import segno  # when somebody enrols, not with every start

    return str(segno.make(uri, error="m", micro=False).png_data_uri(scale=6, border=4))
