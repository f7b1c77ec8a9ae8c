"""What the events of the handover room say in ``details``; see ``details.py``."""

from __future__ import annotations

from bailiwick.evidence.codes import EventType
from bailiwick.evidence.detail_fields import DetailField

HANDOVER: dict[EventType, tuple[DetailField, ...]] = {
    # --- 80xx handover: backups, restores, drills
    # --- 82xx handover: incidents, containment, kill switches
}
