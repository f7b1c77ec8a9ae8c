"""Evidence of rollouts: a record for every step, and what configurations were rendered to."""

from __future__ import annotations

import re
import socket

from bailiwick import __version__
from bailiwick.evidence.events import Actor, Context
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer
from bailiwick.handover.rollouts.actions import Done
from bailiwick.handover.rollouts.programs import Ran
from bailiwick.handover.rollouts.records import Rollout, last_done
from bailiwick.handover.rollouts.states import Attempt
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction

_LOOK_BACK = 200


class Proof:
    """Makes the records."""

    def __init__(self, clock: Clock, records: EvidenceRecords) -> None:
        self._clock = clock
        self._records = records

    async def of(self, tx: Transaction, context: Context, rollout: Rollout, attempt: Attempt, done: Done) -> str:
        """What an action or a verification came to; the record's id."""
        now = self._clock.now()
        stored = await self._records.probe(
            tx,
            context,
            check_of(rollout, attempt.step),
            done.output or done.told.encode(),
            exit_code=0 if done.ok else 1,
            since=min(attempt.begun_at, now),
            until=now,
            producer=_producer("rollouts"),
            command=done.command,
            inputs=_inputs(rollout, attempt) | {"told": done.told[:500]},
            output_size=done.size,
        )
        return stored.id

    async def stated(
        self, tx: Transaction, context: Context, rollout: Rollout, attempt: Attempt, statement: str, passed: bool
    ) -> str:
        """What a person states of a step; the record's id."""
        now = self._clock.now()
        stored = await self._records.attest(
            tx,
            context,
            check_of(rollout, attempt.step),
            statement,
            producer=_producer(context.actor.user),
            since=min(attempt.begun_at, now),
            until=now,
            inputs=_inputs(rollout, attempt) | {"passed": passed},
        )
        return stored.id


class KeptRenderings:
    """Implements ``Renderings`` by evidence records."""

    def __init__(self, database: Database, clock: Clock, records: EvidenceRecords) -> None:
        self._database = database
        self._clock = clock
        self._records = records

    async def keep(self, rollout: Rollout, ran: Ran) -> str:
        """See :class:`~bailiwick.handover.rollouts.actions.Renderings`."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            stored = await self._records.probe(
                tx,
                Context(rollout.zone, Actor(application="system:rollouts")),
                _rendering(rollout),
                ran.output,
                exit_code=0,
                since=now,
                until=now,
                producer=_producer("rollouts"),
                inputs={"digest": rollout.digest, "rollout": rollout.id},
                output_size=ran.size,
            )
            return (await self._records.output(tx, stored)).decode()

    async def before(self, rollout: Rollout) -> str:
        """See :class:`~bailiwick.handover.rollouts.actions.Renderings`."""
        async with self._database.begin() as tx:
            last = await last_done(tx, rollout.zone, rollout.environment, before=rollout.id)
            if last is None:
                return ""
            check = _rendering(rollout)
            for stored in await self._records.list(tx, rollout.zone, check=check, kind="probe", limit=_LOOK_BACK):
                if stored.record.inputs.get("rollout") == last.id:
                    return (await self._records.output(tx, stored)).decode()
        return ""


def check_of(rollout: Rollout, step: str) -> str:
    """What evidence records call a step."""
    return _checked(f"rollout/{rollout.plan_name}/{step}")


def _rendering(rollout: Rollout) -> str:
    return _checked(f"rollout-rendering/{rollout.environment}")


def _checked(text: str) -> str:
    return re.sub(r"[^a-z0-9._/-]", "-", text.lower())[:128]


def _inputs(rollout: Rollout, attempt: Attempt) -> dict[str, str | int | bool]:
    return {
        "rollout": rollout.id,
        "digest": rollout.digest,
        "environment": rollout.environment,
        "way": attempt.way,
        "attempt": attempt.number,
    }


def _producer(name: str) -> Producer:
    return Producer(host=socket.gethostname(), name=name, program="bailiwick rollout", version=__version__)
