"""Rego source, v0 or v1, as rules that can be examined before anything is run.

The syntax tree is the engine's own (``Engine.get_ast_as_json``), so what is examined is what is evaluated; nothing
here parses Rego a second time. The one thing done on the raw text comes first: its nesting is bounded, because the
engine's parser needs time exponential in the depth of array, set and object literals.

The dialect is detected: a text that is valid v1 is v1; otherwise, valid v0 is v0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec
import regorus

from bailiwick.kernel.errors import InvalidRequest

Node = dict[str, Any]
"""A node of the engine's tree: ``{kind: {…fields…}}``."""

Path = tuple[str, ...]
Dialect = Literal["v0", "v1"]
RuleKind = Literal["complete", "set", "object", "function", "default"]

MAX_LITERAL_DEPTH = 10
"""Depth of ``[`` and ``{``: each level doubles the parser's time; ten cost about 10 ms a literal."""
MAX_BRACKET_DEPTH = 40
"""Depth of all brackets together."""
MAX_TREE_DEPTH = 160
"""Depth of the syntax tree; long chains of operators or ``else`` overflow the engine's stack far above this."""
MAX_MODULE_BYTES = 256 * 1024
MAX_LINE_BYTES = 4096

RESERVED_NAMES = frozenset({"input", "data"})
_V1_KEYWORDS = frozenset({"if", "contains", "in", "every"})


class Module(msgspec.Struct, frozen=True):
    """One Rego file: ``name`` is how errors call it, ``text`` its source."""

    name: str
    text: str


class Finding(msgspec.Struct, frozen=True):
    """Why a policy is refused: ``reason`` is a key of :data:`bailiwick.kernel.errors.REASONS`."""

    file: str
    line: int | None
    reason: str
    message: str


class PolicyRefused(InvalidRequest):
    """The policy must not be run; ``findings`` say where and why."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        first = findings[0]
        where = first.file if first.line is None else f"{first.file}:{first.line}"
        super().__init__(f"{where}: {first.message}", policy_reason=first.reason)
        self.findings = findings


@dataclass(frozen=True, slots=True)
class Body:
    """One body of a rule. ``value`` is what the rule is worth when the body holds; None stands for true."""

    value: Node | None
    statements: list[Node]
    is_else: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as written. ``path`` is the constant part of its head, below the package."""

    kind: RuleKind
    path: Path
    head: Node
    args: list[Node]
    key: Node | None
    bodies: list[Body]
    line: int
    dynamic_head: bool = False

    @property
    def bodies_as_nodes(self) -> list[object]:
        """Everything the bodies are made of, for :func:`descend`."""
        return [[body.statements, body.value] for body in self.bodies]

    @property
    def is_test(self) -> bool:
        """Whether ``opa test`` would run it."""
        return self.path[0].startswith("test_")


@dataclass(frozen=True, slots=True)
class ParsedModule:
    """A module and its tree. ``imports`` maps an alias to the absolute path it stands for (``("input", "user")``)."""

    module: Module
    dialect: Dialect
    package: Path
    imports: Mapping[str, Path]
    rules: list[Rule]
    source: bytes = field(repr=False)

    @property
    def is_test(self) -> bool:
        """Whether the file holds tests and their helpers only (``*_test.rego``)."""
        return self.module.name.endswith("_test.rego")

    def text_of(self, body: Mapping[str, Any]) -> str:
        """The source text under a node's span."""
        span = body["span"]
        return self.source[span["start"] : span["end"]].decode("utf-8", "strict")


def parse(module: Module) -> ParsedModule:
    """Parses one module, detecting its dialect.

    Raises :class:`PolicyRefused` with ``policy_too_deep`` or ``policy_syntax_error``.
    """
    check_nesting(module)
    tree, dialect = _tree(module)
    source = module.text.encode()
    _refuse_reserved_words(module, tree, dialect)
    package = constant_path(tree["package"]["refr"])
    if package is None:
        raise _syntax_error(module, 1, "the package name is not constant")
    return ParsedModule(
        module=module,
        dialect=dialect,
        package=package,
        imports=_imports(module, tree),
        rules=[_rule(module, node, dialect) for node in tree["rules"]],
        source=source,
    )


# --- before the engine sees the text -----------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<space>[\s,;]+)|(?P<comment>\#[^\n]*)|(?P<raw>`[^`]*`)|(?P<string>"(?:[^"\\\n]|\\.)*")"""
    r"""|(?P<open>[\[{(])|(?P<close>[\]})])|(?P<word>[^\s\[\](){}"`\#,;]+)|(?P<stray>["`])""",
)


def check_nesting(module: Module) -> None:
    """Refuses a text too large or too deeply nested to be parsed in bounded time.

    Raises :class:`PolicyRefused` with ``policy_too_deep`` or ``policy_syntax_error``.
    """
    encoded_length = len(module.text.encode("utf-8", "surrogatepass"))
    if encoded_length > MAX_MODULE_BYTES:
        raise _syntax_error(module, None, f"the file is larger than {MAX_MODULE_BYTES} bytes")
    if "\x00" in module.text or any("\ud800" <= char <= "\udfff" for char in module.text):
        raise _syntax_error(module, None, "the file is not text")
    literals = depth = 0
    stack: list[bool] = []
    indexable = False
    for match in _TOKEN.finditer(module.text):
        kind = match.lastgroup
        if kind == "open":
            # a bracket right behind a name is an index, which parses in linear time
            literal = match.group() in "[{" and not (match.group() == "[" and indexable)
            stack.append(literal)
            literals += literal
            depth += 1
            if literals > MAX_LITERAL_DEPTH or depth > MAX_BRACKET_DEPTH:
                line = module.text.count("\n", 0, match.start()) + 1
                raise PolicyRefused(
                    (
                        Finding(
                            module.name,
                            line,
                            "policy_too_deep",
                            f"brackets nest deeper than {MAX_LITERAL_DEPTH} literals or {MAX_BRACKET_DEPTH} in all",
                        ),
                    )
                )
        elif kind == "close" and stack:
            literals -= stack.pop()
            depth -= 1
        indexable = kind in ("close", "word", "string", "raw") and not _is_operator(match.group())


def _is_operator(token: str) -> bool:
    return not (token[-1].isalnum() or token[-1] in '_]})"`')


# --- the engine's tree -------------------------------------------------------------------------------------------


def _tree(module: Module) -> tuple[Node, Dialect]:
    try:
        return _tree_as(module, "v1"), "v1"
    except PolicyRefused as v1_error:
        if v1_error.findings[0].reason != "policy_syntax_error":
            raise
        try:
            return _tree_as(module, "v0"), "v0"
        except PolicyRefused as v0_error:
            wants_v0 = "keyword is required" in v1_error.findings[0].message
            raise (v0_error if wants_v0 else v1_error) from None


def _tree_as(module: Module, dialect: Dialect) -> Node:
    engine = regorus.Engine()
    engine.set_rego_v0(dialect == "v0")
    engine.set_policy_length_config(max_col=MAX_LINE_BYTES, max_file_bytes=MAX_MODULE_BYTES, max_lines=20_000)
    try:
        engine.add_policy(module.name, module.text)
        encoded = engine.get_ast_as_json()
    except RuntimeError as error:
        said = engine_message(error)
        raise _syntax_error(module, said.line, said.text) from None
    try:
        tree: Node = msgspec.json.decode(encoded)[0]["ast"]
    except (RecursionError, msgspec.DecodeError):
        raise _too_deep(module) from None
    if not _shallow(tree):
        raise _too_deep(module)
    return tree


class EngineMessage(NamedTuple):
    """What the engine said, in one line; where it names a place, the file and line. May quote the input."""

    text: str
    file: str | None
    line: int | None


def engine_message(error: BaseException) -> EngineMessage:
    """An error of the engine without its back trace."""
    text = str(error).split("Stack backtrace", 1)[0]
    place = re.search(r"-->\s*(.*?):(\d+):\d+", text)
    said = re.search(r"error: (.*)", text)
    message = said.group(1).strip() if said else (text.strip().splitlines() or ["unknown error"])[0].strip()
    return EngineMessage(message, place.group(1) if place else None, int(place.group(2)) if place else None)


def _shallow(tree: Node) -> bool:
    level: list[Any] = [tree]
    for _ in range(MAX_TREE_DEPTH * 2):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return True
    return False


def _too_deep(module: Module) -> PolicyRefused:
    return PolicyRefused((Finding(module.name, None, "policy_too_deep", "an expression or else chain is too long"),))


def _syntax_error(module: Module, line: int | None, message: str) -> PolicyRefused:
    return PolicyRefused((Finding(module.name, line, "policy_syntax_error", message),))


def _refuse_reserved_words(module: Module, tree: Node, dialect: Dialect) -> None:
    """``input`` and ``data`` must mean the same everywhere; v1 keywords in v0 text change what a rule is.

    Without ``import future.keywords.if`` the engine reads ``allow if { … }`` in v0 as the unconditional rule
    ``allow`` followed by a rule named ``if``.
    """
    for node in tree["rules"]:
        kind, rule = kind_of(node)
        head = kind_of(rule["head"])[1] if kind == "Spec" else rule
        name = root_name(head["refr"])
        line = rule["span"]["line"]
        if name in RESERVED_NAMES:
            raise _syntax_error(module, line, f"`{name}` must not be redefined")
        if dialect == "v1":
            continue
        if name in _V1_KEYWORDS:
            raise _syntax_error(module, line, f"`{name}` is used as v1 keyword and as name in one file")
        bare = kind == "Spec" and not rule["bodies"] and next(iter(rule["head"])) == "Compr" and not head["assign"]
        if bare:
            raise _syntax_error(module, line, f"rule `{name}` has neither a body nor a value")
    for kind, node in descend(tree["rules"]):
        if kind == "Var" and dialect == "v0" and node["value"] in _V1_KEYWORDS - {"contains"}:
            line = node["span"]["line"]
            raise _syntax_error(module, line, f"`{node['value']}` is used as a name; import future.keywords or rego.v1")


def _imports(module: Module, tree: Node) -> dict[str, Path]:
    imports: dict[str, Path] = {}
    for node in tree["imports"]:
        path = constant_path(node["refr"])
        if path is None:
            raise _syntax_error(module, node["span"]["line"], "the import is not constant")
        if path[0] in ("rego", "future"):
            continue
        alias = node.get("as")
        name = module.text.encode()[alias["start"] : alias["end"]].decode() if alias else path[-1]
        if (name in RESERVED_NAMES and path != (name,)) or (name in imports and imports[name] != path):
            raise _syntax_error(module, node["span"]["line"], f"`{name}` must not be redefined")
        imports[name] = path
    return imports


def _rule(module: Module, node: Node, dialect: Dialect) -> Rule:
    kind, rule = kind_of(node)
    line: int = rule["span"]["line"]
    if kind == "Default":
        path, dynamic = head_path(rule["refr"])
        body = Body(rule["value"], [], False)
        return Rule("default", path, rule["refr"], rule["args"], None, [body], line, dynamic)
    if kind != "Spec":
        raise _syntax_error(module, line, f"unknown kind of rule {kind}")
    head_kind, head = kind_of(rule["head"])
    path, dynamic = head_path(head["refr"])
    assigned = head.get("assign")
    value = assigned["value"] if assigned else None
    bodies = [
        Body(
            body["assign"]["value"] if body["assign"] else (None if body["is_else"] else value),
            body["query"]["stmts"],
            body["is_else"],
        )
        for body in rule["bodies"]
    ] or [Body(value, [], False)]
    rule_kind: RuleKind
    if head_kind == "Func":
        rule_kind = "function"
    elif head_kind == "Set":
        # v0 writes `a.b { … }`, without a key, for something older engines read as a set holding "b"
        rule_kind, dynamic = "set", dynamic or head.get("key") is None
    else:
        rule_kind = "object" if dynamic else "complete"
    return Rule(rule_kind, path, head["refr"], head.get("args") or [], head.get("key"), bodies, line, dynamic)


# --- reading nodes -----------------------------------------------------------------------------------------------


def kind_of(node: Node) -> tuple[str, Node]:
    """The kind and the fields of a node."""
    return next(iter(node.items()))


def is_node(value: object) -> bool:
    """Whether a value found in the tree is a node: one capitalised key that holds fields."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    name, fields = next(iter(value.items()))
    return isinstance(fields, dict) and isinstance(name, str) and name[:1].isupper()


def descend(tree: object) -> Iterator[tuple[str, Node]]:
    """Every node below (and including) ``tree``, in source order."""
    pending: list[object] = [tree]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            if is_node(item):
                yield kind_of(item)
            pending.extend(reversed(item.values()))
        elif isinstance(item, list):
            pending.extend(reversed(item))


def children(fields: Node) -> Iterator[Node]:
    """The nodes directly below a node's fields."""
    pending: list[object] = list(fields.values())
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            if is_node(item):
                yield item
            else:
                pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def root_name(node: Node) -> str | None:
    """The variable a reference starts from, if it starts from one."""
    kind, body = kind_of(node)
    while kind in ("RefDot", "RefBrack"):
        kind, body = kind_of(body["refr"])
    return str(body["value"]) if kind == "Var" else None


def reference(node: Node) -> tuple[str, list[str | Node]] | None:
    """A reference as its root name and its steps, constant strings or index nodes; None for anything else."""
    steps: list[str | Node] = []
    kind, body = kind_of(node)
    while kind in ("RefDot", "RefBrack"):
        if kind == "RefDot":
            steps.append(str(body["field"][1]))
        else:
            index_kind, index = kind_of(body["index"])
            steps.append(str(index["value"]) if index_kind in ("String", "RawString") else body["index"])
        kind, body = kind_of(body["refr"])
    if kind != "Var":
        return None
    steps.reverse()
    return str(body["value"]), steps


def constant_path(node: Node) -> Path | None:
    """A reference that is constant all through, or None."""
    found = reference(node)
    if found is None or not all(isinstance(step, str) for step in found[1]):
        return None
    return (found[0], *(step for step in found[1] if isinstance(step, str)))


def head_path(node: Node) -> tuple[Path, bool]:
    """The constant prefix of a rule's head, and whether more follows it."""
    found = reference(node)
    assert found is not None, "the engine only parses references as heads"
    prefix: list[str] = [found[0]]
    for step in found[1]:
        if not isinstance(step, str):
            return tuple(prefix), True
        prefix.append(step)
    return tuple(prefix), False
