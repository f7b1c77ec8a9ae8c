"""``python -m bench NAME``: programs that measure and print one JSON object. Without a name it tells the names."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = (
    "governed",
    "decision",
    "evidence",
    "search",
    "archive",
    "sustained",
    "soak",
    "login",
    "slo",
    "reconcile",
    "canary",
    "readiness",
    "preserve",
)

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(f"usage: python -m bench {{{','.join(NAMES)}}} [options]")
    sys.exit(import_module(f"bench.{sys.argv[1]}").main(sys.argv[2:]))
