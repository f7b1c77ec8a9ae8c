"""The document ``BackupPlan``: when backups are made, how long they are kept, when a restore is drilled."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

from croniter import croniter  # type: ignore[import-untyped]
from pydantic import AfterValidator, Field, StringConstraints, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.handover.backups.lives import Keep
from bailiwick.kernel.fields import Body, Line
from bailiwick.kernel.severity import Severity

PLAN = "installation"
"""The name of the one plan there is: an installation has one database."""


def _is_cron(text: str) -> str:
    if len(text.split()) != 5 or not croniter.is_valid(text):
        raise ValueError("is no cron text of five fields")
    return text


Cron = Annotated[str, StringConstraints(min_length=9, max_length=80), AfterValidator(_is_cron)]
Days = Annotated[int, Field(ge=1, le=36_500)]


class KeepSpec(Body):
    """Days for which backups are kept: each, the first of a week, the first of a month."""

    daily: Days = 30
    weekly: Days = 90
    monthly: Days = 365

    @model_validator(mode="after")
    def _in_order(self) -> KeepSpec:
        if not self.daily <= self.weekly <= self.monthly:
            raise ValueError("each of daily, weekly and monthly is at least the one before")
        return self

    @property
    def keep(self) -> Keep:
        """The same for the rules."""
        return Keep(self.daily, self.weekly, self.monthly)


class BackupPlanSpec(Body):
    """When, in UTC. ``rto_h`` and ``rpo_min`` are what a drill is judged by."""

    backup: Cron = "0 2 * * *"
    drill: Cron = "0 4 * * sun#1"
    keep: KeepSpec = KeepSpec()
    rto_h: Annotated[float, Field(gt=0, le=240)] = 4.0
    rpo_min: Annotated[float, Field(gt=0, le=14_400)] = 15.0
    owner: Line
    severity: Severity = Severity.P2
    runbook: Line = ""

    @property
    def rto(self) -> timedelta:
        """Longest time a recovery may take."""
        return timedelta(hours=self.rto_h)

    @property
    def rpo(self) -> timedelta:
        """Most work that a loss may cost."""
        return timedelta(minutes=self.rpo_min)


def _check(book: Book) -> Iterator[str]:
    for name in book.of(BACKUP_PLAN):
        if name != PLAN:
            yield f"BackupPlan {name}: there is one plan, which is called {PLAN}"
        if book.zone != "default":
            yield f"BackupPlan {name}: backups are of the whole installation, whose plan is the default zone's"


BACKUP_PLAN = Kind("BackupPlan", BackupPlanSpec, _check)
