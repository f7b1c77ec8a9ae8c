"""What a worker sealed just before the KEK was rotated opens afterwards, although it was in its spool meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from ledger_world import KEK, World

from bailiwick.app.kek import KekRotation
from bailiwick.evidence import codes
from bailiwick.evidence.drained import drained
from bailiwick.evidence.events import Context, encode
from bailiwick.evidence.inputs import digest_of
from bailiwick.evidence.recording import WorkerEvidence
from bailiwick.evidence.search import Search
from bailiwick.kernel.crypto import KekFile

BODY = b'{"action":"read"}'


@dataclass
class Workers:
    """Read the new key when they are told to, as every process does."""

    world: World
    evidence: WorkerEvidence
    file: KekFile

    async def settle(self, revision: int, context: Context) -> None:
        sealer = self.file.load()
        self.evidence.replace_sealer(sealer)
        self.world.keys.replace_sealer(sealer)


@dataclass
class Installation:
    world: World
    evidence: WorkerEvidence
    file: KekFile

    async def decided(self) -> UUID:
        """A decision, acknowledged: its input is sealed and in the spool."""
        digest = digest_of(BODY)
        self.evidence.decision_input("default", digest, BODY)
        event = self.world.event(codes.DECISION_EVALUATED, input=digest)
        await self.evidence.event("default", encode(event))
        return UUID(event.decision_id)

    async def input_of(self, decision: UUID) -> tuple[bytes | None, str]:
        found = await Search(self.world.database, self.file.load()).find_decision("default", decision)
        assert found is not None
        return found.input, found.input_state

    def rotation(self, limit_s: float, *, works: bool) -> KekRotation:
        """``works``: whether the work role takes the spools up, once it is waited for."""

        async def arrived() -> bool:
            working = asyncio.create_task(self.sequenced()) if works else None
            done = await drained(self.world.database, self.world.spool_root, timeout_s=limit_s)
            if working is not None:
                await working
            return done

        workers = Workers(self.world, self.evidence, self.file)
        return KekRotation(self.world.database, self.world.recorder, self.file, workers, arrived)  # type: ignore[arg-type]

    async def sequenced(self) -> None:
        sequencer = self.world.sequencer()
        await sequencer.drain()
        sequencer.close()


@pytest.fixture
async def installation(world: World, tmp_path: Path) -> Installation:
    file = KekFile(tmp_path / "kek")
    file.path.write_text(f"k1 {KEK.hex()}\n")
    return Installation(world, WorkerEvidence(await world.spool(), world.sealer, world.clock), file)


async def test_what_the_spool_holds_is_waited_for(installation: Installation) -> None:
    decision = await installation.decided()
    done = await installation.rotation(20, works=True).rotate(Context("default"))
    assert (done.retired, done.kept, installation.file.ids()) == (("k1",), (), [done.kek])
    assert done.rewrapped["decision_inputs"] == 1, "it arrived after the others were wrapped anew"
    assert await installation.input_of(decision) == (BODY, "present")


async def test_what_does_not_arrive_keeps_its_key(installation: Installation) -> None:
    decision = await installation.decided()
    first = await installation.rotation(0.1, works=False).rotate(Context("default"))
    assert (first.retired, first.kept) == ((), ("k1",))
    assert installation.file.ids() == ["k1", first.kek]
    await installation.sequenced()
    assert await installation.input_of(decision) == (BODY, "present"), "nobody threw its key away"
    second = await installation.rotation(20, works=True).rotate(Context("default"))
    assert (second.retired, second.kept) == (("k1", first.kek), ())
    assert await installation.input_of(decision) == (BODY, "present")
