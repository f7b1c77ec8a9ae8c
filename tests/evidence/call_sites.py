"""Reads the program's source for every place that makes an event: which codes, and which details it passes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import bailiwick
from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType

ROOT = Path(bailiwick.__file__).parent
NO_DETAILS = {"subject", "server", "decision_id", "policy_set", "reasons"}
# position of the event type among the arguments of the two methods
METHODS = {"make": 0, "record": 1}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Site:
    """One call with one possible code; ``details`` maps a name to its type where the source tells it, else None."""

    place: str
    code: EventType
    details: dict[str, str | None]
    sometimes: set[str] = field(default_factory=set)


@dataclass
class _Passed:
    details: dict[str, str | None] = field(default_factory=dict)
    sometimes: set[str] = field(default_factory=set)


class Module:
    """A source file with its functions, so that an argument can be followed to where it comes from."""

    def __init__(self, path: Path, text: str | None = None) -> None:
        self.path = path
        tree = ast.parse(text if text is not None else path.read_text())
        self.tree = tree
        self.parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
        self.functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
        self.calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]

    def sites(self) -> Iterator[Site]:
        for call in self.calls:
            if _is_recorders(call):
                yield from self._sites(call, call.args[METHODS[_name(call.func)]], None)

    def _sites(self, call: ast.Call, kind: ast.expr, via: ast.Call | None) -> Iterator[Site]:
        """The sites of ``call``; ``via`` is the call of the helper it stands in, once that had to be looked at."""
        inside = self._function(call)
        codes_of = self._codes(kind, inside)
        spread = next((word.value for word in call.keywords if word.arg is None), None)
        from_callers = isinstance(spread, ast.Name) and inside.args.kwarg and inside.args.kwarg.arg == spread.id
        if (codes_of is None or from_callers) and via is None:
            callers = [each for each in self.calls if _name(each.func) == inside.name]
            assert callers, f"{self.place(call)}: nobody calls {inside.name}"
            for caller in callers:
                passed_kind = kind if codes_of is not None else _argument(caller, inside, ast.unparse(kind))
                own = self._passed(call, skip_spread=bool(from_callers))
                if from_callers:
                    fixed = {argument.arg for argument in (*inside.args.args, *inside.args.kwonlyargs)}
                    theirs = self._passed(caller, without=fixed)
                    own.details |= theirs.details
                    own.sometimes |= theirs.sometimes
                    # a helper that hands its own ** on is followed once more
                    outer = self._function(caller)
                    rest = next((word.value for word in caller.keywords if word.arg is None), None)
                    if isinstance(rest, ast.Name) and outer.args.kwarg and outer.args.kwarg.arg == rest.id:
                        for again in (each for each in self.calls if _name(each.func) == outer.name):
                            theirs = self._passed(
                                again, without={argument.arg for argument in (*outer.args.args, *outer.args.kwonlyargs)}
                            )
                            more = _Passed(own.details | theirs.details, own.sometimes | theirs.sometimes)
                            yield from self._made(again, self._codes(passed_kind, outer), more)
                        continue
                yield from self._made(caller, self._codes(passed_kind, self._function(caller)), own)
            return
        yield from self._made(call, codes_of, self._passed(call))

    def _made(self, call: ast.Call, kinds: list[EventType] | None, passed: _Passed) -> Iterator[Site]:
        assert kinds, f"{self.place(call)}: which event is this?"
        for kind in kinds:
            yield Site(self.place(call), kind, passed.details, passed.sometimes)

    def place(self, node: ast.AST) -> str:
        return f"{self.path.relative_to(ROOT) if self.path.is_absolute() else self.path}:{node.lineno}"  # type: ignore[attr-defined]

    def _function(self, node: ast.AST) -> Function:
        while not isinstance(node, Function):
            node = self.parents[node]
        return node

    def _codes(self, node: ast.expr, inside: Function) -> list[EventType] | None:
        """The event types an expression may be; None for a parameter."""
        if isinstance(node, ast.Attribute) and _name(node.value) == "codes":
            return [getattr(codes, node.attr)]
        if isinstance(node, ast.IfExp):
            return [*(self._codes(node.body, inside) or []), *(self._codes(node.orelse, inside) or [])]
        if isinstance(node, ast.Name):
            values = [
                each.value
                for each in ast.walk(inside)
                if isinstance(each, ast.Assign) and any(_name(target) == node.id for target in each.targets)
            ]
            found = [kind for value in values for kind in self._codes(value, inside) or []]
            return found or None
        return None

    def _passed(self, call: ast.Call, *, skip_spread: bool = False, without: set[str] = NO_DETAILS) -> _Passed:
        passed = _Passed()
        inside = self._function(call)
        for word in call.keywords:
            if word.arg is not None:
                if word.arg not in without | NO_DETAILS:
                    passed.details[word.arg] = _type(word.value, inside)
            elif not skip_spread:
                self._spread(word.value, inside, passed)
        return passed

    def _spread(self, node: ast.expr, inside: Function, passed: _Passed) -> None:
        """What ``**node`` passes: a dict built up in the same function, or by a function of the module."""
        if isinstance(node, ast.Call):
            inside = next(each for each in self.functions if each.name == _name(node.func))
            built = next(
                _name(each.value)
                for each in ast.walk(inside)
                if isinstance(each, ast.Return) and each.value is not None
            )
        else:
            built = _name(node)
            if inside.args.kwarg is not None and inside.args.kwarg.arg == built:
                return  # followed to the callers
        found = False
        for each in ast.walk(inside):
            target, value = _assignment(each)
            if isinstance(target, ast.Name) and target.id == built and isinstance(value, ast.Dict):
                found = True
                for key, inner in zip(value.keys, value.values, strict=True):
                    assert key is not None
                    passed.details[self._key(key)] = _type(inner, inside)
            elif isinstance(target, ast.Subscript) and _name(target.value) == built:
                assert value is not None
                passed.details[self._key(target.slice)] = _type(value, inside)
                passed.sometimes.add(self._key(target.slice))
        assert found, f"{self.place(node)}: what does ** pass here?"

    def _key(self, node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        from bailiwick.evidence.inputs import DETAIL

        assert _name(node) == "DETAIL", ast.unparse(node)
        return DETAIL


def _is_recorders(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in METHODS:
        return False
    return _name(call.func.value).lstrip("_") == "recorder" and bool(call.args)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _assignment(node: ast.AST) -> tuple[ast.expr | None, ast.expr | None]:
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        return node.targets[0], node.value
    return (node.target, node.value) if isinstance(node, ast.AnnAssign) else (None, None)


def _argument(call: ast.Call, function: Function, name: str) -> ast.expr:
    """What ``call`` passes for the parameter ``name`` of ``function``."""
    for word in call.keywords:
        if word.arg == name:
            return word.value
    names = [each.arg for each in function.args.args]
    position = names.index(name) - (1 if names[0] == "self" else 0)
    return call.args[position]


def _type(node: ast.expr, inside: Function) -> str | None:
    """The type of an expression where the source alone tells it."""
    if isinstance(node, ast.Constant):
        return type(node.value).__name__
    if isinstance(node, ast.JoinedStr):
        return "str"
    if isinstance(node, ast.Compare):
        return "bool"
    if isinstance(node, (ast.List, ast.ListComp)):
        return "list[str]"
    if isinstance(node, ast.Call):
        return {"len": "int", "int": "int", "sum": "int", "str": "str", "join": "str", "sorted": "list[str]"}.get(
            _name(node.func)
        )
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        return _type(node.value, inside)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        return "int"
    if isinstance(node, ast.Name):
        for argument in (*inside.args.args, *inside.args.kwonlyargs):
            if argument.arg == node.id and argument.annotation is not None:
                told = ast.unparse(argument.annotation)
                return told if told in {"str", "int", "bool", "list[str]"} else None
    return None


def call_sites() -> list[Site]:
    """Every place of the program that makes an event."""
    return [site for path in sorted(ROOT.rglob("*.py")) for site in Module(path).sites()]
