"""``bailiwick user``: people and their accounts, from the machine itself, also when nobody can sign in any more."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from bailiwick.cli.failure import FAILED, NO_DATA, USAGE, CommandFailed, command
from bailiwick.cli.options import DataDir, existing_layout, small_app

if TYPE_CHECKING:
    from pathlib import Path

    from bailiwick.app.house import House
    from bailiwick.evidence.events import Context
    from bailiwick.identity.sessions import Sessions
    from bailiwick.identity.users import Users
    from bailiwick.kernel.paths import Layout

T = TypeVar("T")

app = small_app()

Username = Annotated[str, typer.Argument(metavar="NAME", help="The user name.")]
Zone = Annotated[str, typer.Option("--zone", help="The zone the user is in.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


@dataclass(frozen=True, slots=True)
class _Desk:
    """The services of an installation, and in whose name they are used."""

    users: Users
    sessions: Sessions
    context: Context


@app.callback()
def user() -> None:
    """People and their accounts."""


@app.command("list")
@command
def list_users(zone: Zone = "default", data_dir: DataDir = None, json_: AsJson = False) -> int:
    """Show every account. Exits 3 when there is none."""

    async def read(desk: _Desk) -> list[dict[str, Any]]:
        found, after = [], ""
        while True:
            some, following = await desk.users.list(desk.context.zone, after, 500)
            found += [each.document() for each in some]
            if following is None:
                return found
            after = following

    found = _at(data_dir, zone, read)
    if json_:
        print(json.dumps(found, indent=2, default=str))
    else:
        for each in found:
            print(f"{each['username']:24} {each['role']:14} {_standing(each):12} {each['email']}")
    return 0 if found else NO_DATA


@app.command()
@command
def show(name: Username, zone: Zone = "default", data_dir: DataDir = None, json_: AsJson = False) -> int:
    """Show one account."""
    found = _at(data_dir, zone, lambda desk: desk.users.get(desk.context.zone, name)).document()
    if json_:
        print(json.dumps(found, indent=2, default=str))
        return 0
    for member, value in found.items():
        print(f"{member:22} {value}")
    return 0


@app.command()
@command
def create(
    name: Username,
    email: Annotated[str, typer.Option("--email", help="The person's address.")],
    role: Annotated[
        str, typer.Option("--role", help="admin, operator, auditor, viewer or the owner of a plane.")
    ] = "viewer",
    full_name: Annotated[str, typer.Option("--full-name", help="The person's name.")] = "",
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: AsJson = False,
) -> int:
    """Make an account, and print the link by which the person chooses a password: once, for three days."""
    from bailiwick.identity.users import NewUser
    from bailiwick.kernel.fields import EMAIL_PATTERN, NAME_PATTERN, matches
    from bailiwick.kernel.permissions import Role

    if role not in set(Role):
        raise CommandFailed(USAGE, f"--role is one of {', '.join(Role)}")
    for told, pattern in ((name, NAME_PATTERN), (email, EMAIL_PATTERN)):
        if not matches(pattern, told):
            raise CommandFailed(USAGE, f"{told!r} is not of the form wanted")
    if not full_name.isprintable() or len(full_name) > 200:
        raise CommandFailed(USAGE, "--full-name is too long or not printable")
    made, invitation = _at(
        data_dir, zone, lambda desk: desk.users.create(desk.context, NewUser(name, email, role, full_name))
    )
    assert invitation is not None  # since no password was given
    if json_:
        print(json.dumps({**made.document(), "invitation": invitation.document()}, indent=2, default=str))
    else:
        print(f"{name} is made; the link for a password, good once until {invitation.expires_at:%Y-%m-%d %H:%M} UTC:")
        print(invitation.url)
        if not made.is_active:
            print(f"it is disabled, as the one before it was: two others enable it (bailiwick user enable {name})")
    return 0


@app.command()
@command
def disable(name: Username, zone: Zone = "default", data_dir: DataDir = None) -> int:
    """Disable an account: its sessions end everywhere before this returns."""
    _at(data_dir, zone, lambda desk: desk.users.change(desk.context, name, {"is_active": False}))
    print(f"{name} is disabled")
    return 0


@app.command()
@command
def enable(name: Username, zone: Zone = "default", data_dir: DataDir = None) -> int:
    """Enable an account again, which takes others: exits 3 while it waits for them, and when run again does it."""
    from bailiwick.identity.users import User

    done = _at(data_dir, zone, lambda desk: desk.users.change(desk.context, name, {"is_active": True}))
    if isinstance(done, User):
        print(f"{name} is enabled")
        return 0
    until = f"{done.expires_at:%Y-%m-%d %H:%M} UTC"
    print(f"{name} waits for approval {done.id}: {done.missing} more must approve it, by {until}")
    print(f"could do so: {', '.join(done.candidates) or 'nobody'}")
    if blocked := done.document().get("blocked"):
        print(blocked)
    return NO_DATA


@app.command("reset-mfa")
@command
def reset_mfa(name: Username, zone: Zone = "default", data_dir: DataDir = None, json_: AsJson = False) -> int:
    """Forget an account's second factors and end its sessions: the next sign-in enrols anew."""
    done = _at(data_dir, zone, lambda desk: desk.users.reset_mfa(desk.context, name))
    if json_:
        print(json.dumps(done))
    else:
        print(f"{name}: {done['factors_removed']} factors forgotten, {done['sessions_ended']} sessions ended")
    return 0


@app.command("reset-password")
@command
def reset_password(name: Username, zone: Zone = "default", data_dir: DataDir = None, json_: AsJson = False) -> int:
    """End an account's password and sessions, and print the link for another: once, for a day."""
    link = _at(data_dir, zone, lambda desk: desk.users.reset_password(desk.context, name, at_the_machine=True))
    if json_:
        print(json.dumps(link.document(), default=str))
    else:
        print(f"{name} has no password; the link for another, good once until {link.expires_at:%Y-%m-%d %H:%M} UTC:")
        print(link.url)
    return 0


@app.command()
@command
def unlock(name: Username, zone: Zone = "default", data_dir: DataDir = None) -> int:
    """Say how two persons lift the lock of an account; nobody does alone, so this always exits 1."""
    from bailiwick.cli.room import in_room

    return in_room(data_dir, zone, lambda house, context: _refuse_unlock(house, context, name))


async def _refuse_unlock(house: House, context: Context, name: str) -> int:
    from bailiwick.app.assurance.overrides import overrides_of
    from bailiwick.app.assurance.secrets import users_of
    from bailiwick.assurance.operations import UserUnlock
    from bailiwick.kernel.errors import Conflict, InvalidRequest

    overrides, _ = overrides_of(house, [UserUnlock(users_of(house.base, house.quorum))])
    try:
        await overrides.refuse_alone(context, context.actor.user, UserUnlock.name, {"username": name}, signed_in=False)
    except (Conflict, InvalidRequest) as error:
        told = "".join(f"\n  {word}: {value}" for word, value in error.extra.items())
        away = f"bailiwick user reset-password {name}"
        more = f"The lock ends by itself; `{away}` ends it with the password that was guessed at."
        raise CommandFailed(FAILED, f"{error.reason}: {error.detail}{told}\n{more}") from None


@app.command()
@command
def sessions(
    name: Username,
    ended: Annotated[bool, typer.Option("--ended", help="Also those that are over.")] = False,
    zone: Zone = "default",
    data_dir: DataDir = None,
    json_: AsJson = False,
) -> int:
    """Show an account's newest sessions, 500 at most. Exits 3 when there is none."""

    async def read(desk: _Desk) -> list[dict[str, Any]]:
        found, _ = await desk.sessions.list(desk.context.zone, name, "g", 500, ended=ended)
        return [each.document("") for each in found]

    found = _at(data_dir, zone, read)
    if json_:
        print(json.dumps(found, indent=2, default=str))
    else:
        for each in found:
            standing = each["end_reason"] or "open"
            print(f"{each['id']}  {each['created_at']:%Y-%m-%d %H:%M}  {each['ip']:15} {each['method']:8} {standing}")
    return 0 if found else NO_DATA


def _at(data_dir: Path | None, zone: str, work: Callable[[_Desk], Awaitable[T]]) -> T:
    """What ``work`` answers at the services of the installation; a refusal ends the command."""
    import asyncio

    from bailiwick.kernel.errors import BailiwickError

    try:
        return asyncio.run(_work(existing_layout(data_dir), zone, work))
    except BailiwickError as error:
        raise CommandFailed(NO_DATA if error.reason == "not_found" else FAILED, error.detail) from None


async def _work(layout: Layout, zone: str, work: Callable[[_Desk], Awaitable[T]]) -> T:
    from datetime import timedelta

    from bailiwick.app.fencing import Fence
    from bailiwick.app.quorum import quorum_of
    from bailiwick.authority.revocation import Revocations
    from bailiwick.cli.local import clock_of, database_url, running_settings
    from bailiwick.cli.recorded import by_operator
    from bailiwick.identity.passwords import Passwords
    from bailiwick.identity.sessions import Sessions
    from bailiwick.identity.users import Users
    from bailiwick.kernel.db import Database
    from bailiwick.kernel.ids import Ids

    settings = running_settings(layout)
    clock, database, passwords = clock_of(layout), Database(database_url(layout.data_dir), pool_size=2), Passwords()
    recorder, context = by_operator(layout, zone)
    revocations = Revocations(
        database,
        clock,
        recorder,
        longest_mandate=timedelta(seconds=settings.mandate_ttl_s),
        longest_session=timedelta(seconds=settings.session_ttl_s),
        freshness_limit_s=settings.freshness_limit_s,
        fence_after_s=settings.fence_after_s,
        fence=Fence(layout.control_socket),
    )
    try:
        ids = Ids()
        quorum = quorum_of(database, clock, ids, recorder)
        users = Users(database, clock, ids, recorder, settings, passwords, revocations, quorum)
        return await work(_Desk(users, Sessions(database, clock, recorder, revocations), context))
    finally:
        passwords.close()
        await database.close()


def _standing(each: dict[str, Any]) -> str:
    if not each["is_active"]:
        return "disabled"
    return "invited" if each["invited"] else "active"
