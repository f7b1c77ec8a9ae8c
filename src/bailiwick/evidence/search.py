"""Finding evidence: events by filter, the story of one request, one decision with its input, dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from bailiwick.evidence.codes import DECISIONS, EVENT_TYPES
from bailiwick.evidence.events import Event, decode, leaf_hash
from bailiwick.evidence.inputs import DETAIL, input_aad
from bailiwick.evidence.stored import COLUMNS, body_of
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import NotFound

Order = Literal["newest", "oldest"]
# the leaf hash as the tree has it, which is what the body is held against
_ROW = (
    f"seq, recorded_at, {COLUMNS},"  # noqa: S608 - fixed parts
    " (SELECT substring(h.hashes FROM CAST((events.seq - h.first) * 32 + 1 AS int) FOR 32)"
    " FROM ledger.hashes h WHERE h.zone = events.zone AND h.level = 0 AND h.first <= events.seq"
    " ORDER BY h.first DESC LIMIT 1) AS leaf"
)
# all that an event says, wherever it stands
_TEXT = "concat_ws(' ', convert_from(rest, 'UTF8'), zone, id, code, outcome, request_id, server)"


@dataclass(frozen=True, slots=True)
class Filter:
    """What is looked for; an empty or missing part does not restrict.

    ``name`` may end in ``*`` (``auth.*``). ``since`` is inclusive, ``until`` exclusive, both against the time of the
    event. ``text`` is looked for anywhere in the event, whatever its case.
    """

    code: str = ""
    name: str = ""
    outcome: str = ""
    principal: str = ""
    server: str = ""
    request_id: UUID | None = None
    decision_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""

    def described(self) -> str:
        """The filter as the event of the query names it."""
        parts = []
        for key in self.__slots__:
            value = getattr(self, key)
            if value:
                parts.append(f"{key}={value.isoformat() if isinstance(value, datetime) else value}")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in its place in the ledger."""

    seq: int
    recorded_at: datetime
    leaf: bytes
    body: bytes

    @property
    def event(self) -> Event:
        """The event; raises ``msgspec.MsgspecError`` when the stored bytes were damaged."""
        return decode(self.body)

    def to_json(self) -> dict[str, Any]:
        """The entry as plain values. ``intact`` says whether the bytes are those that were hashed."""
        try:
            event: Any = msgspec.json.decode(self.body)
        except msgspec.MsgspecError:
            event = None
        return {
            "seq": self.seq,
            "recorded_at": self.recorded_at.astimezone(UTC).isoformat(),
            "leaf": self.leaf.hex(),
            "intact": leaf_hash(self.body) == self.leaf,
            "event": event,
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision as recorded. ``input_state``: ``present`` (then ``input`` holds its bytes), ``expired`` (no longer, or
    not yet, kept), ``sealed`` (its key is not available), ``none`` (the event names no input)."""

    entry: Entry
    input: bytes | None
    input_state: Literal["present", "expired", "sealed", "none"]


class Search:
    """Reads the ledger. Callers record that they did (``audit.read``) in the same transaction.

    Without a ``sealer`` decision inputs stay sealed.
    """

    def __init__(self, database: Database, sealer: Sealer | None) -> None:
        self._database = database
        self._sealer = sealer

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer

    async def events(
        self, tx: Transaction, zone: str, wanted: Filter, *, order: Order = "newest", after: int | None, limit: int
    ) -> list[Entry]:
        """Events in ledger order, from behind sequence number ``after`` on, at most ``limit``."""
        where, values = _conditions(wanted)
        if after is not None:
            where.append("seq < :after" if order == "newest" else "seq > :after")
            values["after"] = after
        # without bounds a text nobody wrote would be looked for in every event there is
        await tx.run("SET LOCAL statement_timeout = '10s'")
        rows = await tx.all(
            f"SELECT {_ROW} FROM ledger.events WHERE {' AND '.join(['zone = :zone', *where])}"  # noqa: S608 - fixed parts
            f" ORDER BY seq {'DESC' if order == 'newest' else 'ASC'} LIMIT :limit",
            zone=zone,
            limit=limit,
            **values,
        )
        return [_entry(row) for row in rows]

    async def event(self, tx: Transaction, zone: str, event_id: UUID) -> Entry:
        """One event; raises :class:`NotFound`."""
        row = await tx.one(
            f"SELECT {_ROW} FROM ledger.events WHERE id = :id AND zone = :zone ORDER BY seq LIMIT 1",  # noqa: S608
            id=event_id,
            zone=zone,
        )
        if row is None:
            raise NotFound("There is no event by that id.")
        return _entry(row)

    async def request(self, tx: Transaction, zone: str, request_id: UUID) -> dict[str, Any]:
        """Everything known about one request, in the order it happened; raises :class:`NotFound` for nothing.

        ``timeline`` holds ``{"at", "kind": "event", …}`` and ``{"at", "kind": "answer", …}`` entries.
        """
        events = await tx.all(
            f"SELECT {_ROW} FROM ledger.events WHERE request_id = :id AND zone = :zone ORDER BY at, seq",  # noqa: S608
            id=request_id,
            zone=zone,
        )
        answers = await tx.all(
            "SELECT at, caller, method, route, status, duration_us, ip FROM api_requests"
            " WHERE request_id = :id AND zone = :zone ORDER BY at",
            id=str(request_id),
            zone=zone,
        )
        if not events and not answers:
            raise NotFound("Nothing is known about a request by that id.")
        timeline: list[dict[str, Any]] = []
        for row in events:
            entry = _entry(row).to_json()
            at = entry["event"]["at"] if entry["event"] else entry["recorded_at"]
            timeline.append({"at": at, "kind": "event", **entry})
        for row in answers:
            at = row["at"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            timeline.append({"kind": "answer", **row, "at": at})
        # an answer is noted when it has left, so at the same instant it comes last
        timeline.sort(key=lambda item: (item["at"], item["kind"] == "answer"))
        return {"request_id": str(request_id), "timeline": timeline}

    async def find_decision(self, zone: str, decision_id: UUID) -> Decision | None:
        """The event of a decision and the input it was made from, None when the ledger has no such decision."""
        async with self._database.begin() as tx:
            row = await tx.one(
                f"SELECT {_ROW} FROM ledger.events WHERE id = :id AND zone = :zone AND code = ANY(:codes)"  # noqa: S608
                " ORDER BY seq LIMIT 1",
                id=decision_id,
                zone=zone,
                codes=list(DECISIONS),
            )
            if row is None:
                return None
            entry = _entry(row)
            digest = str(entry.event.details.get(DETAIL, ""))
            if not digest:
                return Decision(entry, None, "none")
            sealed = await tx.value(
                "SELECT sealed FROM decision_inputs WHERE zone = :zone AND digest = :digest", zone=zone, digest=digest
            )
        if sealed is None:
            return Decision(entry, None, "expired")
        if self._sealer is None:
            return Decision(entry, None, "sealed")
        try:
            return Decision(entry, self._sealer.open(bytes(sealed), input_aad(zone, digest)), "present")
        except SealError:
            return Decision(entry, None, "sealed")

    async def issued_by_key(self, zone: str, code: str, kid: str, since: float) -> Sequence[Event]:
        """Events of ``code`` whose details name ``kid``, not older than ``since`` (epoch seconds), oldest first."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                f"SELECT {_ROW} FROM ledger.events WHERE zone = :zone AND code = :code AND at >= :since ORDER BY seq",  # noqa: S608
                zone=zone,
                code=code,
                since=datetime.fromtimestamp(since, UTC),
            )
        events = [_entry(row).event for row in rows]
        return [event for event in events if event.details.get("kid") == kid]

    async def dead_letters(self, tx: Transaction, zone: str, *, after: int | None, limit: int) -> list[dict[str, Any]]:
        """What could not be sequenced, newest first. Frames too damaged to tell their zone show in the default zone."""
        rows = await tx.all(
            "SELECT id, source, segment, position, zone, reason, size, encode(sha256(frame), 'hex') AS sha256, at"
            " FROM ledger.dead_letters"
            " WHERE (zone = :zone"
            "  OR (:default AND NOT EXISTS (SELECT FROM zones WHERE zones.name = dead_letters.zone)))"
            " AND (CAST(:after AS bigint) IS NULL OR id < :after) ORDER BY id DESC LIMIT :limit",
            zone=zone,
            default=zone == "default",
            after=after,
            limit=limit,
        )
        return [{**row, "at": row["at"].astimezone(UTC).isoformat()} for row in rows]


def _conditions(wanted: Filter) -> tuple[list[str], dict[str, Any]]:
    where: list[str] = []
    values: dict[str, Any] = {}
    for key in ("code", "outcome", "principal", "server", "request_id"):
        value = getattr(wanted, key)
        if value:
            where.append(f"{key} = :{key}")
            values[key] = value
    if wanted.decision_id:
        where.append("id = :decision AND code = ANY(:decisions)")
        values |= {"decision": wanted.decision_id, "decisions": list(DECISIONS)}
    if wanted.name:
        codes = codes_named(wanted.name)
        where.append("code = ANY(:codes)")
        values["codes"] = codes
    if wanted.since:
        where.append("at >= :since")
        values["since"] = wanted.since
    if wanted.until:
        where.append("at < :until")
        values["until"] = wanted.until
    if wanted.text:
        where.append(_TEXT + " ILIKE :text")
        escaped = wanted.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        values["text"] = f"%{escaped}%"
    return where, values


def codes_named(pattern: str) -> list[str]:
    """The codes of the events called ``pattern``, which may end in ``*``."""
    if pattern.endswith("*"):
        return [kind.code for kind in EVENT_TYPES.values() if kind.name.startswith(pattern[:-1])]
    return [kind.code for kind in EVENT_TYPES.values() if kind.name == pattern]


def _entry(row: Row) -> Entry:
    return Entry(row["seq"], row["recorded_at"], bytes(row["leaf"] or b""), body_of(row))
