"""What a way of signing in may lead to: a session, a second factor owed, or one to be enrolled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from bailiwick.evidence.events import Actor, Context
from bailiwick.identity.factors import totp
from bailiwick.kernel.errors import BailiwickError, Unauthenticated

PENDING_LIFE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session just opened, or going on, and the tokens that stand for it."""

    token: str
    refresh_token: str
    session_id: str
    expires_in: int
    must_change_password: bool
    username: str
    role: str
    email: str
    recovery_codes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """The JSON form; ``token`` repeats ``access_token`` for callers that read that name."""
        told = {
            "access_token": self.token,
            "token": self.token,
            "token_type": "Bearer",
            "expires_in": self.expires_in,
            "refresh_token": self.refresh_token,
            "session_id": self.session_id,
            "must_change_password": self.must_change_password,
            "user": {"username": self.username, "role": self.role, "email": self.email},
        }
        return {**told, "recovery_codes": list(self.recovery_codes)} if self.recovery_codes else told


@dataclass(frozen=True, slots=True)
class Onward:
    """Where a browser goes on to once it is signed in (a path here or a page), and whether its session is a cookie."""

    return_to: str = ""
    as_cookie: bool = False


@dataclass(frozen=True, slots=True)
class Provided:
    """What comes along with a provider's word for somebody.

    ``origin`` is what it calls the person and the stay; the session keeps it, so that the provider can end it, and
    lasts no longer than its ``until`` (RFC 3339). ``id_token`` is the one that the provider gave.
    """

    origin: Mapping[str, str] = field(default_factory=dict)
    id_token: str = field(default="", repr=False)
    onward: Onward = Onward()


NOTHING_PROVIDED = Provided()


@dataclass(frozen=True, slots=True)
class Finished:
    """A sign-in by a browser that ended well, and how it goes on."""

    outcome: SignedIn
    onward: Onward


@dataclass(frozen=True, slots=True)
class Waiting:
    """A sign-in that owes its second factor, as the person is shown it; see :class:`FactorDue`."""

    username: str
    methods: tuple[str, ...]
    enrol: bool
    onward: Onward


@dataclass(frozen=True, slots=True)
class FactorDue:
    """The first factor held; a second is owed. ``methods``: what would do. ``enrol``: none is enrolled yet."""

    token: str
    methods: tuple[str, ...]
    enrol: bool

    def error(self) -> BailiwickError:
        """The refusal that tells the caller how to go on."""
        return Unauthenticated(
            reason="mfa_enrolment_required" if self.enrol else "mfa_required",
            mfa_token=self.token,
            expires_in=int(PENDING_LIFE.total_seconds()),
            methods=list(self.methods),
        )


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A TOTP secret to put into an app, told once."""

    secret: str
    uri: str

    @property
    def qr_code(self) -> str:
        """A PNG of it in a ``data:`` URI."""
        return totp.qr_code(self.uri)

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "secret": self.secret,
            "otpauth_uri": self.uri,
            "qr_code": self.qr_code,
            "digits": totp.DIGITS,
            "period": totp.STEP_S,
        }


def acting(context: Context, username: str, session_id: str) -> Context:
    """The context of a request in which ``username`` turned out to act."""
    return Context(
        context.zone,
        Actor(user=username, session=session_id),
        context.network,
        context.request_id,
        context.client_request_id,
        context.trace_id,
    )
