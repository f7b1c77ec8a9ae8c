from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bailiwick.inventory.loader import load_servers
from people_fixtures import House

SEED = {
    "name": "web-server-01",
    "endpoint": "https://web-01.example.com",
    "description": "Production web server",
    "tags": {"environment": "production", "tier": "frontend"},
}
BINDING: dict[str, Any] = {
    "operations": [
        {"method": "GET", "path": "/payments/{id}", "scope": "payments:read"},
        {"method": "POST", "path": "/payments", "scope": "payments:write", "name": "Pay"},
        {"method": "GET", "path": "/events", "scope": "payments:read", "long_lived": True},
    ],
    "credential": "key",
    "hosts": ["Pay.Example.org"],
}
PAY = {"name": "pay", "endpoint": "https://pay.example.com/base", "binding": BINDING}


def certificate() -> str:
    """A self-signed certificate as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "upstream")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
async def token(house: House) -> str:
    token = await house.signed_in("root")
    await house.call("POST", "/api/v1/credentials", {"name": "key", "kind": "bearer", "token": "t"}, token=token)
    return token


async def test_the_handoffs_calls_work_as_printed(house: House, token: str) -> None:
    made = await house.call("POST", "/api/v1/servers", SEED, token=token)
    assert made.status == 201
    assert {name: made.json()[name] for name in SEED} == SEED
    assert (made.json()["status"], made.json()["binding"]) == ("no_binding", None)
    assert made.json()["resource"] == "http://127.0.0.1:8081/s/web-server-01"
    tags = {"environment": "production", "tier": "frontend", "region": "us-east-1"}
    changed = await house.call("PATCH", "/api/v1/servers/web-server-01", {"tags": tags}, token=token)
    assert (changed.status, changed.json()["tags"]) == (200, tags)
    assert (await house.call("DELETE", "/api/v1/servers/web-server-01", token=token)).status == 204
    assert (await house.call("GET", "/api/v1/servers/web-server-01", token=token)).status == 404
    assert [event.name for event in await house.events()][1:] == ["server.created", "server.changed", "server.deleted"]
    assert (await house.feed())[1:] == [("server", "web-server-01")] * 3
    assert len(house.authority.settled) == 2


async def test_a_binding_is_stored_in_one_form_and_loaded_for_the_gateway(house: House, token: str) -> None:
    made = await house.call("POST", "/api/v1/servers", PAY, token=token)
    assert made.json()["status"] == "routable"
    assert made.json()["binding"]["hosts"] == ["pay.example.org"]
    assert made.json()["binding"]["operations"][0]["name"] == "GET /payments/{id}"
    async with house.database.begin() as tx:
        entry = (await load_servers(tx, house.sealer, "default", audience=house.settings.audience))["pay"]
    assert entry.refusal is None
    assert (entry.upstream.host, entry.upstream.port, entry.upstream.base_path) == ("pay.example.com", 443, "/base")
    assert entry.addresses == ("93.184.216.35",)
    assert entry.scopes == {"payments:read", "payments:write"}
    assert entry.operations is not None
    found = entry.operations.match("GET", "/payments/7")
    assert found is not None
    assert found.scope == "payments:read"
    assert (entry.route, entry.audience) == ("pay", "http://127.0.0.1:8081/s/pay")


async def test_the_tag_changes_with_what_the_proxy_must_know_and_nothing_else(house: House, token: str) -> None:
    await house.call("POST", "/api/v1/servers", PAY, token=token)

    async def tag() -> str:
        async with house.database.begin() as tx:
            return (await load_servers(tx, house.sealer, "default", audience=house.settings.audience))[
                "pay"
            ].binding_tag

    first = await tag()
    await house.call("PATCH", "/api/v1/servers/pay", {"description": "x", "tags": {"a": "b"}}, token=token)
    await house.call("PUT", "/api/v1/credentials/key", {"kind": "bearer", "token": "t2"}, token=token)
    house.names.known["pay.example.com"] = ["93.184.216.36"]
    await house.resolver.refresh_all()
    assert await tag() == first
    await house.call("PUT", "/api/v1/credentials/key", {"kind": "api_key", "header": "X-K", "value": "v"}, token=token)
    assert await tag() != first


async def test_patch_is_json_merge_patch(house: House, token: str) -> None:
    await house.call("POST", "/api/v1/servers", {**PAY, "tags": {"a": "1", "b": "2"}, "description": "d"}, token=token)
    answer = await house.call(
        "PATCH",
        "/api/v1/servers/pay",
        {"tags": {"a": None, "c": "3"}, "description": None, "binding": {"timeout_s": 5, "hosts": None}},
        token=token,
    )
    document = answer.json()
    assert document["tags"] == {"b": "2", "c": "3"}
    assert document["description"] == ""
    assert document["binding"]["timeout_s"] == 5
    assert document["binding"]["hosts"] == []
    assert len(document["binding"]["operations"]) == 3
    assert (await house.events())[-1].details == {"changed": ["binding", "description", "tags"]}
    unbound = await house.call("PATCH", "/api/v1/servers/pay", {"binding": None}, token=token)
    assert (unbound.json()["binding"], unbound.json()["status"]) == (None, "no_binding")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x"},
        {"endpoint": "https://pay.example.com"},
        {"name": "", "endpoint": "https://pay.example.com"},
        {"name": "a/b", "endpoint": "https://pay.example.com"},
        {"name": "..", "endpoint": "https://pay.example.com"},
        {"name": "x\u0000", "endpoint": "https://pay.example.com"},
        {"name": "x\n", "endpoint": "https://pay.example.com"},
        {"name": "x" * 101, "endpoint": "https://pay.example.com"},
        {**SEED, "id": "mine"},
        {**SEED, "zone": "other"},
        {**SEED, "version": 9},
        {**SEED, "addresses": ["127.0.0.1"]},
        {**SEED, "status": "routable"},
        {**SEED, "description": "a\u0000b"},
        {**SEED, "description": "\ud800"},
        {**SEED, "description": "x" * 1_000_000},
        {**SEED, "tags": {"a": "b\u0000"}},
        {**SEED, "tags": {"a\u0000": "b"}},
        {**SEED, "tags": {"a": None}},
        {**SEED, "tags": {str(number): "x" for number in range(20_000)}},
        {**SEED, "tags": [1]},
        {**SEED, "endpoint": "ftp://pay.example.com"},
        {**SEED, "endpoint": "https://user:pw@pay.example.com"},
        {**SEED, "endpoint": "https://2130706433"},
        {**SEED, "endpoint": 7},
        {**SEED, "binding": {"operations": [{"method": "TRACE", "path": "/", "scope": "s"}]}},
        {**SEED, "binding": {"operations": [{"method": "GET", "path": "/../x", "scope": "s"}]}},
        {**SEED, "binding": {"operations": [{"method": "GET", "path": "/a", "scope": "S"}]}},
        {**SEED, "binding": {"operations": [{"method": "GET", "path": "/a", "scope": "s"}] * 2}},
        {**SEED, "binding": {"operations": [{"method": "GET", "path": f"/{n}", "scope": "s"} for n in range(501)]}},
        {**SEED, "binding": {"credential": "nobody"}},
        {**SEED, "binding": {"hosts": ["127.0.0.1"]}},
        {**SEED, "binding": {"hosts": ["localhost"]}},
        {**SEED, "binding": {"hosts": ["a.example", "A.example."]}},
        {**SEED, "binding": {"hosts": ["*.example"]}},
        {**SEED, "binding": {"protocol": "http3"}},
        {**SEED, "binding": {"timeout_s": 0}},
        {**SEED, "binding": {"timeout_s": "NaN"}},
        {**SEED, "binding": {"max_request_bytes": -1}},
        {**SEED, "binding": {"ca_pem": "not a certificate"}},
        {**SEED, "binding": {"ca_pem": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}},
        {**SEED, "binding": {"addresses": ["127.0.0.1"]}},
        [],
        None,
    ],
)
async def test_a_malformed_registration_is_refused(house: House, token: str, body: Any) -> None:
    answer = await house.call("POST", "/api/v1/servers", body, token=token)
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")
    assert await house.value("SELECT count(*) FROM servers") == 0
    assert await house.value("SELECT count(*) FROM server_hosts") == 0


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b'{"name": "a", "name": "b"}', b"[" * 5000, b'{"a":' * 5000])
async def test_bytes_that_are_no_registration_are_refused(house: House, token: str, raw: bytes) -> None:
    answer = await house.call("POST", "/api/v1/servers", token=token, raw=raw)
    assert answer.status == 400


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1", "[fe80::1]", "[64:ff9b::a9fe:a9fe]",
        "0.0.0.0", "[fd00:ec2::254]", "100.100.100.200", "１６９.254.169.254",
    ],
)  # fmt: skip
async def test_a_forbidden_address_is_refused_at_once(house: House, token: str, host: str) -> None:
    asked = list(house.names.asked)
    for body in (
        {"name": "x", "endpoint": f"http://{host}"},
        {"name": "x", "endpoint": "https://pay.example.com", "binding": {"upstream_url": f"http://{host}:8000"}},
    ):
        answer = await house.call("POST", "/api/v1/servers", body, token=token)
        assert (answer.status, answer.json()["reason"]) == (422, "upstream_forbidden")
    assert set(house.names.asked) - set(asked) <= {"pay.example.com"}
    made = await house.call("POST", "/api/v1/servers", SEED, token=token)
    assert made.status == 201
    patched = await house.call("PATCH", "/api/v1/servers/web-server-01", {"endpoint": f"http://{host}"}, token=token)
    assert (patched.status, patched.json()["reason"]) == (422, "upstream_forbidden")


async def test_a_name_that_resolves_inside_is_refused_and_one_that_does_not_resolve_waits(
    house: House, token: str
) -> None:
    house.names.known["rebind.example"] = ["93.184.216.34", "127.0.0.1"]
    refused = await house.call(
        "POST", "/api/v1/servers", {"name": "r", "endpoint": "http://rebind.example"}, token=token
    )
    assert (refused.status, refused.json()["reason"]) == (422, "upstream_forbidden")
    waiting = await house.call(
        "POST", "/api/v1/servers", {"name": "w", "endpoint": "http://later.example", "binding": {}}, token=token
    )
    assert (waiting.status, waiting.json()["status"]) == (201, "upstream_unresolved")


async def test_a_description_can_be_edited_while_names_are_down(house: House, token: str) -> None:
    await house.call("POST", "/api/v1/servers", PAY, token=token)
    house.names.known.clear()
    answer = await house.call("PATCH", "/api/v1/servers/pay", {"description": "new"}, token=token)
    assert (answer.status, answer.json()["status"]) == (200, "routable")


async def test_of_many_who_register_the_same_name_one_wins(house: House, token: str) -> None:
    answers = await asyncio.gather(*(house.call("POST", "/api/v1/servers", SEED, token=token) for _ in range(12)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 11
    assert {answer.json()["reason"] for answer in answers if answer.status == 409} == {"already_exists"}


async def test_a_host_name_belongs_to_one_server_of_all_zones(house: House, token: str) -> None:
    await house.zone("other")
    there = await house.signed_in("root", zone="other")
    bodies = [
        {"name": f"s{n}", "endpoint": "https://pay.example.com", "binding": {"hosts": ["b.example", "a.example"]}}
        for n in range(8)
    ]
    answers = await asyncio.gather(
        *(
            house.call("POST", "/api/v1/servers", body, token=tok, headers={"x-test-zone": zone})
            for body in bodies
            for tok, zone in ((token, "default"), (there, "other"))
        )
    )
    assert sorted(answer.status for answer in answers) == [201] + [409] * 15
    assert await house.value("SELECT count(*) FROM servers") == 1
    winner = next(answer.json()["name"] for answer in answers if answer.status == 201)
    zone = await house.value("SELECT zone FROM servers")
    mine = token if zone == "default" else there
    header = {"x-test-zone": zone}
    assert (await house.call("DELETE", f"/api/v1/servers/{winner}", token=mine, headers=header)).status == 204
    again = await house.call("POST", "/api/v1/servers", bodies[0], token=token)
    assert again.status == 201


async def test_servers_exchanging_host_names_never_fail_but_by_conflict(house: House, token: str) -> None:
    for name, host in (("one", "a.example"), ("two", "b.example")):
        body = {"name": name, "endpoint": "https://pay.example.com", "binding": {"hosts": [host]}}
        assert (await house.call("POST", "/api/v1/servers", body, token=token)).status == 201
    answers = await asyncio.gather(
        *(
            house.call("PATCH", f"/api/v1/servers/{name}", {"binding": {"hosts": hosts}}, token=token)
            for _ in range(5)
            for name, hosts in (("one", ["b.example"]), ("two", ["a.example"]), ("one", ["a.example"]))
        )
    )
    assert {answer.status for answer in answers} <= {200, 409}


async def test_the_gateways_own_host_name_cannot_be_claimed(house: House, token: str) -> None:
    house.servers._own_hosts.add("gateway.example")
    body = {**SEED, "binding": {"hosts": ["GATEWAY.example."]}}
    assert (await house.call("POST", "/api/v1/servers", body, token=token)).status == 400


async def test_a_stale_version_changes_nothing(house: House, token: str) -> None:
    made = await house.call("POST", "/api/v1/servers", SEED, token=token)
    assert made.headers["etag"] == '"1"'
    for method, body in (("PATCH", {"description": "x"}), ("DELETE", None)):
        answer = await house.call(
            method, "/api/v1/servers/web-server-01", body, token=token, headers={"if-match": '"2"'}
        )
        assert (answer.status, answer.json()["reason"]) == (412, "version_mismatch")
    fresh = await house.call(
        "PATCH", "/api/v1/servers/web-server-01", {"description": "x"}, token=token, headers={"if-match": '"1"'}
    )
    assert (fresh.status, fresh.headers["etag"]) == (200, '"2"')


async def test_concurrent_patches_are_all_kept(house: House, token: str) -> None:
    await house.call("POST", "/api/v1/servers", SEED, token=token)
    answers = await asyncio.gather(
        *(house.call("PATCH", "/api/v1/servers/web-server-01", {"tags": {f"t{n}": "x"}}, token=token) for n in range(4))
    )
    kept = (await house.call("GET", "/api/v1/servers/web-server-01", token=token)).json()["tags"]
    for number, answer in enumerate(answers):
        assert answer.status in {200, 409}
        assert (f"t{number}" in kept) == (answer.status == 200)


@pytest.mark.parametrize(
    "patch", [{"name": "other"}, {"endpoint": None}, {"id": "x"}, {"binding": {"operations": [{}]}}]
)
async def test_what_cannot_be_patched_is_refused(house: House, token: str, patch: dict[str, Any]) -> None:
    await house.call("POST", "/api/v1/servers", SEED, token=token)
    answer = await house.call("PATCH", "/api/v1/servers/web-server-01", patch, token=token)
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")


async def test_what_patches_add_up_to_is_bounded_too(house: House, token: str) -> None:
    tags = {f"a{number}": "planted" for number in range(60)}
    await house.call("POST", "/api/v1/servers", {**SEED, "tags": tags}, token=token)
    more = {"tags": {f"b{number}": "planted" for number in range(60)}}
    answer = await house.call("PATCH", "/api/v1/servers/web-server-01", more, token=token)
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")
    assert answer.json()["detail"].startswith("tags: ")
    assert "planted" not in answer.body.decode()


async def test_certificates_for_the_upstream_are_taken_with_https_only(house: House, token: str) -> None:
    pem = certificate()
    body = {**PAY, "binding": {**BINDING, "ca_pem": pem}}
    made = await house.call("POST", "/api/v1/servers", body, token=token)
    assert (made.status, made.json()["binding"]["ca_pem"]) == (201, pem)
    plain = await house.call("PATCH", "/api/v1/servers/pay", {"endpoint": "http://pay.example.com"}, token=token)
    assert (plain.status, plain.json()["reason"]) == (400, "invalid_request")


async def test_lists_are_read_page_by_page(house: House, token: str) -> None:
    for number in range(7):
        body = {"name": f"s{number}", "endpoint": "https://pay.example.com"}
        await house.call("POST", "/api/v1/servers", body, token=token)
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await house.call("GET", f"/api/v1/servers?limit=3{cursor}", token=token)).json()
        assert len(page["items"]) <= 3
        seen += [item["name"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == [f"s{number}" for number in range(7)]


@pytest.mark.parametrize(
    "cursor", ["", "x", "WyJhXHUwMDAwIl0", "WyJcdWQ4MDAiXQ", "WzFd", "W10", "bnVsbA", "%00", "WyJhIiwiYiJd"]
)
async def test_a_forged_cursor_is_refused(house: House, token: str, cursor: str) -> None:
    for path in ("servers", "credentials", "users", "applications", "sessions", "zones"):
        answer = await house.call("GET", f"/api/v1/{path}?cursor={cursor}", token=token)
        assert (answer.status, answer.json()["reason"]) == (400, "invalid_request"), path


@pytest.mark.parametrize("name", ["a%00b", "%2e%2e", "a%0a", "%ff", "a" * 101, "a%2fb"])
async def test_a_path_that_is_no_name_is_refused(house: House, token: str, name: str) -> None:
    for path in ("servers", "credentials", "users", "applications", "zones"):
        assert (await house.call("GET", f"/api/v1/{path}/{name}", token=token)).status in {400, 404}, path


async def test_a_zone_does_not_see_anothers_servers(house: House, token: str) -> None:
    await house.zone("other")
    there = await house.signed_in("root", zone="other")
    await house.call("POST", "/api/v1/servers", SEED, token=token)
    header = {"x-test-zone": "other"}
    assert (await house.call("GET", "/api/v1/servers/web-server-01", token=there, headers=header)).status == 404
    assert (await house.call("GET", "/api/v1/servers", token=there, headers=header)).json()["items"] == []
    assert (await house.call("DELETE", "/api/v1/servers/web-server-01", token=there, headers=header)).status == 404
    assert (await house.call("GET", "/api/v1/servers", token=there)).status == 401


async def test_a_row_another_hand_wrote_refuses_alone(house: House, token: str) -> None:
    await house.call("POST", "/api/v1/servers", PAY, token=token)
    await house.call("POST", "/api/v1/servers", SEED, token=token)
    async with house.database.begin() as tx:
        await tx.run("UPDATE servers SET binding = '{\"operations\": 7}' WHERE name = 'pay'")
        loaded = await load_servers(tx, house.sealer, "default", audience=house.settings.audience)
    assert (loaded["pay"].refusal, loaded["pay"].binding) == ("no_binding", None)
    assert loaded["web-server-01"].name == "web-server-01"


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("auditor", 403), ("operator", 201), ("admin", 201)])
async def test_who_may_register(house: House, role: str, status: int) -> None:
    token = await house.signed_in(role, role)
    assert (await house.call("POST", "/api/v1/servers", SEED, token=token)).status == status
    assert (await house.call("GET", "/api/v1/servers", token=token)).status == 200
    assert (await house.call("POST", "/api/v1/servers", SEED)).status == 401
