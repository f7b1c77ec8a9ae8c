"""A ledger that lost events, and the persons who may agree to go on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledger_world import World

from bailiwick.app.quorum import quorum_of
from bailiwick.evidence.continuing import Continued, Continuing
from bailiwick.evidence.events import Actor, Context
from bailiwick.evidence.ledger import Head, ledger_keys
from bailiwick.evidence.spool import acknowledge_loss, loss_of
from bailiwick_verify.cli import main
from bailiwick_verify.note import VerifierKey

ANA = Context("default", Actor(user="ana", session="s-ana"))
BEN = Context("default", Actor(user="ben", session="s-ben"))
MACHINE = Context("default", Actor(user="os:root"))
GROUND = "disk lost; restored from last night"


class Lossy:
    """An installation, what it published, and its persons."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.people("ana", "ben", "cyd")

    def people(self, *names: str, role: str = "admin") -> None:
        self.world.do("DELETE FROM bailiwick.users WHERE username = ANY(%s)", list(names))
        for name in names:
            self.world.do(
                "INSERT INTO bailiwick.users (id, zone, username, email, role, created_at, updated_at)"
                " VALUES (%s, 'default', %s, %s, %s, now(), now())",
                self.world.ids(), name, f"{name}@example.com", role,
            )  # fmt: skip

    def service(self, **options: Any) -> Continuing:
        world = self.world
        quorum = quorum_of(world.database, world.clock, world.ids, world.recorder)
        self.quorum = quorum
        return Continuing(world.database, world.recorder, world.clock, quorum, world.head_files, **options)

    def published(self) -> Head:
        head = self.world.head_files.load("default")
        assert head is not None
        return head

    def restored(self, size: int) -> None:
        """What an older backup has: nothing of what came after ``size`` events. What was published stays so."""
        for table, column in (("events", "seq"), ("hashes", "first")):
            self.world.do(f"DELETE FROM ledger.{table} WHERE zone = 'default' AND {column} >= %s", size)
        for table in ("heads", "cosignatures", "cosigned"):
            self.world.do(f"DELETE FROM ledger.{table} WHERE zone = 'default' AND size > %s", size)

    async def sequenced(self) -> None:
        """Let the sequencer take in what waits, as a new process does; what it stopped over is acknowledged."""
        sequencer = self.world.sequencer()
        await sequencer.drain()
        if loss_of(self.world.spool_root):
            acknowledge_loss(self.world.spool_root)
            await sequencer.drain()
        sequencer.close()

    async def lose(self, kept: int = 20, lost: int = 15) -> None:
        """Fill, publish, restore to what was there before, and go on without heads."""
        await self.world.filled(kept)
        await self.world.filled(lost)
        self.restored(kept)
        await self.sequenced()
        await self.more(2)

    async def more(self, count: int) -> list[str]:
        spool = await self.world.spool()
        ids = await self.world.put(spool, count)
        await spool.close()
        await self.sequenced()
        return ids

    async def vote(
        self, asked: Continued, context: Context = BEN, *, approves: bool = True, role: str = "admin"
    ) -> None:
        await self.quorum.vote(
            context, "default", asked.approval.id, person=context.actor.user, role=role, approves=approves,
            payload_sha256=asked.approval.payload_sha256,
        )  # fmt: skip

    async def go_on(self, **options: Any) -> Continued:
        """Ana asks, Ben approves, it is done, and the ledger takes it in."""
        service = self.service(**options)
        asked = await service.go_on(ANA, GROUND)
        assert not asked.done
        await self.vote(asked)
        done = await service.go_on(ANA, GROUND)
        assert done.done
        await self.sequenced()
        return done

    async def keys(self) -> list[VerifierKey]:
        async with self.world.database.begin() as tx:
            return list((await ledger_keys(tx, "default")).values())


class Auditor:
    """The verifier, with the key that he was given before anything was lost."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.key = ""

    async def learn(self, lossy: Lossy) -> Auditor:
        (key,) = await lossy.keys()
        self.key = str(key)
        return self

    async def __call__(self, verb: str, place: object, *more: object) -> tuple[int, dict[str, Any]]:
        self._capsys.readouterr()
        gaps = [] if verb in ("receipt", "pack") else ["--max-gap", "0"]
        arguments = [verb, str(place), "--key", self.key, "--json", *gaps, *map(str, more)]
        code = await asyncio.to_thread(main, arguments)
        return code, json.loads(self._capsys.readouterr().out or "{}")


def changed_copy(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    return to


def repacked(path: Path, to: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(to, "w") as after:
        for name in before.namelist():
            data = change(name, before.read(name))
            if data is not None:
                after.writestr(name, data)
    return to


def continue_until(url: str, root: str, step: str) -> None:
    """In a process of its own: do what was agreed to, but die at ``step``."""

    def die(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    lossy = Lossy.__new__(Lossy)
    lossy.world = World(url, Path(root))
    asyncio.run(lossy.service(fault=die).go_on(ANA, GROUND))
