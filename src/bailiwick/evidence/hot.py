"""The statements that look for events in the ledger's table.

Within a zone the sequence and the time of recording grow together, the time of the event nearly so: it comes at most
:data:`_SKEW` after its recording, and may come long before (a worker whose database was away). So a stretch of time is
read as three parts in the order of the sequence: what was recorded up to a day before it, the stretch itself in steps
that grow, and what was recorded after it. The outer two hold strays, which the BRIN index finds; the inner one is read
in the order asked for until there is enough. Left to itself the planner would walk past millions of newer events.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from sqlalchemy.exc import DBAPIError

from bailiwick.evidence.codes import DECISIONS
from bailiwick.evidence.cold import too_expensive
from bailiwick.evidence.query import Contains, Filter, Order, codes_named, contents, quoted, subject_key
from bailiwick.evidence.stored import COLUMNS
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import InvalidRequest

_SKEW = timedelta(days=1)
_STEP = timedelta(hours=12)
_EQUAL = ("code", "outcome", "principal", "server", "request_id")
_ROW = f"seq, recorded_at, {COLUMNS}"
_QUERY_CANCELED = "57014"
_SAID = "concat_ws(' ', encode(rest, 'escape'), zone, id, code, outcome, request_id, server)"
_LEAF = (
    "(SELECT substring(h.hashes FROM CAST((found.seq - h.first) * 32 + 1 AS int) FOR 32) FROM ledger.hashes h"
    " WHERE h.zone = :zone AND h.level = 0 AND h.first <= found.seq ORDER BY h.first DESC LIMIT 1)"
)


class Budget:
    """How long the statements of one query may take together."""

    def __init__(self, seconds: float) -> None:
        self._end = monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left; raises ``query_too_expensive`` when none are."""
        left = self._end - monotonic()
        if left <= 0:
            raise too_expensive()
        return left

    @asynccontextmanager
    async def within(self, tx: Transaction, *, strays: bool = False) -> AsyncIterator[None]:
        """Statements inside end with what is left. ``strays``: they look for a few rows among very many."""
        await tx.run(
            "SELECT set_config('statement_timeout', :ms, true), set_config('enable_seqscan', :seqscan, true)",
            ms=str(max(1, int(self.left() * 1000))),
            seqscan="off" if strays else "on",
        )
        try:
            yield
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == _QUERY_CANCELED:
                raise too_expensive() from None
            raise


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of recording time, ``start`` inclusive, ``end`` exclusive, None for no bound."""

    start: datetime | None
    end: datetime | None
    strays: bool = False


async def find(
    tx: Transaction, zone: str, wanted: Filter, order: Order, after: int | None, limit: int, budget: Budget
) -> list[Row]:
    """Rows (``seq, recorded_at`` and what ``body_of`` takes) of at most ``limit`` events behind ``after``, in order."""
    if wanted.request_id or wanted.decision_id or wanted.event_id:
        return await _select(tx, zone, wanted, order, after, limit, Span(None, None, strays=True), budget)
    found: list[Row] = []
    for span in await spans(tx, zone, wanted, order, after, budget):
        # what is behind the last one in a span before stays behind it
        found += await _select(tx, zone, wanted, order, after, limit - len(found), span, budget)
        if len(found) >= limit:
            break
    return found


async def spans(
    tx: Transaction, zone: str, wanted: Filter, order: Order, after: int | None, budget: Budget
) -> list[Span]:
    """The stretches of recording time to be read, one after the other."""
    bounds = await _recorded(tx, zone, order, after, budget)
    if bounds is None:
        return []
    return spans_between(*bounds, wanted.since, wanted.until, order)


def spans_between(
    oldest: datetime, newest: datetime, since: datetime | None, until: datetime | None, order: Order
) -> list[Span]:
    """The same for events recorded from ``oldest`` to ``newest``."""
    if since is not None and until is not None and since >= until:
        return []
    first, last = _floor(oldest), _floor(newest) + _STEP
    parts: list[Span] = []
    start, end = first, last
    if since is not None and _floor(since) > first:
        start = _floor(since)
        if start - _SKEW < last:
            parts.append(Span(max(first, start - _SKEW), min(start, last), strays=True))
    if until is not None and _floor(until) + _STEP < last:
        end = max(first, _floor(until) + _STEP)
    middle: list[Span] = []
    length = _STEP
    while start < end:
        if order == "newest":
            middle.append(Span(max(start, end - length), end))
            end -= length
        else:
            middle.append(Span(start, min(end, start + length)))
            start += length
        length *= 2
    if order == "newest":
        middle.reverse()
    parts += middle
    if until is not None and _floor(until) + _STEP < last:
        parts.append(Span(max(first, _floor(until) + _STEP), last, strays=True))
    return parts[::-1] if order == "newest" else parts


async def _recorded(
    tx: Transaction, zone: str, order: Order, after: int | None, budget: Budget
) -> tuple[datetime, datetime] | None:
    """When the first and the last of the events behind ``after`` were recorded."""
    behind = "" if after is None else " AND seq < :after" if order == "newest" else " AND seq > :after"
    values: dict[str, Any] = {"zone": zone} if after is None else {"zone": zone, "after": after}
    async with budget.within(tx):
        row = await tx.one(
            "SELECT (SELECT recorded_at FROM ledger.events WHERE zone = :zone"  # noqa: S608 - fixed parts
            f"{behind} ORDER BY seq LIMIT 1) AS oldest,"
            f" (SELECT recorded_at FROM ledger.events WHERE zone = :zone{behind} ORDER BY seq DESC LIMIT 1) AS newest",
            **values,
        )
    if row is None or row["oldest"] is None:
        return None
    oldest, newest = row["oldest"].astimezone(UTC), row["newest"].astimezone(UTC)
    return min(oldest, newest), max(oldest, newest)


async def _select(
    tx: Transaction, zone: str, wanted: Filter, order: Order, after: int | None, limit: int, span: Span, budget: Budget
) -> list[Row]:
    where, values = conditions(wanted, span)
    if after is not None:
        where.append("seq < :after" if order == "newest" else "seq > :after")
        values["after"] = after
    direction = "DESC" if order == "newest" else "ASC"
    selected = f"SELECT {_ROW} FROM ledger.events WHERE {' AND '.join(['zone = :zone', *where])}"  # noqa: S608
    # a fence keeps the planner from walking along the sequence to reach the limit; of how many events have a subject it
    # knows nothing
    fenced = span.strays or subject_key(wanted) is not None
    if fenced:
        selected = f"SELECT * FROM ({selected} OFFSET 0) AS strays"  # noqa: S608
    async with budget.within(tx, strays=fenced):
        return list(await tx.all(f"{selected} ORDER BY seq {direction} LIMIT :limit", zone=zone, limit=limit, **values))


async def counts(
    tx: Transaction, zone: str, wanted: Filter, columns: Sequence[str], span: Span, budget: Budget
) -> list[tuple[int, str | None, int]]:
    """How often each value of each column occurs in a span, as (index of the column, value, count)."""
    where, values = conditions(wanted, span)
    sets = ", ".join(f"({column})" for column in columns)
    which = " ".join(f"WHEN GROUPING({column}) = 0 THEN {index}" for index, column in enumerate(columns))
    value = " ".join(f"WHEN GROUPING({column}) = 0 THEN {column}" for column in columns)
    async with budget.within(tx, strays=span.strays):
        rows = await tx.all(
            f"SELECT CASE {which} END AS facet, CASE {value} END AS value, count(*) AS count FROM ledger.events"  # noqa: S608
            f" WHERE {' AND '.join(['zone = :zone', *where])} GROUP BY GROUPING SETS ({sets})",
            zone=zone,
            **values,
        )
    return [(row["facet"], row["value"], row["count"]) for row in rows]


async def leaves(tx: Transaction, zone: str, seqs: Sequence[int]) -> dict[int, bytes]:
    """The leaf hashes that the tree has in these places, which is what bodies are held against."""
    rows = await tx.all(
        f"SELECT found.seq, {_LEAF} AS leaf FROM unnest(CAST(:seqs AS bigint[])) AS found (seq)",  # noqa: S608
        zone=zone,
        seqs=list(seqs),
    )
    return {row["seq"]: bytes(row["leaf"] or b"") for row in rows}


async def behind(tx: Transaction, zones: Sequence[str], after: Sequence[int], limit: int) -> list[Row]:
    """The next events of each zone behind its place, rows as :func:`find` has them, at most ``limit`` a zone."""
    following = f"SELECT {_ROW} FROM ledger.events WHERE zone = w.zone AND seq > w.after ORDER BY seq LIMIT :limit"  # noqa: S608
    rows = await tx.all(
        "SELECT e.* FROM unnest(CAST(:zones AS text[]), CAST(:after AS bigint[])) AS w (zone, after)"  # noqa: S608
        f" CROSS JOIN LATERAL ({following}) e ORDER BY e.zone, e.seq",
        zones=list(zones),
        after=list(after),
        limit=limit,
    )
    return list(rows)


# ---------------------------------------------------------------------- conditions


def conditions(wanted: Filter, span: Span) -> tuple[list[str], dict[str, Any]]:
    """The filter and the span as conditions and their values."""
    where: list[str] = []
    values: dict[str, Any] = {}

    def put(value: Any) -> str:
        values[f"v{len(values)}"] = value
        return f":v{len(values) - 1}"

    columns = {key: getattr(wanted, key) for key in _EQUAL} | {"id": wanted.event_id}
    where += [f"{column} = {put(value)}" for column, value in columns.items() if value]
    if wanted.decision_id:
        where.append(f"id = {put(wanted.decision_id)} AND code = ANY({put(list(DECISIONS))})")
    if wanted.user and not wanted.principal:
        where.append(f"principal = {put(wanted.user)}")  # the user comes first in it, and it has an index
    if wanted.name:
        where.append(f"code = ANY({put(codes_named(wanted.name))})")
    if wanted.since:
        where.append(f"at >= {put(wanted.since)}")
    if wanted.until:
        where.append(f"at < {put(wanted.until)}")
    if span.start:
        where.append(f"recorded_at >= {put(span.start)}")
    if span.end:
        where.append(f"recorded_at < {put(span.end)}")
    if (key := subject_key(wanted)) is not None:
        hashed = f"pg_catalog.hashtext(pg_catalog.encode(CAST({put(key.encode())} AS bytea), 'escape'))"
        where.append(f"ledger.subject_hash(rest) = {hashed}")
    for each in contents(wanted):
        where += _contains(each, put)
    if wanted.text:
        where.append(_text(wanted.text, put))
    return where, values


def _contains(each: Contains, put: Any) -> list[str]:
    needles = [f"CAST({put(needle.encode())} AS bytea)" for needle in each.needles]
    anywhere = " OR ".join(f"position({needle} IN rest) > 0" for needle in needles)
    if not each.start:
        return [f"({anywhere})"]
    start, end = (f"CAST({put(mark.encode())} AS bytea)" for mark in (each.start, each.end))
    tail = f"substring(rest FROM nullif(position({start} IN rest), 0))"
    part = f"substring({tail} FROM 1 FOR position({end} IN {tail}))"
    inside = " OR ".join(f"position({needle} IN {part}) > 0" for needle in needles)
    return [f"({anywhere})", f"({inside})"]


def _text(wanted: str, put: Any) -> str:
    """Text in what an event says, its bytes in their escaped form, which any have: damaged ones end no search."""
    spelled = quoted(wanted)[1:-1]
    if spelled.isascii():
        escaped = spelled.replace("\\", "\\\\")  # as encode() writes a backslash
        pattern = escaped.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        return f'{_SAID} COLLATE "C" ILIKE {put(f"%{pattern}%")}'
    return f'{_SAID} COLLATE "C" ~* {put("".join(_either(character) for character in spelled))}'


def _either(character: str) -> str:
    """A regular expression for a character in either case, as encode() writes its bytes."""
    if character.isascii():
        if character == "\\":
            return "[\\\\]{2}"
        return character if character.isalnum() else f"\\x{ord(character):02x}" if character != " " else " "
    forms = dict.fromkeys((character, character.lower(), character.upper()))
    octal = ("".join(f"[\\\\]{byte:03o}" for byte in form.encode()) for form in forms if len(form) == 1)
    return f"(?:{'|'.join(octal)})"


def _floor(moment: datetime) -> datetime:
    seconds = int(moment.timestamp()) // int(_STEP.total_seconds()) * int(_STEP.total_seconds())
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest("The time is out of range.") from None
