"""The disposable process in which admitted sets are tried on inputs. Started by :mod:`bailiwick.policy.trial`."""

from __future__ import annotations

import resource
import sys
from typing import Any

import msgspec

from bailiwick.policy.engine import CompiledSet, PolicyError, RegorusEngine
from bailiwick.policy.rego_syntax import Module, PolicyRefused


class Source(msgspec.Struct, frozen=True):
    """A set to be tried."""

    modules: list[Module]
    data: dict[str, Any]


class Decide(msgspec.Struct, tag=True):
    """What does a set say to one input?"""

    subject: Source
    document: msgspec.Raw


class Compare(msgspec.Struct, tag=True):
    """Which inputs does ``new`` allow that ``old`` (None: nothing was active) does not?"""

    old: Source | None
    new: Source
    documents: list[msgspec.Raw]


class Decided(msgspec.Struct):
    """The answer to :class:`Decide`; ``fault`` is a policy reason code."""

    allowed: bool
    reasons: list[str]
    fault: str | None = None


class Compared(msgspec.Struct):
    """The answer to :class:`Compare`: positions in its list, and on how many inputs the new set failed."""

    flipped: list[int]
    errors: int


def main() -> None:
    """Takes the limits from the command line (bytes of memory, seconds of CPU) and serves one request."""
    memory, seconds = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Decide | Compare)
    answer = decide(request) if isinstance(request, Decide) else compare(request)
    sys.stdout.buffer.write(msgspec.json.encode(answer))


def decide(request: Decide) -> Decided:
    """One answer, with the reasons that :class:`bailiwick.policy.decisions.Decider` would give."""
    compiled = _compiled(request.subject)
    if not isinstance(compiled, str):
        try:
            outcome = compiled.evaluate(bytes(request.document))
        except PolicyError as error:
            return Decided(False, ["policy_error"], error.fault)
        reasons = outcome.allowed_by if outcome.allow else outcome.deny or ("policy_denied",)
        return Decided(outcome.allow, list(reasons))
    return Decided(False, ["policy_error"], compiled)


def compare(request: Compare) -> Compared:
    """A set that cannot be compiled, or fails on an input, denies."""
    old = _compiled(request.old) if request.old else "none"
    new = _compiled(request.new)
    flipped, errors = [], 0
    for position, raw in enumerate(request.documents):
        document = bytes(raw)
        allowed = _allows(new, document)
        if allowed is None:
            errors += 1
        elif allowed and not _allows(old, document):
            flipped.append(position)
    return Compared(flipped, errors)


def _compiled(source: Source) -> CompiledSet | str:
    """The set, or why it cannot be run."""
    try:
        return RegorusEngine().compile(source.modules, source.data)
    except PolicyRefused as refusal:
        return refusal.findings[0].reason


def _allows(policy: CompiledSet | str, document: bytes) -> bool | None:
    """None where the set fails on the input."""
    if isinstance(policy, str):
        return False
    try:
        return policy.evaluate(document).allow
    except PolicyError:
        return None
