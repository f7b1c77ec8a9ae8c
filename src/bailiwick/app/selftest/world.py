"""One life: the whole assurance room as an installation composes it, with a clock that is moved by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from bailiwick.app.archive import build_archive
from bailiwick.app.assurance import GROUP, build_assurance
from bailiwick.app.assurance import alerts as alerts_part
from bailiwick.app.assurance import rhythm as rhythm_part
from bailiwick.app.assurance import slo as slo_part
from bailiwick.app.foundations import Foundations, kek_file
from bailiwick.app.selftest.ground import Ground
from bailiwick.app.selftest.operations import ForcePayout, PauseProvider
from bailiwick.assurance.dead_man import DeadMan
from bailiwick.assurance.overrides import Overrides
from bailiwick.assurance.waivers import WaiverRegister
from bailiwick.evidence.events import Actor, Context, Recorder
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.jobs import JobDefinition, Jobs
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.settings import Settings

ZONE = "default"
STEP = timedelta(hours=12)
"""How often anything is done in a life: what an installation does each minute is done at each step."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
PRODUCER = Producer(host="selftest", name="bailiwick", program="bailiwick selftest", version="0")


class _Settings(Settings):
    """Settings of a life: the environment, which is that of an installation, says nothing here."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the life itself says."""
        return (init_settings,)


class World:
    """The room, its jobs, and the loops that tell people, over one database at one instant."""

    def __init__(self, ground: Ground, at: datetime, operations: Sequence[ForcePayout | PauseProvider] = ()) -> None:
        self.ground = ground
        self.clock = FakeClock(at)
        self.ids = Ids()
        self.database = Database(ground.url, pool_size=6)
        self.owner = Database(ground.url, pool_size=2, role=None)
        self.recorder = Recorder(self.clock, self.ids)
        settings = _Settings(  # type: ignore[call-arg]  # the rest is as by default
            kek_file=None,
            data_dir=ground.layout.data_dir,
            public_url="https://bailiwick.example.com",
            allow_upstream_networks=("127.0.0.0/8",),
        )
        metrics = Metrics(CollectorRegistry(), status_file=ground.layout.status_file)
        self.sealer = kek_file(settings, ground.layout).load()
        base = Foundations(
            settings, ground.layout, self.clock, self.ids, self.sealer, self.database, ground.url, self.recorder,
            metrics,
        )  # fmt: skip
        archive = build_archive(settings, ground.layout, self.database, self.clock, self.ids, self.recorder)
        self.quorum = archive.quorum
        self.records = EvidenceRecords(self.clock, self.recorder)
        for operation in operations:
            operation.database = self.database
        self.room = build_assurance(base, self.quorum, self.records, list(operations))
        self.house = self.room.house
        self.alerting = alerts_part.services(self.house)
        self.rhythm = rhythm_part.services(self.house)
        self.levels = slo_part.services_of(self.house, own=None)
        self.overrides = Overrides(
            self.database, self.clock, self.ids, self.recorder, self.quorum, self.house.books, self.house.alerts,
            environment="production", operations=self.house.operations,
        )  # fmt: skip
        self.dead_man = DeadMan(self.database, self.clock, self.recorder, self.house.alerts)
        self.jobs = Jobs(self.database, self.clock, metrics, [])
        self.refused: list[str] = []
        self.failing = 0  # of ten requests
        self._revision = -1  # of the book that the jobs are of
        self.broken: set[str] = set()  # parts of a step that are left out

    @property
    def waivers(self) -> WaiverRegister:
        """The register of waivers."""
        assert isinstance(self.house.waivers, WaiverRegister)
        return self.house.waivers

    def by(self, user: str = "") -> Context:
        """The context of what somebody does."""
        return Context(ZONE, Actor(user=user) if user else Actor())

    async def close(self) -> None:
        """Let go of the database."""
        await self.database.close()
        await self.owner.close()

    # --- time

    async def live(self, *, days: float = 0, hours: float = 0, step: timedelta = STEP) -> None:
        """Let time pass in steps, and do at each what is due."""
        until = self.clock.now() + timedelta(days=days, hours=hours)
        while self.clock.now() < until:
            to_next = step - (self.clock.now() - _EPOCH) % step  # on the hours at which jobs are due
            self.clock.advance(min(to_next, until - self.clock.now()).total_seconds())
            await self.step()

    async def step(self) -> None:
        """What the work role and the serve workers do at one moment."""
        await self._schedule()
        await self.platform_goes_on()
        await self.tell()  # an installation does so every second, and so long before any job of the next step
        if "scheduler" not in self.broken:
            await self.jobs.run_due()
        if "dead man" not in self.broken:
            await self.dead_man.look()
        await self.tell()

    async def _schedule(self) -> None:
        """Have the jobs that the book asks for; anew only where it has changed."""
        async with self.database.begin() as tx:
            revision = await tx.value("SELECT max(revision) FROM assurance_documents WHERE zone = :zone", zone=ZONE)
            if revision == self._revision:
                return
            book = await self.house.books.current(tx, ZONE)
        fixed = [job for part in self.room.parts for job in part.jobs]
        asked = [job for part in self.room.parts for job in part.scheduled(ZONE, book)]
        self.jobs.replace(GROUP, [coarse(job) for job in [*fixed, *asked]])
        self._revision = revision

    async def tell(self) -> None:
        """What the loop of alerts and notices does."""
        if "telling" in self.broken:
            return
        for _ in range(10):
            await self.alerting.dispatcher.run_once()
            if not await self.alerting.deliveries.run_once():
                break
        await self.alerting.drills.follow()

    # --- the platform that is operated

    async def platform_goes_on(self) -> None:
        """What happened since the step before: requests, payouts, and what the bank wrote down of them."""
        now = self.clock.now()
        async with self.owner.begin() as tx:
            await tx.run(_PAYOUTS, now=now, day=f"{now:%m%d%H}")
            if "statement" not in self.broken:
                rows = await tx.all("SELECT ref, value FROM pay.statement ORDER BY ref")
                lines = ["ref,value", *(f"{row['ref']},{row['value']}" for row in rows)]
                (self.ground.files / "statement.csv").write_text("\n".join(lines) + "\n")
            if "requests" not in self.broken:
                await tx.run(_REQUESTS, now=now, since=now - STEP, zone=ZONE, bad=self.failing)

    # --- what people try

    @contextlib.contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Something that may be refused, and is noted then."""
        try:
            yield
        except BailiwickError as error:
            self.refused.append(f"{what}: {error.reason}")

    async def run(self, sql: str, **values: object) -> int:
        """Change a row behind everybody's back."""
        async with self.owner.begin() as tx:
            await tx.run("SET LOCAL search_path TO bailiwick, public")
            return await tx.run(sql, **values)


def coarse(job: JobDefinition) -> JobDefinition:
    """The same job, no more often than life has steps. A cron text stands, unless it means every hour."""
    if isinstance(job.schedule, str):
        minute, hour, *days = job.schedule.split()
        each = f"{minute} {'0,12' if hour == '*' else hour} {' '.join(days)}"
        return replace(job, schedule=each, grace=max(job.grace, STEP))
    return replace(job, schedule=max(job.schedule, STEP), grace=timedelta(hours=1))


# paid within a step, but for what the story holds up
_PAYOUTS = """
WITH moved AS (
  UPDATE pay.payouts SET state = 'paid', entered_at = :now WHERE state = 'pending' AND id NOT LIKE 'held%'
  RETURNING id, amount
), stated AS (
  INSERT INTO pay.statement (ref, value) SELECT id, amount FROM moved
)
INSERT INTO pay.payouts (id, amount, state, entered_at) VALUES ('p' || :day, 125.50, 'pending', :now)
ON CONFLICT DO NOTHING
"""
_REQUESTS = """
INSERT INTO bailiwick.api_requests (at, zone, request_id, method, route, status, duration_us)
SELECT at, :zone, 'life', 'GET', '/payouts', CASE WHEN n <= :bad THEN 500 ELSE 200 END, 1000
FROM generate_series(
  CAST(:since AS timestamptz), CAST(:now AS timestamptz) - interval '1 minute', interval '10 minutes') AS at,
  generate_series(1, 10) AS n
"""
