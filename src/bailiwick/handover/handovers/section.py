"""A handover's part of an evidence pack, which ``bailiwick-verify pack`` checks offline.

``handover/handover.json`` is the pack that was signed, byte for byte; beside it the same for people, the signatures,
each statement's evidence record with its output, and a receipt of every event that tells of any of these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from bailiwick.assurance.report import html
from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.evidence_records import decode
from bailiwick.evidence.pack import Outcome, Pack, Section, Selection, Window
from bailiwick.evidence.receipts import receipt
from bailiwick.handover.handovers.document import report
from bailiwick.handover.handovers.records import Handover, find, standing_json
from bailiwick.handover.readiness.attachments import attached, bytes_of
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import Conflict, NotFound
from bailiwick.kernel.verdicts import Verdict
from bailiwick_verify.receipt import Receipt

PREFIX = "handover/"
_AROUND = timedelta(seconds=1)


def selection(found: Handover) -> Selection:
    """What the evidence pack of a handover is of: the instants at which something was done to it."""
    moments = [found.built_at, *(each.at for each in found.signatures)]
    moments += [each.at for each in (found.refusal, found.acceptance) if each is not None]
    windows = tuple(Window(at - _AROUND, at + _AROUND) for at in dict.fromkeys(moments))
    return Selection(found.zone, (), windows, f"handover of {found.environment}"[:200], subject=PREFIX + found.id)


def handover_section(cold: ColdEvents | None = None) -> Section:
    """The folder ``handover/`` of packs whose subject is one. ``cold``: the archive, where older events are."""

    async def write(pack: Pack) -> Outcome:
        subject = pack.selection.subject
        if not subject.startswith(PREFIX):
            return Outcome(note="the pack is not of a handover")
        found = await find(pack.tx, pack.zone, subject.removeprefix(PREFIX))
        document, standing = found.document, standing_json(found)
        await pack.put("handover.json", found.body, verdict=found.verdict)
        await pack.put_json("signatures.json", standing)
        shown = report(document, found.sha256, standing)
        await pack.put("handover.html", html.write(shown).encode(), verdict=found.verdict)
        from bailiwick.assurance.report import pdf  # its fonts are 20 MB in every process that never writes one

        await pack.put("handover.pdf", pdf.write(shown, found.built_at), verdict=found.verdict)
        events = {*found.events()}
        records = await _records(pack, document)
        events |= {*records.values(), *(each["event"] for each in document["waivers"])}
        for event in sorted(events):
            proof = await _receipt(pack.tx, pack.zone, event, cold)
            await pack.put(f"receipts/{event}.tlog-proof", bytes(proof))
        return Outcome(
            Verdict.PASS if found.state == "accepted" else Verdict.NOT_DUE,
            f"{found.state}; {len(found.signatures)} signatures; {len(records)} records; {len(events)} receipts",
        )

    about = "What changes hands: the pack that four teams sign, its signatures, evidence records and receipts"
    return Section("handover", about, "handover", write)


async def _records(pack: Pack, document: Mapping[str, Any]) -> dict[str, str]:
    """Put every record that a statement names, and its output; answers the event by which each came in."""
    statements = [each for chapter in document["chapters"] for each in chapter["statements"]]
    wanted = sorted({record for each in statements for record in (each["record"], *each["beside"])})
    rows = await pack.tx.all(
        "SELECT id, body, event::text AS event FROM ledger.evidence_records WHERE zone = :zone AND id = ANY (:ids)"
        " ORDER BY id",
        zone=pack.zone,
        ids=wanted,
    )
    if missing := set(wanted) - {row["id"] for row in rows}:
        raise Conflict(f"{len(missing)} evidence records are not there, {min(missing)} first.")
    lines = [json.dumps({"id": row["id"], "body": bytes(row["body"]).decode()}, ensure_ascii=False) for row in rows]
    await pack.put("records.jsonl", "".join(f"{line}\n" for line in lines).encode())
    outputs = await pack.tx.all(
        "SELECT sha256, data FROM ledger.evidence_outputs WHERE sha256 = ANY (:ids) ORDER BY sha256",
        ids=sorted({decode(bytes(row["body"])).output.sha256 for row in rows}),
    )
    for row in outputs:
        await pack.put(f"outputs/{row['sha256']}.txt", bytes(row["data"]))
    for sha256 in sorted({attached(bytes(row["body"])) for row in rows} - {""}):
        await pack.put(f"attachments/{sha256}", await bytes_of(pack.tx, pack.zone, sha256))
    return {row["id"]: row["event"] for row in rows}


async def _receipt(tx: Transaction, zone: str, event: str, cold: ColdEvents | None) -> Receipt:
    """The receipt of an event, out of the database or the archive. Raises ``evidence_archived`` where it is in neither,
    and :class:`Conflict` while it is on its way into the ledger."""
    try:
        return await receipt(tx, zone, UUID(event), cold)
    except NotFound:
        waits = await tx.value(
            "SELECT count(*) FROM outbox WHERE zone = :zone AND position(convert_to(:event, 'UTF8') IN event) > 0",
            zone=zone,
            event=event,
        )
    if waits:
        raise Conflict(f"Event {event} is on its way into the ledger; ask again in a moment.")
    raise Conflict(
        f"Event {event} is neither in the database nor in the archive; restore it.", reason="evidence_archived"
    )
