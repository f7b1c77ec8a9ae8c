"""One connection to a directory: TLS before anything is said, then one operation after another (RFC 4511).

Whatever the peer sends is bounded, in each message and in each answer as a whole. Anything that is not LDAP, or not an
answer to what was asked, ends the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from bailiwick.identity.ldap.ber import (
    ENUMERATED,
    INTEGER,
    OCTETS,
    SEQUENCE,
    SET,
    BerError,
    boolean,
    elements,
    expect,
    header,
    integer,
    number,
    octets,
    parts,
    tlv,
)

SUCCESS, NO_SUCH_OBJECT, INVALID_CREDENTIALS, SIZE_LIMIT_EXCEEDED, REFERRAL = 0, 32, 49, 4, 10
BASE, SUBTREE = 0, 2
START_TLS = "1.3.6.1.4.1.1466.20037"
PAGED = "1.2.840.113556.1.4.319"
MOST_MESSAGE = 1 << 20
MOST_ANSWER = 8 << 20

_BIND, _BOUND, _UNBIND, _SEARCH, _ENTRY, _DONE, _REFERENCE, _EXTENDED, _EXTENDED_ANSWER = (
    0x60, 0x61, 0x42, 0x63, 0x64, 0x65, 0x73, 0x77, 0x78,
)  # fmt: skip
_CONTROLS = 0xA0
_NO_PEOPLE = ("dc=forestdnszones,", "dc=domaindnszones,", "cn=configuration,")
_RANGE = re.compile(r"range=[0-9]{1,9}-([0-9]{1,9}|\*)")


class DirectoryError(Exception):
    """The directory cannot be used: not reached, not trusted, not LDAP. The text says what, for administrators."""


class Refused(Exception):
    """The directory answers, and the answer is no: ``code`` (RFC 4511 appendix A) and its own words."""

    def __init__(self, code: int, told: str) -> None:
        self.code = code
        self.told = told
        super().__init__(f"result {code}: {told}" if told else f"result {code}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a directory is: the name its certificate must bear, the addresses of that name, the port."""

    host: str
    port: int
    addresses: Sequence[str]
    tls_first: bool
    tls: ssl.SSLContext = field(repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of an answer: attribute names in lower case. ``rest``: attributes of which the directory gave only the
    first values, each with the number of the next (Active Directory's range retrieval, MS-ADTS §3.1.1.3.1.3.3)."""

    dn: str
    attributes: Mapping[str, tuple[bytes, ...]]
    rest: Mapping[str, int] = field(default_factory=dict)

    def text(self, attribute: str) -> str:
        """The value, the first in order of several; empty without one."""
        values = sorted(self.attributes.get(attribute.lower(), ()))
        return values[0].decode("utf-8", "replace") if values else ""

    def texts(self, attribute: str) -> tuple[str, ...]:
        """All values."""
        return tuple(value.decode("utf-8", "replace") for value in self.attributes.get(attribute.lower(), ()))


async def connect(address: Address) -> Connection:
    """A connection under TLS, to the first of the addresses that answers; raises :class:`DirectoryError`."""
    told = "the name does not resolve"
    for each in address.addresses:
        try:
            return await _connect(address, each)
        except ssl.SSLCertVerificationError as error:
            told = f"the certificate is not accepted: {error.verify_message}"
        except ssl.SSLError as error:
            told = f"TLS fails: {error.reason or 'the connection was closed'}"
        except (OSError, EOFError) as error:
            told = f"no connection: {getattr(error, 'strerror', None) or type(error).__name__}"
        except BerError as error:
            told = f"not LDAP: {error}"
        except Refused as error:
            told = f"StartTLS is refused: {error}"
    raise DirectoryError(told)


async def _connect(address: Address, ip: str) -> Connection:
    plain = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
    try:
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(plain, (ip, address.port))
        if not address.tls_first:
            await _start_tls(plain)
        reader, writer = await asyncio.open_connection(
            sock=plain, ssl=address.tls, server_hostname=address.host, limit=MOST_MESSAGE + 16
        )
    except BaseException:
        plain.close()
        raise
    return Connection(reader, writer)


async def _start_tls(plain: socket.socket) -> None:
    """Ask for TLS on a bare socket, reading not one byte more than the answer: what follows it is TLS, or an attack."""
    loop = asyncio.get_running_loop()
    request = tlv(_EXTENDED, octets(START_TLS, 0x80))
    await loop.sock_sendall(plain, tlv(SEQUENCE, integer(1), request))
    data = b""
    while (size := header(data)) is None or len(data) < size[0] + size[1]:
        if size is not None and size[1] > 4096:
            raise BerError("an enormous answer to StartTLS")
        wanted = 1 if size is None else size[0] + size[1] - len(data)
        got = await loop.sock_recv(plain, wanted)
        if not got:
            raise EOFError
        data += got
    identifier, operation, _controls = _message(data)
    if identifier != 1:
        raise BerError("not an answer to StartTLS")
    _raise_unless_success(expect(operation, _EXTENDED_ANSWER))


class Connection:
    """A connection under TLS, used by one at a time. After any error but :class:`Refused` it is of no more use."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._last = 1
        self.usable = True
        self.used_at = 0.0
        self.url = ""

    @property
    def alive(self) -> bool:
        """Whether nothing was seen that makes it useless, such as its end by the peer."""
        return self.usable and not self._reader.at_eof() and not self._writer.is_closing()

    async def bind(self, dn: str, password: str) -> None:
        """Prove to be ``dn``; raises :class:`Refused`. An empty password is refused here: it would prove nothing."""
        if not dn or not password:
            raise Refused(INVALID_CREDENTIALS, "an empty name or password is no proof (RFC 4513 §5.1.2)")
        operation = tlv(_BIND, integer(3), octets(dn), octets(password, 0x80))
        async with self._asking(operation):
            _raise_unless_success(expect(await self._next(), _BOUND))

    async def search(
        self,
        base: str,
        filter: bytes,
        attributes: Sequence[str],
        *,
        scope: int = SUBTREE,
        most: int,
        page: int = 0,
        seconds: int = 0,
        whole: bool = False,
    ) -> list[Entry]:
        """The entries that ``filter`` (on the wire) takes, at most ``most``; ``page`` asks for them in pages.

        Raises :class:`Refused`; not where there are more than ``most``. References to other servers are not followed.
        ``whole``: raises also where the directory ends at a limit of its own or refers elsewhere for some.
        """
        found: list[Entry] = []
        cookie = b""
        while True:
            limit = 0 if page else most
            request = tlv(
                _SEARCH,
                octets(base),
                integer(scope, ENUMERATED),
                integer(0, ENUMERATED),
                integer(limit),
                integer(seconds),
                boolean(False),
                filter,
                tlv(SEQUENCE, *map(octets, attributes)),
            )
            size = min(page, most + 1) if page else 0
            cookie = await self._page(request, size, cookie, found, most, whole=whole)
            if not cookie or len(found) >= most:
                return found[:most]

    async def close(self) -> None:
        """Say goodbye, and wait for nothing."""
        self.usable = False
        with contextlib.suppress(Exception):
            self._last += 1
            self._writer.write(tlv(SEQUENCE, integer(self._last), b"\x42\x00"))
        self._writer.close()

    async def _page(
        self, request: bytes, page: int, cookie: bytes, found: list[Entry], most: int, *, whole: bool
    ) -> bytes:
        """One page of a search; the cookie of the next, empty when there is none."""
        controls = b""
        if page:
            value = tlv(SEQUENCE, integer(page), octets(cookie))
            controls = tlv(_CONTROLS, tlv(SEQUENCE, octets(PAGED), octets(value)))
        async with self._asking(request, controls):
            taken, referred = 0, False
            while True:
                (tag, contents), answered = await self._next_with_controls()
                taken += len(contents)
                if taken > MOST_ANSWER or len(found) > most + page:
                    raise BerError("an answer larger than it was asked to be")
                if tag == _ENTRY:
                    found.append(_entry(contents))
                elif tag == _DONE:
                    _raise_unless_success(contents, but=SUCCESS if whole else SIZE_LIMIT_EXCEEDED)
                    if referred and whole:
                        raise Refused(REFERRAL, "some of it is on another server")
                    return _cookie(answered)
                elif tag == _REFERENCE:
                    referred = referred or not _of_no_people(contents)
                else:
                    raise BerError(f"tag {tag:#x} among the answers of a search")

    @contextlib.asynccontextmanager
    async def _asking(self, operation: bytes, controls: bytes = b"") -> AsyncIterator[None]:
        """Send a request. Whatever goes wrong until its answer was read makes the connection useless."""
        if not self.usable:
            raise DirectoryError("the connection was closed")
        self.usable = False
        self._last += 1
        try:
            self._writer.write(tlv(SEQUENCE, integer(self._last), operation, controls))
            await self._writer.drain()
            yield
        except Refused:
            self.usable = True
            raise
        except BerError as error:
            raise DirectoryError(f"not LDAP: {error}") from None
        except (OSError, EOFError, ssl.SSLError) as error:
            raise DirectoryError(f"the connection broke: {type(error).__name__}") from None
        else:
            self.usable = True

    async def _next(self) -> tuple[int, bytes]:
        return (await self._next_with_controls())[0]

    async def _next_with_controls(self) -> tuple[tuple[int, bytes], bytes]:
        data = await self._reader.readexactly(2)
        while (size := header(data)) is None:
            data += await self._reader.readexactly(1)
        if size[1] > MOST_MESSAGE:
            raise BerError("a message larger than we take")
        data += await self._reader.readexactly(size[0] + size[1] - len(data))
        identifier, operation, controls = _message(data)
        if identifier != self._last:
            # also the notice of disconnection (RFC 4511 §4.4.1), which has number 0
            raise BerError("not an answer to what was asked")
        return operation, controls


def _message(data: bytes) -> tuple[int, tuple[int, bytes], bytes]:
    """The number, the operation and the controls of a message."""
    found = parts(expect(parts(data, 1, 1)[0], SEQUENCE), 2, 3)
    controls = expect(found[2], _CONTROLS) if len(found) == 3 else b""
    return number(expect(found[0], INTEGER)), found[1], controls


def _raise_unless_success(contents: bytes, but: int = SUCCESS) -> None:
    found = parts(contents, 3)
    code = number(expect(found[0], ENUMERATED))
    if code not in (SUCCESS, but):
        raise Refused(code, expect(found[2], OCTETS)[:300].decode("utf-8", "replace"))


def _entry(contents: bytes) -> Entry:
    dn, listed = parts(contents, 2, 2)
    attributes: dict[str, tuple[bytes, ...]] = {}
    rest: dict[str, int] = {}
    for each in elements(expect(listed, SEQUENCE)):
        name, values = parts(expect(each, SEQUENCE), 2, 2)
        taken = tuple(expect(value, OCTETS) for value in elements(expect(values, SET)))
        named, _, option = expect(name, OCTETS).decode("utf-8", "replace").lower().partition(";")
        if (part := _RANGE.fullmatch(option)) is not None:
            # beside a part of the values the attribute itself may come, empty
            taken += attributes.get(named, ())
            if part[1] != "*":
                rest[named] = int(part[1]) + 1
        elif named in rest:
            continue
        attributes[named] = taken
    return Entry(expect(dn, OCTETS).decode("utf-8", "replace"), attributes, rest)


def _of_no_people(contents: bytes) -> bool:
    """Whether a reference leads only where Active Directory has no people: every search of a whole domain has these."""
    urls = [expect(url, OCTETS).decode("utf-8", "replace") for url in elements(contents)]
    names = [unquote(urlsplit(url).path).lstrip("/").casefold() for url in urls]
    return bool(names) and all(name.startswith(_NO_PEOPLE) for name in names)


def _cookie(controls: bytes) -> bytes:
    for control in elements(controls):
        found = parts(expect(control, SEQUENCE), 1, 3)
        if expect(found[0], OCTETS) == PAGED.encode() and len(found) > 1:
            _size, cookie = parts(expect(parts(expect(found[-1], OCTETS), 1, 1)[0], SEQUENCE), 2, 2)
            return expect(cookie, OCTETS)
    return b""
