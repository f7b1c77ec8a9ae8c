"""A look at what a name server answers: one question over UDP, over TCP where the answer is cut short (RFC 1035).

The system's resolver would hide who answered and what; this asks one server, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import struct
from dataclasses import dataclass
from pathlib import Path

from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.probes.spec import DnsCheck
from bailiwick.assurance.thresholds import Unit
from bailiwick.evidence.siem.destination import Retry, Stop
from bailiwick.evidence.siem.outgoing import reached

_TYPES = {"A": 1, "CNAME": 5, "TXT": 16, "AAAA": 28}
_NO_SUCH_NAME = 3
_MOST_POINTERS = 64


class Malformed(ValueError):
    """The bytes are no answer."""


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """What a server said: the code of its answer, whether it was cut short, and the records of the type asked for."""

    code: int
    truncated: bool
    records: tuple[str, ...]


async def dns(check: DnsCheck, means: Means, asked: Asked) -> Found:
    """Ask, and hold the answers against those that must be among them."""
    address = await _server(check, means)
    question = encode_question(secrets.randbelow(65_536), check.name, check.record)
    try:
        async with asyncio.timeout(asked.timeout_s):
            answer = await _over_udp(address, check.port, question)
            if answer.truncated:
                answer = await _over_tcp(address, check.port, question)
    except TimeoutError:
        raise LookFailed(f"the name server does not answer within {asked.timeout_s:g} s") from None
    except (OSError, Malformed, asyncio.IncompleteReadError) as error:
        raise LookFailed(f"the name server {address}: {error}") from None
    if answer.code == _NO_SUCH_NAME:
        return Found(0.0, Unit.COUNT, wrong="there is no such name")
    if answer.code != 0:
        raise LookFailed(f"the name server answers with code {answer.code}")
    output = "\n".join([f"{check.record} {check.name}", *answer.records]).encode()
    wanted = {text.lower().rstrip(".") for text in check.answers}
    missing = sorted(wanted - {text.lower().rstrip(".") for text in answer.records})
    return Found(
        float(len(answer.records)),
        Unit.COUNT,
        f"{len(answer.records)} answers",
        output,
        wrong=f"{', '.join(missing)} is not among the answers" if missing else "",
        absent="" if answer.records or missing else "the name has no such record",
        holds=True,
    )


async def _server(check: DnsCheck, means: Means) -> str:
    if check.server is None:
        return await asyncio.to_thread(_own_server)
    try:
        return (await reached(means.reach, check.server.strip("[]"), check.port))[0]
    except (Stop, Retry) as error:
        raise LookFailed(str(error)) from None


def _own_server() -> str:
    """Whom the machine itself asks, which was the operator's choice and is not checked."""
    with contextlib.suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text().splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == "nameserver":
                return words[1]
    raise LookFailed("this machine has no name server")


class _Exchange(asyncio.DatagramProtocol):
    """Waits for the datagram that answers the question; others are not heeded."""

    def __init__(self, question: bytes) -> None:
        self._question = question
        self.answer: asyncio.Future[DnsAnswer] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if self.answer.done():
            return
        try:
            self.answer.set_result(decode_answer(data, self._question))
        except Malformed:
            pass  # a stray or forged one; the right one may still come

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _over_udp(address: str, port: int, question: bytes) -> DnsAnswer:
    loop = asyncio.get_running_loop()
    transport, exchange = await loop.create_datagram_endpoint(lambda: _Exchange(question), remote_addr=(address, port))
    try:
        transport.sendto(question)
        return await exchange.answer
    finally:
        transport.close()


async def _over_tcp(address: str, port: int, question: bytes) -> DnsAnswer:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(struct.pack("!H", len(question)) + question)
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        return decode_answer(await reader.readexactly(length), question)
    finally:
        writer.close()


def encode_question(number: int, name: str, record: str) -> bytes:
    """A query for one name and type, recursion desired."""
    labels = name.rstrip(".").encode("idna").split(b".")
    if any(not 1 <= len(label) <= 63 for label in labels):
        raise LookFailed(f"{name} is no host name")
    written = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + written + struct.pack("!2H", _TYPES[record], 1)


def decode_answer(data: bytes, question: bytes) -> DnsAnswer:
    """What the server said to ``question``. Raises :class:`Malformed`, also for the answer to another question."""
    try:
        _, flags, questions, answers, _, _ = struct.unpack_from("!6H", data)
        asked = question[12:]
        if data[:2] != question[:2] or not flags & 0x8000 or questions != 1:
            raise Malformed("it is no answer to what was asked")
        if data[12 : 12 + len(asked)].lower() != asked.lower():
            raise Malformed("it answers another question")
        wanted = struct.unpack("!H", question[-4:-2])[0]
        at, records = 12 + len(asked), []
        for _ in range(answers):
            _, at = _name(data, at)
            kind, _, _, length = struct.unpack_from("!2HIH", data, at)
            at += 10
            if at + length > len(data):
                raise Malformed("a record is cut short")
            if kind == wanted:
                records.append(_record(data, at, length, kind))
            at += length
    except (struct.error, IndexError, UnicodeDecodeError):
        if len(data) >= 4 and data[2] & 0x02 and data[:2] == question[:2]:
            return DnsAnswer(0, True, ())
        raise Malformed("it cannot be read") from None
    return DnsAnswer(flags & 0x0F, bool(flags & 0x0200), tuple(records))


def _record(data: bytes, at: int, length: int, kind: int) -> str:
    if kind in (1, 28):
        raw = data[at : at + length]
        if len(raw) != (4 if kind == 1 else 16):
            raise Malformed("an address has another length")
        return str(ipaddress.ip_address(raw))
    if kind == 5:
        return _name(data, at)[0]
    text, end = b"", at + length
    while at < end:
        text += data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
    return text.decode("utf-8", "replace")


def _name(data: bytes, at: int) -> tuple[str, int]:
    """The name at ``at``, pointers followed a bounded number of times, and where the next field begins."""
    labels: list[str] = []
    end = -1
    for _ in range(_MOST_POINTERS * 2):
        size = data[at]
        if size == 0:
            return ".".join(labels), end if end >= 0 else at + 1
        if size & 0xC0 == 0xC0:
            end = at + 2 if end < 0 else end
            at = struct.unpack_from("!H", data, at)[0] & 0x3FFF
        elif size & 0xC0:
            raise Malformed("a label has a length nobody knows")
        else:
            labels.append(data[at + 1 : at + 1 + size].decode("ascii"))
            at += 1 + size
    raise Malformed("a name leads in circles")
