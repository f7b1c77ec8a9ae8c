from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "assurance")]

from people_fixtures import clock, database_url, house

__all__ = ["clock", "database_url", "house"]
