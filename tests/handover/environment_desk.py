"""Environments over a real database: looks that say what a test wants, incidents and rollouts that a test makes up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from stage import Stage

from bailiwick.app.assurance import KINDS
from bailiwick.assurance.checkpoints.golive import GoLives
from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found
from bailiwick.assurance.probes.runner import Probes
from bailiwick.handover.environments import api
from bailiwick.handover.environments.clockwork import EnvironmentClock
from bailiwick.handover.environments.hypercare import Hypercare, Slot
from bailiwick.handover.environments.looks import looks
from bailiwick.handover.environments.measuring import Measurer
from bailiwick.handover.environments.states import EnvironmentStates
from bailiwick.handover.environments.states import Standing as EnvironmentStanding
from bailiwick.handover.environments.validation import Validation
from bailiwick.handover.incidents.documents import Expected
from bailiwick.handover.ports import OpenIncident, Point, Rollout, Standing
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.severity import Severity
from people_fixtures import House

DIGEST = f"sha256:{'a' * 64}"
OTHER = f"sha256:{'b' * 64}"
BOOK = """
apiVersion: bailiwick/v1
kind: Environment
metadata: {name: production}
spec:
  title: Production
  platform: payments
  purpose: production
  has: [prometheus]
  values: {api: "https://api.example.com"}
  hypercare: standard
  suites: [hour, day, week]
---
apiVersion: bailiwick/v1
kind: ValidationSuite
metadata: {name: hour}
spec:
  title: The first hour
  opens: 5m
  closes: 1h
  again: 10m
  checks:
    - {name: lag, title: It is quick, check: {type: internal, what: lag}, expect: {comparison: "<", value: 60, unit: s}}
    - {name: redis, title: Redis answers, check: {type: internal, what: lag}, expect: {comparison: "<", value: 1, unit: s}, needs: redis}
---
apiVersion: bailiwick/v1
kind: ValidationSuite
metadata: {name: day}
spec:
  title: The first day
  opens: 24h
  closes: 48h
  again: 2h
  checks:
    - {name: lag, title: It is quick, check: {type: internal, what: lag}, expect: {comparison: "<", value: 60, unit: s}}
---
apiVersion: bailiwick/v1
kind: ValidationSuite
metadata: {name: week}
spec:
  title: The first week
  opens: 7d
  closes: 8d
  checks:
    - {name: lag, title: It is quick, check: {type: internal, what: lag}, expect: {comparison: "<", value: 60, unit: s}}
---
apiVersion: bailiwick/v1
kind: HypercarePlan
metadata: {name: standard}
spec:
  title: Hypercare
  bands: [{until: 6h, every: 30m}, {until: 24h, every: 1h}, {until: 72h, every: 8h}]
  grace: 15m
  calm: 24h
  checks:
    - {name: lag, title: It is quick, check: {type: internal, what: lag}, expect: {comparison: "<", value: 60, unit: s}}
"""


@dataclass
class Around:
    """Incidents and rollouts as a test says they are: the ports of parts that stand beside this one."""

    incidents: list[OpenIncident] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)
    closed: list[OpenIncident] = field(default_factory=list)

    async def open(self, tx: Transaction, zone: str) -> Sequence[OpenIncident]:
        return self.incidents

    async def since(self, tx: Transaction, zone: str, moment: datetime) -> Sequence[OpenIncident]:
        return [each for each in (*self.incidents, *self.closed) if each.opened_at >= moment]

    async def of(self, tx: Transaction, zone: str, environment: str, since: datetime) -> Sequence[Rollout]:
        return [each for each in self.rollouts if each.environment == environment and each.began_at >= since]


class EnvironmentDesk:
    """jane and kim are administrators, olga operates, viv looks."""

    def __init__(self, people: House, url: str = "") -> None:
        self.stage = Stage(people, KINDS)
        stage = self.stage
        shared = (stage.database, stage.clock)
        self.found: Found | Exception = Found(5, detail="five seconds")
        self.looks = 0
        self.around = Around()
        self.answers = {"allow": "allow", "deny": "deny"}
        self.figures: dict[str, list[float]] = {}
        self.restarts: dict[str, int] = {"serve": 1}
        internals: dict[str, Any] = {"lag": self._lag}
        means = Means(self._reach, stage.clock, url, Path("/nonexistent"), internals=internals)
        internals.update(
            looks(
                means, stage.database, stage.books, self._decide, self.around, self.around, lambda: self.figures,
                lambda: self.restarts,
            )
        )  # fmt: skip
        self.means = dataclasses.replace(means)
        probes = Probes(*shared, stage.ids, stage.recorder, stage.books, stage.records, stage.heard, self.means)
        self.go_lives = GoLives(*shared, stage.recorder, stage.quorum)
        self.states = EnvironmentStates(*shared, stage.recorder, stage.books, stage.quorum, self.go_lives)
        measurer = Measurer(probes)
        self.validation = Validation(
            *shared, stage.ids, stage.recorder, stage.books, stage.records, self.states, measurer, stage.heard,
            stage.heard,
        )  # fmt: skip
        self.hypercare = Hypercare(
            *shared, stage.recorder, stage.books, stage.records, self.states, measurer, stage.heard, stage.heard,
            self.around,
        )  # fmt: skip
        self.clockwork = EnvironmentClock(stage.database, stage.books, self.states, self.validation, self.hypercare)
        stage.serve(api.routes(stage.database, self.states, self.validation, self.hypercare))

    async def open(self, book: str = BOOK) -> EnvironmentDesk:
        for name, role in (("jane", "admin"), ("kim", "admin"), ("olga", "operator"), ("viv", "viewer")):
            await self.stage.people.user(name, role)
        if book:
            await self.stage.apply(book)
        return self

    async def _lag(self, asked: Asked, argument: str) -> Found:
        self.looks += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    async def _decide(self, tx: Transaction, zone: str, expected: Expected) -> str:
        return self.answers[expected.expect]

    @staticmethod
    async def _reach(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    # --- what tests do

    async def go_live(self, rollout: str = "r-1", digest: str = DIGEST) -> None:
        async with self.stage.database.begin() as tx:
            await self.states.went_live(tx, self.stage.context("jane"), "production", digest, rollout)

    async def now(self) -> EnvironmentStanding:
        async with self.stage.database.begin() as tx:
            return await self.states.require(tx, "default", "production")

    async def keep(self) -> dict[str, int]:
        return await self.clockwork.keep()

    async def let(self, length: timedelta, step: timedelta = timedelta(minutes=15)) -> None:
        """Let time pass with the clock's work done every ``step``."""
        left = length
        while left > timedelta(0):
            part = min(step, left)
            self.stage.clock.advance(part.total_seconds())
            left -= part
            await self.keep()

    def skip(self, length: timedelta) -> None:
        """Let time pass with nothing done: the machine is down."""
        self.stage.clock.advance(length.total_seconds())

    async def points(self) -> dict[str, Point]:
        async with self.stage.database.begin() as tx:
            return await self.validation.points(tx, "default", "production")

    async def care(self) -> Standing:
        async with self.stage.database.begin() as tx:
            return await self.hypercare.standing(tx, "default", "production")

    async def slots(self) -> list[Slot]:
        async with self.stage.database.begin() as tx:
            found = await self.states.require(tx, "default", "production")
            return await self.hypercare.slots(tx, "default", found)

    async def say(self, who: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        token = await self.stage.people.signed_in(who)
        answer = await self.stage.call(method, f"/api/v1{path}", body, token=token)
        return answer.status, answer.json()

    def breaks_out(self, severity: Severity = Severity.P1) -> OpenIncident:
        made = OpenIncident(f"inc-{len(self.around.incidents) + 1}", severity, "it hurts", self.stage.clock.now())
        self.around.incidents.append(made)
        return made
