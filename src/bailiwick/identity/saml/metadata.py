"""Metadata (SAML 2.0 metadata): a provider's, from which alone its keys and addresses come, and ours."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from bailiwick.identity.saml.encryption import GCM, OAEP, OAEP_MGF1P
from bailiwick.identity.saml.refusals import Refused
from bailiwick.identity.saml.signature import SigningKey
from bailiwick.identity.saml.xml import (
    DS,
    MD,
    SAMLP,
    XENC,
    Element,
    at_most_one,
    children,
    etree,
    instant,
    only,
    parse,
    required,
    text_of,
)

MAX_METADATA = 512 * 1024
REDIRECT = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect"
POST = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST"
_SMALLEST_RSA = 2048
_MOST_KEYS = 8


@dataclass(frozen=True, slots=True)
class IdpMetadata:
    """What we know of a provider. Addresses by binding, "" where it has none. ``valid_until`` None: without end."""

    entity_id: str
    certificates: tuple[x509.Certificate, ...]
    sso_redirect: str
    sso_post: str
    slo_redirect: str
    slo_post: str
    slo_response_redirect: str
    slo_response_post: str
    valid_until: datetime | None


@dataclass(frozen=True, slots=True)
class OurEndpoints:
    """Our names and addresses towards one provider."""

    entity_id: str
    acs_url: str
    slo_url: str


def read_idp_metadata(data: bytes) -> IdpMetadata:
    """The provider that an EntityDescriptor describes. Raises ``Refused`` saying what is wrong with it."""
    root = parse(data, MAX_METADATA)
    if root.tag != f"{{{MD}}}EntityDescriptor":
        raise Refused("saml_malformed", "The metadata is not one EntityDescriptor; cut out the provider's own.")
    entity_id = required(root, "entityID")
    if len(entity_id) > 1024:
        raise Refused("saml_malformed", "The entityID is too long.")
    roles = [
        role
        for role in children(root, MD, "IDPSSODescriptor")
        if SAMLP in required(role, "protocolSupportEnumeration").split()
    ]
    if len(roles) != 1:
        raise Refused("saml_malformed", "The metadata does not hold exactly one IDPSSODescriptor of SAML 2.0.")
    role = roles[0]
    sso, slo = _addresses(role, "SingleSignOnService"), _addresses(role, "SingleLogoutService")
    if REDIRECT not in sso and POST not in sso:
        raise Refused("saml_malformed", "The metadata names no SingleSignOnService by redirect or POST.")
    until = [instant(each.get("validUntil")) for each in (root, role) if each.get("validUntil")]
    return IdpMetadata(
        entity_id=entity_id,
        certificates=tuple(_certificates(role)),
        sso_redirect=sso.get(REDIRECT, ("", ""))[0],
        sso_post=sso.get(POST, ("", ""))[0],
        slo_redirect=slo.get(REDIRECT, ("", ""))[0],
        slo_post=slo.get(POST, ("", ""))[0],
        slo_response_redirect=slo.get(REDIRECT, ("", ""))[1],
        slo_response_post=slo.get(POST, ("", ""))[1],
        valid_until=min(until) if until else None,
    )


def our_metadata(ours: OurEndpoints, signing: SigningKey, encryption: SigningKey, *, cbc: bool = False) -> bytes:
    """The EntityDescriptor that the provider is given."""
    root = etree.Element(f"{{{MD}}}EntityDescriptor", {"entityID": ours.entity_id}, nsmap={"md": MD, "ds": DS})
    role = etree.SubElement(
        root,
        f"{{{MD}}}SPSSODescriptor",
        {"AuthnRequestsSigned": "true", "WantAssertionsSigned": "true", "protocolSupportEnumeration": SAMLP},
    )
    _key_descriptor(role, "signing", signing.certificate)
    descriptor = _key_descriptor(role, "encryption", encryption.certificate)
    for algorithm in (*reversed(GCM), *([f"{XENC}aes256-cbc", f"{XENC}aes128-cbc"] if cbc else []), OAEP, OAEP_MGF1P):
        etree.SubElement(descriptor, f"{{{MD}}}EncryptionMethod", {"Algorithm": algorithm})
    for binding in (REDIRECT, POST):
        etree.SubElement(role, f"{{{MD}}}SingleLogoutService", {"Binding": binding, "Location": ours.slo_url})
    for name_format in (
        "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent",
        "urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress",
        "urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified",
    ):
        etree.SubElement(role, f"{{{MD}}}NameIDFormat").text = name_format
    etree.SubElement(
        role,
        f"{{{MD}}}AssertionConsumerService",
        {"Binding": POST, "Location": ours.acs_url, "index": "0", "isDefault": "true"},
    )
    return bytes(etree.tostring(root, encoding="utf-8", xml_declaration=True))


def own_certificate(key: rsa.RSAPrivateKey) -> x509.Certificate:
    """A self-signed certificate for our key: metadata carry keys in this form. The same key gives the same bytes.

    Providers pin it; what it says of names and times means nothing (SAML metadata interoperability profile 2.5).
    """
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Bailiwick service provider")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(hashlib.sha256(public).digest()[:16], "big") >> 1 or 1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2049, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )


def usable_address(url: str) -> bool:
    """Whether a browser may be sent there: https, or plain http on this machine."""
    parts = urlsplit(url)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username
        or parts.fragment
        or len(url) > 2000
    ):
        return False
    if any(char <= " " or char in "\"'<>\\;," or char > "~" for char in url):
        return False
    return parts.scheme == "https" or _loopback(parts.hostname)


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _addresses(role: Element, service: str) -> dict[str, tuple[str, str]]:
    """Location and response location by binding, the first of each binding counting."""
    found: dict[str, tuple[str, str]] = {}
    for each in children(role, MD, service):
        binding, location = required(each, "Binding"), required(each, "Location")
        if binding not in (REDIRECT, POST) or binding in found:
            continue
        back = each.get("ResponseLocation") or location
        if not usable_address(location) or not usable_address(back):
            raise Refused("saml_malformed", f"The {service} is not an https address.")
        found[binding] = (location, back)
    return found


def _certificates(role: Element) -> Iterable[x509.Certificate]:
    found: dict[bytes, x509.Certificate] = {}
    for descriptor in children(role, MD, "KeyDescriptor"):
        if descriptor.get("use") not in (None, "signing"):
            continue
        for data in children(only(descriptor, DS, "KeyInfo"), DS, "X509Data"):
            element = at_most_one(data, DS, "X509Certificate")
            if element is not None:
                certificate = _certificate(text_of(element))
                found[certificate.fingerprint(hashes.SHA256())] = certificate
    if not 1 <= len(found) <= _MOST_KEYS:
        raise Refused("saml_malformed", "The metadata holds no signing certificate, or too many.")
    return found.values()


def _certificate(text: str) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode("".join(text.split()), validate=True))
        key = certificate.public_key()
    except (binascii.Error, ValueError, TypeError):
        raise Refused("saml_malformed", "A signing certificate of the metadata cannot be read.") from None
    strong = (isinstance(key, rsa.RSAPublicKey) and key.key_size >= _SMALLEST_RSA) or (
        isinstance(key, ec.EllipticCurvePublicKey) and key.key_size >= 256
    )
    if not strong:
        raise Refused("saml_malformed", "A signing key of the metadata is too weak, or of an unknown kind.")
    return certificate


def _key_descriptor(role: Element, use: str, certificate: x509.Certificate) -> Element:
    descriptor = etree.SubElement(role, f"{{{MD}}}KeyDescriptor", {"use": use})
    info = etree.SubElement(descriptor, f"{{{DS}}}KeyInfo")
    data = etree.SubElement(info, f"{{{DS}}}X509Data")
    der = certificate.public_bytes(serialization.Encoding.DER)
    etree.SubElement(data, f"{{{DS}}}X509Certificate").text = base64.b64encode(der).decode()
    return descriptor
