"""Measures what validation and hypercare ask of an environment, by the one probe runner; nobody can type a result."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from bailiwick import __version__
from bailiwick.assurance.probes.reading import Limit, Reading, failed
from bailiwick.assurance.probes.runner import Probes
from bailiwick.assurance.rhythm.occurrences import utc
from bailiwick.assurance.thresholds import Threshold
from bailiwick.evidence.evidence_records import Producer
from bailiwick.handover.environments.spec import MissingValue, WatchedCheck
from bailiwick.handover.environments.states import Standing
from bailiwick.kernel.verdicts import Verdict, worst

AT_ONCE = 8
"""Checks that are measured beside each other: they also ask the database that is being measured."""
_SHOWN = 2000


@dataclass(frozen=True, slots=True)
class Result:
    """What was found of one check. ``outside``: why it does not count here; then nothing was measured."""

    name: str
    title: str
    verdict: Verdict
    value: float | None
    limit: str
    detail: str
    outside: str = ""
    output: str = ""
    source: str = ""

    @property
    def counts(self) -> bool:
        """Whether the verdict of all is also of this one."""
        return not self.outside

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "name": self.name,
            "title": self.title,
            "verdict": str(self.verdict),
            "value": self.value,
            "limit": self.limit,
            "detail": self.detail,
            "outside": self.outside,
            "output": self.output,
            "source": self.source,
        }


def overall(results: Sequence[Result]) -> Verdict:
    """What the results that count amount to; of none, NO_DATA."""
    return worst(each.verdict for each in results if each.counts)


def values_of(zone: str, found: Standing, defaults: Mapping[str, str]) -> dict[str, str]:
    """What the checks of an environment may name; ``defaults`` where it does not say it itself."""
    life = found.life
    ours = {"zone": zone, "environment": found.name, "digest": found.digest}
    if life is not None:
        ours["live_at"] = utc(life.counts_from)
    return {**defaults, **found.spec.values, **ours}


class Measurer:
    """Looks and judges, and keeps nothing itself. ``defaults``: what the installation says for checks where an
    environment does not."""

    def __init__(self, probes: Probes, defaults: Mapping[str, str] = MappingProxyType({})) -> None:
        self._probes = probes
        self._defaults = defaults

    async def measure(
        self, zone: str, found: Standing, checks: Sequence[WatchedCheck], thresholds: Mapping[str, Threshold]
    ) -> list[Result]:
        """Every check, in its order; each bounded by its own time."""
        slots = asyncio.Semaphore(AT_ONCE)
        values = values_of(zone, found, self._defaults)

        async def one(check: WatchedCheck) -> Result:
            if outside := check.outside(found.spec):
                return Result(
                    check.name, check.title, Verdict.NO_DATA, None, "", outside, outside=outside, source=check.source
                )
            async with slots:
                return _result(check, await self._look(zone, check, values, thresholds))

        return list(await asyncio.gather(*(one(check) for check in checks)))

    async def _look(
        self, zone: str, check: WatchedCheck, values: Mapping[str, str], thresholds: Mapping[str, Threshold]
    ) -> Reading:
        try:
            probe = check.probe(values)
            limit = check.limit(probe, thresholds)
        except MissingValue as error:
            return failed(str(error))
        except ValidationError as error:
            return failed("; ".join(each["msg"] for each in error.errors(include_input=False))[:300])
        except LookupError:
            return failed(f"there is no Threshold {check.threshold!r}")
        return await self._probes.measure(zone, probe, limit)


def _result(check: WatchedCheck, reading: Reading) -> Result:
    output = reading.output[:_SHOWN].decode("utf-8", "replace").replace("\x00", "\ufffd")
    return Result(
        check.name, check.title, reading.verdict, reading.value, _told(reading.threshold), reading.detail[:500],
        output=output, source=check.source,
    )  # fmt: skip


def _told(limit: Limit | None) -> str:
    return f"{limit.comparison} {limit.value:g} {limit.unit}".strip() if limit is not None else ""


def producer_of(asked_by: str, program: str) -> Producer:
    """Who stands behind what was measured."""
    return Producer(host=socket.gethostname(), name=asked_by or "schedule", program=program, version=__version__)


def canonical_json(value: object) -> str:
    """JSON by which two are the same."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
