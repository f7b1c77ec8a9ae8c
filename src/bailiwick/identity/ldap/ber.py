"""The basic encoding rules as LDAP restricts them (RFC 4511 §5.1): definite lengths, no constructed strings."""

from __future__ import annotations

from collections.abc import Iterator

BOOLEAN, INTEGER, OCTETS, ENUMERATED, SEQUENCE, SET = 0x01, 0x02, 0x04, 0x0A, 0x30, 0x31


class BerError(ValueError):
    """The bytes are not what they should be."""


def tlv(tag: int, *contents: bytes) -> bytes:
    """A tag with its length and contents."""
    value = b"".join(contents)
    size = len(value)
    if size < 0x80:
        return bytes((tag, size)) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + value


def integer(value: int, tag: int = INTEGER) -> bytes:
    """A whole number, not negative."""
    return tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octets(value: str | bytes, tag: int = OCTETS) -> bytes:
    """A string."""
    return tlv(tag, value.encode("utf-8", "replace") if isinstance(value, str) else value)


def boolean(value: bool, tag: int = BOOLEAN) -> bytes:
    """A truth value."""
    return tlv(tag, b"\xff" if value else b"\x00")


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The tags and contents that stand in ``data`` one after another; raises :class:`BerError`."""
    at = 0
    while at < len(data):
        size = header(data[at : at + 6])
        if size is None or at + size[0] + size[1] > len(data):
            raise BerError("cut short")
        start = at + size[0]
        yield data[at], data[start : start + size[1]]
        at = start + size[1]


def header(data: bytes) -> tuple[int, int] | None:
    """How long tag and length are together, and how long what follows; None where more bytes are needed.

    Raises :class:`BerError` for a form that LDAP does not use.
    """
    if len(data) < 2:
        return None
    if data[0] & 0x1F == 0x1F:
        raise BerError("a tag of several bytes")
    first = data[1]
    if first < 0x80:
        return 2, first
    count = first & 0x7F
    if not 1 <= count <= 4:
        raise BerError("an indefinite or an enormous length")
    if len(data) < 2 + count:
        return None
    return 2 + count, int.from_bytes(data[2 : 2 + count], "big")


def number(contents: bytes) -> int:
    """The whole number of an element."""
    if not 1 <= len(contents) <= 8:
        raise BerError("a number of a strange size")
    return int.from_bytes(contents, "big", signed=True)


def expect(element: tuple[int, bytes], tag: int) -> bytes:
    """The contents of an element that must have ``tag``."""
    if element[0] != tag:
        raise BerError(f"tag {element[0]:#x} where {tag:#x} was expected")
    return element[1]


def parts(data: bytes, least: int, most: int = 1 << 30) -> list[tuple[int, bytes]]:
    """The elements of ``data``, which must be so many."""
    found = list(elements(data))
    if not least <= len(found) <= most:
        raise BerError("parts are missing or too many")
    return found
