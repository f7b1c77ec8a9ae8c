"""Decisions: the active policy set of this thread, and a cache of what it answered.

The cache is sound because an answer depends on nothing but the set and what the set can read of the input. So its key
is the JSON of exactly those input paths: JSON keeps 1, 1.0, true and "1" apart, and a path that is missing is written
as something JSON does not have. Where it cannot be told what a set reads, the key is the whole input.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from bailiwick.policy.engine import CompiledSet, PolicyError, WrongThread
from bailiwick.policy.rego_syntax import Path

DEFAULT_CACHE_ENTRIES = 10_000
MAX_CACHED_KEY_BYTES = 4_096
"""A longer key is not worth keeping, and a caller could fill the memory with them."""

_MISSING = msgspec.Raw(b"-")
_OTHER_JSON = (str, int, float, bool, list, tuple, type(None))

KeyOf = Callable[[dict[str, Any]], bytes]


class Decision(NamedTuple):
    """One answer. ``reasons`` say why it is no, or which packages allowed; ``error`` is a policy reason code.

    ``policy_set`` is the content address of the set that answered, empty where none is active.
    """

    allowed: bool
    reasons: tuple[str, ...]
    policy_set: str
    cached: bool = False
    error: str | None = None


@dataclass(slots=True)
class DecisionStats:
    """Counts since the start of the process."""

    decisions: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    evictions: int = 0
    errors: int = 0
    denied: int = 0
    swaps: int = 0


class _Active(NamedTuple):
    """A set with its own cache: replaced together, so that no answer of one set is given for another."""

    policy: CompiledSet
    key_of: KeyOf
    cache: OrderedDict[bytes, Decision]


class Decider:
    """Answers from the active set. One per thread, as compiled sets are."""

    def __init__(self, *, cache_entries: int = DEFAULT_CACHE_ENTRIES) -> None:
        """``cache_entries`` is the largest number of remembered answers; 0 remembers none."""
        if cache_entries < 0:
            raise ValueError("cache_entries must not be negative")
        self.stats = DecisionStats()
        self._entries = cache_entries
        self._generation = 0
        self._active: _Active | None = None
        self._reads: dict[Path, bool] = {}

    @property
    def policy_set(self) -> str | None:
        """The content address of the active set."""
        return self._active.policy.set_hash if self._active else None

    @property
    def cached_entries(self) -> int:
        """How many answers are remembered now."""
        return len(self._active.cache) if self._active else 0

    @property
    def generation(self) -> int:
        """Changes whenever what a caller remembered of earlier decisions must be forgotten: at a swap or a flush."""
        return self._generation

    def reads(self, path: Path) -> bool:
        """Whether the active set can read an input path (``("operation", "path")``), what is above or below it."""
        known = self._reads.get(path)
        if known is None:
            paths = self._active.policy.input_paths if self._active else ()
            known = any(path[: len(read)] == read or read[: len(path)] == path for read in paths)
            self._reads[path] = known
        return known

    def swap(self, policy: CompiledSet | None) -> None:
        """Makes another set the active one. The next decision uses it; None makes every decision a denial."""
        self._active = _Active(policy, key_function(policy.input_paths), OrderedDict()) if policy else None
        self._reads = {}
        self.stats.swaps += 1
        self._generation += 1

    def flush(self) -> int:
        """Forgets all remembered answers and returns how many there were."""
        forgotten = self.cached_entries
        self._generation += 1
        if self._active:
            self._active = self._active._replace(cache=OrderedDict())
        return forgotten

    def decide(self, document: dict[str, Any]) -> Decision:
        """Decides on an input, a tree of plain JSON values with string keys. Never raises for what a policy does."""
        stats = self.stats
        stats.decisions += 1
        active = self._active
        if active is None:
            stats.denied += 1
            return _NO_POLICY
        key = b""
        if self._entries and active.policy.cacheable:
            try:
                key = active.key_of(document)
            except (TypeError, ValueError, RecursionError, OverflowError, AttributeError):
                key = b""  # not JSON; the engine says so below
            known = active.cache.get(key)
            if known is not None:
                active.cache.move_to_end(key)
                stats.cache_hits += 1
                if not known.allowed:
                    stats.denied += 1
                return known
        decision = self._evaluate(active.policy, document)
        if key and decision.error is None:
            self._remember(active.cache, key, decision)
        return decision

    def decide_uncached(self, document: dict[str, Any]) -> Decision:
        """As :meth:`decide`, past the cache: for explanations and for the test that both agree."""
        return self._evaluate(self._active.policy, document) if self._active else _NO_POLICY

    def rule(self, path: str, document: dict[str, Any]) -> Any:
        """The value of another rule of the active set, such as ``data.sark.rate_limiting.limit``; None without one."""
        if self._active is None:
            return None
        try:
            value = self._active.policy.evaluate_rule(path, document)
        except (PolicyError, LookupError):
            return None
        return None if value is msgspec.UNSET else value

    def _evaluate(self, policy: CompiledSet, document: dict[str, Any]) -> Decision:
        self.stats.cache_misses += 1
        try:
            outcome = policy.evaluate(document)
        except WrongThread:
            raise
        except PolicyError as error:
            self.stats.errors += 1
            self.stats.denied += 1
            return Decision(False, ("policy_error",), policy.set_hash, error=error.fault)
        if outcome.allow:
            return Decision(True, outcome.allowed_by, policy.set_hash)
        self.stats.denied += 1
        return Decision(False, outcome.deny or ("policy_denied",), policy.set_hash)

    def _remember(self, cache: OrderedDict[bytes, Decision], key: bytes, decision: Decision) -> None:
        if len(key) > MAX_CACHED_KEY_BYTES:
            return
        if len(cache) >= self._entries:
            cache.popitem(last=False)
            self.stats.evictions += 1
        cache[key] = decision._replace(cached=True)


_NO_POLICY = Decision(False, ("no_active_policy",), "")


# --- keys --------------------------------------------------------------------------------------------------------


def key_function(paths: Sequence[Path]) -> KeyOf:
    """A function from an input to the bytes that stand for what ``paths`` see of it.

    The function raises TypeError for an input that is not a dict of plain JSON values.
    """
    encode = msgspec.json.Encoder().encode
    if () in paths:
        return encode
    if not paths:
        return lambda document: b"[]"
    getters = [_getter(path) for path in paths]

    def key_of(document: dict[str, Any]) -> bytes:
        return encode([getter(document) for getter in getters])

    return key_of


def _getter(path: Path) -> Callable[[dict[str, Any]], Any]:
    if len(path) == 1:
        (only,) = path

        def get_one(document: dict[str, Any]) -> Any:
            return document.get(only, _MISSING)

        return get_one
    if len(path) == 2:
        first, second = path

        def get_two(document: dict[str, Any]) -> Any:
            value = document.get(first, _MISSING)
            return value.get(second, _MISSING) if type(value) is dict else _beside(value)

        return get_two

    def get(document: dict[str, Any]) -> Any:
        value: Any = document
        for step in path:
            if type(value) is not dict:
                return _beside(value)
            value = value.get(step, _MISSING)
        return value

    return get


def _beside(value: object) -> msgspec.Raw:
    """What a path sees where there is no object to go into: nothing, if it is JSON at all."""
    if value is _MISSING or isinstance(value, _OTHER_JSON):
        return _MISSING
    raise TypeError("the input is not a tree of plain JSON values")


def plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """An input from elsewhere as the plain tree :meth:`Decider.decide` takes.

    Raises TypeError or ValueError for what JSON cannot carry.
    """
    decoded = msgspec.json.decode(msgspec.json.encode(document))
    if not isinstance(decoded, dict):
        raise TypeError("the input must be an object")
    return decoded
