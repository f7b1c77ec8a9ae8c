from __future__ import annotations

import pytest
import regorus
from policies import v0, v1

from bailiwick.policy.rego_analysis import analyse
from bailiwick.policy.rego_hazards import ALLOWED, FORBIDDEN


def reasons(body: str) -> list[tuple[str, int | None]]:
    return [(finding.reason, finding.line) for finding in analyse([v1(body)], {}).findings]


@pytest.mark.parametrize(
    "call",
    [
        'http.send({"method": "get", "url": "http://127.0.0.1"})',
        "opa.runtime()",
        'rand.intn("x", 10)',
        'uuid.rfc4122("x")',
        "time.now_ns()",
        'net.lookup_ip_addr("localhost")',
        'io.jwt.decode("x")',
        'io.jwt.decode_verify("x", {})',
        'trace("x")',
        'print("x")',
        'crypto.sha256("x")',
        "graph.reachable_paths({}, [])",
    ],
)
def test_functions_with_effects_or_chance_are_refused(call: str) -> None:
    body = f"allow if {{\n\tinput.x\n\tx := {call}\n\tx\n}}"
    assert reasons(body) == [("policy_forbidden_builtin", 7)]
    assert analyse([v0(f"deny[x] {{ x := {call} }}")], {}).findings[0].reason == "policy_forbidden_builtin"
    assert reasons(f"unused := [1 | {call}]") == [("policy_forbidden_builtin", 5)]


def test_forbidden_functions_are_refused_in_tests_too() -> None:
    assert reasons("allow if input.x\ntest_x if opa.runtime()") == [("policy_forbidden_builtin", 6)]


def test_unknown_functions_are_refused() -> None:
    assert reasons("allow if ldap.search(input.x)") == [("policy_unknown_builtin", 5)]
    assert reasons("allow if nothing(input.x)") == [("policy_unknown_builtin", 5)]


def test_a_function_of_the_set_may_have_a_forbidden_name_and_is_not_it() -> None:
    assert reasons("trace(x) := x\nallow if trace(input.x)") == []


def test_every_function_of_the_engine_is_either_allowed_or_forbidden() -> None:
    engine = regorus.Engine()
    engine.add_policy("a.rego", "package a\nx := opa.runtime()")
    names = {str(name) for name in engine.eval_rule("data.a.x")["builtins"]}
    known = {name for name in names if not name.startswith("__builtin_")}
    assert known - ALLOWED - set(FORBIDDEN) == set()
    assert ALLOWED - known == {"set"}, "the empty set is written as a call"


@pytest.mark.parametrize(
    "call",
    [
        "numbers.range(1, input.n)",
        "numbers.range(1, 1000000000)",
        "numbers.range_step(1, input.n, 2)",
        'sprintf("%1000000000d", [1])',
        'sprintf("%.999999d", [1])',
        'sprintf("%*d", [input.n, 1])',
        "sprintf(input.format, [1])",
        'net.cidr_expand("0.0.0.0/0")',
        "net.cidr_expand(input.net)",
        "bits.lsh(1, input.n)",
        "bits.lsh(1, 1000000000)",
        "regex.match(input.pattern, `x`)",
        "regex.replace(`x`, input.pattern, `y`)",
        "glob.match(input.pattern, [], `x`)",
        "yaml.unmarshal(input.text)",
        "json.match_schema({}, input.schema)",
        "json.patch({}, input.patch)",
    ],
)
def test_calls_whose_cost_the_input_drives_are_refused(call: str) -> None:
    assert reasons(f"allow if {{\n\tx := {call}\n\tcount(x) > 0\n}}") == [("policy_unbounded", 6)]


@pytest.mark.parametrize(
    "body",
    [
        "allow if { p := input.pattern; regex.match(p, `x`) }",
        "allow if { some p in input.patterns; regex.match(p, `x`) }",
        "allow if matches(input.pattern)\nmatches(p) if regex.match(p, `x`)",
        "pattern := input.pattern\nallow if regex.match(pattern, `x`)",
        "pattern := input.pattern\nallow if regex.match(data.app.pattern, `x`)",
        "import input.pattern as p\nallow if regex.match(p, `x`)",
        "allow if { p := concat(``, [`^`, input.user.id]); regex.match(p, `x`) }",
        "allow if { every p in input.l { regex.match(p, `x`) } }",
    ],
)
def test_patterns_from_the_input_are_found_on_their_way(body: str) -> None:
    assert [reason for reason, _ in reasons(body)] == ["policy_unbounded"]


@pytest.mark.parametrize(
    "body",
    [
        "allow if regex.match(`^/v1/`, input.path)",
        "allow if { some p in data.patterns; regex.match(p, input.path) }",
        "allow if regex.match(data.patterns[input.server], input.path)",
        "pattern := `^/v1/`\nallow if regex.match(pattern, input.path)",
        'allow if { p := concat("", ["^", data.prefix]); regex.match(p, input.path) }',
        'allow if glob.match("api:*", [":"], input.path)',
        "allow if 3 in numbers.range(1, 10)",
        'deny contains sprintf("%s may not %s", [input.user.id, input.action])',
        'allow if "10.0.0.1" in net.cidr_expand("10.0.0.0/24")',
        "allow if bits.lsh(1, 4) == input.flags",
    ],
)
def test_bounded_calls_are_admitted(body: str) -> None:
    assert reasons(body) == []


def test_a_value_joined_with_itself_again_and_again_is_refused() -> None:
    doubling = "x0 := input.text\n" + "".join(f"x{n + 1} := concat(``, [x{n}, x{n}])\n" for n in range(30))
    assert [reason for reason, _ in reasons(doubling)] == ["policy_unbounded"]
    within = "; ".join(["x0 := input.n", *(f"x{n + 1} := x{n} * x{n}" for n in range(30))])
    assert [reason for reason, _ in reasons(f"allow if {{ {within} }}")] == ["policy_unbounded"]
    nested = "x0 := input.x\n" + "".join(f"x{n + 1} := [x{n}, x{n}]\n" for n in range(30))
    assert [reason for reason, _ in reasons(nested)] == ["policy_unbounded"]


def test_a_large_constant_table_is_no_growth() -> None:
    table = ",\n".join(f'"role{n}": {{"read": true, "write": {str(n % 2 == 0).lower()}}}' for n in range(2_000))
    assert reasons(f"grants := {{\n{table}\n}}\nallow if grants[input.role].read") == []


@pytest.mark.parametrize(
    "body",
    [
        "allow := 1",
        'allow := "true"',
        "allow := null",
        "allow := [true]",
        'allow := {"a": 1}',
        "allow contains 1",
        "allow[x] if { some x in input.l }",
        "allow(x) if x",
        "allow.read if input.x",
        "default allow := 0",
        "allow if { false } else := 1",
        "deny := 1",
        'deny := "no"',
        "deny contains 1",
        "deny contains {1}",
        "deny[x] := 1 if { some x in input.l }",
    ],
)
def test_answers_of_the_wrong_type_are_seen_in_the_source(body: str) -> None:
    assert {reason for reason, _ in reasons(body)} == {"policy_result_type"}


def test_a_package_of_ours_is_reserved_and_an_empty_set_refused() -> None:
    assert analyse([v1("x := 1", package="bailiwick_decision")], {}).findings[0].reason == "policy_reserved_package"
    assert analyse([v1("")], {}).findings[0].reason == "policy_empty"
    assert analyse([], {}).findings[0].reason == "policy_empty"


def test_with_may_not_replace_functions_in_service() -> None:
    assert reasons("f(x) := 1\nallow if { count(input.x) == 1 with count as f }") == [("policy_forbidden_builtin", 6)]
