"""What a live stream stands on: a small text the check hands to the stream guard through Envoy.

The text travels in the header `x-bailiwick-authority`, which callers cannot set (Envoy strips it before the
check runs) and upstreams never see. Its form is `jti|client|subject|session|zone|server|kid|revision|expires_at`; the
first seven are percent-encoded UTF-8, the revision is an integer, the expiry is in whole seconds since 1970 (UTC).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

AUTHORITY_HEADER = "x-bailiwick-authority"
MAX_ENCODED_BYTES = 4096
_NAMES = 7
_FIELDS = 9


class AuthorityRefError(ValueError):
    """The text is no authority reference; the stream it came with must not live."""


@dataclass(frozen=True, slots=True)
class AuthorityRef:
    """The authority of one request.

    `jti` is the mandate's id, `client` the application's, `subject` the user's (empty when an application
    acts for itself), `session` the sign-in session's (empty when there is none), `zone` and `kid` those of the
    mandate's signature, `server` what it reaches, `revision` the one its issuer had applied, `expires_at` the mandate's
    `exp` (RFC 7519 §4.1.4).
    """

    jti: str
    client: str
    subject: str
    session: str
    zone: str
    server: str
    kid: str
    revision: int
    expires_at: int

    def encode(self) -> str:
        """The header value: printable ASCII without spaces."""
        told = (self.jti, self.client, self.subject, self.session, self.zone, self.server, self.kid)
        names = (quote(part, safe="") for part in told)
        return "|".join((*names, str(self.revision), str(self.expires_at)))

    @classmethod
    def decode(cls, text: str) -> AuthorityRef:
        """Read a header value; raises `AuthorityRefError` for anything `encode` does not produce."""
        if len(text) > MAX_ENCODED_BYTES:
            raise AuthorityRefError("authority reference is too long")
        parts = text.split("|")
        if len(parts) != _FIELDS:
            raise AuthorityRefError("authority reference does not have nine fields")
        try:
            names = (unquote(part, errors="strict") for part in parts[:_NAMES])
            jti, client, subject, session, zone, server, kid = names
            ref = cls(jti, client, subject, session, zone, server, kid, int(parts[_NAMES]), int(parts[_NAMES + 1]))
        except ValueError:
            raise AuthorityRefError("authority reference is malformed") from None
        if not ref.jti or ref.encode() != text:
            raise AuthorityRefError("authority reference is malformed")
        return ref
