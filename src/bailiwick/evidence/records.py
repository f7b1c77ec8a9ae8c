"""From bytes that arrived to what the ledger stores: rows of events, decision inputs and dead letters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from bailiwick.evidence.events import decode, encode, leaf_hash
from bailiwick.evidence.frames import Frame, Kind
from bailiwick.evidence.inputs import split_payload
from bailiwick.evidence.stored import rest_of
from bailiwick_verify.tiles import MAX_ENTRY_BYTES

OUTBOX = "outbox"
MAX_DEAD_BYTES = 1 << 20
_AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class Unparsable(Exception):
    """An event cannot go into the ledger; the message is the dead letter's reason."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event on its way into the ledger, and where it came from (``position``: see :func:`spool_position`)."""

    source: str
    segment: int
    position: int
    zone: str
    id: UUID
    at: datetime
    code: str
    outcome: str
    request_id: UUID | None
    principal: str | None
    server: str | None
    leaf: bytes
    body: bytes
    rest: bytes


@dataclass(frozen=True, slots=True)
class InputRow:
    """A sealed decision input."""

    zone: str
    digest: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Bytes that could not be sequenced, kept for people to look at (at most 1 MiB of them)."""

    source: str
    segment: int
    position: int
    zone: str
    reason: str
    data: bytes


def spool_position(segment: int, offset: int) -> int:
    """One number that grows along a source: the segment in the upper half, the offset in the lower."""
    return segment << 32 | offset


def event_row(source: str, segment: int, position: int, zone: str, body: bytes) -> EventRow:
    """The row of an event's bytes; raises :class:`Unparsable`."""
    if len(body) > MAX_ENTRY_BYTES:
        raise Unparsable(f"too_large: an event of {len(body)} bytes does not fit into the tree")
    try:
        event = decode(body)
    except msgspec.MsgspecError as error:
        raise Unparsable(f"not_an_event: {error}"[:200]) from None
    if event.zone != zone:
        raise Unparsable("wrong_zone: the event is of another zone than its envelope")
    if b"\\u0000" in body and encode(event) != body:
        # neither the columns nor the SQL view of the body could hold it
        raise Unparsable("nul_character: the event holds a character the database refuses")
    if not _AT.fullmatch(event.at):
        raise Unparsable("bad_time: the event's time is not RFC 3339 UTC with microseconds")
    try:
        event_id, at = UUID(event.id), datetime.fromisoformat(event.at)
        request_id = UUID(event.request_id) if event.request_id else None
    except ValueError as error:
        raise Unparsable(f"bad_value: {error}"[:200]) from None
    return EventRow(
        source,
        segment,
        position,
        zone,
        event_id,
        at,
        event.code,
        event.outcome,
        request_id,
        event.principal or None,
        event.server or None,
        leaf_hash(body),
        body,
        rest_of(event, event_id, at, request_id, body),
    )


def record_of(source: str, segment: int, frame: Frame) -> EventRow | InputRow | DeadLetter | None:
    """What a good frame carries: a row, a dead letter when it is of no known kind or form, None for an open frame."""
    try:
        if frame.kind == Kind.EVENT:
            return event_row(source, segment, spool_position(segment, frame.offset), frame.zone, frame.payload)
        if frame.kind == Kind.INPUT:
            digest, sealed = split_payload(frame.payload)
            return InputRow(frame.zone, digest, sealed)
        if frame.kind == Kind.OPEN:
            return None
        raise Unparsable(f"unknown_kind: {frame.kind}")
    except (Unparsable, ValueError) as error:
        return DeadLetter(source, segment, frame.offset, clean(frame.zone), str(error), frame.payload)


def clean(value: str) -> str:
    """The text with what PostgreSQL refuses replaced."""
    return value.replace("\x00", "\ufffd")
