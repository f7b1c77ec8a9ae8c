"""Fixtures shared by the tests of identity and inventory."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from openid_provider import browser, provider

from people_fixtures import clock, database_url, house

__all__ = ["browser", "clock", "database_url", "house", "provider"]
