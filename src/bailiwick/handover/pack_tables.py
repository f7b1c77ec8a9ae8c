"""What evidence packs show of this room's tables."""

from __future__ import annotations

from bailiwick.evidence.pack_control import ControlTable

TABLES: tuple[ControlTable, ...] = ()
