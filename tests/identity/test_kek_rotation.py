"""Rotating the key-encryption key: one at a time, whoever asks, and nothing is left that no key opens."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from openid_provider import SECRET, Provider, connect

from bailiwick.app.kek import KekRotation
from bailiwick.evidence.events import Context
from bailiwick.kernel.crypto import KekFile
from bailiwick.kernel.errors import Conflict
from people_fixtures import House

CONTEXT = Context("default")


@dataclass
class Workers:
    """Stands for the workers that must read the new key before anything is wrapped by it."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    confirm: asyncio.Event = field(default_factory=asyncio.Event)

    async def settle(self, revision: int, context: Context) -> None:
        self.asked.set()
        await self.confirm.wait()


async def test_two_rotations_at_once_are_one_and_a_refusal(house: House, provider: Provider, tmp_path: Path) -> None:
    file = KekFile(tmp_path / "kek")
    file.path.write_text(f"k1 {(b'k' * 32).hex()}\n")  # what the house seals by
    await connect(house, provider)
    workers = Workers()

    def rotation() -> KekRotation:
        return KekRotation(house.database, house.recorder, file, workers)  # type: ignore[arg-type]

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
