"""What a look amounts to and how a probe stands, as pure functions; and what a document of a probe may say."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.app.assurance import KINDS
from bailiwick.assurance.book import BadBook, check, read_text
from bailiwick.assurance.books import plan
from bailiwick.assurance.durations import span, told
from bailiwick.assurance.probes.dns import Malformed, decode_answer, encode_question
from bailiwick.assurance.probes.files import instant_of
from bailiwick.assurance.probes.json_path import Absent, number_of, parse_path, value_at
from bailiwick.assurance.probes.reading import Found, LastRun, Limit, failed, read, sparkline, standing
from bailiwick.assurance.probes.tls import covers
from bailiwick.assurance.thresholds import Comparison, Unit
from bailiwick.kernel.verdicts import Verdict

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
BELOW = Limit(100, Comparison.BELOW, Unit.MILLISECONDS, "p95")


@pytest.mark.parametrize(
    ("found", "limit", "verdict"),
    [
        (Found(80, Unit.MILLISECONDS), BELOW, Verdict.PASS),
        (Found(0.08, Unit.SECONDS), BELOW, Verdict.PASS),
        (Found(0.2, Unit.SECONDS), BELOW, Verdict.FAIL),
        (Found(80), BELOW, Verdict.PASS),
        (Found(80, Unit.BYTES), BELOW, Verdict.ERROR),
        (Found(80, Unit.MILLISECONDS, wrong="the status is 500"), BELOW, Verdict.FAIL),
        (Found(math.nan), BELOW, Verdict.NO_DATA),
        (Found(math.inf), None, Verdict.NO_DATA),
        (Found(None), BELOW, Verdict.NO_DATA),
        (Found(absent="no series"), BELOW, Verdict.NO_DATA),
        (Found(absent="no series", holds=True), None, Verdict.NO_DATA),
        (Found(holds=True), None, Verdict.PASS),
        (Found(holds=False), None, Verdict.FAIL),
        (Found(5), None, Verdict.NO_DATA),
        (Found(1, wrong="x", absent="y", holds=True), None, Verdict.FAIL),
    ],
)
def test_what_a_look_amounts_to(found: Found, limit: Limit | None, verdict: Verdict) -> None:
    reading = read(found, limit)
    assert reading.verdict is verdict
    assert reading.output or not reading.detail


def test_a_reading_is_told_in_the_unit_of_its_threshold() -> None:
    reading = read(Found(0.08, Unit.SECONDS), BELOW, timedelta(minutes=5))
    assert (reading.value, reading.unit) == (pytest.approx(80), Unit.MILLISECONDS)
    assert reading.document()["window_s"] == 300
    assert failed("nobody answers", BELOW).verdict is Verdict.ERROR


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("last", "overdue", "verdict"),
    [
        (None, None, Verdict.NOT_DUE),
        (None, NOW - HOUR, Verdict.NO_DATA),
        (LastRun(Verdict.PASS, NOW - HOUR, NOW + HOUR), None, Verdict.PASS),
        (LastRun(Verdict.PASS, NOW - HOUR, NOW), None, Verdict.STALE),
        (LastRun(Verdict.FAIL, NOW - 3 * HOUR, NOW - HOUR), None, Verdict.STALE),
        (LastRun(Verdict.PASS, NOW - HOUR, NOW + HOUR), NOW - HOUR / 2, Verdict.STALE),
        (LastRun(Verdict.PASS, NOW - HOUR, NOW + HOUR), NOW - 2 * HOUR, Verdict.PASS),
        (LastRun(Verdict.ERROR, NOW - HOUR, NOW + HOUR), None, Verdict.ERROR),
    ],
)
def test_how_a_probe_stands_between_its_runs(last: LastRun | None, overdue: datetime | None, verdict: Verdict) -> None:
    assert standing(last, overdue, NOW) is verdict


def test_a_trend_is_drawn_by_values_or_by_verdicts() -> None:
    assert sparkline([(Verdict.PASS, 0.0), (Verdict.PASS, 50.0), (Verdict.FAIL, 100.0)]) == "▁▅█"
    assert sparkline([(Verdict.PASS, 1.0), (Verdict.NO_DATA, None), (Verdict.FAIL, 3.0)]) == "▁▄█"
    assert sparkline([]) == ""


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("5m", 300), ("1h", 3600), ("7d", 604_800), ("0s", 0)])
def test_durations(text: str, seconds: int) -> None:
    assert span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "00s", "5", "-5m", "5 m", "1.5h", "P1D", "9999999s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        span(text)


def test_a_length_is_told_in_its_unit() -> None:
    lengths = [timedelta(seconds=45), timedelta(minutes=12), timedelta(hours=3), timedelta(days=9), -HOUR]
    assert [told(length) for length in lengths] == ["45s", "12m", "3h", "9d", "0s"]


DOCUMENT = {"a": {"b c": [1, {"d": None}]}, "x-y": True}


@pytest.mark.parametrize(
    ("path", "value"), [("$.a['b c'][0]", 1), ("$['a'][\"b c\"][-1].d", None), ("$.x-y", True), ("$", DOCUMENT)]
)
def test_a_json_path_leads_to_one_value(path: str, value: object) -> None:
    assert value_at(DOCUMENT, path) == value


@pytest.mark.parametrize("path", ["$.a.nothing", "$.a['b c'][2]", "$.x-y.z", "$[0]", "$.a['b c'][-3]"])
def test_where_a_path_finds_nothing(path: str) -> None:
    with pytest.raises(Absent):
        value_at(DOCUMENT, path)


@given(st.text(max_size=30))
def test_any_text_is_a_path_or_refused(text: str) -> None:
    try:
        steps = parse_path("$" + text)
    except ValueError:
        return
    assert all(isinstance(step, (str, int)) for step in steps)


def test_what_is_a_number() -> None:
    values = [number_of(each) for each in (True, 3, "2.5 ", "none", None, [1], 10**400)]
    assert values == [1.0, 3.0, 2.5, None, None, None, None]


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading_of_dns_answers(data: bytes) -> None:
    question = encode_question(7, "a.example.com", "A")
    for attempt in (data, question[:2] + b"\x84\x00\x00\x01\x00\x05\x00\x00\x00\x00" + question[12:] + data):
        try:
            answer = decode_answer(attempt, question)
        except Malformed:
            continue
        assert all(isinstance(record, str) for record in answer.records)


def test_a_wildcard_stands_for_one_label() -> None:
    assert covers("*.example.com", "a.example.com") and not covers("*.example.com", "a.b.example.com")
    assert not covers("*.example.com", "example.com") and covers("a.example.com", "A.example.com")


@pytest.mark.parametrize(
    ("line", "moment"),
    [
        (b'{"ts": "2026-01-05T09:00:00.5Z", "event": "x"}', NOW + timedelta(seconds=0.5)),
        (b"2026-01-05 10:00:00+01:00 ERROR", NOW),
        (b"2026-01-05T09:00:00 ERROR", NOW),
        (b"2026-99-05T09:00:00 ERROR", None),
        (b"  at line 7", None),
    ],
)
def test_the_time_of_a_log_line(line: bytes, moment: datetime | None) -> None:
    assert instant_of(line) == moment


def probe(check_: str, more: str = "") -> str:
    return (
        "apiVersion: bailiwick/v1\nkind: Probe\nmetadata: {name: p}\n"
        f"spec: {{summary: s, owner: uptime, every: 1m, check: {{{check_}}}{more}}}\n"
    )


P95 = """---
apiVersion: bailiwick/v1
kind: Threshold
metadata: {name: p95}
spec: {value: 100, unit: ms, comparison: "<", meaning: m, owner: uptime}
"""
HTTP = "type: http, url: 'https://a.example.com/'"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (probe("type: telnet"), "spec.check"),
        (probe("type: http, url: 'ftp://a'"), "spec.check"),
        (probe("type: http, url: 'https://user@a'"), "spec.check"),
        (probe(HTTP + ", measure: time"), "needs threshold or expect"),
        (probe(HTTP + ", measure: json"), "json_path"),
        (probe(HTTP + ", json_path: '$..a'"), "cannot be read"),
        (probe(HTTP, ", threshold: p99"), "no Threshold 'p99'"),
        (probe("type: port_scan, host: a, ports: ['1-9']", ", threshold: p95") + P95, "measures count"),
        (probe(HTTP, ", threshold: p95, expect: {value: 1, comparison: '<'}") + P95, "either threshold or expect"),
        (probe(HTTP, ", cron: '* * * * *'"), "either every or cron"),
        (probe(HTTP, ", timeout: 6m"), "at most 5m"),
        (probe(HTTP).replace("every: 1m", "every: 2s"), "every 5s"),
        (probe(HTTP).replace("every: 1m", "cron: '* * *'"), "five fields"),
        (probe("type: port_scan, host: a, ports: ['9-1']"), "no range"),
        (probe("type: port_scan, host: a, ports: ['1-9999']"), "2000 ports"),
        (probe("type: log_phrase, phrase: ERROR", ", window: 5m"), "either log"),
        (probe("type: log_phrase, phrase: ERROR, log: work", ", expect: {value: 1, comparison: '<'}"), "window"),
        (probe("type: json_path, path: '$.a'"), "either file or url"),
        (probe("type: command, argv: []"), "spec.check"),
        (probe(HTTP, ", expect: {value: .inf, comparison: '<'}"), "quotes"),
    ],
)  # fmt: skip
def test_a_document_of_a_probe_that_cannot_be(text: str, told: str) -> None:
    with pytest.raises(BadBook) as refused:
        check("default", read_text(text, "a.yaml"), {kind.name: kind for kind in KINDS})
    assert any(told in line for line in refused.value.problems), refused.value.problems


@pytest.mark.parametrize(
    "check_",
    ["type: internal, what: database", "type: sql, query: SELECT true", "type: command, argv: [/bin/true]"],
)
def test_what_looks_at_the_machine_is_for_the_default_zone_alone(check_: str) -> None:
    kinds = {kind.name: kind for kind in KINDS}
    assert check("default", read_text(probe(check_), "a.yaml"), kinds)
    with pytest.raises(BadBook, match="alone"):
        check("acme", read_text(probe(check_), "a.yaml"), kinds)


@pytest.mark.parametrize(
    ("before", "after", "two"),
    [
        (None, probe(HTTP), False),
        (None, probe("type: command, argv: [/bin/true]"), True),
        (None, probe("type: sql, query: SELECT true"), True),
        (probe("type: sql, query: SELECT true"), probe("type: sql, query: SELECT false"), True),
        (probe("type: sql, query: SELECT true"), probe("type: sql, query: SELECT true", ", grace: 9m"), False),
        (probe(HTTP), None, False),
        (probe(HTTP, ", severity: P1"), None, True),
        (probe(HTTP, ", severity: P1"), probe(HTTP, ", severity: P2"), True),
        (probe(HTTP, ", severity: P1"), probe(HTTP, ", severity: P0"), False),
        (
            probe(HTTP + ", measure: time", ", severity: P0, expect: {comparison: '<', value: 100, unit: ms}"),
            probe(HTTP + ", measure: time", ", severity: P0, expect: {comparison: '<', value: 1, unit: s}"),
            True,
        ),
        (
            probe(HTTP + ", measure: time", ", severity: P0, expect: {comparison: '<', value: 100, unit: ms}"),
            probe(HTTP + ", measure: time", ", severity: P0, expect: {comparison: '<', value: 90, unit: ms}"),
            False,
        ),
    ],
)
def test_what_takes_two_persons(before: str | None, after: str | None, two: bool) -> None:
    kinds = {kind.name: kind for kind in KINDS}
    books = [check("default", read_text(text, "a.yaml") if text else [], kinds) for text in (before, after)]
    assert plan(*books, kinds).two_persons is two
