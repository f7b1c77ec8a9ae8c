"""An event comes out of its columns byte for byte as it went in."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_world import World

from bailiwick.evidence import codes
from bailiwick.evidence.events import Actor, Event, Network, Subject, encode
from bailiwick.evidence.frames import Kind
from bailiwick.evidence.records import event_row
from bailiwick.evidence.stored import body_from, read_bodies

ID = "0192aa00-0000-7000-8000-000000000001"
text = st.text(st.characters(exclude_characters="\x00", exclude_categories=("Cs",)), max_size=20)
details = st.dictionaries(
    text, st.one_of(text, st.integers(-(2**53), 2**53), st.booleans(), st.lists(text)), max_size=4
)


def back(body: bytes, zone: str = "default") -> bytes:
    row = event_row("w1", 0, 0, zone, body)
    return body_from(row.zone, row.id, row.at, row.code, row.outcome, row.request_id, row.server, row.rest)


@given(text, text, text, text, details, st.sampled_from(["", ID]), st.datetimes(), st.lists(text, max_size=3))
def test_any_event_comes_back(user, server, agent, trace, more, request_id, at, reasons) -> None:  # type: ignore[no-untyped-def]
    event = Event(
        actor=Actor(user=user),
        at=f"{at.year:04}-{at.month:02}-{at.day:02}T{at.time().isoformat('microseconds')}Z",
        code="BW4002",
        details=more,
        id=ID,
        name="gateway.request.denied",
        network=Network("192.0.2.1", agent),
        outcome="deny",
        reasons=tuple(reasons),
        request_id=request_id,
        server=server,
        subject=Subject(user, "user"),
        trace_id=trace,
        v=1,
        zone="default",
    )
    body = encode(event)
    assert back(body) == body
    assert len(event_row("w1", 0, 0, "default", body).rest) < len(body) - 100


def test_an_event_from_nowhere_comes_back() -> None:
    body = encode(
        Event(
            actor=Actor(),
            at="2026-01-05T09:00:00.000000Z",
            code="BW1",
            id=ID,
            name="n",
            outcome="deny",
            v=1,
            zone="default",
        )
    )
    for written in (body, body.replace(b'"outcome"', b'"network":{},"outcome"')):
        assert back(written) == written


@pytest.mark.parametrize(
    "spelling",
    [
        lambda body: body.replace(b",", b", ", 1),
        lambda body: body.replace(b'"v":1', b'"later":"member","v":1'),
        lambda body: body.replace(ID.encode(), ID.upper().encode()),
        lambda body: body.replace(b'"user":"jane"', b'"user":"j\\u0061ne"'),
    ],
)
def test_bytes_of_another_spelling_are_kept_as_they_are(spelling) -> None:  # type: ignore[no-untyped-def]
    event = Event(
        actor=Actor(user="jane"), at="2026-01-01T00:00:00.000000Z", code="BW1001", id=ID, name="auth.login.success",
        outcome="success", v=1, zone="default",
    )  # fmt: skip
    body = spelling(encode(event))
    assert body != encode(event)
    assert back(body) == body


async def test_the_ledger_gives_back_what_was_put_in(world: World) -> None:
    spool = await world.spool()
    bodies = [
        encode(world.event(codes.AUTH_LOGIN_FAILURE, user="jäne\u2028\U0001f600", server="", method='/\u0001\x7f\\"')),
        encode(world.event(request_id="")),
        encode(world.event(user="x" * 200)).replace(b'"v":1', b'"unheard":[{}],"v":1'),
    ]
    for body in bodies:
        await spool.append(Kind.EVENT, "default", body)
    await spool.close()
    sequencer = world.sequencer()
    await sequencer.drain()
    sequencer.close()
    async with world.database.begin() as tx:
        assert await read_bodies(tx, "default", 0, 9) == bodies
    shown = world.rows(
        "SELECT event ->> 'id', event ->> 'at', event #>> '{actor,user}' FROM public.audit_logs ORDER BY seq"
    )
    assert [UUID(row[0]) for row in shown] == [*world.rows("SELECT id FROM ledger.events ORDER BY seq")]
    assert shown[0][2] == "jäne\u2028\U0001f600"
    assert all(row[1].encode() in body for row, body in zip(shown, bodies, strict=True))
