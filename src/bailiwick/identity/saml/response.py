"""What a provider says of somebody: a Response, judged to the last rule before anything in it is believed.

The order is that of the profile: the shape; the signature, by a key of the stored metadata, on the very assertion
that is read; whom and what it is for; when. Only the element that the signature check hands back is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from bailiwick.identity.saml.encryption import decrypted
from bailiwick.identity.saml.refusals import Refused
from bailiwick.identity.saml.signature import is_signed, verified
from bailiwick.identity.saml.xml import (
    DS,
    SAML,
    SAMLP,
    Element,
    at_most_one,
    children,
    instant,
    local_name,
    only,
    parse,
    required,
    serialised,
    text_of,
)

SKEW = timedelta(seconds=60)
# a validity longer than this would have the replay cache remember for ever
MAX_VALIDITY = timedelta(hours=24)
MAX_VALUE = 2_000
MAX_VALUES = 2_000
SUCCESS = "urn:oasis:names:tc:SAML:2.0:status:Success"
BEARER = "urn:oasis:names:tc:SAML:2.0:cm:bearer"
_RESPONSE = f"{{{SAMLP}}}Response"
_ASSERTION = f"{{{SAML}}}Assertion"
_ENCRYPTED = f"{{{SAML}}}EncryptedAssertion"
_RESPONSE_PARTS = frozenset((f"{{{SAML}}}Issuer", f"{{{DS}}}Signature", f"{{{SAMLP}}}Status", _ASSERTION, _ENCRYPTED))
_KNOWN_CONDITIONS = frozenset(f"{{{SAML}}}{name}" for name in ("AudienceRestriction", "OneTimeUse", "ProxyRestriction"))


@dataclass(frozen=True, slots=True)
class Expected:
    """What a response must be for: our names, the provider's name and keys, the request it answers, the time.

    ``request_id`` None: nobody asked, and the provider may start a sign-in itself.
    """

    sp_entity_id: str
    acs_url: str
    idp_entity_id: str
    certificates: Sequence[x509.Certificate]
    request_id: str | None
    now: datetime
    decryption_key: rsa.RSAPrivateKey | None = None
    allow_cbc: bool = False
    require_encryption: bool = False


@dataclass(frozen=True, slots=True)
class Assertion:
    """What the provider vouches for. ``session_until``: when it wants the session over; ``expires_at``: to remember."""

    id: str
    issuer: str
    name_id: str
    name_id_format: str
    name_qualifier: str
    sp_name_qualifier: str
    attributes: dict[str, tuple[str, ...]]
    session_index: str
    session_until: datetime | None
    authn_instant: datetime
    issued_at: datetime
    authn_context: str
    expires_at: datetime


def in_response_to(data: bytes) -> str | None:
    """Which request a response *says* it answers: good for finding it, and believed only after :func:`consume`."""
    root = parse(data)
    if root.tag != _RESPONSE:
        raise Refused("saml_malformed", "The message is not a Response.")
    value = root.get("InResponseTo")
    return None if value is None else str(value)


def consume(data: bytes, expected: Expected) -> Assertion:
    """The assertion of the Response ``data`` (XML, not base64). Raises ``Refused`` for whatever breaks a rule."""
    response = parse(data)
    if response.tag != _RESPONSE:
        raise Refused("saml_malformed", "The message is not a Response.")
    if is_signed(response):
        response = verified(data, _RESPONSE, expected.certificates, expected.now)
    _judge_response(response, expected)
    signed = verified(_assertion_document(response, expected), _ASSERTION, expected.certificates, expected.now)
    return _judge_assertion(signed, expected)


def _judge_response(response: Element, expected: Expected) -> None:
    if response.get("Version") != "2.0":
        raise Refused("saml_malformed", "The response is not of SAML 2.0.")
    required(response, "ID")
    if instant(required(response, "IssueInstant")) > expected.now + SKEW:
        raise Refused("saml_expired", "The response is issued in the future.")
    if response.get("Destination") != expected.acs_url:
        raise Refused("saml_not_for_us", "The response's Destination is not our assertion consumer service.")
    if response.get("InResponseTo") != expected.request_id:
        raise Refused("saml_unsolicited", "The response does not answer the request that was made.")
    issuer = at_most_one(response, SAML, "Issuer")
    if issuer is not None and text_of(issuer) != expected.idp_entity_id:
        raise Refused("saml_not_for_us", "The response's Issuer is not the provider of the metadata.")
    code = only(only(response, SAMLP, "Status"), SAMLP, "StatusCode")
    if code.get("Value") != SUCCESS:
        inner = at_most_one(code, SAMLP, "StatusCode")
        told = (code if inner is None else inner).get("Value", "").rpartition(":")[2]
        told = told if told.isascii() and told.isalpha() and len(told) <= 60 else "an unknown status"
        raise Refused("saml_provider_refused", f"The provider answered {told}.")


def _assertion_document(response: Element, expected: Expected) -> bytes:
    """The one assertion of a response as a document of its own, decrypted if it was encrypted, not yet believed."""
    for child in response:
        if child.tag not in _RESPONSE_PARTS:
            raise Refused("saml_malformed", f"{local_name(child)} is not expected in a Response.")
    plain, encrypted = children(response, SAML, "Assertion"), children(response, SAML, "EncryptedAssertion")
    if len(plain) + len(encrypted) != 1 or _assertions_within(response) != 1:
        raise Refused("saml_malformed", "The response does not hold exactly one assertion.")
    if plain:
        if expected.require_encryption:
            raise Refused("saml_undecryptable", "The assertion is not encrypted, and the settings ask for it.")
        return serialised(plain[0])
    if expected.decryption_key is None:
        raise Refused("saml_undecryptable", "The assertion is encrypted and we have no key for that.")
    document = decrypted(encrypted[0], expected.decryption_key, cbc=expected.allow_cbc)
    if _assertions_within(parse(document)) != 1:
        raise Refused("saml_malformed", "The response does not hold exactly one assertion.")
    return document


def _assertions_within(root: Element) -> int:
    """How many elements are called Assertion or EncryptedAssertion, at whatever depth and in whatever namespace."""
    return sum(local_name(element) in ("Assertion", "EncryptedAssertion") for element in root.iter())


def _judge_assertion(assertion: Element, expected: Expected) -> Assertion:
    if assertion.get("Version") != "2.0" or _assertions_within(assertion) != 1:
        raise Refused("saml_malformed", "The assertion is not one of SAML 2.0.")
    issued_at = instant(required(assertion, "IssueInstant"))
    if issued_at > expected.now + SKEW:
        raise Refused("saml_expired", "The assertion is issued in the future.")
    if text_of(only(assertion, SAML, "Issuer")) != expected.idp_entity_id:
        raise Refused("saml_not_for_us", "The assertion's Issuer is not the provider of the metadata.")
    subject = only(assertion, SAML, "Subject")
    confirmed_until = _confirmed(subject, expected)
    valid_until = _judge_conditions(only(assertion, SAML, "Conditions"), expected)
    index, session_until, instant_, authn_context = _authentication(assertion, expected)
    name = only(subject, SAML, "NameID")
    name_id = text_of(name)
    if not name_id or len(name_id) > MAX_VALUE:
        raise Refused("saml_malformed", "The NameID is empty or too long.")
    return Assertion(
        id=required(assertion, "ID"),
        issuer=expected.idp_entity_id,
        name_id=name_id,
        name_id_format=name.get("Format", ""),
        name_qualifier=name.get("NameQualifier", ""),
        sp_name_qualifier=name.get("SPNameQualifier", ""),
        attributes=_attributes(assertion),
        session_index=index,
        session_until=session_until,
        authn_instant=instant_,
        issued_at=issued_at,
        authn_context=authn_context,
        expires_at=min(confirmed_until, valid_until) + SKEW,
    )


def _confirmed(subject: Element, expected: Expected) -> datetime:
    """Until when the bearer may come with it (SAML profiles 4.1.4.2); the first confirmation that suits counts."""
    refusal = Refused("saml_not_for_us", "The assertion is not confirmed for a bearer.")
    for confirmation in children(subject, SAML, "SubjectConfirmation"):
        if confirmation.get("Method") != BEARER:
            continue
        try:
            return _judge_bearer(only(confirmation, SAML, "SubjectConfirmationData"), expected)
        except Refused as error:
            refusal = error
    raise refusal


def _judge_bearer(data: Element, expected: Expected) -> datetime:
    if data.get("Recipient") != expected.acs_url:
        raise Refused("saml_not_for_us", "The assertion's Recipient is not our assertion consumer service.")
    if data.get("InResponseTo") != expected.request_id:
        raise Refused("saml_unsolicited", "The assertion does not answer the request that was made.")
    until = instant(required(data, "NotOnOrAfter"))
    _judge_time(data.get("NotBefore"), until, expected.now)
    return until


def _judge_conditions(conditions: Element, expected: Expected) -> datetime:
    if any(child.tag not in _KNOWN_CONDITIONS for child in conditions):
        raise Refused("saml_malformed", "The assertion sets a condition that we do not know.")
    until = instant(required(conditions, "NotOnOrAfter"))
    _judge_time(conditions.get("NotBefore"), until, expected.now)
    restrictions = children(conditions, SAML, "AudienceRestriction")
    if not restrictions:
        raise Refused("saml_not_for_us", "The assertion names no audience.")
    for restriction in restrictions:
        if expected.sp_entity_id not in [text_of(audience) for audience in children(restriction, SAML, "Audience")]:
            raise Refused("saml_not_for_us", "The assertion is for another audience.")
    return until


def _judge_time(not_before: str | None, until: datetime, now: datetime) -> None:
    if not_before is not None and instant(not_before) > now + SKEW:
        raise Refused("saml_expired", "The assertion is not valid yet; compare the clocks.")
    if until <= now - SKEW:
        raise Refused("saml_expired", "The assertion is too old; sign in again, or compare the clocks.")
    if until > now + MAX_VALIDITY:
        raise Refused("saml_expired", "The assertion is valid for longer than a day.")


def _authentication(assertion: Element, expected: Expected) -> tuple[str, datetime | None, datetime, str]:
    statements = children(assertion, SAML, "AuthnStatement")
    if not statements:
        raise Refused("saml_malformed", "The assertion does not say that anybody authenticated.")
    statement = statements[0]
    when = instant(required(statement, "AuthnInstant"))
    if when > expected.now + SKEW:
        raise Refused("saml_expired", "The authentication is in the future.")
    ends = [instant(one.get("SessionNotOnOrAfter")) for one in statements if one.get("SessionNotOnOrAfter")]
    until = min(ends) if ends else None
    if until is not None and until <= expected.now:
        raise Refused("saml_expired", "The provider's session is over.")
    authn_context = only(statement, SAML, "AuthnContext")
    reference = at_most_one(authn_context, SAML, "AuthnContextClassRef")
    index = statement.get("SessionIndex", "")
    if len(index) > MAX_VALUE:
        raise Refused("saml_malformed", "The SessionIndex is too long.")
    return index, until, when, "" if reference is None else text_of(reference)[:MAX_VALUE]


def _attributes(assertion: Element) -> dict[str, tuple[str, ...]]:
    """Attributes by Name, and by FriendlyName where no Name is the same; values other than plain text are left out."""
    named: dict[str, list[str]] = {}
    friendly: dict[str, list[str]] = {}
    for statement in children(assertion, SAML, "AttributeStatement"):
        for attribute in children(statement, SAML, "Attribute"):
            values = [
                text
                for value in children(attribute, SAML, "AttributeValue")
                if not len(value) and (text := text_of(value)) and len(text) <= MAX_VALUE
            ]
            named.setdefault(required(attribute, "Name"), []).extend(values)
            if alias := attribute.get("FriendlyName"):
                friendly.setdefault(alias, []).extend(values)
    if sum(map(len, named.values())) > MAX_VALUES:
        raise Refused("saml_malformed", "The assertion has too many attribute values.")
    return {name: tuple(values) for name, values in {**friendly, **named}.items()}
