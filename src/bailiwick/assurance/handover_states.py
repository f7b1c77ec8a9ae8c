"""The states of a handover: the handover room keeps handovers by them, the detector of stuck work minds them."""

from __future__ import annotations

from bailiwick.kernel.machine import Machine

HANDOVER = Machine(
    "handover",
    {
        "proposed": ("signed", "refused", "superseded"),
        "signed": ("accepted", "refused", "superseded"),
        "refused": (),
        "superseded": (),
        "accepted": (),
    },
)
