"""Single logout (SAML profiles 4.4), both ways: the provider ends our sessions, and we tell it that one ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from bailiwick.identity.saml.metadata import OurEndpoints
from bailiwick.identity.saml.refusals import Refused
from bailiwick.identity.saml.request import Query, message
from bailiwick.identity.saml.response import MAX_VALUE, SKEW, SUCCESS
from bailiwick.identity.saml.signature import verified, verify_query
from bailiwick.identity.saml.xml import (
    SAML,
    SAMLP,
    Element,
    at_most_one,
    children,
    etree,
    instant,
    only,
    parse,
    required,
    stamp,
    text_of,
)

REQUEST, RESPONSE = f"{{{SAMLP}}}LogoutRequest", f"{{{SAMLP}}}LogoutResponse"
_MOST_SESSIONS = 100


@dataclass(frozen=True, slots=True)
class LogoutRequest:
    """The provider ends a person's sessions: those of ``session_indexes``, or all without any."""

    id: str
    name_id: str
    session_indexes: tuple[str, ...]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Peer:
    """Who may send us logout messages, and where they must be for."""

    entity_id: str
    certificates: Sequence[x509.Certificate]
    slo_url: str
    now: datetime


def logout_request(
    identifier: str,
    ours: OurEndpoints,
    destination: str,
    now: datetime,
    name_id: str,
    name_format: str,
    index: str,
    qualifier: str = "",
    sp_qualifier: str = "",
) -> Element:
    """A LogoutRequest for the session ``index`` of one person, named with all that the assertion named him by."""
    root = message("LogoutRequest", identifier, ours.entity_id, destination, now)
    root.set("NotOnOrAfter", stamp(now + 5 * SKEW))
    name = etree.SubElement(root, f"{{{SAML}}}NameID")
    name.text = name_id
    told = {"Format": name_format, "NameQualifier": qualifier, "SPNameQualifier": sp_qualifier}
    for attribute, value in told.items():
        if value:
            name.set(attribute, value)
    if index:
        etree.SubElement(root, f"{{{SAMLP}}}SessionIndex").text = index
    return root


def logout_response(
    identifier: str, ours: OurEndpoints, destination: str, now: datetime, answers: str, status: str = SUCCESS
) -> Element:
    """The answer to the provider's LogoutRequest ``answers``."""
    root = message("LogoutResponse", identifier, ours.entity_id, destination, now)
    root.set("InResponseTo", answers)
    code = etree.SubElement(etree.SubElement(root, f"{{{SAMLP}}}Status"), f"{{{SAMLP}}}StatusCode")
    code.set("Value", status)
    return root


def read(given: Query | bytes, peer: Peer) -> Element:
    """A logout message, by redirect with the signature in the query, or by POST with it in the XML; verified.

    Its tag says whether it is a :data:`REQUEST` or a :data:`RESPONSE`. Raises ``Refused``.
    """
    root = parse(given.message if isinstance(given, Query) else given)
    if root.tag not in (REQUEST, RESPONSE):
        raise Refused("saml_malformed", "The message is not a logout message.")
    if not isinstance(given, Query):
        root = verified(given, root.tag, peer.certificates, peer.now)
    elif (given.parameter == "SAMLRequest") != (root.tag == REQUEST):
        raise Refused("saml_malformed", "The message is not what its parameter says.")
    else:
        verify_query(given.raw, given.parameter, given.algorithm, given.signature, peer.certificates)
    _judge(root, peer)
    return root


def read_request(root: Element, peer: Peer) -> LogoutRequest:
    """A verified LogoutRequest. Raises ``Refused``."""
    until = instant(root.get("NotOnOrAfter")) if root.get("NotOnOrAfter") else instant(root.get("IssueInstant"))
    until = until if root.get("NotOnOrAfter") else until + 5 * SKEW
    if until <= peer.now - SKEW:
        raise Refused("saml_expired", "The logout request is too old.")
    name_id = text_of(only(root, SAML, "NameID"))
    indexes = tuple(text_of(each) for each in children(root, SAMLP, "SessionIndex"))
    if not name_id or len(name_id) > MAX_VALUE or len(indexes) > _MOST_SESSIONS:
        raise Refused("saml_malformed", "The logout request names nobody, or too much.")
    return LogoutRequest(required(root, "ID"), name_id, indexes, until + SKEW)


def read_response(root: Element, request_id: str) -> bool:
    """Whether a verified LogoutResponse to our request says that all is over. Raises ``Refused``."""
    if root.get("InResponseTo") != request_id:
        raise Refused("saml_unsolicited", "The response does not answer the request that was made.")
    code = only(only(root, SAMLP, "Status"), SAMLP, "StatusCode")
    return code.get("Value") == SUCCESS and at_most_one(code, SAMLP, "StatusCode") is None


def _judge(root: Element, peer: Peer) -> None:
    if root.get("Version") != "2.0":
        raise Refused("saml_malformed", "The message is not of SAML 2.0.")
    required(root, "ID")
    if root.get("Destination") != peer.slo_url:
        raise Refused("saml_not_for_us", "The message's Destination is not our logout service.")
    if text_of(only(root, SAML, "Issuer")) != peer.entity_id:
        raise Refused("saml_not_for_us", "The message's Issuer is not the provider of the metadata.")
    issued = instant(required(root, "IssueInstant"))
    if not peer.now - 10 * SKEW <= issued <= peer.now + SKEW:
        raise Refused("saml_expired", "The message is too old, or issued in the future.")
