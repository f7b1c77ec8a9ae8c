from __future__ import annotations

import sys
from pathlib import Path

for room in ("", "assurance", "evidence"):
    sys.path.insert(0, str(Path(__file__).parent.parent / room))

from backup_ground import bucket, ground, template

from people_fixtures import clock, database_url, house

__all__ = ["bucket", "clock", "database_url", "ground", "house", "template"]
