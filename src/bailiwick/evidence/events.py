"""The event: one line of evidence, final in form from the first day.

An event is encoded once, as canonical JSON (RFC 8785: sorted keys, no white space, no floats here), and those bytes are
what is hashed, stored and exported. The RFC 6962 leaf hash is ``SHA-256(0x00 || bytes)``.

Secrets cannot enter: the fields are typed, ``details`` holds only strings, integers, booleans and lists of strings,
and no field takes a token or a credential.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from bailiwick.evidence.codes import DECISIONS, EventType
from bailiwick.kernel import outbox
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.ids import Ids

Outcome = Literal["success", "failure", "allow", "deny", "error"]
Detail = str | int | bool | list[str]


# Fields stand in alphabetical order: msgspec writes them as declared, and RFC 8785 wants sorted keys.


class Actor(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who acted, as a chain: the user, through an application, in a session, under a mandate."""

    application: str = ""
    delegation: str = ""
    mandate: str = ""
    session: str = ""
    user: str = ""


class Network(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the request came from."""

    ip: str = ""
    user_agent: str = ""


NO_NETWORK = Network()
"""One object for all: a field is left out when its value *is* the default, not when it equals it."""


class Subject(msgspec.Struct, frozen=True):
    """What was acted upon, for example ``Subject(id="jane.doe", type="user")``."""

    id: str
    type: str


class Event(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One event. ``at`` is RFC 3339 UTC with microseconds; ids are UUIDv7; ``code`` is stable (``codes.py``)."""

    actor: Actor
    at: str
    client_request_id: str = ""
    code: str
    details: dict[str, Detail] = {}
    id: str
    name: str
    network: Network = NO_NETWORK
    outcome: Outcome
    policy_set: str = ""
    reasons: tuple[str, ...] = ()
    request_id: str = ""
    server: str = ""
    simulated_clock: bool = False
    subject: Subject | None = None
    trace_id: str = ""
    v: int
    zone: str

    @property
    def decision_id(self) -> str:
        """The id of the decision that this event records, empty when it records none."""
        return self.id if self.code in DECISIONS else ""

    @property
    def principal(self) -> str:
        """Who an index files this under: the user if there is one, else the application."""
        return self.actor.user or self.actor.application


VERSION = 1
_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """The canonical bytes of an event. NUL characters, which no column can hold, become U+FFFD."""
    body = _encoder.encode(event)
    if b"\\u0000" in body:
        body = _encoder.encode(msgspec.convert(_without_nul(msgspec.to_builtins(event)), Event))
    return body


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nul(item) for item in value]
    return value


def decode(body: bytes) -> Event:
    """The event of canonical bytes; raises ``msgspec.DecodeError`` or ``ValidationError`` for anything else."""
    return _decoder.decode(body)


def leaf_hash(body: bytes) -> bytes:
    """RFC 6962 leaf hash of an event's canonical bytes."""
    return hashlib.sha256(b"\x00" + body).digest()


def rfc3339(moment: datetime) -> str:
    """UTC with microseconds and ``Z``, always 27 characters, so that text order is time order."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


class Context(msgspec.Struct, frozen=True):
    """What a request knows about itself, carried by every event made on its behalf."""

    zone: str
    actor: Actor = Actor()
    network: Network = Network()
    request_id: str = ""
    client_request_id: str = ""
    trace_id: str = ""


class Recorder:
    """Makes events and leaves them in the outbox of the caller's transaction."""

    def __init__(self, clock: Clock, ids: Ids) -> None:
        self._clock = clock
        self._ids = ids
        self._second = -1
        self._prefix = ""

    def now(self) -> str:
        """The current instant as :func:`rfc3339` writes it; the date is formatted once a second."""
        micros = int(self._clock.time() * 1e6)
        second, fraction = divmod(micros, 1_000_000)
        if second != self._second:
            self._second, self._prefix = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._prefix}.{fraction:06d}Z"

    def make(
        self,
        kind: EventType,
        outcome: Outcome,
        context: Context,
        /,
        *,
        subject: Subject | None = None,
        server: str = "",
        policy_set: str = "",
        reasons: tuple[str, ...] = (),
        **details: Detail,
    ) -> Event:
        """An event of ``kind`` that happened now, on behalf of ``context``."""
        return Event(
            actor=context.actor,
            at=self.now(),
            client_request_id=context.client_request_id,
            code=kind.code,
            details=details,
            id=self._ids(),
            name=kind.name,
            network=context.network,
            outcome=outcome,
            policy_set=policy_set,
            reasons=reasons,
            request_id=context.request_id,
            server=server,
            simulated_clock=self._clock.simulated,
            subject=subject,
            trace_id=context.trace_id,
            v=VERSION,
            zone=context.zone,
        )

    async def record(
        self,
        tx: Transaction,
        kind: EventType,
        outcome: Outcome,
        context: Context,
        /,
        *,
        subject: Subject | None = None,
        server: str = "",
        reasons: tuple[str, ...] = (),
        policy_set: str = "",
        **details: Detail,
    ) -> Event:
        """Make an event and put it in the outbox: it exists if and only if the caller's transaction commits."""
        event = self.make(
            kind,
            outcome,
            context,
            subject=subject,
            server=server,
            policy_set=policy_set,
            reasons=reasons,
            **details,
        )
        await self.put(tx, event)
        return event

    async def put(self, tx: Transaction, event: Event) -> None:
        """Put an event that was made before in the outbox."""
        await outbox.put(tx, event.zone, encode(event))
