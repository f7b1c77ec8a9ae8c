"""The states of an incident: the handover room keeps incidents by them, the detector of stuck work minds them."""

from __future__ import annotations

from bailiwick.kernel.machine import Machine

INCIDENT = Machine(
    "incident",
    {
        "open": ("contained", "recovered"),
        "contained": ("contained", "recovered"),
        "recovered": ("reviewed",),
        "reviewed": ("reviewed", "closed"),
        "closed": (),
    },
)
