"""Documents that attestations rest on: kept whole, by their own SHA-256, in the zone they were handed in to.

The database holds hash and bytes together and lets the program neither change nor remove them. They are held against
their hash whenever they are read, so what is served is what was attested, or nothing.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.evidence_records import decode
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, InvalidRequest, NotFound

MOST_BYTES = 10 << 20
MOST_WAITING = 20
"""How many documents of one person may wait for an attestation that names them."""
MEDIA_TYPE_PATTERN = r"^[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}$"
UNKNOWN_TYPE = "application/octet-stream"
CHECKS = "readiness."
"""What the checks of this part's evidence records begin with."""
RECORDED_AS = "attachment_sha256"
"""By which input an evidence record names the document."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """What may be told of a document without its bytes. ``media_type``: as whoever handed it in says."""

    sha256: str
    media_type: str
    bytes: int
    kept_at: datetime
    kept_by: str

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


# ---------------------------------------------------------------------- rules


def media_type_of(header: str) -> str:
    """The type that a Content-Type header names, without its parameters. Raises ``unsupported_media_type``."""
    told = header.partition(";")[0].strip().lower() or UNKNOWN_TYPE
    if not re.fullmatch(MEDIA_TYPE_PATTERN[1:-1], told):
        raise BailiwickError("The content type is no type/subtype.", reason="unsupported_media_type")
    return told


def attached(body: bytes) -> str:
    """The hash of the document that an evidence record (its canonical bytes) says goes with it; empty without one."""
    record = decode(body)
    told = record.inputs.get(RECORDED_AS, "") if record.kind == "attestation" else ""
    ours = record.check.startswith(CHECKS) and isinstance(told, str) and re.fullmatch(r"[0-9a-f]{64}", told)
    return str(told) if ours else ""


def require_same(sha256: str, data: bytes) -> None:
    """Refuse bytes that are not those of ``sha256`` (hex), none at all, and too many."""
    if not data:
        raise InvalidRequest("The document is empty.")
    if len(data) > MOST_BYTES:
        raise BailiwickError(f"A document is at most {MOST_BYTES} bytes.", reason="payload_too_large")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BailiwickError(reason="attachment_hash")


# ---------------------------------------------------------------------- store and service


class Attachments:
    """Takes documents in, and gives them out as they were."""

    def __init__(self, database: Database, clock: Clock, recorder: Recorder) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder

    async def keep(self, context: Context, sha256: str, media_type: str, data: bytes) -> tuple[Attachment, bool]:
        """Keep ``data``, whose hash is ``sha256``; the same again is the one that is kept. Answers whether it is new.

        Raises ``attachment_hash``, ``payload_too_large``, and ``attachments_waiting`` where too many of the person's
        documents belong to no attestation yet.
        """
        require_same(sha256, data)
        zone, by = context.zone, context.actor.user
        async with self._database.begin() as tx:
            await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.attachments'), hashtext(:by))", by=by)
            if (known := await find(tx, zone, sha256)) is not None:
                return known, False
            if await tx.value(_WAITING, zone=zone, by=by) >= MOST_WAITING:
                raise Conflict(reason="attachments_waiting")
            await tx.run(
                "INSERT INTO readiness_attachments (zone, sha256, media_type, bytes, kept_at, kept_by, data)"
                " VALUES (:zone, :sha256, :media_type, :bytes, :now, :by, :data)",
                zone=zone,
                sha256=sha256,
                media_type=media_type,
                bytes=len(data),
                now=self._clock.now(),
                by=by,
                data=data,
            )
            await self._recorder.record(
                tx,
                codes.READINESS_ATTACHED,
                "success",
                context,
                subject=Subject(id=sha256, type="attachment"),
                media_type=media_type,
                bytes=len(data),
            )
            made = await find(tx, zone, sha256)
            assert made is not None
        return made, True

    async def read(self, context: Context, sha256: str) -> tuple[Attachment, bytes]:
        """A document whole; leaves the event of who read it. Raises ``no_attachment``, ``attachment_altered``."""
        async with self._database.begin() as tx:
            found = await find(tx, context.zone, sha256)
            if found is None:
                raise NotFound(reason="no_attachment")
            data = await bytes_of(tx, context.zone, sha256)
            await self._recorder.record(
                tx,
                codes.READINESS_READ,
                "success",
                context,
                subject=Subject(id=sha256, type="attachment"),
                what="attachment",
            )
        return found, data


async def find(tx: Transaction, zone: str, sha256: str) -> Attachment | None:
    """What is known of a document of a zone; None where it is not kept there."""
    row = await tx.one(
        "SELECT sha256, media_type, bytes, kept_at, kept_by FROM readiness_attachments"
        " WHERE zone = :zone AND sha256 = :sha256",
        zone=zone,
        sha256=sha256,
    )
    return Attachment(**row) if row is not None else None


async def bytes_of(tx: Transaction, zone: str, sha256: str) -> bytes:
    """The bytes of a document, held against its hash. Raises ``no_attachment``, ``attachment_altered``."""
    data = await tx.value(
        "SELECT data FROM readiness_attachments WHERE zone = :zone AND sha256 = :sha256", zone=zone, sha256=sha256
    )
    if data is None:
        raise NotFound(reason="no_attachment")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Conflict(reason="attachment_altered")
    return bytes(data)


_WAITING = """
SELECT count(*) FROM readiness_attachments k WHERE k.zone = :zone AND k.kept_by = :by AND NOT EXISTS (
  SELECT FROM readiness_attestations a WHERE a.zone = k.zone AND a.attachment_sha256 = k.sha256)
"""
