"""Walking through what a sign-in by an OpenID provider needs, without signing anybody in."""

from __future__ import annotations

from bailiwick.identity.login.oidc_client import ProviderClient, ProviderClients
from bailiwick.identity.login.oidc_options import OidcOptions
from bailiwick.identity.login.oidc_tokens import Metadata, ProviderFault
from bailiwick.identity.providers import Provider, Providers, options_of
from bailiwick.identity.testing import Step
from bailiwick.kernel.crypto import SealError
from bailiwick.kernel.settings import Settings

_EXACTLY = "Compare the issuer with what the provider's console shows, letter by letter and slash by slash."


async def walk(
    clients: ProviderClients,
    providers: Providers,
    settings: Settings,
    provider: Provider,
    username: str = "",
    password: str = "",
) -> list[Step]:
    """Secret, discovery, keys, client and return address; it ends with the first that what follows stands on.

    Name and password are not used: people give them to the provider alone.
    """
    options: OidcOptions = options_of(provider)
    try:
        secret = providers.secrets(provider).get("client_secret", "")
    except SealError:
        mend = "Set the client secret anew."
        return [Step("secret", passed=False, detail="the client secret cannot be opened", mend=mend)]
    client = clients.fresh(options, secret)
    try:
        return await _steps(client, redirect_uri(settings, provider.zone, provider.name), has_secret=bool(secret))
    finally:
        await client.close()


def redirect_uri(settings: Settings, zone: str, name: str) -> str:
    """Where the provider sends the browser back to: one address for each, against mix-ups (RFC 9700 §4.4)."""
    return f"{settings.zone_issuer(zone)}/api/v1/auth/oidc/{name}/callback"


async def _steps(client: ProviderClient, address: str, *, has_secret: bool) -> list[Step]:
    steps: list[Step] = []
    try:
        metadata = await client.metadata()
    except ProviderFault as fault:
        mend = "See that this machine reaches the issuer, and that allow_upstream_networks has its network." + (
            "" if fault.away else f" {_EXACTLY}"
        )
        return [Step("discovery", passed=False, detail=fault.told, mend=mend)]
    steps.append(Step("discovery", passed=True, detail=_shown(metadata)))
    try:
        keys = await client.keys()
    except ProviderFault as fault:
        mend = "See that this machine reaches jwks_uri of the discovery document."
        return [*steps, Step("keys", passed=False, detail=fault.told, mend=mend)]
    fitting = [key for key in keys if key.algorithms & set(client.options.accepted) & set(metadata.algorithms)]
    mend = "" if fitting else "Let the provider sign ID tokens by one of `algorithms`."
    steps.append(Step("keys", passed=bool(fitting), detail=f"{len(fitting)} of {len(keys)} keys fit", mend=mend))
    steps.append(await _client_step(client, metadata, address, has_secret=has_secret))
    steps.append(await _return_step(client, address))
    return steps


async def _client_step(client: ProviderClient, metadata: Metadata, address: str, *, has_secret: bool) -> Step:
    """A code that cannot be one: refused for itself where the client is known, else for the client."""
    method = client.auth_method(metadata)
    if method != "none" and not has_secret:
        return Step("client", passed=False, detail=f"{method} needs a secret", mend="Set client_secret.")
    try:
        await client.exchange("bailiwick-test", "v" * 43, address)
    except ProviderFault as fault:
        if fault.told.endswith(": invalid_grant"):
            return Step("client", passed=True, detail=f"known to the token endpoint, by {method}")
        mend = "Compare client_id, client_secret and auth_method with what the provider has."
        return Step("client", passed=False, detail=fault.told, mend=mend)
    mend = "This is no provider to trust."
    return Step("client", passed=False, detail="the token endpoint takes any code", mend=mend)


async def _return_step(client: ProviderClient, address: str) -> Step:
    try:
        known = await client.knows_address(address)
    except ProviderFault as fault:
        return Step("return", passed=False, detail=fault.told, mend="See that the authorization endpoint answers.")
    if known is False:
        mend = f"Register {address} as a redirect URI of the client."
        return Step("return", passed=False, detail="the provider does not send anybody back to us", mend=mend)
    detail = address if known else f"cannot be told from here; it must be registered: {address}"
    return Step("return", passed=True, detail=detail)


def _shown(metadata: Metadata) -> str:
    out = "with" if metadata.backchannel_logout else "without"
    return f"{metadata.issuer}, {', '.join(metadata.algorithms)}, {out} back-channel logout"
