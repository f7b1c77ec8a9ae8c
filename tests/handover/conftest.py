"""What backups are tested on: a real server that can be backed up, with a ledger, people and keys in it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "evidence"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from backup_ground import bucket, ground, template

__all__ = ["bucket", "ground", "template"]
