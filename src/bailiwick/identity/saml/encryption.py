"""Encrypted assertions (XML Encryption 1.1): AES-GCM under RSA-OAEP. What comes out is verified like any other.

CBC is malleable and its padding an oracle, so it is refused unless the provider's settings say otherwise; PKCS #1
v1.5 key transport is always refused. Every failure answers alike.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from bailiwick.identity.saml.refusals import Refused
from bailiwick.identity.saml.xml import DS, XENC, XENC11, Element, at_most_one, children, only, required, text_of

GCM = {f"{XENC11}aes128-gcm": 16, f"{XENC11}aes192-gcm": 24, f"{XENC11}aes256-gcm": 32}
CBC_MODES = {f"{XENC}aes128-cbc": 16, f"{XENC}aes192-cbc": 24, f"{XENC}aes256-cbc": 32}
OAEP_MGF1P = f"{XENC}rsa-oaep-mgf1p"
OAEP = f"{XENC11}rsa-oaep"
_DIGESTS: dict[str, Any] = {
    f"{DS}sha1": hashes.SHA1,  # of OAEP, where it need not resist collisions, and what mgf1p prescribes
    f"{XENC}sha256": hashes.SHA256,
    "http://www.w3.org/2001/04/xmldsig-more#sha384": hashes.SHA384,
    f"{XENC}sha512": hashes.SHA512,
}
_MGF: dict[str, Any] = {
    f"{XENC11}mgf1sha1": hashes.SHA1,
    f"{XENC11}mgf1sha256": hashes.SHA256,
    f"{XENC11}mgf1sha384": hashes.SHA384,
    f"{XENC11}mgf1sha512": hashes.SHA512,
}
_UNREADABLE = "The assertion cannot be decrypted by our key."


def decrypted(encrypted: Element, key: rsa.RSAPrivateKey, *, cbc: bool = False) -> bytes:
    """The bytes within an EncryptedAssertion. ``cbc`` allows AES-CBC. Raises ``Refused`` (``saml_undecryptable``)."""
    data = only(encrypted, XENC, "EncryptedData")
    method = required(only(data, XENC, "EncryptionMethod"), "Algorithm")
    length = GCM.get(method) or (CBC_MODES.get(method) if cbc else None)
    if length is None:
        raise Refused("saml_undecryptable", "The assertion is encrypted by an algorithm that is not allowed.")
    content_key = _content_key(_encrypted_key(encrypted, data), key, length)
    cipher = _cipher_value(data)
    if method in GCM:
        return _open_gcm(content_key, cipher)
    return _open_cbc(content_key, cipher)


def _encrypted_key(encrypted: Element, data: Element) -> Element:
    """The one EncryptedKey: inside the data's KeyInfo, or beside the data."""
    info = at_most_one(data, DS, "KeyInfo")
    found = [
        *([] if info is None else children(info, XENC, "EncryptedKey")),
        *children(encrypted, XENC, "EncryptedKey"),
    ]
    if len(found) != 1:
        raise Refused("saml_undecryptable", "The assertion does not come with exactly one encrypted key.")
    return found[0]


def _content_key(wrapped: Element, key: rsa.RSAPrivateKey, length: int) -> bytes:
    method = only(wrapped, XENC, "EncryptionMethod")
    algorithm = required(method, "Algorithm")
    if algorithm not in (OAEP_MGF1P, OAEP) or at_most_one(method, XENC, "OAEPparams") is not None:
        raise Refused("saml_undecryptable", "The key is encrypted by an algorithm that is not allowed.")
    digest = at_most_one(method, DS, "DigestMethod")
    mask = at_most_one(method, XENC11, "MGF")
    digest_name = f"{DS}sha1" if digest is None else required(digest, "Algorithm")
    mask_name = f"{XENC11}mgf1sha1" if mask is None or algorithm == OAEP_MGF1P else required(mask, "Algorithm")
    if digest_name not in _DIGESTS or mask_name not in _MGF:
        raise Refused("saml_undecryptable", "The key is encrypted with a digest that is not allowed.")
    oaep = padding.OAEP(padding.MGF1(_MGF[mask_name]()), _DIGESTS[digest_name](), None)
    try:
        content_key = key.decrypt(_cipher_value(wrapped), oaep)
    except ValueError:
        raise Refused("saml_undecryptable", _UNREADABLE) from None
    if len(content_key) != length:
        raise Refused("saml_undecryptable", _UNREADABLE)
    return content_key


def _cipher_value(element: Element) -> bytes:
    text = "".join(text_of(only(only(element, XENC, "CipherData"), XENC, "CipherValue")).split())
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("saml_undecryptable", _UNREADABLE) from None


def _open_gcm(key: bytes, cipher: bytes) -> bytes:
    if len(cipher) < 12 + 16:
        raise Refused("saml_undecryptable", _UNREADABLE)
    try:
        return AESGCM(key).decrypt(cipher[:12], cipher[12:], None)
    except InvalidTag:
        raise Refused("saml_undecryptable", _UNREADABLE) from None


def _open_cbc(key: bytes, cipher: bytes) -> bytes:
    if len(cipher) < 32 or len(cipher) % 16:
        raise Refused("saml_undecryptable", _UNREADABLE)
    opener = Cipher(AES(key), CBC(cipher[:16])).decryptor()  # only where the settings ask for it
    plain = opener.update(cipher[16:]) + opener.finalize()
    if not 1 <= plain[-1] <= 16:
        raise Refused("saml_undecryptable", _UNREADABLE)
    return plain[: -plain[-1]]
