"""The one set of verdicts, and what a set of them amounts to. Only PASS is green."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Verdict(StrEnum):
    """What a check found.

    ``NO_DATA``: there was nothing to judge. ``STALE``: what was found is too old to count. ``ERROR``: the check itself
    could not be made. ``NOT_DUE``: its time has not come.
    """

    PASS = "PASS"  # noqa: S105 - no password
    FAIL = "FAIL"
    NO_DATA = "NO_DATA"
    STALE = "STALE"
    ERROR = "ERROR"
    NOT_DUE = "NOT_DUE"

    @property
    def green(self) -> bool:
        """Whether a gate may open on it."""
        return self is Verdict.PASS

    @property
    def exit_code(self) -> int:
        """What a command that found it ends with: 0 pass, 1 fail, stale or not to be made, 3 nothing to judge by."""
        return _EXIT[self]


_EXIT = {
    Verdict.PASS: 0,
    Verdict.FAIL: 1,
    Verdict.ERROR: 1,
    Verdict.NO_DATA: 3,
    Verdict.STALE: 1,
    Verdict.NOT_DUE: 3,
}
_WORST_FIRST = (Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA, Verdict.STALE, Verdict.NOT_DUE, Verdict.PASS)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict of all together: the worst of them; NO_DATA of none, since nothing proves nothing."""
    found = set(verdicts)
    return next((verdict for verdict in _WORST_FIRST if verdict in found), Verdict.NO_DATA)
