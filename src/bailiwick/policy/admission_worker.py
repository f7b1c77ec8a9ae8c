"""The disposable process in which a policy is first run. It reads one request, says where it is, and answers.

Started by :mod:`bailiwick.policy.admission`; whatever happens to it (a crash, the limits) is the policy's doing, and
the last place it named is where.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec
import regorus

from bailiwick.policy.engine import (
    EngineKind,
    Outcome,
    PolicyConflict,
    PolicyEngineCrashed,
    PolicyError,
    PolicyInstructionLimit,
    PolicyResultError,
    RegorusEngine,
    RegorusSet,
)
from bailiwick.policy.rego_analysis import Analysis, analyse, set_hash
from bailiwick.policy.rego_syntax import Dialect, EngineMessage, Finding, Module, PolicyRefused, engine_message
from bailiwick.policy.samples import standard_samples

MAX_DECISION_SECONDS = 0.25
"""One sample may take this long; a decision in service takes a thousandth of it."""


class Request(msgspec.Struct):
    """What is to be admitted."""

    modules: list[Module]
    data: dict[str, Any]
    samples: list[dict[str, Any]]
    tests: list[Module]


class Verdict(msgspec.Struct):
    """What the worker found. ``findings`` is empty where the set is accepted."""

    findings: list[Finding]
    sha256: str = ""
    dialects: dict[str, Dialect] = {}
    packages: list[str] = []
    input_paths: list[list[str]] = []
    engine: EngineKind = "interpreted"
    not_compiled_because: str | None = None
    tests_run: int = 0
    samples_run: int = 0


class Line(msgspec.Struct, omit_defaults=True):
    """One line of the worker's output: where it is now (``at``, a file), or the verdict."""

    at: str | None = None
    doing: str | None = None
    verdict: Verdict | None = None


def main() -> None:
    """Takes the limits from the command line (bytes of memory, seconds of CPU) and serves one request."""
    memory, seconds = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    _Admission(request, sys.stdout.buffer).run()


class _Admission:
    def __init__(self, request: Request, out: BinaryIO) -> None:
        self._request = request
        self._out = out
        self._verdict = Verdict(findings=[])

    def run(self) -> None:
        request = self._request
        try:
            self._examine()
        except PolicyRefused as refusal:
            self._verdict.findings = list(refusal.findings)
        except MemoryError:
            name = request.modules[0].name if request.modules else "policy"
            self._verdict.findings = [Finding(name, None, "policy_out_of_memory", "the memory of an admission")]
        self._say(Line(verdict=self._verdict))

    def _say(self, line: Line) -> None:
        self._out.write(msgspec.json.encode(line) + b"\n")
        self._out.flush()

    def _examine(self) -> None:
        request, verdict = self._request, self._verdict
        verdict.sha256 = set_hash(request.modules, request.data)
        for module in (*request.modules, *request.tests):
            self._say(Line(at=module.name, doing="parse"))
        analysis = analyse(request.modules, request.data, request.tests)
        verdict.dialects = {module.module.name: module.dialect for module in (*analysis.modules, *analysis.tests)}
        verdict.packages = [".".join(package.name) for package in analysis.packages]
        verdict.input_paths = [list(path) for path in analysis.input_paths]
        verdict.findings = list(analysis.findings)
        if verdict.findings:
            return
        verdict.findings = list(self._try_samples(analysis)) or list(self._run_tests(analysis))

    # samples

    def _try_samples(self, analysis: Analysis) -> Iterator[Finding]:
        request, verdict = self._request, self._verdict
        first = analysis.modules[0].module.name
        self._say(Line(at=first, doing="compile"))
        chosen = RegorusEngine().compile_analysed(analysis, request.modules, request.data)
        reference = chosen
        if not analysis.misread:
            reference = RegorusEngine("interpreted").compile_analysed(analysis, request.modules, request.data)
        verdict.engine = chosen.kind
        own = len(request.samples)
        samples = [*request.samples, *standard_samples(analysis.input_paths, analysis.modules)]
        for index, sample in enumerate(samples):
            origin = f"sample {index + 1}" if index < own else "a standard sample"
            self._say(Line(at=first, doing=origin))
            started = time.perf_counter()
            answer = _answer(chosen, sample)
            taken = time.perf_counter() - started
            expected = _answer(reference, sample) if chosen is not reference else answer
            verdict.samples_run += 1
            if taken > MAX_DECISION_SECONDS:
                yield self._finding(analysis, "policy_timeout", f"{origin} took {taken:.2f} s")
                return
            if isinstance(expected, PolicyError) and expected.said and _always_fails(expected.said):
                yield self._said(analysis, "policy_syntax_error", expected.said)
                return
            for result in (answer, expected):
                if isinstance(result, PolicyConflict) and result.said is not None:
                    yield self._said(analysis, result.fault, result.said)
                    return
                if isinstance(result, PolicyResultError | PolicyEngineCrashed):
                    yield self._finding(analysis, result.fault, f"{result.detail} ({origin})", result.rule)
                    return
            if index < own and isinstance(answer, PolicyError):
                yield self._finding(analysis, answer.fault, f"{origin}: {answer.detail}")
                return
            if isinstance(answer, Outcome) and isinstance(expected, Outcome) and answer != expected:
                # each has been seen to be the wrong one, so neither is believed
                message = f"the engine's two machines answer {origin} differently"
                yield self._finding(analysis, "policy_unsupported", message)
                return
            elif isinstance(answer, PolicyInstructionLimit) and isinstance(expected, Outcome) and index < own:
                yield self._finding(analysis, answer.fault, f"{origin}: {answer.detail}")
                return
        verdict.not_compiled_because = chosen.not_compiled_because

    def _finding(self, analysis: Analysis, reason: str, message: str, rule: str | None = None) -> Finding:
        for module in analysis.modules:
            for defined in module.rules:
                if rule == "data." + ".".join(module.package + defined.path):
                    return Finding(module.module.name, defined.line, reason, message)
        return Finding(analysis.modules[0].module.name, None, reason, message)

    def _said(self, analysis: Analysis, reason: str, said: EngineMessage) -> Finding:
        return Finding(said.file or analysis.modules[0].module.name, said.line, reason, said.text)

    # tests

    def _run_tests(self, analysis: Analysis) -> Iterator[Finding]:
        rules = analysis.test_rules
        if not rules:
            return
        engine = regorus.Engine()
        for module in (*analysis.modules, *analysis.tests):
            engine.set_rego_v0(module.dialect == "v0")
            engine.add_policy(module.module.name, module.module.text)
        engine.add_data_json(msgspec.json.encode(self._request.data).decode())
        engine.set_input_json("{}")
        for module, path, line in rules:
            self._say(Line(at=module.module.name, doing=path))
            name = module.module.name
            try:
                answer = engine.eval_rule_as_json(path)
            except RuntimeError as error:
                said = engine_message(error)
                yield Finding(name, said.line or line, "policy_test_failed", f"{path}: {said.text}")
                continue
            self._verdict.tests_run += 1
            if answer.strip() != "true":
                yield Finding(name, line, "policy_test_failed", f"{path} does not hold")


def _answer(policy: RegorusSet, sample: dict[str, Any]) -> Outcome | PolicyError:
    try:
        return policy.evaluate(sample)
    except PolicyError as error:
        return error


_STATIC = ("is unsafe", "used before definition", "could not find function", "recursion", "cyclic")


def _always_fails(said: EngineMessage) -> bool:
    """Whether the interpreter says that the policy itself is wrong, rather than this input for it."""
    return any(mark in said.text for mark in _STATIC)
