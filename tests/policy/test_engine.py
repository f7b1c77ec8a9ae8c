from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest
from policies import SEED, compiled, v0, v1

from bailiwick.policy.engine import (
    EngineKind,
    Outcome,
    PolicyConflict,
    PolicyError,
    PolicyInstructionLimit,
    PolicyResultError,
    RegorusEngine,
    WrongThread,
)
from bailiwick.policy.rego_analysis import set_hash
from bailiwick.policy.rego_syntax import Module, PolicyRefused

KINDS: tuple[EngineKind, ...] = ("compiled", "interpreted")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("document", "allowed"),
    [
        ({"user": {"role": "admin"}, "action": "delete", "resource": "servers"}, True),
        ({"user": {"role": "viewer"}, "action": "read"}, True),
        ({"user": {"role": "viewer"}, "action": "write"}, False),
        ({"user": {"role": "Admin"}}, False),
        ({"user": ["admin"]}, False),
        ({"user": None, "action": None}, False),
        ({}, False),
    ],
)
def test_the_seeds_policy_decides_as_printed(kind: EngineKind, document: dict[str, Any], allowed: bool) -> None:
    policy = compiled(Module("authorization.rego", SEED), kind=kind)
    assert policy.engine == f"regorus/{kind}"
    assert policy.evaluate(document) == Outcome(allowed, (), ("sark.authz",) if allowed else ())


@pytest.mark.parametrize("kind", KINDS)
def test_any_package_allows_unless_any_denies(kind: EngineKind) -> None:
    policy = compiled(
        v1("allow if input.a", package="one"),
        v1(
            "allow if input.b\ndeny contains `frozen` if input.frozen\ndeny contains `late` if input.late",
            package="two.x",
        ),
        v1("deny if input.off", package="three"),
        v1("limit := 5", package="four"),
        v0('deny["old"] { input.old }', package="five"),
        kind=kind,
    )
    assert policy.packages == ("five", "four", "one", "three", "two.x")
    assert policy.evaluate({}) == Outcome(False, (), ())
    assert policy.evaluate({"a": 1}) == Outcome(True, (), ("one",))
    assert policy.evaluate({"a": 1, "b": 1}) == Outcome(True, (), ("one", "two.x"))
    assert policy.evaluate({"a": 1, "frozen": 1, "late": 1}) == Outcome(False, ("frozen", "late"), ("one",))
    assert policy.evaluate({"a": 1, "off": 1, "old": 1}) == Outcome(False, ("old", "policy_denied"), ("one",))
    assert policy.evaluate({"off": False, "b": True}).allow is True


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [1, 0, "true", "<undefined>", None, [True], {"a": True}, [], 1.0])
def test_anything_but_a_boolean_at_allow_is_an_error(kind: EngineKind, value: object) -> None:
    policy = compiled(v1("allow := input.x"), kind=kind)
    with pytest.raises(PolicyResultError):
        policy.evaluate({"x": value})
    assert policy.evaluate({"x": True}).allow is True
    assert policy.evaluate({"x": False}).allow is False
    assert policy.evaluate({}).allow is False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [1, "no", "<undefined>", None, {"a": "b"}, [1], ["a", None]])
def test_deny_must_be_a_boolean_or_strings(kind: EngineKind, value: object) -> None:
    policy = compiled(v1("allow := true\ndeny := input.x"), kind=kind)
    with pytest.raises(PolicyResultError):
        policy.evaluate({"x": value})
    assert policy.evaluate({"x": ["a", "b", "a"]}) == Outcome(False, ("a", "b"), ("app",))
    assert policy.evaluate({"x": []}).allow is True
    assert policy.evaluate({"x": False}).allow is True
    assert policy.evaluate({"x": True}) == Outcome(False, ("policy_denied",), ("app",))


def test_the_instruction_limit_is_an_error_of_its_own() -> None:
    flat = v1("allow if { some grant in data.grants[input.of]; grant == 1 }")
    policy = compiled(flat, data={"grants": {"few": [1, 2], "many": list(range(9_000))}})
    assert policy.kind == "compiled"
    assert policy.evaluate({"of": "few"}).allow is True
    with pytest.raises(PolicyInstructionLimit) as limit:
        policy.evaluate({"of": "many"})
    assert (limit.value.reason, limit.value.fault) == ("policy_error", "policy_instruction_limit")
    assert policy.evaluate({"of": "few"}).allow is True, "the set goes on answering"


def test_a_conflict_is_an_error_and_not_undefined() -> None:
    policy = compiled(v1("blocked := true if input.a\nblocked := false if input.b\nallow := true\ndeny if blocked"))
    assert policy.kind == "interpreted", "the compiled machine would answer undefined, and so allow"
    assert policy.evaluate({"b": 1}).allow is True
    assert policy.evaluate({"a": 1}).allow is False
    with pytest.raises(PolicyConflict):
        policy.evaluate({"a": 1, "b": 1})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "document",
    [b"not json", b"[" * 500 + b"]" * 500, b"\xff", {"x": object()}, {"x": "\ud800"}, b"{" + b" " * 300_000 + b"}"],
)
def test_an_input_that_is_no_json_is_an_error(kind: EngineKind, document: Any) -> None:
    policy = compiled(v1("allow if not input.blocked"), kind=kind)
    with pytest.raises(PolicyError):
        policy.evaluate(document)
    assert policy.evaluate(b"{}").allow is True


def test_errors_do_not_quote_the_input() -> None:
    policy = compiled(v1("allow if { count(input.x) > 0 }"), kind="interpreted")
    with pytest.raises(PolicyError) as error:
        policy.evaluate({"x": 4711})
    assert "4711" not in str(error.value) and error.value.extra == {}
    assert error.value.said is not None and "4711" in error.value.said.text


def test_a_set_belongs_to_its_thread() -> None:
    policy = compiled(v1("allow if input.x"))
    raised: list[BaseException] = []

    def use() -> None:
        try:
            policy.evaluate({"x": 1})
        except WrongThread as error:
            raised.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(raised) == 1
    assert policy.evaluate({"x": 1}).allow is True


@pytest.mark.parametrize("kind", KINDS)
def test_other_rules_are_answered_as_they_are(kind: EngineKind) -> None:
    policy = compiled(
        v1('default limit := 100\nlimit := 1000 if input.known\nname := input.n\nroles contains "a"', package="rate.x"),
        kind=kind,
    )
    assert policy.evaluate_rule("data.rate.x.limit", {}) == 100
    assert policy.evaluate_rule("data.rate.x.limit", {"known": True}) == 1000
    assert policy.evaluate_rule("data.rate.x.name", {}) is msgspec.UNSET
    assert policy.evaluate_rule("data.rate.x.name", {"n": "<undefined>"}) == "<undefined>"
    assert policy.evaluate_rule("data.rate.x.name", {"n": None}) is None
    assert policy.evaluate_rule("data.rate.x.roles", {}) == ["a"]
    for unknown in ("data.rate.x.other", "data.rate.x", "limit", "data.rate.x.limit]; x := [1", ""):
        with pytest.raises(LookupError):
            policy.evaluate_rule(unknown, {})


def test_a_refused_set_is_not_compiled() -> None:
    with pytest.raises(PolicyRefused) as refused:
        RegorusEngine().compile([v1("f(x) := f(x)\nallow if f(1)")], {})
    assert refused.value.findings[0].reason == "policy_recursion"
    assert refused.value.extra == {"policy_reason": "policy_recursion"}


def test_an_unsafe_variable_is_refused_when_compiled() -> None:
    policy = compiled(v1("allow if { not nowhere }"))
    with pytest.raises(PolicyError):
        policy.evaluate({})


def test_the_hash_is_of_the_content_whatever_the_order() -> None:
    one, two = v1("x := 1", package="a"), v1("x := 1", package="b")
    first = set_hash([one, two], {"k": {"a": 1, "b": 2}})
    assert first == set_hash([two, one], {"k": {"b": 2, "a": 1}})
    assert first.startswith("sha256:") and len(first) == 71
    others = [set_hash([one], {}), set_hash([one, two], {}), set_hash([one, two], {"k": {"a": 1, "b": 2.0}})]
    assert len({first, *others}) == 4
    assert compiled(one, two, data={"k": {"a": 1, "b": 2}}).set_hash == first


def test_tests_are_not_part_of_what_runs() -> None:
    module = v1("allow if input.x\ntest_allow if allow with input as {`x`: 1}")
    tests = Module("app_test.rego", "package app_test\nimport rego.v1\nallow := true\nother if data.app.allow")
    policy = compiled(module, tests)
    assert (policy.kind, policy.packages) == ("compiled", ("app",))
    assert policy.evaluate({}).allow is False
