"""Values that would change the meaning of Envoy's configuration are refused where they are made."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.gateway.authority_ref import MAX_ENCODED_BYTES, AuthorityRef, AuthorityRefError
from bailiwick.gateway.envoy import Listener, Route, Upstream, Worker

HERE = (("192.0.2.1", 80),)


@pytest.mark.parametrize(
    "wrong",
    [
        {"server": ""},
        {"server": "a/b"},
        {"server": "a?b"},
        {"server": "a%2fb"},
        {"server": ".."},
        {"server": "a\nb"},
        {"server": "a" * 129},
        {"zone": "a/b"},
        {"hosts": ("*",)},
        {"hosts": ("*.example",)},
        {"hosts": ("Upper.example",)},
        {"hosts": ("a.example:80",)},
        {"hosts": ("a b",)},
        {"hosts": ("a.example\n",)},
        {"path_prefix": ""},
        {"path_prefix": "relative"},
        {"path_prefix": "/a?b"},
        {"path_prefix": "/a#b"},
        {"path_prefix": "/a b"},
        {"path_prefix": "/a\r\nX: y"},
        {"credential_header": ""},
        {"credential_header": "Authorization"},
        {"credential_header": "host"},
        {"credential_header": "content-length"},
        {"credential_header": "transfer-encoding"},
        {"credential_header": "x-request-id"},
        {"credential_header": "x-bailiwick-credential"},
        {"credential_header": "x-forwarded-user"},
        {"credential_header": "x-envoy-retry-on"},
        {"credential_header": ":path"},
        {"credential_header": "a b"},
        {"credential_header": "x_api_key"},
        {"credential_header": "%REQ(cookie)%"},
        {"max_request_bytes": 0},
        {"max_request_bytes": -1},
        {"binding": "%REQ(x)%"},
        {"binding": "a b"},
    ],
)
def test_a_route_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ValueError, match="."):
        Route(**{"server": "a", **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"addresses": ()},
        {"addresses": (("up.example", 80),)},
        {"addresses": (("192.0.2.1", 0),)},
        {"addresses": (("192.0.2.1", 65536),)},
        {"tls": True},
        {"timeout_s": 0},
        {"idle_timeout_s": 0},
        {"authority": "a b"},
        {"authority": "a.example:x"},
        {"authority": "%REQ(host)%"},
    ],
)
def test_an_upstream_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(ValueError, match="."):
        Upstream(**{"addresses": HERE, **wrong})


def test_the_upstreams_host_is_never_the_callers():
    assert Upstream(HERE).host == "192.0.2.1:80"
    assert Upstream((("2001:db8::1", 443),)).host == "[2001:db8::1]:443"
    assert Upstream(HERE, tls=True, sni="up.example").host == "up.example"
    assert Upstream(HERE, tls=True, sni="up.example", authority="other.example:8443").host == "other.example:8443"


def test_listeners_and_sockets_are_checked():
    with pytest.raises(ValueError, match="does not appear"):
        Listener("localhost", 80)
    with pytest.raises(ValueError, match="port"):
        Listener("127.0.0.1", 0)
    with pytest.raises(ValueError, match="absolute"):
        Worker("w", Path("api.sock"), Path("check.sock"))
    with pytest.raises(ValueError, match="107 at most"):
        Worker("w", Path("/" + "ä" * 54), Path("/check.sock"))


names = st.text(max_size=60)


@given(st.builds(AuthorityRef, names.filter(bool), *[names] * 6, st.integers(), st.integers()))
def test_an_authority_reference_survives_the_header(ref):
    text = ref.encode()
    if len(text) > MAX_ENCODED_BYTES:
        with pytest.raises(AuthorityRefError):
            AuthorityRef.decode(text)
        return
    back = AuthorityRef.decode(text)
    assert back == ref
    assert text.isascii() and text.isprintable() and " " not in text and "," not in text


@given(
    st.text(alphabet=st.characters(codec="latin-1"), max_size=200) | st.from_regex(r"[a-z%|0-9]{0,40}", fullmatch=True)
)
def test_anything_else_is_no_authority_reference(text):
    try:
        ref = AuthorityRef.decode(text)
    except AuthorityRefError:
        return
    assert ref.encode() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "||||||||",
        "j|c|s|s|z|v|k|1",
        "j|c|s|s|z|v|k|1|2|3",
        "j|c|s|s|z|v|k|x|2",
        "j|c|s|s|z|v|k|1|2 ",
        "%6a|c|s|s|z|v|k|1|2",
        "j" * 5000,
    ],
)
def test_near_misses_are_refused(text):
    with pytest.raises(AuthorityRefError):
        AuthorityRef.decode(text)
