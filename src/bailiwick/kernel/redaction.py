"""Keeps secrets out of everything that is written for people to read: log lines, job results, error texts.

Two rules, both applied everywhere: a value under a telling name (``password``, ``client_secret``, ``Cookie`` …) goes
whole; in any other text, what has the form of a secret goes (JWTs, our own ``bws_`` secrets, Bearer and Basic values,
``password=…`` pairs, user information of URLs, PEM private keys, the row values PostgreSQL and SQLAlchemy put into
their errors). Losing a harmless word to a rule is cheaper than keeping a secret, so the rules are wide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from itertools import pairwise
from typing import Any

REDACTED = "[redacted]"

MAX_TEXT = 16_384
_MAX_SCANNED = 4 * MAX_TEXT
_MAX_DEPTH = 6
_MAX_ITEMS = 200

_TELLING = frozenset(
    [
        "password",
        "passwords",
        "passwd",
        "pwd",
        "passphrase",
        "secret",
        "secrets",
        "token",
        "tokens",
        "authorization",
        "cookie",
        "cookies",
        "apikey",
        "otp",
        "totp",
        "jwt",
        "assertion",
        "bearer",
        "kek",
        "privatekey",
    ]
)
_TELLING_PAIRS = frozenset(
    (first, "key") for first in ("api", "private", "access", "signing", "encryption", "client", "data", "session")
) | {("recovery", "code"), ("recovery", "codes"), ("otpauth", "uri"), ("qr", "code")}
# `token_type`, `secret_name` and the like tell of the secret without being it
_ABOUT = frozenset(
    [
        "id",
        "ids",
        "jti",
        "kid",
        "type",
        "name",
        "names",
        "count",
        "ttl",
        "expiry",
        "expires",
        "at",
        "s",
        "ms",
        "seconds",
        "age",
        "version",
        "length",
        "size",
        "endpoint",
        "url",
        "uri",
        "required",
        "changed",
        "rotated",
        "kind",
        "format",
        "file",
        "path",
        "policy",
    ]
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

_NAMES = r"password|passwd|passphrase|pwd|secret|token|api[_-]?key|private[_-]?key|authorization|cookie|assertion"
# `name: value`, `name=value`, `"name": "value"`, `\"name\": …`, and the (b'name', b'value') of header lists.
# Every repeat is bounded, so that no text makes the scan slow.
_PAIR = r"[\w-]{0,32}(?:\\?[\"']?\s{0,4}[=:]\s{0,4}|\\?[\"'],\s{0,4}(?=b?\\?[\"']))"
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.S),
        REDACTED,
    ),
    # SQLAlchemy and PostgreSQL quote the values of the row
    (re.compile(r"\[parameters: .*"), f"[parameters: {REDACTED}]"),
    (re.compile(r"Failing row contains \(.*"), f"Failing row contains {REDACTED}"),
    # base64url of '{"', with or without the other parts: a JWT, JWE, or a piece of one
    (re.compile(r"eyJ[\w-]{6,}(?:\.[\w-]*){0,4}"), REDACTED),
    (re.compile(r"\bbw[a-z]{0,2}_[\w-]{6,}"), REDACTED),
    (re.compile(r"\b(bearer|basic|dpop|negotiate|digest)(\s{1,8}|%20|\+)[\w.~+/=%:-]+", re.I), rf"\1 {REDACTED}"),
    (re.compile(r"(://[^\s/:@'\"]*):[^\s/'\"]*@"), rf"\1:{REDACTED}@"),
    # these two hold several words or pairs: the rest of the line goes
    (re.compile(rf"((?:authorization|cookie){_PAIR})b?\\?[\"']?[^\r\n\"']*", re.I), rf"\1{REDACTED}"),
    (
        re.compile(
            rf"((?:{_NAMES}){_PAIR})"
            r"(?:b?\\?\"(?:[^\"\\]|\\.)*\"?|b?\\?'(?:[^'\\]|\\.)*'?|(?!\[redacted\])[^\s,;&)}\]]+)",
            re.I,
        ),
        rf"\1{REDACTED}",
    ),
)
# a cheap look for anything a rule could begin with, since most texts hold nothing
_SUSPECT = re.compile(
    rf"PRIVATE KEY|\[parameters|Failing row|eyJ|bw[a-z]{{0,2}}_|bearer|basic|dpop|negotiate|digest|://|{_NAMES}", re.I
)


@lru_cache(maxsize=1024)
def is_telling(name: str) -> bool:
    """Whether a field of this name (snake_case, kebab-case or camelCase) holds a secret."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words:
        return False
    if words[-1] in _ABOUT:
        return False
    return any(word in _TELLING for word in words) or any(pair in _TELLING_PAIRS for pair in pairwise(words))


def redact_text(text: str) -> str:
    """``text`` without what has the form of a secret, and no longer than :data:`MAX_TEXT` characters."""
    text = text[:_MAX_SCANNED]
    if _SUSPECT.search(text):
        for rule, replacement in _RULES:
            text = rule.sub(replacement, text)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def scrub(text: str) -> tuple[str, int]:
    """``text`` of any length without what has the form of a secret, and how many places were taken out."""
    taken = 0
    if _SUSPECT.search(text):
        for rule, replacement in _RULES:
            text, count = rule.subn(replacement, text)
            taken += count
    return text, taken


def redact(value: Any, _depth: int = 0) -> Any:
    """``value`` with secrets taken out at every depth, as JSON types; what is none becomes its text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 64 else hex(value)[:MAX_TEXT]  # str() of a huge int raises
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return redact_text(bytes(value[:_MAX_SCANNED]).decode("utf-8", "backslashreplace"))
    if _depth >= _MAX_DEPTH:
        return REDACTED
    if isinstance(value, Mapping):
        return {
            redact_text(str(name)): redact_field(str(name), inner, _depth + 1)
            for name, inner in list(value.items())[:_MAX_ITEMS]
        }
    if isinstance(value, Sequence):
        return [redact(inner, _depth + 1) for inner in value[:_MAX_ITEMS]]
    if isinstance(value, Set):
        return sorted(str(redact(inner, _depth + 1)) for inner in value)[:_MAX_ITEMS]
    return redact_text(_text_of(value))


def redact_field(name: str, value: Any, _depth: int = 0) -> Any:
    """``value`` of a field called ``name``: gone whole when the name is telling and the value could be a secret."""
    if is_telling(name) and not (value is None or isinstance(value, bool)):
        return REDACTED
    return redact(value, _depth)


def _text_of(value: object) -> str:
    try:
        return str(value) if isinstance(value, BaseException) else repr(value)
    except Exception:  # noqa: BLE001 - whatever a foreign __repr__ does, the line is written
        return f"<{type(value).__name__}>"
