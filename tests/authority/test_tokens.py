"""Tokens are exactly what we signed, or nothing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey

from bailiwick.authority.keys import SigningKey, VerifyKey, generate
from bailiwick.authority.tokens import (
    MANDATE_TYPE,
    SESSION_TYPE,
    Mandate,
    VerifiedTokens,
    decode_mandate,
    sign,
    verify_signature,
)
from bailiwick.kernel.errors import Unauthenticated

NOW = 1_800_000_000
KID, JWK, DER = generate("mandate")
SIGNING = SigningKey(KID, "default", "mandate", "ES256", ECKey.import_key(DER), DER)
KEYS = {KID: VerifyKey(KID, "default", "mandate", "ES256", "active", JWK, ECKey.import_key(JWK))}
MANDATE = Mandate(
    iss="http://x", aud="http://x/s/pay", sub="a", client_id="a", iat=NOW, exp=NOW + 900, jti="j",
    scope="pay:read", zone="default", policy="sha256:0", rev=3,
)  # fmt: skip
TOKEN = sign(SIGNING, MANDATE_TYPE, MANDATE)


def segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def refused(token: str, now: float = NOW, zone: str = "default", issuer: str = "http://x") -> str:
    with pytest.raises(Unauthenticated) as error:
        decode_mandate(verify_signature(token, MANDATE_TYPE, "mandate", KEYS), issuer, zone, now)
    return error.value.reason


def test_what_we_signed_is_read_back() -> None:
    assert decode_mandate(verify_signature(TOKEN, MANDATE_TYPE, "mandate", KEYS), "http://x", "default", NOW) == MANDATE


@given(st.text(max_size=200))
def test_text_is_no_token(text: str) -> None:
    assert refused(text) in {"invalid_token", "unknown_key"}


@settings(max_examples=300)
@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="ascii"))
def test_one_other_character_is_another_token(place: int, other: str) -> None:
    changed = TOKEN[:place] + other + TOKEN[place + 1 :]
    if changed == TOKEN:
        return
    try:
        payload = verify_signature(changed, MANDATE_TYPE, "mandate", KEYS)
    except Unauthenticated:
        return
    # base64 leaves spare bits in the last character of the signature: the bytes are the same, nothing was forged
    assert place == len(TOKEN) - 1 and payload == base64.urlsafe_b64decode(TOKEN.split(".")[1] + "==")


@pytest.mark.parametrize("header", [
    {"alg": "none"}, {"alg": "HS256"}, {"alg": "ES384"}, {"typ": SESSION_TYPE}, {"typ": "JWT"}, {"kid": "m-0"},
    {"kid": ""}, {"alg": None}, {"kid": {"a": 1}},
])  # fmt: skip
def test_headers_are_ours_or_refused(header: dict[str, Any]) -> None:
    ours = {"alg": "ES256", "typ": MANDATE_TYPE, "kid": KID}
    forged = f"{segment({**ours, **header})}.{TOKEN.split('.', 1)[1]}"
    assert refused(forged) in {"invalid_token", "unknown_key"}


def test_hs256_with_the_public_key() -> None:
    public = KEYS[KID].key.get_op_key("verify")
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = f"{segment({'alg': 'HS256', 'typ': MANDATE_TYPE, 'kid': KID})}.{TOKEN.split('.')[1]}"
    assert refused(f"{signed}.{segment(hmac.new(pem, signed.encode(), hashlib.sha256).digest())}") == "invalid_token"


def test_a_key_in_the_header_is_not_listened_to() -> None:
    _, jwk, der = generate("mandate")
    mine = SigningKey(KID, "default", "mandate", "ES256", ECKey.import_key(der), der)
    signature = sign(mine, MANDATE_TYPE, MANDATE).split(".")[2]
    header = {"alg": "ES256", "typ": MANDATE_TYPE, "kid": KID, "jwk": jwk, "jku": "http://evil/jwks.json"}
    assert refused(f"{segment(header)}.{TOKEN.split('.')[1]}.{signature}") == "invalid_token"


def test_a_key_of_another_purpose() -> None:
    other = {KID: VerifyKey(KID, "default", "session", "ES256", "active", JWK, ECKey.import_key(JWK))}
    with pytest.raises(Unauthenticated) as error:
        verify_signature(TOKEN, MANDATE_TYPE, "mandate", other)
    assert error.value.reason == "unknown_key"


def test_standing() -> None:
    assert refused(TOKEN, now=NOW + 900) == "token_expired"
    assert refused(TOKEN, now=NOW - 3600) == "invalid_token"
    assert refused(TOKEN, zone="acme") == "wrong_zone"
    assert refused(TOKEN, issuer="http://y") == "wrong_zone"


def test_large_and_deep() -> None:
    started = time.monotonic()
    assert refused("a." * 5_000_000) == "invalid_token"
    assert refused(f"{segment(b'[' * 3000)}.e30.AA") == "invalid_token"
    assert time.monotonic() - started < 20


def test_the_cache_is_bounded_and_can_be_emptied() -> None:
    asked: list[str] = []
    cache = VerifiedTokens(lambda token: asked.append(token) or token, capacity=2)
    for token in ("a", "a", "b", "c", "a"):
        assert cache.get(token) == token
    assert asked == ["a", "b", "c", "a"]
    cache.clear()
    cache.get("a")
    assert asked[-1] == "a" and len(asked) == 5
