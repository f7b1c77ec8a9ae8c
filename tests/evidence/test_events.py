from __future__ import annotations

import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from bailiwick.evidence import codes
from bailiwick.evidence.events import Actor, Context, Network, Recorder, decode, encode, leaf_hash
from bailiwick.evidence.records import EventRow, event_row
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.ids import Ids

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(text, text, text, text)
def test_any_event_a_caller_can_cause_is_canonical_and_storable(user: str, agent: str, server: str, path: str) -> None:
    """RFC 8785: sorted keys, no white space; and nothing in it that PostgreSQL could not hold."""
    recorder = Recorder(FakeClock(), Ids())
    context = Context("default", Actor(user=user), Network(user_agent=agent))
    body = encode(recorder.make(codes.POLICY_REFUSED, "failure", context, server=server, sha256=path, findings=[path]))
    assert body == json.dumps(json.loads(body), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert encode(decode(body)) == body
    row = event_row("source", 0, 0, "default", body)
    assert isinstance(row, EventRow)
    assert "\x00" not in (row.principal or "") + (row.server or "")


def test_the_leaf_is_that_of_rfc_6962() -> None:
    assert leaf_hash(b"") == hashlib.sha256(b"\x00").digest()
    assert leaf_hash(b"abc") == hashlib.sha256(b"\x00abc").digest()
