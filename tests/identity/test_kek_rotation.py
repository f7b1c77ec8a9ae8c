"""Rotating the key-encryption key: one at a time, whoever asks, and nothing is left that no key opens."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from openid_provider import SECRET, Provider, connect

from bailiwick.app.kek import KekRotation, SealedColumn
from bailiwick.evidence.events import Context
from bailiwick.kernel.crypto import KekFile, Sealer
from bailiwick.kernel.errors import Conflict
from people_fixtures import House

CONTEXT = Context("default")


async def at_once() -> bool:
    """Nothing is in the spools."""
    return True


@dataclass
class Workers:
    """Stands for the workers that must read the new key before anything is wrapped by it."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    confirm: asyncio.Event = field(default_factory=asyncio.Event)

    async def settle(self, revision: int, context: Context) -> None:
        self.asked.set()
        await self.confirm.wait()


async def test_a_slow_disk_does_not_hold_up_the_worker(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would confirm no revocation meanwhile, and be fenced with the rotation in it."""
    file = KekFile(tmp_path / "kek")
    file.path.write_text(f"k1 {(b'k' * 32).hex()}\n")
    flush = os.fsync

    def slow(fd: int) -> None:
        assert threading.current_thread() is not threading.main_thread(), "in the worker's loop"
        time.sleep(0.2)
        flush(fd)

    monkeypatch.setattr("bailiwick.kernel.crypto.os.fsync", slow)
    workers = Workers()
    workers.confirm.set()
    done = await KekRotation(house.database, house.recorder, file, workers, at_once).rotate(CONTEXT)  # type: ignore[arg-type]
    assert file.ids() == [done.kek]


@pytest.mark.parametrize("at", ["zone_keys", "identity_providers", "idempotency_keys"])
async def test_a_rotation_that_was_cut_short_is_finished_by_the_next(
    house: House, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    file = KekFile(tmp_path / "kek")
    file.path.write_text(f"k1 {(b'k' * 32).hex()}\n")
    await connect(house, provider)
    workers = Workers()
    workers.confirm.set()
    rotation = KekRotation(house.database, house.recorder, file, workers, at_once)  # type: ignore[arg-type]
    rewrap = rotation._rewrap

    async def dies(column: SealedColumn, sealer: Sealer) -> int:
        if column.table == at:
            raise asyncio.CancelledError
        return await rewrap(column, sealer)

    monkeypatch.setattr(rotation, "_rewrap", dies)
    with pytest.raises(asyncio.CancelledError):
        await rotation.rotate(CONTEXT)
    assert len(file.ids()) == 2, "no key goes that something may be wrapped by"
    monkeypatch.setattr(rotation, "_rewrap", rewrap)
    done = await rotation.rotate(CONTEXT)
    assert len(done.retired) == 2 and file.ids() == [done.kek]
    house.providers.replace_sealer(file.load())
    (kept,) = await house.providers.enabled("default", "oidc")
    assert house.providers.secrets(kept) == {"client_secret": SECRET}


async def test_two_rotations_at_once_are_one_and_a_refusal(house: House, provider: Provider, tmp_path: Path) -> None:
    file = KekFile(tmp_path / "kek")
    file.path.write_text(f"k1 {(b'k' * 32).hex()}\n")  # what the house seals by
    await connect(house, provider)
    workers = Workers()

    def rotation() -> KekRotation:
        return KekRotation(house.database, house.recorder, file, workers, at_once)  # type: ignore[arg-type]

    first = asyncio.create_task(rotation().rotate(CONTEXT))
    await asyncio.wait_for(workers.asked.wait(), 10)
    both = file.ids()
    with pytest.raises(Conflict, match="rotated already"):
        await rotation().rotate(CONTEXT)
    assert file.ids() == both and len(both) == 2, "which made no key of its own"
    workers.confirm.set()
    done = await first
    assert done.retired == ("k1",) and file.ids() == [done.kek]

    # and the next one may
    again = await rotation().rotate(CONTEXT)
    assert again.retired == (done.kek,) and again.rewrapped["identity_providers"] == 1
    house.providers.replace_sealer(file.load())
    (kept,) = await house.providers.enabled("default", "oidc")
    assert house.providers.secrets(kept) == {"client_secret": SECRET}
