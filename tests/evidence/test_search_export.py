"""Exports of a search: verbatim lines, tables that are no formulas, manifests that can be checked."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from api_client import ApiClient
from ledger_world import World
from searching import Archive, Client, bodies_of, event, ledgered, sequenced

from bailiwick.evidence import codes, search_export
from bailiwick.evidence.events import leaf_hash
from bailiwick.evidence.query import Filter
from bailiwick.evidence.search import Search
from bailiwick.evidence.search_export import COLUMNS, Tally
from bailiwick_verify.checkpoint import open_checkpoint
from bailiwick_verify.note import VerifierKey

pytestmark = pytest.mark.made_up_events

EXPORT = "/api/v1/audit/export"


@pytest.fixture
def client(api: ApiClient) -> Client:
    return Client(api._app, {"x-role": "auditor"})


def hostile(world: World) -> list[Any]:
    return [
        event(world, user="=cmd|' /C calc'!A0"),
        event(world, user="+1+1", server="-2+3", user_agent="@SUM(A1)"),
        event(world, user='a"b,c', note="line\nbreak\r\nand\ttab"),
        event(world, user="Ärger 日本", subject=("\t=1", "user"), reasons=("x", "y")),
        event(world, codes.GATEWAY_DENIED, outcome="deny", user="jane", why=["=1", "2"]),
    ]


async def test_json_lines_are_the_bytes_that_were_hashed(world: World, client: Client) -> None:
    await ledgered(world, [event(world, user=f"user-{n}", note='ü\n"') for n in range(1203)])
    answer = await client("GET", EXPORT)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["x-ledger-size"] == "1203" and "attachment" in answer.headers["content-disposition"]
    lines = answer.body.split(b"\n")
    assert lines.pop() == b""
    assert lines == world.bodies("WHERE seq < 1203")
    leaves = b"".join(bytes(h) for h in world.rows("SELECT hashes FROM ledger.hashes WHERE level = 0 ORDER BY first"))
    assert b"".join(leaf_hash(line) for line in lines) == leaves[: 1203 * 32]
    some = await client("GET", EXPORT, params={"user": "user-7", "order": "newest"})
    assert some.body == lines[7] + b"\n"
    assert (await client("GET", EXPORT, params={"user": "nobody"})).body == b""


async def test_an_export_ends_where_the_ledger_ended_and_is_one_event(world: World, client: Client) -> None:
    await ledgered(world, [event(world, user="jane") for _ in range(3)])
    for _ in range(2):
        await client("GET", EXPORT, params={"format": "csv", "user": "jane"})
    await sequenced(world)
    told = bodies_of(world, "BW500")
    assert [each["name"] for each in told] == ["audit.exported"] * 2
    assert told[0]["details"] == {"query": "user=jane", "format": "csv", "reach": 3}
    newest = (await client("GET", EXPORT, params={"order": "newest"})).body
    assert newest.count(b"\n") == 5
    spool = await world.spool()
    reach = None
    async with world.database.begin() as tx:
        reach = await search_export.extent(tx, "default")
    await world.put(spool, 5)
    await sequenced(world)
    search = Search(world.database, None)
    for order in ("newest", "oldest"):
        found = [e.seq async for e in search_export.entries(world.database, search, "default", Filter(), order, reach)]  # type: ignore[arg-type]
        assert sorted(found) == list(range(reach.size))


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
async def test_an_export_that_was_read_to_its_end_has_a_manifest(world: World, client: Client, form: str) -> None:
    await ledgered(world, [event(world, user=f"user-{n % 2}") for n in range(250)])
    answer = await client("GET", EXPORT, params={"format": form, "user": "user-1"})
    where, _, relation = answer.headers["link"].partition(">; ")
    assert relation == 'rel="describedby"'
    told = json.loads((await client("GET", where.removeprefix("<"))).body)
    assert (told["events"], told["first_seq"], told["last_seq"]) == (125, 1, 249)
    assert (told["sha256"], told["bytes"]) == (hashlib.sha256(answer.body).hexdigest(), len(answer.body))
    assert (told["query"], told["format"], told["ledger"]["events"]) == ("user=user-1", form, 250)
    assert (await client("GET", where[1:], headers={"x-zone": "acme"})).status == 404


async def test_an_export_that_was_cut_off_has_none(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledgered(world, [event(world, user="jane") for _ in range(250)])

    def torn(*given: Any) -> Any:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(search_export.Tally, "wrote", torn)
    with pytest.raises(RuntimeError):
        await client("GET", EXPORT)
    assert world.rows("SELECT count(*) AS n FROM bailiwick.audit_exports")[0] == 0


async def test_no_cell_is_a_formula(world: World, client: Client) -> None:
    await ledgered(world, hostile(world))
    answer = await client("GET", EXPORT, params={"format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.body.decode(), newline="")))
    assert len(rows) == 5 and tuple(rows[0]) == COLUMNS
    assert answer.body.count(b"\r\n") == 6, "no cell breaks its line"
    for row in rows:
        assert all(cell[:1] not in ("=", "+", "-", "@", "\t", "\r") for cell in row.values()), row
    assert rows[0]["user"] == "'=cmd|' /C calc'!A0"
    assert all(row["decision_id"] == (row["id"] if row["code"].startswith("BW40") else "") for row in rows)
    assert (rows[1]["server"], rows[1]["user_agent"]) == ("'-2+3", "'@SUM(A1)")
    assert rows[2]["user"] == 'a"b,c' and json.loads(rows[2]["details"])["note"] == "line\nbreak\r\nand\ttab"
    assert (rows[3]["user"], rows[3]["reasons"], rows[3]["intact"]) == ("Ärger 日本", "x y", "true")


async def test_parquet_can_be_queried(world: World, client: Client, tmp_path: Path) -> None:
    await ledgered(world, hostile(world))
    answer = await client("GET", EXPORT, params={"format": "parquet"})
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    path = tmp_path / "events.parquet"
    path.write_bytes(answer.body)
    with duckdb.connect() as connection:
        rows = connection.execute(
            f'SELECT seq, "user", body, intact, year("at") FROM \'{path}\' ORDER BY seq'
        ).fetchall()
    assert [row[0] for row in rows] == list(range(5))
    assert rows[0][1] == "=cmd|' /C calc'!A0" and all(row[3] and row[4] >= 2026 for row in rows)
    assert [row[2].encode() for row in rows] == world.bodies("WHERE seq < 5")
    nothing = await client("GET", EXPORT, params={"format": "parquet", "user": "nobody"})
    path.write_bytes(nothing.body)
    with duckdb.connect() as connection:
        assert connection.execute(f"SELECT count(*) FROM '{path}'").fetchone() == (0,)


async def test_altered_events_are_exported_as_such(world: World, tmp_path: Path) -> None:
    await ledgered(world, [event(world, user="jane") for _ in range(4)])
    world.do("UPDATE ledger.events SET rest = %s WHERE seq = 1", b"two\nlines")
    world.do("UPDATE ledger.events SET rest = %s WHERE seq = 2", b"\xff\xfe")
    search = Search(world.database, None)
    async with world.database.begin() as tx:
        reach = await search_export.extent(tx, "default")
    for form in ("jsonl", "csv", "parquet"):
        tally, path = Tally(), tmp_path / f"x.{form}"
        found = search_export.entries(world.database, search, "default", Filter(), "oldest", reach)
        await search_export.save(found, form, path, tally, lambda tally: None)  # type: ignore[arg-type]
        assert (tally.events, tally.altered_total, tally.altered) == (4, 2, [1, 2])
        assert (tally.size, tally.digest.hexdigest()) == (
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
    assert json.loads((tmp_path / "x.jsonl").read_bytes().split(b"\n")[1]) == {"altered": 1, "bytes": "dHdvCmxpbmVz"}
    assert (tmp_path / "x.csv").read_bytes().count(b"\r\n") == 5


async def test_a_manifest_names_a_head_that_holds(world: World) -> None:
    await ledgered(world, [event(world, user="jane") for _ in range(4)])
    async with world.database.begin() as tx:
        reach = await search_export.extent(tx, "default")
        from bailiwick.evidence.ledger import ledger_keys

        keys = await ledger_keys(tx, "default")
    told = search_export.manifest(
        "default", Filter(user="jane"), "oldest", "jsonl", reach, Tally(), world.clock.now(), "bailiwick 1"
    )
    assert told["query"] == "user=jane" and told["ledger"]["events"] == told["ledger"]["signed"] == 4
    opened = open_checkpoint(told["ledger"]["checkpoint"].encode(), list(keys.values()))
    assert opened.checkpoint.size == 4
    assert [VerifierKey.parse(str(key)) for key in keys.values()]
    async with world.database.begin() as tx:
        nothing = await search_export.extent(tx, "acme")
    assert (nothing.size, nothing.signed) == (0, 0)
    world.do("DELETE FROM ledger.heads WHERE zone = 'acme'")
    async with world.database.begin() as tx:
        assert await search_export.extent(tx, "acme") == search_export.Extent(0, 0, "")


async def test_an_export_goes_through_the_archive(world: World, tmp_path: Path) -> None:
    await ledgered(world, [event(world, user=f"user-{n}") for n in range(30)])
    expected = world.bodies("WHERE zone = 'default'")
    archive = Archive(world, tmp_path / "cold")
    archive.move(0, 9)
    archive.move(10, 19)
    search = Search(world.database, None, archive.search())
    async with world.database.begin() as tx:
        reach = await search_export.extent(tx, "default")
    found = search_export.entries(world.database, search, "default", Filter(), "oldest", reach)
    pieces = [piece async for piece in search_export.written(found, "jsonl", Tally())]
    assert b"".join(pieces).splitlines() == expected


async def test_exports_are_bounded_in_number(world: World, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await ledgered(world, [event(world, user="jane")])
    running, go = asyncio.Semaphore(0), asyncio.Event()
    entries = search_export.entries

    async def held(*arguments: Any) -> AsyncIterator[Any]:
        running.release()
        await go.wait()
        async for entry in entries(*arguments):
            yield entry

    monkeypatch.setattr(search_export, "entries", held)
    async with client.stream("GET", EXPORT) as one, client.stream("GET", EXPORT, params={"format": "parquet"}) as two:
        for _ in range(2):
            await running.acquire()
        refused = await client("GET", EXPORT)
        assert (refused.status, refused.json["reason"], refused.headers["retry-after"]) == (503, "search_busy", "30")
        go.set()
        await one.until(b"\n")
        await two.until(b"PAR1", 2)
    for _ in range(3):
        assert (await client("GET", EXPORT)).status == 200


async def test_a_refused_export_is_refused_and_not_cut_off(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledgered(world, [event(world)])
    from bailiwick.evidence import hot
    from bailiwick.evidence.cold import too_expensive

    async def slow(*_: Any) -> list[Any]:
        raise too_expensive()

    monkeypatch.setattr(hot, "find", slow)
    for form in ("jsonl", "parquet"):
        answer = await client("GET", EXPORT, params={"format": form})
        assert (answer.status, answer.json["reason"]) == (422, "query_too_expensive")
    for params in ({"format": "xlsx"}, {"limit": "3"}, {"since": "x"}, {"user": "\x00"}):
        assert (await client("GET", EXPORT, params=params)).status == 400
