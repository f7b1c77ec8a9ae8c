"""The first administrator of a zone: a user with a one-time password, who can do nothing but change it."""

from __future__ import annotations

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.identity.passwords import Passwords
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.ids import Ids

FIRST_ADMINISTRATOR = "admin"


async def create_first_administrator(
    tx: Transaction, zone: str, *, clock: Clock, ids: Ids, recorder: Recorder, passwords: Passwords
) -> str:
    """Create the user ``admin`` of ``zone`` in ``tx``; answers the one-time password, which is kept nowhere.

    Raises ``Conflict`` (``already_exists``) where the zone has that user.
    """
    password, now = ids.secret(18), clock.now()
    made = await tx.run(
        "INSERT INTO users (id, zone, username, email, full_name, role, password_hash, must_change_password,"
        " created_at, updated_at) VALUES (:id, :zone, :username, :email, 'First administrator', 'admin', :hash,"
        " true, :now, :now) ON CONFLICT DO NOTHING",
        id=ids(),
        zone=zone,
        username=FIRST_ADMINISTRATOR,
        email=f"{FIRST_ADMINISTRATOR}@localhost",
        hash=await passwords.hash(password),
        now=now,
    )
    if not made:
        raise Conflict(f"The zone {zone} has an administrator already.", reason="already_exists")
    await recorder.record(
        tx,
        codes.USER_CREATED,
        "success",
        Context(zone=zone),
        subject=Subject(id=FIRST_ADMINISTRATOR, type="user"),
        role="admin",
        cause="bootstrap",
    )
    await feed.announce(tx, zone, "user", FIRST_ADMINISTRATOR)
    return password
