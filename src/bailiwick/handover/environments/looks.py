"""Looks that this part lends the one probe runner: known decisions, how requests spread, what was undone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta

from bailiwick.assurance.books import Books
from bailiwick.assurance.probes.json_path import Absent, parse_path, value_at
from bailiwick.assurance.probes.means import Asked, Internal, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.probes.web import fetch
from bailiwick.assurance.thresholds import Unit
from bailiwick.handover.incidents.documents import EXPECTED, Expected
from bailiwick.handover.ports import OpenIncidents, Rollouts
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.severity import Severity

Decide = Callable[[Transaction, str, Expected], Awaitable[str]]
Restarts = Callable[[], Mapping[str, int]]
Figures = Callable[[], Mapping[str, Sequence[float]]]

MOST_REQUESTS = 100
WEEK = timedelta(days=7)


def looks(
    means: Means,
    database: Database,
    books: Books,
    decide: Decide,
    rollouts: Rollouts,
    incidents: OpenIncidents,
    figures: Figures,
    restarts: Restarts,
) -> dict[str, Internal]:
    """The looks by the name that documents use."""
    ours = _Looks(means, database, books, decide, rollouts, incidents, figures, restarts)
    return {
        "known_decisions": ours.known_decisions,
        "spread": ours.spread,
        "failed_rollouts": ours.failed_rollouts,
        "grave_incidents": ours.grave_incidents,
        "redis_memory": ours.redis_memory,
        "redis_hit": ours.redis_hit,
        "part_restarts": ours.part_restarts,
    }


class _Looks:
    def __init__(
        self,
        means: Means,
        database: Database,
        books: Books,
        decide: Decide,
        rollouts: Rollouts,
        incidents: OpenIncidents,
        figures: Figures,
        restarts: Restarts,
    ) -> None:
        self._means = means
        self._database = database
        self._books = books
        self._decide = decide
        self._rollouts = rollouts
        self._incidents = incidents
        self._figures = figures
        self._restarts = restarts

    async def known_decisions(self, asked: Asked, argument: str) -> Found:
        """Whether every ExpectedDecision comes out so; at least one must allow and one deny."""
        async with self._database.begin() as tx:
            expected = await self._books.read_all(tx, asked.zone, EXPECTED)
            answers = {name: await self._decide(tx, asked.zone, each) for name, each in expected.items()}
        if len({each.expect for each in expected.values()}) < 2:
            return Found(absent="at least one ExpectedDecision must allow and one deny")
        wrong = [
            f"{name}: {answers[name]}, not {each.expect}"
            for name, each in expected.items()
            if answers[name] != each.expect
        ]
        told = "\n".join(f"{name} {answer}" for name, answer in answers.items())
        return Found(holds=True, detail=f"{len(answers)} as expected", wrong="; ".join(wrong), output=told.encode())

    async def spread(self, asked: Asked, argument: str) -> Found:
        """How uneven requests fall on those that answer: the largest share by the fair one.

        ``argument``: address, JSON path of what tells them apart, how many requests, how many should answer.
        """
        try:
            url, path, requests, wanted = argument.split()
            parse_path(path)
            count, least = int(requests), int(wanted)
        except ValueError:
            raise LookFailed("a spread is asked by address, JSON path, requests and how many should answer") from None
        if not 2 <= count <= MOST_REQUESTS or not 1 <= least <= count:
            raise LookFailed(f"a spread takes 2 to {MOST_REQUESTS} requests, and no more answerers than those")
        seen: Counter[str] = Counter()
        for _ in range(count):  # each by a connection of its own, as the seed's curl makes them
            answer = await fetch(self._means, url, asked.timeout_s)
            try:
                value = value_at(json.loads(answer.body), path)
            except (ValueError, Absent):
                raise LookFailed(f"{url} answers {answer.status} without {path}") from None
            seen[str(value)] += 1
        told = ", ".join(f"{name} {share}" for name, share in sorted(seen.items()))
        wrong = f"{len(seen)} of {least} answer: {told}" if len(seen) < least else ""
        return Found(max(seen.values()) * least / count, Unit.NONE, told, told.encode(), wrong=wrong)

    async def failed_rollouts(self, asked: Asked, argument: str) -> Found:
        """How many rollouts of the environment named were rolled back or abandoned within seven days."""
        async with self._database.begin() as tx:
            found = await self._rollouts.of(tx, asked.zone, argument, asked.now - WEEK)
        failed = [each for each in found if each.outcome in ("rolled_back", "abandoned")]
        told = ", ".join(f"{each.id} {each.outcome}" for each in failed) or f"none of {len(found)}"
        return Found(float(len(failed)), Unit.COUNT, told)

    async def grave_incidents(self, asked: Asked, argument: str) -> Found:
        """How many incidents of P0 or P1 are open."""
        async with self._database.begin() as tx:
            found = await self._incidents.open(tx, asked.zone)
        grave = [each for each in found if each.severity in (Severity.P0, Severity.P1)]
        return Found(float(len(grave)), Unit.COUNT, ", ".join(each.id for each in grave) or "none")

    async def redis_memory(self, asked: Asked, argument: str) -> Found:
        """Memory that Redis uses, of what it may."""
        figures = self._figures()
        used, most = figures.get("bailiwick_redis_memory_bytes"), figures.get("bailiwick_redis_memory_max_bytes")
        if not used or not most:
            return Found(absent="nobody has told what Redis uses", unit=Unit.RATIO)
        if max(most) <= 0:
            return Found(absent="Redis has no limit of its memory (maxmemory)", unit=Unit.RATIO)
        return Found(max(used) / max(most), Unit.RATIO, f"{max(used):g} of {max(most):g} bytes")

    async def redis_hit(self, asked: Asked, argument: str) -> Found:
        """Keys that Redis finds, of those looked up."""
        found = self._figures().get("bailiwick_redis_hit_ratio")
        if not found:
            return Found(absent="nobody has told how often Redis finds its keys", unit=Unit.RATIO)
        return Found(min(found), Unit.RATIO, f"{min(found):.3f}")

    async def part_restarts(self, asked: Asked, argument: str) -> Found:
        """How often parts were restarted since the supervisor began."""
        found = self._restarts()
        if not found:
            return Found(absent="no supervisor tells of its parts", unit=Unit.COUNT)
        told = ", ".join(f"{part} {count}" for part, count in sorted(found.items()) if count) or "none"
        return Found(float(sum(found.values())), Unit.COUNT, told)
