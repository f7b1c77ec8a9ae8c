"""Rules without input or output: pacing, filters, redaction, what answers mean, what addresses may be."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bailiwick.evidence.siem.breaker import Breaker, Pace
from bailiwick.evidence.siem.destination import Batch, Item, Refused, Retry, Stop, enveloped
from bailiwick.evidence.siem.kinds import check_options
from bailiwick.evidence.siem.options import check_url
from bailiwick.evidence.siem.outgoing import Answer, judge, retry_after
from bailiwick.evidence.siem.selection import MASK, Selection, redact
from bailiwick.evidence.siem.webhook import sign, signing_key
from bailiwick.kernel.errors import InvalidRequest

settings.register_profile("siem", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
QUICK = settings.get_profile("siem")
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def test_waits_double_up_to_the_cap_and_never_come_together() -> None:
    pace = Pace(base_s=1, cap_s=60, threshold=100)
    latest = Breaker(pace, lambda: 1.0)
    assert [latest.failed() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    earliest = Breaker(pace, lambda: 0.0)
    assert [earliest.failed() for _ in range(3)] == [0.5, 1, 2]


def test_the_breaker_opens_lets_one_through_and_closes_after_two() -> None:
    breaker = Breaker(Pace(threshold=3, cap_s=60), lambda: 1.0)
    for _ in range(2):
        breaker.failed()
    assert breaker.state == "closed"
    assert breaker.failed() == 60 and breaker.state == "open"
    breaker.probing()
    assert breaker.state == "half-open"
    breaker.failed()
    assert breaker.state == "open"
    breaker.probing()
    breaker.succeeded()
    assert breaker.state == "half-open"
    breaker.succeeded()
    assert breaker.state == "closed" and breaker.failures == 0


def test_what_the_destination_asks_for_wins_over_our_pace_within_reason() -> None:
    breaker = Breaker(Pace(longest_wait_s=900), lambda: 0.0)
    assert breaker.failed(30) == 30
    assert breaker.failed(0) > 0
    assert breaker.failed(86_400) == 900


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        (" 5 ", 5),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0),
        ("soon", None),
        ("-1", None),
        ("٣", None),
        ("9" * 400, None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, None), (202, None), (204, None), (301, Stop), (304, Stop), (400, Refused), (401, Stop), (403, Stop),
     (404, Stop), (405, Stop), (407, Stop), (408, Retry), (410, Stop), (413, Refused), (422, Refused), (425, Retry),
     (429, Retry), (500, Retry), (501, Retry), (502, Retry), (503, Retry), (504, Retry)],
)  # fmt: skip
def test_what_statuses_mean(status: int, outcome: type[Exception] | None) -> None:
    answer = Answer(status, {}, b"because\x1b[2J")
    if outcome is None:
        judge(answer, NOW)
        return
    with pytest.raises(outcome) as raised:
        judge(answer, NOW)
    assert "\x1b" not in str(raised.value)


def test_filters_take_what_they_say() -> None:
    assert Selection().takes("BW9999", "", "error")
    gateway = Selection(names=("gateway.*",), outcomes=("deny",))
    assert gateway.takes("BW4002", "gateway.request.denied", "deny")
    assert not gateway.takes("BW4001", "gateway.request.allowed", "allow")
    assert not gateway.takes("BW1001", "auth.login.success", "deny")
    assert Selection(codes=("BW1001",), names=("gateway.*",)).takes("BW1001", "auth.login.success", "success")
    assert not Selection(exclude=("audit.*", "BW1003")).takes("BW5001", "audit.read", "success")
    assert not Selection(exclude=("audit.*", "BW1003")).takes("BW1003", "auth.logout", "success")


def test_redaction_takes_out_what_it_says_and_nothing_else() -> None:
    event: dict[str, Any] = {
        "id": "e", "network": {"ip": "192.0.2.7", "user_agent": "x"}, "actor": {"user": "jane"},
        "details": {"query": "secret", "n": 5, "names": ["a", "b"]}, "reasons": ["r"],
    }  # fmt: skip
    before = json.dumps(event)
    wanted = {
        "network.ip": "hash",
        "details.query": "mask",
        "details.names": "hash",
        "reasons": "remove",
        "actor.x": "mask",
    }
    after = redact(event, wanted, b"key")
    assert json.dumps(event) == before, "what was given was changed"
    assert after["network"]["user_agent"] == "x" and after["actor"] == {"user": "jane"} and "reasons" not in after
    assert after["details"]["query"] == MASK and after["details"]["n"] == 5
    assert after["network"]["ip"].startswith("h:") and "192" not in after["network"]["ip"]
    assert after["network"]["ip"] == redact(event, wanted, b"key")["network"]["ip"]
    assert after["network"]["ip"] != redact(event, wanted, b"other")["network"]["ip"]
    assert len(after["details"]["names"]) == 2 and all(each.startswith("h:") for each in after["details"]["names"])


values = st.recursive(
    st.text() | st.integers(-(2**53), 2**53) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@QUICK
@given(
    event=st.dictionaries(st.sampled_from(["a", "b", "c"]), values, max_size=3),
    wanted=st.dictionaries(
        st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map(".".join),
        st.sampled_from(["remove", "mask", "hash"]),
        max_size=4,
    ),
)
def test_redaction_bears_any_form(event: dict[str, Any], wanted: dict[str, str]) -> None:
    before = json.dumps(event)
    after = redact(event, wanted, b"k")
    assert json.dumps(event) == before and set(after) <= set(event)


@QUICK
@given(envelope=st.dictionaries(st.text(), st.text() | st.integers(), max_size=4), text=st.text())
def test_an_envelope_leaves_every_byte_of_the_body(envelope: dict[str, Any], text: str) -> None:
    body = msgspec.json.encode({"x": text}) if text.isprintable() else b'{"x":1}'
    made = enveloped({name: value for name, value in envelope.items() if name != "event"}, "event", body)
    assert made.endswith(body + b"}")
    assert json.loads(made.decode("utf-8", "surrogatepass"))["event"] == json.loads(body)


@QUICK
@given(count=st.integers(2, 30), data=st.data())
def test_parts_of_a_batch_cover_it_without_gap_or_overlap(count: int, data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(10, 200), min_size=count, max_size=count)))
    items = tuple(Item("z", seq, str(seq), NOW, "BW4001", "n", "allow", b"{}") for seq in places)
    batch = Batch("z", 10, 250, items)
    left, right = batch.split(data.draw(st.integers(1, count - 1)))
    assert (left.first, right.end) == (10, 250) and left.end == right.first
    assert left.items + right.items == items
    assert all(left.first <= item.seq < left.end for item in left.items)
    assert all(right.first <= item.seq < right.end for item in right.items)


@pytest.mark.parametrize(
    "url",
    [
        "http://siem.example.com/", "ftp://example.com", "https://user:pw@example.com", "https://example.com/?q=1",
        "https://example.com/#f", "https://exa mple.com", "https://", "https://example.com:0", "https://example.com:99999",
        "https://example.com/\x00", "https://example.com\\@evil.example", "//example.com", "https://[::1", "https://exämple.com",
    ],
)  # fmt: skip
def test_addresses_that_are_not_plain_https_are_refused(url: str) -> None:
    with pytest.raises(ValueError):
        check_url(url)


@QUICK
@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for candidate in (text, f"https://{text}"):
        try:
            checked = check_url(candidate)
        except ValueError:
            continue
        assert checked.startswith("https://") or "localhost" in checked or "127." in checked or "[" in checked


def test_options_are_refused_by_field_and_never_by_value() -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_options("splunk", {"url": "http://secret-host.example/", "index": "UPPER"})
    assert "options.url" in raised.value.detail and "options.index" in raised.value.detail
    assert "secret-host" not in raised.value.detail
    with pytest.raises(InvalidRequest):
        check_options("s3", {"bucket": "evidence", "prefix": "../other/"})
    with pytest.raises(InvalidRequest):
        check_options("syslog", {"host": "h", "ca": "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----"})


def test_the_signature_is_that_of_the_specification() -> None:
    # the example of the Standard Webhooks libraries
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    made = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    for wrong in ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_QUFB", "whsec_***"):
        with pytest.raises(ValueError):
            signing_key(wrong)
