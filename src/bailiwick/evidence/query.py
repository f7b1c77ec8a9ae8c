"""What a search asks: the filter, moments in time, and cursors. Nothing here reads anything.

An event's fields that are no columns are looked for in its canonical bytes, whole (the archive, a tail) or without the
members that have columns (the table, ``evidence/stored.py``). Canonical JSON has one spelling of every event and
escapes each quote inside a string, so ``"session":"…"`` within the part that is the actor is the actor's session and
nothing else: no JSON needs to be parsed in the database, and a damaged event cannot break a search.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec

from bailiwick.evidence.codes import EVENT_TYPES
from bailiwick.evidence.events import Event
from bailiwick.kernel.errors import InvalidRequest
from bailiwick.kernel.http import decode_cursor, encode_cursor

Order = Literal["newest", "oldest"]
RELATIVE = r"-\d{1,6}[smhdw]"
INSTANT_PATTERN = rf"^(now|{RELATIVE}|\d{{4}}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{{1,9}})?([Zz]|[+-]\d\d:\d\d))$"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
_EPOCH = _EARLIEST
_NONE = -1


@dataclass(frozen=True, slots=True)
class About:
    """Something that events may be about: it is their subject, or one of :data:`ACTING` and acted or was reached.

    ``owner``: the user whose session it is, where that is known; his events have an index.
    """

    kind: str
    id: str
    owner: str = ""


ACTING = ("user", "application", "session", "delegation", "mandate", "server")


@dataclass(frozen=True, slots=True)
class Filter:
    """What is looked for; an empty or missing part does not restrict.

    ``name`` may end in ``*`` (``auth.*``). ``principal`` is whom an event is filed under: the user, else the
    application. ``since`` is inclusive, ``until`` exclusive, both against the time of the event. ``text`` is looked for
    anywhere in the event, whatever its case.
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
    user: str = ""
    application: str = ""
    session: str = ""
    delegation: str = ""
    mandate: str = ""
    subject_type: str = ""
    subject_id: str = ""
    ip: str = ""
    reason: str = ""
    trace_id: str = ""
    client_request_id: str = ""
    event_id: UUID | None = None
    about: About | None = None

    def described(self) -> str:
        """The filter as the event of the query names it."""
        parts = []
        for each in fields(self):
            value = getattr(self, each.name)
            if value:
                if isinstance(value, datetime):
                    value = value.isoformat()
                elif isinstance(value, About):
                    value = f"{value.kind}/{value.id}"
                parts.append(f"{each.name}={value}")
        return " ".join(parts)

    def alternatives(self) -> list[Filter]:
        """Filters without ``about`` that together find what this one finds, each able to use an index of its own."""
        if self.about is None:
            return [self]
        about, plain = self.about, replace(self, about=None)
        made = [replace(plain, subject_type=about.kind, subject_id=about.id)]
        if about.kind in ACTING:
            acting: dict[str, Any] = {about.kind: about.id}
            if about.owner:
                acting["user"] = about.owner
            made.append(replace(plain, **acting))
        return made


def codes_named(pattern: str) -> list[str]:
    """The codes of the events called ``pattern``, which may end in ``*``."""
    if pattern.endswith("*"):
        return [kind.code for kind in EVENT_TYPES.values() if kind.name.startswith(pattern[:-1])]
    return [kind.code for kind in EVENT_TYPES.values() if kind.name == pattern]


# ---------------------------------------------------------------------- the event's bytes


@dataclass(frozen=True, slots=True)
class Contains:
    """One of ``needles`` stands in the event's bytes; with ``start``, from there to the first character of the next
    ``end``."""

    needles: tuple[str, ...]
    start: str = ""
    end: str = ""

    def holds(self, body: str) -> bool:
        """Whether it does in this event."""
        if self.start:
            at = body.find(self.start)
            if at < 0:
                return False
            body = body[at : body.find(self.end, at) + 1]
        return any(needle in body for needle in self.needles)


def quoted(value: str) -> str:
    """The value as a string of canonical JSON, in its quotes."""
    return msgspec.json.encode(value).decode()


def subject_key(wanted: Filter) -> str | None:
    """What ``ledger.subject_hash`` hashes of an event with the wanted subject, None unless both its parts are."""
    if not (wanted.subject_id and wanted.subject_type):
        return None
    return f'"subject":{{"id":{quoted(wanted.subject_id)},"type":{quoted(wanted.subject_type)}'


def contents(wanted: Filter) -> list[Contains]:
    """What the event's bytes must contain for the parts of ``wanted`` that have no column."""
    found = [
        Contains((f'"{field}":{quoted(value)}',), '{"actor":{"', '"},"')
        for field in ("application", "delegation", "mandate", "session", "user")
        if (value := getattr(wanted, field))
    ]
    if wanted.subject_id and wanted.subject_type:
        found.append(Contains((f"{subject_key(wanted)}}}",)))
    elif wanted.subject_id:
        found.append(Contains((f'"subject":{{"id":{quoted(wanted.subject_id)},',)))
    elif wanted.subject_type:
        found.append(Contains((f',"type":{quoted(wanted.subject_type)}',), '"subject":{"id":', '},"'))
    if wanted.ip:
        found.append(Contains((f'"network":{{"ip":{quoted(wanted.ip)}',)))
    if wanted.reason:
        reason = quoted(wanted.reason)
        found.append(Contains((f"[{reason}", f",{reason}"), '"reasons":["', '],"'))
    if wanted.trace_id:
        found.append(Contains((f',"trace_id":{quoted(wanted.trace_id)},"v":',)))
    if wanted.client_request_id:
        member = f'"client_request_id":{quoted(wanted.client_request_id)},'
        found.append(Contains((f"}},{member}", f',{member}"code":"BW')))  # behind the actor, or the time
    return found


def matcher(wanted: Filter) -> Callable[[Event, bytes], bool]:
    """A function that says whether an event with its bytes is what ``wanted`` looks for, as the database would."""
    if wanted.about is not None:
        each = [matcher(alternative) for alternative in wanted.alternatives()]
        return lambda event, body: any(one(event, body) for one in each)
    named = frozenset(codes_named(wanted.name)) if wanted.name else None
    within = contents(wanted)
    since = _stamp(wanted.since)
    until = _stamp(wanted.until)
    text = quoted(wanted.text)[1:-1].lower()
    request_id, decision_id, event_id = (
        str(value or "") for value in (wanted.request_id, wanted.decision_id, wanted.event_id)
    )

    def matches(event: Event, body: bytes) -> bool:
        if (
            (wanted.code and event.code != wanted.code)
            or (named is not None and event.code not in named)
            or (wanted.outcome and event.outcome != wanted.outcome)
            or (wanted.principal and event.principal != wanted.principal)
            or (wanted.server and event.server != wanted.server)
            or (request_id and event.request_id != request_id)
            or (decision_id and event.decision_id != decision_id)
            or (event_id and event.id != event_id)
            or (since and event.at < since)
            or (until and event.at >= until)
        ):
            return False
        if not within and not text:
            return True
        spelled = body.decode("utf-8", "replace")
        return all(each.holds(spelled) for each in within) and (not text or text in spelled.lower())

    return matches


def _stamp(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment is not None else ""


# ---------------------------------------------------------------------- moments


def instant(text: str, now: datetime) -> datetime:
    """The moment that ``text`` names: ``now``, ``-90m`` (s, m, h, d, w before ``now``) or RFC 3339 with an offset.

    Raises :class:`InvalidRequest`.
    """
    wrong = InvalidRequest(
        "A moment is RFC 3339 with an offset (2026-01-31T12:00:00Z), `now`, or relative: -90m, -24h, -7d."
    )
    if not re.fullmatch(INSTANT_PATTERN.strip("^$"), text, re.ASCII):
        raise wrong
    try:
        if text == "now":
            moment = now
        elif text.startswith("-"):
            moment = now - timedelta(**{_UNITS[text[-1]]: int(text[1:-1])})
        else:
            moment = datetime.fromisoformat(_to_micros(text.upper())).astimezone(UTC)
    except (ValueError, OverflowError):
        raise wrong from None
    if not _EARLIEST <= moment < _LATEST:
        raise wrong
    return moment


def _to_micros(text: str) -> str:
    return re.sub(r"(\.\d{6})\d+", r"\1", text)  # what is finer than a microsecond the ledger does not tell apart


# ---------------------------------------------------------------------- cursors


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended, and the moments its query meant: the next page means the same ones."""

    after: int
    since: datetime | None
    until: datetime | None


def fingerprint(zone: str, order: str, asked: Sequence[tuple[str, str]]) -> str:
    """What binds a cursor to its query: the zone, the order and each parameter as it was sent."""
    text = "\x00".join([zone, order, *(f"{name}={value}" for name, value in sorted(asked) if value)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def place_to_cursor(order: Order, print_: str, place: Place) -> str:
    """The cursor of the page behind ``place``."""
    return encode_cursor(order, print_, place.after, _micros(place.since), _micros(place.until))


def cursor_to_place(cursor: str, order: Order, print_: str) -> Place:
    """What a cursor says; raises :class:`InvalidRequest` for one of another query, or none of ours."""
    kind, of, after, since, until = decode_cursor(cursor, (str, str, int, int, int))
    if kind != order or of != print_ or not 0 <= after < 1 << 62:
        raise InvalidRequest("The cursor belongs to another query.")
    return Place(after, _moment(since), _moment(until))


def _micros(moment: datetime | None) -> int:
    return _NONE if moment is None else (moment - _EPOCH) // timedelta(microseconds=1)


def _moment(micros: int) -> datetime | None:
    if micros == _NONE:
        return None
    if not 0 <= micros < (_LATEST - _EPOCH) // timedelta(microseconds=1):
        raise InvalidRequest("The cursor is not one this endpoint gave.")
    return _EPOCH + timedelta(microseconds=micros)
