"""Every known way to have a forged SAML response believed, tried on the profile with keys of our own."""

from __future__ import annotations

import base64
import copy
import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree
from signxml import CanonicalizationMethod, DigestAlgorithm, SignatureMethod

from bailiwick.identity.saml.refusals import Refused
from bailiwick.identity.saml.response import Assertion, Expected, consume
from saml_idp import (
    ACS,
    DS,
    IDP,
    NOW,
    NSMAP,
    SAML,
    SAMLP,
    SP,
    Said,
    encrypt,
    key,
    self_signed_like,
    sign,
    signed_response,
)

EVIL = "admin"


def expected(**changes: Any) -> Expected:
    base = Expected(
        sp_entity_id=SP,
        acs_url=ACS,
        idp_entity_id=IDP,
        certificates=[key().certificate],
        request_id="_request",
        now=NOW,
        decryption_key=key("sp").key,
    )
    return dataclasses.replace(base, **changes)


def refused(data: bytes | Any, reason: str = "", **changes: Any) -> Refused:
    """The refusal; fails when the message is accepted."""
    sent = data if isinstance(data, bytes) else etree.tostring(data)
    with pytest.raises(Refused) as caught:
        consume(sent, expected(**changes))
    assert not reason or caught.value.reason == reason, caught.value
    return caught.value


def find(root: Any, path: str) -> Any:
    return root.find(path, NSMAP)


def test_a_sound_response_says_who_it_is() -> None:
    assertion = consume(signed_response(), expected())
    assert (assertion.name_id, assertion.issuer, assertion.id) == ("jane", IDP, "_assertion")
    assert assertion.attributes == {"mail": ("jane@example.com",), "groups": ("staff", "ops")}
    assert assertion.expires_at == NOW + timedelta(minutes=6)


def test_a_response_signed_as_a_whole_too_is_read() -> None:
    assert consume(signed_response(both=True), expected()).name_id == "jane"


@pytest.mark.parametrize("method", ["RSA_SHA384", "RSA_SHA512", "SHA256_RSA_MGF1"])
def test_other_good_algorithms_are_taken(method: str) -> None:
    assertion = sign(Said().assertion(), method=SignatureMethod[method], digest=DigestAlgorithm.SHA512)
    assert consume(etree.tostring(Said().response(assertion)), expected()).name_id == "jane"


def test_any_of_the_keys_of_the_metadata_will_do() -> None:
    keys = [key("next").certificate, key().certificate]
    assert consume(signed_response(), expected(certificates=keys)).name_id == "jane"
    refused(signed_response(), "saml_signature_invalid", certificates=[key("next").certificate])


# ---------------------------------------------------------------------- wrapping


def _evil(assertion: Any, *, signature: bool) -> Any:
    evil = copy.deepcopy(assertion)
    evil.set("ID", "_evil")
    find(evil, "saml:Subject/saml:NameID").text = EVIL
    if not signature:
        evil.remove(find(evil, "ds:Signature"))
    return evil


def _unsigned(assertion: Any) -> Any:
    plain = copy.deepcopy(assertion)
    plain.remove(find(plain, "ds:Signature"))
    return plain


def xsw1(root: Any) -> Any:
    """The original Response inside the Signature of a forged one."""
    evil = copy.deepcopy(root)
    evil.set("ID", "_evil")
    find(evil, "saml:Assertion/saml:Subject/saml:NameID").text = EVIL
    original = copy.deepcopy(root)
    original.remove(find(original, "ds:Signature"))
    find(evil, "ds:Signature").append(original)
    return evil


def xsw2(root: Any) -> Any:
    """The original Response before the detached Signature."""
    evil = copy.deepcopy(root)
    evil.set("ID", "_evil")
    find(evil, "saml:Assertion/saml:Subject/saml:NameID").text = EVIL
    original = copy.deepcopy(root)
    original.remove(find(original, "ds:Signature"))
    signature = find(evil, "ds:Signature")
    evil.insert(evil.index(signature), original)
    return evil


def xsw3(root: Any) -> Any:
    """A forged assertion in front of the signed one."""
    assertion = find(root, "saml:Assertion")
    root.insert(root.index(assertion), _evil(assertion, signature=False))
    return root


def xsw4(root: Any) -> Any:
    """The signed assertion inside the forged one."""
    assertion = find(root, "saml:Assertion")
    evil = _evil(assertion, signature=False)
    root.replace(assertion, evil)
    evil.append(assertion)
    return root


def xsw5(root: Any) -> Any:
    """The forged assertion carries the signature; the original lies at the end without."""
    assertion = find(root, "saml:Assertion")
    root.replace(assertion, _evil(assertion, signature=True))
    root.append(_unsigned(assertion))
    return root


def xsw6(root: Any) -> Any:
    """The forged assertion carries the signature, and in that the original."""
    assertion = find(root, "saml:Assertion")
    evil = _evil(assertion, signature=True)
    find(evil, "ds:Signature").append(_unsigned(assertion))
    root.replace(assertion, evil)
    return root


def xsw7(root: Any) -> Any:
    """The forged assertion within Extensions, whose schema is lax."""
    extensions = etree.Element(f"{{{SAMLP}}}Extensions")
    assertion = find(root, "saml:Assertion")
    extensions.append(_evil(assertion, signature=False))
    root.insert(root.index(assertion), extensions)
    return root


def xsw8(root: Any) -> Any:
    """The original within an Object of the signature that the forged assertion carries."""
    assertion = find(root, "saml:Assertion")
    evil = _evil(assertion, signature=True)
    etree.SubElement(find(evil, "ds:Signature"), f"{{{DS}}}Object").append(_unsigned(assertion))
    root.replace(assertion, evil)
    return root


@pytest.mark.parametrize("both", [False, True], ids=["assertion signed", "response signed too"])
@pytest.mark.parametrize("wrap", [xsw1, xsw2, xsw3, xsw4, xsw5, xsw6, xsw7, xsw8])
def test_wrapping_is_refused(wrap: Callable[[Any], Any], both: bool) -> None:
    if wrap in (xsw1, xsw2) and not both:
        both = True  # these two need a signed Response
    refused(wrap(etree.fromstring(signed_response(both=both))))


@pytest.mark.parametrize("wrap", [xsw3, xsw4, xsw5, xsw6, xsw7, xsw8])
def test_wrapping_is_refused_even_when_the_forged_assertion_keeps_the_id(wrap: Callable[[Any], Any]) -> None:
    root = wrap(etree.fromstring(signed_response()))
    for evil in root.iter(f"{{{SAML}}}Assertion"):
        evil.set("ID", "_assertion")
    refused(root)


@pytest.mark.parametrize("wrap", [xsw4, xsw6, xsw8])
def test_wrapping_inside_of_what_is_encrypted_is_refused(wrap: Callable[[Any], Any]) -> None:
    root = wrap(etree.fromstring(signed_response()))
    assertion = find(root, "saml:Assertion")
    root.replace(assertion, encrypt(assertion, key("sp")))
    refused(root)


def test_a_signed_response_does_not_vouch_for_an_unsigned_assertion() -> None:
    refused(sign(Said().response(Said().assertion())), "saml_signature_invalid")


def test_an_assertion_swapped_into_a_signed_response_is_refused() -> None:
    root = etree.fromstring(signed_response(both=True))
    other = sign(Said(name_id=EVIL).assertion(), key("attacker"))
    root.replace(find(root, "saml:Assertion"), other)
    refused(root, "saml_signature_invalid")


def test_two_signed_assertions_are_refused() -> None:
    first, second = sign(Said().assertion()), sign(Said(name_id=EVIL, assertion_id="_second").assertion())
    refused(Said().response(first, second), "saml_malformed")


def test_an_assertion_of_another_namespace_beside_the_signed_one_is_refused() -> None:
    root = etree.fromstring(signed_response())
    etree.SubElement(find(root, "samlp:Status"), "{urn:evil}Assertion")
    refused(root, "saml_malformed")


# ---------------------------------------------------------------------- the signature


def test_nothing_unsigned_is_taken() -> None:
    refused(Said().response(Said().assertion()), "saml_signature_invalid")


def test_an_empty_signature_is_none() -> None:
    root = etree.fromstring(signed_response())
    find(root, "saml:Assertion/ds:Signature/ds:SignatureValue").text = ""
    refused(root, "saml_signature_invalid")


def test_a_certificate_in_the_message_is_nobodys() -> None:
    for attacker in (key("attacker"), self_signed_like(key().certificate)):
        refused(Said(name_id=EVIL).response(sign(Said(name_id=EVIL).assertion(), attacker)), "saml_signature_invalid")


def test_a_key_value_in_the_message_is_nobodys() -> None:
    assertion = sign(Said(name_id=EVIL).assertion(), key("attacker"))
    numbers = key("attacker").key.public_key().public_numbers()
    info = find(assertion, "ds:Signature/ds:KeyInfo")
    info.clear()
    value = etree.SubElement(etree.SubElement(info, f"{{{DS}}}KeyValue"), f"{{{DS}}}RSAKeyValue")
    etree.SubElement(value, f"{{{DS}}}Modulus").text = _number(numbers.n)
    etree.SubElement(value, f"{{{DS}}}Exponent").text = _number(numbers.e)
    refused(Said().response(assertion), "saml_signature_invalid")


def _number(value: int) -> str:
    return base64.b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).decode()


@pytest.mark.parametrize(
    ("method", "digest"),
    [
        (SignatureMethod.RSA_SHA1, DigestAlgorithm.SHA256),
        (SignatureMethod.RSA_SHA256, DigestAlgorithm.SHA1),
        (SignatureMethod.RSA_SHA1, DigestAlgorithm.SHA1),
    ],
)
def test_sha1_is_refused(method: SignatureMethod, digest: DigestAlgorithm) -> None:
    refused(Said().response(sign(Said().assertion(), method=method, digest=digest)), "saml_signature_invalid")


def test_an_hmac_by_the_public_key_is_refused() -> None:
    root = etree.fromstring(signed_response())
    method = find(root, "saml:Assertion/ds:Signature/ds:SignedInfo/ds:SignatureMethod")
    method.set("Algorithm", "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256")
    refused(root, "saml_signature_invalid")


@pytest.mark.parametrize(
    "c14n",
    [
        CanonicalizationMethod.CANONICAL_XML_1_0,
        CanonicalizationMethod.CANONICAL_XML_1_1,
        CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0_WITH_COMMENTS,
    ],
)
def test_only_exclusive_canonical_xml_is_taken(c14n: CanonicalizationMethod) -> None:
    refused(Said().response(sign(Said().assertion(), c14n=c14n)), "saml_signature_invalid")


@pytest.mark.parametrize(
    "transform", ["http://www.w3.org/TR/1999/REC-xslt-19991116", "http://www.w3.org/TR/1999/REC-xpath-19991116"]
)
def test_other_transforms_are_refused(transform: str) -> None:
    root = etree.fromstring(signed_response())
    transforms = find(root, "saml:Assertion/ds:Signature/ds:SignedInfo/ds:Reference/ds:Transforms")
    etree.SubElement(transforms, f"{{{DS}}}Transform", {"Algorithm": transform})
    refused(root, "saml_signature_invalid")


@pytest.mark.parametrize("uri", ["", "#_response", "https://evil.example.com/", "#xpointer(/)", None])
def test_a_reference_to_something_else_is_refused(uri: str | None) -> None:
    root = etree.fromstring(signed_response())
    reference = find(root, "saml:Assertion/ds:Signature/ds:SignedInfo/ds:Reference")
    if uri is None:
        del reference.attrib["URI"]
    else:
        reference.set("URI", uri)
    refused(root, "saml_signature_invalid")


def test_a_certificate_past_its_time_signs_nothing() -> None:
    later = key().certificate.not_valid_after_utc + timedelta(days=1)
    refused(signed_response(Said(now=later)), "saml_signature_invalid", now=later)


# ---------------------------------------------------------------------- XML


@pytest.mark.parametrize(
    "where", ["jane@example.com<!-- x -->.evil.com", "ad<!---->min", "jane<?x?>", "<![CDATA[<!--]]>"]
)
def test_what_could_cut_a_name_is_refused(where: str) -> None:
    said = signed_response(Said(name_id="jane@example.com.evil.com")).replace(
        b"jane@example.com.evil.com", where.encode()
    )
    refused(said, "saml_malformed")


def test_a_comment_that_the_signature_does_not_see_is_refused_all_the_same() -> None:
    """Without comments in canonical form the signature still holds; the name must not be cut by it."""
    data = signed_response(Said(name_id="admin.evil.com")).replace(b"admin.evil.com", b"admin<!-- -->.evil.com")
    refused(data, "saml_malformed")


@pytest.mark.parametrize("name", ["ID", "Id", "id", "xml:id"])
def test_ids_used_twice_are_refused(name: str) -> None:
    data = signed_response().replace(b"<samlp:Status>", f'<samlp:Status {name}="_assertion">'.encode())
    refused(data, "saml_malformed")


@pytest.mark.parametrize(
    "prologue",
    [
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
        b'<!DOCTYPE x [<!ENTITY % e SYSTEM "http://127.0.0.1:1/evil.dtd"> %e;]>',
        b'<!DOCTYPE x SYSTEM "http://127.0.0.1:1/evil.dtd">',
        b"<!DOCTYPE x>",
        b"<?xml-stylesheet href='x'?>",
    ],
)
def test_no_dtd_no_entity_no_instruction(prologue: bytes) -> None:
    refused(prologue + signed_response(), "saml_malformed")


def test_other_encodings_hide_nothing() -> None:
    text = '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE x><a/>'
    refused(text.encode("utf-16"), "saml_malformed")
    refused(b'<?xml version="1.0" encoding="UTF-7"?>' + signed_response().replace(b"jane", b"+AGoAYQ-ne"))


def test_large_and_deep_messages_are_refused() -> None:
    refused(signed_response().replace(b"jane", b"j" * 10_000_000), "saml_malformed")
    refused(b"<a>" * 5_000 + b"</a>" * 5_000, "saml_malformed")
    refused(b"<a>" + b"<b/>" * 30_000 + b"</a>", "saml_malformed")
    refused(b"<a " + b" ".join(f'a{n}="1"'.encode() for n in range(500)) + b"/>", "saml_malformed")


# ---------------------------------------------------------------------- whom it is for, and when


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"audience": "https://other.example.com"}, "saml_not_for_us"),
        ({"audience": None}, "saml_not_for_us"),
        ({"recipient": "https://other.example.com/acs"}, "saml_not_for_us"),
        ({"recipient": None}, "saml_not_for_us"),
        ({"destination": "https://other.example.com/acs"}, "saml_not_for_us"),
        ({"destination": None}, "saml_not_for_us"),
        ({"destination": ACS + "/"}, "saml_not_for_us"),
        ({"issuer": "https://other.example.com"}, "saml_not_for_us"),
        ({"issuer": None}, "saml_malformed"),
        ({"response_issuer": "https://other.example.com"}, "saml_not_for_us"),
        ({"request_id": "_another"}, "saml_unsolicited"),
        ({"request_id": None}, "saml_unsolicited"),
        ({"confirmed_request_id": "_another"}, "saml_unsolicited"),
        ({"confirmed_request_id": None}, "saml_unsolicited"),
        ({"method": "urn:oasis:names:tc:SAML:2.0:cm:sender-vouches"}, "saml_not_for_us"),
        ({"not_on_or_after": timedelta(seconds=-61)}, "saml_expired"),
        ({"not_before": timedelta(seconds=90)}, "saml_expired"),
        ({"not_on_or_after": timedelta(days=2)}, "saml_expired"),
        ({"now": NOW + timedelta(seconds=90)}, "saml_expired"),
        ({"now": NOW - timedelta(hours=1)}, "saml_expired"),
        ({"session_until": timedelta(seconds=-1)}, "saml_expired"),
        ({"authn_statement": False}, "saml_malformed"),
        ({"name_id": ""}, "saml_malformed"),
        ({"name_id": "x" * 3_000}, "saml_malformed"),
        ({"more_conditions": "<saml:Condition/>"}, "saml_malformed"),
        ({"status": "urn:oasis:names:tc:SAML:2.0:status:Responder"}, "saml_provider_refused"),
    ],
    ids=str,
)
def test_what_is_not_for_us_or_not_now_is_refused(changes: dict[str, Any], reason: str) -> None:
    refused(signed_response(Said(**changes)), reason)


def test_a_minute_of_skew_is_allowed() -> None:
    for by in (timedelta(seconds=-50), timedelta(seconds=50)):
        assert consume(signed_response(Said(now=NOW + by)), expected()).name_id == "jane"


def test_an_audience_must_be_in_every_restriction() -> None:
    other = (
        "<saml:AudienceRestriction><saml:Audience>https://other.example.com</saml:Audience></saml:AudienceRestriction>"
    )
    refused(signed_response(Said(more_conditions=other)), "saml_not_for_us")


def test_who_asked_for_nothing_gets_only_what_answers_nothing() -> None:
    refused(signed_response(), "saml_unsolicited", request_id=None)
    assert consume(signed_response(Said(request_id=None)), expected(request_id=None)).name_id == "jane"


# ---------------------------------------------------------------------- encryption


def test_an_encrypted_assertion_is_opened_and_then_verified() -> None:
    response = Said().response(encrypt(sign(Said().assertion()), key("sp")))
    assert consume(etree.tostring(response), expected(require_encryption=True)).name_id == "jane"
    assert consume(etree.tostring(sign(response)), expected()).name_id == "jane"
    refused(signed_response(), "saml_undecryptable", require_encryption=True)


def test_encryption_is_no_signature() -> None:
    refused(Said().response(encrypt(Said().assertion(), key("sp"))), "saml_signature_invalid")
    refused(sign(Said().response(encrypt(Said().assertion(), key("sp")))), "saml_signature_invalid")


def test_cbc_only_where_it_is_configured_and_pkcs1_v15_never() -> None:
    response = etree.tostring(Said().response(encrypt(sign(Said().assertion()), key("sp"), mode="cbc")))
    refused(response, "saml_undecryptable")
    assert consume(response, expected(allow_cbc=True)).name_id == "jane"
    old = Said().response(encrypt(sign(Said().assertion()), key("sp"), transport="pkcs1"))
    refused(old, "saml_undecryptable", allow_cbc=True)


def test_altered_ciphertext_is_refused() -> None:
    response = Said().response(encrypt(sign(Said().assertion()), key("sp")))
    for value in response.iter("{http://www.w3.org/2001/04/xmlenc#}CipherValue"):
        kept = value.text
        value.text = kept[:-8] + ("AAAAAAA=" if kept.endswith("=") else "AAAAAAAA")
        refused(response, "saml_undecryptable")
        value.text = kept
    refused(response, "saml_undecryptable", decryption_key=key("other").key)
    refused(response, "saml_undecryptable", decryption_key=None)


def test_an_encrypted_bomb_is_a_bomb() -> None:
    bomb = etree.fromstring("<a>" + "<b/>" * 10_000 + "</a>")
    refused(Said().response(encrypt(bomb, key("sp"))), "saml_malformed")


# ---------------------------------------------------------------------- mutation

SOUND = signed_response(both=False)
SOUND_BOTH = signed_response(both=True)
TOLD = consume(SOUND, expected())


def mutations(data: bytes) -> st.SearchStrategy[bytes]:
    """The message with a piece cut out, doubled, moved, or overwritten."""
    spot = st.integers(0, len(data) - 1)
    pieces = st.sampled_from(
        [b"admin", b"<!-- -->", b"</saml:NameID>", b"<saml:NameID>admin</saml:NameID>", b"&lt;", b"&#106;", b" ", b"\n"]
    )

    def cut(a: int, b: int) -> bytes:
        return data[: min(a, b)] + data[max(a, b) :]

    def double(a: int, b: int) -> bytes:
        return data[: max(a, b)] + data[min(a, b) :]

    def put(a: int, piece: bytes) -> bytes:
        return data[:a] + piece + data[a:]

    def overwrite(a: int, byte: int) -> bytes:
        return data[:a] + bytes([byte]) + data[a + 1 :]

    near = st.tuples(spot, st.integers(1, 40)).map(lambda at: (at[0], min(at[0] + at[1], len(data))))
    return st.one_of(
        near.map(lambda at: cut(*at)),
        near.map(lambda at: double(*at)),
        st.builds(cut, spot, spot),
        st.builds(put, spot, st.one_of(pieces, st.binary(min_size=1, max_size=12))),
        st.builds(overwrite, spot, st.integers(0, 255)),
    )


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutations(SOUND))
def test_what_is_accepted_of_a_changed_response_says_the_same(data: bytes) -> None:
    _same_or_refused(data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutations(SOUND_BOTH))
def test_what_is_accepted_of_a_changed_response_signed_twice_says_the_same(data: bytes) -> None:
    _same_or_refused(data)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300), st.text(max_size=200).map(lambda text: f"<a>{text}</a>".encode("utf-8", "replace"))
    )
)
def test_anything_at_all_is_refused_and_breaks_nothing(data: bytes) -> None:
    refused(data)


def _same_or_refused(data: bytes) -> None:
    try:
        told: Assertion | None = consume(data, expected())
    except Refused:
        told = None
    assert told in (None, TOLD)
