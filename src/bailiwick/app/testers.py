"""The tests of identity providers by kind: for the API and for the command alike."""

from __future__ import annotations

from functools import partial

from bailiwick.evidence.siem.outgoing import Reach
from bailiwick.identity.ldap.walk import walk as walk_directory
from bailiwick.identity.login.ldap import Directories
from bailiwick.identity.login.oidc_client import ProviderClients
from bailiwick.identity.login.oidc_walk import walk as walk_openid
from bailiwick.identity.login.saml_walk import walk as walk_saml
from bailiwick.identity.providers import Providers
from bailiwick.identity.testing import Testers
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.settings import Settings


def testers_of(
    directories: Directories,
    oidc_clients: ProviderClients,
    providers: Providers,
    settings: Settings,
    reach: Reach,
    clock: Clock,
) -> Testers:
    """Every kind that can be tested. A kind adds a line."""
    return Testers(
        {
            "ldap": partial(walk_directory, directories.make),
            "oidc": partial(walk_openid, oidc_clients, providers, settings),
            "saml": partial(walk_saml, reach, clock, providers, settings),
        }
    )
