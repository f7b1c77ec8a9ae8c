"""Reads the program's source for every place that makes an event: which codes, and which details it passes.

``python tests/evidence/call_sites.py`` shows what the codes that have no schema yet pass.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from inspect import Parameter, signature
from pathlib import Path

import bailiwick
from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.events import Recorder
from bailiwick.evidence.inputs import DETAIL

ROOT = Path(bailiwick.__file__).parent
NO_DETAILS = {name for name, each in signature(Recorder.make).parameters.items() if each.kind is Parameter.KEYWORD_ONLY}
# position of the event type among the arguments of the two methods
METHODS = {"make": 0, "record": 1}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Passed:
    """Details a call passes: names with their types where the source tells them, and those not always passed.

    ``opaque``: something is passed besides that cannot be read out of the source.
    """

    details: dict[str, str | None] = field(default_factory=dict)
    sometimes: set[str] = field(default_factory=set)
    opaque: bool = False

    def __or__(self, other: Passed) -> Passed:
        return Passed(self.details | other.details, self.sometimes | other.sometimes, self.opaque or other.opaque)


@dataclass
class Site:
    """One call with one possible code."""

    place: str
    code: EventType
    passed: Passed


class Module:
    """A source file, with what is needed to follow an argument to where it comes from."""

    def __init__(self, path: Path, text: str | None = None) -> None:
        self.path = path
        self.tree = ast.parse(path.read_text() if text is None else text)
        nodes = list(ast.walk(self.tree))
        self.parents = {child: parent for parent in nodes for child in ast.iter_child_nodes(parent)}
        self.functions = [node for node in nodes if isinstance(node, Function)]
        self.classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
        self.calls = [node for node in nodes if isinstance(node, ast.Call)]
        self.imported = {
            alias.name: node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
        }

    @property
    def name(self) -> str:
        """As others import it."""
        return ".".join(("bailiwick", *self.path.relative_to(ROOT).with_suffix("").parts))

    def place(self, node: ast.expr) -> str:
        """``file:line`` for people."""
        return f"{self.path.relative_to(ROOT) if self.path.is_absolute() else self.path}:{node.lineno}"

    def function_of(self, node: ast.AST) -> Function:
        """The function a node stands in."""
        while not isinstance(node, Function):
            node = self.parents[node]
        return node

    def assigned(self, inside: ast.AST, name: str) -> list[ast.expr]:
        """What is assigned to a name there."""
        return [value for node in ast.walk(inside) for target, value in [_assignment(node)] if _name(target) == name]


class Program:
    """All modules, in which callers of helpers are looked for."""

    def __init__(self, modules: list[Module]) -> None:
        self._modules = modules

    def sites(self) -> Iterator[Site]:
        """Every call of a recorder, with each code it may be of."""
        for module in self._modules:
            for call in module.calls:
                if _is_recorders(call):
                    yield from self._follow(module, call, call.args[METHODS[_name(call.func)]], self._own(module, call))

    def _follow(self, module: Module, call: ast.Call, kind: ast.expr | list[EventType], own: Passed) -> Iterator[Site]:
        """The sites of a call; where it gets its code or its details from a caller, those of the callers."""
        inside = module.function_of(call)
        kinds = kind if isinstance(kind, list) else self._codes(module, kind, inside)
        handed_on = _hands_on(call, inside)
        if kinds is not None and not handed_on:
            yield from (Site(module.place(call), each, own) for each in kinds)
            return
        callers = list(self._callers(module, inside))
        assert callers, f"{module.place(call)}: which event is this, and what does it say? Nobody calls {inside.name}"
        for elsewhere, caller in callers:
            theirs = own | self._own(elsewhere, caller, _parameters(inside)) if handed_on else own
            assert kinds is not None or not isinstance(kind, list)
            passed_kind = kinds if kinds is not None else _argument(caller, inside, _name(kind))  # type: ignore[arg-type]
            yield from self._follow(elsewhere, caller, passed_kind, theirs)

    def _callers(self, module: Module, function: Function) -> Iterator[tuple[Module, ast.Call]]:
        method = any(each.arg == "self" for each in function.args.args[:1])
        for other in self._modules:
            if other is module or other.imported.get(function.name) == module.name:
                for call in other.calls:
                    if _name(call.func) == function.name and isinstance(call.func, ast.Attribute) is method:
                        yield other, call

    def _codes(self, module: Module, node: ast.expr, inside: Function) -> list[EventType] | None:
        """The event types an expression may be; None for a parameter."""
        if isinstance(node, ast.Attribute) and _name(node.value) == "codes":
            return [getattr(codes, node.attr)]
        if isinstance(node, ast.IfExp):
            either = [self._codes(module, each, inside) for each in (node.body, node.orelse)]
            return [kind for kinds in either for kind in kinds or []]
        values: list[ast.expr] = []
        if isinstance(node, ast.Subscript):  # a table of the module
            tables = module.assigned(module.tree, _name(node.value))
            values = [value for table in tables if isinstance(table, ast.Dict) for value in table.values]
        elif isinstance(node, ast.Name):
            values = module.assigned(inside, node.id)
        return [kind for value in values for kind in self._codes(module, value, inside) or []] or None

    def _own(self, module: Module, call: ast.Call, without: set[str] = NO_DETAILS) -> Passed:
        """What the call itself names."""
        passed, inside = Passed(), module.function_of(call)
        for word in call.keywords:
            if word.arg is None:
                if not _is_own_spread(word.value, inside):
                    passed |= self._spread(module, word.value, inside)
            elif word.arg not in without | NO_DETAILS:
                passed.details[word.arg] = _type(word.value, inside)
        return passed

    def _spread(self, module: Module, node: ast.expr, inside: Function) -> Passed:
        """What ``**node`` passes: a dict built up there, by another function or method of the module, or a dataclass."""
        if isinstance(node, ast.Dict):
            return _display(node, inside)
        if isinstance(node, ast.Name):
            return _built(module, node.id, inside)
        if isinstance(node, ast.Call):
            name = _name(node.func)
            if name == "asdict":
                return _of_dataclass(module, node.args[0], inside)
            for function in module.functions:
                returned = [each.value for each in ast.walk(function) if isinstance(each, ast.Return)]
                if function.name == name and returned and returned[0] is not None:
                    return self._spread(module, returned[0], function)
        return Passed(opaque=True)


def _built(module: Module, name: str, inside: Function) -> Passed:
    displays = [value for value in module.assigned(inside, name) if isinstance(value, ast.Dict)]
    if not displays:
        return Passed(opaque=True)
    passed = _display(displays[0], inside)
    for node in ast.walk(inside):
        target, value = _assignment(node)
        if isinstance(target, ast.Subscript) and _name(target.value) == name:
            passed.details[_key(target.slice)] = _type(value, inside)
            passed.sometimes.add(_key(target.slice))
    return passed


def _display(node: ast.Dict, inside: Function) -> Passed:
    passed = Passed()
    for key, value in zip(node.keys, node.values, strict=True):
        if key is None:
            passed.opaque = True
        else:
            passed.details[_key(key)] = _type(value, inside)
    return passed


def _of_dataclass(module: Module, node: ast.expr, inside: Function) -> Passed:
    of = next((_name(each.annotation) for each in _arguments(inside) if each.arg == _name(node)), "")
    if of not in module.classes:
        return Passed(opaque=True)
    fields = [each for each in module.classes[of].body if isinstance(each, ast.AnnAssign)]
    return Passed({_name(each.target): ast.unparse(each.annotation) for each in fields})


def _is_recorders(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in METHODS:
        return False
    return _name(call.func.value).lstrip("_") == "recorder" and bool(call.args)


def _hands_on(call: ast.Call, inside: Function) -> bool:
    """Whether the call passes on what its function was given as ``**``."""
    return any(word.arg is None and _is_own_spread(word.value, inside) for word in call.keywords)


def _is_own_spread(node: ast.expr, inside: Function) -> bool:
    return isinstance(node, ast.Name) and inside.args.kwarg is not None and inside.args.kwarg.arg == node.id


def _arguments(function: Function) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def _parameters(function: Function) -> set[str]:
    return {each.arg for each in _arguments(function)}


def _argument(call: ast.Call, function: Function, name: str) -> ast.expr:
    """What ``call`` passes for the parameter ``name`` of ``function``."""
    for word in call.keywords:
        if word.arg == name:
            return word.value
    names = [each.arg for each in _arguments(function)]
    return call.args[names.index(name) - (names[0] == "self")]


def _name(node: ast.AST | None) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _key(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert _name(node) == "DETAIL", ast.unparse(node)
    return DETAIL


def _assignment(node: ast.AST) -> tuple[ast.expr | None, ast.expr]:
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        return node.targets[0], node.value
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        return node.target, node.value
    return None, ast.Constant(None)


_TYPE_OF_CALL = {"len": "int", "int": "int", "sum": "int", "str": "str", "join": "str", "sorted": "list[str]"}


def _type(node: ast.expr, inside: Function) -> str | None:
    """The type of an expression where the source alone tells it."""
    if isinstance(node, ast.Constant):
        return type(node.value).__name__
    if isinstance(node, ast.JoinedStr):
        return "str"
    if isinstance(node, ast.Compare):
        return "bool"
    if isinstance(node, ast.List | ast.ListComp):
        return "list[str]"
    if isinstance(node, ast.Call):
        return _TYPE_OF_CALL.get(_name(node.func))
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        return _type(node.value, inside)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        return "int"
    if isinstance(node, ast.Name):
        told = next((each.annotation for each in _arguments(inside) if each.arg == node.id), None)
        return ast.unparse(told) if told is not None and ast.unparse(told) in _TYPES else None
    return None


_TYPES = {"str", "int", "bool", "list[str]"}


def call_sites() -> list[Site]:
    """Every place of the program that makes an event."""
    return list(Program([Module(path) for path in sorted(ROOT.rglob("*.py"))]).sites())


def main() -> None:
    """Show the details of each code that the schema does not know, with their types where the source tells them."""
    from bailiwick.evidence.details import DETAILS

    for site in call_sites():
        if site.code not in DETAILS:
            shown = [f"{name}: {type or '?'}" for name, type in site.passed.details.items()]
            print(f"{site.code.code} {site.code.name:32} {site.place:32} {', '.join(shown)}{' …' * site.passed.opaque}")


if __name__ == "__main__":
    main()
