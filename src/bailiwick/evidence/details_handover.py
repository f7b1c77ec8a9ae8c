"""What the events of the handover room say in ``details``; see ``details.py``."""

from __future__ import annotations

from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.detail_fields import DetailField
from bailiwick.evidence.detail_fields import always as _always

_SWITCH = (
    _always("reason", "str", "why, as said"),
    _always("override", "str", "id of the override by which it was done"),
)

HANDOVER: dict[EventType, tuple[DetailField, ...]] = {
    # --- 80xx handover: backups, restores, drills
    # --- 82xx handover: incidents, containment, kill switches
    codes.SWITCH_THROWN: _SWITCH,
    codes.SWITCH_LIFTED: _SWITCH,
}
