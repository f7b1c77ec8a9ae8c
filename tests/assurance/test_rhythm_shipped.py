"""What we ship of rhythm, checkpoints and registers: whole, and everything the operating model asks for."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import pytest
from rhythm_stage import KINDS, RhythmStage

from bailiwick.assurance.book import Book, check, read_text
from bailiwick.assurance.checkpoints.rules import CHECKPOINT
from bailiwick.assurance.registers import REVIEWED_DOCUMENT, RISK, ROADMAP_ITEM
from bailiwick.assurance.rhythm.ceremonies import CEREMONY, occurrences
from people_fixtures import House

TEXT = (files("bailiwick.assurance") / "shipped/rhythm.yaml").read_text(encoding="utf-8")
DOCS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def book() -> Book:
    return check("default", read_text(TEXT, "rhythm.yaml"), {kind.name: kind for kind in KINDS})


def test_fifty_two_weeks_have_as_many_dates_as_the_cadences_say(book: Book) -> None:
    begun, live = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 2, 9, tzinfo=UTC)
    counts = Counter(
        {
            name: len(occurrences(ceremony, begun, begun + timedelta(days=364), live))
            for name, ceremony in book.of(CEREMONY).items()
        }
    )
    assert {name for name, count in counts.items() if count == 364} == {
        "daily-health", "daily-safety", "daily-dashboards", "daily-alerts", "daily-backups", "daily-archive",
        "daily-reconciliation",
    }  # fmt: skip
    weekly = {name for name, count in counts.items() if count == 52}
    assert weekly == {
        "weekly-ops-health", "weekly-performance", "weekly-capacity", "weekly-security-log", "weekly-documents",
        "friday-freeze",
    }  # fmt: skip
    assert counts["security-review"] == 26
    monthly = {name for name, count in counts.items() if count == 12}
    assert {"kpi-review", "purge-review", "access-review", "restore-test", "security-patching"} <= monthly
    assert {name for name, count in counts.items() if count == 4} == {
        "disaster-recovery-test", "key-rotation", "compliance-review",
    }  # fmt: skip
    relative = {name: counts[name] for name in counts if name.startswith(("week-", "month-"))}
    assert relative == {
        "week-1-check-in": 7, "week-2-check-in": 1, "week-4-review": 1, "month-1-documents": 1, "month-3-review": 1,
    }  # fmt: skip


def test_the_three_checkpoints_and_the_four_tracks_are_there(book: Book) -> None:
    due = {name: (each.after_days, each.rule) for name, each in book.of(CHECKPOINT).items()}
    assert due == {"T7": (7, "waivers"), "T14": (14, "automation"), "T30": (30, "measured")}
    assert {each.track for each in book.of(ROADMAP_ITEM).values()} == {"reliability", "security", "finance", "product"}
    assert all(each.acceptance and each.due_days in {14, 30, 90} for each in book.of(ROADMAP_ITEM).values())
    assert book.of(RISK)


def test_every_document_under_review_is_there(book: Book) -> None:
    for each in book.of(REVIEWED_DOCUMENT).values():
        assert (DOCS / each.path).is_file(), each.path


async def test_a_fresh_zone_lives_its_first_two_days_by_it(house: House) -> None:
    stage = RhythmStage(house)
    assert await stage.books.ship(stage.context("bailiwick"), read_text(TEXT, "rhythm.yaml"))
    await stage.live(2, step_h=2)
    found = await stage.all()
    alone = [each for each in found if each.ceremony.startswith("daily-") and each.starts_at <= stage.clock.now()]
    assert Counter(each.state for each in alone) == {"done": len(alone)}
    verdicts = {
        each["name"]: each["verdict"]
        for occurrence in alone
        for each in (await stage.desk.pack("default", occurrence.id)).document["sections"]["figures"]
    }
    assert verdicts["evidence.outbox"] in {"PASS", "FAIL"} and verdicts["slo.state"] == "NO_DATA"
    assert verdicts["evidence.dead-letters"] == "PASS"
