"""What we send: an AuthnRequest, and any message by the redirect and the POST binding (SAML bindings 3.4, 3.5)."""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from urllib.parse import unquote_plus

from bailiwick.identity.saml.metadata import POST, OurEndpoints
from bailiwick.identity.saml.refusals import Refused
from bailiwick.identity.saml.signature import SigningKey, signed, signed_query
from bailiwick.identity.saml.xml import MAX_MESSAGE, SAML, SAMLP, Element, etree, serialised, stamp

Parameter = Literal["SAMLRequest", "SAMLResponse"]
MAX_QUERY = 64 * 1024
MAX_RELAY_STATE = 80  # bytes, bindings 3.4.3


@dataclass(frozen=True, slots=True)
class Query:
    """A message that came by redirect: its XML, and the query's parts as they were signed."""

    parameter: Parameter
    message: bytes
    relay_state: str
    algorithm: str
    signature: str
    raw: dict[str, str]


def authn_request(
    identifier: str,
    ours: OurEndpoints,
    destination: str,
    now: datetime,
    *,
    name_id_format: str = "",
    force_authn: bool = False,
    context_classes: tuple[str, ...] = (),
) -> Element:
    """An AuthnRequest that wants its answer by POST at our assertion consumer service."""
    root = message("AuthnRequest", identifier, ours.entity_id, destination, now)
    root.set("AssertionConsumerServiceURL", ours.acs_url)
    root.set("ProtocolBinding", POST)
    if force_authn:
        root.set("ForceAuthn", "true")
    policy = etree.SubElement(root, f"{{{SAMLP}}}NameIDPolicy", {"AllowCreate": "true"})
    if name_id_format:
        policy.set("Format", name_id_format)
    if context_classes:
        wanted = etree.SubElement(root, f"{{{SAMLP}}}RequestedAuthnContext", {"Comparison": "exact"})
        for each in context_classes:
            etree.SubElement(wanted, f"{{{SAML}}}AuthnContextClassRef").text = each
    return root


def redirect_url(destination: str, parameter: Parameter, message: Element, relay_state: str, by: SigningKey) -> str:
    """Where to send the browser, the message in the query and signed there."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflater.compress(serialised(message)) + deflater.flush()
    query = signed_query(by, parameter, base64.b64encode(packed).decode(), relay_state)
    return f"{destination}{'&' if '?' in destination else '?'}{query}"


def post_fields(parameter: Parameter, message: Element, relay_state: str, by: SigningKey) -> dict[str, str]:
    """The fields of the form that takes the signed message to the provider."""
    document = base64.b64encode(signed(message, by, after=f"{{{SAML}}}Issuer")).decode()
    return {parameter: document, "RelayState": relay_state} if relay_state else {parameter: document}


def from_base64(text: str) -> bytes:
    """The XML of a POST binding's field. Raises ``Refused``."""
    if len(text) > MAX_MESSAGE * 4 // 3 + 4:
        raise Refused("saml_malformed", "The message is too large.")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused("saml_malformed", "The message is not in base64.") from None


def read_query(query: str) -> Query:
    """A redirect's query string, still encoded. Raises ``Refused``: too much, twice the same, not deflated."""
    if len(query) > MAX_QUERY or not query.isascii():
        raise Refused("saml_malformed", "The query is too long.")
    raw: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name not in ("SAMLRequest", "SAMLResponse", "RelayState", "SigAlg", "Signature"):
            continue
        if name in raw:
            raise Refused("saml_malformed", f"{name} stands twice in the query.")
        raw[name] = value
    if ("SAMLRequest" in raw) == ("SAMLResponse" in raw):
        raise Refused("saml_malformed", "The query does not hold exactly one SAML message.")
    parameter: Parameter = "SAMLRequest" if "SAMLRequest" in raw else "SAMLResponse"
    plain = {name: unquote_plus(value) for name, value in raw.items()}
    return Query(
        parameter,
        _inflated(from_base64(plain[parameter])),
        plain.get("RelayState", ""),
        plain.get("SigAlg", ""),
        plain.get("Signature", ""),
        raw,
    )


def _inflated(packed: bytes) -> bytes:
    """Raw deflate undone, to no more than a message may have: a small bomb is not let off."""
    inflater = zlib.decompressobj(-15)
    try:
        data = inflater.decompress(packed, MAX_MESSAGE + 1)
    except zlib.error:
        raise Refused("saml_malformed", "The message is not deflated.") from None
    if len(data) > MAX_MESSAGE or not inflater.eof or inflater.unused_data:
        raise Refused("saml_malformed", "The message is too large, or not whole.")
    return data


def message(kind: str, identifier: str, entity_id: str, destination: str, now: datetime) -> Element:
    """A protocol message with what all have: an ID, a time, whom it is for and from."""
    root = etree.Element(
        f"{{{SAMLP}}}{kind}",
        {"ID": identifier, "Version": "2.0", "IssueInstant": stamp(now), "Destination": destination},
        nsmap={"samlp": SAMLP, "saml": SAML},
    )
    etree.SubElement(root, f"{{{SAML}}}Issuer").text = entity_id
    return root
