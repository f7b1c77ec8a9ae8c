"""Verifying presented tokens against the worker's memory: signature, standing, revocation. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from bailiwick.authority.keys import VerifyKey
from bailiwick.authority.snapshot import SnapshotStore, ZoneState
from bailiwick.authority.tokens import (
    MANDATE_TYPE,
    SESSION_TYPE,
    Mandate,
    SessionToken,
    VerifiedTokens,
    decode_mandate,
    decode_session,
    read_header,
    verify_signature,
)
from bailiwick.evidence.events import Actor
from bailiwick.identity.api_keys import PREFIX as API_KEY_PREFIX
from bailiwick.identity.api_keys import holds
from bailiwick.identity.api_keys import parse as parse_api_key
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.errors import Denied, Unauthenticated, Unavailable
from bailiwick.kernel.http import Caller


class Presented:
    """A mandate whose signature held. ``memo`` is for what the gateway derives from it in one snapshot."""

    __slots__ = ("actor", "generation", "kid", "mandate", "memo", "scopes")

    def __init__(self, mandate: Mandate, kid: str) -> None:
        self.mandate = mandate
        self.kid = kid
        self.scopes = frozenset(mandate.scopes)
        user = mandate.sub if mandate.sub_type == "user" else ""
        self.actor = Actor(application=mandate.client_id, mandate=mandate.jti, session=mandate.sid, user=user)
        self.generation: tuple[int, int] = (-1, -1)
        self.memo: dict[Any, Any] = {}


class Authenticator:
    """Turns tokens into callers and mandates. ``feed_age`` answers the age of the revocation feed in seconds."""

    def __init__(
        self,
        store: SnapshotStore,
        clock: Clock,
        *,
        feed_age: Callable[[], float],
        freshness_limit_s: float,
        capacity: int = 20_000,
    ) -> None:
        self._store = store
        self._clock = clock
        self._feed_age = feed_age
        self._freshness_limit_s = freshness_limit_s
        self._capacity = capacity
        self._mandates: dict[str, VerifiedTokens[Presented]] = {}
        self._sessions: dict[str, VerifiedTokens[SessionToken]] = {}
        # when each API key was last used, until somebody writes it down
        self.keys_used: dict[str, datetime] = {}
        self._keys_seen: dict[str, Mapping[str, VerifyKey]] = {}

    def require_fresh(self) -> None:
        """Refuse when revocations may have passed us by."""
        if self._feed_age() > self._freshness_limit_s:
            raise Unavailable(reason="revocation_stale")

    def session(self, token: str, zone: str) -> Caller:
        """The person behind a session token of ``zone``; raises ``Unauthenticated``, or ``Unavailable`` when stale."""
        self.require_fresh()
        state = self._store.current.zone(zone)
        cache = self._sessions.get(zone)
        if cache is None:
            cache = self._sessions[zone] = VerifiedTokens(lambda t: self._verify_session(t, zone), self._capacity)
        self._forget_after_key_change(state)
        claims = cache.get(token)
        if claims.exp <= self._clock.time():
            raise Unauthenticated(reason="token_expired")
        user = state.users.get(claims.sub)
        if user is None or not user.is_active:
            raise Unauthenticated(reason="account_disabled")
        if self._store.revoked.covers(
            zone, jti=claims.jti, client="", user=claims.sub, session=claims.sid, rev=claims.rev
        ):
            raise Unauthenticated(reason="session_ended")
        return Caller(
            zone,
            claims.sub,
            user.role,
            claims.sid,
            user.must_change_password,
            claims.amr,
            claims.auth_time,
            owns=user.owns,
        )

    def caller(self, credential: str, zone: str) -> Caller:
        """The person behind a session token, or whose API key this is; raises as :meth:`session` does."""
        if credential.startswith(API_KEY_PREFIX):
            return self.api_key(credential, zone)
        return self.session(credential, zone)

    def api_key(self, text: str, zone: str) -> Caller:
        """The person whose API key this is, with no more than the key's permissions."""
        self.require_fresh()
        parsed = parse_api_key(text)
        state = self._store.current.zone(zone)
        entry = state.api_keys.get(parsed[0]) if parsed is not None else None
        now = self._clock.now()
        if parsed is None or entry is None or not holds(entry, parsed[1], now):
            raise Unauthenticated("The API key is unknown, ended or expired.", reason="invalid_token")
        user = state.users.get(entry.username)
        if user is None or not user.is_active:
            raise Unauthenticated(reason="account_disabled")
        self.keys_used[entry.id] = now
        return Caller(
            zone, entry.username, user.role, "", False, key=entry.id, permissions=entry.permissions, owns=user.owns
        )

    def mandate(self, token: str, state: ZoneState) -> Presented:
        """The mandate of a token: signature, zone, expiry. Revocation is :meth:`require_live`'s."""
        cache = self._mandates.get(state.name)
        if cache is None:
            name = state.name
            cache = self._mandates[name] = VerifiedTokens(lambda t: self._verify_mandate(t, name), self._capacity)
        self._forget_after_key_change(state)
        presented = cache.get(token)
        if presented.mandate.exp <= self._clock.time():
            raise Unauthenticated(reason="token_expired")
        return presented

    def require_live(self, mandate: Mandate, state: ZoneState) -> None:
        """Refuse a mandate if anything it stands on has ended: itself, its application, its user, their session."""
        application = state.applications.get(mandate.client_id)
        if application is None or not application.is_active:
            raise Unauthenticated(reason="application_disabled")
        user = mandate.sub if mandate.sub_type == "user" else ""
        if user:
            entry = state.users.get(user)
            if entry is None or not entry.is_active:
                raise Unauthenticated(reason="account_disabled")
        if self._store.revoked.covers(
            state.name,
            jti=mandate.jti,
            client=mandate.client_id,
            user=user,
            session=mandate.sid,
            rev=mandate.rev,
        ):
            raise Unauthenticated(reason="token_revoked")
        if state.archived:
            raise Denied(reason="zone_archived")

    def _forget_after_key_change(self, state: ZoneState) -> None:
        if self._keys_seen.get(state.name) is not state.keys:  # a fresh mapping after every key change
            self._keys_seen[state.name] = state.keys
            for cache in (self._mandates.get(state.name), self._sessions.get(state.name)):
                if cache is not None:
                    cache.clear()

    def _verify_session(self, token: str, zone: str) -> SessionToken:
        state = self._store.current.zone(zone)
        payload = self._payload(token, SESSION_TYPE, "session", state)
        return decode_session(payload, state.issuer, zone, self._clock.time())

    def _verify_mandate(self, token: str, zone: str) -> Presented:
        state = self._store.current.zone(zone)
        payload = self._payload(token, MANDATE_TYPE, "mandate", state)
        return Presented(decode_mandate(payload, state.issuer, zone, self._clock.time()), read_header(token).kid)

    def _payload(self, token: str, token_type: str, purpose: str, state: ZoneState) -> bytes:
        try:
            return verify_signature(token, token_type, purpose, state.keys)
        except Unauthenticated as error:
            if error.reason == "unknown_key":
                kid = read_header(token).kid
                if kid in state.revoked_keys:
                    raise Unauthenticated(reason="key_revoked") from None
                if any(kid in other.keys for other in self._store.current.zones.values()):
                    raise Unauthenticated(reason="wrong_zone") from None
            raise
