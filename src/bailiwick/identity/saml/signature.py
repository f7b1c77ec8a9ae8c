"""Signatures: XML-DSig enveloped, and the redirect binding's detached ones. The key is the caller's, never KeyInfo's.

A signature is accepted in one shape only: a direct child of the document's root, one reference, to that root by its
ID, the transforms *enveloped* and *exclusive c14n*, SHA-256 or better. What is handed on is the element that signxml
built from the very bytes it verified; nobody looks at the message again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from signxml.algorithms import (
    CanonicalizationMethod,
    DigestAlgorithm,
    SignatureConstructionMethod,
    SignatureMethod,
)
from signxml.exceptions import SignXMLException
from signxml.signer import XMLSigner
from signxml.verifier import SignatureConfiguration, XMLVerifier

from bailiwick.identity.saml.refusals import Refused
from bailiwick.identity.saml.xml import DS, Element, children, etree, guard, only, parse, required, serialised, text_of

EXC_C14N = "http://www.w3.org/2001/10/xml-exc-c14n#"
ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
RSA_SHA256 = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"

_METHODS = frozenset(
    {
        SignatureMethod.RSA_SHA256,
        SignatureMethod.RSA_SHA384,
        SignatureMethod.RSA_SHA512,
        SignatureMethod.ECDSA_SHA256,
        SignatureMethod.ECDSA_SHA384,
        SignatureMethod.ECDSA_SHA512,
        SignatureMethod.SHA256_RSA_MGF1,
        SignatureMethod.SHA384_RSA_MGF1,
        SignatureMethod.SHA512_RSA_MGF1,
    }
)
_DIGESTS = frozenset({DigestAlgorithm.SHA256, DigestAlgorithm.SHA384, DigestAlgorithm.SHA512})
_METHOD_NAMES = frozenset(method.value for method in _METHODS)
_DIGEST_NAMES = frozenset(digest.value for digest in _DIGESTS)
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_ANY_KEY = "The signature is not one of the keys in the provider's stored metadata."


@dataclass(frozen=True, slots=True)
class SigningKey:
    """Our own key and the certificate that our metadata shows of it."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate


def verified(document: bytes, tag: str, certificates: Sequence[x509.Certificate], now: datetime) -> Element:
    """The root of ``document``, an element ``tag`` signed by one of ``certificates``, as it was signed.

    The element returned is not of the tree that was parsed; its signature is taken out of it. Raises ``Refused``.
    """
    root = parse(document)
    if root.tag != tag:
        raise Refused("saml_signature_invalid", "The signed element is not the one that is expected.")
    _require_shape(root)
    _drop_key_info(root)
    cleaned = serialised(root)
    config = SignatureConfiguration(
        location="./",
        expect_references=1,
        signature_methods=_METHODS,
        digest_algorithms=_DIGESTS,
        verification_time=now,
        default_reference_c14n_method=CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0,
    )
    for certificate in certificates:
        try:
            result: Any = XMLVerifier().verify(
                cleaned, x509_cert=certificate, expect_config=config, id_attribute="ID", parser=_parser()
            )
        except (SignXMLException, InvalidSignature, etree.LxmlError, ValueError, TypeError, AssertionError):
            continue
        signed = result.signed_xml
        if (
            signed is None
            or signed.tag != tag
            or signed.get("ID") != root.get("ID")
            or children(signed, DS, "Signature")
        ):
            raise Refused("saml_signature_invalid", "What is signed is not the element that would be used.")
        guard(signed)
        return signed
    raise Refused("saml_signature_invalid", _ANY_KEY)


def is_signed(element: Element) -> bool:
    """Whether the element carries a signature of its own, valid or not."""
    return bool(children(element, DS, "Signature"))


def signed(element: Element, by: SigningKey, *, after: str) -> bytes:
    """The document with an enveloped signature put right behind its child ``after`` (where the schemas want it)."""
    placeholder = etree.SubElement(element, f"{{{DS}}}Signature", {"Id": "placeholder"}, nsmap={"ds": DS})
    element.insert(element.index(element.find(after)) + 1, placeholder)
    signer = XMLSigner(
        method=SignatureConstructionMethod.enveloped,
        signature_algorithm=SignatureMethod.RSA_SHA256,
        digest_algorithm=DigestAlgorithm.SHA256,
        c14n_algorithm=CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0,
    )
    return serialised(
        signer.sign(
            element, key=by.key, cert=[by.certificate], reference_uri="#" + element.get("ID"), id_attribute="ID"
        )
    )


def signed_query(by: SigningKey, parameter: str, message: str, relay_state: str) -> str:
    """The query of the redirect binding (SAML bindings 3.4.4.1), signed. ``message``: deflated, in base64."""
    parts = [f"{parameter}={quote(message, safe='')}"]
    if relay_state:
        parts.append(f"RelayState={quote(relay_state, safe='')}")
    parts.append(f"SigAlg={quote(RSA_SHA256, safe='')}")
    query = "&".join(parts)
    signature = by.key.sign(query.encode("ascii"), padding.PKCS1v15(), hashes.SHA256())
    return f"{query}&Signature={quote(base64.b64encode(signature).decode(), safe='')}"


def verify_query(
    raw: dict[str, str], parameter: str, algorithm: str, signature: str, certificates: Sequence[x509.Certificate]
) -> None:
    """Check a redirect's signature over the octets as they came. ``raw``: parameters still percent-encoded."""
    octets = "&".join(f"{name}={raw[name]}" for name in (parameter, "RelayState", "SigAlg") if name in raw).encode()
    if algorithm not in _METHOD_NAMES:
        raise Refused("saml_signature_invalid", "The signature's algorithm is not allowed.")
    try:
        value = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("saml_signature_invalid", "The signature is not in base64.") from None
    if not any(_holds(certificate, algorithm, value, octets) for certificate in certificates):
        raise Refused("saml_signature_invalid", _ANY_KEY)


def _holds(certificate: x509.Certificate, algorithm: str, value: bytes, octets: bytes) -> bool:
    name = algorithm.rpartition("#")[2].lower()
    digest = next((found for label, found in _HASHES.items() if label in name), None)
    if digest is None:
        return False
    key = certificate.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey) and name.startswith("rsa-"):
            key.verify(value, octets, padding.PKCS1v15(), digest)
            return True
        if isinstance(key, rsa.RSAPublicKey) and name.endswith("-rsa-mgf1"):
            key.verify(value, octets, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
            return True
        if isinstance(key, ec.EllipticCurvePublicKey) and name.startswith("ecdsa-"):
            half = len(value) // 2
            r, s = int.from_bytes(value[:half], "big"), int.from_bytes(value[half:], "big")
            key.verify(utils.encode_dss_signature(r, s), octets, ec.ECDSA(digest))
            return True
    except InvalidSignature:
        return False
    return False


def _require_shape(root: Element) -> None:
    """One signature, a child of the root, that refers to the root and to nothing else, by allowed means."""
    signature = only_signature(root)
    for child in signature:
        if child.tag not in {f"{{{DS}}}{name}" for name in ("SignedInfo", "SignatureValue", "KeyInfo")}:
            raise Refused("saml_signature_invalid", "The signature holds more than a signature.")
    info = only(signature, DS, "SignedInfo")
    only(signature, DS, "SignatureValue")
    if required(only(info, DS, "CanonicalizationMethod"), "Algorithm") != EXC_C14N:
        raise Refused("saml_signature_invalid", "The signature is not over exclusive canonical XML.")
    if required(only(info, DS, "SignatureMethod"), "Algorithm") not in _METHOD_NAMES:
        raise Refused("saml_signature_invalid", "The signature's algorithm is not allowed.")
    reference = only(info, DS, "Reference")
    if reference.get("URI") != "#" + required(root, "ID"):
        raise Refused("saml_signature_invalid", "The signature refers to another element.")
    if required(only(reference, DS, "DigestMethod"), "Algorithm") not in _DIGEST_NAMES:
        raise Refused("saml_signature_invalid", "The signature's digest is not allowed.")
    text_of(only(reference, DS, "DigestValue"))
    transforms = [required(transform, "Algorithm") for transform in only(reference, DS, "Transforms")]
    if transforms != [ENVELOPED, EXC_C14N]:
        raise Refused("saml_signature_invalid", "The signature's transforms are not allowed.")


def only_signature(root: Element) -> Element:
    """The signature of a root. Raises ``Refused`` without one, and with a second."""
    found = children(root, DS, "Signature")
    if len(found) != 1:
        raise Refused("saml_signature_invalid", "The element that would be used does not carry exactly one signature.")
    return found[0]


def _drop_key_info(root: Element) -> None:
    """KeyInfo is outside of what is signed, and we do not want to know whose key the sender would like us to use."""
    signature = only_signature(root)
    for info in children(signature, DS, "KeyInfo"):
        signature.remove(info)


def _parser() -> Any:
    return etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False)
