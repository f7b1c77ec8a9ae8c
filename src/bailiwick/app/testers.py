"""The tests of identity providers by kind: for the API and for the command alike."""

from __future__ import annotations

from functools import partial

from bailiwick.identity.ldap.walk import walk as walk_directory
from bailiwick.identity.login.ldap import Directories
from bailiwick.identity.testing import Testers


def testers_of(directories: Directories) -> Testers:
    """Every kind that can be tested. A kind adds a line."""
    return Testers({"ldap": partial(walk_directory, directories.make)})
