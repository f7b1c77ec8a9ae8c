"""The few messages of Envoy's external processing protocol the guard speaks, in protobuf's wire format.

Envoy's `service/ext_proc/v3/external_processor.proto` names the fields. Generated classes would come with a
package that overwrites the one Envoy itself is installed as, and half a dozen fields do not need them.
"""

from __future__ import annotations

from collections.abc import Iterator

METHOD_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
METHOD_NAME = "Process"

# ProcessingRequest
_REQUEST_HEADERS = 2
# field of the request -> field of the ProcessingResponse that lets it pass unchanged
_PASS = {2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6}
_IMMEDIATE_RESPONSE = 7

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class MalformedMessage(ValueError):
    """The bytes are not a message of this protocol."""


def request_headers(message: bytes) -> dict[str, str] | None:
    """The request's headers when `message` (a ProcessingRequest) brings them, else None.

    A name that occurs twice raises `MalformedMessage`: Envoy forwards ours once or not at all.
    """
    for field, value in _fields(message):
        if field == _REQUEST_HEADERS and isinstance(value, bytes):
            return _header_map(value)
    return None


def passes(message: bytes) -> bytes | None:
    """The answer that lets what `message` announces pass unchanged; None when it asks for no answer."""
    for field, _ in _fields(message):
        if field in _PASS:
            return _tag(_PASS[field], _BYTES) + b"\x00"
    return None


def immediate_response(status: int, grpc_status: int) -> bytes:
    """A ProcessingResponse that ends the request: `status` for HTTP, `grpc_status` for gRPC callers."""
    body = _nested(1, _tag(1, _VARINT) + _varint(status)) + _nested(4, _tag(1, _VARINT) + _varint(grpc_status))
    return _nested(_IMMEDIATE_RESPONSE, body)


def _header_map(http_headers: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    for field, header_map in _fields(http_headers):
        if field != 1 or not isinstance(header_map, bytes):
            continue
        for _, entry in _fields(header_map):
            if not isinstance(entry, bytes):
                raise MalformedMessage("header is not a message")
            parts = dict(_fields(entry))
            name, value = parts.get(1, b""), parts.get(3) or parts.get(2) or b""
            if not isinstance(name, bytes) or not isinstance(value, bytes):
                raise MalformedMessage("header is not text")
            key = name.decode("latin-1")
            if key in headers:
                raise MalformedMessage("header occurs twice")
            headers[key] = value.decode("latin-1")
    return headers


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            number_value, at = _read_varint(data, at)
            yield number, number_value
            continue
        if wire == _BYTES:
            size, at = _read_varint(data, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise MalformedMessage("unknown wire type")
        if at + size > len(data):
            raise MalformedMessage("message is cut short")
        yield number, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise MalformedMessage("message is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise MalformedMessage("number is too long")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _nested(field: int, body: bytes) -> bytes:
    return _tag(field, _BYTES) + _varint(len(body)) + body
