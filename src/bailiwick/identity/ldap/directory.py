"""Asking a directory who somebody is: search, bind as the one found, read the groups (RFC 4513 §5.1, bind-search-bind).

The password goes to the directory and nowhere else. What the directory refuses is told apart for the record; the
person is told only what a right password entitles him to know.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from bailiwick.identity.directories import LdapOptions, NormalDn, normal_dn
from bailiwick.identity.ldap import filters
from bailiwick.identity.ldap.connection import (
    BASE,
    INVALID_CREDENTIALS,
    NO_SUCH_OBJECT,
    Connection,
    DirectoryError,
    Entry,
    Refused,
)
from bailiwick.identity.ldap.pool import Pool, Reach
from bailiwick.identity.standing import highest

IN_CHAIN = "1.2.840.113556.1.4.1941"  # Active Directory: LDAP_MATCHING_RULE_IN_CHAIN
_ACCOUNT_DISABLED = 0x0002  # userAccountControl
_GROUPS_AT_ONCE = 50
_DATA = re.compile(r"\bdata ([0-9a-f]{1,8})\b")
# what Active Directory says of a bind, and what the person is told; all but the first two need the right password
_SUBCODES = {
    "525": ("invalid_credentials", "user not found"),
    "52e": ("invalid_credentials", "wrong password"),
    "530": ("account_disabled", "not permitted to sign in at this time"),
    "531": ("account_disabled", "not permitted to sign in from here"),
    "532": ("password_expired", "password expired"),
    "533": ("account_disabled", "account disabled"),
    "701": ("account_disabled", "account expired"),
    "773": ("password_expired", "password must be changed"),
    # said whatever the password was: telling it on would tell that the account exists
    "775": ("invalid_credentials", "account locked"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """Somebody's entry. ``subject`` is empty where the entry has no such attribute."""

    dn: str
    subject: str
    username: str
    email: str
    full_name: str
    disabled: bool
    member_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class No:
    """Why nobody is signed in: the reason for the person, the cause for the record."""

    reason: str
    cause: str
    counts: bool = False


class Directory:
    """One directory as it is configured now."""

    def __init__(self, options: LdapOptions, bind_password: str, reach: Reach, monotonic: Callable[[], float]) -> None:
        self.options = options
        self.pool = Pool(options, bind_password, reach, monotonic)
        self._roles = options.role_of_group()

    @cached_property
    def _group_filter(self) -> bytes:
        return filters.encoded(self.options.group_filter)

    async def find(self, connection: Connection, username: str) -> Found | No:
        """The one entry that the user filter takes. ``username`` is whatever somebody typed."""
        options = self.options
        wanted = {options.username_attribute, options.subject_attribute, options.email_attribute}
        wanted |= {options.name_attribute, "memberOf", "userAccountControl"}
        entries = await connection.search(
            options.base_dn, user_filter(options, username), sorted(wanted), most=2, seconds=_whole(options.timeout_s)
        )
        if len(entries) != 1:
            return No("invalid_credentials", "several entries match" if entries else "no entry matches", counts=True)
        return found_in(options, entries[0])

    async def prove(self, dn: str | None, password: str) -> No | None:
        """Whether the password is that of ``dn``: None, or why not. Without ``dn`` it takes as long and is refused."""
        async with self.pool.trier() as connection:
            try:
                await connection.bind(dn or f"cn={secrets.token_hex(16)},{self.options.base_dn}", password)
            except Refused as refused:
                return _refusal(self.options, refused)
        return None if dn else No("invalid_credentials", "no entry matches", counts=True)

    async def role(self, connection: Connection, found: Found) -> str | None:
        """The role that the person's groups give him: ``none`` without any, None where no role is mapped at all."""
        if not self._roles:
            return None
        groups = await self.groups(connection, found)
        return highest([self._roles[group] for group in groups if group in self._roles])

    async def groups(self, connection: Connection, found: Found) -> set[NormalDn]:
        """The groups of the person, those he is in by way of other groups among them. Circles end by themselves."""
        options = self.options
        if options.groups == "chain":
            chain = filters.equals(options.member_attribute, found.dn, IN_CHAIN)
            return {normal_dn(dn) for dn in await self._search_groups(connection, chain, options.most_groups)}
        if options.groups == "member_of":
            level: Iterable[str] = found.member_of[: options.most_groups]
        else:
            level = await self._having(connection, [found.dn], options.most_groups)
        known: set[NormalDn] = set()
        for depth in range(options.nesting + 1):
            fresh = {normal_dn(dn): dn for dn in level}
            fresh = {normal: dn for normal, dn in fresh.items() if normal not in known}
            known |= fresh.keys()
            left = options.most_groups - len(known)
            if not fresh or left <= 0 or depth == options.nesting or self._settled(known):
                break
            level = await self._having(connection, list(fresh.values()), left)
        return known

    def _settled(self, known: set[NormalDn]) -> bool:
        """Whether no further group could change the role."""
        best = highest([*self._roles.values()])
        return any(self._roles.get(group) == best for group in known)

    async def _having(self, connection: Connection, members: list[str], most: int) -> list[str]:
        """The groups that have one of ``members`` as member."""
        found: list[str] = []
        for begin in range(0, len(members), _GROUPS_AT_ONCE):
            some = [
                filters.equals(self.options.member_attribute, dn) for dn in members[begin : begin + _GROUPS_AT_ONCE]
            ]
            found += await self._search_groups(connection, filters.any_of(*some), most - len(found))
            if len(found) >= most:
                break
        return found

    async def _search_groups(self, connection: Connection, wanted: bytes, most: int) -> list[str]:
        options = self.options
        entries = await connection.search(
            options.group_base_dn or options.base_dn,
            filters.all_of(self._group_filter, wanted),
            ["1.1"],
            most=most,
            page=options.page_size,
            seconds=_whole(options.timeout_s),
        )
        return [entry.dn for entry in entries]

    async def read_base(self, connection: Connection) -> None:
        """Raises ``Refused`` unless ``base_dn`` is there and may be read."""
        entries = await connection.search(
            self.options.base_dn, filters.present("objectClass"), ["1.1"], scope=BASE, most=1
        )
        if not entries:
            raise Refused(NO_SUCH_OBJECT, "it cannot be read")


Noticed = Callable[[Found], Awaitable[None]]


async def authenticate(
    directory: Directory, username: str, password: str, on_found: Noticed | None = None
) -> tuple[Found, str | None] | No:
    """Who signs in with these words, and the role of his groups, or why nobody does.

    ``on_found`` is told of the entry before its password is tried, and may raise to prevent that. Raises
    ``DirectoryError`` when the directory does not say within its time.
    """
    try:
        async with asyncio.timeout(directory.options.timeout_s):
            async with directory.pool.reader() as connection:
                found = await directory.find(connection, username)
            if isinstance(found, No):
                await directory.prove(None, password)
                return found
            if on_found is not None:
                await on_found(found)
            refused = await directory.prove(found.dn, password)
            if refused is not None:
                return refused
            if found.disabled:
                return No("account_disabled", "userAccountControl: disabled")
            if not found.subject or not found.username:
                return No("account_conflict", "the entry lacks the attribute of the subject or of the user name")
            async with directory.pool.reader() as connection:
                return found, await directory.role(connection, found)
    except TimeoutError:
        raise DirectoryError(f"no answer within {directory.options.timeout_s:g} s") from None
    except Refused as refused:
        raise DirectoryError(f"the search is refused: {refused}") from None


def user_filter(options: LdapOptions, username: str) -> bytes:
    """The configured filter for what somebody typed, on the wire."""
    return filters.encoded(options.user_filter.replace("{username}", filters.escaped(username)))


def found_in(options: LdapOptions, entry: Entry) -> Found:
    """What an entry says of a person."""
    raw = entry.attributes.get(options.subject_attribute.lower(), ())
    control = entry.text("userAccountControl") if options.active_directory else ""
    return Found(
        entry.dn,
        _subject(raw[0]) if raw else "",
        entry.text(options.username_attribute),
        entry.text(options.email_attribute),
        entry.text(options.name_attribute),
        disabled=control.isdecimal() and bool(int(control) & _ACCOUNT_DISABLED),
        member_of=entry.texts("memberOf"),
    )


def _subject(raw: bytes) -> str:
    """A subject as text: as it is where it is printable ASCII, in hexadecimal where it is not (objectGUID)."""
    if raw and all(0x21 <= byte <= 0x7E for byte in raw):
        return raw.decode("ascii")
    return raw.hex()


def _refusal(options: LdapOptions, refused: Refused) -> No:
    """What a refused bind means."""
    if refused.code != INVALID_CREDENTIALS:
        if refused.code in (50, 53, 19):  # insufficient rights, unwilling, constraint: policies of the directory
            return No("invalid_credentials", str(refused), counts=True)
        raise DirectoryError(f"the bind fails: {refused}")
    data = _DATA.search(refused.told)
    if options.active_directory and data is not None:
        reason, cause = _SUBCODES.get(data.group(1), ("invalid_credentials", f"data {data.group(1)}"))
        return No(reason, f"{data.group(1)}: {cause}", counts=reason == "invalid_credentials")
    return No("invalid_credentials", "wrong password", counts=True)


def _whole(seconds: float) -> int:
    return max(1, int(seconds))
