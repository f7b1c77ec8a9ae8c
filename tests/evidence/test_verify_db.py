"""``bailiwick-verify db``: everything that somebody with the database in his hands might do to it, and where it begins."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_world import World, add_ledger_key
from test_witnessing import Party, Stage

from bailiwick.evidence.events import Actor, Event, encode, leaf_hash
from bailiwick.evidence.export import export_log
from bailiwick.evidence.ledger import Head, ledger_keys
from bailiwick.evidence.records import event_row
from bailiwick.kernel.clock import SystemClock
from bailiwick_verify.cli import main
from bailiwick_verify.db import event_of
from bailiwick_verify.note import Signer, parse_note
from databases import url_of

HOUR = 3600


class Shifted(SystemClock):
    """The machine's clock, moved on by hand; it does not call itself simulated."""

    shift = 0.0

    def time(self) -> float:
        return super().time() + self.shift

    def now(self) -> Any:
        from datetime import UTC, datetime

        return datetime.fromtimestamp(self.time(), UTC)

    def monotonic(self) -> float:
        return super().monotonic() + self.shift


class Auditor:
    """Runs the verifier on the ledger of ``world``."""

    def __init__(self, world: World, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.world, self.keys, self._capsys = world, keys, capsys

    async def __call__(self, *arguments: object, place: str = "", verb: str = "db") -> tuple[int, dict[str, Any]]:
        given = [verb, place or self.world.url, "--key", str(self.keys), "--json", *map(str, arguments)]
        self._capsys.readouterr()
        code = await asyncio.to_thread(main, given)
        return code, json.loads(self._capsys.readouterr().out or "{}")

    async def learn_keys(self) -> None:
        async with self.world.database.begin() as tx:
            keys = await ledger_keys(tx, "default")
        self.keys.write_text("".join(f"{key}\n" for key in keys.values()))


KEPT = ("bailiwick.zones", "bailiwick.zone_keys", "ledger.events", "ledger.hashes", "ledger.heads")


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    """What :func:`hours` made first, to be put back for each test."""
    return {}


@pytest.fixture
async def hours(database_url: str, tmp_path: Path, kept: dict[str, Any]) -> AsyncIterator[World]:
    """A ledger of three hours, 300 events in each, and an hour in which nothing happened."""
    await (await World.make(database_url, tmp_path)).close()
    clock = Shifted()
    made = World(database_url, tmp_path, clock)
    if kept:
        clock.shift = kept["shift"]
        made.do("SET session_replication_role = replica; TRUNCATE bailiwick.zones, bailiwick.zone_keys CASCADE")
        for table in KEPT:
            made.do(f"INSERT INTO {table} SELECT * FROM kept.{table.partition('.')[2]}")
        made.head_files.store(kept["head"])
    else:
        for count in (300, 300, 300, 0):
            clock.shift += HOUR
            await made.filled(count)
        made.do("CREATE SCHEMA kept")
        for table in KEPT:
            made.do(f"CREATE TABLE kept.{table.partition('.')[2]} AS SELECT * FROM {table}")
        kept.update(shift=clock.shift, head=made.head_files.load("default"))
    yield made
    await made.close()


@pytest.fixture
def world(hours: World) -> World:
    """What the routes serve."""
    return hours


@pytest.fixture
async def audit(hours: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Auditor:
    made = Auditor(hours, tmp_path / "keys", capsys)
    await made.learn_keys()
    return made


async def test_an_untouched_ledger_passes(audit: Auditor) -> None:
    code, report = await audit()
    assert (code, report["verdict"], report["checked"], report["size"]) == (0, "PASS", 900, 900), report["findings"]
    assert report["heads"] >= 4


COLUMNS = {
    "id": "gen_random_uuid()",
    "at": "at + interval '1 microsecond'",
    "code": "'BW9999'",
    "outcome": "'deny'",
    "request_id": "NULL",
    "principal": "'mallory'",
    "server": "'elsewhere'",
}
ROW = (
    "INSERT INTO ledger.events (zone, seq, id, at, recorded_at, code, outcome, request_id, principal, server, rest)"
    " SELECT zone, {}, id, at, recorded_at, code, outcome, request_id, principal, server, rest"
    " FROM ledger.events WHERE zone = 'default' AND seq = {}"
)


def cut_body(world: World) -> None:
    world.do("UPDATE ledger.events SET rest = substr(rest, 1, length(rest) - 3) WHERE seq = 444")


def close_up(world: World) -> None:
    world.do("DELETE FROM ledger.events WHERE seq = 444")
    world.do("UPDATE ledger.events SET seq = seq - 1 WHERE seq > 444")


def insert_and_move(world: World) -> None:
    world.do("UPDATE ledger.events SET seq = seq + 1 WHERE seq >= 444")
    world.do(ROW.format(444, 2))


def swap(world: World) -> None:
    world.do("UPDATE ledger.events SET seq = CASE seq WHEN 444 THEN 445 ELSE 444 END WHERE seq IN (444, 445)")


def cut_off(world: World) -> None:
    world.do("DELETE FROM ledger.events WHERE seq >= 700")


def cut_off_with_the_tree(world: World) -> None:
    world.do("DELETE FROM ledger.events WHERE seq >= 600")
    world.do("DELETE FROM ledger.hashes WHERE level = 0 AND first >= 600")


def damage_above(world: World) -> None:
    world.do(
        "UPDATE ledger.hashes SET hashes = overlay(hashes placing 'x'::bytea from 1) WHERE level = 1 AND first = 1"
    )


def forge_head(world: World) -> None:
    note, root, at, kid = world.rows(
        "SELECT note, root, at, kid FROM ledger.heads WHERE zone = 'default' AND size = 600 LIMIT 1"
    )[0]
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    origin = parse_note(bytes(note)).text.split("\n")[0]
    stranger = Signer(origin, Ed25519PrivateKey.from_private_bytes(b"x" * 32))
    forged = Head.sign("default", 600, bytes(root), at, kid, stranger)
    world.do("UPDATE ledger.heads SET note = %s WHERE zone = 'default' AND size = 600 AND at = %s", forged.note, at)


DEEDS: dict[str, tuple[Callable[[World], object] | str, int, str]] = {
    "changed": (
        "UPDATE ledger.events SET rest = overlay(rest placing 'X'::bytea from 30) WHERE seq = 444",
        444,
        "changed",
    ),
    "body cut short": (cut_body, 444, "changed"),
    "another zone": ("UPDATE ledger.events SET zone = 'acme' WHERE seq = 444", 444, "removed"),
    "removed": ("DELETE FROM ledger.events WHERE seq IN (444, 445)", 444, "removed: entries 444 to 445"),
    "first removed": ("DELETE FROM ledger.events WHERE seq = 0", 0, "removed"),
    "last removed": ("DELETE FROM ledger.events WHERE seq = 899", 899, "cut off"),
    "closed up": (close_up, 444, "changed"),
    "inserted": (ROW.format(444, 444), 444, "inserted"),
    "inserted and moved": (insert_and_move, 444, "changed"),
    "reordered": (swap, 444, "changed"),
    "cut off": (cut_off, 700, "cut off"),
    "cut off with the tree": (cut_off_with_the_tree, 600, "cut off"),
    "the stored tree": (damage_above, 256, "damaged at level 1"),
    "no tree": ("DELETE FROM ledger.hashes", 0, "hash"),
    "forged head": (forge_head, 599, "a forged head over 600"),
    "a head's columns": ("UPDATE ledger.heads SET at = at + interval '9 s' WHERE size = 600", 599, "its columns"),
    "a head's place": ("UPDATE ledger.heads SET size = 500 WHERE size = 600", 499, "its columns"),
    "order": (
        "UPDATE ledger.events SET recorded_at = recorded_at + interval '7 minutes' WHERE seq = 444",
        445,
        "order",
    ),
    "no heads": ("DELETE FROM ledger.heads", 0, "no head"),
    "a missing hour": ("DELETE FROM ledger.heads WHERE size = 600", 300, "a missing hour"),
}


@pytest.mark.parametrize("deed", DEEDS)
async def test_what_was_done_is_found_at_its_place(hours: World, audit: Auditor, deed: str) -> None:
    do, first, told = DEEDS[deed]
    if isinstance(do, str):
        assert hours.do(do)
    else:
        do(hours)
    code, report = await audit()
    assert (code, report["verdict"], report["first_bad"]) == (1, "FAIL", first), report["findings"]
    assert told in " ".join(report["findings"])


@pytest.mark.parametrize("column", COLUMNS)
async def test_a_changed_column_is_found(hours: World, audit: Auditor, column: str) -> None:
    assert hours.do(f"UPDATE ledger.events SET {column} = {COLUMNS[column]} WHERE seq = 444")
    code, report = await audit()
    assert (code, report["first_bad"]) == (1, 444), report["findings"]
    told = "column: of entry 444, principal says" if column == "principal" else "changed: entry 444"
    assert told in report["findings"][0]


def forge_with_hash(world: World, seq: int) -> None:
    """The event, its columns and its hash, all fitting each other."""
    world.do(
        f"""UPDATE ledger.events SET principal = 'eve1',
        rest = convert_to(replace(convert_from(rest, 'UTF8'), '"user":"jane"', '"user":"eve1"'), 'UTF8')
        WHERE zone = 'default' AND seq = {seq}"""
    )
    (body,) = world.bodies(f"WHERE zone = 'default' AND seq = {seq}")
    world.do(
        f"UPDATE ledger.hashes SET hashes = overlay(hashes placing %s from ({seq} - first::int) * 32 + 1)"
        f" WHERE zone = 'default' AND level = 0 AND first <= {seq} AND first + count > {seq}",
        leaf_hash(body),
    )


async def test_an_event_forged_with_its_hash_lies_within_an_hour_and_another_copy_says_where(
    hours: World, audit: Auditor, tmp_path: Path
) -> None:
    await export_log(hours.database, "default", tmp_path / "honest")
    forge_with_hash(hours, 444)
    code, report = await audit()
    assert (code, report["first_bad"]) == (1, 300), report["findings"]
    assert "entries 300 to 599" in " ".join(report["findings"])
    code, report = await audit("--against", tmp_path / "honest")
    assert (code, report["first_bad"]) == (1, 444), report["findings"]


def roll_back(world: World, size: int) -> None:
    """An older backup is restored."""
    world.do("DELETE FROM ledger.events WHERE zone = 'default' AND seq >= %s", size)
    world.do("DELETE FROM ledger.heads WHERE zone = 'default' AND size > %s", size)
    world.do("DELETE FROM ledger.hashes WHERE zone = 'default' AND level = 0 AND first >= %s", size)
    world.do("DELETE FROM ledger.hashes WHERE zone = 'default' AND level = 1 AND first >= %s", size // 256)
    world.head_files.path("default").unlink()


async def test_a_ledger_rolled_back_and_gone_another_way_is_a_fork(
    hours: World, audit: Auditor, tmp_path: Path
) -> None:
    state, head = tmp_path / "state", tmp_path / "head"
    await export_log(hours.database, "default", tmp_path / "honest")
    head.write_bytes((tmp_path / "honest" / "checkpoint").read_bytes())
    assert (await audit("--state", state))[0] == 0
    roll_back(hours, 600)
    code, report = await audit()
    assert (code, report["findings"]) == (0, []), "by itself it is a sound ledger"
    for options in (("--state", state), ("--head", head)):
        code, report = await audit(*options)
        assert (code, report["first_bad"]) == (1, 600) and "cut off" in " ".join(report["findings"]), options
    code, report = await audit("--against", tmp_path / "honest")
    assert (code, report["remarks"]) == (0, ["the other copy is 300 entries longer"])
    hours.clock.shift -= 1.8 * HOUR  # type: ignore[attr-defined]  # he has the clock in his hands too
    await hours.filled(700)
    code, report = await audit()
    assert (code, report["findings"]) == (0, [])
    code, report = await audit("--against", tmp_path / "honest")
    assert (code, report["first_bad"]) == (1, 600) and "a fork" in report["findings"][0], report["findings"]
    code, report = await audit("--head", head)
    assert code == 1 and "the remembered head" in " ".join(report["findings"])
    code, report = await audit("--state", state)
    assert code == 1 and "a fork" in report["findings"][0] and 512 <= report["first_bad"] <= 600
    code, report = await audit("--against", tmp_path / "honest", verb="export", place=str(await again(hours, tmp_path)))
    assert (code, report["first_bad"]) == (1, 600), report["findings"]


async def again(world: World, tmp_path: Path) -> Path:
    await export_log(world.database, "default", tmp_path / "forked")
    return tmp_path / "forked"


async def test_a_copy_is_held_against_the_live_log(
    hours: World, audit: Auditor, api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bailiwick_verify import cli
    from bailiwick_verify.source import Source, Unreadable

    loop = asyncio.get_running_loop()

    def fetch(path: str) -> bytes:
        answer = asyncio.run_coroutine_threadsafe(api.get(f"/evidence/default/{path}"), loop).result(30)
        if answer.status_code != 200:
            raise Unreadable(f"{path}: {answer.status_code}")
        return bytes(answer.body)

    monkeypatch.setattr(cli, "Server", lambda place, token: Source(fetch))
    code, report = await audit("--against", "https://live")
    assert (code, report["findings"]) == (0, [])
    await hours.filled(5)
    assert (await audit("--against", "https://live"))[0] == 0
    code, report = await audit(verb="live", place="https://live")
    assert code == 0 and report["heads"] >= 5, report["findings"]
    hours.do("DELETE FROM ledger.heads WHERE size = 600")
    code, report = await audit(verb="live", place="https://live")
    assert (code, report["first_bad"]) == (1, 300) and "a missing hour" in report["findings"][0]


async def test_a_check_goes_on_where_it_was(hours: World, audit: Auditor, tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert (await audit("--state", state))[1]["checked"] == 900
    await hours.filled(77)
    code, report = await audit("--state", state)
    assert (code, report["checked"], report["size"]) == (0, 77, 977), report["findings"]
    hours.do("UPDATE ledger.events SET outcome = 'deny' WHERE seq = 960")
    assert (await audit("--state", state))[0] == 0, "what was read is not read again"
    hours.do("DELETE FROM ledger.heads")
    assert (await audit("--state", state))[0] == 1


async def test_a_rotated_key(hours: World, audit: Auditor, tmp_path: Path) -> None:
    hours.do("UPDATE bailiwick.zone_keys SET state = 'retiring' WHERE zone = 'default'")
    with psycopg.connect(hours.url, autocommit=True) as connection:
        add_ledger_key(connection, "default")
    hours.keys._known.clear()
    await hours.filled(10)
    code, report = await audit()
    assert (code, report["first_bad"]) == (1, 909) and "no known key" in " ".join(report["findings"])
    await audit.learn_keys()
    assert (await audit())[0] == 0
    await export_log(hours.database, "default", tmp_path / "export")
    audit.keys = tmp_path / "export" / "verifier-keys"
    assert len(audit.keys.read_text().splitlines()) == 2
    assert (await audit(verb="export", place=str(tmp_path / "export")))[0] == 0


async def test_witnesses(hours: World, audit: Auditor, tmp_path: Path) -> None:
    async with hours.database.begin() as tx:
        keys = [key for zone in ("default", "acme") for key in (await ledger_keys(tx, zone)).values()]
    parties = [Party(name, tmp_path / "parties", keys) for name in ("one.example", "two.example")]
    stage = Stage(hours, *parties)
    options = [part for party in parties for part in ("--witness", str(party.known.key))]
    code, report = await audit(*options, "--quorum", 2)
    assert code == 1 and "signed by 2 known witnesses" in report["findings"][0]
    await stage.asking.round()
    await hours.filled(5)
    code, report = await audit(*options, "--quorum", 2)
    assert (code, report["cosigned_size"]) == (0, 900), report["findings"]
    hours.do("UPDATE ledger.cosignatures SET line = replace(line, 'two', 'six')")
    assert (await audit(*options, "--quorum", 2))[0] == 1
    await stage.asking.close()
    for party in parties:
        await party.go_away()


async def test_events_of_a_simulated_clock(hours: World, audit: Auditor, tmp_path: Path) -> None:
    hours.clock.simulated = True  # type: ignore[misc]
    await hours.filled(3)
    code, report = await audit()
    assert (code, report["verdict"], report["simulated"]) == (1, "SIMULATED", 900)
    await export_log(hours.database, "default", tmp_path / "export")
    code, report = await audit(verb="export", place=str(tmp_path / "export"))
    assert (code, report["verdict"], report["simulated"]) == (1, "SIMULATED", 900)


async def test_what_cannot_be_read(
    hours: World, audit: Auditor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert (await audit(place="nonsense dsn"))[0] == 2
    code, report = await audit(place="postgresql://127.0.0.1:1/none")
    assert code == 1 and "cannot be read" in report["findings"][0]
    code, report = await audit(place=url_of("postgres"))
    assert code == 1 and "cannot be read" in report["findings"][0]
    assert (await audit("--zone", "nowhere"))[0] == 3
    assert (await audit(place=hours.url.replace("postgresql:", "postgresql+psycopg:")))[0] == 0
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert (await audit())[0] == 2


async def test_it_writes_nothing(hours: World, audit: Auditor, monkeypatch: pytest.MonkeyPatch) -> None:
    from bailiwick_verify import db

    def write(self: Any, *arguments: Any) -> None:
        self._connection.execute("DELETE FROM ledger.events")

    monkeypatch.setattr(db._DatabaseCheck, "_read", write)
    code, report = await audit()
    assert code == 1 and "read-only transaction" in " ".join(report["findings"])
    assert len(hours.ledgered()) == 900


words = st.text(st.characters(exclude_characters="\x00", exclude_categories=("Cs",)), max_size=20)
many = st.dictionaries(
    words, st.one_of(words, st.integers(-(2**53), 2**53), st.booleans(), st.lists(words)), max_size=4
)


@given(words, words, many, st.booleans(), st.booleans(), st.datetimes())
def test_the_verifier_puts_any_event_together_as_the_service_does(
    user: str, server: str, details: dict[str, Any], simulated: bool, verbatim: bool, at: Any
) -> None:
    event = Event(
        actor=Actor(user=user),
        at=f"{at.year:04}-{at.month:02}-{at.day:02}T{at.time().isoformat('microseconds')}Z",
        code="BW4002",
        details=details,
        id="0192aa00-0000-7000-8000-000000000001",
        name="gateway.request.denied",
        outcome="deny",
        request_id="" if simulated else "0192aa00-0000-7000-8000-000000000002",
        server=server,
        simulated_clock=simulated,
        v=1,
        zone="default",
    )
    body = encode(event)
    if verbatim:
        body = body.replace(b',"at"', b' ,"at"', 1)
    row = event_row("w1", 0, 0, "default", body)
    rest = row.rest
    request_id = str(row.request_id) if row.request_id else None
    columns = (row.zone, str(row.id), event.at, row.code, row.outcome, request_id, row.server, rest)
    built, members = event_of(columns)
    assert built == body
    assert (members.get("simulated_clock") is True, members["actor"].get("user", "")) == (simulated, user)


@given(st.binary(max_size=60))
def test_no_rest_is_too_strange_to_be_read(rest: bytes) -> None:
    built, members = event_of(("z", "i", "t", "c", "o", None, None, rest))
    assert isinstance(built, bytes) and isinstance(members, dict)
