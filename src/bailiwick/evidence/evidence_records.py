"""Evidence records: what a probe found or a person stated, addressed by its content.

A *probe* is a command or a check that was run: what it was asked, its exit code, what it wrote, and between which two
instants. An *attestation* is a person's statement where no probe can look. A record's id is the SHA-256 of its
canonical JSON (RFC 8785), which names the output by its own SHA-256; outputs are stored once per hash, redacted and
at most 1 MiB. Both are only ever added to. Each recording leaves an ``evidence.recorded`` event that carries the id,
so the record stands in the ledger: no other can take its place.

A probe's verdict is what its exit code says, and nobody else's to say: a PASS without a run cannot be written down.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Literal

import msgspec

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject, rfc3339
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import InvalidRequest, NotFound
from bailiwick.kernel.redaction import REDACTED, is_telling, scrub
from bailiwick.kernel.verdicts import Verdict

RecordKind = Literal["probe", "attestation"]
Value = str | int | bool

MOST_OUTPUT = 1 << 20
MOST_READ = 2 * MOST_OUTPUT
SUBJECT_PATTERN = r"^[a-z0-9][a-z0-9._/-]{0,127}$"
INPUT_PATTERN = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
_MOST_INPUTS, _MOST_VALUE, _MOST_WORDS, _MOST_WORD = 64, 2000, 256, 4096
_SAFE_INTEGER = (1 << 53) - 1  # beyond it RFC 8785 numbers lose digits
_OPTION = re.compile(r"--?([A-Za-z][A-Za-z0-9_-]*)")

# Fields stand in alphabetical order, as in an event.


class Output(msgspec.Struct, frozen=True):
    """What was written: how many bytes there were, and the hash of what is kept of them (see :func:`kept_output`)."""

    bytes: int
    sha256: str
    truncated: bool


class Producer(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Who made the record: the person or application, with which program of which version, on which machine."""

    host: str = ""
    name: str
    program: str
    version: str


class EvidenceRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One record. Times are RFC 3339 UTC with microseconds. ``check`` names what was looked at; ``command`` is the
    command line of a probe that was one. ``exit`` is None for an attestation."""

    check: str
    command: tuple[str, ...] = ()
    exit: int | None = None
    expires_at: str = ""
    inputs: dict[str, Value] = {}
    kind: RecordKind
    output: Output
    producer: Producer
    redactions: int = 0
    simulated_clock: bool = False
    since: str
    until: str
    v: int
    zone: str

    def verdict(self, now: datetime) -> Verdict | None:
        """What the record says at ``now``: a probe by its exit code, until it expires; an attestation None."""
        if self.expires_at and now >= datetime.fromisoformat(self.expires_at):
            return Verdict.STALE
        if self.exit is None:
            return None
        return Verdict.PASS if self.exit == 0 else Verdict.NO_DATA if self.exit == 3 else Verdict.FAIL


@dataclass(frozen=True, slots=True)
class Stored:
    """A record in its place: ``number`` grows along the zone's list."""

    id: str
    number: int
    recorded_at: datetime
    body: bytes

    @property
    def record(self) -> EvidenceRecord:
        """The record."""
        return decode(self.body)

    def to_json(self, now: datetime) -> dict[str, Any]:
        """The record as plain values, with what it says at ``now``."""
        return {
            "id": self.id,
            "recorded_at": self.recorded_at.astimezone(UTC).isoformat(),
            "verdict": self.record.verdict(now),
            "record": msgspec.json.decode(self.body),
        }


VERSION = 1
_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(EvidenceRecord)


# ---------------------------------------------------------------------- rules


def encode(record: EvidenceRecord) -> bytes:
    """The canonical bytes (RFC 8785; names are ASCII and numbers whole, so order and form are unambiguous)."""
    return _encoder.encode(record)


def decode(body: bytes) -> EvidenceRecord:
    """The record of canonical bytes; raises ``msgspec.MsgspecError`` for anything else."""
    return _decoder.decode(body)


def record_id(body: bytes) -> str:
    """The id of a record's canonical bytes."""
    return hashlib.sha256(body).hexdigest()


def kept_output(raw: bytes, size: int | None = None) -> tuple[bytes, Output, int]:
    """What is kept of an output: redacted UTF-8 of at most 1 MiB; its description; how many places were redacted.

    ``size``: how many bytes were written where ``raw`` is only their beginning (see :data:`MOST_READ`).
    """
    # a secret that the end cuts through is still recognised by its beginning
    text, taken = scrub(raw[:MOST_READ].decode("utf-8", "replace").replace("\x00", "\ufffd"))
    whole = text.encode()
    kept = whole[:MOST_OUTPUT].decode("utf-8", "ignore").encode()
    written = max(size or 0, len(raw))
    truncated = len(kept) < len(whole) or written > min(len(raw), MOST_READ)
    return kept, Output(written, hashlib.sha256(kept).hexdigest(), truncated), taken


def kept_command(words: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """A command line without secrets: what has a secret's form, and the word after an option that names one."""
    kept, taken = [], 0
    for before, word in pairwise(["", *words]):
        option = _OPTION.fullmatch(before)
        if option and is_telling(option[1]) and not word.startswith("-"):
            kept.append(REDACTED)
            taken += 1
            continue
        clean, count = scrub(word.replace("\x00", "\ufffd").encode("utf-8", "replace").decode())
        kept.append(clean)
        taken += count
    return tuple(kept), taken


def kept_inputs(inputs: Mapping[str, Value]) -> tuple[dict[str, Value], int]:
    """Inputs without secrets, and how many were taken out."""
    kept: dict[str, Value] = {}
    taken = 0
    for name, value in inputs.items():
        count = 0
        if isinstance(value, str):
            value, count = (REDACTED, 1) if is_telling(name) else scrub(value.replace("\x00", "\ufffd"))
        kept[name] = value
        taken += count
    return kept, taken


def _bounded(check: str, command: Sequence[str], inputs: Mapping[str, Value], since: datetime, until: datetime) -> None:
    if not re.fullmatch(SUBJECT_PATTERN[1:-1], check):
        raise InvalidRequest("A check is named in lower case, with digits, dots, dashes and slashes.")
    if len(command) > _MOST_WORDS or any(len(word) > _MOST_WORD for word in command):
        raise InvalidRequest("The command line is too long.")
    if len(inputs) > _MOST_INPUTS:
        raise InvalidRequest(f"At most {_MOST_INPUTS} inputs are kept.")
    for name, value in inputs.items():
        if not re.fullmatch(INPUT_PATTERN[1:-1], name):
            raise InvalidRequest("An input's name begins with a letter and holds letters, digits, _ . and -.")
        if isinstance(value, str) and len(value) > _MOST_VALUE:
            raise InvalidRequest("An input's value is too long.")
        if isinstance(value, int) and abs(value) > _SAFE_INTEGER:
            raise InvalidRequest("An input's number is beyond what JSON carries exactly.")
    if until < since:
        raise InvalidRequest("The window ends before it begins.")


# ---------------------------------------------------------------------- service


class EvidenceRecords:
    """Takes records in and gives them out."""

    def __init__(self, clock: Clock, recorder: Recorder) -> None:
        self._clock = clock
        self._recorder = recorder

    async def probe(
        self,
        tx: Transaction,
        context: Context,
        check: str,
        output: bytes,
        *,
        exit_code: int,
        since: datetime,
        until: datetime,
        producer: Producer,
        command: Sequence[str] = (),
        inputs: Mapping[str, Value] | None = None,
        expires_at: datetime | None = None,
        output_size: int | None = None,
    ) -> Stored:
        """Record a run of ``check`` in ``context.zone``: ``output`` as it was written, between ``since`` and ``until``.

        ``output_size``: how much was written where ``output`` is only the beginning. Raises :class:`InvalidRequest`
        for what is out of bounds, an end in the future among it.
        """
        if not -255 <= exit_code <= 255:
            raise InvalidRequest("An exit code is between -255 and 255.")
        kept = kept_output(output, output_size)
        return await self._record(
            tx, context, "probe", check, kept, exit_code, since, until, producer, command, inputs or {}, expires_at
        )

    async def attest(
        self,
        tx: Transaction,
        context: Context,
        check: str,
        statement: str,
        *,
        producer: Producer,
        since: datetime,
        until: datetime,
        inputs: Mapping[str, Value] | None = None,
        expires_at: datetime | None = None,
    ) -> Stored:
        """Record what a person states about ``check``. Raises :class:`InvalidRequest`."""
        if not statement.strip():
            raise InvalidRequest("An attestation states something.")
        kept = kept_output(statement.encode("utf-8", "replace"))
        return await self._record(
            tx, context, "attestation", check, kept, None, since, until, producer, (), inputs or {}, expires_at
        )

    async def get(self, tx: Transaction, zone: str, identifier: str) -> Stored:
        """One record; raises :class:`NotFound`."""
        row = await tx.one(f"{_SELECT} WHERE zone = :zone AND id = :id", zone=zone, id=identifier)
        if row is None:
            raise NotFound("There is no evidence record by that id.")
        return _stored(row)

    async def output(self, tx: Transaction, stored: Stored) -> bytes:
        """What is kept of a record's output."""
        data = await tx.value(
            "SELECT data FROM ledger.evidence_outputs WHERE sha256 = :sha256", sha256=stored.record.output.sha256
        )
        return bytes(data)

    async def list(
        self,
        tx: Transaction,
        zone: str,
        *,
        check: str = "",
        kind: str = "",
        after: int | None = None,
        limit: int = 100,
    ) -> list[Stored]:
        """Records newest first, from behind number ``after`` on; of one ``check`` or of all."""
        rows = await tx.all(
            f"{_SELECT} WHERE zone = :zone AND (:check = '' OR subject = :check) AND (:kind = '' OR kind = :kind)"
            " AND (CAST(:after AS bigint) IS NULL OR number < :after) ORDER BY number DESC LIMIT :limit",
            zone=zone,
            check=check,
            kind=kind,
            after=after,
            limit=limit,
        )
        return [_stored(row) for row in rows]

    async def _record(
        self,
        tx: Transaction,
        context: Context,
        kind: RecordKind,
        check: str,
        written: tuple[bytes, Output, int],
        exit_code: int | None,
        since: datetime,
        until: datetime,
        producer: Producer,
        command: Sequence[str],
        inputs: Mapping[str, Value],
        expires_at: datetime | None,
    ) -> Stored:
        _bounded(check, command, inputs, since, until)
        now = self._clock.now()
        if until > now:
            raise InvalidRequest("The window ends in the future: evidence is of what has been.")
        if expires_at is not None and expires_at <= until:
            raise InvalidRequest("The record would expire before its window ends.")
        kept, output, taken = written
        words, taken_words = kept_command(command)
        values, taken_values = kept_inputs(inputs)
        record = EvidenceRecord(
            check=check,
            command=words,
            exit=exit_code,
            expires_at=rfc3339(expires_at) if expires_at else "",
            inputs=values,
            kind=kind,
            output=output,
            producer=producer,
            redactions=taken + taken_words + taken_values,
            simulated_clock=self._clock.simulated,
            since=rfc3339(since),
            until=rfc3339(until),
            v=VERSION,
            zone=context.zone,
        )
        body = encode(record)
        identifier = record_id(body)
        event = self._recorder.make(
            codes.EVIDENCE_RECORDED,
            "success",
            context,
            subject=Subject(id=check, type="check"),
            record=identifier,
            kind=kind,
            output=output.sha256,
            verdict=record.verdict(now) or "",
            redactions=record.redactions,
            new=True,
        )
        await tx.run(
            "INSERT INTO ledger.evidence_outputs (sha256, data) VALUES (:sha256, :data) ON CONFLICT DO NOTHING",
            sha256=output.sha256,
            data=kept,
        )
        added = await tx.run(
            "INSERT INTO ledger.evidence_records"
            " (id, zone, kind, subject, since, until, expires_at, output, recorded_at, event, body)"
            " VALUES (:id, :zone, :kind, :subject, :since, :until, :expires_at, :output, :now, :event, :body)"
            " ON CONFLICT (id) DO NOTHING",
            id=identifier,
            zone=context.zone,
            kind=kind,
            subject=check,
            since=since,
            until=until,
            expires_at=expires_at,
            output=output.sha256,
            now=now,
            event=event.id,
            body=body,
        )
        if not added:  # the event by which it came in stays the first
            event = msgspec.structs.replace(event, details={**event.details, "new": False})
        await self._recorder.put(tx, event)
        return await self.get(tx, context.zone, identifier)


_SELECT = "SELECT id, number, recorded_at, body FROM ledger.evidence_records"


def _stored(row: Row) -> Stored:
    return Stored(row["id"], row["number"], row["recorded_at"], bytes(row["body"]))
