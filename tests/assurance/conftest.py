from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "identity"))  # slapd

from people_fixtures import clock, database_url, house

__all__ = ["clock", "database_url", "house"]
