"""A filter means the same in the table, in the archive, in a live tail, and read off the event itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from ledger_world import World
from searching import Archive, event, ledgered

from bailiwick.evidence import codes
from bailiwick.evidence.asked import FilterParams
from bailiwick.evidence.events import Event, encode
from bailiwick.evidence.hot import spans_between
from bailiwick.evidence.query import (
    About,
    Filter,
    Place,
    codes_named,
    cursor_to_place,
    fingerprint,
    instant,
    matcher,
    place_to_cursor,
    quoted,
)
from bailiwick.evidence.search import Search
from bailiwick.kernel.errors import BailiwickError, InvalidRequest

pytestmark = pytest.mark.made_up_events

# each has something that a search by bytes could trip over
WORDS = (
    "jane", "ja", 'a"b', "back\\slash", '","', '"],"', '},"at":"', "100%", "under_score", "Ärger", "ärger", "日本",
    "é", "line\nbreak", "user", '"user":"jane"', "type", "(a|b)*", "  ", "'; DROP TABLE zones; --", "x" * 150,
)  # fmt: skip
ACTORS = ("application", "delegation", "mandate", "session", "user")
MORE = ("ip", "trace_id", "client_request_id")


def events_of_every_shape(world: World) -> list[Event]:
    made = []
    for number, word in enumerate(WORDS):
        other = WORDS[number - 1]
        for field in (*ACTORS, *MORE):
            more: dict[str, Any] = {field: word, "note": other, "user_note": f'"{field}":"{other}"'}
            made.append(event(world, **more))
        made.append(event(world, codes.USER_CHANGED, user=other, subject=(word, "user"), session=other))
        made.append(event(world, codes.SERVER_CHANGED, user=word, subject=(other, word), type=word, id=word))
        made.append(event(world, codes.GATEWAY_DENIED, outcome="deny", reasons=(word, other), server=word))
        made.append(event(world, codes.GATEWAY_DENIED, outcome="deny", reasons=(other,), why=["first", word]))
    made.append(event(world))
    made.append(event(world, user="jane", application="jane", session="jane", subject=("jane", "session")))
    return made


def truly(wanted: Filter, found: Event) -> bool:
    """What the filter says, read off the event."""
    subject = found.subject
    values = {
        "code": found.code,
        "outcome": found.outcome,
        "principal": found.principal,
        "server": found.server,
        "ip": found.network.ip,
        "trace_id": found.trace_id,
        "client_request_id": found.client_request_id,
        "subject_id": subject.id if subject else "",
        "subject_type": subject.type if subject else "",
        **{field: getattr(found.actor, field) for field in ACTORS},
    }
    return (
        all(not getattr(wanted, name) or getattr(wanted, name) == value for name, value in values.items())
        and (not wanted.name or found.code in codes_named(wanted.name))
        and (not wanted.reason or wanted.reason in found.reasons)
        and (not wanted.text or quoted(wanted.text)[1:-1].lower() in encode(found).decode().lower())
        and (wanted.since is None or datetime.fromisoformat(found.at) >= wanted.since)
        and (wanted.until is None or datetime.fromisoformat(found.at) < wanted.until)
    )


word = st.sampled_from(WORDS)
filters = st.dictionaries(
    st.sampled_from(
        (*ACTORS, *MORE, "subject_id", "subject_type", "reason", "server", "principal", "text", "outcome", "name")
    ),
    word,
    min_size=1,
    max_size=2,
)
free_text = st.text(st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=("Cs",)), max_size=12)


@pytest.fixture
async def shapes(world: World, tmp_path: Path) -> tuple[list[tuple[int, Event]], Search, Search]:
    """Every shape of event, a search of the table, and one in which two thirds of it are archived."""
    made = events_of_every_shape(world)
    await ledgered(world, made)
    order = {str(found): seq for seq, found in world.rows("SELECT seq, id FROM ledger.events WHERE zone = 'default'")}
    archive = Archive(world, tmp_path / "cold")
    third = len(made) // 3
    archive.move(0, third - 1, keep=True)
    archive.move(third, 2 * third - 1, keep=True)
    return (
        [(order[each.id], each) for each in made],
        Search(world.database, None),
        Search(world.database, None, archive.search()),
    )


async def seqs(world: World, search: Search, wanted: Filter, order: Any = "oldest") -> list[int]:
    async with world.database.begin() as tx:
        found = await search.events(tx, "default", wanted, order=order, after=None, limit=1000)
    assert all(entry.intact for entry in found)
    return [entry.seq for entry in found]


async def test_a_filter_means_the_same_everywhere(
    world: World, shapes: tuple[list[tuple[int, Event]], Search, Search]
) -> None:
    made, hot, both = shapes
    count = 0

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(filters)
    @example({"text": "ärGER"})
    @example({"text": "日本"})
    @example({"reason": '","'})
    @example({"subject_type": "user", "subject_id": "jane"})
    def collect(asked: dict[str, str]) -> None:
        if "outcome" in asked:
            asked["outcome"] = "deny"
        if "name" in asked:
            asked["name"] = "gateway.*"
        wanted.append(Filter(**asked))  # type: ignore[arg-type]

    wanted: list[Filter] = []
    collect()
    wanted += [
        Filter(**{field: value}) for field in (*ACTORS, *MORE, "subject_id", "text", "reason") for value in WORDS
    ]  # type: ignore[arg-type]
    for each in wanted:
        told = [seq for seq, one in made if truly(each, one)]
        assert [seq for seq, one in made if matcher(each)(one, encode(one))] == told, each
        assert await seqs(world, hot, each) == told, each
        count += len(told)
    assert count > 500
    # now two thirds are in the archive alone
    world.do("DELETE FROM ledger.events WHERE seq < %s", 2 * (len(made) // 3))
    for each in wanted[::9]:
        told = [seq for seq, one in made if truly(each, one)]
        assert await seqs(world, both, each) == told, each
        assert await seqs(world, both, each, "newest") == told[::-1], each


async def test_about_somebody_is_what_he_did_and_what_was_done_to_him(
    world: World, shapes: tuple[list[tuple[int, Event]], Search, Search]
) -> None:
    made, hot, _ = shapes
    for kind in ("user", "session"):
        for name in WORDS:
            wanted = Filter(about=About(kind, name))
            told = [
                seq
                for seq, one in made
                if getattr(one.actor, kind) == name
                or (one.subject and (one.subject.type, one.subject.id) == (kind, name))
            ]
            assert await seqs(world, hot, wanted) == told
            assert [seq for seq, one in made if matcher(wanted)(one, encode(one))] == told


@given(free_text, free_text)
@settings(max_examples=300, deadline=None)
def test_no_value_passes_for_another(value: str, other: str) -> None:
    """What a caller chooses to be recorded cannot make an event look like somebody else's."""
    assume(value and value != other)

    class Fixed:
        ids = staticmethod(lambda: "0198c0de-0000-7000-8000-000000000001")

    from bailiwick.evidence.events import Recorder
    from bailiwick.kernel.clock import FakeClock

    class Stage:
        recorder = Recorder(FakeClock(), Fixed.ids)  # type: ignore[arg-type]

    for field in (*ACTORS, *MORE):
        mine = event(Stage, **{field: other}, note=f'","{field}":"{value}","')  # type: ignore[arg-type]
        assert not matcher(Filter(**{field: value}))(mine, encode(mine))  # type: ignore[arg-type]
        mine = event(Stage, **{field: value})  # type: ignore[arg-type]
        assert matcher(Filter(**{field: value}))(mine, encode(mine))  # type: ignore[arg-type]


async def test_damaged_events_end_no_search(world: World) -> None:
    await ledgered(world, [event(world, user="jane", note=f"number {n}") for n in range(4)])
    for seq, body in ((0, b"\xff\x00not an event"), (1, b'{"actor":{"user":"jane"'), (2, b"")):
        world.do("UPDATE ledger.events SET rest = %s WHERE seq = %s", body, seq)
    search = Search(world.database, None)
    for wanted, told in (
        (Filter(), [0, 1, 2, 3]),
        (Filter(principal="jane"), [0, 1, 2, 3]),
        (Filter(user="jane"), [3]),
        (Filter(text="number 3"), [3]),
        (Filter(text="not an EVENT"), [0]),
        (Filter(text="ü"), []),
        (Filter(reason="x", subject_type="y"), []),
    ):
        async with world.database.begin() as tx:
            found = await search.events(tx, "default", wanted, order="oldest", after=None, limit=10)
        assert [entry.seq for entry in found] == told, wanted
        assert [entry.intact for entry in found] == [entry.seq == 3 for entry in found]
        assert all(entry.to_json()["event"] is None for entry in found if entry.seq != 3)


# ---------------------------------------------------------------------- moments and cursors

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", NOW),
        ("-90m", NOW - timedelta(minutes=90)),
        ("-24h", NOW - timedelta(hours=24)),
        ("-2w", NOW - timedelta(weeks=2)),
        ("-0s", NOW),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31t12:00:00.5+02:00", datetime(2026, 1, 31, 10, 0, 0, 500000, tzinfo=UTC)),
        ("2026-01-31 12:00:00.123456789Z", datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)),
    ],
)
def test_moments_are_read(text: str, moment: datetime) -> None:
    assert instant(text, NOW) == moment
    assert FilterParams(since=text).filter(NOW).since == moment


@given(st.one_of(free_text, st.from_regex(r"-?\d{1,8}[a-z]", fullmatch=True), st.datetimes().map(str)))
@example("2026-02-30T00:00:00Z")
@example("-999999w")
@example("0001-01-01T00:00:00+23:59")
@example("9999-12-31T23:59:59-23:59")
@example("2026-01-01T00:00:00")
@example("2026-01-01T00:00:00Z\n")
@example("２０２６-01-01T00:00:00Z")
def test_what_is_no_moment_is_refused(text: str) -> None:
    try:
        moment = instant(text, NOW)
    except InvalidRequest:
        return
    assert moment.tzinfo is not None and 1970 <= moment.year < 9000


@given(st.text(max_size=60), st.sampled_from(["newest", "oldest"]))
def test_a_cursor_is_ours_or_refused(cursor: str, order: Any) -> None:
    try:
        cursor_to_place(cursor, order, fingerprint("default", order, []))
    except InvalidRequest:
        return
    raise AssertionError(cursor)


moments = st.none() | st.datetimes(datetime(1970, 1, 1), datetime(8999, 1, 1), timezones=st.just(UTC))


@given(st.integers(0, 2**62 - 1), moments, moments, st.dictionaries(st.text(max_size=5), st.text(max_size=5)))
def test_a_cursor_goes_with_its_query_alone(
    after: int, since: datetime | None, until: datetime | None, asked: dict[str, str]
) -> None:
    mine = fingerprint("default", "newest", list(asked.items()))
    place = Place(after, since, until)
    cursor = place_to_cursor("newest", mine, place)
    assert cursor_to_place(cursor, "newest", mine) == place and len(cursor) <= 500
    for other in (
        fingerprint("acme", "newest", list(asked.items())),
        fingerprint("default", "newest", [*asked.items(), ("code", "BW1001")]),
    ):
        with pytest.raises(InvalidRequest):
            cursor_to_place(cursor, "newest", other)
    with pytest.raises(InvalidRequest):
        cursor_to_place(cursor, "oldest", mine)


hours = st.integers(0, 24 * 40).map(lambda n: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=n))


@given(hours, hours, st.none() | hours, st.none() | hours, st.sampled_from(["newest", "oldest"]))
def test_the_stretches_hold_every_event_once_and_in_order(
    one: datetime, other: datetime, since: datetime | None, until: datetime | None, order: Any
) -> None:
    oldest, newest = min(one, other), max(one, other)
    parts = spans_between(oldest, newest, since, until, order)
    for before, after in pairwise(parts):
        met = (before.start, after.end) if order == "newest" else (before.end, after.start)
        assert met[0] == met[1]
    assert all(part.start is not None and part.end is not None and part.start < part.end for part in parts)
    hour = oldest
    while hour <= newest:
        # an event of the time asked for, recorded then, an hour before it by another clock, or days later
        wanted = (since is None or hour + timedelta(hours=1) >= since) and (
            (until is None and since is None) or (until is not None and until > (since or oldest) and oldest < until)
        )
        holding = [p for p in parts if p.start and p.end and p.start <= hour < p.end]
        assert len(holding) <= 1
        if wanted and (until is not None or since is None):
            assert len(holding) == 1, (hour, parts)
        hour += timedelta(hours=6)


async def test_an_event_that_came_late_is_found_in_its_time(world: World) -> None:
    """A worker whose database was away for days has its events recorded long after they happened."""
    await ledgered(world, [event(world, user="jane") for _ in range(3)])
    world.do("SELECT ledger.ensure_partitions(now() - interval '12 days', now())")
    world.do("UPDATE ledger.events SET at = at - interval '10 days' WHERE seq = 2")
    world.do(
        "UPDATE ledger.events SET recorded_at = recorded_at - interval '11 days', at = at - interval '10 days' WHERE seq = 0"
    )
    search, now = Search(world.database, None), datetime.now(UTC)
    day = {"since": now - timedelta(days=10, hours=3), "until": now - timedelta(days=9, hours=20)}
    for order, told in (("newest", [2, 0]), ("oldest", [0, 2])):
        async with world.database.begin() as tx:
            found = await search.events(tx, "default", Filter(**day), order=order, after=None, limit=10)  # type: ignore[arg-type]
            assert [entry.seq for entry in found] == told
            one = await search.events(tx, "default", Filter(**day), order=order, after=None, limit=1)  # type: ignore[arg-type]
            rest = await search.events(tx, "default", Filter(**day), order=order, after=one[0].seq, limit=9)  # type: ignore[arg-type]
        assert [entry.seq for entry in one + rest] == told


async def test_a_search_that_takes_too_long_says_so(world: World) -> None:
    await ledgered(world, [event(world, user="jane") for _ in range(3)])
    search = Search(world.database, None)
    async with world.database.begin() as tx:
        with pytest.raises(BailiwickError) as refused:
            await search.events(tx, "default", Filter(), after=None, limit=1, budget_s=0.0)
    assert (refused.value.reason, refused.value.status) == ("query_too_expensive", 422)
    world.do(
        "CREATE OR REPLACE FUNCTION bailiwick.slowly(text) RETURNS bool LANGUAGE sql AS 'SELECT pg_sleep(9) IS NOT NULL'"
    )
    with pytest.raises(BailiwickError) as refused:
        async with world.database.begin() as tx:
            from bailiwick.evidence.hot import Budget

            async with Budget(0.1).within(tx):
                await tx.value("SELECT slowly('')")
    assert refused.value.reason == "query_too_expensive"


def test_a_filter_names_each_of_its_parts() -> None:
    described = Filter(user="jane", since=NOW, about=About("user", "jane"), request_id=UUID(int=1)).described()
    assert described == (
        "request_id=00000000-0000-0000-0000-000000000001 since=2026-11-21T08:00:00+00:00 user=jane about=user/jane"
    )
