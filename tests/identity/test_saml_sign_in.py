"""Signing in by a SAML provider over our routes, the provider being our own: bound, once, to one account, and out."""

from __future__ import annotations

import asyncio
import base64
import re
import zlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

import pytest
from lxml import etree

from bailiwick.identity.saml.logout import logout_request
from bailiwick.identity.saml.metadata import OurEndpoints
from bailiwick.identity.saml.request import redirect_url
from bailiwick.identity.saml.signature import RSA_SHA256, verify_query
from bailiwick.identity.saml.xml import stamp
from people_fixtures import Answer, House
from saml_idp import IDP, NSMAP, SAMLP, Said, encrypt, idp_metadata, key, pem, sign

PATH = "/api/v1/auth/saml/corp"
FORM = {"content-type": "application/x-www-form-urlencoded"}
ROLES = {"ops": "operator", "auditors": "auditor"}


@dataclass
class Begun:
    """A sign-in under way: what went to the provider, and what the browser kept."""

    request_id: str
    relay_state: str
    cookie: str
    url: str


class Corp:
    """The provider ``corp`` as the house knows it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.base = f"{house.settings.issuer}{PATH}"
        self.token = ""

    async def connect(self, **options: Any) -> Answer:
        self.token = self.token or await self.house.signed_in("root")
        body = {
            "name": "corp",
            "kind": "saml",
            "options": {"metadata": idp_metadata(), "roles": ROLES, **options},
            "secrets": {"signing_key": pem("our signing"), "encryption_key": pem("our encryption")},
        }
        return await self.house.call("POST", "/api/v1/identity-providers", body, token=self.token)

    async def change(self, **patch: Any) -> Answer:
        return await self.house.call("PATCH", "/api/v1/identity-providers/corp", patch, token=self.token)

    async def begin(self, query: str = "") -> Begun:
        answer = await self.house.call("GET", f"{PATH}/login{query}")
        assert answer.status == 302, answer.body
        url = answer.headers["location"]
        sent = parse_qs(urlsplit(url).query)
        request = etree.fromstring(zlib.decompress(base64.b64decode(sent["SAMLRequest"][0]), -15))
        return Begun(request.get("ID"), sent["RelayState"][0], answer.headers["set-cookie"].split(";")[0], url)

    def said(self, begun: Begun | None, **changes: Any) -> Said:
        base = Said(
            now=self.house.clock.now(),
            destination=f"{self.base}/acs",
            recipient=f"{self.base}/acs",
            audience=f"{self.base}/metadata",
            request_id=None if begun is None else begun.request_id,
            assertion_id="_assertion" if begun is None else f"_to{begun.request_id}",
        )
        return base.but(**changes)

    async def post(
        self, response: Any, begun: Begun | None, *, cookie: str | None = None, relay: str | None = None
    ) -> Answer:
        form = {"SAMLResponse": base64.b64encode(etree.tostring(response)).decode()}
        if begun is not None or relay is not None:
            form["RelayState"] = relay if relay is not None else begun.relay_state if begun else ""
        jar = cookie if cookie is not None else begun.cookie if begun else ""
        return await self.house.call(
            "POST", f"{PATH}/acs", raw=urlencode(form).encode(), headers={**FORM, "cookie": jar}
        )

    async def sign_in(self, **changes: Any) -> Answer:
        begun = await self.begin()
        said = self.said(begun, **changes)
        return await self.post(said.response(sign(said.assertion())), begun)

    async def causes(self) -> list[str]:
        return [str(event.details.get("cause", "")) for event in await self.house.events() if event.code == "BW1002"]


@pytest.fixture
def corp(house: House) -> Corp:
    return Corp(house)


async def test_a_person_signs_in_and_has_the_role_of_his_groups(house: House, corp: Corp) -> None:
    assert (await corp.connect()).status == 201
    answer = await corp.sign_in()
    told = answer.json()
    assert answer.status == 200, told
    assert told["user"] == {"username": "jane", "role": "operator", "email": "jane@example.com"}
    assert answer.headers["cache-control"] == "no-store"
    me = await house.call("GET", "/api/v1/auth/me", token=told["access_token"])
    assert me.json()["username"] == "jane"
    again = await corp.sign_in(attributes={"groups": ["auditors"]})
    assert again.json()["user"]["role"] == "auditor"
    assert await house.value("SELECT count(*) FROM users") == 2


async def test_no_mapped_group_is_signed_in_and_may_do_nothing(house: House, corp: Corp) -> None:
    await corp.connect()
    told = (await corp.sign_in(attributes={"groups": ["strangers"]})).json()
    assert told["user"]["role"] == "none"
    refused = await house.call("GET", "/api/v1/servers", token=told["access_token"])
    assert (refused.status, refused.json()["reason"]) == (403, "permission_denied")


async def test_the_second_factor_is_not_skipped(house: House, corp: Corp) -> None:
    await corp.connect()
    assert (await corp.sign_in()).status == 200
    async with house.database.begin() as tx:
        await tx.run("UPDATE users SET mfa_enabled = true WHERE username = 'jane'")
    answer = await corp.sign_in()
    assert (answer.status, answer.json()["reason"]) == (401, "mfa_enrolment_required")
    contexts = ["urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport"]
    assert (await corp.change(options={"mfa_contexts": contexts})).status == 200
    assert (await corp.sign_in()).status == 200


async def test_our_metadata_and_requests_are_signed_by_one_key(house: House, corp: Corp) -> None:
    await corp.connect()
    answer = await house.call("GET", f"{PATH}/metadata")
    root = etree.fromstring(answer.body)
    assert root.get("entityID") == f"{corp.base}/metadata"
    role = root.find("{*}SPSSODescriptor")
    assert role.get("AuthnRequestsSigned") == role.get("WantAssertionsSigned") == "true"
    ours = _certificates(root)
    assert len(ours) == 2
    begun = await corp.begin()
    raw = dict(part.partition("=")[::2] for part in urlsplit(begun.url).query.split("&"))
    given = dict(parse_qsl(urlsplit(begun.url).query))
    assert given["SigAlg"] == RSA_SHA256
    verify_query(raw, "SAMLRequest", given["SigAlg"], given["Signature"], ours[:1])


async def test_by_post_the_page_carries_a_signed_request_and_no_inline_script(house: House, corp: Corp) -> None:
    await corp.connect(binding="post", force_authn=True, context_classes=["urn:x:mfa"])
    answer = await house.call("GET", f"{PATH}/login?return_to=/console")
    page = etree.HTML(answer.body)
    document = base64.b64decode(page.find(".//input[@name='SAMLRequest']").get("value"))
    request = etree.fromstring(document)
    assert request.find("ds:Signature", NSMAP) is not None and request.get("ForceAuthn") == "true"
    assert [script.text for script in page.iter("script")] == [None]
    assert "form-action https://idp.example.com" in answer.headers["content-security-policy"]
    assert (await house.call("GET", "/api/v1/auth/saml/submit.js")).status == 200
    begun = Begun(
        request.get("ID"), page.find(".//input[@name='RelayState']").get("value"),
        answer.headers["set-cookie"].split(";")[0], "",
    )  # fmt: skip
    said = corp.said(begun)
    assert (await corp.post(said.response(sign(said.assertion())), begun)).json()["return_to"] == "/console"


async def test_a_response_counts_once_and_only_in_its_browser(corp: Corp) -> None:
    await corp.connect()
    begun = await corp.begin()
    said = corp.said(begun)
    response = said.response(sign(said.assertion()))
    for tried in (
        await corp.post(response, begun, cookie=""),
        await corp.post(response, begun, cookie=begun.cookie[:-1]),
        await corp.post(response, begun, relay="another"),
        await corp.post(response, None),
    ):
        assert (tried.status, tried.json()["reason"]) == (401, "sign_in_not_begun")
    assert (await corp.post(response, begun)).status == 200
    again = await corp.post(response, begun)
    assert (again.status, again.json()["reason"]) == (401, "sign_in_not_begun")


async def test_a_request_answered_too_late_is_none(house: House, corp: Corp) -> None:
    await corp.connect()
    begun = await corp.begin()
    house.clock.advance(timedelta(minutes=11).total_seconds())
    said = corp.said(begun)
    assert (await corp.post(said.response(sign(said.assertion())), begun)).status == 401


async def test_an_assertion_is_taken_once_also_for_another_request(corp: Corp) -> None:
    await corp.connect(idp_initiated=True)
    said = corp.said(None)
    response = said.response(sign(said.assertion()))
    assert (await corp.post(response, None)).status == 200
    again = await corp.post(response, None)
    assert (again.status, again.json()["reason"]) == (401, "provider_answer_invalid")
    assert (await corp.causes())[-1].startswith("saml_replayed")


async def test_who_did_not_ask_is_let_in_only_where_that_is_configured(corp: Corp) -> None:
    await corp.connect()
    said = corp.said(None)
    response = said.response(sign(said.assertion()))
    assert (await corp.post(response, None)).json()["reason"] == "sign_in_not_begun"


async def test_a_forged_response_tells_the_caller_nothing_and_the_record_everything(corp: Corp) -> None:
    await corp.connect()
    answer = await corp.sign_in(audience="https://other.example.com")
    assert (answer.status, answer.json()["reason"]) == (401, "provider_answer_invalid")
    assert "audience" not in answer.body.decode()
    begun = await corp.begin()
    said = corp.said(begun)
    assert (await corp.post(said.response(sign(said.assertion(), key("attacker"))), begun)).status == 401
    refused = await corp.sign_in(status="urn:oasis:names:tc:SAML:2.0:status:AuthnFailed")
    assert refused.json()["reason"] == "provider_refused"
    causes = await corp.causes()
    assert [cause.partition(":")[0] for cause in causes] == [
        "saml_not_for_us", "saml_signature_invalid", "saml_provider_refused",
    ]  # fmt: skip


async def test_an_account_is_somebodys_by_entity_and_name_id_alone(house: House, corp: Corp) -> None:
    await corp.connect()
    await house.user("boss", "admin")
    taken = await corp.sign_in(name_id="boss", attributes={"mail": ["boss@example.com"]})
    assert (taken.status, taken.json()["reason"]) == (403, "account_not_linked")
    by_mail = await corp.sign_in(name_id="other", attributes={"mail": ["boss@example.com"]})
    assert by_mail.json()["reason"] == "account_not_linked"
    assert (await corp.sign_in()).status == 200
    other = idp_metadata("https://evil.example.com/metadata", signing="attacker")
    assert (await corp.change(options={"metadata": other})).status == 200
    begun = await corp.begin()
    said = corp.said(
        begun, issuer="https://evil.example.com/metadata", response_issuer="https://evil.example.com/metadata"
    )
    stranger = await corp.post(said.response(sign(said.assertion(), key("attacker"))), begun)
    assert stranger.json()["reason"] == "account_not_linked"


async def test_what_the_name_id_may_not_be(corp: Corp) -> None:
    await corp.connect()
    transient = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"
    assert (await corp.sign_in(name_format=transient)).json()["reason"] == "provider_answer_invalid"
    assert (await corp.sign_in(name_id="x" * 600)).json()["reason"] == "provider_answer_invalid"


async def test_the_session_ends_with_the_providers(house: House, corp: Corp) -> None:
    await corp.connect()
    told = (await corp.sign_in(session_until=timedelta(minutes=2))).json()
    assert told["expires_in"] == 120
    left = await house.value("SELECT expires_at FROM sessions WHERE id = :id", id=told["session_id"])
    assert left == house.clock.now().replace(microsecond=0) + timedelta(minutes=2)


async def test_an_encrypted_assertion_to_the_key_of_our_metadata(house: House, corp: Corp) -> None:
    await corp.connect(require_encryption=True)
    answer = await house.call("GET", f"{PATH}/metadata")
    assert _certificates(etree.fromstring(answer.body))[1] == key("our encryption").certificate
    begun = await corp.begin()
    said = corp.said(begun)
    assert (await corp.post(said.response(encrypt(sign(said.assertion()), key("our encryption"))), begun)).status == 200
    assert (await corp.sign_in()).json()["reason"] == "provider_answer_invalid"


async def test_a_provider_whose_metadata_ran_out_lets_nobody_in(corp: Corp) -> None:
    await corp.connect(metadata=idp_metadata(extra=' validUntil="2020-01-01T00:00:00Z"'))
    assert (await corp.sign_in()).json()["reason"] == "provider_answer_invalid"
    assert "metadata" in (await corp.causes())[-1]


async def test_a_disabled_provider_is_not_there(house: House, corp: Corp) -> None:
    await corp.connect()
    begun = await corp.begin()
    await corp.change(enabled=False)
    said = corp.said(begun)
    assert (await corp.post(said.response(sign(said.assertion())), begun)).status == 404
    assert (await house.call("GET", f"{PATH}/login")).status == 404


@pytest.mark.parametrize(
    "metadata",
    [
        "<a/>",
        "not xml",
        "<!DOCTYPE x><a/>",
        idp_metadata(base="http://idp.example.com"),
        idp_metadata(base="javascript:alert(1)"),
        idp_metadata().replace("SingleSignOnService", "Nothing"),
        idp_metadata().replace("X509Certificate", "Nothing"),
        idp_metadata().replace("IDPSSODescriptor", "SPSSODescriptor"),
    ],
)
async def test_metadata_that_do_not_do_are_refused_when_they_are_stored(corp: Corp, metadata: str) -> None:
    answer = await corp.connect(metadata=metadata)
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")


async def test_our_keys_are_never_shown_and_null_makes_new_ones(house: House, corp: Corp) -> None:
    made = await corp.connect()
    assert b"PRIVATE KEY" not in made.body and "secrets" not in made.json()
    before = (await house.call("GET", f"{PATH}/metadata")).body
    assert (await corp.change(options={"force_authn": True})).status == 200
    assert (await house.call("GET", f"{PATH}/metadata")).body == before
    assert (await corp.change(secrets={"signing_key": None})).status == 200
    after = _certificates(etree.fromstring((await house.call("GET", f"{PATH}/metadata")).body))
    then = _certificates(etree.fromstring(before))
    assert after[0] != then[0] and after[1] == then[1]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"SAMLResponse=%3C", FORM["content-type"], 401),
        (b"SAMLResponse=", FORM["content-type"], 401),
        (b"", FORM["content-type"], 400),
        (b"SAMLResponse=a&SAMLResponse=b", FORM["content-type"], 400),
        (b"SAMLResponse=a&RelayState=%00", FORM["content-type"], 400),
        (b"\xff\xfe", FORM["content-type"], 400),
        (b"{}", "application/json", 400),
        (b"SAMLResponse=" + b"A" * 600_000, FORM["content-type"], 413),
    ],
)
async def test_forms_that_are_none(corp: Corp, body: bytes, content_type: str, status: int) -> None:
    await corp.connect()
    answer = await corp.house.call("POST", f"{PATH}/acs", raw=body, headers={"content-type": content_type})
    assert answer.status == status, answer.body


# ---------------------------------------------------------------------- logout


def _certificates(root: Any) -> list[Any]:
    from cryptography import x509

    return [x509.load_der_x509_certificate(base64.b64decode(each.text)) for each in root.iter("{*}X509Certificate")]


def _logout(corp: Corp, name_id: str, index: str, **changes: Any) -> Any:
    at = OurEndpoints(changes.pop("issuer", IDP), "", "")
    destination = changes.pop("destination", f"{corp.base}/slo")
    identifier = changes.pop("identifier", "_logout")
    return logout_request(identifier, at, destination, corp.house.clock.now(), name_id, "", index)


def _query(message: Any, by: str = "idp", relay_state: str = "rs") -> str:
    url = redirect_url("https://x", "SAMLRequest", message, relay_state, key(by))
    return urlsplit(url).query


async def test_the_provider_ends_a_session_by_redirect_and_is_answered(house: House, corp: Corp) -> None:
    await corp.connect()
    first = (await corp.sign_in()).json()
    other = (await corp.sign_in(session_index="_other", assertion_id="_second")).json()
    answer = await house.call("GET", f"{PATH}/slo?{_query(_logout(corp, 'jane', '_session'))}")
    assert answer.status == 302 and answer.headers["location"].startswith("https://idp.example.com/slo?SAMLResponse=")
    sent = parse_qs(urlsplit(answer.headers["location"]).query)
    response = etree.fromstring(zlib.decompress(base64.b64decode(sent["SAMLResponse"][0]), -15))
    assert response.get("InResponseTo") == "_logout" and sent["RelayState"] == ["rs"]
    assert (await house.call("GET", "/api/v1/auth/me", token=first["access_token"])).status == 401
    told = [(event.code, event.details.get("method", event.details.get("username"))) for event in await house.events()]
    assert ("BW1001", "saml") in told and ("BW1005", "jane") in told
    assert (await house.call("GET", "/api/v1/auth/me", token=other["access_token"])).status == 200
    assert house.authority.settled
    again = await house.call("GET", f"{PATH}/slo?{_query(_logout(corp, 'jane', ''))}")
    assert again.json()["reason"] == "provider_answer_invalid"  # the same ID
    everything = _query(_logout(corp, "jane", "", identifier="_l2"))
    assert (await house.call("GET", f"{PATH}/slo?{everything}")).status == 302
    assert (await house.call("GET", "/api/v1/auth/me", token=other["access_token"])).status == 401


async def test_the_provider_ends_a_session_by_post(house: House, corp: Corp) -> None:
    await corp.connect()
    told = (await corp.sign_in()).json()
    form = {"SAMLRequest": base64.b64encode(etree.tostring(sign(_logout(corp, "jane", "")))).decode()}
    answer = await house.call("POST", f"{PATH}/slo", raw=urlencode(form).encode(), headers=FORM)
    assert answer.status == 302
    assert (await house.call("GET", "/api/v1/auth/me", token=told["access_token"])).status == 401


async def test_a_sign_in_that_the_provider_ended_meanwhile_does_not_begin(house: House, corp: Corp) -> None:
    await corp.connect()
    begun = await corp.begin()
    said = corp.said(begun)
    response = said.response(sign(said.assertion()))
    house.clock.advance(1)
    assert (await house.call("GET", f"{PATH}/slo?{_query(_logout(corp, 'jane', ''))}")).status == 302
    late = await corp.post(response, begun)
    assert (late.status, late.json()["reason"]) == (401, "session_ended")
    # the logout of another of her sessions, or of somebody else, is none of this one's; nor is one of before
    house.clock.advance(1)
    assert (await corp.sign_in(assertion_id="_fresh")).status == 200
    begun = await corp.begin()
    said = corp.said(begun).but(assertion_id="_third")
    response = said.response(sign(said.assertion()))
    for number, (name_id, index) in enumerate([("jane", "_other"), ("john", "")]):
        query = _query(_logout(corp, name_id, index, identifier=f"_l{number}"))
        assert (await house.call("GET", f"{PATH}/slo?{query}")).status == 302
    assert (await corp.post(response, begun)).status == 200


async def test_logouts_that_come_at_once_end_everything_once(house: House, corp: Corp) -> None:
    await corp.connect()
    told = (await corp.sign_in()).json()
    queries = [_query(_logout(corp, "jane", "", identifier=f"_at_once{number % 3}")) for number in range(6)]
    mine = house.call("POST", "/api/v1/auth/saml/logout", token=told["access_token"])
    answers = await asyncio.gather(*(house.call("GET", f"{PATH}/slo?{query}") for query in queries), mine)
    assert sorted(answer.status for answer in answers[:-1]) == [302, 302, 302, 401, 401, 401]
    assert answers[-1].status in (200, 401)
    assert (await house.call("GET", "/api/v1/auth/me", token=told["access_token"])).status == 401


async def test_a_provider_that_takes_logouts_by_post_alone(house: House, corp: Corp) -> None:
    metadata = idp_metadata()
    by_redirect = re.findall(r"<[^<>]*SingleLogoutService[^<>]*HTTP-Redirect[^<>]*/>", metadata)
    assert by_redirect
    for element in by_redirect:
        metadata = metadata.replace(element, element.replace("HTTP-Redirect", "HTTP-POST"))
    await corp.connect(metadata=metadata)
    told = (await corp.sign_in()).json()
    answer = (await house.call("POST", "/api/v1/auth/saml/logout", token=told["access_token"])).json()
    assert answer["logout_url"].startswith("https://idp.example.com/slo") and "SAMLRequest" in answer["fields"]
    request = etree.fromstring(base64.b64decode(answer["fields"]["SAMLRequest"]))
    assert request.tag == f"{{{SAMLP}}}LogoutRequest" and request.find("ds:Signature", NSMAP) is not None
    # and its own request is answered by a form, whose page has no inline script
    await corp.sign_in(assertion_id="_again")
    form = {"SAMLRequest": base64.b64encode(etree.tostring(sign(_logout(corp, "jane", "")))).decode()}
    page = await house.call("POST", f"{PATH}/slo", raw=urlencode(form).encode(), headers=FORM)
    assert page.status == 200 and b'name="SAMLResponse"' in page.body and b"<script>" not in page.body


@pytest.mark.parametrize("lie", ["unsigned", "attacker", "altered", "destination", "issuer", "old", "relay", "twice"])
async def test_forged_logout_requests_end_nothing(house: House, corp: Corp, lie: str) -> None:
    await corp.connect()
    told = (await corp.sign_in()).json()
    changes = {"destination": {"destination": "https://x"}, "issuer": {"issuer": "https://x"}}.get(lie, {})
    query = _query(_logout(corp, "jane", "", **changes), "attacker" if lie == "attacker" else "idp")
    if lie == "unsigned":
        query = query.partition("&SigAlg")[0]
    elif lie == "altered":
        other = _query(_logout(corp, "jane", "_session")).partition("&")[0]
        query = other + "&" + query.partition("&")[2]
    elif lie == "relay":
        query = query.replace("RelayState=rs", "RelayState=other")
    elif lie == "twice":
        query += "&SAMLRequest=" + quote("x")
    elif lie == "old":
        house.clock.advance(11 * 60)
    answer = await house.call("GET", f"{PATH}/slo?{query}")
    assert answer.status in (400, 401), answer.body
    assert await house.value("SELECT ended_at FROM sessions WHERE id = :id", id=told["session_id"]) is None


async def test_signing_out_here_tells_the_provider(house: House, corp: Corp) -> None:
    await corp.connect()
    told = (await corp.sign_in()).json()
    answer = await house.call("POST", "/api/v1/auth/saml/logout", token=told["access_token"])
    url = answer.json()["logout_url"]
    sent = parse_qs(urlsplit(url).query)
    request = etree.fromstring(zlib.decompress(base64.b64decode(sent["SAMLRequest"][0]), -15))
    assert request.find("saml:NameID", NSMAP).text == "jane"
    assert request.find("samlp:SessionIndex", NSMAP).text == "_session"
    assert (await house.call("GET", "/api/v1/auth/me", token=told["access_token"])).status == 401
    said = corp.said(None)
    for inner, everywhere in (("", True), ("urn:oasis:names:tc:SAML:2.0:status:PartialLogout", False)):
        told = (await corp.sign_in(assertion_id=f"_more{everywhere}")).json()
        answer = await house.call("POST", "/api/v1/auth/saml/logout", token=told["access_token"])
        sent = parse_qs(urlsplit(answer.json()["logout_url"]).query)
        request = etree.fromstring(zlib.decompress(base64.b64decode(sent["SAMLRequest"][0]), -15))
        response = said.but(
            request_id=request.get("ID"), destination=f"{corp.base}/slo", response_id=f"_r{everywhere}"
        ).response()
        response.tag = f"{{{SAMLP}}}LogoutResponse"
        if inner:
            etree.SubElement(
                response.find("samlp:Status/samlp:StatusCode", NSMAP), f"{{{SAMLP}}}StatusCode", Value=inner
            )
        form = {
            "SAMLResponse": base64.b64encode(etree.tostring(sign(response))).decode(),
            "RelayState": sent["RelayState"][0],
        }
        ended = await house.call("POST", f"{PATH}/slo", raw=urlencode(form).encode(), headers=FORM)
        assert ended.json() == {"signed_out_everywhere": everywhere}
        again = await house.call("POST", f"{PATH}/slo", raw=urlencode(form).encode(), headers=FORM)
        assert again.json()["reason"] == "sign_in_not_begun"


async def test_a_zip_bomb_in_the_query_is_not_let_off(house: House, corp: Corp) -> None:
    await corp.connect()
    worker = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = base64.b64encode(worker.compress(b"a" * 30_000_000) + worker.flush()).decode()
    answer = await house.call("GET", f"{PATH}/slo?SAMLRequest={quote(bomb, safe='')}")
    assert answer.status == 400


# ---------------------------------------------------------------------- the test button


async def test_the_walk_names_what_is_about_to_end(house: House, corp: Corp) -> None:
    soon = house.clock.now() + timedelta(days=3)
    await corp.connect(metadata=idp_metadata(extra=f' validUntil="{stamp(soon)}"'))
    answer = await house.call("POST", "/api/v1/identity-providers/corp/test", {}, token=corp.token)
    told = answer.json()
    assert told["verdict"] == "FAIL"
    assert {step["step"]: step["passed"] for step in told["steps"]} == {
        "keys": True, "metadata": False, "certificates": True, "roles": True, "request": True,
    }  # fmt: skip
    assert b"PRIVATE" not in answer.body
