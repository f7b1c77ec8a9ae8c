"""What a check found, and how far it came."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from bailiwick_verify.continuation import Loss
from bailiwick_verify.merkle import Edge

Verdict = Literal["PASS", "FAIL", "SIMULATED", "NO_DATA"]
_MOST_FINDINGS = 50


@dataclass(slots=True)
class LogReport:
    """What was found. ``first_bad``: the first entry that is not what was logged; -1 for none or unknown.

    ``cosigned_size``: how much of the log enough witnesses signed, -1 where that was not asked. ``simulated``: the
    first entry that was made under a simulated clock, -1 for none. ``elsewhere``: entries of a database that were let
    be absent. ``missing_hours``: stretches in which nothing was signed, as two POSIX times and the size at the first.
    ``continued``: when the log was continued after a restore, by its heads (RFC 3339); ``losses``: what was left out
    by that, where it was agreed to. ``remarks``: no contradiction, but worth knowing.
    """

    verdict: Verdict = "PASS"
    origin: str = ""
    size: int = 0
    checked: int = 0
    signed_at: int = 0
    heads: int = 0
    witnesses: dict[str, int] = field(default_factory=dict)
    cosigned_size: int = -1
    first_bad: int = -1
    simulated: int = -1
    elsewhere: int = 0
    findings: list[str] = field(default_factory=list)
    findings_total: int = 0
    missing_hours: list[tuple[int, int, int]] = field(default_factory=list)
    continued: list[str] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def fail(self, why: str, entry: int = -1) -> None:
        """Note a contradiction, at ``entry`` where that is known."""
        self.verdict = "FAIL"
        self.findings_total += 1
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(why)
        if entry >= 0 and (self.first_bad < 0 or entry < self.first_bad):
            self.first_bad = entry

    def miss_hours(self, start: int, end: int, size: int) -> None:
        """Note that nothing was signed between two moments, the first of which saw ``size`` entries."""
        self.missing_hours.append((start, end, size))

    def conclude(self) -> None:
        """What it comes to: entries that a simulated clock made are no valid evidence, and its hours are none."""
        for start, end, size in self.missing_hours:
            why = f"a missing hour: nothing was signed between {utc(start)} and {utc(end)}, after {size} entries"
            if any(utc(start) <= at <= utc(end) for at in self.continued):
                self.remarks.append(
                    f"nothing was signed between {utc(start)} and {utc(end)}, when the log was continued"
                )
            elif self.simulated >= 0:
                self.remarks.append(why)
            else:
                self.fail(why, size)
        if self.verdict == "PASS" and self.simulated >= 0:
            self.verdict = "SIMULATED"
        if self.verdict == "PASS" and self.size == 0:
            self.verdict = "NO_DATA"

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**plain, "losses": [loss.to_json() for loss in self.losses]}


@dataclass(slots=True)
class Progress:
    """How far a log was checked.

    ``edge``: the right edge of the tree that ``checkpoint`` (a note's bytes) signs. ``head_at``: when the newest head
    seen was signed. ``reading``: the edge of what an unfinished check has read behind it, proven by nothing yet.
    """

    origin: str
    edge: Edge
    checkpoint: bytes = b""
    head_at: int = 0
    simulated: int = -1
    reading: Edge | None = None

    def to_json(self) -> str:
        """The text a later check goes on from."""
        return json.dumps(
            {
                "origin": self.origin,
                "size": self.edge.size,
                "levels": _encoded(self.edge),
                "checkpoint": self.checkpoint.decode(),
                "head_at": self.head_at,
                "simulated": self.simulated,
                "reading": _encoded(self.reading) if self.reading is not None else None,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Read what :meth:`to_json` wrote; raises ValueError for anything else."""
        try:
            known = json.loads(text)
            edge = _decoded(known["levels"])
            if edge.size != known["size"]:
                raise ValueError("the size is not that of the hashes")
            reading = _decoded(known["reading"]) if known.get("reading") is not None else None
            return cls(
                str(known["origin"]),
                edge,
                str(known.get("checkpoint", "")).encode(),
                int(known.get("head_at", 0)),
                int(known.get("simulated", -1)),
                reading,
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not the state of a check: {error}") from None


def _encoded(edge: Edge) -> list[list[str]]:
    return [[base64.b64encode(item).decode() for item in level] for level in edge.levels]


def _decoded(levels: Sequence[Sequence[str]]) -> Edge:
    return Edge([[base64.b64decode(item, validate=True) for item in level] for level in levels])


def utc(moment: int) -> str:
    """A POSIX time to be read."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
