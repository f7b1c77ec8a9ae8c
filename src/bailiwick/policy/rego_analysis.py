"""One examination of a policy set: is it admissible, what does it decide, and what of the input can it read?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bailiwick.policy.rego_compiled import NotCompiled, check_compiled, compiled_form, misread
from bailiwick.policy.rego_hazards import TIME_FUNCTIONS, call_findings
from bailiwick.policy.rego_reach import RuleGraph, data_conflicts, minimal_paths, read_rules, recursion_findings
from bailiwick.policy.rego_syntax import Finding, Module, ParsedModule, Path, PolicyRefused, kind_of, parse

RESERVED_PACKAGE: Path = ("bailiwick_decision",)
"""Where the generated rule stands that asks all packages at once."""

_NEVER_REASON = frozenset(
    {"Number", "Bool", "True", "False", "Null", "Array", "Set", "Object", "ArrayCompr", "SetCompr", "ObjectCompr"}
)
_NEVER_DENY = frozenset({"Number", "Null", "String", "RawString", "Object", "ObjectCompr"})
_NEVER_ALLOW = (_NEVER_REASON | _NEVER_DENY) - {"Bool", "True", "False"}

MAX_MODULES = 64
MAX_SET_BYTES = 512 * 1024
MAX_DATA_DEPTH = 40


@dataclass(frozen=True, slots=True)
class PackageAnswers:
    """A package of the set, and which of the two questions it answers."""

    name: Path
    allow: bool
    deny: bool


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is known of a set without running it. ``modules`` are those that decide; ``tests`` never run in service."""

    modules: tuple[ParsedModule, ...]
    tests: tuple[ParsedModule, ...]
    packages: tuple[PackageAnswers, ...]
    input_paths: tuple[Path, ...]
    """Paths below the input that the set can read; ``((),)`` is all of it."""
    reads_time: bool
    findings: tuple[Finding, ...]
    compiled: tuple[Module, ...] | None = field(repr=False)
    """The set as the compiled machine may run it, or None."""
    not_compiled_because: str | None
    misread: tuple[Finding, ...] = ()
    """What the interpreter would get wrong; such a set is compiled or refused."""

    @property
    def reads_whole_input(self) -> bool:
        """Whether it cannot be told which part of the input matters."""
        return self.input_paths == ((),)

    @property
    def test_rules(self) -> tuple[tuple[ParsedModule, str, int], ...]:
        """Every ``test_`` rule: its module, its full path, its line."""
        return tuple(
            (module, "data." + ".".join(module.package + rule.path), rule.line)
            for module in (*self.modules, *self.tests)
            for rule in module.rules
            if rule.is_test
        )


def analyse(modules: Sequence[Module], data: Mapping[str, Any], tests: Sequence[Module] = ()) -> Analysis:
    """Examines a set. Files named ``*_test.rego`` among ``modules`` count as tests.

    Raises :class:`PolicyRefused` when a file cannot be parsed; everything else is in ``findings``.
    """
    _check_size(modules, data, tests)
    parsed = [parse(module) for module in modules]
    deciding = tuple(module for module in parsed if not module.is_test)
    testing = (*(module for module in parsed if module.is_test), *map(parse, tests))
    every = (*deciding, *testing)
    graph = RuleGraph(read_rules(every))
    findings = [*_naming_findings(every), *recursion_findings(graph), *data_conflicts(every, data)]
    if not any(module.rules for module in deciding):
        name = modules[0].name if modules else "policy"
        findings.append(Finding(name, None, "policy_empty", "the policy has no rule"))
    if not any(finding.reason in ("policy_recursion", "policy_too_deep") for finding in findings):
        findings.extend(_call_findings(graph))
    input_paths, reads_time = _reads(deciding, graph)
    packages = _packages(deciding)
    findings.extend(_shape_findings(deciding))
    misread_findings = tuple(misread(deciding))
    compiled, why = _compiled(deciding) if not findings else (None, "the set is refused")
    return Analysis(
        modules=deciding,
        tests=testing,
        packages=packages,
        input_paths=input_paths,
        reads_time=reads_time,
        findings=tuple(dict.fromkeys(findings)),
        compiled=compiled,
        not_compiled_because=why,
        misread=misread_findings,
    )


def set_hash(modules: Sequence[Module], data: Mapping[str, Any]) -> str:
    """The content address of a set, ``sha256:`` and 64 hex digits, whatever the order of files and keys."""
    files = sorted((module.name, module.text) for module in modules)
    canonical = msgspec.json.encode([files, data], order="deterministic")
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


def wrapper(packages: Sequence[PackageAnswers]) -> Module:
    """A rule ``data.bailiwick_decision.out`` that answers for all packages in one evaluation.

    It is a list of all ``allow``, then all ``deny``, each a list that is empty where the answer is undefined.
    """
    asked = [
        *("data." + _reference(package.name) + ".allow" for package in packages if package.allow),
        *("data." + _reference(package.name) + ".deny" for package in packages if package.deny),
    ]
    # `=` and not `:=`: the compiled machine takes an undefined value for a `:=`
    answers = ", ".join(f"[x | x = {answer}]" for answer in asked)
    return Module("bailiwick_decision.rego", f"package {RESERVED_PACKAGE[0]}\nimport rego.v1\nout := [{answers}]\n")


def _reference(path: Path) -> str:
    encoded = (msgspec.json.encode(step).decode() for step in path[1:])
    return path[0] + "".join(f"[{step}]" for step in encoded)


def _call_findings(graph: RuleGraph) -> list[Finding]:
    try:
        return list(call_findings(graph))
    except RecursionError:
        # local names that stand on each other, hundreds deep
        file = next(iter(graph.reaches.values()))[0].module.module.name
        return [Finding(file, None, "policy_too_deep", "a rule's variables stand on too long a chain")]


def _check_size(modules: Sequence[Module], data: Mapping[str, Any], tests: Sequence[Module]) -> None:
    texts = [*modules, *tests]
    name = texts[0].name if texts else "policy"
    if len(texts) > MAX_MODULES or sum(len(module.text) for module in texts) > MAX_SET_BYTES:
        message = f"a set has at most {MAX_MODULES} files and {MAX_SET_BYTES} characters"
        raise PolicyRefused((Finding(name, None, "policy_too_large", message),))
    names = [module.name for module in texts]
    if len(set(names)) != len(names):
        raise PolicyRefused((Finding(name, None, "policy_syntax_error", "two files have the same name"),))
    level: list[object] = [data]
    for _ in range(MAX_DATA_DEPTH):
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ())
        ]
    if level:
        message = f"the data nests deeper than {MAX_DATA_DEPTH}"
        raise PolicyRefused((Finding("data.json", None, "policy_too_deep", message),))


def _naming_findings(modules: Sequence[ParsedModule]) -> list[Finding]:
    return [
        Finding(module.module.name, 1, "policy_reserved_package", f"`{module.package[0]}` is reserved")
        for module in modules
        if module.package[:1] == RESERVED_PACKAGE or module.package[0] in ("input", "data")
    ]


def _reads(deciding: Sequence[ParsedModule], graph: RuleGraph) -> tuple[tuple[Path, ...], bool]:
    roots = {module.package + rule.path for module in deciding for rule in module.rules if not rule.is_test}
    reached = [reach for path in graph.closure(roots) for reach in graph.reaches[path]]
    paths = minimal_paths(path for reach in reached for path in reach.input)
    return paths, any(call.name in TIME_FUNCTIONS for reach in reached for call in reach.calls)


def _packages(deciding: Sequence[ParsedModule]) -> tuple[PackageAnswers, ...]:
    names: dict[Path, set[str]] = {}
    for module in deciding:
        names.setdefault(module.package, set()).update(rule.path[0] for rule in module.rules)
    return tuple(PackageAnswers(name, "allow" in rules, "deny" in rules) for name, rules in sorted(names.items()))


def _shape_findings(deciding: Sequence[ParsedModule]) -> Iterator[Finding]:
    """``allow`` must be a rule with a value, and ``deny`` a set or a value, wherever they are defined."""
    for module in deciding:
        for rule in module.rules:
            name = rule.path[0]
            if name not in ("allow", "deny"):
                continue
            misshapen = len(rule.path) > 1 or rule.kind in ("function", "object") or bool(rule.args)
            if misshapen or (name == "allow" and rule.kind == "set"):
                message = f"`{name}` must not be a {'set' if rule.kind == 'set' else 'function or an object'}"
                yield Finding(module.module.name, rule.line, "policy_result_type", message)
                continue
            values = [body.value for body in rule.bodies] if rule.kind != "set" else []
            wrong = _NEVER_ALLOW if name == "allow" else _NEVER_DENY
            if any(value is not None and kind_of(value)[0] in wrong for value in values):
                message = f"`{name}` must be {'true or false' if name == 'allow' else 'a boolean or strings'}"
                yield Finding(module.module.name, rule.line, "policy_result_type", message)
            if rule.key is not None and kind_of(rule.key)[0] in _NEVER_REASON:
                yield Finding(module.module.name, rule.line, "policy_result_type", "a reason must be a string")


def _compiled(deciding: Sequence[ParsedModule]) -> tuple[tuple[Module, ...] | None, str | None]:
    try:
        check_compiled(deciding)
        return tuple(Module(module.module.name, compiled_form(module)) for module in deciding), None
    except NotCompiled as why:
        return None, str(why)
