"""Whatever an event says, a part gives back its exact bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bailiwick.evidence import codes
from bailiwick.evidence.archive import parquet
from bailiwick.evidence.archive.parquet import PartError, Row
from bailiwick.evidence.events import Actor, Context, Event, Network, Recorder, Subject, encode, leaf_hash
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.ids import Ids

RECORDER, IDS = Recorder(FakeClock(), Ids()), Ids()
texts = st.one_of(
    st.just(""), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40),
    st.sampled_from(["null", "~", '"input":"~"', "'", "{id}", "\\u0000", "a" * 64, "0" * 64, "\ufeff", "\u2028", "NaN"]),
)  # fmt: skip
ids = st.one_of(texts, st.uuids().map(str), st.uuids().map(lambda value: str(value).upper()))
details = st.dictionaries(
    st.one_of(st.sampled_from(["input", "path", "a", "z"]), texts),
    st.one_of(texts, st.integers(-(2**63), 2**64 - 1), st.booleans(), st.lists(texts, max_size=3)),
    max_size=4,
)
events = st.builds(
    lambda actor, network, request_id, trace, subject, server, policy, reasons, code, at, more: Event(
        actor=actor, at=at, code=code, details=more, id=IDS(), name="some.thing", network=network, outcome="allow",
        policy_set=policy, reasons=reasons, request_id=request_id, server=server, subject=subject, trace_id=trace,
        v=1, zone="default",
    ),
    st.builds(Actor, texts, ids, ids, ids, texts), st.builds(Network, texts, texts), ids,
    st.one_of(texts, st.binary(min_size=16, max_size=16).map(bytes.hex)),
    st.one_of(st.none(), st.builds(Subject, texts, texts)), texts, texts, st.lists(texts, max_size=3).map(tuple),
    st.sampled_from(["BW4001", "BW2101", "BW1001", "unheard of"]),
    st.one_of(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(lambda at: at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")), st.just("2016-12-31T23:59:60.000000Z")),
    details,
)  # fmt: skip

pytestmark = pytest.mark.made_up_events


def written(directory: Path, bodies: list[bytes]) -> tuple[Path, list[Row], parquet.Written]:
    rows = [Row(7 + n, datetime(2026, 1, 1, tzinfo=UTC), body) for n, body in enumerate(bodies)]
    lines, part = directory / "lines", directory / "part.parquet"
    lines.write_bytes(b"".join(row.line(leaf_hash(row.body)) for row in rows))
    return part, rows, parquet.write(lines, part)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(st.lists(events, min_size=1, max_size=8))
def test_every_byte_comes_back(tmp_path: Path, made: list[Event]) -> None:
    part, rows, told = written(tmp_path, [encode(event) for event in made])
    assert list(parquet.rows(part)) == rows
    assert [leaf for _, leaf in parquet.leaves(part)] == [leaf_hash(row.body).hex() for row in rows]
    assert (told.events, told.first_seq, told.last_seq) == (len(rows), 7, 6 + len(rows))
    assert parquet.bodies(part, 8, 10) == {row.seq: row.body for row in rows[1:3]}
    last = made[-1]
    found = parquet.find([part], UUID(last.id))
    assert found is not None and found.body == rows[-1].body
    with parquet.connect(tmp_path) as connection:
        shown = parquet.relation(connection, [part]).order("seq").fetchall()[-1]
    assert (str(shown[1]), shown[4], shown[5]) == (last.id, last.code, "allow")
    assert (shown[6] or "", shown[7] or "", str(shown[9] or "")) == (last.principal, last.server, last.decision_id)


def plain(**more: Any) -> bytes:
    context = Context(
        "default",
        Actor(application="agent", mandate=IDS()),
        Network("192.0.2.1", "client/2 (x; y)"),
        IDS(),
        trace_id="ab" * 16,
    )
    return encode(RECORDER.make(codes.GATEWAY_ALLOWED, "allow", context, server="pay", input="ab" * 32, **more))


def test_usual_events_stand_in_columns_alone(tmp_path: Path) -> None:
    _, _, told = written(tmp_path, [plain(path=f"/items/{n}", operation="GET /items/{id}") for n in range(500)])
    assert told.verbatim == 0


def test_what_is_not_spelt_as_we_spell_it_is_kept_verbatim(tmp_path: Path) -> None:
    body = plain()
    others = [
        body.replace(b'"v":1', b'"v": 1'),
        body.replace(b'"v":1', b'"v":1,"w":2'),
        body.replace(b"agent", b"\\u0061gent"),
    ]
    part, _, told = written(tmp_path, [body, *others])
    assert told.verbatim == 3 and [row.body for row in parquet.rows(part)] == [body, *others]


def test_nothing_is_loaded_and_nothing_else_is_read(tmp_path: Path) -> None:
    with parquet.connect(tmp_path) as connection:
        for statement in (
            "SELECT * FROM read_csv('/etc/passwd')", "INSTALL httpfs", "LOAD httpfs", "SET enable_external_access = true",
            "COPY (SELECT 1) TO '/tmp/elsewhere.parquet'", "ATTACH '/tmp/other.db'",
        ):  # fmt: skip
            with pytest.raises(duckdb.Error):
                connection.execute(statement)


def test_a_damaged_part_is_told_as_one(tmp_path: Path) -> None:
    part, _, _ = written(tmp_path, [plain()])
    part.write_bytes(part.read_bytes()[:-40])
    with pytest.raises(PartError):
        list(parquet.rows(part))
    with pytest.raises(PartError):
        list(parquet.leaves(tmp_path / "none.parquet"))
    (tmp_path / "lines").write_bytes(b"nonsense\n")
    with pytest.raises(PartError):
        parquet.write(tmp_path / "lines", part)
