"""Trying sets on inputs outside this process: the test of one policy, and what an activation would newly allow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import regorus

import bailiwick
from bailiwick.policy.rego_syntax import Module
from bailiwick.policy.sandbox import Limits, Sandbox
from bailiwick.policy.trial_worker import Compare, Compared, Decide, Decided, Source

__all__ = ["Compared", "Decided", "Source", "Trials"]


class Trials:
    """Tries sets in processes of their own. Raises ``SandboxFailed`` when one does not answer."""

    def __init__(self, limits: Limits | None = None, *, at_once: int = 2) -> None:
        packages = (bailiwick, regorus, msgspec)
        self._sandbox = Sandbox("bailiwick.policy.trial_worker", packages, limits, at_once=at_once)

    async def decide(self, modules: Sequence[Module], data: Mapping[str, Any], document: bytes) -> Decided:
        """What a set says to one input, given as JSON."""
        request = Decide(Source(list(modules), dict(data)), msgspec.Raw(document))
        return msgspec.json.decode(await self._sandbox.run(msgspec.json.encode(request)), type=Decided)

    async def compare(self, old: Source | None, new: Source, documents: Callable[[], Sequence[bytes]]) -> Compared:
        """Which inputs ``new`` allows and ``old`` does not. ``documents`` is called in a thread, once."""

        def payload() -> bytes:
            return msgspec.json.encode(Compare(old, new, [msgspec.Raw(document) for document in documents()]))

        answer = await self._sandbox.run(await asyncio.to_thread(payload))
        return msgspec.json.decode(answer, type=Compared)
