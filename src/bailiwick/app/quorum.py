"""The two-person rule of an installation."""

from __future__ import annotations

from collections.abc import Sequence

from bailiwick.evidence.approvals import recorder_note
from bailiwick.evidence.events import Recorder
from bailiwick.identity.holders import holders
from bailiwick.identity.persons import Persons
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.quorum import Action, Quorum


def quorum_of(database: Database, clock: Clock, ids: Ids, recorder: Recorder, actions: Sequence[Action] = ()) -> Quorum:
    """The rule over the accounts of the installation; services register what they ask for beside ``actions``."""
    return Quorum(database, clock, ids, recorder_note(recorder), holders, actions, Persons())
