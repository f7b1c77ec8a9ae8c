"""Walking through a sign-in against a configured provider, step by step, to say what fails and how to mend it.

Each kind of provider registers its walk; the command and the route know none of them by name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bailiwick.identity.providers import Provider
from bailiwick.kernel.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``detail`` says what was seen, ``mend`` what to do where it failed. Neither holds a secret."""

    name: str
    passed: bool
    detail: str = ""
    mend: str = ""

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {"step": self.name, "passed": self.passed, "detail": self.detail, "mend": self.mend}


@dataclass(frozen=True, slots=True)
class Walk:
    """What a test found. A walk without a step has not passed."""

    provider: str
    kind: str
    steps: tuple[Step, ...] = field(default=())

    @property
    def verdict(self) -> Literal["PASS", "FAIL"]:
        """PASS when there were steps and all passed."""
        return "PASS" if self.steps and all(step.passed for step in self.steps) else "FAIL"

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "provider": self.provider,
            "kind": self.kind,
            "verdict": self.verdict,
            "steps": [step.document() for step in self.steps],
        }


Tester = Callable[[Provider, str, str], Awaitable[list[Step]]]
"""Walks a provider's steps; with a user name and a password (both may be empty) as that person would."""


class Testers:
    """The walks by kind of provider."""

    __test__ = False

    def __init__(self, by_kind: Mapping[str, Tester]) -> None:
        self._by_kind = by_kind

    async def walk(self, provider: Provider, username: str = "", password: str = "") -> Walk:
        """Test a provider; raises ``invalid_request`` for a kind that has no walk."""
        tester = self._by_kind.get(provider.kind)
        if tester is None:
            raise InvalidRequest(f"Providers of kind {provider.kind} cannot be tested.")
        return Walk(provider.name, provider.kind, tuple(await tester(provider, username, password)))
