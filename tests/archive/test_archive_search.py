"""A search finds the same whether the rows are in the table or in the archive."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from archive_world import ArchiveWorld
from test_archive_life import hot

from bailiwick.evidence.archive.reader import ColdEvents
from bailiwick.evidence.cold import ColdSearch
from bailiwick.evidence.query import About, Filter
from bailiwick.evidence.search import FACETS, Search

FILTERS = (
    Filter(),
    Filter(user="jane"),
    Filter(server="pay", text="JANE"),
    Filter(about=About("user", "joe")),
    Filter(name="gateway.*"),
)


async def walked(
    world: ArchiveWorld, search: Search, wanted: Filter, order: Any, limit: int
) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while True:
        after = found[-1][0] if found else None
        async with world.database.begin() as tx:
            page = await search.events(tx, "default", wanted, order=order, after=after, limit=limit)
        assert all(entry.intact for entry in page)
        found += [(entry.seq, entry.body) for entry in page]
        if len(page) < limit:
            return found


async def test_what_was_archived_is_found_as_before(world: ArchiveWorld) -> None:
    await world.day(5, 7, user="jane", server="pay")
    await world.day(2, user="joe")
    world.wait(days=6)
    await world.day(4, user="jane")
    told = world.bodies()
    search = Search(world.database, None, ColdSearch(world.cold, ColdEvents.open_parts))
    before = [await walked(world, search, wanted, "oldest", 100) for wanted in FILTERS]
    counted = await search.count("default", Filter(name="gateway.*"), FACETS)
    world.wait(days=1.6)
    await world.archivist().run()
    await hot(world).drop_due()
    assert 0 < len(world.bodies()) < len(told)
    for wanted, was in zip(FILTERS, before, strict=True):
        for limit in (6, 100):
            found = [each for each in await walked(world, search, wanted, "oldest", limit) if each[0] in told]
            assert found == was, wanted
            newest = [each for each in await walked(world, search, wanted, "newest", limit) if each[0] in told]
            assert newest == was[::-1], wanted
    again = await search.count("default", Filter(name="gateway.*"), FACETS)
    assert again.complete and {name: dict(each) for name, each in again.counts.items()} == {
        name: dict(each) for name, each in counted.counts.items()
    }
    first = json.loads(told[0])
    async with world.database.begin() as tx:
        assert (await search.event(tx, "default", UUID(first["id"]))).body == told[0]
        assert (await search.request(tx, "default", UUID(first["request_id"])))["timeline"]
    decision = await search.find_decision("default", UUID(first["id"]))
    assert decision is not None and decision.entry.seq == 0
