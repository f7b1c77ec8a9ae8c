"""Every hazard is really tried in the disposable process."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from policies import SEED, v0, v1

from bailiwick.kernel.errors import REASONS
from bailiwick.policy import admission
from bailiwick.policy.admission import Admission, AdmissionLimits, AdmissionReport
from bailiwick.policy.library import library_modules
from bailiwick.policy.rego_syntax import Module


async def admit(*modules: Module, data: dict[str, Any] | None = None, **more: Any) -> AdmissionReport:
    return await Admission(AdmissionLimits(cpu_seconds=2)).admit(modules, data or {}, **more)


async def reason_of(*modules: Module, **more: Any) -> tuple[str, str, int | None]:
    report = await admit(*modules, **more)
    assert not report.accepted
    assert all(finding.reason in REASONS and finding.message for finding in report.findings)
    finding = report.findings[0]
    return finding.reason, finding.file, finding.line


async def test_the_seeds_policy_is_accepted_as_printed_and_compiled() -> None:
    report = await admit(Module("authorization.rego", SEED))
    assert report.accepted, report.findings
    assert report.dialects == {"authorization.rego": "v0"}
    assert report.engine == "compiled"
    assert report.packages == ("sark.authz",)
    assert report.input_paths == (("action",), ("user", "role"))
    assert report.samples_run > 30
    assert report.sha256.startswith("sha256:")


@pytest.mark.parametrize(
    ("body", "reason", "line"),
    [
        ("allow if {", "policy_syntax_error", 6),
        ("allow if { nowhere }", "policy_syntax_error", 5),
        ("allow if { y > 1; y := 2 }", "policy_syntax_error", 5),
        ("f(x) := f(x)\nallow if f(1)", "policy_recursion", 5),
        ("x := " + "[" * 40 + "]" * 40, "policy_too_deep", 5),
        ("allow if input.x\n\nother if { http.send({}).status }", "policy_forbidden_builtin", 7),
        ("allow if count(numbers.range(1, input.n)) > 1", "policy_unbounded", 5),
        ("x := numbers.range(1, 1000000000)\nallow if count(x) > 1", "policy_unbounded", 5),
        ("allow := 1", "policy_result_type", 5),
        ('allow := "true"', "policy_result_type", 5),
        ('allow := {"a": true}', "policy_result_type", 5),
        ("# a comment\nallow := input.user.role", "policy_result_type", 6),
        ('allow := answer\nanswer := 1 if input.user.id == "the one"', "policy_result_type", 5),
        ("allow := answer if { answer := {`a`: input.user} }", "policy_result_type", 5),
        ("allow if input.x\ndeny contains input.user.role", "policy_result_type", 6),
        ("allow := true if input.user.role\nallow := false if input.action", "policy_conflict", 6),
        ("allow := x if { some x in [true, false] }", "policy_conflict", 5),
        ("allow if { every x in input.l { not data.g[x]; x + 1 > 1 } }", "policy_unsupported", 5),
    ],
)
async def test_what_must_not_run_is_refused_with_its_place(body: str, reason: str, line: int) -> None:
    assert await reason_of(v1(body)) == (reason, "app.rego", line)


async def test_a_policy_that_does_not_end_is_stopped() -> None:
    nested = "; ".join(f"some {name} in r" for name in "abcd")
    module = v1(f"r := numbers.range(1, 10000)\nallow if {{ {nested}; a + b + c + d == 0 - 1 }}")
    assert (await reason_of(module))[0] == "policy_timeout"


async def test_a_policy_that_does_not_even_use_the_processor_is_stopped_by_the_clock() -> None:
    nested = "; ".join(f"some {name} in r" for name in "abcd")
    module = v1(f"r := numbers.range(1, 10000)\nallow if {{ {nested}; a + b + c + d == 0 - 1 }}")
    report = await Admission(AdmissionLimits(wall_seconds=0.5, cpu_seconds=60)).admit([module], {})
    assert [finding.reason for finding in report.findings] == ["policy_timeout"]
    assert report.seconds < 20


async def test_a_slow_answer_to_one_sample_is_refused() -> None:
    module = v1("r := numbers.range(1, 350)\nallow if { some a in r; some b in r; a + b == 0 - 1 }")
    assert await reason_of(module) == ("policy_timeout", "app.rego", None)


async def test_a_memory_bomb_ends_only_its_own_process() -> None:
    # 81 million pairs out of one short range, held at once
    pairs = "[[a, b] | some a in r; some b in r; a + b > 0]"
    text = f"r := numbers.range(1, 9000)\nallow if count({pairs}) == 1"
    report = await Admission(AdmissionLimits(memory=300 * 1024 * 1024, cpu_seconds=30)).admit([v1(text)], {})
    assert [finding.reason for finding in report.findings] == ["policy_out_of_memory"]


async def test_a_crash_of_the_engine_ends_only_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # the examination would refuse the recursion; the process must contain it where the examination fails to
    blind = "import bailiwick.policy.rego_analysis as a;a.recursion_findings=lambda graph:[];"
    monkeypatch.setattr(admission, "_BOOTSTRAP", admission._BOOTSTRAP.replace("from ", blind + "from ", 1))
    module = v1("f(x) := f([x])\nallow if f(1)")
    assert await reason_of(module) == ("policy_engine_crashed", "app.rego", None)


async def test_a_policy_on_which_the_two_machines_disagree_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # the compiled form without its guards, as an unknown fault of the machine would look
    bare = "import bailiwick.policy.rego_compiled as c;c._Printer._top_expression=c._unguarded;"
    unguarded = (
        "c._unguarded=lambda p,n:[p._expression(c.kind_of(n)[1]['lhs'])+':='+p._expression(c.kind_of(n)[1]['rhs'])];"
    )
    blind = bare.replace("c._Printer", unguarded + "c._Printer", 1)
    monkeypatch.setattr(admission, "_BOOTSTRAP", admission._BOOTSTRAP.replace("from ", blind + "from ", 1))
    assert (await reason_of(v1("allow if { x := input.nothing }")))[0] == "policy_unsupported"


async def test_data_where_a_rule_stands_is_refused() -> None:
    module = v1("allow if role\nrole if input.x")
    assert await reason_of(module, data={"app": {"role": True}}) == ("policy_data_conflict", "app.rego", 6)


async def test_tests_are_run_and_must_hold() -> None:
    good = Module("app_test.rego", "package app_test\nimport rego.v1\ntest_a if data.app.allow with input as {`x`: 1}")
    bad = Module(
        "other_test.rego", "package o\nimport rego.v1\n\ntest_b if { not data.app.allow with input as {`x`: 1} }"
    )
    old = Module("old_test.rego", "package old_test\n\ntest_c { data.app.allow with input.x as true }")
    module = v1("allow if input.x")
    report = await admit(module, good, tests=[old])
    assert report.accepted and report.tests_run == 2, report.findings
    assert (report.engine, report.packages) == ("compiled", ("app",))
    assert await reason_of(module, good, tests=[bad]) == ("policy_test_failed", "other_test.rego", 4)
    failing = v1("allow if input.x\ntest_inside if { count(input.x) == 3 with input as {`x`: 7} }")
    assert await reason_of(failing) == ("policy_test_failed", "app.rego", 6)


async def test_the_callers_samples_must_be_answered() -> None:
    module = v1("allow if { some grant in data.grants[input.of]; grant == 1 }")
    data = {"grants": {"few": [1], "many": list(range(9_000))}}
    assert (await admit(module, data=data, samples=[{"of": "few"}])).accepted
    assert (await reason_of(module, data=data, samples=[{"of": "many"}]))[0] == "policy_instruction_limit"
    typed = v1("allow if { input.a + 1 == 2; not input.b + 1 == 2 }")
    assert (await admit(typed, samples=[{"a": 1, "b": 2}])).accepted
    assert (await reason_of(typed, samples=[{"a": 1, "b": "x"}]))[0] == "policy_runtime_error"


async def test_v0_that_cannot_be_compiled_runs_as_it_is() -> None:
    module = v0("allow { some i; input.amounts[i] + 1 > 100 }")
    report = await admit(module)
    assert report.accepted and report.engine == "interpreted"
    assert report.not_compiled_because


async def test_an_upload_has_bounds() -> None:
    small = AdmissionLimits(request_bytes=1_000)
    report = await Admission(small).admit([v1("x := 1")], {"big": "x" * 2_000})
    assert [finding.reason for finding in report.findings] == ["policy_too_large"]
    many = [v1("x := 1", package=f"p{index}") for index in range(65)]
    assert (await reason_of(*many))[0] == "policy_too_large"
    assert (await reason_of(v1("x := 1"), v1("y := 1")))[0] == "policy_syntax_error"
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    assert (await reason_of(v1("x := 1"), data={"deep": deep}))[:2] == ("policy_too_deep", "data.json")
    assert (await reason_of())[0] == "policy_empty"


async def test_the_process_inherits_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAILIWICK_SECRET", "planted")
    monkeypatch.setenv("PYTHONSTARTUP", "/nonexistent")
    seen: dict[str, str] = {}
    start = asyncio.create_subprocess_exec

    async def watch(*args: Any, **options: Any) -> asyncio.subprocess.Process:
        seen.update(options["env"])
        assert os.environ["BAILIWICK_SECRET"] == "planted"
        return await start(*args, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", watch)
    assert (await admit(v1("allow if input.x"))).accepted
    assert set(seen) == {"MIMALLOC_ARENA_RESERVE"}


async def test_cancelling_an_admission_leaves_no_process() -> None:
    started: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def watch(*args: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await start(*args, **options)
        started.append(process)
        return process

    nested = "; ".join(f"some {name} in r" for name in "abcd")
    module = v1(f"r := numbers.range(1, 10000)\nallow if {{ {nested}; a + b + c + d == 0 - 1 }}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "create_subprocess_exec", watch)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Admission().admit([module], {}), timeout=0.3)
    assert len(started) == 1
    assert await asyncio.wait_for(started[0].wait(), timeout=5) != 0


async def test_the_default_set_is_admitted_compiled() -> None:
    report = await admit(*library_modules())
    assert report.accepted and report.engine == "compiled"
