"""A real OpenLDAP server of 10,000 people under TLS, and servers that lie, stall or flood."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bailiwick.identity.ldap.ber import ENUMERATED, SEQUENCE, elements, header, integer, number, octets, tlv
from ports import free_port

HOST = "dc1.example.com"
BASE = "dc=example,dc=com"
READER = f"cn=reader,{BASE}"
READER_WORD = "reader's secret"
WORD = "a word of the directory"
PEOPLE = 10_000


class Authority:
    """A throw-away certificate authority."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test authority {name}")])
        self.certificate = self._signed(self.name, self.key, x509.BasicConstraints(ca=True, path_length=None))
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.file = directory / f"{name}.pem"
        self.file.write_text(self.pem)

    def issue(self, host: str) -> tuple[Path, Path]:
        """Certificate and key files for ``host``."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._signed(subject, key, x509.BasicConstraints(ca=False, path_length=None), host)
        files = self.directory / f"{self.file.stem}-{host}.crt", self.directory / f"{self.file.stem}-{host}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        encoding = serialization.PrivateFormat.TraditionalOpenSSL
        files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, encoding, serialization.NoEncryption()))
        return files

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, constraints: x509.BasicConstraints, host: str = ""
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(constraints, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if host:
            names = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def hashed(word: str) -> str:
    salt = os.urandom(4)
    return "{SSHA}" + base64.b64encode(hashlib.sha1(word.encode() + salt).digest() + salt).decode()


def _entry(dn: str, **attributes: str | list[str]) -> str:
    lines = ["dn:: " + base64.b64encode(dn.encode()).decode()]
    for name, values in attributes.items():
        for value in [values] if isinstance(values, str) else values:
            lines.append(f"{name}:: {base64.b64encode(value.encode()).decode()}")
    return "\n".join(lines) + "\n\n"


def person(uid: str, cn: str = "", word: str = WORD, **more: str | list[str]) -> str:
    """LDIF of somebody under ou=people."""
    return _entry(
        f"uid={uid},ou=people,{BASE}",
        objectClass="inetOrgPerson",
        uid=uid,
        cn=cn or uid.title(),
        sn="Doe",
        userPassword=hashed(word),
        **more,
    )


def group(cn: str, *members: str, dn: str = "") -> str:
    """LDIF of a group under ou=groups."""
    where = dn or f"cn={cn},ou=groups,{BASE}"
    return _entry(where, objectClass="groupOfNames", cn=cn, member=list(members))


def uid(name: str) -> str:
    return f"uid={name},ou=people,{BASE}"


def cn(name: str) -> str:
    return f"cn={name},ou=groups,{BASE}"


def content(people: int = PEOPLE) -> str:
    """Everybody, ``people`` of them of no interest. ``jane`` is an operator by a group in a group in a circle."""
    told = [
        _entry(BASE, objectClass=["dcObject", "organization"], dc="example", o="Example"),
        _entry(
            READER,
            objectClass=["organizationalRole", "simpleSecurityObject"],
            cn="reader",
            userPassword=hashed(READER_WORD),
        ),
        _entry(f"ou=people,{BASE}", objectClass="organizationalUnit", ou="people"),
        _entry(f"ou=groups,{BASE}", objectClass="organizationalUnit", ou="groups"),
        person("jane", "Jane Doe", mail="jane@corp.example.com"),
        person("adam", "Adam Min"),
        person("lone", "Lone Some"),
        person("deep", "Deep Down"),
        person("st*r", "Star"),
        person("paren(s)", "Parens"),
        person("root", "Root of the Directory"),
        person("twin1", "Twin", mail="twins@corp.example.com"),
        person("twin2", "Twin", mail="twins@corp.example.com"),
        _entry(
            f"uid=comma\\, smith+cn=Comma,ou=people,{BASE}",
            objectClass="inetOrgPerson",
            uid="comma, smith",
            cn="Comma",
            sn="Smith",
            userPassword=hashed(WORD),
        ),
        group("staff", uid("jane"), uid("adam"), uid("st*r")),
        group("engineers", cn("staff"), cn("circle")),
        group("circle", cn("engineers")),
        group("admins", uid("adam")),
        group("Ops, Night", f"uid=comma\\, smith+cn=Comma,ou=people,{BASE}", dn=f"cn=Ops\\, Night,ou=groups,{BASE}"),
        *(group(f"level{n}", cn(f"level{n - 1}") if n else uid("deep")) for n in range(8)),
        *(person(f"user{n:05}", word=WORD) for n in range(people)),
    ]
    told += [group(f"team{n}", *(uid(f"user{m:05}") for m in range(n, people, 100))) for n in range(min(people, 100))]
    return "".join(told)


class Slapd:
    """A directory on two ports, ``ldaps`` and ``ldap`` with StartTLS."""

    def __init__(self, home: Path, *, tls: bool = True, ldif: str | None = None) -> None:
        self.home = home
        self.tls = tls
        self.authority = Authority(home)
        self.ldaps_port, self.ldap_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        (home / "data").mkdir()
        certificate, key = self.authority.issue(HOST)
        self.configuration = home / "slapd.conf"
        secured = f"TLSCACertificateFile {self.authority.file}\nTLSCertificateFile {certificate}\nTLSCertificateKeyFile {key}\n"
        self.configuration.write_text(
            "include /etc/ldap/schema/core.schema\ninclude /etc/ldap/schema/cosine.schema\n"
            "include /etc/ldap/schema/inetorgperson.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n"
            f"pidfile {home}/pid\nloglevel 0\nsizelimit 20000\n{secured if tls else ''}"
            f'database mdb\nmaxsize 1073741824\nsuffix "{BASE}"\nrootdn "cn=manager,{BASE}"\n'
            f"directory {home}/data\ndbnosync\nindex objectClass,uid,mail,member,entryUUID eq\n"
            f'access to attrs=userPassword by anonymous auth by * none\naccess to * by dn.exact="{READER}" read by * none\n'
        )
        self._tool("slapadd", "-q", given=content() if ldif is None else ldif)

    @property
    def ldaps(self) -> str:
        return f"ldaps://{HOST}:{self.ldaps_port}"

    @property
    def ldap(self) -> str:
        return f"ldap://{HOST}:{self.ldap_port}"

    def start(self) -> None:
        urls = f"ldap://127.0.0.1:{self.ldap_port}/" + (f" ldaps://127.0.0.1:{self.ldaps_port}/" if self.tls else "")
        self._process = subprocess.Popen(
            ["/usr/sbin/slapd", "-f", str(self.configuration), "-h", urls, "-d", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.home / "log").open("ab"),
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.ldap_port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, (self.home / "log").read_text()
                assert time.monotonic() < deadline, "slapd does not start"
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _tool(self, name: str, *more: str, given: str) -> None:
        subprocess.run(
            [f"/usr/sbin/{name}", "-f", str(self.configuration), *more],
            input=given.encode(),
            check=True,
            capture_output=True,
        )


@contextmanager
def running(**how: object) -> Iterator[Slapd]:
    """A directory for the time of the block."""
    home = Path(tempfile.mkdtemp(prefix="bw-slapd-", dir="/tmp"))
    made = Slapd(home, **how)  # type: ignore[arg-type]
    made.start()
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(home, ignore_errors=True)


# ---------------------------------------------------------------------- servers that are no good

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(speak: Speak, certificate: tuple[Path, Path] | None = None) -> AsyncIterator[int]:
    """A server that speaks as told; its port."""
    tls = None
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*certificate)
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await speak(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(one, "127.0.0.1", 0, ssl=tls)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def received(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    """Number, tag and contents of the next request."""
    data = await reader.readexactly(2)
    while (size := header(data)) is None:
        data += await reader.readexactly(1)
    data += await reader.readexactly(size[0] + size[1] - len(data))
    parts = list(elements(next(iter(elements(data)))[1]))
    return number(parts[0][1]), parts[1][0], parts[1][1]


def result(identifier: int, tag: int, code: int = 0, told: str = "") -> bytes:
    """A message with a result."""
    return tlv(SEQUENCE, integer(identifier), tlv(tag, integer(code, ENUMERATED), octets(""), octets(told)))


def entry(identifier: int, dn: str, **attributes: str) -> bytes:
    """A message with an entry."""
    listed = [tlv(SEQUENCE, octets(name), tlv(0x31, octets(value))) for name, value in attributes.items()]
    return tlv(SEQUENCE, integer(identifier), tlv(0x64, octets(dn), tlv(SEQUENCE, *listed)))
