"""Talking to OpenID providers: discovery, keys, the code exchange. Nothing a provider does holds up another.

Every request goes by the client that checks addresses where it connects, follows no redirect and reads to a bound.
What was learned is kept: discovery for an hour, keys for ten minutes. A token that names an unknown key has them read
again at once, but not within half a minute of the last time that was so, since anybody can make such a token. A failure
is remembered for seconds, so that people who keep trying do not queue up behind a provider that is slow.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote_plus, urlencode

from bailiwick.evidence.siem.destination import Retry, Stop
from bailiwick.evidence.siem.outgoing import Answer, Outgoing, Reach
from bailiwick.identity.login.oidc_options import OidcOptions
from bailiwick.identity.login.oidc_tokens import (
    Metadata,
    ProviderFault,
    SigningKey,
    UnknownKey,
    parse_keys,
    parse_metadata,
    subject_of,
)
from bailiwick.kernel.clock import Clock

T = TypeVar("T")
Verified = TypeVar("Verified")

TIMEOUT_S = 8.0
METADATA_LIFE_S = 3600.0
KEYS_LIFE_S = 600.0
REFETCH_EVERY_S = 30.0
FAILURE_LIFE_S = 5.0
# the client reads no further: an answer that long is cut and not believed
_MOST_ANSWERED = 64 << 10
_WELL_KNOWN = "/.well-known/openid-configuration"
MAX_CLIENTS = 200


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a code was exchanged for."""

    id_token: str
    access_token: str


class ProviderClient:
    """Talks to one provider as it is configured."""

    def __init__(
        self, options: OidcOptions, secret: str, reach: Reach, clock: Clock, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.options = options
        self._secret = secret
        self._clock = clock
        self._outgoing = Outgoing(reach, timeout_s=timeout_s, ca=options.ca)
        self._metadata: _Kept[Metadata] = _Kept(clock, METADATA_LIFE_S, self._discover)
        self._keys: _Kept[Sequence[SigningKey]] = _Kept(clock, KEYS_LIFE_S, self._read_keys)

    async def metadata(self) -> Metadata:
        """What discovery says; raises :class:`ProviderFault`."""
        return await self._metadata.get()

    async def keys(self) -> Sequence[SigningKey]:
        """The provider's keys; raises :class:`ProviderFault`."""
        return await self._keys.get()

    async def verified(self, verify: Callable[[Sequence[SigningKey]], Verified]) -> Verified:
        """What ``verify`` makes of the keys; once more with fresh ones if it misses a key."""
        try:
            return verify(await self._keys.get())
        except UnknownKey:
            if not await self._keys.renew():
                raise
        return verify(await self._keys.get())

    async def exchange(self, code: str, verifier: str, redirect_uri: str) -> Tokens:
        """The tokens for a code (RFC 6749 §4.1.3, RFC 7636 §4.5); raises :class:`ProviderFault`."""
        metadata = await self.metadata()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        method = self.auth_method(metadata)
        if method == "client_secret_basic":
            # RFC 6749 §2.3.1: both halves are encoded as in a form
            pair = f"{quote_plus(self.options.client_id)}:{quote_plus(self._secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form["client_id"] = self.options.client_id
            if method == "client_secret_post":
                form["client_secret"] = self._secret
        answer = await self._send("POST", metadata.token_endpoint, urlencode(form).encode(), headers)
        document = _json(answer, "the token endpoint")
        if answer.status != 200:
            raise ProviderFault(f"the token endpoint refuses: {_error_code(document)}")
        id_token, access_token = document.get("id_token"), document.get("access_token", "")
        if not isinstance(id_token, str) or not isinstance(access_token, str):
            raise ProviderFault("the token endpoint answers without an ID token")
        return Tokens(id_token, access_token)

    async def userinfo(self, access_token: str, subject: str) -> Mapping[str, Any]:
        """The userinfo claims of ``subject`` (Core §5.3); raises :class:`ProviderFault`, also for another's claims."""
        metadata = await self.metadata()
        if not metadata.userinfo_endpoint:
            raise ProviderFault("the provider has no userinfo endpoint")
        if not access_token.isascii() or any(ord(char) <= 32 for char in access_token) or not access_token:
            raise ProviderFault("the access token cannot be sent")
        headers = {"Authorization": f"Bearer {access_token}", "Accept": "application/json"}
        answer = await self._send("GET", metadata.userinfo_endpoint, b"", headers)
        document = _json(answer, "the userinfo endpoint")
        if answer.status != 200:
            raise ProviderFault(f"the userinfo endpoint answers {answer.status}")
        if subject_of(document) != subject:
            raise ProviderFault("the userinfo endpoint tells of somebody else")
        return document

    async def knows_address(self, redirect_uri: str) -> bool | None:
        """Whether the provider would send browsers back to ``redirect_uri``; None where it does not show.

        It is asked for a sign-in without a person (Core §3.1.2.1, ``prompt=none``), which it refuses at that address.
        """
        metadata = await self.metadata()
        query = {
            "response_type": "code",
            "client_id": self.options.client_id,
            "redirect_uri": redirect_uri,
            "scope": "openid",
            "state": "bailiwick-test",
            "nonce": "bailiwick-test",
            "prompt": "none",
            "code_challenge": "v" * 43,
            "code_challenge_method": "S256",
        }
        answer = await self._ask("GET", with_query(metadata.authorization_endpoint, query), b"", {"Accept": "*/*"})
        if 300 <= answer.status < 400 and answer.headers.get("Location", "").startswith(redirect_uri):
            return True
        return False if 400 <= answer.status < 500 else None

    def auth_method(self, metadata: Metadata) -> str:
        """How the client proves itself: as configured, else the first that both sides know."""
        if self.options.auth_method is not None:
            return self.options.auth_method
        if not self._secret:
            return "none"
        offered = metadata.auth_methods
        return next((name for name in ("client_secret_basic", "client_secret_post") if name in offered), "none")

    async def close(self) -> None:
        """Let go of the connections."""
        await self._outgoing.close()

    async def _discover(self) -> Metadata:
        # Discovery §4.1: a slash at the end goes before the well-known part is added
        url = self.options.issuer.rstrip("/") + _WELL_KNOWN
        answer = await self._send("GET", url, b"", {"Accept": "application/json"})
        if answer.status != 200:
            raise ProviderFault(f"the discovery document is answered with {answer.status}", away=answer.status >= 500)
        return parse_metadata(_json(answer, "the discovery document"), self.options.issuer)

    async def _read_keys(self) -> Sequence[SigningKey]:
        metadata = await self.metadata()
        answer = await self._send("GET", metadata.jwks_uri, b"", {"Accept": "application/json"})
        if answer.status != 200:
            raise ProviderFault(f"the key set is answered with {answer.status}", away=answer.status >= 500)
        return parse_keys(_json(answer, "the key set"))

    async def _send(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        answer = await self._ask(method, url, body, headers)
        if 300 <= answer.status < 400:
            raise ProviderFault("the provider answers with a redirect, which is not followed")
        if len(answer.body) >= _MOST_ANSWERED:
            raise ProviderFault("the provider's answer is larger than 64 KiB")
        return answer

    async def _ask(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        try:
            return await self._outgoing.post(url, body, headers, method=method)
        except Stop as refused:
            raise ProviderFault(str(refused)) from None
        except Retry as away:
            raise ProviderFault(str(away), away=True) from None


class ProviderClients:
    """The clients of a worker, one to a provider as it stands now; ``timeout_s`` bounds each request."""

    def __init__(self, reach: Reach, clock: Clock, timeout_s: float = TIMEOUT_S) -> None:
        self._reach = reach
        self._clock = clock
        self._timeout_s = timeout_s
        self._known: dict[str, tuple[int, ProviderClient]] = {}

    async def of(self, identifier: str, version: int, options: OidcOptions, secret: str) -> ProviderClient:
        """The client of the provider ``identifier`` at ``version``; one of an earlier version is let go."""
        held = self._known.get(identifier)
        if held is not None and held[0] == version:
            return held[1]
        client = self.fresh(options, secret)
        self._known[identifier] = (version, client)
        if held is not None:
            await held[1].close()
        if len(self._known) > MAX_CLIENTS:
            oldest = next(iter(self._known))
            await self._known.pop(oldest)[1].close()
        return client

    def fresh(self, options: OidcOptions, secret: str) -> ProviderClient:
        """A client that knows nothing yet, for a test; whoever asks closes it."""
        return ProviderClient(options, secret, self._reach, self._clock, self._timeout_s)

    async def close(self) -> None:
        """Let go of all connections."""
        while self._known:
            await self._known.popitem()[1][1].close()


class _Kept(Generic[T]):
    """Something read from a provider and kept for a while; read by one at a time, failures remembered shortly."""

    def __init__(self, clock: Clock, life_s: float, read: Callable[[], Awaitable[T]]) -> None:
        self._clock = clock
        self._life_s = life_s
        self._read = read
        self._lock = asyncio.Lock()
        self._value: T | None = None
        self._at = float("-inf")
        self._fault: ProviderFault | None = None
        self._failed_at = float("-inf")
        self._renewed_at = float("-inf")

    async def get(self) -> T:
        if (value := self._fresh()) is not None:
            return value
        async with self._lock:
            value = self._fresh()
            return value if value is not None else await self._refresh()

    async def renew(self) -> bool:
        """Read again unless that was done just now; whether there is something new to look at."""
        seen = self._at
        async with self._lock:
            if self._at != seen:
                return True
            if self._clock.monotonic() - self._renewed_at < REFETCH_EVERY_S:
                return False
            self._renewed_at = self._clock.monotonic()
            await self._refresh()
            return True

    def _fresh(self) -> T | None:
        return self._value if self._clock.monotonic() - self._at < self._life_s else None

    async def _refresh(self) -> T:
        if self._fault is not None and self._clock.monotonic() - self._failed_at < FAILURE_LIFE_S:
            raise ProviderFault(self._fault.told, away=self._fault.away)
        try:
            value = self._value = await self._read()
        except ProviderFault as fault:
            self._fault, self._failed_at = fault, self._clock.monotonic()
            raise
        self._fault, self._at = None, self._clock.monotonic()
        return value


def with_query(address: str, query: Mapping[str, str]) -> str:
    """An address of a provider, which may have a query of its own, with ours."""
    return f"{address}{'&' if '?' in address else '?'}{urlencode(query)}"


def _json(answer: Answer, what: str) -> dict[str, Any]:
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise ProviderFault(f"{what} answers {answer.status} and no JSON") from None
    if not isinstance(document, dict):
        raise ProviderFault(f"{what} answers {answer.status} and no JSON object")
    return document


def _error_code(document: Mapping[str, Any]) -> str:
    """The ``error`` of an answer, fit for a log; its description is the provider's and not repeated."""
    code = document.get("error")
    return code[:60] if isinstance(code, str) and code.isascii() and code.isprintable() and code else "without a reason"
