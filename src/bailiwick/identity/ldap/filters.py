"""Search filters: their text (RFC 4515), their form on the wire (RFC 4511 §4.5.1.7), and what may be put into them."""

from __future__ import annotations

import re

from bailiwick.identity.ldap.ber import boolean, octets, tlv

_AND, _OR, _NOT, _EQUAL, _SUBSTRINGS, _GREATER, _LESS, _PRESENT, _APPROX, _EXTENSIBLE = (
    0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0x87, 0xA8, 0xA9,
)  # fmt: skip
_SET_OF = {"&": _AND, "|": _OR}
_COMPARED = {"": _EQUAL, ">": _GREATER, "<": _LESS, "~": _APPROX}
_ITEM = re.compile(
    r"(?P<attribute>[A-Za-z0-9][A-Za-z0-9.;-]*)?(?P<dn>:dn)?(?::(?P<rule>[A-Za-z0-9][A-Za-z0-9.-]*))?"
    r"(?P<kind>[:<>~]?)=(?P<value>[^()]*)"
)
_BAD_ESCAPE = re.compile(r"\\(?![0-9A-Fa-f]{2})")
_DEEPEST = 20


class FilterError(ValueError):
    """The text is not a filter."""


def escaped(value: str) -> str:
    """A value so that it stands for itself in a filter's text (RFC 4515 §3); everything else in it is inert."""
    return "".join(
        f"\\{byte:02x}" if byte in b"\x00()*\\" or byte >= 0x80 or byte < 0x20 else chr(byte)
        for byte in value.encode("utf-8", "replace")
    )


def encoded(text: str) -> bytes:
    """The filter on the wire; raises :class:`FilterError`."""
    filter_, end = _filter(text, 0, 0)
    if end != len(text):
        raise FilterError("something follows the filter")
    return filter_


def equals(attribute: str, value: str, rule: str = "") -> bytes:
    """A comparison on the wire, without the detour by text. ``rule``: the number of a matching rule."""
    if rule:
        parts = (octets(rule, 0x81), octets(attribute, 0x82), octets(value, 0x83))
        return tlv(_EXTENSIBLE, *parts)
    return tlv(_EQUAL, octets(attribute), octets(value))


def all_of(*filters: bytes) -> bytes:
    """What every one of ``filters`` takes."""
    return tlv(_AND, *filters)


def any_of(*filters: bytes) -> bytes:
    """What one of ``filters`` takes."""
    return tlv(_OR, *filters)


def present(attribute: str) -> bytes:
    """Entries that have ``attribute``."""
    return octets(attribute, _PRESENT)


def _filter(text: str, at: int, depth: int) -> tuple[bytes, int]:
    if depth > _DEEPEST:
        raise FilterError("too many brackets in brackets")
    if text[at : at + 1] != "(":
        raise FilterError("a bracket is missing")
    at += 1
    sign = text[at : at + 1]
    if sign in _SET_OF:
        parts, at = [], at + 1
        while text[at : at + 1] == "(":
            part, at = _filter(text, at, depth + 1)
            parts.append(part)
        made = tlv(_SET_OF[sign], *parts)
    elif sign == "!":
        part, at = _filter(text, at + 1, depth + 1)
        made = tlv(_NOT, part)
    else:
        found = _ITEM.match(text, at)
        if found is None:
            raise FilterError("a comparison is missing")
        made, at = _item(found), found.end()
    if text[at : at + 1] != ")":
        raise FilterError("a bracket is missing")
    return made, at + 1


def _item(found: re.Match[str]) -> bytes:
    attribute, value, kind = found["attribute"] or "", found["value"], found["kind"]
    if kind == ":":
        if not attribute and not found["rule"]:
            raise FilterError("neither an attribute nor a rule")
        parts = [octets(found["rule"], 0x81)] if found["rule"] else []
        parts += [octets(attribute, 0x82)] if attribute else []
        parts += [octets(_plain(value), 0x83)] + ([boolean(True, 0x84)] if found["dn"] else [])
        return tlv(_EXTENSIBLE, *parts)
    if not attribute or found["dn"] or found["rule"]:
        raise FilterError("an attribute is missing")
    if kind == "" and value == "*":
        return present(attribute)
    if kind == "" and "*" in value:
        return _substrings(attribute, value.split("*"))
    return tlv(_COMPARED[kind], octets(attribute), octets(_plain(value)))


def _substrings(attribute: str, pieces: list[str]) -> bytes:
    first, *middle, last = pieces
    parts = [octets(_plain(first), 0x80)] if first else []
    parts += [octets(_plain(piece), 0x81) for piece in middle if piece]
    parts += [octets(_plain(last), 0x82)] if last else []
    if not parts:
        return present(attribute)
    return tlv(_SUBSTRINGS, octets(attribute), tlv(0x30, *parts))


def _plain(value: str) -> bytes:
    """The bytes that an assertion value stands for."""
    if _BAD_ESCAPE.search(value) or "*" in value or "\x00" in value:
        raise FilterError("a character that must be escaped")
    told, at = bytearray(), 0
    for found in re.finditer(r"\\([0-9A-Fa-f]{2})", value):
        told += value[at : found.start()].encode("utf-8", "replace") + bytes.fromhex(found.group(1))
        at = found.end()
    return bytes(told + value[at:].encode("utf-8", "replace"))
