"""People who were disabled here and whose account is gone: whoever makes it again does not let them in by that.

To enable a disabled account takes two persons, or the provider where it was the provider's word. Deleting it and making
it anew is one's work, and a directory that is synchronised does so by itself. So what names the person outlasts the
account: one that is made for him later is disabled as the first was, and two persons enable it; a provider that would
make him one while he signs in does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.identity.enabling import HERE
from bailiwick.identity.persons import keys_of, keys_of_account
from bailiwick.kernel.db import Row, Transaction

CAUSE = "disabled here before"


async def keep_out(tx: Transaction, context: Context, username: str, now: datetime) -> None:
    """Keep what names the person of an account, locked and disabled here, that is about to be deleted."""
    await tx.run(
        "INSERT INTO kept_out AS k (zone, username, keys, since, by) VALUES (:zone, :username, :keys, :now, :by)"
        " ON CONFLICT (zone, username) DO UPDATE SET since = excluded.since, by = excluded.by,"
        " keys = ARRAY(SELECT unnest(k.keys) UNION SELECT unnest(excluded.keys) ORDER BY 1)",
        zone=context.zone,
        username=username,
        keys=sorted(await keys_of_account(tx, context.zone, username)),
        now=now,
        by=context.actor.user,
    )


async def is_kept_out(tx: Transaction, zone: str, keys: Iterable[str]) -> bool:
    """Whether any of ``keys`` (see :func:`~bailiwick.identity.persons.keys_of`) names somebody who is kept out."""
    return bool(await _kept(tx, zone, keys))


async def disable_kept_out(
    tx: Transaction, recorder: Recorder, zone: str, made: Sequence[tuple[Context, Row]]
) -> set[str]:
    """Disable those of the accounts ``made`` in this transaction whose persons are kept out; their user names.

    Called after they were made: a deletion under way then was waited for. Who makes one that is disabled already, as a
    provider may, does not get the say over it.
    """
    keys = {row["username"]: keys_of({**row, "identities": ()}) for _, row in made}
    kept = await _kept(tx, zone, frozenset[str]().union(*keys.values()))
    found = [(context, row) for context, row in made if row["disabled_by"] != HERE and keys[row["username"]] & kept]
    if found:
        await tx.run(
            "UPDATE users SET is_active = false, disabled_by = :here WHERE zone = :zone AND username = ANY(:names)",
            here=HERE,
            zone=zone,
            names=[row["username"] for _, row in found],
        )
    for context, row in found:
        await recorder.record(
            tx,
            codes.USER_DISABLED,
            "success",
            context,
            subject=Subject(id=row["username"], type="user"),
            role=row["role"],
            changed=["is_active" if row["is_active"] else "disabled_by"],
            cause=CAUSE,
        )
    return {row["username"] for _, row in found}


async def let_in(tx: Transaction, zone: str, username: str) -> None:
    """Forget that the person of an account is kept out, in the transaction by which two persons enable it."""
    await tx.run(
        "DELETE FROM kept_out WHERE zone = :zone AND keys && cast(:keys AS text[])",
        zone=zone,
        keys=sorted(await keys_of_account(tx, zone, username)),
    )


async def _kept(tx: Transaction, zone: str, keys: Iterable[str]) -> frozenset[str]:
    rows = await tx.all(
        "SELECT keys FROM kept_out WHERE zone = :zone AND keys && cast(:keys AS text[])", zone=zone, keys=[*keys]
    )
    return frozenset(key for row in rows for key in row["keys"])
