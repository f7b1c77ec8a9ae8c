"""A real rsyslog that receives over TLS, in a directory of its own."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import re
import subprocess
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ports import free_port

_CONFIGURATION = """
global(workDirectory="{home}" maxMessageSize="128k" defaultNetstreamDriver="{driver}"
  defaultNetstreamDriverCAFile="{home}/ca.pem"
  defaultNetstreamDriverCertFile="{home}/server.pem" defaultNetstreamDriverKeyFile="{home}/server.key")
module(load="imtcp" streamDriver.name="{driver}" streamDriver.mode="1" streamDriver.authMode="{auth}" {peers})
input(type="imtcp" port="{port}" address="127.0.0.1")
template(name="parsed" type="list") {{
  property(name="pri") constant(value="\\t") property(name="timestamp" dateFormat="rfc3339") constant(value="\\t")
  property(name="hostname") constant(value="\\t") property(name="app-name") constant(value="\\t")
  property(name="msgid") constant(value="\\t") property(name="structured-data") constant(value="\\t")
  property(name="msg") constant(value="\\n")
}}
action(type="omfile" file="{home}/received" template="parsed" asyncWriting="off" flushOnTXEnd="on")
"""


class Authority:
    """Issues certificates for one test."""

    def __init__(self, home: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._make("test authority", self.key, None)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.home = home

    def issue(self, name: str) -> tuple[str, str]:
        """Certificate and key (PEM) for 127.0.0.1 under ``name``."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._make(name, key, [x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))])
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()

    def _make(
        self, name: str, key: ec.EllipticCurvePrivateKey, names: list[x509.GeneralName] | None
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = subject if names is None else self.certificate.subject
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=names is None, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if names is None:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            made = made.add_extension(usage, critical=True)
        else:
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return made.sign(self.key, hashes.SHA256())


class Rsyslog:
    """``driver``: ``gtls`` or ``ossl``. ``clients``: whether it asks for a certificate of the authority."""

    def __init__(self, home: Path, authority: Authority, driver: str = "ossl", *, clients: bool = False) -> None:
        self.home = home
        self.driver = driver
        self.clients = clients
        self.port = free_port()
        certificate, key = authority.issue("siem.example.com")
        (home / "ca.pem").write_text(authority.pem)
        (home / "server.pem").write_text(certificate)
        (home / "server.key").write_text(key)
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        text = _CONFIGURATION.format(
            home=self.home,
            driver=self.driver,
            port=self.port,
            auth="x509/certvalid" if self.clients else "anon",
            peers="",
        )
        (self.home / "rsyslog.conf").write_text(text)
        command = ["rsyslogd", "-n", "-f", str(self.home / "rsyslog.conf"), "-i", str(self.home / "pid")]
        self._process = subprocess.Popen(
            ["/usr/sbin/" + command[0], *command[1:]],
            stdout=(self.home / "out").open("wb"),
            stderr=subprocess.STDOUT,
        )
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                assert self._process.poll() is None, (self.home / "out").read_text()
                await asyncio.sleep(0.02)

    async def stop(self, *, kill: bool = False) -> None:
        if self._process is not None:
            self._process.kill() if kill else self._process.terminate()
            await asyncio.to_thread(self._process.wait, 10)
            self._process = None

    @property
    def lines(self) -> list[list[str]]:
        """The parsed messages: PRI, time, host, program, message id, structured data, message."""
        try:
            text = (self.home / "received").read_text()
        except FileNotFoundError:
            return []
        return [line.split("\t", 6) for line in text.splitlines() if line.count("\t") >= 6]

    @property
    def ids(self) -> list[str]:
        return [json.loads(line[6])["id"] for line in self.lines]

    @staticmethod
    def data(line: list[str]) -> dict[str, str]:
        return dict(re.findall(r'(\w+)="([^"]*)"', line[5]))
