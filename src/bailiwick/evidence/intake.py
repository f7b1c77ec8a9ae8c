"""One batch on its way into the database, and the statements that store it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import psycopg

from bailiwick.evidence.records import MAX_DEAD_BYTES, DeadLetter, EventRow, InputRow, clean
from bailiwick.kernel.db import Transaction

_COLUMNS = "zone, seq, id, at, recorded_at, code, outcome, request_id, principal, server, rest"
_TYPES = (
    "text", "int8", "uuid", "timestamptz", "timestamptz", "text", "text", "uuid", "text", "text", "bytea",
)  # fmt: skip


@dataclass(slots=True)
class Intake:
    """What one transaction stores."""

    events: list[EventRow] = field(default_factory=list)
    inputs: list[InputRow] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)

    def set_aside(self, refused: Collection[tuple[str, int]]) -> None:
        """Turn the events at these (source, position) into dead letters."""
        if refused:
            self._bury([e for e in self.events if (e.source, e.position) in refused], "refused_by_database")
            self.events = [event for event in self.events if (event.source, event.position) not in refused]

    def set_aside_zones(self, known: Collection[str]) -> None:
        """Turn what is of no known zone into dead letters; inputs of such zones are sealed to nobody and dropped."""
        strangers = [event for event in self.events if event.zone not in known]
        if strangers:
            self._bury(strangers, "unknown_zone")
            self.events = [event for event in self.events if event.zone in known]
        self.inputs = [item for item in self.inputs if item.zone in known]

    def _bury(self, events: Sequence[EventRow], reason: str) -> None:
        self.dead.extend(
            DeadLetter(event.source, event.segment, event.position, clean(event.zone), reason, event.body)
            for event in events
        )


async def put_events(tx: Transaction, rows: Sequence[tuple[EventRow, int, datetime]]) -> None:
    """COPY events with their sequence number and time of recording into the ledger."""
    connection = tx.driver
    async with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY ledger.events ({_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types(_TYPES)
        for event, seq, recorded_at in rows:
            await copy.write_row(
                (
                    event.zone,
                    seq,
                    event.id,
                    event.at,
                    recorded_at,
                    event.code,
                    event.outcome,
                    event.request_id,
                    event.principal,
                    event.server,
                    event.rest,
                )
            )


async def put_others(tx: Transaction, intake: Intake, now: datetime, inputs_until: datetime) -> None:
    """Store decision inputs (once per digest) and dead letters."""
    connection = tx.driver
    async with connection.cursor() as cursor:
        if intake.inputs:
            await cursor.executemany(
                "INSERT INTO decision_inputs (zone, digest, sealed, created_at, expires_at)"
                " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (zone, digest) DO UPDATE SET expires_at = excluded.expires_at"
                " WHERE decision_inputs.expires_at < excluded.expires_at - interval '1 hour'",
                [(item.zone, item.digest, item.sealed, now, inputs_until) for item in intake.inputs],
            )
        if intake.dead:
            await cursor.executemany(
                "INSERT INTO ledger.dead_letters (source, segment, position, zone, reason, size, frame, at)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    (
                        letter.source,
                        letter.segment,
                        letter.position,
                        letter.zone,
                        clean(letter.reason),
                        len(letter.data),
                        letter.data[:MAX_DEAD_BYTES],
                        now,
                    )
                    for letter in intake.dead
                ],
            )


async def refused_rows(tx: Transaction, events: Sequence[EventRow], now: datetime) -> set[tuple[str, int]]:
    """The (source, position) of those events that the database does not take, each tried behind a savepoint."""
    connection = tx.driver
    refused = set()
    for event in events:
        try:
            async with connection.transaction(force_rollback=True):
                await put_events(tx, [(event, 0, now)])
        except psycopg.Error as error:
            if not is_refusal(error):
                raise
            refused.add((event.source, event.position))
    return refused


def is_refusal(error: psycopg.Error) -> bool:
    """Whether the database refused a value (SQLSTATE classes 22, 23, 54), as opposed to not being able to work."""
    return (error.sqlstate or "")[:2] in {"22", "23", "54"}
