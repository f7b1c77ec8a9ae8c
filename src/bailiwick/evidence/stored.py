"""How an event lies in ``ledger.events``: what has a column stands there alone, and ``rest`` holds what is left.

The columns are the event, not a copy of it: the canonical bytes that were hashed are put together from them, so a
column somebody changed no longer gives the leaf in the tree. That also saves a third of the room. ``principal`` alone
says again what the rest says, for its index.

Bytes that could not be put together exactly (another writer's spelling) are kept as they are, behind a line feed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from bailiwick.evidence.events import NO_NETWORK, Actor, Detail, Event, Network, Outcome, Subject, encode, rfc3339
from bailiwick.kernel.db import Row, Transaction

COLUMNS = "zone, id, at, code, outcome, request_id, server, rest"
_VERBATIM = b"\n"


class _Rest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An event without what has a column; its members too stand in alphabetical order."""

    actor: Actor
    client_request_id: str = ""
    details: dict[str, Detail] = {}
    name: str
    network: Network = NO_NETWORK
    policy_set: str = ""
    reasons: tuple[str, ...] = ()
    simulated_clock: bool = False
    subject: Subject | None = None
    trace_id: str = ""
    v: int


_Part = msgspec.Raw | msgspec.UnsetType


class _Pieces(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The members of :class:`_Rest` as they are spelt: to put an event together nobody has to understand them."""

    actor: msgspec.Raw
    client_request_id: _Part = msgspec.UNSET
    details: _Part = msgspec.UNSET
    name: msgspec.Raw
    network: _Part = msgspec.UNSET
    policy_set: _Part = msgspec.UNSET
    reasons: _Part = msgspec.UNSET
    simulated_clock: _Part = msgspec.UNSET
    subject: _Part = msgspec.UNSET
    trace_id: _Part = msgspec.UNSET
    v: msgspec.Raw


class _Whole(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """An event of such pieces and of what its columns say, members in the order of :class:`Event`."""

    actor: msgspec.Raw
    at: str
    client_request_id: _Part = msgspec.UNSET
    code: str
    details: _Part = msgspec.UNSET
    id: str
    name: msgspec.Raw
    network: _Part = msgspec.UNSET
    outcome: str
    policy_set: _Part = msgspec.UNSET
    reasons: _Part = msgspec.UNSET
    request_id: str = ""
    server: str = ""
    simulated_clock: _Part = msgspec.UNSET
    subject: _Part = msgspec.UNSET
    trace_id: _Part = msgspec.UNSET
    v: msgspec.Raw
    zone: str


_encode_rest = msgspec.json.Encoder(order="deterministic").encode
_decode_pieces = msgspec.json.Decoder(_Pieces).decode


def rest_of(event: Event, event_id: UUID, at: datetime, request_id: UUID | None, body: bytes) -> bytes:
    """What the column ``rest`` holds of an event whose bytes are ``body``, the columns holding the other values."""
    if encode(event) != body or not _told_by_columns(event, event_id, at, request_id):
        return _VERBATIM + body
    return _encode_rest(
        _Rest(
            actor=event.actor,
            client_request_id=event.client_request_id,
            details=event.details,
            name=event.name,
            network=event.network,
            policy_set=event.policy_set,
            reasons=event.reasons,
            simulated_clock=event.simulated_clock,
            subject=event.subject,
            trace_id=event.trace_id,
            v=event.v,
        )
    )


def _told_by_columns(event: Event, event_id: UUID, at: datetime, request_id: UUID | None) -> bool:
    """Whether the columns' values are written as the event has them."""
    return (
        str(event_id) == event.id
        and (str(request_id) if request_id is not None else "") == event.request_id
        and rfc3339(at) == event.at
    )


def body_of(row: Mapping[str, Any] | Row) -> bytes:
    """The bytes of the event in a row with :data:`COLUMNS`. A row that was tampered with gives other bytes than were
    hashed, and never raises."""
    return body_from(
        row["zone"],
        row["id"],
        row["at"],
        row["code"],
        row["outcome"],
        row["request_id"],
        row["server"],
        bytes(row["rest"]),
    )


def body_from(
    zone: str,
    event_id: UUID,
    at: datetime,
    code: str,
    outcome: Outcome,
    request_id: UUID | None,
    server: str | None,
    rest: bytes,
) -> bytes:
    """:func:`body_of` for values in the order of :data:`COLUMNS`."""
    asked = str(request_id) if request_id is not None else ""
    return body_from_texts(zone, str(event_id), rfc3339(at), code, outcome, asked, server or "", rest)


TEXTS = (
    "id::text, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), code, outcome,"
    " coalesce(request_id::text, ''), coalesce(server, ''), rest"
)
"""The columns as the event writes them, for :func:`body_from_texts`: where there are millions, the server does it."""


def body_from_texts(
    zone: str, event_id: str, at: str, code: str, outcome: Outcome, request_id: str, server: str, rest: bytes
) -> bytes:
    """:func:`body_of` for values that are written already as the event has them."""
    if rest[:1] == _VERBATIM:
        return rest[1:]
    try:
        left = _decode_pieces(rest)
    except msgspec.MsgspecError:
        return rest
    return _encode_rest(
        _Whole(
            actor=left.actor,
            at=at,
            client_request_id=left.client_request_id,
            code=code,
            details=left.details,
            id=event_id,
            name=left.name,
            network=left.network,
            outcome=outcome,
            policy_set=left.policy_set,
            reasons=left.reasons,
            request_id=request_id,
            server=server,
            simulated_clock=left.simulated_clock,
            subject=left.subject,
            trace_id=left.trace_id,
            v=left.v,
            zone=zone,
        )
    )


async def read_bodies(tx: Transaction, zone: str, start: int, end: int) -> list[bytes]:
    """The bytes of the zone's events from ``start`` to before ``end`` in ledger order; fewer when some are not kept."""
    rows = await tx.all(
        f"SELECT {COLUMNS} FROM ledger.events WHERE zone = :zone AND seq >= :start AND seq < :end ORDER BY seq",  # noqa: S608
        zone=zone,
        start=start,
        end=end,
    )
    return [body_of(row) for row in rows]
