"""What the rules of a set reach: other rules, the input, the data, and the engine's functions.

Everything here errs to one side. A rule that can be reached is never missing from the graph and an input path that
can be read is never missing from the answer; more than is really reached may be listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bailiwick.policy.rego_syntax import (
    Finding,
    Node,
    ParsedModule,
    Path,
    Rule,
    constant_path,
    kind_of,
    reference,
)

MAX_RULE_CHAIN = 48
"""How many rules may stand on each other; each takes a frame of the engine's stack."""

SCALARS = frozenset({"String", "RawString", "Number", "Bool", "True", "False", "Null"})
_PLAIN = frozenset(
    {"Array", "Set", "Object", "UnaryExpr", "BinExpr", "BoolExpr", "ArithExpr", "AssignExpr", "Membership"}
)
COMPREHENSIONS = frozenset({"ArrayCompr", "SetCompr", "ObjectCompr"})
LITERALS = frozenset({"SomeVars", "SomeIn", "Expr", "NotExpr", "Every"})


@dataclass(slots=True)
class Call:
    """A call of one of the engine's functions."""

    name: str
    args: list[Node]
    line: int


@dataclass(slots=True)
class RuleReach:
    """What one rule refers to, as paths below ``data`` and below ``input``; ``()`` is all of it."""

    module: ParsedModule
    rule: Rule
    input: set[Path] = field(default_factory=set)
    data: set[Path] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    problems: list[tuple[int, str, str]] = field(default_factory=list)
    uses_with: bool = False

    @property
    def path(self) -> Path:
        """Where the rule stands below ``data``."""
        return self.module.package + self.rule.path

    @property
    def is_test(self) -> bool:
        """Whether only a test run evaluates the rule."""
        return self.module.is_test or self.rule.is_test


class _Reader:
    """Walks one rule with the scopes of Rego, so that a local name is not taken for a rule and no rule for a local."""

    def __init__(self, module: ParsedModule, rule: Rule, rule_names: frozenset[str]) -> None:
        self.reach = RuleReach(module, rule)
        self._imports = module.imports
        self._package = module.package
        self._rule_names = rule_names

    def read(self) -> RuleReach:
        rule = self.reach.rule
        scope = frozenset(declared_names(rule.args))
        for arg in rule.args:
            self._expression(arg, scope)
        found = reference(rule.head)
        indexes = [step for step in (found[1] if found else []) if not isinstance(step, str)]
        for body in rule.bodies:
            inner = self._query(body.statements, scope)
            for node in (body.value, rule.key, *indexes):
                if node is not None:
                    self._expression(node, inner)
        return self.reach

    def _query(self, statements: Sequence[Node], scope: frozenset[str]) -> frozenset[str]:
        for statement in statements:
            kind, literal = kind_of(statement["literal"])
            modifiers = statement.get("with_mods") or []
            if kind not in LITERALS:
                self._unknown(literal, kind)
            elif kind == "SomeVars":
                scope |= {self._span_text(span) for span in literal["vars"]}
            elif kind == "SomeIn":
                self._expression(literal["collection"], scope)
                patterns = [node for node in (literal["key"], literal["value"]) if node is not None]
                scope |= declared_names(patterns)
                for pattern in patterns:
                    self._expression(pattern, scope)
            elif kind == "Every":
                self._expression(literal["domain"], scope)
                names = {self._span_text(literal[part]) for part in ("key", "value") if literal[part] is not None}
                self._query(literal["query"]["stmts"], scope | names)
            else:
                scope |= self._statement(literal["expr"], scope)
            for modifier in modifiers:
                self._with(modifier, scope)
        return scope

    def _span_text(self, span: Node) -> str:
        return self.reach.module.source[span["start"] : span["end"]].decode()

    def _statement(self, expression: Node, scope: frozenset[str]) -> frozenset[str]:
        kind, body = kind_of(expression)
        if kind != "AssignExpr" or body["op"] != "ColEq":
            self._expression(expression, scope)
            return frozenset()
        self._expression(body["rhs"], scope)
        names = declared_names([body["lhs"]])
        self._expression(body["lhs"], scope | names)
        return names

    def _expression(self, node: Node, scope: frozenset[str]) -> None:
        kind, body = kind_of(node)
        if kind in SCALARS:
            return
        if kind in ("Var", "RefDot", "RefBrack"):
            self._reference(node, scope)
        elif kind == "Call":
            self._call(body, scope)
        elif kind in COMPREHENSIONS:
            inner = self._query(body["query"]["stmts"], scope)
            for part in ("term", "key", "value"):
                if part in body:
                    self._expression(body[part], inner)
        elif kind in ("Array", "Set"):
            for item in body["items"]:
                self._expression(item, scope)
        elif kind == "Object":
            for _, key, value in body["fields"]:
                self._expression(key, scope)
                self._expression(value, scope)
        elif kind in _PLAIN:
            for part in ("expr", "lhs", "rhs", "key", "value", "collection"):
                if body.get(part) is not None:
                    self._expression(body[part], scope)
        else:
            self._unknown(body, kind)

    def _reference(self, node: Node, scope: frozenset[str]) -> None:
        found = reference(node)
        if found is None:
            _, body = kind_of(node)
            self._expression(body["refr"], scope)
            if "index" in body:
                self._expression(body["index"], scope)
            return
        root, steps = found
        for step in steps:
            if not isinstance(step, str):
                self._expression(step, scope)
        self._resolve(root, constant_prefix(steps), scope)

    def _resolve(self, root: str, prefix: Path, scope: frozenset[str]) -> bool:
        """Notes what a name stands for; False if it is neither local, import, rule, input nor data."""
        if root in scope:
            return True
        if root == "input":
            self.reach.input.add(prefix)
        elif root == "data":
            self.reach.data.add(prefix)
        elif root not in self._rule_names and root not in self._imports:
            return False
        if root in self._rule_names:
            self.reach.data.add((*self._package, root, *prefix))
        if root in self._imports and root not in ("input", "data"):
            target = self._imports[root]
            (self.reach.input if target[0] == "input" else self.reach.data).add((*target[1:], *prefix))
        return True

    def _call(self, body: Node, scope: frozenset[str]) -> None:
        for arg in body["params"]:
            self._expression(arg, scope)
        path = constant_path(body["fcn"])
        if path is None:
            self._expression(body["fcn"], scope)
            self.reach.problems.append((body["span"]["line"], "policy_syntax_error", "the function is not named"))
        elif not self._resolve(path[0], path[1:], scope):
            self.reach.calls.append(Call(".".join(path), body["params"], body["span"]["line"]))

    def _with(self, modifier: Node, scope: frozenset[str]) -> None:
        self.reach.uses_with = True
        self._expression(modifier["as"], scope)
        target = constant_path(modifier["refr"])
        if target is None or target[0] not in ("input", "data"):
            message = "`with` may replace only input or data outside of tests"
            self.reach.problems.append((modifier["span"]["line"], "policy_forbidden_builtin", message))
        # what the rules below then read is no longer the request's, so nothing is concluded about it
        self.reach.input.add(())

    def _unknown(self, body: Node, kind: str) -> None:
        line = body["span"]["line"] if "span" in body else self.reach.rule.line
        self.reach.problems.append((line, "policy_syntax_error", f"{kind} is not supported"))


def constant_prefix(steps: Sequence[str | Node]) -> Path:
    """The steps of a reference up to the first that is not constant."""
    prefix: list[str] = []
    for step in steps:
        if not isinstance(step, str):
            break
        prefix.append(step)
    return tuple(prefix)


def declared_names(patterns: Iterable[Node]) -> frozenset[str]:
    """The variables a pattern binds (``x``, ``[a, {"k": b}]``)."""
    names: set[str] = set()
    for pattern in patterns:
        kind, body = kind_of(pattern)
        if kind == "Var":
            names.add(body["value"])
        elif kind in ("Array", "Set"):
            names |= declared_names(body["items"])
        elif kind == "Object":
            names |= declared_names(value for _, _, value in body["fields"])
    return frozenset(names)


def read_rules(modules: Sequence[ParsedModule]) -> list[RuleReach]:
    """What every rule of the set refers to."""
    names: dict[Path, set[str]] = {}
    for module in modules:
        names.setdefault(module.package, set()).update(rule.path[0] for rule in module.rules)
    return [
        _Reader(module, rule, frozenset(names[module.package])).read() for module in modules for rule in module.rules
    ]


# --- the graph ---------------------------------------------------------------------------------------------------


class RuleGraph:
    """Which rule can evaluate which, by their paths below ``data``."""

    def __init__(self, reaches: Sequence[RuleReach]) -> None:
        self.reaches: dict[Path, list[RuleReach]] = {}
        for reach in reaches:
            self.reaches.setdefault(reach.path, []).append(reach)
        # every rule under a prefix, so that a reference finds the rules below it without looking at all of them
        self._below: dict[Path, set[Path]] = {}
        for path in self.reaches:
            for length in range(len(path) + 1):
                self._below.setdefault(path[:length], set()).add(path)
        self.edges: dict[Path, set[Path]] = {
            path: {target for reach in group for ref in reach.data for target in self.targets(ref)}
            for path, group in self.reaches.items()
        }

    def targets(self, ref: Path) -> set[Path]:
        """The rules that a reference can evaluate: at it, below it, or above it (the rest then indexes the value)."""
        above = {ref[:length] for length in range(len(ref)) if ref[:length] in self.reaches}
        return above | self._below.get(ref, set())

    def closure(self, roots: Iterable[Path]) -> set[Path]:
        """The roots and every rule they can evaluate."""
        seen: set[Path] = set()
        pending = list(roots)
        while pending:
            path = pending.pop()
            if path not in seen:
                seen.add(path)
                pending.extend(self.edges[path])
        return seen

    def beyond_chain(self, longest: int) -> RuleReach | None:
        """A rule that stands on a chain of more than ``longest`` others, or None. Only for a graph without cycles."""
        remaining = set(self.edges)
        for _ in range(longest + 1):
            remaining = {path for path in remaining if self.edges[path] & remaining}
        return self.reaches[min(remaining)][0] if remaining else None

    def cycle(self) -> list[Path] | None:
        """A way from some rule back to itself, or None."""
        done: set[Path] = set()
        for start in self.edges:
            if start in done:
                continue
            trail: list[Path] = [start]
            branches = [iter(sorted(self.edges[start]))]
            while branches:
                step = next(branches[-1], None)
                if step is None:
                    done.add(trail.pop())
                    branches.pop()
                elif step in trail:
                    return [*trail[trail.index(step) :], step]
                elif step not in done:
                    trail.append(step)
                    branches.append(iter(sorted(self.edges[step])))
        return None


def recursion_findings(graph: RuleGraph) -> list[Finding]:
    """A finding for a rule that depends on itself, or on too long a chain; the engine's stack has no guard."""
    cycle = graph.cycle()
    if cycle is None:
        last = graph.beyond_chain(MAX_RULE_CHAIN)
        if last is None:
            return []
        message = f"the rule stands on a chain of more than {MAX_RULE_CHAIN} others"
        return [Finding(last.module.module.name, last.rule.line, "policy_too_deep", message)]
    reach = graph.reaches[cycle[0]][0]
    way = " -> ".join("data." + ".".join(path) for path in cycle)
    return [Finding(reach.module.module.name, reach.rule.line, "policy_recursion", way)]


def minimal_paths(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Paths without those that another one covers, in order."""
    kept: list[Path] = []
    for path in sorted(set(paths)):
        if not kept or path[: len(kept[-1])] != kept[-1]:
            kept.append(path)
    return tuple(kept)


# --- data against rules ------------------------------------------------------------------------------------------


def data_conflicts(modules: Sequence[ParsedModule], data: Mapping[str, object]) -> list[Finding]:
    """Findings for data at or above the path of a rule, and for packages that stand under a rule."""
    findings: list[Finding] = []
    packages = {module.package for module in modules}
    for module in modules:
        for rule in module.rules:
            path = module.package + rule.path
            name = "data." + ".".join(path)
            covered = _covered(path, data)
            if covered:
                message = f"the data has a value at `{covered}`, where the rule `{name}` stands"
                findings.append(Finding(module.module.name, rule.line, "policy_data_conflict", message))
            below = next((other for other in sorted(packages) if other[: len(path)] == path), None)
            if below:
                message = f"package `{'.'.join(below)}` stands under the rule `{name}`"
                findings.append(Finding(module.module.name, rule.line, "policy_data_conflict", message))
    return findings


def _covered(path: Path, data: Mapping[str, object]) -> str | None:
    value: object = data
    for depth, step in enumerate(path):
        if not isinstance(value, Mapping):
            return "data." + ".".join(path[:depth])
        if step not in value:
            return None
        value = value[step]
    return "data." + ".".join(path)
