"""Servers that probes look at: web servers, honest and lying, with and without TLS; a name server; a Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import shutil
import signal
import ssl
import struct
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ports import free_port

Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the tests."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def context(self, home: Path, names: list[str], days: float) -> ssl.SSLContext:
        """A server's side of TLS with a certificate for ``names`` that ends in ``days``."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(key.public_key(), "server", self.certificate.subject, self.key, days, names)
        files = (home / f"{names[0]}-{days}.pem", home / f"{names[0]}-{days}.key")
        files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(_pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        return context


def authority() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    return Authority(key, _certificate(key.public_key(), "tests", name, key, 3650, []))


def _certificate(
    public: ec.EllipticCurvePublicKey, name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float,
    names: list[str],
) -> x509.Certificate:  # fmt: skip
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address(n)) if n[0].isdigit() else x509.DNSName(n) for n in names]
            ),
            critical=False,
        )
    else:
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(key, hashes.SHA256())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@asynccontextmanager
async def web(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A web server on a free port of loopback: ``handler`` gets the target of the request line and writes the answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            head = await reader.readuntil(b"\r\n\r\n")
            await handler(head.split(b" ")[1].decode(), writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    told = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{told}Connection: close\r\n\r\n".encode() + body


class NameServer(asyncio.DatagramProtocol):
    """Answers A, TXT and CNAME questions for a few names; others do not exist. Some names are answered with lies."""

    def __init__(self) -> None:
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self.transport is not None
        if b"silent" in data:
            return
        if b"forged" in data:
            self.transport.sendto(b"\x00\x00" + self.answer(data)[2:], addr)
            return
        if b"garbage" in data:
            self.transport.sendto(b"\xff" * 40, addr)
            return
        if b"short" in data:
            self.transport.sendto(data[:2] + b"\x87\x00" + data[4:], addr)
            return
        self.transport.sendto(self.answer(data), addr)

    @staticmethod
    def answer(question: bytes) -> bytes:
        kind = struct.unpack("!H", question[-4:-2])[0]
        records: list[bytes] = []
        if b"web" in question or b"short" in question:
            if kind == 1:
                records = [bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])]
            if kind == 16:
                records = [b"\x05hello"]
            if kind == 5:
                records = [b"\x05other\xc0\x10"]
        code = 2 if b"broken" in question else 0 if records or b"web" in question else 3
        flags = 0x8180 | code
        head = question[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0)
        written = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(r)) + r for r in records)
        return head + question[12:] + written


@asynccontextmanager
async def name_server() -> AsyncIterator[int]:
    """It listens on UDP and TCP of one free port of loopback."""
    loop = asyncio.get_running_loop()
    port = free_port()
    transport, _ = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", port))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        told = NameServer.answer(await reader.readexactly(length))
        writer.write(struct.pack("!H", len(told)) + told)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield port
    finally:
        server.close()
        transport.close()


@asynccontextmanager
async def forwarding(path: str) -> AsyncIterator[int]:
    """A TCP port of loopback that leads to a unix socket."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(path)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextmanager
def prometheus(metrics_port: int) -> Iterator[str]:
    """A real Prometheus that scrapes ``metrics_port`` each half second; its address."""
    program, home, port = shutil.which("prometheus"), Path(tempfile.mkdtemp(prefix="bw-prom-")), free_port()
    assert program is not None, "the package prometheus is not installed (tools/apt-needs.sh)"
    (home / "prometheus.yml").write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 400ms}\nscrape_configs:\n"
        f"  - job_name: tests\n    static_configs: [{{targets: ['127.0.0.1:{metrics_port}']}}]\n"
    )
    child = subprocess.Popen(
        [program, f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data",
         f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                query = f"http://127.0.0.1:{port}/api/v1/query?query=latency_seconds"
                with urllib.request.urlopen(query, timeout=2) as got:
                    if b'"value"' in got.read():
                        break
            assert child.poll() is None and time.monotonic() < deadline, "the Prometheus does not start"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        shutil.rmtree(home, ignore_errors=True)
