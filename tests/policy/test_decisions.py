"""The cache may never change an answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import SEED, compiled, v1

from bailiwick.policy.decisions import MAX_CACHED_KEY_BYTES, Decider, Decision, key_function, plain
from bailiwick.policy.rego_syntax import Module


def decider(*modules: Module, entries: int = 100, data: dict[str, Any] | None = None) -> Decider:
    made = Decider(cache_entries=entries)
    made.swap(compiled(*modules, data=data))
    return made


def test_without_an_active_policy_nothing_is_allowed() -> None:
    nothing = Decider()
    assert nothing.decide({"user": {"role": "admin"}}) == Decision(False, ("no_active_policy",), "")
    assert nothing.policy_set is None
    assert (nothing.stats.decisions, nothing.stats.denied) == (1, 1)


def test_a_repeated_question_is_answered_from_the_cache() -> None:
    seed = decider(Module("authorization.rego", SEED))
    first = seed.decide({"user": {"role": "viewer", "id": "1"}, "action": "read"})
    assert first == Decision(True, ("sark.authz",), seed.policy_set or "", cached=False)
    again = seed.decide({"user": {"role": "viewer", "id": "2"}, "action": "read", "resource": "not read"})
    assert again == first._replace(cached=True)
    denied = seed.decide({"user": {"role": "viewer"}, "action": "write"})
    assert denied == Decision(False, ("policy_denied",), seed.policy_set or "")
    stats = seed.stats
    assert (stats.decisions, stats.cache_hits, stats.cache_misses, stats.denied) == (3, 1, 2, 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"x": 1}, {"x": True}),
        ({"x": 1}, {"x": "1"}),
        ({"x": 0}, {"x": False}),
        ({"x": None}, {}),
        ({"x": None}, {"x": {}}),
        ({"x": "-"}, {}),
        ({"x": {"y": None}}, {"x": {}}),
        ({"x": []}, {"x": {}}),
        ({"x": ["a", "b"]}, {"x": ["a,b"]}),
        ({"x": '"a"'}, {"x": "a"}),
    ],
)
def test_keys_tell_apart_what_a_policy_can(one: dict[str, Any], other: dict[str, Any]) -> None:
    for paths in ([("x",)], [()], [("w",), ("x",)]):
        key_of = key_function(paths)
        assert key_of(one) != key_of(other)


def test_a_key_holds_nothing_that_is_not_read() -> None:
    key_of = key_function([("a", "b"), ("c",)])
    assert key_of({"a": {"b": 1, "z": 2}, "c": 3, "d": 4}) == key_of({"a": {"b": 1}, "c": 3})
    assert key_of({"a": "b"}) == key_of({"a": ["b"]}) == key_of({})


def test_the_first_decision_after_a_swap_is_the_new_sets() -> None:
    changing = decider(v1("allow if input.x"))
    document = {"x": True}
    assert changing.decide(document).allowed and changing.decide(document).cached
    generation = changing.generation
    before = changing.policy_set
    changing.swap(compiled(v1("allow if not input.x")))
    after = changing.decide(document)
    assert (after.allowed, after.cached) == (False, False)
    assert after.policy_set == changing.policy_set != before
    assert changing.generation != generation
    changing.swap(None)
    assert changing.decide(document).reasons == ("no_active_policy",)


def test_a_flush_forgets_everything() -> None:
    flushed = decider(v1("allow if input.x"))
    for value in range(5):
        flushed.decide({"x": value})
    assert flushed.cached_entries == 5
    generation = flushed.generation
    assert flushed.flush() == 5
    assert (flushed.cached_entries, flushed.generation) == (0, generation + 1)
    assert not flushed.decide({"x": 1}).cached


def test_the_cache_is_bounded_and_keeps_what_was_used_last() -> None:
    small = decider(v1("allow if input.x"), entries=3)
    for value in (1, 2, 3, 1, 4):
        small.decide({"x": value})
    assert (small.cached_entries, small.stats.evictions) == (3, 1)
    assert small.decide({"x": 1}).cached
    assert not small.decide({"x": 2}).cached
    small.decide({"x": "y" * (MAX_CACHED_KEY_BYTES + 1)})
    assert not small.decide({"x": "y" * (MAX_CACHED_KEY_BYTES + 1)}).cached
    none = decider(v1("allow if input.x"), entries=0)
    none.decide({"x": 1})
    assert not none.decide({"x": 1}).cached
    with pytest.raises(ValueError, match="negative"):
        Decider(cache_entries=-1)


def test_an_error_denies_and_is_not_remembered() -> None:
    failing = decider(v1("allow := input.x"))
    for _ in range(2):
        decision = failing.decide({"x": "true"})
        assert decision == Decision(False, ("policy_error",), failing.policy_set or "", error="policy_result_type")
    assert failing.stats.errors == 2
    limited = decider(v1("allow if { some x in data.l; x == input.x }"), data={"l": list(range(9_000))})
    assert limited.decide({"x": -1}).error == "policy_instruction_limit"
    assert failing.decide({"x": object()}).error == "policy_runtime_error"
    assert failing.decide({"x": {"y": object()}}).error == "policy_runtime_error"
    conflict = decider(v1("allow := true if input.a\nallow := false if input.b"))
    assert conflict.decide({"a": 1, "b": 1}) == Decision(
        False, ("policy_error",), conflict.policy_set or "", error="policy_conflict"
    )


def test_which_paths_matter_can_be_asked() -> None:
    seed = decider(Module("authorization.rego", SEED))
    assert seed.reads(("action",)) and seed.reads(("user",)) and seed.reads(("user", "role", "x")) and seed.reads(())
    assert not seed.reads(("operation", "path")) and not seed.reads(("user", "id"))
    assert decider(v1("allow if { some k; input[k] }")).reads(("anything",))
    assert not Decider().reads(("action",))


def test_inputs_from_elsewhere_are_made_plain() -> None:
    assert plain({"a": (1, 2), "b": {"c": None}}) == {"a": [1, 2], "b": {"c": None}}
    with pytest.raises(TypeError):
        plain({"a": object()})
    with pytest.raises(TypeError):
        plain([1])  # type: ignore[arg-type]


# --- no answer may depend on the cache ---------------------------------------------------------------------------

_NAMES = st.sampled_from(["a", "b", "c"])
_SCALARS = st.sampled_from([None, True, False, 0, 1, 1.0, -1, "", "1", "true", "null", "a", "b", 2**53, 0.5])
_TREES: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(_NAMES, inner, max_size=3)),
    max_leaves=6,
)
_INPUTS = st.dictionaries(_NAMES, _TREES, max_size=3)
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map(lambda steps: "input." + ".".join(steps))
_INDEXED = st.tuples(_PATHS, st.sampled_from(['["a"]', "[0]", "[_]", "[input.a]", "[data.k]", "[input.b.c]"])).map(
    "".join
)
_READS = st.one_of(
    _PATHS, _INDEXED, st.sampled_from(["input[data.k]", "input[_]", "input", "u", "u.b", "whole.a", "via"])
)
_CONSTANTS = st.sampled_from(["1", "true", '"1"', "null", "0", "{}", "[]", '"a"'])
_CONDITIONS = st.one_of(
    st.tuples(_READS, _CONSTANTS).map(lambda pair: f"{pair[0]} == {pair[1]}"),
    st.tuples(_READS, _READS).map(lambda pair: f"{pair[0]} != {pair[1]}"),
    _READS,
    _READS.map(lambda read: f"not {read}"),
    _READS.map(lambda read: f"x := {read}; x"),
    _READS.map(lambda read: f"count([y | some y in {read}]) > 0"),
    _READS.map(lambda read: f"every y in {read} {{ y }}"),
    _READS.map(lambda read: f"object.get({read}, `a`, 1) == 1"),
    _READS.map(lambda read: f"is_string({read})"),
    _READS.map(lambda read: f"same({read})"),
    _READS.map(lambda read: f"{read} in [1, `a`, true]"),
)
_POLICIES = st.lists(
    st.tuples(st.sampled_from(["allow", "deny contains `no`", "deny"]), st.lists(_CONDITIONS, min_size=1, max_size=2)),
    min_size=1,
    max_size=3,
).filter(lambda rules: len({head for head, _ in rules if head.startswith("deny")}) < 2)


def _text(rules: list[tuple[str, list[str]]]) -> str:
    lines = ["import input.a as u", "import input as whole", "via := input.c.a", "same(x) if x == input.b"]
    for head, conditions in rules:
        body = "; ".join(
            condition.replace("x :=", f"x{n} :=").replace("; x", f"; x{n}") for n, condition in enumerate(conditions)
        )
        lines.append(f"{head} if {{ {body} }}")
    return "\n".join(lines)


@settings(max_examples=150, deadline=None)
@given(rules=_POLICIES, documents=st.lists(_INPUTS, min_size=6, max_size=20))
def test_cached_and_uncached_answers_are_equal(
    rules: list[tuple[str, list[str]]], documents: list[dict[str, Any]]
) -> None:
    asked = decider(v1(_text(rules)), data={"k": "b"})
    for document in documents * 2:
        cached, fresh = asked.decide(document), asked.decide_uncached(document)
        assert cached._replace(cached=False) == fresh


@settings(max_examples=150, deadline=None)
@given(paths=st.lists(st.lists(_NAMES, max_size=3).map(tuple), max_size=4), one=_INPUTS, other=_INPUTS)
def test_inputs_of_one_key_look_the_same_along_the_paths(
    paths: list[tuple[str, ...]], one: dict[str, Any], other: dict[str, Any]
) -> None:
    def seen(document: object, path: tuple[str, ...]) -> tuple[str, object]:
        for step in path:
            if not isinstance(document, dict) or step not in document:
                return "missing", None
            document = document[step]
        return "there", repr(document)

    key_of = key_function(paths)
    if key_of(one) == key_of(other):
        assert [seen(one, path) for path in paths] == [seen(other, path) for path in paths]
    assert key_of(one) == key_of(plain(one))


def test_another_rule_has_a_value_or_none() -> None:
    asked = decider(v1("allow if input.x\nlimit := input.n * 2 if input.n\nnothing := null"))
    assert asked.rule("data.app.limit", {"n": 21}) == 42
    for path in ("data.app.limit", "data.app.nothing", "data.app.absent", "data.nowhere.at.all"):
        assert asked.rule(path, {}) is None, path
    assert (
        decider(v1("allow if input.x\nlimit := n if { n := to_number(input.n) }")).rule("data.app.limit", {"n": "x"})
        is None
    )
    assert Decider().rule("data.app.limit", {}) is None
