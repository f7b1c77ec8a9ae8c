"""The states of a canary: the handover room keeps canaries by them, the detector of stuck work minds them."""

from __future__ import annotations

from bailiwick.kernel.machine import Machine

CANARY = Machine(
    "canary",
    {"running": ("promoted", "withdrawn"), "promoted": ("withdrawn", "ended"), "withdrawn": (), "ended": ()},
)
