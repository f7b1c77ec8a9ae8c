"""The steps of a sign-in by a directory, each tried by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bailiwick.identity.ldap.connection import Connection, DirectoryError, Refused
from bailiwick.identity.ldap.directory import Directory, Found, No
from bailiwick.identity.providers import Provider
from bailiwick.identity.standing import NO_ROLE
from bailiwick.identity.testing import Step
from bailiwick.kernel.crypto import SealError

_MENDS = (
    ("certificate", "Put the certificate of the authority that signed the directory's into `ca`, and name the host in"
     " `urls` as the certificate does."),
    ("TLS fails", "Let the directory offer TLS 1.2 or later on this port; `ldaps` and `ldap` (StartTLS) differ."),
    ("StartTLS", "Switch StartTLS on in the directory, or use `ldaps://`: nothing is sent without TLS."),
    ("resolve", "Check the host name in `urls` and the name server of this machine."),
    ("forbidden", "List the directory's network in BAILIWICK_ALLOW_UPSTREAM_NETWORKS."),
    ("not LDAP", "Check the port in `urls`: what answers there is not a directory."),
)  # fmt: skip


def mend(told: str) -> str:
    """What to do about a connection that fails so."""
    return next((advice for sign, advice in _MENDS if sign in told), "Check that the directory runs and is reached.")


async def walk(make: Callable[[Provider], Directory], provider: Provider, username: str, password: str) -> list[Step]:
    """Test every replica, the reader, the base, and, with a user name, the person's entry, password and groups."""
    try:
        directory = make(provider)
    except SealError:
        return [Step("secrets", False, "the stored secrets do not open", "Set `bind_password` again.")]
    steps: list[Step] = []
    good: Connection | None = None
    try:
        for url in directory.options.urls:
            step, connection = await _replica(directory, url)
            steps.append(step)
            if connection is not None and good is None:
                good = connection
            elif connection is not None:
                await connection.close()
        if good is not None:
            async with asyncio.timeout(directory.options.timeout_s):
                await _beyond(directory, good, username, password, steps)
    except TimeoutError:
        steps.append(Step("answer", False, f"none within {directory.options.timeout_s:g} s", "Raise `timeout_s`."))
    except DirectoryError as error:
        steps.append(Step("answer", False, str(error), mend(str(error))))
    finally:
        if good is not None:
            await good.close()
        await directory.pool.close()
    return steps


async def _replica(directory: Directory, url: str) -> tuple[Step, Connection | None]:
    name = f"connect {url}"
    try:
        async with asyncio.timeout(directory.options.connect_timeout_s):
            connection = await directory.pool.open(url, as_reader=False)
    except TimeoutError:
        told = f"no connection in {directory.options.connect_timeout_s:g} s"
        return Step(name, False, told, "Check the address, the port and the firewalls between."), None
    except DirectoryError as error:
        return Step(name, False, str(error), mend(str(error))), None
    return Step(name, True, "TLS, the certificate is accepted"), connection


async def _beyond(
    directory: Directory, connection: Connection, username: str, password: str, steps: list[Step]
) -> None:
    options = directory.options
    try:
        if options.bind_dn:
            await directory.pool.bind_reader(connection)
            steps.append(Step("bind", True, options.bind_dn))
    except Refused as refused:
        steps.append(Step("bind", False, str(refused), "Check `bind_dn` and `bind_password`."))
        return
    try:
        await directory.read_base(connection)
        steps.append(Step("base", True, options.base_dn))
    except Refused as refused:
        steps.append(Step("base", False, str(refused), "Check `base_dn`, and that `bind_dn` may read below it."))
        return
    if username:
        await _person(directory, connection, username, password, steps)


async def _person(
    directory: Directory, connection: Connection, username: str, password: str, steps: list[Step]
) -> None:
    try:
        found = await directory.find(connection, username)
    except Refused as refused:
        steps.append(Step("search", False, str(refused), "Check `user_filter` and what `bind_dn` may search."))
        return
    if isinstance(found, No):
        steps.append(Step("search", False, found.cause, "Check `user_filter`: it must take exactly one entry."))
        return
    steps.append(Step("search", True, found.dn))
    steps.append(_attributes(directory, found))
    if password:
        refused_by = await directory.prove(found.dn, password)
        passed = refused_by is None
        steps.append(
            Step("password", passed, "" if refused_by is None else refused_by.cause, "" if passed else "As it says.")
        )
    try:
        role = await directory.role(connection, found)
    except Refused as refused:
        steps.append(Step("groups", False, str(refused), "Check `group_base_dn` and `group_filter`."))
        return
    if role is None:
        steps.append(Step("groups", True, "no group is mapped: roles are given here"))
    elif role == NO_ROLE:
        steps.append(Step("groups", False, "no group of his has a role: everything is denied", "Map one in `roles`."))
    else:
        steps.append(Step("groups", True, f"role {role}"))


def _attributes(directory: Directory, found: Found) -> Step:
    options = directory.options
    needed = {options.subject_attribute: found.subject, options.username_attribute: found.username}
    lacking = [attribute for attribute, value in needed.items() if not value]
    if lacking:
        return Step(
            "attributes", False, f"the entry has no {', '.join(lacking)}", "Name attributes that every person has."
        )
    return Step("attributes", True, f"user {options.name_prefix}{found.username}")
