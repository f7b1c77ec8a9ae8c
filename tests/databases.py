"""Addresses on the PostgreSQL that the test run started."""

from __future__ import annotations

import os
from urllib.parse import urlsplit


def url_of(database: str = "postgres") -> str:
    """The address of ``database``, as the server's superuser."""
    return urlsplit(os.environ["BAILIWICK_TEST_DATABASE_URL"])._replace(path=f"/{database}").geturl()
