"""The ID token of a stay, kept so that the person can be signed out of his provider too.

A provider asks for the token it gave as the hint of who signs out of what (OpenID Connect RP-Initiated Logout 1.0 §2);
without one it has to ask the person, and some refuse. The token tells of him, so it is sealed, to its session alone,
and ends with that (``id_token_ends`` in the schema). While a second factor is owed it waits with the sign-in.
"""

from __future__ import annotations

from bailiwick.kernel.crypto import Sealer, SealError

MAX_HELD = 4000
"""Bytes. A hint travels in an address, and servers commonly take 8 KiB of that; a longer one is not kept."""


def sealed(sealer: Sealer, id_token: str, aad: bytes) -> bytes | None:
    """The token as it is kept; None for none, and for one that is too long to be sent as a hint."""
    return sealer.seal(id_token.encode(), aad) if 0 < len(id_token) <= MAX_HELD and id_token.isascii() else None


def opened(sealer: Sealer, kept: bytes | None, aad: bytes) -> str:
    """The token; empty where none is kept or it does not open, as signing out goes on without."""
    try:
        return sealer.open(bytes(kept), aad).decode() if kept is not None else ""
    except SealError:
        return ""


def session_aad(identifier: str) -> bytes:
    """What the token of a session is bound to."""
    return f"id-token/session/{identifier}".encode()


def pending_aad(token_hash: bytes) -> bytes:
    """What the token of a sign-in that waits is bound to."""
    return b"id-token/pending/" + token_hash
