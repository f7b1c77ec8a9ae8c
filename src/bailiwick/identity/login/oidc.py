"""Signing in by an OpenID provider: the authorization code flow with PKCE, and being signed out by the provider.

A sign-in is bound to the browser that began it by a cookie. Of it and of ``state`` the database keeps digests; the
nonce and the PKCE verifier are derived from the cookie, so that nothing stored lets anybody finish a sign-in. The
state is used up by the first answer that comes with its cookie, whatever that answer holds.

Nothing here waits for a provider while it holds a transaction.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bailiwick.evidence.events import Context, Recorder
from bailiwick.identity.login.admission import Admissions, Admitted
from bailiwick.identity.login.oidc_client import ProviderClient, ProviderClients, Tokens, with_query
from bailiwick.identity.login.oidc_options import Claimed, OidcOptions, claimed, may_return_to
from bailiwick.identity.login.oidc_tokens import (
    Expected,
    LogoutToken,
    Metadata,
    ProviderFault,
    subject_of,
    verify_id_token,
    verify_logout_token,
)
from bailiwick.identity.login.oidc_walk import redirect_uri
from bailiwick.identity.login.outcomes import Finished, Onward, Provided, SignedIn
from bailiwick.identity.login.provider_logout import Named, ProviderLogouts
from bailiwick.identity.ports import Revoke
from bailiwick.identity.providers import Provider, Providers, find, options_of
from bailiwick.identity.provisioning import Arrival
from bailiwick.identity.sessions import Sessions, printable
from bailiwick.inventory.zones import require_active
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import SealError
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, InvalidRequest, NotFound, Unauthenticated, Unavailable
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.settings import Settings

SIGN_IN_LIFE = timedelta(minutes=10)
COOKIE_PREFIX = "bw-oidc-"

_TAKE = """
DELETE FROM oidc_sign_ins WHERE state_hash = :state AND zone = :zone AND browser_hash = :browser
RETURNING provider_id, return_to, as_cookie, expires_at
"""


@dataclass(frozen=True, slots=True)
class Begun:
    """A sign-in that begins: where to send the browser, and the secret that its cookie must come back with."""

    url: str
    state: str
    secret: str


@dataclass(frozen=True, slots=True)
class Returned:
    """What a browser brings back from a provider: the parameters of the answer (RFC 6749 §4.1.2, RFC 9207)."""

    state: str
    code: str = ""
    error: str = ""
    issuer: str | None = None


class OidcLogin:
    """Signs people in by the OpenID providers of a zone, and out when a provider says so."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        settings: Settings,
        providers: Providers,
        clients: ProviderClients,
        admissions: Admissions,
        sessions: Sessions,
        revocations: Revoke,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._settings = settings
        self._providers = providers
        self._clients = clients
        self._admissions = admissions
        self._sessions = sessions
        self._revocations = revocations
        self._logouts = ProviderLogouts(clock, recorder, revocations)

    # ------------------------------------------------------------------ there

    async def begin(self, context: Context, name: str | None, return_to: str, *, as_cookie: bool = False) -> Begun:
        """Begin a sign-in by the provider ``name``, or by the zone's default one.

        Raises ``NotFound``, ``InvalidRequest`` for a place we do not return to, and ``Unavailable``
        (``provider_unavailable``) or ``Unauthenticated`` (``provider_answer_invalid``) for a provider that is out.
        """
        provider = await self._provider(context.zone, name)
        options: OidcOptions = options_of(provider)
        if return_to and not may_return_to(return_to, options.return_to):
            raise InvalidRequest("return_to is neither a path here nor a page of an origin that the provider lists.")
        try:
            metadata = await (await self._client(provider)).metadata()
        except ProviderFault as fault:
            raise await self._refused(context, provider, fault) from None
        state, secret, now = self._ids.secret(32), self._ids.secret(32), self._clock.now()
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            await tx.run(
                "INSERT INTO oidc_sign_ins (state_hash, zone, provider_id, browser_hash, return_to, as_cookie,"
                " created_at, expires_at) SELECT :state, :zone, id, :browser, :return_to, :as_cookie, :now, :until"
                " FROM identity_providers WHERE id = :provider",
                state=_digest(state),
                zone=context.zone,
                provider=provider.id,
                browser=_digest(secret),
                return_to=return_to,
                as_cookie=as_cookie,
                now=now,
                until=now + SIGN_IN_LIFE,
            )
        query = {
            "response_type": "code",
            "client_id": options.client_id,
            "redirect_uri": redirect_uri(self._settings, context.zone, provider.name),
            "scope": options.asked_scopes,
            "state": state,
            "nonce": _derived("nonce", secret),
            "code_challenge": _b64(hashlib.sha256(_derived("pkce", secret).encode()).digest()),
            "code_challenge_method": "S256",
        }
        return Begun(with_query(metadata.authorization_endpoint, query), state, secret)

    # ------------------------------------------------------------------ and back

    async def finish(self, context: Context, name: str | None, returned: Returned, secret: str) -> Finished:
        """Finish the sign-in that ``returned`` answers, in the browser whose cookie holds ``secret``.

        ``name`` is the provider whose address the answer came to, None for the address they share. Raises
        ``Unauthenticated`` (``sign_in_not_begun``, ``provider_refused``, ``provider_answer_invalid``,
        ``account_disabled``, ``mfa_required`` …), ``Denied`` (``not_provisioned``, ``account_not_linked``) and
        ``Unavailable`` (``provider_unavailable``).
        """
        provider, begun = await self._take(context, name, returned.state, secret)
        options: OidcOptions = options_of(provider)
        try:
            client = await self._client(provider)
            metadata = await client.metadata()
            self._check_answer(options, metadata, returned)
            tokens = await client.exchange(
                returned.code, _derived("pkce", secret), redirect_uri(self._settings, context.zone, provider.name)
            )
            claims = await self._claims(client, tokens, _derived("nonce", secret))
            await self._providers.note(provider, away=False)
            person = claimed(options, claims)
            if not person.username:
                raise ProviderFault("the claim that names the person is missing or not a name")
        except ProviderFault as fault:
            raise await self._refused(context, provider, fault) from None
        onward = Onward(begun["return_to"], begun["as_cookie"])
        # kept only where the provider can be told to sign somebody out
        hint = tokens.id_token if metadata.end_session_endpoint else ""
        outcome = await self._admit(context, provider, person, float(claims["iat"]), hint, onward)
        return Finished(outcome, onward)

    async def _take(self, context: Context, name: str | None, state: str, secret: str) -> tuple[Provider, Row]:
        """Use up the sign-in, and answer its provider as it is now."""
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            row = await tx.one(_TAKE, state=_digest(state), zone=context.zone, browser=_digest(secret))
            provider = await _by_id(tx, context.zone, row["provider_id"]) if row is not None else None
        # an answer at the address of another provider is one provider's code on its way to another
        mixed_up = provider is not None and name is not None and provider.name != name
        if row is None or provider is None or mixed_up or row["expires_at"] <= self._clock.now():
            await self._record(context, name or "", "sign_in_not_begun", cause="mix-up" if mixed_up else "")
            raise Unauthenticated(reason="sign_in_not_begun")
        return provider, row

    def _check_answer(self, options: OidcOptions, metadata: Metadata, returned: Returned) -> None:
        # RFC 9207 §2.4, also for errors: another provider's answer is not looked at further
        if returned.issuer is None and metadata.names_itself:
            raise ProviderFault("the answer does not say which provider it comes from (iss)")
        if returned.issuer is not None and returned.issuer != options.issuer:
            raise ProviderFault("the answer comes from another provider (iss)")
        if returned.error:
            raise _Declined(f"the provider answers {printable(returned.error, 60)}")
        if not returned.code:
            raise ProviderFault("the answer holds no code")

    async def _claims(self, client: ProviderClient, tokens: Tokens, nonce: str) -> Mapping[str, Any]:
        metadata, options = await client.metadata(), client.options
        expected = Expected(
            metadata.issuer,
            options.client_id,
            tuple(name for name in options.accepted if name in metadata.algorithms),
            self._clock.time(),
            nonce,
            tokens.access_token,
        )
        claims: dict[str, Any] = await client.verified(lambda keys: verify_id_token(tokens.id_token, keys, expected))
        if not options.userinfo:
            return claims
        told = await client.userinfo(tokens.access_token, subject_of(claims))
        return {**told, **claims}  # what is signed counts before what is not

    async def _admit(
        self, context: Context, provider: Provider, person: Claimed, issued: float, id_token: str, onward: Onward
    ) -> SignedIn:
        """Find or make the account, and conclude."""
        options: OidcOptions = options_of(provider)
        arrival = Arrival(
            options.vouches_as(provider.name), person.subject, person.username, person.email, person.full_name,
            person.role, person.groups,
        )  # fmt: skip
        origin = {
            "issuer": options.issuer,
            "subject": person.subject,
            "sid": person.sid,
            "provider": provider.name,
        }

        async def still_meant(tx: Transaction) -> None:
            if (await _by_id(tx, context.zone, provider.id, lock="FOR SHARE")) is None:
                raise NotFound("The identity provider was disconnected meanwhile.")
            at = datetime.fromtimestamp(issued, UTC)
            await self._logouts.require_none(tx, context.zone, "oidc", options.issuer, person.subject, person.sid, at)

        by = Admitted(provider.name, "oidc", options.create_users, options.link_by_external_id)
        provided = Provided(origin, id_token, onward)
        return await self._admissions.admit(context, by, arrival, person.amr, provided=provided, before=still_meant)

    # ------------------------------------------------------------------ out again

    async def sign_out(self, context: Context, username: str, session_id: str) -> str | None:
        """End the session everywhere; the address at which the person signs out of the provider too, if there is one.

        OpenID Connect RP-Initiated Logout 1.0 §2: it says by the session's ID token who signs out, or where none is
        kept (``id_tokens.py``) by the client alone. The session is over even where the provider is away.
        """
        async with self._database.begin() as tx:
            origin = await tx.value(
                "SELECT origin FROM sessions WHERE zone = :zone AND id = :id AND username = :username",
                zone=context.zone,
                id=session_id,
                username=username,
            )
        # which goes with the session
        id_token = await self._admissions.id_token(context.zone, session_id) if origin else ""
        await self._sessions.end(context, session_id, owner=username, sign_out=True)
        if not origin:
            return None
        try:
            provider = await self._provider(context.zone, origin["provider"])
            metadata = await (await self._client(provider)).metadata()
        except (BailiwickError, ProviderFault):
            return None
        options: OidcOptions = options_of(provider)
        if not metadata.end_session_endpoint or options.issuer != origin["issuer"]:
            return None
        query = {"client_id": options.client_id}
        if id_token:
            query["id_token_hint"] = id_token
        if options.after_logout:
            query["post_logout_redirect_uri"] = options.after_logout
        return with_query(metadata.end_session_endpoint, query)

    async def back_channel_logout(self, context: Context, name: str, token: str) -> int:
        """End what a provider's logout token names; nothing of it is accepted anywhere when this returns.

        Answers how many sessions ended. Raises ``InvalidRequest`` for a token that does not hold or came before.
        """
        provider = await self._provider(context.zone, name)
        options: OidcOptions = options_of(provider)
        try:
            client = await self._client(provider)
            metadata = await client.metadata()
            algorithms = tuple(each for each in options.accepted if each in metadata.algorithms)
            expected = Expected(options.issuer, options.client_id, algorithms, self._clock.time())
            judged: LogoutToken = await client.verified(lambda keys: verify_logout_token(token, keys, expected))
        except ProviderFault as fault:
            refused = await self._refused(context, provider, fault)
            if fault.away:
                raise refused from None
            raise InvalidRequest("The logout token does not hold.") from None
        named = Named(
            "oidc",
            options.issuer,
            judged.subject,
            [judged.sid] if judged.sid else [],
            judged.jti,
            datetime.fromtimestamp(judged.expires_at, UTC),
        )
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            ended = await self._logouts.end(tx, context, named)
            if ended is None:
                raise InvalidRequest("The logout token came before.")
        if ended[1] is not None:
            await self._revocations.settle(ended[1], context)
        return ended[0]

    # ------------------------------------------------------------------ parts

    async def _provider(self, zone: str, name: str | None) -> Provider:
        """The enabled OpenID provider ``name``, or the default one; raises ``NotFound``."""
        enabled = await self._providers.enabled(zone, "oidc")
        found = next((each for each in enabled if name is None or each.name == name), None)
        if found is None:
            raise NotFound("There is no such OpenID provider.")
        return found

    async def _client(self, provider: Provider) -> ProviderClient:
        try:
            secret = self._providers.secrets(provider).get("client_secret", "")
        except SealError:
            raise ProviderFault("the client secret cannot be opened; set it anew") from None
        return await self._clients.of(provider.id, provider.version, options_of(provider), secret)

    async def _refused(self, context: Context, provider: Provider, fault: ProviderFault) -> BailiwickError:
        """Record what was wrong; the caller is told only that something was."""
        if isinstance(fault, _Declined):
            reason = "provider_refused"
        else:
            reason = "provider_unavailable" if fault.away else "provider_answer_invalid"
        if fault.away:
            await self._providers.note(provider, away=True)
        await self._record(context, provider.name, reason, cause=printable(fault.told, 200))
        return Unavailable(reason=reason) if fault.away else Unauthenticated(reason=reason)

    async def _record(self, context: Context, name: str, reason: str, *, cause: str = "") -> None:
        await self._admissions.refused(context, "oidc", name, reason, cause=cause)


class _Declined(ProviderFault):
    """The provider, or the person at it, said no."""


def cookie_name(state: str) -> str:
    """The name of the cookie of one sign-in, so that two in one browser do not disturb each other."""
    return COOKIE_PREFIX + _digest(state).hex()[:16]


async def _by_id(tx: Transaction, zone: str, identifier: str, *, lock: str = "") -> Provider | None:
    name = await tx.value(  # ``lock`` is ours
        f"SELECT name FROM identity_providers WHERE zone = :zone AND id = :id AND kind = 'oidc' AND enabled {lock}",  # noqa: S608
        zone=zone,
        id=identifier,
    )
    return None if name is None else await find(tx, zone, name)


def _derived(what: str, secret: str) -> str:
    return _b64(hashlib.sha256(f"bailiwick {what} {secret}".encode("utf-8", "replace")).digest())


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
