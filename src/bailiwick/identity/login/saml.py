"""Signing in by a SAML provider, and signing out on both sides.

A sign-in is bound to the browser that began it by a cookie and to the provider's answer by the request's ID and the
RelayState; the database keeps digests of both. The request is used up by the first answer that comes with them,
whatever that answer holds, and an assertion is taken once. What the provider says is judged in a thread: signatures
over a large message must not hold up the checks of this worker.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from bailiwick.evidence.events import Context, Recorder
from bailiwick.identity.login.admission import Admissions, Admitted
from bailiwick.identity.login.oidc_options import may_return_to
from bailiwick.identity.login.outcomes import Finished, Onward, Provided, SignedIn
from bailiwick.identity.login.provider_logout import Named, ProviderLogouts
from bailiwick.identity.login.saml_options import SamlOptions, Vouched, load_key, vouched
from bailiwick.identity.ports import Revoke
from bailiwick.identity.providers import Provider, Providers, find, options_of
from bailiwick.identity.provisioning import Arrival
from bailiwick.identity.saml import logout
from bailiwick.identity.saml.metadata import IdpMetadata, OurEndpoints, our_metadata
from bailiwick.identity.saml.refusals import Refused
from bailiwick.identity.saml.request import Parameter, Query, authn_request, from_base64, post_fields, redirect_url
from bailiwick.identity.saml.response import Assertion, Expected, consume, in_response_to
from bailiwick.identity.saml.signature import SigningKey
from bailiwick.identity.saml.xml import Element, stamp
from bailiwick.identity.sessions import Sessions
from bailiwick.inventory.zones import require_active
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import SealError
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, InvalidRequest, NotFound, Unauthenticated
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.settings import Settings

REQUEST_LIFE = timedelta(minutes=10)
COOKIE_PREFIX = "bw-saml-"
PATH = "/api/v1/auth/saml"
_MOST_LOADED = 64

_TAKE = """
DELETE FROM saml_requests WHERE id = :id AND zone = :zone AND provider_id = :provider AND kind = :kind
AND relay_hash = :relay AND browser_hash = :browser RETURNING return_to, as_cookie, expires_at
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message for the browser to take to the provider: an address, or a form when ``fields`` are there."""

    url: str
    fields: Mapping[str, str]
    relay_state: str = ""
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A provider ready for use. ``known_as``: what it says of people is known by that."""

    provider: Provider
    known_as: str
    options: SamlOptions
    idp: IdpMetadata
    ours: OurEndpoints
    signing: SigningKey
    encryption: SigningKey


class SamlLogin:
    """Signs people in by the SAML providers of a zone, and out on either side's word."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        settings: Settings,
        providers: Providers,
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
        self._admissions = admissions
        self._sessions = sessions
        self._revocations = revocations
        self._logouts = ProviderLogouts(clock, recorder, revocations)
        self._loaded: dict[tuple[str, int], Loaded] = {}

    # ------------------------------------------------------------------ there

    async def metadata(self, context: Context, name: str) -> bytes:
        """Our metadata towards the provider. Raises ``NotFound``."""
        loaded = await self._load(context.zone, name)
        return await asyncio.to_thread(
            our_metadata, loaded.ours, loaded.signing, loaded.encryption, cbc=loaded.options.allow_cbc
        )

    async def begin(self, context: Context, name: str, return_to: str, *, as_cookie: bool = False) -> Sent:
        """Begin a sign-in. Raises ``NotFound``, ``InvalidRequest`` for a place that we do not return to."""
        loaded = await self._load(context.zone, name)
        if return_to and not may_return_to(return_to, loaded.options.return_to):
            raise InvalidRequest("return_to is neither a path here nor a page of an origin that the provider lists.")
        by_post = (loaded.options.binding == "post" and loaded.idp.sso_post) or not loaded.idp.sso_redirect
        destination = loaded.idp.sso_post if by_post else loaded.idp.sso_redirect
        identifier, relay_state, secret = self._identifier(), self._ids.secret(24), self._ids.secret(32)
        await self._store(context, loaded, identifier, "sign-in", relay_state, secret, return_to, as_cookie)
        message = authn_request(
            identifier,
            loaded.ours,
            destination,
            self._clock.now(),
            name_id_format=loaded.options.name_id_format,
            force_authn=loaded.options.force_authn,
            context_classes=tuple(loaded.options.context_classes),
        )
        return await self._sent(loaded, bool(by_post), destination, "SAMLRequest", message, relay_state, secret)

    # ------------------------------------------------------------------ and back

    async def finish(self, context: Context, name: str, message: str, relay_state: str, secret: str) -> Finished:
        """Sign in whom the response ``message`` (base64) vouches for, in the browser whose cookie holds ``secret``.

        Raises ``Unauthenticated`` (``sign_in_not_begun``, ``provider_refused``, ``provider_answer_invalid``,
        ``account_disabled``, ``mfa_required`` …) and ``Denied`` (``not_provisioned``, ``account_not_linked``). What
        exactly was wrong is in the record alone.
        """
        loaded = await self._load(context.zone, name)
        try:
            data = from_base64(message)
            request_id, onward = await self._answered(context, loaded, data, relay_state, secret)
            assertion = await asyncio.to_thread(consume, data, self._expected(loaded, request_id))
            person = vouched(loaded.options, assertion, loaded.ours.entity_id)
        except Refused as refused:
            raise await self._refused(context, name, refused) from None
        try:
            return Finished(await self._admit(context, loaded, person, assertion, onward), onward)
        except Refused as refused:
            raise await self._refused(context, name, refused) from None

    async def _answered(
        self, context: Context, loaded: Loaded, data: bytes, relay_state: str, secret: str
    ) -> tuple[str | None, Onward]:
        """The request that a response says it answers, now used up; None where it answers none and may."""
        request_id = await asyncio.to_thread(in_response_to, data)
        if request_id is None:
            if not loaded.options.idp_initiated:
                raise Refused("saml_unsolicited", "Nobody asked for the response, and the settings do not allow that.")
            return None, Onward()
        row = await self._take(context, loaded, request_id, "sign-in", relay_state, secret)
        if row is None:
            raise Refused("saml_unsolicited", "The response answers no request that this browser made.")
        return request_id, Onward(row["return_to"], row["as_cookie"])

    def _expected(self, loaded: Loaded, request_id: str | None) -> Expected:
        now = self._clock.now()
        if loaded.idp.valid_until is not None and loaded.idp.valid_until <= now:
            raise Refused("saml_expired", "The provider's stored metadata are no longer valid; store them anew.")
        return Expected(
            loaded.ours.entity_id,
            loaded.ours.acs_url,
            loaded.idp.entity_id,
            loaded.idp.certificates,
            request_id,
            now,
            loaded.encryption.key,
            loaded.options.allow_cbc,
            loaded.options.require_encryption,
        )

    async def _admit(
        self, context: Context, loaded: Loaded, person: Vouched, assertion: Assertion, onward: Onward
    ) -> SignedIn:
        """Take the assertion, once; find or make the account, known by (entityID, NameID) alone; and conclude."""
        arrival = Arrival(
            loaded.known_as, person.subject, person.username, person.email, person.full_name, person.role,
            person.groups,
        )  # fmt: skip
        origin = {
            "issuer": assertion.issuer,
            "subject": person.subject,
            "sid": assertion.session_index,
            "provider": loaded.provider.name,
            "format": assertion.name_id_format,
            "qualifier": assertion.name_qualifier,
            "sp_qualifier": assertion.sp_name_qualifier,
        }
        if assertion.session_until is not None:
            origin["until"] = stamp(assertion.session_until)

        async def take(tx: Transaction) -> None:
            await self._still_there(tx, loaded)
            await self._take_once(tx, context.zone, assertion.issuer, assertion.id, assertion.expires_at)
            await self._logouts.require_none(
                tx, context.zone, "saml", assertion.issuer, person.subject, assertion.session_index, assertion.issued_at
            )

        options = loaded.options
        by = Admitted(loaded.provider.name, "saml", options.create_users, options.link_by_external_id)
        provided = Provided(origin, onward=onward)
        return await self._admissions.admit(context, by, arrival, person.amr, provided=provided, before=take)

    # ------------------------------------------------------------------ out, by us

    async def sign_out(self, context: Context, username: str, session_id: str) -> Sent | None:
        """End the session everywhere; what the browser takes to the provider so that it forgets it too, if anything."""
        async with self._database.begin() as tx:
            origin = await tx.value(
                "SELECT origin FROM sessions WHERE zone = :zone AND id = :id AND username = :username"
                " AND method = 'saml'",
                zone=context.zone,
                id=session_id,
                username=username,
            )
        await self._sessions.end(context, session_id, owner=username, sign_out=True)
        if not origin:
            return None
        try:
            loaded = await self._load(context.zone, origin["provider"])
        except BailiwickError:
            return None
        destination = loaded.idp.slo_redirect or loaded.idp.slo_post
        if not destination or loaded.idp.entity_id != origin["issuer"]:
            return None
        identifier, relay_state = self._identifier(), self._ids.secret(24)
        await self._store(context, loaded, identifier, "logout", relay_state, "", "")
        message = logout.logout_request(
            identifier,
            loaded.ours,
            destination,
            self._clock.now(),
            origin["subject"],
            origin["format"],
            origin["sid"],
            origin["qualifier"],
            origin["sp_qualifier"],
        )
        by_post = not loaded.idp.slo_redirect
        return await self._sent(loaded, by_post, destination, "SAMLRequest", message, relay_state, "")

    # ------------------------------------------------------------------ out, by the provider

    async def provider_logout(self, context: Context, name: str, given: Query | bytes, relay_state: str) -> Sent | bool:
        """A logout message of the provider, by redirect (a :class:`Query`) or by POST (XML).

        Its request ends our sessions everywhere before the answer to it is returned. Its response to our request
        answers whether all is over there. Raises ``Unauthenticated`` (``provider_answer_invalid`` …).
        """
        loaded = await self._load(context.zone, name)
        peer = logout.Peer(loaded.idp.entity_id, loaded.idp.certificates, loaded.ours.slo_url, self._clock.now())
        try:
            root = await asyncio.to_thread(logout.read, given, peer)
            if root.tag == logout.RESPONSE:
                return await self._logout_answered(context, loaded, root, relay_state)
            return await self._log_out(context, loaded, logout.read_request(root, peer), relay_state)
        except Refused as refused:
            raise await self._refused(context, name, refused) from None

    async def _log_out(
        self, context: Context, loaded: Loaded, request: logout.LogoutRequest, relay_state: str
    ) -> Sent | bool:
        named = Named(
            "saml", loaded.idp.entity_id, request.name_id, request.session_indexes, request.id, request.expires_at
        )
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            ended = await self._logouts.end(tx, context, named)
            if ended is None:
                raise Refused("saml_replayed", "The message came before.")
        if ended[1] is not None:
            await self._revocations.settle(ended[1], context)
        by_post = not loaded.idp.slo_response_redirect
        destination = loaded.idp.slo_response_post if by_post else loaded.idp.slo_response_redirect
        if not destination:
            return True
        message = logout.logout_response(self._identifier(), loaded.ours, destination, self._clock.now(), request.id)
        return await self._sent(loaded, by_post, destination, "SAMLResponse", message, relay_state, "")

    async def _logout_answered(self, context: Context, loaded: Loaded, root: Element, relay_state: str) -> bool:
        request_id = str(root.get("InResponseTo", ""))
        row = await self._take(context, loaded, request_id, "logout", relay_state, "")
        if row is None:
            raise Refused("saml_unsolicited", "The response answers no logout that was begun here.")
        return logout.read_response(root, request_id)

    # ------------------------------------------------------------------ parts

    async def _load(self, zone: str, name: str) -> Loaded:
        """The enabled SAML provider ``name``, ready for use; raises ``NotFound``."""
        provider = next((each for each in await self._providers.enabled(zone, "saml") if each.name == name), None)
        if provider is None:
            raise NotFound("There is no such SAML provider.")
        loaded = self._loaded.get((provider.id, provider.version))
        if loaded is None:
            loaded = await asyncio.to_thread(self._read, provider)
            if len(self._loaded) >= _MOST_LOADED:
                self._loaded.clear()
            self._loaded[provider.id, provider.version] = loaded
        return loaded

    def _read(self, provider: Provider) -> Loaded:
        try:
            return load(self._providers, self._settings, provider)
        except SealError:
            raise BailiwickError("Our keys towards the provider cannot be opened; set them anew.") from None

    async def _still_there(self, tx: Transaction, loaded: Loaded) -> None:
        """Refuse what an administrator disabled or changed meanwhile, and have him wait for what is under way."""
        version = await tx.value(
            "SELECT version FROM identity_providers WHERE id = :id AND enabled FOR SHARE", id=loaded.provider.id
        )
        if version != loaded.provider.version:
            raise NotFound("The identity provider was changed meanwhile; begin again.")

    async def _store(
        self,
        context: Context,
        loaded: Loaded,
        identifier: str,
        kind: str,
        relay_state: str,
        secret: str,
        return_to: str,
        as_cookie: bool = False,
    ) -> None:
        now = self._clock.now()
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            await find(tx, context.zone, loaded.provider.name)
            await tx.run(
                "INSERT INTO saml_requests (id, zone, provider_id, kind, relay_hash, browser_hash, return_to,"
                " as_cookie, created_at, expires_at) VALUES (:id, :zone, :provider, :kind, :relay, :browser,"
                " :return_to, :as_cookie, :now, :until)",
                id=identifier,
                zone=context.zone,
                provider=loaded.provider.id,
                kind=kind,
                relay=_digest(relay_state),
                browser=_digest(secret),
                return_to=return_to,
                as_cookie=as_cookie,
                now=now,
                until=now + REQUEST_LIFE,
            )

    async def _take(
        self, context: Context, loaded: Loaded, identifier: str, kind: str, relay_state: str, secret: str
    ) -> Row | None:
        """Use up a request of ours; None when there is none that all of it fits, or it is too long ago."""
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            row = await tx.one(
                _TAKE,
                id=identifier,
                zone=context.zone,
                provider=loaded.provider.id,
                kind=kind,
                relay=_digest(relay_state),
                browser=_digest(secret),
            )
        return row if row is not None and row["expires_at"] > self._clock.now() else None

    async def _take_once(self, tx: Transaction, zone: str, issuer: str, identifier: str, until: datetime) -> None:
        """Note that a message was taken; raises ``Refused`` (``saml_replayed``) when it was before."""
        fresh = await tx.run(
            "INSERT INTO saml_seen (zone, issuer, id_hash, expires_at) VALUES (:zone, :issuer, :id, :until)"
            " ON CONFLICT DO NOTHING",
            zone=zone,
            issuer=issuer,
            id=_digest(identifier),
            until=until,
        )
        if not fresh:
            raise Refused("saml_replayed", "The message came before.")

    async def _sent(
        self,
        loaded: Loaded,
        by_post: bool,
        destination: str,
        parameter: Parameter,
        message: Element,
        relay_state: str,
        secret: str,
    ) -> Sent:
        if by_post:
            fields = await asyncio.to_thread(post_fields, parameter, message, relay_state, loaded.signing)
            return Sent(destination, fields, relay_state, secret)
        url = await asyncio.to_thread(redirect_url, destination, parameter, message, relay_state, loaded.signing)
        return Sent(url, {}, relay_state, secret)

    def _identifier(self) -> str:
        """An ID as an xs:ID must be, that nobody guesses."""
        return f"_{self._ids.random(20).hex()}"

    async def _refused(self, context: Context, name: str, refused: Refused) -> BailiwickError:
        """Record which rule was broken; the caller is told only that one was."""
        reason = {"saml_provider_refused": "provider_refused", "saml_unsolicited": "sign_in_not_begun"}.get(
            refused.reason, "provider_answer_invalid"
        )
        await self._admissions.refused(context, "saml", name, reason, cause=f"{refused.reason}: {refused.detail}")
        return Unauthenticated(reason=reason)


def load(providers: Providers, settings: Settings, provider: Provider) -> Loaded:
    """A provider ready for use; takes a while, for its keys. Raises :class:`SealError`."""
    secrets = providers.secrets(provider)
    options: SamlOptions = options_of(provider)
    base = f"{settings.zone_issuer(provider.zone)}{PATH}/{provider.name}"
    ours = OurEndpoints(options.entity_id or f"{base}/metadata", f"{base}/acs", f"{base}/slo")
    signing, encryption = load_key(secrets["signing_key"]), load_key(secrets["encryption_key"])
    return Loaded(provider, options.vouches_as(provider.name), options, options.idp(), ours, signing, encryption)


def cookie_name(relay_state: str) -> str:
    """The name of the cookie of one sign-in, so that two in one browser do not disturb each other."""
    return COOKIE_PREFIX + _digest(relay_state).hex()[:16]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
