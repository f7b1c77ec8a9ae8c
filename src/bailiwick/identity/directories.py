"""LDAP directories: how one is reached and read, as an administrator configures it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, StringConstraints

from bailiwick.identity.ldap.filters import FilterError, encoded
from bailiwick.identity.standing import RoleName
from bailiwick.kernel.fields import Body, Line

# RFC 4512 §1.4: a short name or a dotted number
Attribute = Annotated[str, StringConstraints(pattern=r"^([A-Za-z][A-Za-z0-9-]{0,63}|[0-9]+(\.[0-9]+){1,30})$")]
Dn = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$", min_length=3, max_length=500)]
Filter = Annotated[str, StringConstraints(pattern=r"^\([^\x00-\x1f\x7f]+\)$", max_length=1000)]
Pem = Annotated[str, StringConstraints(pattern=r"^[\x09\x0a\x0d\x20-\x7e]*$", max_length=65536)]

NormalDn = tuple[tuple[tuple[str, str], ...], ...]

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9a-fA-F:.]{2,45}\]")


def _url(value: str) -> str:
    parts = urlsplit(value)
    try:
        port = parts.port
    except ValueError:
        raise ValueError("has no usable port") from None
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
    if parts.scheme not in ("ldap", "ldaps") or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("must be ldaps://host:port or, with StartTLS, ldap://host:port")
    if parts.username or parts.password or not _HOST.fullmatch(host) or port == 0:
        raise ValueError("must name a host and nothing of a user")
    return f"{parts.scheme}://{host}:{port or (636 if parts.scheme == 'ldaps' else 389)}"


def _user_filter(value: str) -> str:
    if value.count("{username}") < 1 or re.sub(r"\{username\}", "", value).count("{"):
        raise ValueError("must hold {username} and no other placeholder")
    _filter(value.replace("{username}", "a"))
    return value


def _filter(value: str) -> str:
    try:
        encoded(value)
    except FilterError as error:
        raise ValueError(f"is not a filter (RFC 4515): {error}") from None
    return value


Url = Annotated[str, StringConstraints(max_length=300), AfterValidator(_url)]
GroupFilter = Annotated[Filter, AfterValidator(_filter)]
UserFilter = Annotated[Filter, AfterValidator(_user_filter)]


class LdapOptions(Body):
    """A directory. ``urls`` are replicas of it, tried in order; plain ``ldap`` is only ever used with StartTLS."""

    urls: Annotated[list[Url], Field(min_length=1, max_length=8, examples=[["ldaps://dc1.example.com"]])]
    ca: Pem = Field("", description="Certificates (PEM) that may vouch for the directory; empty for the system's")
    bind_dn: Dn | Literal[""] = Field("", description="Who we search as; empty to search anonymously")
    base_dn: Dn = Field(examples=["ou=people,dc=example,dc=com"])
    user_filter: UserFilter = "(uid={username})"
    username_attribute: Attribute = "uid"
    subject_attribute: Attribute = Field("entryUUID", description="What stays when a person is renamed")
    email_attribute: Attribute = "mail"
    name_attribute: Attribute = "cn"
    name_prefix: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,30})?$")] = Field(
        "", description="Stands before the user names of this directory, where two directories share names"
    )
    groups: Literal["member_of", "search", "chain"] = Field(
        "search",
        description="How the groups of a person are found: in his entry, by searching for groups that have him as"
        " member (nested ones too), or by Active Directory's LDAP_MATCHING_RULE_IN_CHAIN",
    )
    group_base_dn: Dn | None = Field(None, description="Where groups are searched; without it under base_dn")
    group_filter: GroupFilter = "(|(objectClass=groupOfNames)(objectClass=groupOfUniqueNames)(objectClass=group))"
    member_attribute: Attribute = "member"
    nesting: Annotated[int, Field(ge=0, le=20, description="How many levels of groups in groups are followed")] = 5
    roles: Annotated[dict[Dn, RoleName], Field(max_length=200)] = Field(
        default_factory=dict, description="DN of a group and the role its members have; the highest counts"
    )
    create_users: bool = Field(True, description="Make an account at a person's first sign-in")
    link_by_external_id: bool = Field(False, description="Take the account whose external id (SCIM) is the subject")
    active_directory: bool = Field(False, description="Heed userAccountControl and the data codes of refusals")
    pool_size: Annotated[int, Field(ge=1, le=64)] = Field(8, description="Connections of each worker, at most")
    connect_timeout_s: Annotated[float, Field(ge=0.1, le=30, allow_inf_nan=False)] = 3
    timeout_s: Annotated[float, Field(ge=0.1, le=60, allow_inf_nan=False)] = Field(
        5, description="What one sign-in may take in the directory altogether"
    )
    page_size: Annotated[int, Field(ge=10, le=1000)] = 500
    most_groups: Annotated[int, Field(ge=1, le=5000)] = 1000
    note: Line = ""

    @property
    def leads_to(self) -> str:
        """Where the password of ``bind_dn``, and everybody's, is sent; and who vouches for it."""
        return "\n".join([*self.urls, self.ca, self.bind_dn])

    def vouches_as(self, name: str) -> str:
        """How what it says of people is known: a directory has no name of its own that it could not be given."""
        return f"ldap:{name}"

    def role_of_group(self) -> dict[NormalDn, RoleName]:
        """The role of each group, by its normal DN."""
        return {normal_dn(dn): role for dn, role in self.roles.items()}


class LdapSecrets(Body):
    """The password of ``bind_dn``."""

    bind_password: Annotated[SecretStr, Field(min_length=1, max_length=1024)] | None = None


_SEPARATOR = re.compile("([,;+])")


def normal_dn(dn: str) -> NormalDn:
    """A DN in the form in which two spellings of one are equal: RFC 4514 undone, letter case and spaces folded.

    What is not a DN is a form of its own that equals no DN of a directory.
    """
    names: list[tuple[tuple[str, str], ...]] = []
    pairs: list[tuple[str, str]] = []
    for part, end in _parts(dn):
        attribute, _, value = part.partition("=")
        folded = " ".join(_unescaped(value).casefold().split())
        pairs.append((attribute.strip().casefold(), folded))
        if end != "+":
            names.append(tuple(sorted(pairs)))
            pairs = []
    return tuple(names)


def _parts(dn: str) -> Iterator[tuple[str, str]]:
    """The text between the separators that are not escaped, each with the one that ends it."""
    if "\\" not in dn:  # as nearly all are, and a directory may hold a million
        pieces = _SEPARATOR.split(dn)
        yield from zip(pieces[::2], [*pieces[1::2], ""], strict=True)
        return
    begin, at = 0, 0
    while at < len(dn):
        if dn[at] == "\\":
            at += 1
        elif dn[at] in ",;+":
            yield dn[begin:at], dn[at]
            begin = at + 1
        at += 1
    yield dn[begin:], ""


def _unescaped(value: str) -> str:
    """An attribute value with its escapes (RFC 4514 §2.4) undone."""
    if "\\" not in value:
        return value.strip().encode("utf-8", "replace").decode()
    told, at = bytearray(), 0
    value = value.strip() if not value.rstrip().endswith("\\") else value.lstrip()
    while at < len(value):
        pair = value[at + 1 : at + 3]
        if value[at] == "\\" and re.fullmatch("[0-9A-Fa-f]{2}", pair):
            told += bytes.fromhex(pair)
            at += 3
            continue
        if value[at] == "\\":
            at += 1
        told += value[at : at + 1].encode("utf-8", "replace")
        at += 1
    return told.decode("utf-8", "replace")
