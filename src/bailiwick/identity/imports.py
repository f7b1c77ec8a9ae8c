"""Accounts that a directory makes, thousands in a row: those asked for at the same time share a transaction.

An account so made is like any other; only a password and an invitation it cannot get here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject, encode
from bailiwick.identity.enabling import HERE, provider
from bailiwick.identity.kept_out import disable_kept_out
from bailiwick.identity.users import NewUser, User, user_of
from bailiwick.identity.widening import above_viewer, may_not_widen
from bailiwick.inventory.zones import require_active
from bailiwick.kernel import feed, outbox
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.modes import Switch, require_on
from bailiwick.kernel.together import Together

_INSERT = """
INSERT INTO users (id, zone, username, email, full_name, role, is_active, disabled_by, mfa_enabled, external_id,
  profile, created_at, updated_at)
SELECT id, :zone, username, email, full_name, role, is_active, disabled_by, mfa_enabled,
  external_id, cast(profile AS jsonb), :now, :now
FROM unnest(cast(:ids AS text[]), cast(:usernames AS text[]), cast(:emails AS text[]), cast(:full_names AS text[]),
  cast(:roles AS text[]), cast(:active AS boolean[]), cast(:disabled_by AS text[]), cast(:mfa AS boolean[]),
  cast(:external AS text[]), cast(:profiles AS text[]))
  AS n (id, username, email, full_name, role, is_active, disabled_by, mfa_enabled, external_id, profile)
ORDER BY lower(username)
ON CONFLICT DO NOTHING RETURNING *
"""


@dataclass(frozen=True, slots=True)
class _Asked:
    context: Context
    new: NewUser


@dataclass(frozen=True, slots=True)
class _Made:
    """The account, None where its name or address is taken, and the feed's revision that tells of it."""

    user: User | None
    revision: int


class Imports:
    """Makes accounts without a password."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._by_zone: dict[str, Together[_Asked, _Made]] = {}

    async def create(self, context: Context, new: NewUser, *, widen: bool) -> User:
        """A new user. Raises as :meth:`Users.create` does."""
        if not widen and above_viewer(new.role):
            raise may_not_widen()
        together = self._by_zone.get(context.zone)
        if together is None:
            together = self._by_zone[context.zone] = Together(self._make, lambda asked: asked.new.username.lower())
        made = await together.ask(_Asked(context, new))
        if made.user is None:
            raise Conflict("The user name or the e-mail address is taken.", reason="already_exists")
        feed.note(made.revision)
        return made.user

    async def _make(self, batch: Sequence[_Asked]) -> Sequence[_Made]:
        zone, news = batch[0].context.zone, [asked.new for asked in batch]
        async with self._database.begin() as tx:
            await require_active(tx, zone)
            await require_on(tx, zone, Switch.PROVISION, Switch.READ_ONLY)
            rows = await tx.all(
                _INSERT,
                zone=zone,
                now=self._clock.now(),
                ids=[self._ids() for _ in news],
                usernames=[new.username for new in news],
                emails=[new.email for new in news],
                full_names=[new.full_name for new in news],
                roles=[new.role for new in news],
                active=[new.is_active for new in news],
                disabled_by=[None if asked.new.is_active else provider(asked.context) for asked in batch],
                mfa=[new.mfa_enabled for new in news],
                external=[new.external_id for new in news],
                profiles=[json.dumps(dict(new.profile)) for new in news],
            )
            made = {row["username"]: user_of(row) for row in rows}
            events = [
                self._recorder.make(
                    codes.USER_CREATED,
                    "success",
                    asked.context,
                    subject=Subject(id=asked.new.username, type="user"),
                    role=asked.new.role,
                    cause=asked.new.cause,
                )
                for asked in batch
                if asked.new.username in made
            ]
            revision = 0
            if events:
                await outbox.put_all(tx, [(zone, encode(event)) for event in events])
                by = {asked.new.username: asked.context for asked in batch}
                told = [(by[row["username"]], row) for row in rows]
                for name in await disable_kept_out(tx, self._recorder, zone, told):
                    made[name] = replace(made[name], is_active=False, disabled_by=HERE)
                revision = await feed.announce(tx, zone, "user", *made)
        return [_Made(made.get(new.username), revision) for new in news]
