"""Everybody in the groups of a directory, and the role that gives him: what a directory says, all of it at once.

For comparing it with what stands here. It is read whole or not at all: more than was allowed, a limit of the
directory's own, a reference to another server are errors and never a shorter list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bailiwick.identity.directories import LdapOptions, NormalDn, normal_dn
from bailiwick.identity.ldap import filters
from bailiwick.identity.ldap.connection import BASE, NO_SUCH_OBJECT, Connection, DirectoryError, Entry, Refused
from bailiwick.identity.ldap.directory import Directory, found_in
from bailiwick.identity.standing import highest

_GROUPS_A_PAGE = 50  # each comes with all its members
_UNLIMITED = 1000  # levels, where the directory itself follows groups in groups


class TooManyEntries(Exception):
    """The directory has more than may be read."""


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody in a group. ``name``: his user name as it is here, or the DN of a member that is no person there.

    ``direct``: not by way of another group. ``disabled``: the directory lets him sign in nowhere.
    """

    name: str
    dn: str
    group: str
    group_dn: str
    direct: bool
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    dn: str
    members: Mapping[NormalDn, str]


@dataclass(frozen=True, slots=True)
class _Person:
    name: str
    disabled: bool


# ---------------------------------------------------------------------- rules


def members_of(
    shown: Collection[NormalDn], groups: Mapping[NormalDn, _Group], people: Mapping[NormalDn, _Person], nesting: int
) -> Iterator[Member]:
    """Everybody in the groups ``shown``, those in groups in them too, ``nesting`` levels deep; each once a group."""
    for key in shown:
        group = groups[key]
        seen: set[NormalDn] = {key}
        level: Sequence[_Group] = [group]
        told: set[NormalDn] = set()
        for depth in range(nesting + 1):
            within: list[_Group] = []
            for each in level:
                for member, dn in each.members.items():
                    if member in groups:
                        if member not in seen:
                            seen.add(member)
                            within.append(groups[member])
                    elif member not in told:
                        told.add(member)
                        person = people.get(member)
                        name, disabled = (person.name, person.disabled) if person else (dn, False)
                        yield Member(name, dn, group.name, group.dn, depth == 0, disabled)
            level = within


def roles_of(options: LdapOptions, members: Collection[Member]) -> dict[str, str]:
    """The role of everybody who has one by a group that is mapped to one: the highest, as at a sign-in."""
    mapped = options.role_of_group()
    found: dict[str, list[str]] = {}
    for each in members:
        role = mapped.get(normal_dn(each.group_dn))
        if role is not None and not each.disabled:
            found.setdefault(each.name, []).append(role)
    return {name: highest(roles) for name, roles in found.items()}


def _name_of(entry: Entry) -> str:
    """What a group is called: its ``cn``, or else the whole DN."""
    return entry.text("cn") or entry.dn


# ---------------------------------------------------------------------- reading


async def read_members(
    directory: Directory, *, base: str = "", group_filter: str = "", most: int, timeout_s: float
) -> list[Member]:
    """Everybody in the groups below ``base`` (empty: where the provider has its groups) that ``group_filter`` takes.

    Groups in them are followed as at a sign-in. At most ``most`` entries, and as many members, are read.

    Raises :class:`TooManyEntries`, and ``DirectoryError`` where the directory does not say all of it within
    ``timeout_s``.
    """
    options = directory.options
    try:
        async with asyncio.timeout(timeout_s), directory.pool.reader() as connection:
            reading = _Reading(connection, options, most, max(1, int(timeout_s)))
            everywhere = options.group_base_dn or options.base_dn
            groups = await reading.groups(everywhere, options.group_filter)
            shown: Collection[NormalDn] = list(groups)
            if base or group_filter:
                asked = await reading.groups(base or everywhere, group_filter or options.group_filter)
                groups, shown = groups | asked, list(asked)
            people = await reading.people()
    except TimeoutError:
        raise DirectoryError(f"no answer within {timeout_s:g} s") from None
    except Refused as refused:
        raise DirectoryError(f"the search is refused: {refused}") from None
    nesting = _UNLIMITED if options.groups == "chain" else options.nesting
    return await asyncio.to_thread(_taken, members_of(shown, groups, people, nesting), most)


def _taken(members: Iterator[Member], most: int) -> list[Member]:
    taken: list[Member] = []
    for each in members:
        if len(taken) >= most:
            raise TooManyEntries(f"the directory has more than {most} members of groups")
        taken.append(each)
    return taken


class _Reading:
    """Reads entries over one connection, ``most`` of them and of members at most."""

    def __init__(self, connection: Connection, options: LdapOptions, most: int, seconds: int) -> None:
        self._connection = connection
        self._options = options
        self._most = most
        self._seconds = seconds

    async def people(self) -> dict[NormalDn, _Person]:
        """Everybody who could sign in, by DN."""
        options = self._options
        wanted = filters.encoded(options.user_filter.replace("{username}", "*"))
        attributes = [options.username_attribute, "userAccountControl"]
        found = {}
        for entry in await self._all(options.base_dn, wanted, attributes, options.page_size):
            person = found_in(options, entry)
            if person.username:
                found[normal_dn(entry.dn)] = _Person(options.name_prefix + person.username, person.disabled)
        return found

    async def groups(self, base: str, filter_: str) -> dict[NormalDn, _Group]:
        """The groups below ``base``, by DN, with their members."""
        attribute = self._options.member_attribute
        wanted, found, count = filters.encoded(filter_), {}, 0
        for entry in await self._all(base, wanted, ["cn", attribute], min(self._options.page_size, _GROUPS_A_PAGE)):
            members = [*entry.texts(attribute), *await self._rest(entry, attribute)]
            count += len(members)
            if count > self._most:
                raise TooManyEntries(f"the directory has more than {self._most} members of groups")
            found[normal_dn(entry.dn)] = _Group(_name_of(entry), entry.dn, {normal_dn(dn): dn for dn in members})
        return found

    async def _rest(self, entry: Entry, attribute: str) -> list[str]:
        """The members that the directory did not give at once."""
        found: list[str] = []
        following = entry.rest.get(attribute.lower())
        while following is not None:
            part = await self._connection.search(
                entry.dn, filters.present("objectClass"), [f"{attribute};range={following}-*"],
                scope=BASE, most=1, seconds=self._seconds, whole=True,
            )  # fmt: skip
            if not part or not part[0].texts(attribute):
                raise Refused(NO_SUCH_OBJECT, f"{entry.dn} has not the members it said it has")
            found += part[0].texts(attribute)
            if len(found) > self._most:
                raise TooManyEntries(f"the directory has more than {self._most} members of groups")
            following = part[0].rest.get(attribute.lower())
        return found

    async def _all(self, base: str, wanted: bytes, attributes: Sequence[str], page: int) -> list[Entry]:
        found = await self._connection.search(
            base, wanted, attributes, most=self._most + 1, page=page, seconds=self._seconds, whole=True
        )
        if len(found) > self._most:
            raise TooManyEntries(f"the directory has more than {self._most} entries below {base}")
        return found
