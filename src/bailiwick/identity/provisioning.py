"""Just in time: the account of somebody whom a provider vouches for, found or made while he signs in.

A provider (a directory, an OpenID or SAML provider) knows people by a *subject*, which never changes and never passes
to somebody else; user names and addresses do both. So an account is found by ``(provider, subject)`` alone. An account
that is there already is taken for the person's only where an administrator said so: by the external id that SCIM set,
or by the provider's setting to link by name. Otherwise whoever may choose his name at a provider could choose yours.

The caller holds no lock and is in the transaction in which he goes on to :meth:`SignIns.conclude`. Who is known and of
whom the provider says nothing new, which nearly every sign-in is, costs one statement and waits for nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.identity.kept_out import is_kept_out
from bailiwick.identity.persons import keys_of_arrival
from bailiwick.identity.standing import NO_ROLE, RANKS, lock_administrators, settle_roles
from bailiwick.inventory.zones import require_active
from bailiwick.kernel import feed
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import Denied, InvalidRequest, Unauthenticated
from bailiwick.kernel.fields import EMAIL_PATTERN, USER_NAME_PATTERN, matches
from bailiwick.kernel.ids import Ids

MAX_SUBJECT = 500
MAX_GROUPS = 2000

# what SignIns.conclude reads of a user
_USER = """
SELECT id, username, email, full_name, role, own_role, owns, is_active, mfa_enabled, must_change_password FROM users
"""

# The account of a known person, locked, if it is as the provider says and nobody else is at it. What is not so locks
# nothing, since whoever changes it takes other locks first. Everywhere the account is locked before the identity.
# The identity is looked up first, whatever the planner knows: it might begin with everybody the provider ever sent.
AS_TOLD = """
WITH identity AS MATERIALIZED (
  SELECT zone, provider, username FROM user_identities
  WHERE zone = :zone AND provider = :provider AND subject = :subject
), known AS (
  SELECT u.id, u.username, u.email, u.full_name, u.role, u.own_role, u.owns, u.is_active, u.mfa_enabled,
    u.must_change_password,
    EXISTS (SELECT 1 FROM factors f
      WHERE f.zone = u.zone AND f.username = u.username AND f.confirmed_at IS NOT NULL) AS has_factors,
    EXISTS (SELECT 1 FROM login_failures f
      WHERE f.zone = u.zone AND f.username IN (u.username, :counted)) AS has_failures
  FROM identity i JOIN zones z ON z.name = i.zone JOIN users u ON u.zone = i.zone AND u.username = i.username
  WHERE z.state = 'active' AND u.is_active
    AND (cast(:role AS text) IS NULL OR coalesce(u.own_role, u.role) = :role)
    AND (:email = '' OR u.email = :email) AND (:full_name = '' OR u.full_name = :full_name)
    AND (cast(:names AS text[]) IS NULL OR NOT EXISTS (
      SELECT 1 FROM groups g
      LEFT JOIN group_members m ON m.group_id = g.id AND m.username = u.username
      WHERE g.zone = i.zone AND CASE WHEN lower(g.name) = ANY(:names) OR g.external_id = ANY(:given)
        THEN m.group_id IS NULL ELSE m.source = i.provider END))
  FOR UPDATE OF u SKIP LOCKED FOR SHARE OF z
), seen AS (
  UPDATE user_identities SET last_seen_at = :now FROM known
  WHERE zone = :zone AND provider = :provider AND subject = :subject
)
SELECT * FROM known
"""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Somebody a provider vouches for.

    ``provider`` is our name of it with its kind, such as ``ldap:corp``; ``subject`` its own unchanging id of the person
    (objectGUID, ``sub``, a persistent NameID). ``role`` is what the provider's settings map him to; None leaves a
    known person's and gives a new one none. ``groups`` names those of our groups, by name or external id, that the
    provider puts him in; groups it put him in earlier and does not name are left; None changes nothing. An unknown
    name is no group of ours and passes by. ``counted`` is the name under which failed attempts are counted, if any.
    """

    provider: str
    subject: str
    username: str
    email: str = ""
    full_name: str = ""
    role: str | None = None
    groups: Sequence[str] | None = None
    counted: str = ""


@dataclass(frozen=True, slots=True)
class Provisioned:
    """The account: its locked row, whether it was made now, and a feed revision to settle where something was taken.

    Where nothing was to be done, the row also says whether he ``has_factors`` and ``has_failures``.
    """

    user: Row
    created: bool
    revision: int | None = None


async def provision(
    tx: Transaction,
    context: Context,
    arrival: Arrival,
    *,
    now: datetime,
    ids: Ids,
    recorder: Recorder,
    create: bool = True,
    link_by_name: bool = False,
    link_by_id: bool = False,
) -> Provisioned:
    """Find or make the account of ``arrival``, bring it up to date, and answer it locked.

    ``create``: make accounts for people who have none. ``link_by_name``: take an account with the same user name or
    address for his; only for a provider whose names are given out as carefully as ours. ``link_by_id``: take an account
    whose external id is the subject for his; only for the provider whose ids those are, as any other may call somebody
    the same. Where the answer has a ``revision``, hand it to ``Revoke.settle`` after the commit.

    Raises ``Unauthenticated`` (``account_disabled``), ``Denied`` (``not_provisioned``, ``account_not_linked``,
    ``zone_archived``) or ``InvalidRequest`` for what cannot be an account here. The transaction is then to be given up.
    """
    _check(arrival)
    as_told = await _as_told(tx, context.zone, arrival, now)
    if as_told is not None:
        return Provisioned(as_told, created=False)
    await require_active(tx, context.zone)
    if arrival.role is not None or arrival.groups is not None:
        await lock_administrators(tx, context.zone)
    username = await _known(tx, context.zone, arrival)
    created = False
    if username is None:
        username = await _link(tx, context, arrival, now, recorder, by_name=link_by_name, by_id=link_by_id)
    if username is None:
        if not create:
            raise Denied(reason="not_provisioned")
        keys = keys_of_arrival(arrival.provider, arrival.subject, arrival.username, arrival.email)
        if await is_kept_out(tx, context.zone, keys):
            raise Unauthenticated(reason="account_disabled")
        username, created = await _create(tx, context, arrival, now, ids, recorder), True
    before = await _locked(tx, context.zone, username)
    if not before["is_active"]:
        raise Unauthenticated(reason="account_disabled")
    await _note_seen(tx, context.zone, arrival, now)
    changed = [] if created else await _update(tx, context, arrival, before, now)
    joined = await _map_groups(tx, context, arrival, username, now, recorder)
    changes = await settle_roles(tx, context.zone, [username]) if joined or "role" in changed or created else ()
    user = await _locked(tx, context.zone, username)
    if (changed or changes) and not created:
        await recorder.record(
            tx,
            codes.USER_CHANGED,
            "success",
            context,
            subject=Subject(id=username, type="user"),
            role=user["role"],
            changed=sorted({*changed, *(["role"] if changes else [])}),
            cause=arrival.provider,
        )
    revision = None
    if created or changed or changes:
        revision = await feed.announce(tx, context.zone, "user", username)
    return Provisioned(user, created, revision if any(change.narrows for change in changes) and not created else None)


def _check(arrival: Arrival) -> None:
    if not 0 < len(arrival.subject) <= MAX_SUBJECT or not arrival.subject.isprintable():
        raise InvalidRequest("The provider's id of the person is empty, too long or unprintable.")
    if not matches(USER_NAME_PATTERN, arrival.username):
        raise InvalidRequest("The provider's user name has characters that ours cannot have.")
    if arrival.email and not matches(EMAIL_PATTERN, arrival.email):
        raise InvalidRequest("The provider's e-mail address is none.")
    if not arrival.full_name.isprintable() or len(arrival.full_name) > 200:
        raise InvalidRequest("The provider's name of the person is too long or unprintable.")
    if arrival.role is not None and arrival.role not in RANKS:
        raise InvalidRequest("The provider's settings map to a role that there is not.")
    if arrival.groups is not None and len(arrival.groups) > MAX_GROUPS:
        raise InvalidRequest(f"The provider names more than {MAX_GROUPS} groups of the person.")


async def _as_told(tx: Transaction, zone: str, arrival: Arrival, now: datetime) -> Row | None:
    """The account, locked, if there is nothing to make and nothing to change."""
    return await tx.one(
        AS_TOLD,
        zone=zone,
        provider=arrival.provider,
        subject=arrival.subject,
        role=arrival.role,
        email=arrival.email,
        full_name=arrival.full_name,
        names=None if arrival.groups is None else [name.casefold() for name in arrival.groups],
        given=[*(arrival.groups or ())],
        counted=arrival.counted,
        now=now,
    )


async def _known(tx: Transaction, zone: str, arrival: Arrival) -> str | None:
    username = await tx.value(
        "SELECT username FROM user_identities WHERE zone = :zone AND provider = :provider AND subject = :subject",
        zone=zone,
        provider=arrival.provider,
        subject=arrival.subject,
    )
    return None if username is None else str(username)


async def _note_seen(tx: Transaction, zone: str, arrival: Arrival, now: datetime) -> None:
    await tx.run(
        "UPDATE user_identities SET last_seen_at = :now WHERE zone = :zone AND provider = :provider"
        " AND subject = :subject",
        now=now,
        zone=zone,
        provider=arrival.provider,
        subject=arrival.subject,
    )


async def _link(
    tx: Transaction,
    context: Context,
    arrival: Arrival,
    now: datetime,
    recorder: Recorder,
    *,
    by_name: bool,
    by_id: bool,
) -> str | None:
    """The account that an administrator, or SCIM, made for the person, now linked to his subject."""
    rows = await tx.all(
        "SELECT username, external_id FROM users u WHERE zone = :zone AND (external_id = :subject"
        " OR lower(username) = lower(:username) OR (:email <> '' AND lower(email) = lower(:email)))"
        " AND NOT EXISTS (SELECT 1 FROM user_identities i WHERE i.zone = u.zone AND i.username = u.username"
        " AND i.provider = :provider)",
        zone=context.zone,
        subject=arrival.subject,
        username=arrival.username,
        email=arrival.email,
        provider=arrival.provider,
    )
    if not rows:
        return None
    same_id = [row for row in rows if by_id and row["external_id"] == arrival.subject]
    candidates = same_id or (list(rows) if by_name else [])
    if len(candidates) != 1:
        raise Denied(reason="account_not_linked")
    username = str(candidates[0]["username"])
    await link_identity(tx, context.zone, arrival.provider, arrival.subject, username, now)
    await recorder.record(
        tx,
        codes.USER_LINKED,
        "success",
        context,
        subject=Subject(id=username, type="user"),
        provider=arrival.provider,
        by="external id" if same_id else "name",
    )
    return username


async def link_identity(tx: Transaction, zone: str, provider: str, subject: str, username: str, now: datetime) -> None:
    """Write that ``provider`` knows ``username`` as ``subject``."""
    await tx.run(
        "INSERT INTO user_identities (zone, provider, subject, username, created_at, last_seen_at)"
        " VALUES (:zone, :provider, :subject, :username, :now, :now)",
        zone=zone,
        provider=provider,
        subject=subject,
        username=username,
        now=now,
    )


async def _create(
    tx: Transaction, context: Context, arrival: Arrival, now: datetime, ids: Ids, recorder: Recorder
) -> str:
    role = arrival.role or NO_ROLE
    made = await tx.one(
        "INSERT INTO users (id, zone, username, email, full_name, role, created_at, updated_at)"
        " VALUES (:id, :zone, :username, :email, :full_name, :role, :now, :now) ON CONFLICT DO NOTHING RETURNING id",
        id=ids(),
        zone=context.zone,
        username=arrival.username,
        email=arrival.email,
        full_name=arrival.full_name,
        role=role,
        now=now,
    )
    if made is None:
        raise Denied(reason="account_not_linked")
    await link_identity(tx, context.zone, arrival.provider, arrival.subject, arrival.username, now)
    await recorder.record(
        tx,
        codes.USER_CREATED,
        "success",
        context,
        subject=Subject(id=arrival.username, type="user"),
        role=role,
        cause=arrival.provider,
    )
    return arrival.username


async def _update(tx: Transaction, context: Context, arrival: Arrival, before: Row, now: datetime) -> list[str]:
    """Take over what the provider says of the person; answers the names of what changed.

    An address that somebody else has is left as it was: that is no reason to keep the person out.
    """
    wanted = {"full_name": arrival.full_name or before["full_name"], "email": arrival.email or before["email"]}
    if wanted["email"].casefold() != before["email"].casefold():
        taken = await tx.value(
            "SELECT 1 FROM users WHERE zone = :zone AND lower(email) = lower(:email) AND id <> :id",
            zone=context.zone,
            email=wanted["email"],
            id=before["id"],
        )
        if taken:
            wanted["email"] = before["email"]
    own = before["own_role"] or before["role"]
    role = arrival.role or own
    changed = [name for name, value in wanted.items() if value != before[name]] + (["role"] if role != own else [])
    if changed:
        await tx.run(
            "UPDATE users SET full_name = :full_name, email = :email, version = version + 1, updated_at = :now,"
            " own_role = :own_role WHERE id = :id",
            **wanted,
            own_role=role if role != own else before["own_role"],
            now=now,
            id=before["id"],
        )
    return changed


async def _map_groups(
    tx: Transaction, context: Context, arrival: Arrival, username: str, now: datetime, recorder: Recorder
) -> bool:
    """Make the provider's part of the person's memberships what it says now; answers whether any changed."""
    if arrival.groups is None:
        return False
    names = [name.casefold() for name in arrival.groups]
    wanted = await tx.all(
        "SELECT id, name FROM groups WHERE zone = :zone AND (lower(name) = ANY(:names) OR external_id = ANY(:given))"
        " ORDER BY id",
        zone=context.zone,
        names=names,
        given=[*arrival.groups],
    )
    joined = await tx.all(
        "INSERT INTO group_members (group_id, zone, username, source, added_at)"
        " SELECT unnest(cast(:ids AS text[])), :zone, :username, :source, :now"
        " ON CONFLICT DO NOTHING RETURNING group_id",
        ids=[row["id"] for row in wanted],
        zone=context.zone,
        username=username,
        source=arrival.provider,
        now=now,
    )
    left = await tx.all(
        "DELETE FROM group_members m USING groups g WHERE m.group_id = g.id AND m.zone = :zone"
        " AND m.username = :username AND m.source = :source AND NOT m.group_id = ANY(:ids) RETURNING g.name",
        zone=context.zone,
        username=username,
        source=arrival.provider,
        ids=[row["id"] for row in wanted],
    )
    fresh = {row["group_id"] for row in joined}
    came, went = [row["name"] for row in wanted if row["id"] in fresh], [row["name"] for row in left]
    for name in came:
        await recorder.record(
            tx,
            codes.GROUP_MEMBERS_ADDED,
            "success",
            context,
            subject=Subject(id=name, type="group"),
            members=[username],
            source=arrival.provider,
        )
    for name in went:
        await recorder.record(
            tx,
            codes.GROUP_MEMBERS_REMOVED,
            "success",
            context,
            subject=Subject(id=name, type="group"),
            members=[username],
            source=arrival.provider,
        )
    return bool(came or went)


async def _locked(tx: Transaction, zone: str, username: str) -> Row:
    row = await tx.one(f"{_USER} WHERE zone = :zone AND username = :u FOR UPDATE", zone=zone, u=username)
    assert row is not None
    return row
