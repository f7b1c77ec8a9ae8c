"""Evidence packs built from a real ledger, checked by the verifier, and tampered with in every part."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from ledger_world import World

from bailiwick.evidence.events import Actor, Context, encode
from bailiwick.evidence.frames import Kind
from bailiwick.evidence.ledger import ledger_keys
from bailiwick.evidence.pack import Outcome, Pack, PackBuilder, Section, Selection, Window
from bailiwick.evidence.pack_sections import evidence_sections
from bailiwick.kernel.errors import BailiwickError, InvalidRequest, NotFound
from bailiwick_verify.cli import main
from bailiwick_verify.note import VerifierKey
from bailiwick_verify.pack import PackReport, verify_pack

CONTEXT = Context("default", Actor(user="olga"))
ALL = Window(datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def builder(world: World, *more: Section, **options: Any) -> PackBuilder:
    made = PackBuilder(
        world.database, world.clock, world.ids, world.recorder, world.keys, "1.2.3", head_files=world.head_files,
        **options,
    )  # fmt: skip
    for section in (*evidence_sections(lambda: world.sealer), *more):
        made.register(section)
    return made


async def keys(world: World) -> list[VerifierKey]:
    async with world.database.begin() as tx:
        return list((await ledger_keys(tx, "default")).values())


async def check(world: World, path: Path) -> PackReport:
    return verify_pack(path, await keys(world))


async def packed(world: World, path: Path, *windows: Window, requests: tuple[UUID, ...] = (), **more: Any) -> Path:
    await builder(world).build(Selection("default", requests, windows, **more), path, CONTEXT)
    return path


async def test_a_window_is_packed_and_holds(world: World, tmp_path: Path) -> None:
    await world.filled(700)
    path = await packed(world, tmp_path / "p.zip", ALL)
    report = await check(world, path)
    assert (report.verdict, report.events, report.gaps, report.tree_size) == ("PASS", 700, 0, 700), report.findings
    assert report.first_bad == "" and report.signed_at and report.checkpoint_at
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("events/events.jsonl").splitlines()
    assert lines == [bytes(body) for body in world.rows("SELECT body FROM ledger.events ORDER BY seq")]


async def test_a_request_is_packed_with_receipts(world: World, tmp_path: Path) -> None:
    request = world.ids()
    await world.filled(300)
    await world.filled(2, request_id=request)
    await world.filled(300)
    await world.filled(1, request_id=request)
    path = await packed(world, tmp_path / "p.zip", requests=(UUID(request),))
    report = await check(world, path)
    assert (report.verdict, report.events, report.gaps) == ("PASS", 3, 300), report.findings
    with zipfile.ZipFile(path) as archive:
        assert len([name for name in archive.namelist() if name.startswith("receipts/")]) == 3
        timeline = [json.loads(line) for line in archive.read("timeline/timeline.jsonl").splitlines()]
    assert [each["seq"] for each in timeline] == [300, 301, 602]
