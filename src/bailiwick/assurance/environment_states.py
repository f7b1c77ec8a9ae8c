"""The stages of an environment: the handover room moves it by them, the detector of stuck work minds them."""

from __future__ import annotations

from bailiwick.kernel.machine import Machine

STAGES = Machine(
    "environment",
    {"planned": ("live",), "live": ("hypercare",), "hypercare": ("bau_active",), "bau_active": ()},
)
