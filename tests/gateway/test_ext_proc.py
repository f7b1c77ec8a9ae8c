"""The guard's few protobuf messages, written and read."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_guard import headers_message

from bailiwick.gateway import ext_proc

tokens = st.from_regex(r"[a-z-]{1,40}", fullmatch=True)
values = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=300)


@given(st.dictionaries(tokens, values, max_size=20))
def test_headers_are_read_as_envoy_writes_them(headers):
    assert ext_proc.request_headers(headers_message(*headers.items())) == headers


@given(st.binary(max_size=200))
@example(b"\x12\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01")
@example(b"\x12\x05\x0a\x03\x0a\x01")
@example(b"\x0b")
def test_any_bytes_are_read_or_refused(data):
    for read in (ext_proc.request_headers, ext_proc.passes):
        try:
            result = read(data)
        except ext_proc.MalformedMessage:
            continue
        assert result is None or isinstance(result, (dict, bytes))


@pytest.mark.parametrize(
    ("request_field", "answer"),
    [(2, b"\x0a\x00"), (3, b"\x12\x00"), (4, b"\x1a\x00"), (5, b"\x22\x00"), (6, b"\x2a\x00"), (7, b"\x32\x00")],
)
def test_each_message_has_its_answer(request_field, answer):
    assert ext_proc.passes(bytes([request_field << 3 | 2, 0])) == answer


def test_a_message_that_announces_nothing_has_none():
    assert ext_proc.passes(b"") is None
    assert ext_proc.passes(b"\x52\x00") is None
    assert ext_proc.request_headers(b"\x1a\x00") is None


def test_an_immediate_response_names_both_statuses():
    assert ext_proc.immediate_response(503, 14) == b"\x3a\x09\x0a\x03\x08\xf7\x03\x22\x02\x08\x0e"
