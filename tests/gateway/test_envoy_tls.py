"""TLS on both ports, certificates that change, and upstreams whose certificate is verified."""

from __future__ import annotations

import socket
import ssl

import pytest
from certificates import Authority
from envoy_rig import SECRET, EchoUpstream, Rig, wait_for
from h2_client import H2
from raw_http import Raw, serve_tcp

from bailiwick.gateway.envoy import Listener, Route, Upstream

REQUEST = b"GET /s/echo/x HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer t\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("with spaces"))


@pytest.fixture(scope="module")
def rig(authority):
    cert, key = authority.issue("gateway.test")
    with Rig(listeners={"tls_cert": cert, "tls_key": key}) as rig:
        yield rig


def trusting(
    authority: Authority, *, highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, alpn: str = "http/1.1"
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    context.maximum_version = highest
    context.set_alpn_protocols([alpn])
    return context


def secured(port: int, context: ssl.SSLContext) -> Raw:
    raw = Raw(port)
    raw.socket = context.wrap_socket(raw.socket, server_hostname="gateway.test")
    return raw


def test_both_ports_speak_tls_1_3(rig, authority):
    for port in (rig.port, rig.api_port):
        with secured(port, trusting(authority)) as connection:
            assert connection.socket.version() == "TLSv1.3"
            assert connection.send(REQUEST).answer().status == 200


def test_the_scheme_reaches_the_api_and_not_the_upstream(rig, authority):
    with secured(rig.api_port, trusting(authority)) as connection:
        assert dict(connection.send(REQUEST).answer().json()["headers"])["x-forwarded-proto"] == "https"
    with secured(rig.port, trusting(authority)) as connection:
        assert "x-forwarded-proto" not in dict(connection.send(REQUEST).answer().json()["headers"])


def test_http2_is_negotiated(rig, authority):
    with H2(rig.port, trusting(authority, alpn="h2")) as client:
        assert client.ask("/s/echo/x", ("authorization", "Bearer t")).status == 200


def test_tls_1_2_is_refused_unless_chosen(rig, authority):
    with pytest.raises((ssl.SSLError, ConnectionError)):
        secured(rig.port, trusting(authority, highest=ssl.TLSVersion.TLSv1_2))

    cert, key = authority.issue("gateway.test", "older")
    with Rig(listeners={"tls_cert": cert, "tls_key": key, "tls_minimum": "1.2"}) as older:
        for highest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with secured(older.port, trusting(authority, highest=highest)) as connection:
                assert connection.send(REQUEST).answer().status == 200


def test_plain_http_on_a_tls_port_is_not_answered(rig):
    with Raw(rig.port) as connection:
        connection.send(REQUEST)
        assert connection.ended()
        assert connection.buffer == b""


def test_a_renewed_certificate_is_taken_up_without_dropping_connections(rig, authority):
    def serial() -> int:
        with secured(rig.port, trusting(authority)) as connection:
            return int(connection.socket.getpeercert()["serialNumber"], 16)

    before = serial()
    with secured(rig.port, trusting(authority)) as kept:
        assert not rig.files.refresh_certificates()

        cert, key = authority.issue("gateway.test", "next")
        live_cert, live_key = authority.directory / "server.crt", authority.directory / "server.key"
        live_cert.write_bytes(cert.read_bytes())
        assert not rig.files.refresh_certificates(), "half a pair is left for later"
        assert serial() == before

        live_key.write_bytes(key.read_bytes())
        assert rig.files.refresh_certificates()
        wait_for(lambda: serial() != before)
        assert kept.send(REQUEST).answer().status == 200


def test_a_listener_needs_both_certificate_and_key(tmp_path):
    with pytest.raises(ValueError, match="both"):
        Listener("127.0.0.1", 1, tls_cert=tmp_path / "x")


@pytest.fixture(scope="module")
def tls_upstream(rig, authority):
    cert, key = authority.issue("up.example", "upstream")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    echo = EchoUpstream()
    server, port = rig.loop.run(serve_tcp(echo, context))
    yield port, names
    server.close()


def ask_through_tls(rig, authority, upstream: Upstream):
    rig.apply(*rig.default_routes(), Route("tls", (), upstream, credential_header="authorization"))
    with secured(rig.port, trusting(authority)) as connection:
        return connection.send(REQUEST.replace(b"/s/echo/", b"/s/tls/")).answer()


def test_an_upstream_is_verified_by_the_given_authority_and_name(rig, authority, tls_upstream):
    port, names = tls_upstream
    address = (("127.0.0.1", port),)

    answer = ask_through_tls(rig, authority, Upstream(address, tls=True, sni="up.example", ca_file=authority.ca_file))
    headers = dict(answer.json()["headers"])
    assert (headers["host"], headers["authorization"]) == ("up.example", SECRET)
    assert names[-1] == "up.example"

    for distrusted in (
        Upstream(address, tls=True, sni="other.example", ca_file=authority.ca_file),
        Upstream(address, tls=True, sni="up.example"),
    ):
        refused = ask_through_tls(rig, authority, distrusted)
        assert (refused.status, refused.json()["reason"]) == (502, "upstream_unavailable")


def test_an_upstream_that_speaks_no_tls_gets_no_credential(rig, authority):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(5)
        upstream = Upstream((listening.getsockname(),), tls=True, sni="up.example", ca_file=authority.ca_file)
        rig.apply(*rig.default_routes(), Route("tls", (), upstream, credential_header="authorization"))
        with secured(rig.port, trusting(authority)) as connection:
            connection.send(REQUEST.replace(b"/s/echo/", b"/s/tls/"))
            accepted, _ = listening.accept()
            listening.close()
            with accepted:
                first = accepted.recv(65536)
                accepted.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            assert connection.answer().status == 502
    assert first[0] == 0x16, "a TLS handshake, nothing else"
    assert b"SECRET" not in first
