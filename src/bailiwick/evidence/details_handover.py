"""What the events of the handover room say in ``details``; see ``details.py``."""

from __future__ import annotations

from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.detail_fields import DetailField, always, sometimes

_PLACE = always("place", "str", "where backups lie")

HANDOVER: dict[EventType, tuple[DetailField, ...]] = {
    # --- 80xx handover: backups, restores, drills
    codes.BACKUP_TAKEN: (
        _PLACE,
        sometimes("bytes", "int", "what its objects take there"),
        sometimes("manifest", "str", "SHA-256 of its manifest"),
        sometimes("start", "str", "where its stretch of the write-ahead log begins"),
        sometimes("stop", "str", "where that ends"),
        sometimes("timeline", "int", "timeline of the log"),
    ),
    codes.BACKUP_EXPIRED: (_PLACE, always("tier", "str", "`daily`, `weekly` or `monthly`")),
    codes.BACKUP_ASKED: (_PLACE, always("job", "str", "job that is due now")),
    codes.BACKUP_VERIFIED: (_PLACE, always("objects", "int", "how many objects were read")),
    codes.BACKUP_RESTORED: (
        _PLACE,
        always("to", "str", "moment it was restored to; `latest` is as far as the log goes"),
        always("at", "str", "where the write-ahead log ended that was replayed"),
        always("size", "int", "events of the zone's ledger that are there"),
        always("published", "int", "events under the newest published head that is known"),
        always("lost", "bool", "whether events are known to be missing"),
    ),
    codes.BACKUP_DRILLED: (
        always("kind", "str", "`restore` or `failover`"),
        always("verdict", "str", "`PASS`, `FAIL` or `ERROR`"),
        always("backup", "str", "backup that was restored; empty where none was"),
        always("rto_s", "int", "seconds that the recovery took, -1 where that is not known"),
        always("rpo_s", "int", "seconds of work that a loss then would have cost, -1 where that is not known"),
        always("record", "str", "evidence record of what was found"),
    ),
    codes.ESCROW_KEY_MADE: (),
    codes.BACKUP_READ: (always("what", "str", "what was read"), always("returned", "int", "how many")),
    # --- 82xx handover: incidents, containment, kill switches
}
