"""Identity providers: the directories and servers of others that say who somebody is.

One table holds all kinds. A kind is two models, options and secrets, in a module of its own, which is imported when a
provider of it is met. Secrets are sealed together with where they are sent, so that nobody who may only change the row
has them sent to himself; they are never answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import msgspec
from pydantic import SecretStr, ValidationError

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject, rfc3339
from bailiwick.inventory.zones import VersionGuard, any_version, require_active
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, InvalidRequest, NotFound
from bailiwick.kernel.fields import Body
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.rfc7396 import merge

MOST_PROVIDERS = 20

# module and beginning of the names of its models: LdapOptions, LdapSecrets
KINDS: dict[str, tuple[str, str]] = {
    "ldap": ("bailiwick.identity.directories", "Ldap"),
    "saml": ("bailiwick.identity.login.saml_options", "Saml"),
    "oidc": ("bailiwick.identity.login.oidc_options", "Oidc"),
}


class Options(Protocol):
    """What the options of every kind can say."""

    @property
    def leads_to(self) -> str:
        """Where the secrets are sent, as text: another address needs the secrets anew."""
        ...

    def vouches_as(self, name: str) -> str:
        """What ``user_identities`` calls the provider, ``name`` being its name here."""
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of provider: the models of its options (an :class:`Options`) and of its secrets.

    ``complete`` makes the secrets that nobody gave; it may take long, and is called in a thread.
    """

    options: type[Body]
    secrets: type[Body]
    complete: Callable[[Mapping[str, str]], dict[str, str]] = dict


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider as stored. ``name`` is the realm that a person may name when signing in.

    ``away_since``: it has not answered since then, as far as anybody asked it.
    """

    id: str
    zone: str
    name: str
    kind: str
    enabled: bool
    options: Mapping[str, Any]
    sealed: bytes = field(repr=False)
    version: int
    created_at: datetime
    updated_at: datetime
    away_since: datetime | None = None

    def document(self) -> dict[str, Any]:
        """The JSON form, without secrets."""
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "enabled": self.enabled,
            "options": dict(self.options),
            "version": self.version,
            "away_since": self.away_since,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }


@dataclass(frozen=True, slots=True)
class Draft:
    """What a provider is to be."""

    name: str
    kind: str
    options: Mapping[str, Any]
    secrets: Mapping[str, Any] = field(default_factory=dict, repr=False)
    enabled: bool = True


# ---------------------------------------------------------------------- rules


@cache
def kind_of(name: str) -> Kind:
    """The kind by its name; raises ``invalid_request``."""
    if name not in KINDS:
        raise InvalidRequest(f"There is no kind of identity provider {name}.")
    module, prefix = KINDS[name]
    loaded = import_module(module)
    complete = getattr(loaded, "complete_secrets", dict)
    return Kind(getattr(loaded, f"{prefix}Options"), getattr(loaded, f"{prefix}Secrets"), complete)


def options_of(provider: Provider) -> Any:
    """The stored options as the kind's model."""
    return kind_of(provider.kind).options.model_validate(dict(provider.options))


def checked(kind: str, options: Mapping[str, Any], secrets: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    """The options as the kind's model and the secrets as plain values.

    Raises ``invalid_request`` naming the field, never a value.
    """
    models = kind_of(kind)
    return _model(models.options, options, "options"), revealed(_model(models.secrets, secrets, "secrets"))


def revealed(secrets: Body) -> dict[str, str]:
    """The secrets as plain values, to be sealed."""
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in secrets
        if value is not None
    }


def provider_aad(zone: str, identifier: str) -> bytes:
    """What a provider's sealed secrets are bound to."""
    return f"identity-provider/{zone}/{identifier}".encode()


def seal(sealer: Sealer, zone: str, identifier: str, kind: str, to: str, secrets: Mapping[str, str]) -> bytes:
    """The sealed secrets of one row, with the kind and the address they are for."""
    form = {"kind": kind, "to": to, "secrets": dict(secrets)}
    return sealer.seal(msgspec.json.encode(form), provider_aad(zone, identifier))


def unseal(sealer: Sealer, provider: Provider) -> dict[str, str]:
    """The secrets of a provider; raises :class:`SealError`, also when its kind or address was altered."""
    form = msgspec.json.decode(sealer.open(provider.sealed, provider_aad(provider.zone, provider.id)))
    if form["kind"] != provider.kind or form["to"] != options_of(provider).leads_to:
        raise SealError("the provider's kind or address was altered")
    secrets: dict[str, str] = form["secrets"]
    return secrets


def _model(model: type[Body], values: Mapping[str, Any], where: str) -> Any:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        told = [f"{'.'.join([where, *map(str, each['loc'])])}: {each['msg']}" for each in error.errors()[:5]]
        raise InvalidRequest("; ".join(told)) from None


# ---------------------------------------------------------------------- store


async def find(tx: Transaction, zone: str, name: str, *, lock: bool = False) -> Provider:
    """One provider; raises ``NotFound``."""
    row = await tx.one(
        f"SELECT * FROM identity_providers WHERE zone = :zone AND name = :name {'FOR UPDATE' if lock else ''}",  # noqa: S608
        zone=zone,
        name=name,
    )
    if row is None:
        raise NotFound(f"There is no identity provider {name}.")
    return provider_in(row)


OF_KIND = "SELECT * FROM identity_providers WHERE zone = :zone AND kind = :kind AND enabled ORDER BY created_at, id"
"""The enabled providers of a kind, oldest first: the first is the default one."""


async def of_kind(tx: Transaction, zone: str, kind: str) -> list[Provider]:
    """:data:`OF_KIND`."""
    return [provider_in(row) for row in await tx.all(OF_KIND, zone=zone, kind=kind)]


def provider_in(row: Row) -> Provider:
    """The provider of a row."""
    return Provider(
        row["id"],
        row["zone"],
        row["name"],
        row["kind"],
        row["enabled"],
        row["options"],
        bytes(row["sealed"]),
        row["version"],
        row["created_at"],
        row["updated_at"],
        row["away_since"],
    )


# ---------------------------------------------------------------------- service


class Providers:
    """Makes, changes, removes and lists identity providers."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, sealer: Sealer) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._sealer = sealer

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer

    def secrets(self, provider: Provider) -> dict[str, str]:
        """The secrets of a provider; raises :class:`SealError`."""
        return unseal(self._sealer, provider)

    async def create(self, context: Context, draft: Draft) -> Provider:
        """Store a new provider; raises ``Conflict`` (``already_exists``) and ``InvalidRequest``."""
        options, secrets = checked(draft.kind, draft.options, draft.secrets)
        secrets = await asyncio.to_thread(kind_of(draft.kind).complete, secrets)
        identifier, now = self._ids(), self._clock.now()
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            count = await tx.value("SELECT count(*) FROM identity_providers WHERE zone = :zone", zone=context.zone)
            if count >= MOST_PROVIDERS:
                raise Conflict(f"A zone has at most {MOST_PROVIDERS} identity providers.")
            row = await tx.one(
                "INSERT INTO identity_providers (id, zone, name, kind, enabled, options, sealed, created_at,"
                " updated_at) VALUES (:id, :zone, :name, :kind, :enabled, cast(:options AS jsonb), :sealed, :now,"
                " :now) ON CONFLICT DO NOTHING RETURNING *",
                id=identifier,
                zone=context.zone,
                name=draft.name,
                kind=draft.kind,
                enabled=draft.enabled,
                options=options.model_dump_json(),
                sealed=seal(self._sealer, context.zone, identifier, draft.kind, options.leads_to, secrets),
                now=now,
            )
            if row is None:
                raise Conflict(f"An identity provider named {draft.name} exists already.", reason="already_exists")
            provider = provider_in(row)
            await self._record(tx, codes.IDP_CREATED, context, provider)
        return provider

    async def change(
        self, context: Context, name: str, patch: Mapping[str, Any], guard: VersionGuard = any_version
    ) -> Provider:
        """Change a provider by a merge patch (RFC 7396) of ``options``, ``secrets`` and ``enabled``.

        A provider that is led to another address needs its secrets anew.
        """
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            before = await find(tx, context.zone, name, lock=True)
            guard(before.version)
            known, given = unseal(self._sealer, before), dict(patch.get("secrets") or {})
            wanted = merge(dict(before.options), patch.get("options") or {})
            options, _ = checked(before.kind, wanted, merge(known, given))
            if options.leads_to != options_of(before).leads_to:
                if known and not given:
                    raise InvalidRequest("Another address needs the secrets anew.")
                known = {}
            options, secrets = checked(before.kind, wanted, merge(known, given))
            secrets = await asyncio.to_thread(kind_of(before.kind).complete, secrets)
            row = await tx.one(
                "UPDATE identity_providers SET enabled = :enabled, options = cast(:options AS jsonb),"
                " sealed = :sealed, version = version + 1, updated_at = :now WHERE id = :id RETURNING *",
                enabled=patch.get("enabled", before.enabled),
                options=options.model_dump_json(),
                sealed=seal(self._sealer, context.zone, before.id, before.kind, options.leads_to, secrets),
                now=self._clock.now(),
                id=before.id,
            )
            assert row is not None
            provider = provider_in(row)
            changed = [member for member in ("enabled", "options", "secrets") if member in patch]
            await self._record(tx, codes.IDP_CHANGED, context, provider, changed=changed)
        return provider

    async def known(self, zone: str, name: str) -> tuple[Provider | None, dict[str, str]]:
        """The provider, if there is one, and its secrets as far as they open."""
        async with self._database.begin() as tx:
            row = await tx.one("SELECT * FROM identity_providers WHERE zone = :zone AND name = :n", zone=zone, n=name)
        if row is None:
            return None, {}
        provider = provider_in(row)
        try:
            return provider, self.secrets(provider)
        except SealError:
            return provider, {}

    async def delete(self, context: Context, name: str, guard: VersionGuard = any_version) -> None:
        """Remove a provider; raises ``Conflict`` (``in_use``) while there are users that came by it."""
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            before = await find(tx, context.zone, name, lock=True)
            guard(before.version)
            users = await tx.value(
                "SELECT count(*) FROM user_identities WHERE zone = :zone AND provider = :known_as",
                zone=context.zone,
                known_as=options_of(before).vouches_as(name),
            )
            if users:
                raise Conflict("Users have come by this provider; disable it instead.", reason="in_use", users=users)
            await tx.run("DELETE FROM identity_providers WHERE id = :id", id=before.id)
            await self._record(tx, codes.IDP_DELETED, context, before)

    async def note(self, provider: Provider, *, away: bool) -> None:
        """Keep whether the provider answered; a transaction only where that is new. Nothing else depends on it."""
        if away == (provider.away_since is not None):
            return
        async with self._database.begin() as tx:
            await tx.run(
                "UPDATE identity_providers SET away_since = CASE WHEN :away THEN coalesce(away_since, :now) END"
                " WHERE id = :id",
                away=away,
                now=self._clock.now(),
                id=provider.id,
            )

    async def away(self) -> list[dict[str, Any]]:
        """The enabled providers of all zones that do not answer, longest first, each with since when."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT zone, name, kind, away_since FROM identity_providers"
                " WHERE enabled AND away_since IS NOT NULL ORDER BY away_since, zone, name"
            )
        return [
            {"zone": row["zone"], "name": row["name"], "kind": row["kind"], "since": rfc3339(row["away_since"])}
            for row in rows
        ]

    async def tested(self, context: Context, provider: Provider, verdict: str) -> None:
        """Record that somebody had a provider tested: it may have tried a password."""
        async with self._database.begin() as tx:
            await self._record(tx, codes.IDP_TESTED, context, provider, verdict=verdict)

    async def get(self, zone: str, name: str) -> Provider:
        """One provider; raises ``NotFound``."""
        async with self._database.begin() as tx:
            return await find(tx, zone, name)

    async def enabled(self, zone: str, kind: str) -> list[Provider]:
        """The enabled providers of ``kind``; the first is the default one."""
        async with self._database.begin() as tx:
            await require_active(tx, zone)
            return await of_kind(tx, zone, kind)

    async def list(self, zone: str, after: str, limit: int) -> tuple[list[Provider], str | None]:
        """Providers by name after ``after``, at most ``limit``, and the name the next page starts after."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT * FROM identity_providers WHERE zone = :zone AND name > :after ORDER BY name LIMIT :limit",
                zone=zone,
                after=after,
                limit=limit + 1,
            )
        found = [provider_in(row) for row in rows[:limit]]
        return found, found[-1].name if len(rows) > limit else None

    async def _record(
        self, tx: Transaction, kind: codes.EventType, context: Context, provider: Provider, **details: Any
    ) -> None:
        subject = Subject(id=provider.name, type="identity-provider")
        await self._recorder.record(
            tx, kind, "success", context, subject=subject, kind=provider.kind, enabled=provider.enabled, **details
        )
