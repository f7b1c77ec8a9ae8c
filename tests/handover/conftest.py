from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "assurance"))
sys.path.insert(0, str(Path(__file__).parent.parent / "evidence"))
sys.path.insert(0, str(Path(__file__).parent.parent / "identity"))

from backup_ground import bucket, ground, template

from people_fixtures import clock, database_url, house

__all__ = ["bucket", "clock", "database_url", "ground", "house", "template"]
