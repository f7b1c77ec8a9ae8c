"""What an evidence pack holds of readiness: the documents that attestations of its window rest on, with their bytes."""

from __future__ import annotations

from bailiwick.evidence.pack import Outcome, Pack, Section
from bailiwick.handover.readiness.attachments import bytes_of
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.verdicts import Verdict, worst


def readiness_section() -> Section:
    """The folder ``readiness/``."""
    return Section("readiness", "Documents that attestations of the window rest on, by their hash", "readiness", _write)


async def _write(pack: Pack) -> Outcome:
    """Each document once; what is not kept any more, or is another than its hash says, is named and makes it fail."""
    rows = await pack.tx.all(_NAMED, zone=pack.zone, since=pack.window.since, until=pack.window.until)
    verdicts: list[Verdict] = []
    lines = []
    for row in rows:
        found = ""
        try:
            data = await bytes_of(pack.tx, pack.zone, row["sha256"])
        except BailiwickError as error:
            found = error.reason
            verdicts.append(Verdict.FAIL)
        else:
            await pack.put(f"attachments/{row['sha256']}", data)
            verdicts.append(Verdict.PASS)
        lines.append({**row, "missing": found})
    await pack.put_json("attachments.json", lines, windowed=True)
    if not rows:
        return Outcome(note="no attestation of the window rests on a document")
    kept = verdicts.count(Verdict.PASS)
    return Outcome(worst(verdicts), f"{kept} of {len(rows)} documents")


_NAMED = """
SELECT a.attachment_sha256 AS sha256, coalesce(max(k.media_type), '') AS media_type, max(k.bytes) AS bytes,
       array_agg(DISTINCT a.attachment) AS names, array_agg(DISTINCT a.record) AS records
FROM readiness_attestations a
LEFT JOIN readiness_attachments k ON k.zone = a.zone AND k.sha256 = a.attachment_sha256
WHERE a.zone = :zone AND a.attachment_sha256 <> '' AND a.made_at BETWEEN :since AND :until
GROUP BY a.attachment_sha256 ORDER BY a.attachment_sha256
"""
