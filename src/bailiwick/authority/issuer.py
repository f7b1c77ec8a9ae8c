"""Issuing mandates: who asks, what for, on whose behalf; the ceiling; policy; evidence; signature; in that order.

Everything is read from the worker's memory. The evidence of the issue is durable before the mandate leaves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from bailiwick.authority.authenticate import Authenticator
from bailiwick.authority.rfc8693 import (
    TOKEN_EXCHANGE,
    Ceiling,
    OAuthError,
    Principal,
    TokenRequest,
    check_scopes,
    denial,
    granted_scopes,
    narrow_to_subject,
    policy_input,
)
from bailiwick.authority.snapshot import SnapshotStore, ZoneState
from bailiwick.authority.tokens import MANDATE_TYPE, SESSION_TYPE, Act, Mandate, SessionToken, read_header, sign
from bailiwick.evidence import codes
from bailiwick.evidence.events import Actor, Context, Recorder, Subject, encode
from bailiwick.identity.loader import ApplicationEntry
from bailiwick.identity.login.sign_ins import ACR_MFA, ACR_SINGLE
from bailiwick.identity.sessions import printable
from bailiwick.inventory.loader import ServerEntry
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.errors import BailiwickError, Denied, Unauthenticated
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.modes import Switch, refuse_thrown
from bailiwick.policy.decisions import Decider


class ClientVerifier(Protocol):
    """Checks application secrets (argon2id behind a cache)."""

    async def verify(self, application: ApplicationEntry, secret: str) -> bool:
        """Whether ``secret`` is the application's; raises ``rate_limited`` after too many failures."""
        ...


class Issuer:
    """Mints mandates and people's session tokens. ``record(zone, event)`` makes an event durable."""

    def __init__(
        self,
        store: SnapshotStore,
        authenticator: Authenticator,
        decider: Callable[[str], Decider],
        clients: ClientVerifier,
        record: Callable[[str, bytes], Awaitable[None]],
        recorder: Recorder,
        clock: Clock,
        ids: Ids,
        *,
        revision: Callable[[], int],
        mandate_ttl_s: int,
        observe: Callable[[str, str], None],
        limit: Callable[[ApplicationEntry], None] = lambda application: None,
    ) -> None:
        self._store = store
        self._authenticator = authenticator
        self._decider = decider
        self._clients = clients
        self._record = record
        self._recorder = recorder
        self._clock = clock
        self._ids = ids
        self._revision = revision
        self._mandate_ttl_s = mandate_ttl_s
        self._observe = observe
        self._limit = limit

    async def client(self, context: Context, client_id: str, secret: str) -> tuple[ZoneState, ApplicationEntry]:
        """The application behind client credentials, by id or name; raises the refusal, which is recorded."""
        try:
            return await self._client(context.zone, client_id, secret)
        except BailiwickError as error:
            event = self._recorder.make(
                codes.AUTH_LOGIN_FAILURE,
                "failure",
                context,
                subject=Subject(id=printable(client_id, 100), type="application"),
                reasons=(error.reason,),
                method="client_secret",
            )
            await self._record(context.zone, encode(event))
            raise

    async def _client(self, zone: str, client_id: str, secret: str) -> tuple[ZoneState, ApplicationEntry]:
        self._authenticator.require_fresh()
        state = self._store.current.zone(zone)
        application = state.applications.get(client_id)
        if application is None:
            application = next((app for app in state.applications.values() if app.name == client_id), None)
        if application is None or not secret or not await self._clients.verify(application, secret):
            raise Unauthenticated(reason="invalid_client")
        # the secret took a moment to check; what counts is the application as it is now
        state = self._store.current.zone(zone)
        current = state.applications.get(application.id)
        if current is None or not current.is_active or current.secret_hash != application.secret_hash:
            raise Unauthenticated(reason="invalid_client")
        if state.archived:
            raise Denied(reason="zone_archived")
        return state, current

    async def issue(
        self, state: ZoneState, application: ApplicationEntry, request: TokenRequest, context: Context
    ) -> tuple[Mandate, str]:
        """The mandate for ``request`` and its compact form; raises the refusal, which is recorded as well."""
        try:
            self._limit(application)
            mandate = self._decide(state, application, request)
        except BailiwickError as error:
            self._observe("refused", error.reason)
            await self._record(
                state.name,
                encode(
                    self._recorder.make(
                        codes.MANDATE_REFUSED,
                        "deny",
                        _acting(context, application, "", ""),
                        server=request.target.rsplit("/", 1)[-1][:100],
                        reasons=(error.reason,),
                        scope=" ".join(request.scopes)[:1000],
                        grant=request.grant_type,
                    )
                ),
            )
            raise
        key = state.mandate_key
        user = mandate.sub if mandate.sub_type == "user" else ""
        event = self._recorder.make(
            codes.MANDATE_ISSUED,
            "success",
            _acting(context, application, user, mandate.sid),
            subject=Subject(id=mandate.jti, type="mandate"),
            server=mandate.aud.rsplit("/", 1)[-1],
            policy_set=mandate.policy,
            scope=mandate.scope,
            grant=request.grant_type,
            kid=key.kid,
            expires_at=mandate.exp,
        )
        token = sign(key, MANDATE_TYPE, mandate)
        await self._record(state.name, encode(event))
        # what the mandate stands on may have ended while the disk was busy
        now = self._store.current.zone(state.name)
        self._authenticator.require_live(mandate, now)
        _refuse_off(now, request)
        self._observe("issued", "")
        return mandate, token

    def session_token(
        self, zone: str, username: str, session_id: str, expires_at: float, amr: tuple[str, ...], auth_time: int
    ) -> str:
        """A person's API token, good until ``expires_at``; he proved himself at ``auth_time`` (epoch seconds)."""
        state = self._store.current.zone(zone)
        now = int(self._clock.time())
        claims = SessionToken(
            iss=state.issuer,
            aud=f"{state.issuer}/api",
            sub=username,
            iat=now,
            exp=int(expires_at),
            jti=self._ids(),
            sid=session_id,
            zone=zone,
            rev=self._revision(),
            auth_time=auth_time,
            amr=amr,
            acr=ACR_MFA if "mfa" in amr else ACR_SINGLE,
        )
        return sign(state.session_key, SESSION_TYPE, claims)

    def _decide(self, state: ZoneState, application: ApplicationEntry, request: TokenRequest) -> Mandate:
        _refuse_off(state, request)
        server = self._target(state, request.target)
        ceiling = self._ceiling(state, application, server, request)
        check_scopes(request.scopes, ceiling.scopes, server.scopes)
        subject = ceiling.user or Principal("application", application.name, application.role)
        decider = self._decider(state.name)
        for scope in request.scopes:
            decision = decider.decide(
                policy_input(
                    stage="mint",
                    zone=state.name,
                    subject=subject,
                    application=application,
                    server_name=server.name,
                    server_tags=server.tags,
                    scopes=request.scopes,
                    scope=scope,
                )
            )
            if not decision.allowed:
                raise denial(decision)
        now = int(self._clock.time())
        expiry = now + self._mandate_ttl_s
        return Mandate(
            iss=state.issuer,
            aud=server.audience,
            sub=ceiling.user.id if ceiling.user else application.id,
            sub_type="user" if ceiling.user else "application",
            client_id=application.id,
            iat=now,
            exp=min(expiry, ceiling.expires_at or expiry),
            jti=self._ids(),
            scope=" ".join(request.scopes),
            zone=state.name,
            policy=decider.policy_set or "",
            rev=self._revision(),
            sid=ceiling.session,
            act=ceiling.actors,
            amr=subject.amr,
            auth_time=subject.auth_time,
        )

    @staticmethod
    def _target(state: ZoneState, target: str) -> ServerEntry:
        server = state.servers.get(target)
        if server is None:
            name = target.rstrip("/").removeprefix(state.audience(""))
            server = state.servers.get(name) if name != target else None
        if server is None:
            raise OAuthError("invalid_target", "No such server in this zone.", reason="unknown_server")
        return server

    def _ceiling(
        self, state: ZoneState, application: ApplicationEntry, server: ServerEntry, request: TokenRequest
    ) -> Ceiling:
        granted = granted_scopes(application, server.name)
        if request.grant_type != TOKEN_EXCHANGE:
            return Ceiling(granted)
        if read_header(request.subject_token).typ == SESSION_TYPE:
            caller = self._authenticator.session(request.subject_token, state.name)
            if caller.must_change_password:
                raise Denied(reason="password_change_required")
            return Ceiling(
                granted,
                user=Principal("user", caller.name, caller.role, caller.amr, caller.auth_time),
                session=caller.session,
                actors=Act(sub=application.id),
            )
        mandate = self._authenticator.mandate(request.subject_token, state).mandate
        self._authenticator.require_live(mandate, state)
        narrowed = narrow_to_subject(mandate, server.audience, application.id)
        user = narrowed.user
        if user is not None:
            user = replace(user, role=state.users[user.id].role)
        return Ceiling(
            granted & narrowed.scopes,
            expires_at=narrowed.expires_at,
            user=user,
            session=narrowed.session,
            actors=narrowed.actors,
        )


def _refuse_off(state: ZoneState, request: TokenRequest) -> None:
    refuse_thrown(state.off, Switch.MINT)
    if request.grant_type == TOKEN_EXCHANGE:
        refuse_thrown(state.off, Switch.EXCHANGE)


def _acting(context: Context, application: ApplicationEntry, user: str, session: str) -> Context:
    actor = Actor(application=application.id, user=user, session=session)
    return Context(
        context.zone, actor, context.network, context.request_id, context.client_request_id, context.trace_id
    )
