"""What the tests of canaries stand on: a server, a plan, and points as Envoy would have counted them."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from stage import Stage

import bailiwick.assurance
from bailiwick.handover.canary import api
from bailiwick.handover.canary.judge import merged
from bailiwick.handover.canary.records import Canary, Counted, add_points, find
from bailiwick.handover.canary.service import CanaryDesk, Start
from bailiwick.handover.canary.spec import KINDS
from bailiwick.inventory.documents import BindingBody, OperationBody, ServerBody
from bailiwick.inventory.loader import load_servers
from people_fixtures import House

SHIPPED = (Path(bailiwick.assurance.__file__).parent / "shipped/canary.yaml").read_text()
DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
BASELINE, CANDIDATE = "http://baseline.test:8080", "http://candidate.test:8080"


class Ground:
    """olga operates, viv looks; the server `pay` is bound to `stable.test`."""

    def __init__(self, people: House, stage: Stage | None = None) -> None:
        self.people = people
        self.stage = stage or Stage(people, KINDS)
        self.desk = self.desk_for(development=False)
        self.stage.serve(api.routes(people.database, self.desk, None))
        self.bucket = 0

    def desk_for(self, *, development: bool) -> CanaryDesk:
        stage = self.stage
        return CanaryDesk(
            stage.database, stage.clock, stage.ids, stage.recorder, stage.books, stage.records, self.people.resolver,
            stage.heard, development=development,
        )  # fmt: skip

    async def open(self, plan: str = SHIPPED) -> Ground:
        await self.stage.apply(plan)
        for name, role in (("olga", "operator"), ("viv", "viewer"), ("adam", "admin")):
            await self.people.user(name, role)
        return await self.bound()

    async def bound(self) -> Ground:
        """With the server, and the addresses of what may be behind it."""
        for name, address in (("stable", "10"), ("baseline", "11"), ("candidate", "12"), ("next", "13")):
            self.people.names.known[f"{name}.test"] = [f"93.184.216.{address}"]
        operations = [OperationBody(method="GET", path="/", scope="pay:read")]
        await self.people.servers.create(
            self.stage.context(),
            ServerBody(name="pay", endpoint="http://stable.test:8080", binding=BindingBody(operations=operations)),
        )
        return self

    async def start(self, **wanted: Any) -> Canary:
        whole = {"server": "pay", "digest": DIGEST, "plan": "standard", "baseline_url": BASELINE,
                 "candidate_url": CANDIDATE, **wanted}  # fmt: skip
        return await self.desk.start(self.stage.context("olga"), Start(**whole))

    async def see(self, canary: str, count: int = 50, machine: str = "m", **candidate: float) -> None:
        """As if both arms had served ``count`` buckets."""
        async with self.people.database.begin() as tx:
            phase = (await find(tx, "default", canary)).phase
            for _ in range(count):
                self.bucket += 1
                arms = [counted("baseline", self.bucket), counted("candidate", self.bucket + 10_000, **candidate)]
                now = self.people.clock.now()
                await add_points(tx, canary, phase, self.bucket, machine, now, arms)

    async def drive(self, canary: str) -> Canary:
        await self.desk.drive(self.people.clock.now())
        return await self.now(canary)

    async def now(self, canary: str) -> Canary:
        async with self.people.database.begin() as tx:
            return await find(tx, "default", canary)

    async def standing(self, digest: str = DIGEST, *, development: bool = False) -> tuple[str, bool]:
        desk = self.desk_for(development=development)
        async with self.people.database.begin() as tx:
            found = await desk.standing(tx, "default", digest)
        return found.verdict.value, found.passes

    async def weights(self) -> tuple[int, int, bool] | None:
        """What the gateway is told."""
        async with self.people.database.begin() as tx:
            found = await load_servers(tx, self.people.sealer, "default", audience=lambda zone, name: name)
        split = found["pay"].split
        return (split.baseline.weight, split.candidate.weight, split.lasting) if split else None

    async def ask(self, method: str, path: str, who: str, body: Any = None) -> Any:
        return await self.stage.call(method, path, body, token=await self.people.signed_in(who))

    async def sql(self, text: str, **values: Any) -> None:
        async with self.people.database.begin() as tx:
            await tx.run(text, **values)


def counted(arm: Any, seed: int, *, ms: float = 60, errors: int = 0, refused: int = 0, requests: int = 30) -> Counted:
    source = random.Random(seed)
    times = [float(int(source.lognormvariate(math.log(ms), 0.3))) for _ in range(requests)]
    return Counted(arm, requests, errors, refused, merged([[(each, 1.0, 1)] for each in times]))
