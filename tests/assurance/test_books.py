"""The book of a zone: what can be read, what is refused, how it is changed, and by how many."""

from __future__ import annotations

from pathlib import Path

import pytest
from stage import Stage

from bailiwick.assurance.book import BadBook, Book, Kind, read_directory, read_text
from bailiwick.assurance.books import Plan
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.fields import Body
from bailiwick.kernel.quorum import Approval
from people_fixtures import House


class Lamp(Body):
    """A kind of the tests."""

    colour: str
    beside: str = ""


def beside(book: Book) -> list[str]:
    lamps = book.of(LAMP)
    return [f"Lamp {name}: there is no lamp {lamp.beside!r}" for name, lamp in lamps.items()
            if lamp.beside and lamp.beside not in lamps]  # fmt: skip


LAMP = Kind("Lamp", Lamp, check=beside, two_persons=lambda before, after: after is None or after.colour == "red")


def lamp(name: str, colour: str = "blue", more: str = "") -> str:
    return f"apiVersion: bailiwick/v1\nkind: Lamp\nmetadata: {{name: {name}}}\nspec: {{colour: {colour}{more}}}\n---\n"


@pytest.fixture
async def stage(house: House) -> Stage:
    return Stage(house, [LAMP])


async def test_what_is_applied_is_in_force_and_every_version_is_kept(stage: Stage) -> None:
    await stage.apply(lamp("one") + lamp("two", "green"))
    changed = await stage.apply(lamp("one", "grey") + lamp("two", "green"))
    assert [(each.how, each.name) for each in changed.differences] == [("changed", "one")]
    async with stage.database.begin() as tx:
        book = await stage.books.current(tx, "default")
        history = await stage.books.history(tx, "default", "Lamp", "one")
    assert {name: each.colour for name, each in book.of(LAMP).items()} == {"one": "grey", "two": "green"}
    assert book.revision == 2
    assert [(each.version, each.spec["colour"], each.applied_by) for each in history] == [
        (2, "grey", "root"),
        (1, "blue", "root"),
    ]
    events = [event for event in await stage.people.events() if event.code == "BW7001"]
    assert [event.details["how"] for event in events] == ["added", "added", "changed"]
    assert ("assurance", "2") in await stage.people.feed()
    assert (await stage.apply(lamp("one", "grey") + lamp("two", "green"))).differences == []


async def test_what_takes_two_persons_waits_for_the_second(stage: Stage) -> None:
    await stage.people.user("jane")
    await stage.people.user("joe")
    documents = read_text(lamp("one", "red"), "a.yaml")
    planned = await stage.books.plan("default", documents)
    assert planned.two_persons
    held = await stage.books.apply(stage.context("jane"), documents, sha256=planned.sha256, by="jane")
    assert isinstance(held, Approval) and held.state == "open"
    assert await stage.documents() == {}
    await stage.quorum.vote(
        stage.context("joe"), "default", held.id, person="joe", role="admin", approves=True,
        payload_sha256=held.payload_sha256,
    )  # fmt: skip
    done = await stage.books.apply(stage.context("jane"), documents, sha256=planned.sha256, by="jane")
    assert isinstance(done, Plan)
    assert list(await stage.documents()) == [("Lamp", "one")]
    with pytest.raises(Conflict):  # the same approval does not serve twice, nor for another book
        await stage.books.apply(stage.context("jane"), documents, sha256=planned.sha256, by="jane")


async def test_a_plan_that_something_came_between_is_refused(stage: Stage) -> None:
    documents = read_text(lamp("one"), "a.yaml")
    planned = await stage.books.plan("default", documents)
    await stage.apply(lamp("two"))
    with pytest.raises(Conflict) as refused:
        await stage.books.apply(stage.context(), documents, sha256=planned.sha256, by="root")
    assert refused.value.reason == "plan_changed"


async def test_what_we_ship_is_put_in_force_once(stage: Stage) -> None:
    shipped = read_text(lamp("one", "red"), "shipped.yaml")
    assert await stage.books.ship(stage.context("bailiwick"), shipped)
    assert not await stage.books.ship(stage.context("bailiwick"), read_text(lamp("two"), "shipped.yaml"))
    assert list(await stage.documents()) == [("Lamp", "one")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: [", "a.yaml"),
        ("a: &x 1\nb: *x\n", "aliases"),
        ("apiVersion: bailiwick/v1\nkind: Lamp\nkind: Lamp\nmetadata: {name: a}\nspec: {}", "given twice"),
        ("- 1", "apiVersion, kind, metadata and spec"),
        (lamp("-x"), "metadata.name"),
        (lamp("x", more=", since: 2026-01-01"), "quotes"),
        (lamp("x", ".nan"), "quotes"),
        ("apiVersion: v1\nkind: Lamp\nmetadata: {name: x}\nspec: !!python/object:os.system {}", "a.yaml"),
        ("[" * 5000, "a.yaml"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text: str, told: str) -> None:
    with pytest.raises(BadBook) as refused:
        read_text(text, "a.yaml")
    assert any(told in line for line in refused.value.problems), refused.value.problems


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (lamp("x").replace("Lamp", "Candle"), "no kind 'Candle'"),
        (lamp("x") + lamp("x"), "stands in a.yaml:1"),
        (lamp("x", more=", size: 3"), "spec.size"),
        (lamp("x", more=", beside: y"), "no lamp 'y'"),
        (lamp("x").replace("bailiwick/v1", "bailiwick/v9"), "apiVersion"),
    ],
)
async def test_what_contradicts_its_schema_or_the_rest_is_refused(stage: Stage, text: str, told: str) -> None:
    with pytest.raises(BadBook) as refused:
        await stage.books.plan("default", read_text(text, "a.yaml"))
    assert any(told in line for line in refused.value.problems), refused.value.problems


def test_words_that_were_booleans_once_are_words() -> None:
    text = """
apiVersion: bailiwick/v1
kind: IncidentTrigger
metadata: {name: late}
spec: {on: [STALE], told: yes, firm: true}
"""
    (document,) = read_text(text, "a.yaml")
    assert document.spec == {"on": ["STALE"], "told": "yes", "firm": True}


def test_a_directory_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.yml").write_text(lamp("two"))
    (tmp_path / "one.yaml").write_text(lamp("one"))
    (tmp_path / "notes.txt").write_text("kind: [")
    assert [document.where for document in read_directory(tmp_path)] == ["b/two.yml:1", "one.yaml:1"]
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "large.yaml").write_text("# " + "x" * (1 << 20))
    with pytest.raises(BadBook) as refused:
        read_directory(tmp_path)
    assert refused.value.problems == ["bad.yaml: not UTF-8", "large.yaml: larger than 1048576 bytes"]
