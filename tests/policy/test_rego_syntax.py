from __future__ import annotations

import pytest
from policies import SEED, v0, v1

from bailiwick.policy.rego_syntax import MAX_LITERAL_DEPTH, Module, PolicyRefused, check_nesting, parse


def refusal(module: Module) -> tuple[str, int | None]:
    with pytest.raises(PolicyRefused) as refused:
        parse(module)
    finding = refused.value.findings[0]
    assert finding.file == module.name
    return finding.reason, finding.line


def test_the_seeds_policy_is_v0_and_has_two_allow_rules() -> None:
    parsed = parse(Module("authorization.rego", SEED))
    assert parsed.dialect == "v0"
    assert parsed.package == ("sark", "authz")
    assert [(rule.kind, rule.path, rule.line) for rule in parsed.rules] == [
        ("complete", ("allow",), 3),
        ("complete", ("allow",), 7),
    ]


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ("package a\nimport rego.v1\nallow if input.x", "v1"),
        ("package a\nallow if input.x", "v1"),
        ("package a\ndeny contains msg if { msg := input.x }", "v1"),
        ("package a\nx := 1", "v1"),
        ("package a\nallow { input.x }", "v0"),
        ('package a\ndeny[msg] { msg := "no" }', "v0"),
        ("package a\nimport future.keywords.if\nallow if input.x\np[x] { x := 1 }", "v0"),
        ("package a\ndefault allow = false", "v1"),
    ],
)
def test_the_dialect_is_detected(text: str, dialect: str) -> None:
    assert parse(Module("a.rego", text)).dialect == dialect


def test_a_syntax_error_names_file_and_line() -> None:
    assert refusal(Module("broken.rego", "package a\n\nallow if {\n  input.x ==\n}")) == ("policy_syntax_error", 5)
    assert refusal(Module("broken.rego", "package a\n\nallow {\n  x := `\n}")) == ("policy_syntax_error", 4)
    assert refusal(Module("empty.rego", "")) == ("policy_syntax_error", 1)


def test_v1_keywords_in_v0_text_do_not_make_an_unconditional_allow() -> None:
    # read as v0, the first line is the bare rule `allow`, which is true, and a rule named `if`
    module = Module("mixed.rego", "package a\n\nallow if { input.never }\n\nother { input.x }\n")
    assert refusal(module)[0] == "policy_syntax_error"
    assert refusal(Module("bare.rego", "package a\n\nallow\n\nother { input.x }"))[0] == "policy_syntax_error"


@pytest.mark.parametrize(
    "text",
    [
        "package a\ninput { true }",
        "package a\ndata = 1 { true }",
        "package a\nimport rego.v1\nimport data.b as input\nallow if input.x",
        "package a\nimport data.b\nimport data.c as b\nx { b }",
    ],
)
def test_input_and_data_cannot_be_redefined(text: str) -> None:
    assert refusal(Module("shadow.rego", text))[0] == "policy_syntax_error"


@pytest.mark.parametrize("brackets", ["[]", "{}", ("[{", "}]"), ('{"a":[', "]}")])
def test_deep_literals_are_refused_before_they_reach_the_parser(brackets: tuple[str, str]) -> None:
    opening, closing = brackets
    text = f"package a\nx := {opening * 40}1{closing * 40}"
    assert refusal(Module("deep.rego", text)) == ("policy_too_deep", 2)


def test_the_deepest_allowed_literal_is_parsed() -> None:
    depth = MAX_LITERAL_DEPTH
    assert parse(v1("x := " + "[" * depth + "]" * depth)).rules[0].path == ("x",)
    assert refusal(v1("x := " + "[" * (depth + 1) + "]" * (depth + 1)))[0] == "policy_too_deep"


def test_brackets_in_strings_and_comments_do_not_count() -> None:
    text = 'x := "' + "[" * 60 + '" # ' + "[" * 60 + "\ny := `" + "{" * 60 + '`\nz := "\\"' + "[" * 60 + '"'
    assert len(parse(v1(text)).rules) == 3


def test_indexes_and_calls_nest_further_than_literals() -> None:
    check_nesting(v1("x := " + "a[" * 20 + "0" + "]" * 20))
    check_nesting(v1("x := " + "f(" * 30 + "0" + ")" * 30))
    assert refusal(v1("x := " + "(" * 60 + "1" + ")" * 60))[0] == "policy_too_deep"


def test_long_chains_are_refused() -> None:
    assert refusal(v1("x := " + " +\n".join(["1"] * 2000)))[0] == "policy_too_deep"
    assert refusal(v0("x = 1 { false }" + " else = 2 { false }\n" * 1 + "[" * 50))[0] == "policy_too_deep"


def test_sizes_are_bounded() -> None:
    assert refusal(Module("big.rego", "package a\n" + "# x\n" * 80_000))[0] == "policy_syntax_error"
    assert refusal(Module("wide.rego", "package a\nx := [" + "1," * 5_000 + "1]"))[0] == "policy_syntax_error"
    assert refusal(Module("nul.rego", "package a\nx := 1\x00"))[0] == "policy_syntax_error"
    assert refusal(Module("surrogate.rego", "package a\nx := `\ud800`"))[0] == "policy_syntax_error"
