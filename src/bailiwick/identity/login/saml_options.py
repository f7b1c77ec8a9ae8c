"""A SAML provider, as an administrator configures it, and what its assertions say of a person under that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import Field, SecretStr, StringConstraints, field_validator

from bailiwick.identity.login.oidc_options import email_of, line_of, role_of, username_of
from bailiwick.identity.provisioning import MAX_GROUPS, MAX_SUBJECT
from bailiwick.identity.saml.metadata import MAX_METADATA, IdpMetadata, own_certificate, read_idp_metadata
from bailiwick.identity.saml.refusals import Refused
from bailiwick.identity.saml.response import Assertion
from bailiwick.identity.saml.signature import SigningKey
from bailiwick.identity.standing import RoleName
from bailiwick.kernel.fields import Body, Line

TRANSIENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"
_KEY_BITS = 3072
_Uri = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]*$", max_length=1000)]
_Attribute = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]*$", max_length=500)]


class SamlOptions(Body):
    """A SAML provider. Its ``metadata`` alone say which keys may sign for it and where browsers are sent."""

    metadata: Annotated[str, StringConstraints(pattern=r"^[^\x00]+$", max_length=MAX_METADATA)] = Field(
        description="The provider's EntityDescriptor, whole. It is never fetched"
    )
    entity_id: _Uri = Field("", description="Our entityID towards the provider; without it our metadata's address")
    binding: Literal["redirect", "post"] = Field("redirect", description="How sign-ins are sent to the provider")
    name_id_format: _Uri = Field("", description="The NameID format asked for; the provider's choice without it")
    username_attribute: _Attribute = Field("", description="Names new accounts; the NameID does without it")
    email_attribute: _Attribute = "mail"
    name_attribute: _Attribute = "displayName"
    groups_attribute: _Attribute = "groups"
    roles: Annotated[
        dict[Annotated[str, StringConstraints(min_length=1, max_length=500)], RoleName], Field(max_length=200)
    ] = Field(default_factory=dict, description="A value of groups_attribute and the role it gives; the highest counts")
    create_users: bool = Field(True, description="Make an account at a person's first sign-in")
    link_by_external_id: bool = Field(False, description="Take the account whose external id (SCIM) is the NameID")
    idp_initiated: bool = Field(False, description="Also take sign-ins that nobody asked for; prone to login CSRF")
    require_encryption: bool = Field(False, description="Refuse assertions that are not encrypted")
    allow_cbc: bool = Field(False, description="Take AES-CBC, which lets attackers alter ciphertext")
    force_authn: bool = Field(False, description="Have the provider ask for the credentials every time")
    context_classes: Annotated[list[_Uri], Field(max_length=10)] = Field(
        default_factory=list, description="AuthnContextClassRefs that the provider must satisfy"
    )
    mfa_contexts: Annotated[list[_Uri], Field(max_length=10)] = Field(
        default_factory=list, description="AuthnContextClassRefs that count as two factors here"
    )
    return_to: Annotated[list[Line], Field(max_length=20)] = Field(default_factory=list)

    @field_validator("metadata")
    @classmethod
    def _metadata_describe_a_provider(cls, text: str) -> str:
        try:
            read_idp_metadata(text.encode())
        except Refused as refused:
            raise ValueError(refused.detail) from None
        return text

    @property
    def leads_to(self) -> str:
        """Our private keys are sent nowhere."""
        return ""

    def vouches_as(self, name: str) -> str:
        """How what it says of people is known: by its entityID, whatever it is called here."""
        return f"saml:{self.idp().entity_id}"

    def idp(self) -> IdpMetadata:
        """The metadata, read."""
        return read_idp_metadata(self.metadata.encode())


class SamlSecrets(Body):
    """Our keys towards the provider, in PEM. Left out or null, they are made here."""

    signing_key: Annotated[SecretStr, Field(max_length=10_000)] | None = None
    encryption_key: Annotated[SecretStr, Field(max_length=10_000)] | None = None

    @field_validator("signing_key", "encryption_key")
    @classmethod
    def _is_a_key(cls, pem: SecretStr | None) -> SecretStr | None:
        if pem is not None:
            load_key(pem.get_secret_value())
        return pem


def complete_secrets(secrets: Mapping[str, str]) -> dict[str, str]:
    """The secrets with the keys that nobody gave. Takes long enough to be kept off the event loop."""
    return {name: secrets.get(name) or _new_key() for name in ("signing_key", "encryption_key")}


def load_key(pem: str) -> SigningKey:
    """A key and its certificate; raises ``ValueError``."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except (TypeError, ValueError):
        raise ValueError("is not an unencrypted private key in PEM") from None
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < 2048:
        raise ValueError("must be an RSA key of at least 2048 bits")
    return SigningKey(key, own_certificate(key))


@dataclass(frozen=True, slots=True)
class Vouched:
    """Who somebody is, by an assertion. ``role`` None: no role is mapped at all; ``none``: none of his groups is."""

    subject: str
    username: str
    email: str
    full_name: str
    role: str | None
    groups: tuple[str, ...]
    amr: tuple[str, ...]


def vouched(options: SamlOptions, assertion: Assertion, our_entity_id: str) -> Vouched:
    """What an assertion says under the provider's settings. Raises ``Refused`` for what cannot name an account."""
    if assertion.name_id_format == TRANSIENT:
        raise Refused("saml_malformed", "The NameID is transient; have the provider send a persistent one.")
    if assertion.name_qualifier not in ("", assertion.issuer):
        raise Refused("saml_not_for_us", "The NameID is of another provider (NameQualifier).")
    if assertion.sp_name_qualifier not in ("", our_entity_id):
        raise Refused("saml_not_for_us", "The NameID is for another service (SPNameQualifier).")
    if len(assertion.name_id) > MAX_SUBJECT or not assertion.name_id.isprintable():
        raise Refused("saml_malformed", "The NameID is too long or not printable.")
    told = assertion.attributes
    groups = told.get(options.groups_attribute, ())
    if len(groups) > MAX_GROUPS:
        raise Refused("saml_malformed", f"The provider names more than {MAX_GROUPS} groups.")
    username = username_of(
        _first(told, options.username_attribute) if options.username_attribute else assertion.name_id
    )
    if not username:
        raise Refused("saml_malformed", "The attribute that names the person is missing or not a name.")
    return Vouched(
        subject=assertion.name_id,
        username=username,
        email=email_of(_first(told, options.email_attribute)),
        full_name=line_of(_first(told, options.name_attribute)),
        role=role_of(options.roles, groups),
        groups=tuple(group for group in groups if len(group) <= 500 and group.isprintable()),
        amr=("fed", "mfa") if assertion.authn_context in options.mfa_contexts else ("fed",),
    )


def _first(attributes: Mapping[str, tuple[str, ...]], name: str) -> str:
    return next(iter(attributes.get(name, ())), "")


def _new_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
