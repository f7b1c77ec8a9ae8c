"""An identity provider of our own: it signs, encrypts, and can be told to say anything."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from lxml import etree
from signxml import CanonicalizationMethod, DigestAlgorithm, SignatureConstructionMethod, SignatureMethod, XMLSigner

from bailiwick.identity.saml.metadata import own_certificate
from bailiwick.identity.saml.signature import SigningKey
from bailiwick.identity.saml.xml import stamp

SAML = "urn:oasis:names:tc:SAML:2.0:assertion"
SAMLP = "urn:oasis:names:tc:SAML:2.0:protocol"
DS = "http://www.w3.org/2000/09/xmldsig#"
XENC = "http://www.w3.org/2001/04/xmlenc#"
IDP = "https://idp.example.com/metadata"
SP = "https://bailiwick.example.com/api/v1/auth/saml/corp/metadata"
ACS = "https://bailiwick.example.com/api/v1/auth/saml/corp/acs"
SLO = "https://bailiwick.example.com/api/v1/auth/saml/corp/slo"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NSMAP = {"saml": SAML, "samlp": SAMLP, "ds": DS}


def key(name: str = "idp") -> SigningKey:
    """A key of that name, the same throughout a run."""
    return _key(name)


@cache
def _key(name: str) -> SigningKey:
    private = rsa.generate_private_key(65537, 2048)
    return SigningKey(private, own_certificate(private))


def idp_metadata(
    entity_id: str = IDP, *, extra: str = "", signing: str = "idp", base: str = "https://idp.example.com"
) -> str:
    der = key(signing).certificate.public_bytes(serialization.Encoding.DER)
    return (
        f'<md:EntityDescriptor xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata" xmlns:ds="{DS}" entityID="{entity_id}"{extra}>'
        f'<md:IDPSSODescriptor protocolSupportEnumeration="{SAMLP}"><md:KeyDescriptor use="signing"><ds:KeyInfo><ds:X509Data>'
        f"<ds:X509Certificate>{base64.b64encode(der).decode()}</ds:X509Certificate></ds:X509Data></ds:KeyInfo>"
        "</md:KeyDescriptor>"
        + "".join(
            f'<md:SingleLogoutService Binding="urn:oasis:names:tc:SAML:2.0:bindings:{binding}" Location="{base}/slo"/>'
            for binding in ("HTTP-Redirect", "HTTP-POST")
        )
        + "".join(
            f'<md:SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:{binding}" Location="{base}/sso"/>'
            for binding in ("HTTP-Redirect", "HTTP-POST")
        )
        + "</md:IDPSSODescriptor></md:EntityDescriptor>"
    )


def pem(name: str) -> str:
    """A key of that name as a provider's settings take it."""
    return (
        key(name)
        .key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


@dataclass(frozen=True)
class Said:
    """What the provider says; every field can be made a lie. None leaves the thing out."""

    name_id: str = "jane"
    name_format: str = "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent"
    attributes: dict[str, list[str]] = field(
        default_factory=lambda: {"mail": ["jane@example.com"], "groups": ["staff", "ops"]}
    )
    issuer: str | None = IDP
    response_issuer: str | None = IDP
    destination: str | None = ACS
    recipient: str | None = ACS
    audience: str | None = SP
    request_id: str | None = "_request"
    confirmed_request_id: str | None = "same"
    response_id: str = "_response"
    assertion_id: str = "_assertion"
    now: datetime = NOW
    not_before: timedelta = timedelta(seconds=-30)
    not_on_or_after: timedelta = timedelta(minutes=5)
    session_index: str = "_session"
    session_until: timedelta | None = None
    status: str = "urn:oasis:names:tc:SAML:2.0:status:Success"
    method: str = "urn:oasis:names:tc:SAML:2.0:cm:bearer"
    authn_statement: bool = True
    more_conditions: str = ""

    def but(self, **changes: Any) -> Said:
        return replace(self, **changes)

    def assertion(self) -> Any:
        in_response_to = self.request_id if self.confirmed_request_id == "same" else self.confirmed_request_id
        until = stamp(self.now + self.not_on_or_after)
        session = "" if self.session_until is None else f' SessionNotOnOrAfter="{stamp(self.now + self.session_until)}"'
        text = (
            f'<saml:Assertion xmlns:saml="{SAML}" ID="{self.assertion_id}" Version="2.0" IssueInstant="{stamp(self.now)}">'
            + (f"<saml:Issuer>{self.issuer}</saml:Issuer>" if self.issuer is not None else "")
            + f'<saml:Subject><saml:NameID Format="{self.name_format}">{self.name_id}</saml:NameID>'
            f'<saml:SubjectConfirmation Method="{self.method}"><saml:SubjectConfirmationData NotOnOrAfter="{until}"'
            + (f' Recipient="{self.recipient}"' if self.recipient is not None else "")
            + (f' InResponseTo="{in_response_to}"' if in_response_to is not None else "")
            + "/></saml:SubjectConfirmation></saml:Subject>"
            f'<saml:Conditions NotBefore="{stamp(self.now + self.not_before)}" NotOnOrAfter="{until}">'
            + (
                f"<saml:AudienceRestriction><saml:Audience>{self.audience}</saml:Audience></saml:AudienceRestriction>"
                if self.audience is not None
                else ""
            )
            + f"{self.more_conditions}</saml:Conditions>"
            + (
                f'<saml:AuthnStatement AuthnInstant="{stamp(self.now)}" SessionIndex="{self.session_index}"{session}>'
                "<saml:AuthnContext><saml:AuthnContextClassRef>urn:oasis:names:tc:SAML:2.0:ac:classes:"
                "PasswordProtectedTransport</saml:AuthnContextClassRef></saml:AuthnContext></saml:AuthnStatement>"
                if self.authn_statement
                else ""
            )
            + "<saml:AttributeStatement>"
            + "".join(
                f'<saml:Attribute Name="{name}">'
                + "".join(f"<saml:AttributeValue>{value}</saml:AttributeValue>" for value in values)
                + "</saml:Attribute>"
                for name, values in self.attributes.items()
            )
            + "</saml:AttributeStatement></saml:Assertion>"
        )
        return etree.fromstring(text)

    def response(self, *parts: Any) -> Any:
        root = etree.Element(
            f"{{{SAMLP}}}Response",
            {"ID": self.response_id, "Version": "2.0", "IssueInstant": stamp(self.now)},
            nsmap={"samlp": SAMLP, "saml": SAML},
        )
        if self.destination is not None:
            root.set("Destination", self.destination)
        if self.request_id is not None:
            root.set("InResponseTo", self.request_id)
        if self.response_issuer is not None:
            etree.SubElement(root, f"{{{SAML}}}Issuer").text = self.response_issuer
        status = etree.SubElement(root, f"{{{SAMLP}}}Status")
        etree.SubElement(status, f"{{{SAMLP}}}StatusCode", {"Value": self.status})
        root.extend(parts)
        return root


class _AnySigner(XMLSigner):
    """Signs by SHA-1 too, which signxml will not."""

    def check_deprecated_methods(self) -> None:
        pass


def sign(
    element: Any,
    by: SigningKey | None = None,
    *,
    method: SignatureMethod = SignatureMethod.RSA_SHA256,
    digest: DigestAlgorithm = DigestAlgorithm.SHA256,
    c14n: CanonicalizationMethod = CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0,
) -> Any:
    """The element with an enveloped signature behind its Issuer, the certificate in it."""
    by = by or key()
    placeholder = etree.SubElement(element, f"{{{DS}}}Signature", {"Id": "placeholder"}, nsmap={"ds": DS})
    issuer = element.find(f"{{{SAML}}}Issuer")
    element.insert(0 if issuer is None else element.index(issuer) + 1, placeholder)
    signer = _AnySigner(
        method=SignatureConstructionMethod.enveloped, signature_algorithm=method, digest_algorithm=digest,
        c14n_algorithm=c14n,
    )  # fmt: skip
    return signer.sign(
        element, key=by.key, cert=[by.certificate], reference_uri="#" + element.get("ID"), id_attribute="ID"
    )


def encrypt(assertion: Any, to: SigningKey, *, mode: str = "gcm", transport: str = "oaep") -> Any:
    """An EncryptedAssertion."""
    plain, content_key = etree.tostring(assertion), os.urandom(16)
    if mode == "gcm":
        nonce = os.urandom(12)
        algorithm, cipher = (
            "http://www.w3.org/2009/xmlenc11#aes128-gcm",
            nonce + AESGCM(content_key).encrypt(nonce, plain, None),
        )
    else:
        iv, pad = os.urandom(16), 16 - len(plain) % 16
        worker = Cipher(AES(content_key), CBC(iv)).encryptor()
        algorithm = f"{XENC}aes128-cbc"
        cipher = iv + worker.update(plain + os.urandom(pad - 1) + bytes([pad])) + worker.finalize()
    public = to.key.public_key()
    if transport == "oaep":
        how, wrapped = (
            f"{XENC}rsa-oaep-mgf1p",
            public.encrypt(content_key, padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)),
        )
    else:
        how, wrapped = f"{XENC}rsa-1_5", public.encrypt(content_key, padding.PKCS1v15())
    return etree.fromstring(
        f'<saml:EncryptedAssertion xmlns:saml="{SAML}" xmlns:xenc="{XENC}" xmlns:ds="{DS}"><xenc:EncryptedData>'
        f'<xenc:EncryptionMethod Algorithm="{algorithm}"/><ds:KeyInfo><xenc:EncryptedKey>'
        f'<xenc:EncryptionMethod Algorithm="{how}"/><xenc:CipherData><xenc:CipherValue>'
        f"{base64.b64encode(wrapped).decode()}</xenc:CipherValue></xenc:CipherData></xenc:EncryptedKey></ds:KeyInfo>"
        f"<xenc:CipherData><xenc:CipherValue>{base64.b64encode(cipher).decode()}</xenc:CipherValue></xenc:CipherData>"
        "</xenc:EncryptedData></saml:EncryptedAssertion>"
    )


def signed_response(said: Said | None = None, *, both: bool = False) -> bytes:
    """A response whose assertion, and with ``both`` itself too, is signed."""
    said = said or Said()
    response = said.response(sign(said.assertion()))
    return bytes(etree.tostring(sign(response) if both else response))


def self_signed_like(certificate: x509.Certificate) -> SigningKey:
    """Somebody else's key under a certificate that says the same of itself."""
    private = rsa.generate_private_key(65537, 2048)
    made = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.issuer)
        .public_key(private.public_key())
        .serial_number(certificate.serial_number)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
        .sign(private, hashes.SHA256())
    )
    return SigningKey(private, made)
