from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.inventory.credentials import Secret, check_header, check_secret, presentation, seal, unseal
from bailiwick.inventory.loader import load_credentials, load_servers
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.errors import InvalidRequest
from people_fixtures import House

PLANTED = "sk-planted-4711-never-to-be-seen"


@pytest.mark.parametrize(
    ("secret", "header"),
    [
        (Secret("bearer", None, {"token": "abc"}), ("authorization", "Bearer abc")),
        (
            Secret("basic", None, {"username": "jürgen", "password": "a:b"}),
            ("authorization", "Basic " + base64.b64encode("jürgen:a:b".encode()).decode()),
        ),
        (Secret("api_key", "X-Api-Key", {"value": "k 1"}), ("x-api-key", "k 1")),
        (Secret("none"), None),
    ],
)
def test_each_kind_is_presented_in_its_way(secret: Secret, header: tuple[str, str] | None) -> None:
    check_secret(secret)
    assert presentation(secret.kind, secret.header, secret.values) == header


@pytest.mark.parametrize(
    "name",
    [
        "", "a b", "a:b", "a\r\n", "é", "a_b", "Host", "CONNECTION", "Content-Length", "Transfer-Encoding", "Upgrade",
        "Cookie", "TE", "X-Request-Id", "x-bailiwick-server", "X-Bailiwick-anything", "X-Envoy-Original-Path",
        "x-forwarded-for", "x-envoy", "Expect", "a" * 65,
    ],
)  # fmt: skip
def test_headers_of_the_protocol_and_the_gateway_carry_no_credential(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_header(name)


@pytest.mark.parametrize("value", ["", "q7\r\nHost: evil", "q7\nb", "q7\x00", "\x7f", " q7", "q7 ", "é", "q" * 9000])
def test_a_value_that_could_break_out_of_its_header_is_refused_unquoted(value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_secret(Secret("api_key", "X-Key", {"value": value}))
    assert not value or value not in refused.value.detail
    with pytest.raises(InvalidRequest):
        check_secret(Secret("bearer", None, {"token": value}))


@given(st.text(max_size=50), st.text(max_size=50))
def test_whatever_is_accepted_makes_one_header_line(first: str, second: str) -> None:
    for secret in (
        Secret("bearer", None, {"token": first}),
        Secret("basic", None, {"username": first, "password": second}),
        Secret("api_key", "X-Key", {"value": first}),
    ):
        try:
            check_secret(secret)
        except InvalidRequest:
            continue
        header = presentation(secret.kind, secret.header, secret.values)
        assert header is not None
        assert header[1].encode("latin-1").isascii()
        assert not any(ord(char) < 0x20 or ord(char) == 0x7F for char in header[1])


def test_a_sealed_secret_opens_only_for_its_row_kind_and_header() -> None:
    sealer = Sealer({"k": b"k" * 32}, "k")
    sealed = seal(sealer, "default", "id1", Secret("api_key", "X-Key", {"value": PLANTED}))
    assert PLANTED.encode() not in sealed
    assert unseal(sealer, "default", "id1", "api_key", "X-Key", sealed).values == {"value": PLANTED}
    for zone, identifier, kind, header in (
        ("other", "id1", "api_key", "X-Key"),
        ("default", "id2", "api_key", "X-Key"),
        ("default", "id1", "bearer", "X-Key"),
        ("default", "id1", "api_key", "X-Echo"),
    ):
        with pytest.raises(SealError):
            unseal(sealer, zone, identifier, kind, header, sealed)
    with pytest.raises(SealError):
        unseal(sealer, "default", "id1", "api_key", "X-Key", sealed[:-1] + bytes([sealed[-1] ^ 1]))


def test_a_secret_does_not_show_in_its_repr() -> None:
    assert PLANTED not in repr(Secret("bearer", None, {"token": PLANTED}))


async def test_values_are_written_and_never_read_back(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    token = await house.signed_in("root")
    bearer = {"kind": "bearer", "token": PLANTED}
    answers = [
        await house.call(method, f"/api/v1/credentials{path}", body, token=token)
        for method, path, body in (
            ("POST", "", {"name": "c", **bearer}),
            ("GET", "/c", None),
            ("GET", "", None),
            ("PUT", "/c", {"kind": "bearer", "token": PLANTED + "2"}),
            ("POST", "", {"name": "d", "kind": "bearer", "token": [PLANTED]}),
            ("POST", "", {"name": "d", "kind": "x", "token": PLANTED}),
            ("POST", "", {"name": "d", "kind": "bearer", "token": PLANTED + "\n"}),
        )
    ]
    assert [answer.status for answer in answers] == [201, 200, 200, 200, 400, 400, 400]
    for answer in answers:
        assert PLANTED.encode() not in answer.body
    assert answers[0].headers["etag"] == '"1"'
    assert answers[3].json()["version"] == 2
    assert PLANTED not in "".join(map(str, await house.events()))
    output = capsys.readouterr()
    assert PLANTED not in output.out + output.err
    assert PLANTED.encode() not in bytes(await house.value("SELECT sealed FROM credentials"))
    assert [event.name for event in await house.events()] == ["credential.created", "credential.rotated"]


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "bearer"},
        {"kind": "bearer", "token": ""},
        {"kind": "bearer", "token": "a", "username": "b"},
        {"kind": "bearer", "token": "a", "id": "mine"},
        {"kind": "bearer", "token": "a", "sealed": "mine"},
        {"kind": "basic", "username": "a:b", "password": "c"},
        {"kind": "basic", "username": "a\u0000", "password": "c"},
        {"kind": "api_key", "value": "a"},
        {"kind": "api_key", "header": "Host", "value": "a"},
        {"kind": "api_key", "header": "X-A", "value": "a\r\nX-B: c"},
        {"kind": "none", "token": "a"},
        {"kind": "oauth", "token": "a"},
    ],
)
async def test_bodies_that_do_not_fit_their_kind_are_refused(house: House, body: dict[str, Any]) -> None:
    token = await house.signed_in("root")
    answer = await house.call("POST", "/api/v1/credentials", {"name": "c", **body}, token=token)
    assert (answer.status, answer.json()["reason"]) == (400, "invalid_request")
    assert await house.value("SELECT count(*) FROM credentials") == 0


async def test_of_many_who_create_the_same_name_one_wins(house: House) -> None:
    token = await house.signed_in("root")
    body = {"name": "c", "kind": "bearer", "token": "t"}
    answers = await asyncio.gather(*(house.call("POST", "/api/v1/credentials", body, token=token) for _ in range(12)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 11


async def bound(house: House, token: str) -> None:
    created = await house.call(
        "POST",
        "/api/v1/credentials",
        {"name": "key", "kind": "api_key", "header": "X-Key", "value": PLANTED},
        token=token,
    )
    assert created.status == 201
    server = {"name": "pay", "endpoint": "https://pay.example.com", "binding": {"credential": "key"}}
    assert (await house.call("POST", "/api/v1/servers", server, token=token)).status == 201


async def test_a_credential_in_use_stays(house: House) -> None:
    token = await house.signed_in("root")
    await bound(house, token)
    answer = await house.call("DELETE", "/api/v1/credentials/key", token=token)
    assert (answer.status, answer.json()["reason"], answer.json()["used_by"]) == (409, "in_use", ["pay"])
    unbound = await house.call("PATCH", "/api/v1/servers/pay", {"binding": {"credential": None}}, token=token)
    assert unbound.json()["status"] == "credential_missing"
    assert (await house.call("DELETE", "/api/v1/credentials/key", token=token)).status == 204
    assert (await house.call("DELETE", "/api/v1/credentials/key", token=token)).status == 404


async def test_binding_and_deleting_at_once_leaves_no_binding_without_its_credential(house: House) -> None:
    token = await house.signed_in("root")
    for round_ in range(8):
        await house.call("POST", "/api/v1/credentials", {"name": "c", "kind": "none"}, token=token)
        server = {"name": f"s{round_}", "endpoint": "https://pay.example.com", "binding": {"credential": "c"}}
        made, deleted = await asyncio.gather(
            house.call("POST", "/api/v1/servers", server, token=token),
            house.call("DELETE", "/api/v1/credentials/c", token=token),
        )
        assert (made.status, deleted.status) in {(201, 409), (400, 204)}
        if made.status == 201:
            await house.call("DELETE", f"/api/v1/servers/s{round_}", token=token)


async def test_rotation_keeps_the_binding_and_honours_if_match(house: House) -> None:
    token = await house.signed_in("root")
    await bound(house, token)
    stale = await house.call(
        "PUT", "/api/v1/credentials/key", {"kind": "none"}, token=token, headers={"if-match": '"7"'}
    )
    assert (stale.status, stale.json()["reason"]) == (412, "version_mismatch")
    rotated = await house.call(
        "PUT",
        "/api/v1/credentials/key",
        {"kind": "api_key", "header": "X-Key", "value": "next"},
        token=token,
        headers={"if-match": '"1"'},
    )
    assert rotated.json()["used_by"] == ["pay"]
    assert (await house.feed())[-1] == ("credential", "key")
    async with house.database.begin() as tx:
        entry = (await load_servers(tx, house.sealer, "default", audience=house.settings.audience))["pay"]
        opened = (await load_credentials(tx, house.sealer, "default", "key"))["key"]
    assert (entry.presented.header, entry.presented.value) == ("x-key", "next")  # type: ignore[union-attr]
    assert opened.presented == entry.presented
    assert "next" not in repr(entry)


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE credentials SET header = 'x-echo'",
        "UPDATE credentials SET kind = 'none'",
        "UPDATE credentials SET sealed = set_byte(sealed, length(sealed) - 1, 0)",
        "UPDATE credentials SET sealed = NULL",
    ],
)
async def test_a_credential_altered_in_the_database_is_not_presented(house: House, tampering: str) -> None:
    token = await house.signed_in("root")
    await bound(house, token)
    async with house.database.begin() as tx:
        await tx.run(tampering)
        entry = (await load_servers(tx, house.sealer, "default", "pay", audience=house.settings.audience))["pay"]
    assert entry.presented is None
    assert entry.refusal == "credential_missing"


@pytest.mark.parametrize(("role", "may_read", "may_write"), [("viewer", 0, 0), ("auditor", 1, 0), ("operator", 1, 1)])
async def test_who_may(house: House, role: str, may_read: int, may_write: int) -> None:
    token = await house.signed_in(role, role)
    read = await house.call("GET", "/api/v1/credentials", token=token)
    write = await house.call("POST", "/api/v1/credentials", {"name": "c", "kind": "none"}, token=token)
    assert (read.status, write.status) == (200 if may_read else 403, 201 if may_write else 403)
