"""The form of a policy that the compiled machine runs, and whether it may.

The engine has an interpreter and a compiled machine (RVM) that is four times as fast, and the two disagree. Found by
experiment with 0.13.0, and each shown by a test:

- ``x := <undefined>`` succeeds in the machine, with x undefined. So does the term of a comprehension, and the key of
  a partial rule. Each is therefore followed by the guard ``[x]``, an array that cannot be made of undefined.
- Arithmetic and set operators on the wrong type end the whole rule, also the other rounds of a loop around them and
  the ``not`` above them. They are compiled only where neither is there.
- A comprehension whose query fails outside of a loop leaves the machine in it, and the next failure of the rule goes
  back there for ever. Each therefore begins with a loop.
- The machine loads ``input`` and ``data`` where a rule first names them; where that is in a loop that does not run,
  they are undefined in the rest of the rule. Bodies that loop therefore name them first.
- An index by a variable of ``every`` is taken for any index, so that ``every x in xs { granted[x] }`` holds if anything
  is granted. It is therefore drawn into another one first.
- Two values for one rule, function or key are no error: the machine answers undefined or the last. Only rules that
  can be seen to have one value are compiled.
- ``else`` is not tried after a value that is undefined, nor after a loop over nothing.
- ``with``, ``walk``, functions with a default are not compiled at all.

A set that is not certain to mean the same runs in the interpreter, in its own dialect. The printed form is always v1;
that is the rewrite of v0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from bailiwick.policy.rego_reach import COMPREHENSIONS, SCALARS, declared_names
from bailiwick.policy.rego_syntax import (
    Body,
    Finding,
    Node,
    ParsedModule,
    Path,
    Rule,
    children,
    constant_path,
    descend,
    kind_of,
    reference,
)

_LOOPING = COMPREHENSIONS | {"SomeIn", "SomeVars", "Every"}
_GUARD = re.compile(r"guard_\d+_\Z")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_KEYWORDS = frozenset(
    "as contains data default else every false if import in input not null package some true with".split()  # noqa: SIM905
)
_OPERATORS = {
    "Lt": "<",
    "Le": "<=",
    "Eq": "==",
    "Ge": ">=",
    "Gt": ">",
    "Ne": "!=",
    "Add": "+",
    "Sub": "-",
    "Mul": "*",
    "Div": "/",
    "Mod": "%",
    "And": "&",
    "Intersection": "&",
    "Or": "|",
    "Union": "|",
}


class NotCompiled(Exception):
    """The set means, or may mean, something else in the compiled machine; the message says what."""


def compiled_form(module: ParsedModule) -> str:
    """The module as guarded v1 source for the compiled machine, without its tests.

    Raises :class:`NotCompiled`.
    """
    return _Printer(module).module()


def check_compiled(modules: Sequence[ParsedModule]) -> None:
    """Raises :class:`NotCompiled` if a rule of the set could have two values at once.

    The machine would not tell, and the interpreter does.
    """
    groups: dict[Path, list[tuple[ParsedModule, Rule]]] = {}
    for module in modules:
        for rule in module.rules:
            if not rule.is_test and rule.kind != "default":
                groups.setdefault(module.package + rule.path, []).append((module, rule))
    for path, group in groups.items():
        kinds = {rule.kind for _, rule in group}
        if len(kinds) > 1:
            raise NotCompiled(f"data.{'.'.join(path)} is defined in different ways")
        if kinds != {"set"} and not _one_value(group):
            raise NotCompiled(f"data.{'.'.join(path)} could have two values")


def misread(modules: Sequence[ParsedModule]) -> Iterator[Finding]:
    """Findings for what the interpreter gets wrong and the compiled machine, in the form printed here, does not.

    It takes ``not granted[x]`` in an ``every x …`` for "not any of them", so that ``every`` fails where it holds.
    """
    for module in modules:
        for kind, every in descend([rule.bodies_as_nodes for rule in module.rules if not rule.is_test]):
            if kind != "Every":
                continue
            spans = [span for span in (every["key"], every["value"]) if span is not None]
            names = {module.source[span["start"] : span["end"]].decode() for span in spans}
            for negated in (node for kind, node in descend(every["query"]) if kind == "NotExpr"):
                indexes = [node["index"] for kind, node in descend(negated) if kind == "RefBrack"]
                if any(kind == "Var" and node["value"] in names for kind, node in descend(indexes)):
                    message = "an index by a variable of `every` under `not`: write `some y in [x]` and index by y"
                    yield Finding(module.module.name, negated["span"]["line"], "policy_unsupported", message)


# --- whether a rule has one value --------------------------------------------------------------------------------


def _one_value(group: list[tuple[ParsedModule, Rule]]) -> bool:
    branches = [(module, rule, body) for module, rule in group for body in rule.bodies]
    values = {_constant(body.value) for _, _, body in branches}
    if len(values) == 1 and None not in values:
        return True
    if group[0][1].kind == "object":
        return False
    if not all(_constant(body.value) or straight(rule, body) for _, rule, body in branches):
        return False
    # bodies without else are alternatives of their own (v0 writes them one after the other)
    ways = [(module, rule, body) for module, rule, body in branches if not body.is_else]
    return all(_exclusive(first, second) for index, first in enumerate(ways) for second in ways[index + 1 :])


def _constant(node: Node | None) -> str | None:
    if node is None:
        return "true"
    kind, body = kind_of(node)
    return json.dumps(body.get("value")) if kind in SCALARS else None


def _surely_defined(body: Body) -> bool:
    """Whether a body's value is an input path that one of its own conditions needs to be defined."""
    path = constant_path(body.value) if body.value is not None else None
    if path is None or path[0] != "input":
        return False
    for statement in body.statements:
        kind, literal = kind_of(statement["literal"])
        if kind != "Expr":
            continue
        condition_kind, condition = kind_of(literal["expr"])
        operands = {"BoolExpr": [condition.get("lhs"), condition.get("rhs")], "Call": condition.get("params", [])}
        if any(constant_path(operand) == path for operand in operands.get(condition_kind, [])):
            return True
    return False


def straight(rule: Rule, body: Body) -> bool:
    """Whether a body holds at most once, without going through anything."""
    bound = set(declared_names(rule.args))
    for statement in body.statements:
        kind, literal = kind_of(statement["literal"])
        if kind in ("SomeVars", "SomeIn"):
            return False
        if kind == "Every":
            if not _steady(literal["domain"], bound):
                return False
            continue
        if kind == "Expr":
            expression_kind, expression = kind_of(literal["expr"])
            if expression_kind == "AssignExpr":
                if expression["op"] != "ColEq" or not _steady(expression["rhs"], bound):
                    return False
                bound |= declared_names([expression["lhs"]])
                continue
        if not _steady(literal["expr"], bound):
            return False
    return all(node is None or _steady(node, bound) for node in (body.value, rule.key))


def _steady(node: Node, bound: set[str]) -> bool:
    """Whether an expression takes one value, given the names that are bound; an index by a free name takes many."""
    kind, body = kind_of(node)
    if kind in SCALARS or kind in COMPREHENSIONS:
        return True
    if kind == "RefBrack" and not declared_names([body["index"]]) <= bound:
        return False
    if kind == "Call" and reference(body["fcn"]) == ("walk", []):
        return False
    return all(_steady(child, bound) for child in children(body))


def _exclusive(first: tuple[ParsedModule, Rule, Body], second: tuple[ParsedModule, Rule, Body]) -> bool:
    """Whether two bodies cannot hold together: different constants as an argument or compared with, or ``not``."""
    if any(map(_differ, first[1].args, second[1].args)):
        return True
    wanted, other = (dict(_conditions(body)) for _, _, body in (first, second))
    return any(_contradict(condition, other[path]) for path, condition in wanted.items() if path in other)


def _differ(one: Node, other: Node) -> bool:
    """Whether two constants are certainly different values (1 and 1.0 are not)."""
    (one_kind, one_body), (other_kind, other_body) = kind_of(one), kind_of(other)
    if one_kind not in SCALARS or other_kind not in SCALARS:
        return False
    values = (one_body.get("value"), other_body.get("value"))
    return values[0] != values[1] if one_kind == other_kind else {one_kind, other_kind} != {"String", "RawString"}


def _contradict(one: Node | bool, other: Node | bool) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return isinstance(one, bool) and isinstance(other, bool) and one != other
    return _differ(one, other)


def _conditions(body: Body) -> Iterator[tuple[tuple[str, ...], Node | bool]]:
    """What a body demands of constant input paths: a truthy value (True), ``not`` (False), or a constant to equal."""
    for statement in body.statements:
        kind, literal = kind_of(statement["literal"])
        if kind not in ("Expr", "NotExpr") or statement.get("with_mods"):
            continue
        node_kind, node = kind_of(literal["expr"])
        path = constant_path(literal["expr"])
        if path and path[0] == "input":
            yield path, kind == "Expr"
        elif kind == "Expr" and node_kind == "BoolExpr" and node["op"] == "Eq":
            for subject, value in ((node["lhs"], node["rhs"]), (node["rhs"], node["lhs"])):
                path = constant_path(subject)
                if path and path[0] == "input" and kind_of(value)[0] in SCALARS:
                    yield path, value


def demanded_inputs(modules: Sequence[ParsedModule]) -> Iterator[dict[Path, Any]]:
    """For each body of each rule, the input values it plainly demands: a way in for the samples of an admission."""
    for module in modules:
        for rule in module.rules:
            for body in rule.bodies:
                demands: dict[Path, Any] = {
                    path[1:]: condition if isinstance(condition, bool) else kind_of(condition)[1].get("value")
                    for path, condition in _conditions(body)
                    if len(path) > 1
                }
                if demands:
                    yield demands


# --- printing ----------------------------------------------------------------------------------------------------


class _Printer:
    def __init__(self, module: ParsedModule) -> None:
        self._module = module
        self._guards = 0
        self._operators_allowed = True

    def module(self) -> str:
        # v1 is the engine's default; `import rego.v1` would take the name `v1` from the policy's own variables
        lines = [f"package {_path(self._module.package)}"]
        for alias, path in self._module.imports.items():
            if alias in ("input", "data"):
                continue
            if not _NAME.match(alias) or alias in _KEYWORDS:
                raise NotCompiled(f"import as `{alias}`")
            lines.append(f"import {_path(path)} as {alias}")
        for rule in self._module.rules:
            if not rule.is_test:
                lines.extend(self._rule(rule))
        return "\n".join(lines) + "\n"

    def _rule(self, rule: Rule) -> Iterator[str]:
        if rule.path[0] in _KEYWORDS:
            raise NotCompiled(f"a rule named `{rule.path[0]}`")
        self._operators_allowed = True
        head = self._expression(rule.head)
        if rule.kind == "default":
            if rule.args:
                raise NotCompiled("a function with a default")
            assert rule.bodies[0].value is not None
            yield f"default {head} := {self._expression(rule.bodies[0].value)}"
            return
        if rule.kind == "function":
            head += f"({', '.join(map(self._expression, rule.args))})"
        if any(body.is_else for body in rule.bodies):
            self._check_else(rule)
        text = ""
        for body in rule.bodies:
            if text and not body.is_else:
                yield text
            text = self._definition(rule, head, body) if not body.is_else else text + self._else(rule, body)
        yield text

    def _check_else(self, rule: Rule) -> None:
        for body in rule.bodies:
            if _constant(body.value) is None and not _surely_defined(body):
                raise NotCompiled("`else` with a value that could be undefined")
            if not straight(rule, body) or any(kind in _LOOPING for kind, _ in descend(body.statements)):
                raise NotCompiled("`else` around a loop")

    def _definition(self, rule: Rule, head: str, body: Body) -> str:
        statements = self._body(rule, body)
        if rule.kind == "set":
            if rule.key is None or rule.dynamic_head:
                raise NotCompiled(f"`{head}` without a value")
            key, guards = self._guarded(rule.key)
            return f"{head} contains {key}{_block([*statements, *guards])}"
        value = "true" if body.value is None else self._expression(body.value)
        if rule.kind == "object":
            if kind_of(rule.head)[0] != "RefBrack" or len(_dynamic_steps(rule.head)) != 1:
                raise NotCompiled(f"the head `{head}`")
            statements.append(f"[{self._expression(_dynamic_steps(rule.head)[0])}, {value}]")
        return f"{head} := {value}{_block(statements)}"

    def _else(self, rule: Rule, body: Body) -> str:
        statements = self._body(rule, body)
        value = "true" if body.value is None else self._expression(body.value)
        return f" else := {value}{_block(statements)}"

    def _body(self, rule: Rule, body: Body) -> list[str]:
        self._operators_allowed = straight(rule, body)
        roots = {"input": "[input]", "data": "not data.bailiwick_decision.none"}
        everything = [body.statements, body.value, rule.key, rule.head]
        loops = False
        named: set[str] = set()
        for kind, node in descend(everything):
            loops = loops or kind in _LOOPING
            if kind == "Var":
                named.add(self._module.imports.get(node["value"], (node["value"],))[0])
        loops = loops or not self._operators_allowed
        first = [text for root, text in roots.items() if loops and root in named]
        return first + [text for statement in body.statements for text in self._statement(statement)]

    def _guarded(self, term: Node) -> tuple[str, list[str]]:
        """A term, and the statements that make the query fail where the term is undefined."""
        text = self._expression(term)
        if kind_of(term)[0] in SCALARS:
            return text, []
        name = self._guard_name()
        return name, [f"{name} := {text}", f"[{name}]"]

    def _guard_name(self) -> str:
        self._guards += 1
        return f"guard_{self._guards}_"

    # statements

    def _query(self, statements: Sequence[Node]) -> list[str]:
        """A query inside an expression, where an operator's failure would reach too far."""
        allowed, self._operators_allowed = self._operators_allowed, False
        try:
            return [text for statement in statements for text in self._statement(statement)]
        finally:
            self._operators_allowed = allowed

    def _statement(self, statement: Node) -> Iterator[str]:
        if statement.get("with_mods"):
            raise NotCompiled("`with`")
        kind, literal = kind_of(statement["literal"])
        if kind == "SomeVars":
            yield "some " + ", ".join(self._spans(literal["vars"]))
        elif kind == "SomeIn":
            key = f"{self._expression(literal['key'])}, " if literal["key"] is not None else ""
            yield f"some {key}{self._expression(literal['value'])} in {self._expression(literal['collection'])}"
        elif kind == "Every":
            names = self._spans([span for span in (literal["key"], literal["value"]) if span is not None])
            drawn = [self._guard_name() for _ in names]
            bound = [f"some {name} in [{value}]" for name, value in zip(names, drawn, strict=True) if name != "_"]
            query = "; ".join([*bound, *self._query(literal["query"]["stmts"])])
            yield f"every {', '.join(drawn)} in {self._expression(literal['domain'])} {{ {query} }}"
        elif kind == "NotExpr":
            allowed, self._operators_allowed = self._operators_allowed, False
            yield f"not {self._expression(literal['expr'])}"
            self._operators_allowed = allowed
        elif kind == "Expr":
            yield from self._top_expression(literal["expr"])
        else:
            raise NotCompiled(kind)

    def _top_expression(self, node: Node) -> Iterator[str]:
        kind, body = kind_of(node)
        if kind != "AssignExpr":
            yield self._expression(node)
            return
        operator = ":=" if body["op"] == "ColEq" else "="
        yield f"{self._expression(body['lhs'])} {operator} {self._expression(body['rhs'])}"
        if body["op"] == "ColEq" and kind_of(body["rhs"])[0] not in SCALARS | COMPREHENSIONS:
            names = sorted(declared_names([body["lhs"]]) - {"_"})
            if not names:
                raise NotCompiled("an assignment to no variable")
            yield f"[{', '.join(names)}]"

    def _spans(self, spans: Sequence[Node]) -> list[str]:
        return [self._module.source[span["start"] : span["end"]].decode() for span in spans]

    # expressions

    def _expression(self, node: Node) -> str:
        kind, body = kind_of(node)
        if kind in SCALARS:
            # the engine's span of a string is what stands between the quotes
            quote = {"String": '"', "RawString": "`"}.get(kind, "")
            return quote + self._module.text_of(body) + quote
        if kind == "Var":
            name = str(body["value"])
            if not _NAME.match(name) or _GUARD.match(name) or (name in _KEYWORDS - {"input", "data", "contains"}):
                raise NotCompiled(f"the name `{name}`")
            return name
        if kind == "RefDot":
            return self._expression(body["refr"]) + _step(str(body["field"][1]))
        if kind == "RefBrack":
            return f"{self._expression(body['refr'])}[{self._expression(body['index'])}]"
        if kind == "Array":
            return f"[{', '.join(map(self._expression, body['items']))}]"
        if kind == "Set":
            return "{" + ", ".join(map(self._expression, body["items"])) + "}" if body["items"] else "set()"
        if kind == "Object":
            pairs = (f"{self._expression(key)}: {self._expression(value)}" for _, key, value in body["fields"])
            return "{" + ", ".join(pairs) + "}"
        if kind == "Call":
            return f"{self._expression(body['fcn'])}({', '.join(map(self._expression, body['params']))})"
        if kind in COMPREHENSIONS:
            return self._comprehension(kind, body)
        if kind == "Membership":
            key = f"{self._expression(body['key'])}, " if body["key"] is not None else ""
            return f"({key}{self._expression(body['value'])} in {self._expression(body['collection'])})"
        if kind in ("BoolExpr", "ArithExpr", "BinExpr"):
            return self._infix(kind, body)
        raise NotCompiled(kind)

    def _infix(self, kind: str, body: Node) -> str:
        operator = _OPERATORS.get(body["op"])
        if operator is None:
            raise NotCompiled(f"the operator {body['op']}")
        literal = kind_of(body["lhs"])[0] in SCALARS and kind_of(body["rhs"])[0] in SCALARS
        if kind != "BoolExpr" and not literal and not self._operators_allowed:
            raise NotCompiled(f"`{operator}` inside a loop or a negation")
        return f"({self._expression(body['lhs'])} {operator} {self._expression(body['rhs'])})"

    def _comprehension(self, kind: str, body: Node) -> str:
        statements = self._query(body["query"]["stmts"])
        if not body["query"]["stmts"] or kind_of(body["query"]["stmts"][0]["literal"])[0] != "SomeIn":
            statements.insert(0, f"some {self._guard_name()} in [0]")
        allowed, self._operators_allowed = self._operators_allowed, False
        try:
            if kind == "ObjectCompr":
                if _constant(body["value"]) is None:
                    raise NotCompiled("an object comprehension that could give one key two values")
                key, guards = self._guarded(body["key"])
                query = "; ".join([*statements, *guards])
                return f"{{{key}: {self._expression(body['value'])} | {query}}}"
            term, guards = self._guarded(body["term"])
        finally:
            self._operators_allowed = allowed
        query = "; ".join([*statements, *guards])
        return f"[{term} | {query}]" if kind == "ArrayCompr" else f"{{{term} | {query}}}"


def _dynamic_steps(head: Node) -> list[Node]:
    found = reference(head)
    return [step for step in found[1] if not isinstance(step, str)] if found else []


def _block(statements: Sequence[str]) -> str:
    return " if {\n\t" + ";\n\t".join(statements) + "\n}" if statements else ""


def _step(name: str) -> str:
    return f".{name}" if _NAME.match(name) and name not in _KEYWORDS else f"[{json.dumps(name)}]"


def _path(path: Path) -> str:
    return path[0] + "".join(map(_step, path[1:]))
