"""A process's memory and how it follows the feed: snapshot, policy deciders, confirmation of what was applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from bailiwick.app.foundations import Foundations, kek_file
from bailiwick.authority.keys import KeyStore
from bailiwick.authority.snapshot import SnapshotStore
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.feed import Change, FeedReader
from bailiwick.policy.decisions import Decider
from bailiwick.policy.loader import Loaded, load_decider

log = structlog.get_logger(__name__)


class CurrentSealer:
    """The sealer as it is now: a rotation of the key-encryption key replaces it."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def replace(self, sealer: Sealer) -> None:
        """Use this one from now on."""
        self._sealer = sealer

    def __call__(self) -> Sealer:
        return self._sealer


class WorkerState:
    """The snapshot store, a decider per zone, and the reader that keeps them current.

    ``with_policy`` is False where nothing is decided (work, guard).
    """

    def __init__(self, base: Foundations, *, with_policy: bool) -> None:
        self._base = base
        self._with_policy = with_policy
        self.keys = KeyStore(base.database, base.sealer, base.clock, base.recorder)
        self.store = SnapshotStore(base.settings, base.clock, self.keys, base.sealer)
        self.deciders: dict[str, Decider] = {}
        self.policies: dict[str, Loaded] = {}
        self.on_sealer: list[Callable[[Sealer], None]] = [self.store.replace_sealer]
        self.on_changes: list[Callable[[Sequence[Change]], None]] = []
        self.reader = FeedReader(
            base.database, base.direct_url, base.clock, self._apply, poll_s=base.settings.feed_poll_s
        )

    async def load(self) -> None:
        """Read everything once, before following the feed."""
        read_at = self._base.clock.monotonic()
        revision = await self.store.load(self._base.database)
        if self._with_policy:
            for zone in self.store.current.zones:
                await self._load_policy(zone)
        self.reader.start_from(revision, read_at)

    def decider(self, zone: str) -> Decider:
        """The zone's decider; a zone without policy has one that denies."""
        known = self.deciders.get(zone)
        if known is None:
            known = self.deciders[zone] = Decider(cache_entries=self._base.settings.decision_cache_entries)
        return known

    async def poll(self) -> None:
        """Take in what is new, now."""
        await self.reader.poll()

    def stale(self) -> str | None:
        """Why the feed cannot be relied on, or None."""
        age, limit = self.reader.age(), self._base.settings.freshness_limit_s
        return f"the feed is {age:.0f} s old, {limit:.0f} s at most" if age > limit else None

    async def _apply(self, changes: Sequence[Change]) -> None:
        if any(change.kind == "kek" for change in changes):
            sealer = kek_file(self._base.settings, self._base.layout).load()
            for replace in self.on_sealer:
                replace(sealer)
        async with self._base.database.begin() as tx:
            await self.store.apply(tx, changes)
        if self._with_policy:
            for zone in dict.fromkeys(change.zone for change in changes if change.kind in {"policy", "zone"}):
                await self._load_policy(zone)
            for zone in dict.fromkeys(change.zone for change in changes if change.kind == "cache"):
                log.info("decision cache flushed", zone=zone, entries=self.decider(zone).flush())
        for told in self.on_changes:
            told(changes)

    async def _load_policy(self, zone: str) -> None:
        async with self._base.database.begin() as tx:
            self.policies[zone] = await load_decider(tx, zone, self.decider(zone))
