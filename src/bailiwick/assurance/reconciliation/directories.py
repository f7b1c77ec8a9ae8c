"""Reading a directory that people sign in by: everybody in its groups, or the role that these give him here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bailiwick.assurance.durations import span
from bailiwick.assurance.reconciliation.matching import TooMany, Unreachable, Unreadable
from bailiwick.assurance.reconciliation.spec import LdapSpec
from bailiwick.identity.directories import LdapOptions
from bailiwick.identity.ldap.connection import DirectoryError
from bailiwick.identity.ldap.directory import Directory
from bailiwick.identity.ldap.members import Member, TooManyEntries, read_members, roles_of
from bailiwick.identity.providers import Provider, find, of_kind
from bailiwick.kernel.crypto import SealError
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError, NotFound

MEMBERS = ("provider", "group", "group_dn", "member", "member_dn", "direct")
ROLES = ("provider", "member", "role")

MakeDirectory = Callable[[Provider], Directory]
"""A directory with connections of its own; raises ``SealError`` where the secrets of the provider do not open."""


class Directories:
    """Reads the directories of a zone."""

    def __init__(self, database: Database, make: MakeDirectory) -> None:
        self._database = database
        self._make = make

    async def rows(self, zone: str, spec: LdapSpec, cap: int) -> list[tuple[str, ...]]:
        """The rows of :data:`MEMBERS` or :data:`ROLES`, at most ``cap``.

        Raises :class:`Unreachable`, :class:`TooMany` and :class:`Unreadable`.
        """
        found: list[tuple[str, ...]] = []
        for provider in await self._providers(zone, spec.provider):
            told, members = await self._members(provider, spec, cap)
            rows = _roles(told, provider, members) if spec.rows == "roles" else _members(told, provider, members)
            if spec.known:
                rows = await self._known(zone, provider, told, spec, list(rows))
            found += rows
            if len(found) > cap:
                raise TooMany(f"the source has more than {cap} rows")
        return sorted(found)

    async def _providers(self, zone: str, name: str | None) -> list[Provider]:
        async with self._database.begin() as tx:
            if name is None:
                found = await of_kind(tx, zone, "ldap")
                if not found:
                    raise Unreachable("no directory is connected and enabled")
                return found
            try:
                provider = await find(tx, zone, name)
            except NotFound:
                raise Unreachable(f"there is no identity provider {name}") from None
        if provider.kind != "ldap" or not provider.enabled:
            raise Unreachable(f"the identity provider {name} is not an enabled directory")
        return [provider]

    async def _members(self, provider: Provider, spec: LdapSpec, cap: int) -> tuple[LdapOptions, list[Member]]:
        try:
            directory = self._make(provider)
        except SealError:
            raise Unreachable(f"{provider.name}: the stored secrets do not open") from None
        if spec.rows == "roles" and not directory.options.roles:
            raise Unreadable(f"{provider.name}: no group of it is mapped to a role, so it gives none")
        try:
            members = await read_members(
                directory, base=spec.base or "", group_filter=spec.group_filter or "", most=cap,
                timeout_s=span(spec.timeout).total_seconds(),
            )  # fmt: skip
        except TooManyEntries as error:
            raise TooMany(f"{provider.name}: {error}") from None
        except (DirectoryError, BailiwickError) as error:
            raise Unreachable(f"{provider.name}: {error}"[:300]) from None
        finally:
            await directory.pool.close()
        return directory.options, members

    async def _known(
        self, zone: str, provider: Provider, options: LdapOptions, spec: LdapSpec, rows: list[tuple[str, ...]]
    ) -> Iterator[tuple[str, ...]]:
        """Those of ``rows`` whose person has an account here, and whose group is one that was not made here.

        For roles he must have come by the provider: only of those does it say the role.
        """
        vouches = options.vouches_as(provider.name)
        async with self._database.begin() as tx:
            people = await tx.all(_PEOPLE_BY if spec.rows == "roles" else _PEOPLE, zone=zone, provider=vouches)
            groups = await tx.all(_GROUPS, zone=zone)
        names = {row["username"].casefold() for row in people}
        called = {row["name"].casefold() for row in groups}
        if spec.rows == "roles":
            return (row for row in rows if row[1].casefold() in names)
        return (row for row in rows if row[3].casefold() in names and row[1].casefold() in called)


def _members(options: LdapOptions, provider: Provider, members: list[Member]) -> Iterator[tuple[str, ...]]:
    name = options.vouches_as(provider.name)
    for each in members:
        yield name, each.group, each.group_dn, each.name, each.dn, "true" if each.direct else "false"


def _roles(options: LdapOptions, provider: Provider, members: list[Member]) -> Iterator[tuple[str, ...]]:
    name = options.vouches_as(provider.name)
    for member, role in roles_of(options, members).items():
        yield name, member, role


# of both queries ``:provider`` is given, so that they are asked alike
_PEOPLE = "SELECT username FROM users WHERE zone = :zone AND is_active AND cast(:provider AS text) IS NOT NULL"
_PEOPLE_BY = """
SELECT u.username FROM user_identities i JOIN users u ON u.zone = i.zone AND u.username = i.username
WHERE i.zone = :zone AND i.provider = :provider AND u.is_active
"""
_GROUPS = "SELECT name FROM groups WHERE zone = :zone AND source <> 'api'"
