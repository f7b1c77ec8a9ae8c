"""What takes evidence takes a record that is there, of this zone, new enough and not of a failure."""

from __future__ import annotations

import re
from datetime import datetime

from bailiwick.evidence.evidence_records import EvidenceRecords, Stored
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import BailiwickError, NotFound
from bailiwick.kernel.verdicts import Verdict

_HOLDS = (None, Verdict.PASS)  # an attestation has no verdict of its own

RECORD_PATTERN = r"^[0-9a-f]{64}$"


async def require_evidence(
    tx: Transaction, records: EvidenceRecords, zone: str, record: str, now: datetime, *, since: datetime
) -> Stored:
    """The record, recorded at ``since`` or later. Raises ``evidence_needed`` (422) where it does not hold."""
    if not re.fullmatch(RECORD_PATTERN[1:-1], record):
        raise BailiwickError(reason="evidence_needed")
    try:
        stored = await records.get(tx, zone, record)
    except NotFound:
        raise BailiwickError("There is no evidence record by that id here.", reason="evidence_needed") from None
    if stored.recorded_at < since:
        raise BailiwickError("The evidence is older than what it is to show.", reason="evidence_needed")
    if stored.record.verdict(now) not in _HOLDS:
        raise BailiwickError("The evidence does not say that it is so, or no longer.", reason="evidence_needed")
    return stored
