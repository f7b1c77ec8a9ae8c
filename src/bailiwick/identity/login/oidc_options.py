"""What an OpenID provider is configured by, and what its claims mean here. Rules only, no input or output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, StringConstraints, field_validator, model_validator

from bailiwick.identity.login.oidc_tokens import ALGORITHMS, ProviderFault, checked_url, subject_of
from bailiwick.identity.provisioning import MAX_GROUPS
from bailiwick.identity.standing import RoleName, highest
from bailiwick.kernel.fields import EMAIL_PATTERN, USER_NAME_PATTERN, Body, Line, matches

# RFC 8176; what else a provider says about how it looked is not passed on
_METHODS = frozenset(
    {"face", "fpt", "geo", "hwk", "iris", "kba", "mca", "otp", "pin", "pop"}
    | {"pwd", "rba", "retina", "sc", "sms", "swk", "tel", "user", "vbm", "wia"}
)
_ENTRA = re.compile(
    r"https://login\.(microsoftonline\.com|microsoftonline\.us|partner\.microsoftonline\.cn)/([^/]+)/v2\.0"
)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Preset = Literal["entra", "google", "okta", "keycloak", "generic"]
Claim = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[!-~]+$")]
ScopeName = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[!#-\[\]-~]+$")]


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a preset fills in."""

    username: str = "preferred_username"
    groups: str = "groups"
    scopes: tuple[str, ...] = ("openid", "profile", "email")


PRESETS: Mapping[str, Defaults] = {
    "entra": Defaults(),
    "google": Defaults(username="email"),
    "okta": Defaults(scopes=("openid", "profile", "email", "groups")),
    "keycloak": Defaults(groups="realm_access.roles"),
    "generic": Defaults(),
}


class OidcOptions(Body):
    """An OpenID provider. Claims are named as they stand in the ID token, or by a path (`realm_access.roles`)."""

    preset: Preset = "generic"
    issuer: Annotated[str, StringConstraints(min_length=8, max_length=500)]
    client_id: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[ -~]+$")]
    auth_method: Literal["client_secret_basic", "client_secret_post", "none"] | None = None
    scopes: Annotated[list[ScopeName], Field(max_length=20)] | None = None
    username_claim: Claim | None = None
    email_claim: Claim = "email"
    name_claim: Claim = "name"
    groups_claim: Claim | None = None
    roles: Annotated[dict[Line, RoleName], Field(max_length=500)] = Field(default_factory=dict)
    require: Annotated[dict[Claim, Line], Field(max_length=20)] = Field(default_factory=dict)
    create_users: bool = True
    link_by_external_id: bool = False
    trusts_email: bool = False
    trusts_mfa: bool = False
    mfa_acr: Annotated[list[Line], Field(max_length=20)] = Field(default_factory=list)
    userinfo: bool = False
    algorithms: Annotated[list[str], Field(min_length=1, max_length=20)] | None = None
    return_to: Annotated[list[Line], Field(max_length=20)] = Field(default_factory=list)
    after_logout: Annotated[str, StringConstraints(max_length=1000)] = ""
    ca: Annotated[str, StringConstraints(max_length=60_000)] = ""

    @property
    def leads_to(self) -> str:
        """Where the client secret is sent."""
        return self.issuer

    def vouches_as(self, name: str) -> str:
        """How what it says of people is known: by its issuer, whatever it is called here or led to later."""
        return f"oidc:{self.issuer}"

    @property
    def asked_scopes(self) -> str:
        """The scopes to ask for, with ``openid`` among them."""
        return " ".join(dict.fromkeys(["openid", *(self.scopes or PRESETS[self.preset].scopes)]))

    @property
    def accepted(self) -> tuple[str, ...]:
        """The algorithms that ID tokens may be signed with."""
        return tuple(self.algorithms or ALGORITHMS)

    @field_validator("issuer")
    @classmethod
    def _issuer_is_an_address(cls, issuer: str) -> str:
        try:
            checked_url(issuer, "the issuer")
        except ProviderFault as fault:
            raise ValueError(fault.told) from None
        if urlsplit(issuer).query:
            raise ValueError("the issuer has no query")
        return issuer

    @field_validator("algorithms")
    @classmethod
    def _algorithms_are_known(cls, algorithms: list[str] | None) -> list[str] | None:
        if algorithms is not None and not set(algorithms) <= set(ALGORITHMS):
            raise ValueError(f"one of {', '.join(ALGORITHMS)}")
        return algorithms

    @field_validator("return_to")
    @classmethod
    def _returns_to_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            try:
                parts = urlsplit(checked_url(origin, "return_to"))
            except ProviderFault as fault:
                raise ValueError(fault.told) from None
            if f"{parts.scheme}://{parts.netloc}" != origin:
                raise ValueError("return_to lists origins, such as https://console.example.com")
        return origins

    @field_validator("after_logout")
    @classmethod
    def _after_logout_is_an_address(cls, address: str) -> str:
        try:
            return checked_url(address, "after_logout") if address else ""
        except ProviderFault as fault:
            raise ValueError(fault.told) from None

    @model_validator(mode="after")
    def _fits_its_preset(self) -> OidcOptions:
        if self.preset == "entra":
            match = _ENTRA.fullmatch(self.issuer)
            # "common" and "organizations" let any company's people in, and their issuer is no issuer
            if match is None or not _UUID.fullmatch(match[2]):
                raise ValueError("the issuer is https://login.microsoftonline.com/<tenant id>/v2.0, the id a UUID")
        if self.preset == "google":
            if self.issuer != "https://accounts.google.com":
                raise ValueError("the issuer is https://accounts.google.com")
            if self.create_users and "hd" not in self.require:
                raise ValueError('anybody has a Google account: require your domain by {"hd": "example.com"}')
        return self


class OidcSecrets(Body):
    """The secret of the client; none for a public client."""

    client_secret: Annotated[SecretStr, Field(min_length=1, max_length=2000)] | None = None


# ---------------------------------------------------------------------- what claims mean


@dataclass(frozen=True, slots=True)
class Claimed:
    """Who somebody is, by a provider's claims. ``email`` is empty unless it is known to be his.

    ``role`` is ``none`` where roles are mapped and no group of his gives one, None where no role is mapped at all.
    """

    subject: str
    username: str
    email: str
    full_name: str
    role: str | None
    groups: tuple[str, ...]
    amr: tuple[str, ...]
    sid: str


def claimed(options: OidcOptions, claims: Mapping[str, Any]) -> Claimed:
    """What the verified ``claims`` mean; raises :class:`ProviderFault` where they are not those of our people."""
    for name, wanted in options.require.items():
        if claim(claims, name) != wanted:
            raise ProviderFault(f"the claim {name} is not what this provider requires")
    sid, groups = claims.get("sid", ""), groups_of(options, claims)
    return Claimed(
        subject_of(claims),
        username_of(claim(claims, options.username_claim or PRESETS[options.preset].username)),
        _email(options, claims),
        line_of(claim(claims, options.name_claim)),
        role_of(options.roles, groups),
        tuple(groups),
        methods(options, claims),
        sid if isinstance(sid, str) and len(sid) <= 500 and "\x00" not in sid else "",
    )


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """The claim by its name, or else by its path; None where there is none."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def username_of(value: Any) -> str:
    """A user name made of a claim; empty where none can be. Characters that a name has not become ``-``."""
    if not isinstance(value, str):
        return ""
    name = re.sub(r"[^A-Za-z0-9._@+-]+", "-", value.strip())[:100].lstrip("._@+-")
    return name if matches(USER_NAME_PATTERN, name) else ""


def email_of(value: Any) -> str:
    """An address if it has the form of one, else none."""
    return value if isinstance(value, str) and len(value) <= 254 and matches(EMAIL_PATTERN, value) else ""


def line_of(value: Any) -> str:
    """A name as a line of text: what cannot be printed is left out, and what is too long cut."""
    return "".join(char for char in value[:200] if char.isprintable()) if isinstance(value, str) else ""


def role_of(roles: Mapping[str, RoleName], groups: Iterable[str]) -> str | None:
    """The highest role that ``groups`` give by ``roles``: ``none`` without any, None where no role is mapped at all."""
    return highest([roles[group] for group in groups if group in roles]) if roles else None


def groups_of(options: OidcOptions, claims: Mapping[str, Any]) -> list[str]:
    """The groups that the claims name; raises :class:`ProviderFault` where the provider left them out for their number.

    Entra sends a pointer in place of more than 200 groups, which is not to be read as none. A claim that is missing
    is: providers leave it out for somebody whose last group was taken from him.
    """
    name = options.groups_claim or PRESETS[options.preset].groups
    left_out = claims.get("_claim_names")
    if isinstance(left_out, Mapping) and name in left_out:
        raise ProviderFault(
            "the provider left the groups out because there are too many; send those of the application"
        )
    value = claim(claims, name)
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list):
        return []
    if len(listed) > MAX_GROUPS:
        raise ProviderFault(f"the provider names more than {MAX_GROUPS} groups; send those of the application")
    return [each for each in listed if isinstance(each, str) and "\x00" not in each and len(each) <= 500]


def methods(options: OidcOptions, claims: Mapping[str, Any]) -> tuple[str, ...]:
    """How the person proved himself (RFC 8176): ``fed``, what the provider says, and ``mfa`` where it is trusted."""
    said = claims.get("amr")
    named = [each for each in said if isinstance(each, str)] if isinstance(said, list) else []
    kept = [each for each in dict.fromkeys(named) if each in _METHODS]
    proven = "mfa" in named or claims.get("acr") in options.mfa_acr
    return ("fed", *kept, *(("mfa",) if options.trusts_mfa and proven else ()))


def _email(options: OidcOptions, claims: Mapping[str, Any]) -> str:
    """The address, if it has the form of one and the provider looked at whose it is: some let people write anything."""
    value = claim(claims, options.email_claim)
    verified = claims.get("email_verified") is True or options.trusts_email
    return email_of(value) if verified else ""


# ---------------------------------------------------------------------- where to go afterwards


def may_return_to(address: str, origins: Sequence[str]) -> bool:
    """Whether a browser may be sent to ``address`` after signing in: a path here, or a page of a listed origin.

    What a browser would read differently from us is refused: backslashes, two leading slashes, controls, users.
    """
    if not address.isascii() or len(address) > 1000 or any(ord(char) <= 32 or char in '\\"<>\x7f' for char in address):
        return False
    if address.startswith("/"):
        return not address.startswith("//")
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return "@" not in parts.netloc and f"{parts.scheme}://{parts.netloc}" in origins
