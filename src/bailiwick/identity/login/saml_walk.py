"""Walking through what a sign-in by a SAML provider needs, without signing anybody in."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from urllib.parse import urlencode

from bailiwick.evidence.siem.destination import Retry, Stop
from bailiwick.evidence.siem.outgoing import Answer, Outgoing, Reach
from bailiwick.identity.login.saml import Loaded, load
from bailiwick.identity.providers import Provider, Providers
from bailiwick.identity.saml.request import authn_request, post_fields, redirect_url
from bailiwick.identity.sessions import printable
from bailiwick.identity.testing import Step
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import SealError
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.settings import Settings

TIMEOUT_S = 8.0
SOON = timedelta(days=14)
_STORE_ANEW = "Download the provider's metadata and store them anew."


async def walk(
    reach: Reach,
    clock: Clock,
    providers: Providers,
    settings: Settings,
    provider: Provider,
    username: str = "",
    password: str = "",
) -> list[Step]:
    """Our keys, the stored metadata, the provider's certificates, and what it answers to a request of ours.

    Name and password are not used: people give them to the provider alone.
    """
    try:
        loaded = load(providers, settings, provider)
    except SealError:
        mend = "Set secrets.signing_key and secrets.encryption_key to null, and give the provider our metadata anew."
        return [Step("keys", passed=False, detail="our keys towards the provider cannot be opened", mend=mend)]
    now = clock.now()
    return [
        Step("keys", passed=True, detail="our keys are there"),
        _metadata(loaded, now),
        *_certificates(loaded, now),
        _roles(loaded),
        await _request(loaded, reach, now),
    ]


def _metadata(loaded: Loaded, now: datetime) -> Step:
    told, until = f"{loaded.idp.entity_id}", loaded.idp.valid_until
    if until is None or until > now + SOON:
        return Step("metadata", passed=True, detail=told)
    what = "are no longer valid" if until <= now else f"are valid until {until.date()} only"
    return Step("metadata", passed=False, detail=f"the metadata of {told} {what}", mend=_STORE_ANEW)


def _certificates(loaded: Loaded, now: datetime) -> list[Step]:
    """One that signs now is needed; one about to end fails, so that somebody looks."""
    until = max(
        (each.not_valid_after_utc for each in loaded.idp.certificates if each.not_valid_before_utc <= now), default=now
    )
    if until > now + SOON:
        detail = f"{len(loaded.idp.certificates)} signing certificates, one valid until {until.date()}"
        return [Step("certificates", passed=True, detail=detail)]
    return [
        Step("certificates", passed=False, detail=f"no signing certificate is valid after {until.date()}",
             mend=_STORE_ANEW)
    ]  # fmt: skip


def _roles(loaded: Loaded) -> Step:
    if loaded.options.roles:
        detail = f"{len(loaded.options.roles)} values of {loaded.options.groups_attribute} give a role"
        return Step("roles", passed=True, detail=detail)
    return Step("roles", passed=True, detail="no value gives a role; groups of ours must")


async def _request(loaded: Loaded, reach: Reach, now: datetime) -> Step:
    """What the provider says to a signed request: one that does not know us, or our key, refuses it.

    Browsers must reach the provider, and we need not: not reaching it fails nothing.
    """
    outgoing = Outgoing(reach, timeout_s=TIMEOUT_S)
    try:
        answer = await _sent(loaded, outgoing, now)
    except (Stop, Retry) as error:
        detail = f"not reached from here, and only browsers must: {printable(str(error), 200)}"
        return Step("request", passed=True, detail=detail)
    finally:
        await outgoing.close()
    detail = f"the provider answers {answer.status}{_title(answer)} to a request of ours"
    # some providers answer what they refuse with 200 and a page that says so; one to sign in by has a form
    if answer.status < 400 and (answer.status >= 300 or re.search(rb"(?i)<form\b", answer.body)):
        return Step("request", passed=True, detail=detail)
    mend = f"Give the provider our metadata, {loaded.ours.entity_id}, or compare what it has of them."
    if loaded.options.entity_id:
        mend = f"Give the provider our metadata, {loaded.ours.acs_url.removesuffix('/acs')}/metadata."
    return Step("request", passed=False, detail=detail, mend=mend)


def _title(answer: Answer) -> str:
    """What the page calls itself, which is often what is wrong."""
    found = re.search(r"(?is)<title>(.{1,200}?)</title>", answer.body.decode("utf-8", "replace"))
    return f" ({printable(' '.join(found.group(1).split()), 80)})" if found else ""


async def _sent(loaded: Loaded, outgoing: Outgoing, now: datetime) -> Answer:
    identifier, destination = f"_{Ids().random(20).hex()}", loaded.idp.sso_redirect or loaded.idp.sso_post
    message = authn_request(identifier, loaded.ours, destination, now)
    if loaded.idp.sso_redirect:
        url = redirect_url(destination, "SAMLRequest", message, "bailiwick-test", loaded.signing)
        return await outgoing.post(url, b"", {}, method="GET")
    fields = post_fields("SAMLRequest", message, "bailiwick-test", loaded.signing)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return await outgoing.post(destination, urlencode(fields).encode(), headers)
