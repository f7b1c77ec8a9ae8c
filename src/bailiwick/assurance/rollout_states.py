"""The states of a rollout: the handover room keeps rollouts by them, the detector of stuck work minds them."""

from __future__ import annotations

from bailiwick.kernel.machine import Machine

ROLLOUT = Machine(
    "rollout",
    {
        "planned": ("pending", "no_go", "abandoned"),
        "pending": ("planned", "go", "no_go", "abandoned"),
        "go": ("planned", "pending", "running", "no_go", "abandoned"),
        "running": ("waiting", "deciding", "rolling_back", "done"),
        "waiting": ("running", "deciding", "rolling_back"),
        "deciding": ("running", "rolling_back"),
        "rolling_back": ("stuck", "rolled_back"),
        "stuck": ("rolling_back", "abandoned"),
        "done": (),
        "rolled_back": (),
        "abandoned": (),
        "no_go": (),
    },
)
