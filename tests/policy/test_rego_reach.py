from __future__ import annotations

from typing import Any

import pytest
from policies import v0, v1

from bailiwick.policy.rego_analysis import analyse
from bailiwick.policy.rego_syntax import Module

WHOLE = ((),)


def paths(*modules: Module) -> tuple[tuple[str, ...], ...]:
    analysis = analyse(modules, {})
    assert not analysis.findings
    return analysis.input_paths


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("allow if input.user.role == `admin`", (("user", "role"),)),
        ('allow if input["user"]["ro-le"] == 1', (("user", "ro-le"),)),
        ("allow if { u := input.user; u.role == 1 }", (("user",),)),
        ("allow if { input.user.role == 1; input.user.id == 2 }", (("user", "id"), ("user", "role"))),
        ("allow if { input.user.role == 1; count(input.user) > 0 }", (("user",),)),
        ("allow if input.roles[_] == 1", (("roles",),)),
        ("allow if input.list[0].name == 1", (("list",),)),
        ("allow if input.grants[input.server.name].x", (("grants",), ("server", "name"))),
        ("allow if { k := data.key; input[k] }", WHOLE),
        ("allow if { some k; input[k].x }", WHOLE),
        ("allow if { some k, v in input; v }", WHOLE),
        ("allow if { x := input; x.y }", WHOLE),
        ("allow if f(input)\nf(x) if x.a", WHOLE),
        ("allow if f(input.a)\nf(x) if x.b", (("a",),)),
        ("allow if { walk(input, [_, v]); v == 1 }", WHOLE),
        ("allow if { walk(input.tree, [_, v]); v == 1 }", (("tree",),)),
        ('allow if object.get(input, "x", 1) == 1', WHOLE),
        ("allow if not input.blocked", (("blocked",),)),
        ("allow if every x in input.list { x > input.least }", (("least",), ("list",))),
        ("allow if count([x | some x in input.list; x > 1]) > 1", (("list",),)),
        ("allow if count([input.x | true]) > 1", (("x",),)),
        ("allow := input.a.b", (("a", "b"),)),
        ("allow if helper\nhelper := {input.a}", (("a",),)),
        ("default allow := false\nallow if { false } else := input.late", (("late",),)),
        ("deny contains input.reason", (("reason",),)),
        ("p[input.key] := 1\nallow if p.x", (("key",),)),
        ("allow if { x := 1; x == 1 } # input.comment", ()),
        ("import input.user as u\nallow if u.role == 1", (("user", "role"),)),
        ("import input.user\nallow if user.role == 1", (("user", "role"),)),
        ("import input as i\nallow if i.role == 1", (("role",),)),
        ("import input as i\nallow if count(i) == 1", WHOLE),
        ("allow if { data.x with input as {} }", WHOLE),
        ("f(input_like) if input_like.a\nallow if f(1)", ()),
        ("allow if { some user in input.users; user.a }", (("users",),)),
        ("f(a, b) := a + b\nallow if f(input.x, 1) == 2", (("x",),)),
        ("allow if 1 in input.list", (("list",),)),
        ("allow if input.a.b.c[input.d].e", (("a", "b", "c"), ("d",))),
        ('allow if {"k": v} = input.obj', (("obj",),)),
        ("allow if [x | x = input.a][0]", (("a",),)),
    ],
)
def test_the_input_paths_a_set_can_read(body: str, expected: tuple[tuple[str, ...], ...]) -> None:
    assert paths(v1(body)) == expected


def test_paths_are_found_through_other_packages_and_dynamic_references() -> None:
    other = v1("x if input.deep.down", package="lib.other")
    assert paths(v1("allow if data.lib.other.x"), other) == (("deep", "down"),)
    assert paths(v1('allow if { k := "other"; data.lib[k].x }'), other) == (("deep", "down"),)
    assert paths(v1("import data.lib\nallow if lib.other.x"), other) == (("deep", "down"),)


def test_tests_read_nothing_in_service() -> None:
    module = v1("allow if input.a\ntest_x if allow with input as {`b`: input.c}")
    helper = Module("app_test.rego", "package app_test\nimport rego.v1\nx if input.z\ntest_y if x")
    assert paths(module, helper) == (("a",),)


def test_a_rule_that_is_hidden_by_a_local_name_is_no_recursion() -> None:
    analysis = analyse([v1("role := level(input.user.role)\nlevel(role) := 3 if role == `admin`\nallow if role")], {})
    assert analysis.findings == ()


@pytest.mark.parametrize(
    "body",
    [
        "f(x) := f(x - 1)\nallow if f(1)",
        "f(x) := g(x)\ng(x) := f(x)\nallow if f(1)",
        "a if b\nb if a\nallow if a",
        "allow if allow",
        "allow if not allow",
        "p[x] if { some x in input.l; p[x] }\nallow if p[1]",
        "allow if data.app.allow",
        "allow if data.app[input.x]",
        "allow if count(data.app) > 0",
        "import data.app as me\nallow if me.allow",
        "a := [x | x := a]\nallow if a",
        "a if { every x in [1] { x == b } }\nb := 1 if a\nallow if a",
        "a := 1 if { false } else := b\nb := a\nallow if a",
        "f(x) := y if { y := [z | z := f(x)][0] }\nallow if f(1)",
        "unused(x) := unused(x)\nallow if input.x",
    ],
)
def test_recursion_is_refused_with_its_line(body: str) -> None:
    findings = analyse([v1(body)], {}).findings
    assert [finding.reason for finding in findings] == ["policy_recursion"]
    assert findings[0].line is not None and "data.app." in findings[0].message


def test_recursion_in_v0_and_across_packages_is_refused() -> None:
    assert analyse([v0("f(x) = y { y := f(x) }\nallow { f(1) }")], {}).findings[0].reason == "policy_recursion"
    ring = [v1("x if data.b.x", package="a"), v1("x if data.c.x", package="b"), v1("x if data.a.x", package="c")]
    assert analyse(ring, {}).findings[0].reason == "policy_recursion"


def test_chains_of_rules_are_bounded() -> None:
    def chain(length: int) -> list[str]:
        body = "\n".join(f"f{n}(x) := f{n + 1}(x)" for n in range(length)) + f"\nf{length}(x) := x"
        return [finding.reason for finding in analyse([v1(body)], {}).findings]

    assert chain(40) == []
    assert chain(60) == ["policy_too_deep"]
    assert chain(1_500) == ["policy_too_deep"]
    local = ";\n".join(["x0 := input.a", *(f"x{n + 1} := x{n}" for n in range(300))])
    assert analyse([v1(f"allow if {{\n{local}\n}}")], {}).findings == ()


@pytest.mark.parametrize(
    ("data", "conflicts"),
    [
        ({"app": {"allow": True}}, True),
        ({"app": {"roles": {"admin": 1}}}, True),
        ({"app": {"roles": None}}, True),
        ({"app": "text"}, True),
        ({"app": None}, True),
        ({"app": {"grants": {}}}, False),
        ({"other": 1}, False),
        ({}, False),
    ],
)
def test_data_where_a_rule_stands_is_refused(data: dict[str, Any], conflicts: bool) -> None:
    findings = analyse([v1("allow if roles.admin\nroles := {`admin`: input.x}")], data).findings
    assert {finding.reason for finding in findings} == ({"policy_data_conflict"} if conflicts else set())


def test_a_package_under_a_rule_is_refused() -> None:
    findings = analyse([v1("b := 1", package="a"), v1("c := 1", package="a.b")], {}).findings
    assert [finding.reason for finding in findings] == ["policy_data_conflict"]
