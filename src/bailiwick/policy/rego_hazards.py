"""Functions that a policy may not call, and calls whose cost a request could drive without bound.

A decision must be a function of the policy set and the input alone, so everything that reads a clock, chance, the
network or the process is refused. What remains is bounded: where a function can make much out of little (a range, a
width, a pattern, text joined with itself again and again), its arguments must show the bound in the source.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping

from bailiwick.policy.rego_reach import (
    COMPREHENSIONS,
    SCALARS,
    Call,
    RuleGraph,
    RuleReach,
    constant_prefix,
    declared_names,
)
from bailiwick.policy.rego_syntax import Finding, Node, Path, children, descend, kind_of, reference

MAX_RANGE = 10_000
MAX_WIDTH = 64
MAX_SHIFT = 64
MAX_CIDR_HOSTS = 4_096
MAX_GROWTH = 4_096
"""How many times a value of the input may be repeated in a value built from it."""

TIME_FUNCTIONS = frozenset({"time.now_ns"})

FORBIDDEN: Mapping[str, str] = {
    "http.send": "reaches the network",
    "net.lookup_ip_addr": "reaches the network",
    "opa.runtime": "reads the process",
    "rand.intn": "differs from run to run",
    "uuid.rfc4122": "differs from run to run",
    "time.now_ns": "reads the clock; put the time into the input",
    "trace": "is for debugging",
    "print": "is for debugging",
    "graph.reachable_paths": "takes time exponential in its argument",
    "rego.parse_module": "reads policy text",
    "rego.metadata.chain": "reads policy text",
    "rego.metadata.rule": "reads policy text",
}
FORBIDDEN_FAMILIES: Mapping[str, str] = {
    "io.jwt.": "verifies tokens, which is done before policy is asked",
    "providers.": "reaches the network",
    "crypto.": "is not for policies",
}

ALLOWED = frozenset(
    """
    abs array.concat array.reverse array.slice base64.decode base64.encode base64.is_valid base64url.decode
    base64url.encode base64url.encode_no_pad bits.and bits.lsh bits.negate bits.or bits.rsh bits.xor ceil concat
    contains count endswith floor format_int glob.match glob.quote_meta graph.reachable hex.decode hex.encode indexof
    indexof_n intersection is_array is_boolean is_null is_number is_object is_set is_string json.filter json.is_valid
    json.marshal json.marshal_with_options json.match_schema json.patch json.remove json.unmarshal json.verify_schema
    lower max min net.cidr_contains net.cidr_expand net.cidr_is_valid numbers.range numbers.range_step object.filter
    object.get object.keys object.remove object.subset object.union object.union_n product
    regex.find_all_string_submatch_n regex.find_n regex.is_valid regex.match regex.replace regex.split
    regex.template_match replace round semver.compare semver.is_valid set sort split sprintf startswith
    strings.any_prefix_match strings.any_suffix_match strings.count strings.replace_n strings.reverse substring sum
    time.add_date time.clock time.date time.diff time.format time.parse_duration_ns time.parse_ns
    time.parse_rfc3339_ns time.weekday to_number trim trim_left trim_prefix trim_right trim_space trim_suffix
    type_name union units.parse units.parse_bytes upper urlquery.decode urlquery.decode_object urlquery.encode
    urlquery.encode_object uuid.parse walk yaml.is_valid yaml.marshal yaml.unmarshal
    """.split()  # noqa: SIM905
)
"""The engine's functions (0.13) that are deterministic and without effect."""

_NOT_FROM_INPUT: Mapping[str, int] = {
    "regex.match": 0,
    "regex.find_n": 0,
    "regex.find_all_string_submatch_n": 0,
    "regex.split": 0,
    "regex.template_match": 0,
    "regex.is_valid": 0,
    "regex.replace": 1,
    "glob.match": 0,
    "json.match_schema": 1,
    "json.verify_schema": 0,
    "json.patch": 1,
    "yaml.unmarshal": 0,
    "yaml.is_valid": 0,
}
"""Functions one of whose arguments is a program of its own (a pattern, a schema, a patch, YAML with its aliases)."""

_JOINS: Mapping[str, int] = {
    "array.concat": 1,
    "concat": 1,
    "sprintf": 1,
    "object.union": 1,
    "object.union_n": 1,
    "union": 1,
    "product": 1,
    "hex.encode": 2,
    "base64.encode": 2,
    "base64url.encode": 2,
    "json.marshal": 2,
    "yaml.marshal": 2,
    "urlquery.encode": 3,
    "urlquery.encode_object": 3,
}
"""Functions whose result can be as long as all their arguments together, times this."""

_REPLACES = frozenset({"replace", "strings.replace_n", "regex.replace"})


def call_findings(graph: RuleGraph) -> Iterator[Finding]:
    """Findings for calls that are forbidden, unknown, or not bounded by what stands in the source."""
    growth = _Growth(graph)
    grown = False
    for group in graph.reaches.values():
        for reach in group:
            file = reach.module.module.name
            for line, reason, message in reach.problems:
                if not (reach.is_test and reason == "policy_forbidden_builtin"):
                    yield Finding(file, line, reason, message)
            taint = _Taint(reach, graph)
            for call in reach.calls:
                finding = _forbidden(call) or _unbounded(call, reach, taint)
                if finding:
                    yield Finding(file, call.line, *finding)
            if not grown and growth.of_rule(reach) > MAX_GROWTH:
                grown = True
                message = f"a value of the input is repeated more than {MAX_GROWTH} times"
                yield Finding(file, reach.rule.line, "policy_unbounded", message)


def _forbidden(call: Call) -> tuple[str, str] | None:
    why = FORBIDDEN.get(call.name)
    if why is None:
        why = next((text for family, text in FORBIDDEN_FAMILIES.items() if call.name.startswith(family)), None)
    if why is not None:
        return "policy_forbidden_builtin", f"`{call.name}` {why}"
    if call.name not in ALLOWED:
        return "policy_unknown_builtin", f"there is no function `{call.name}`"
    return None


def _unbounded(call: Call, reach: RuleReach, taint: _Taint) -> tuple[str, str] | None:
    name, args = call.name, call.args
    if name in ("numbers.range", "numbers.range_step"):
        ends = [_integer(arg) for arg in args[:2]]
        if len(ends) < 2 or None in ends or abs((ends[1] or 0) - (ends[0] or 0)) > MAX_RANGE:
            return "policy_unbounded", f"`{name}` needs literal ends at most {MAX_RANGE} apart"
    elif name == "sprintf":
        template = _string(args[0]) if args else None
        if template is None:
            return "policy_unbounded", "`sprintf` needs a literal format"
        if "*" in template or any(int(width) > MAX_WIDTH for width in re.findall(r"\d+", template)):
            return "policy_unbounded", f"`sprintf` takes literal widths of at most {MAX_WIDTH}"
    elif name == "net.cidr_expand":
        if not _small_network(_string(args[0]) if args else None):
            return "policy_unbounded", f"`{name}` needs a literal network of at most {MAX_CIDR_HOSTS} addresses"
    elif name == "bits.lsh":
        shift = _integer(args[1]) if len(args) > 1 else None
        if shift is None or shift > MAX_SHIFT:
            return "policy_unbounded", f"`{name}` needs a literal shift of at most {MAX_SHIFT}"
    elif name in _NOT_FROM_INPUT:
        position = _NOT_FROM_INPUT[name]
        if not reach.is_test and len(args) > position and taint.holds(args[position]):
            return "policy_unbounded", f"argument {position + 1} of `{name}` must not come from the input"
    return None


def _small_network(text: str | None) -> bool:
    try:
        return text is not None and ipaddress.ip_network(text, strict=False).num_addresses <= MAX_CIDR_HOSTS
    except ValueError:
        return False


def _string(node: Node) -> str | None:
    kind, body = kind_of(node)
    return str(body["value"]) if kind in ("String", "RawString") else None


def _integer(node: Node) -> int | None:
    kind, body = kind_of(node)
    return body["value"] if kind == "Number" and isinstance(body["value"], int) else None


# --- where a local name's value comes from -----------------------------------------------------------------------


def bindings(reach: RuleReach) -> dict[str, list[Node]]:
    """For each local name of a rule, the expressions its value can come from, over all scopes together."""
    found: dict[str, list[Node]] = {}

    def bind(patterns: list[Node], source: Node) -> None:
        for name in declared_names(patterns):
            found.setdefault(name, []).append(source)

    for kind, body in descend(reach.rule.bodies_as_nodes):
        if kind == "AssignExpr":
            bind([body["lhs"]], body["rhs"])
            if body["op"] == "Eq":
                bind([body["rhs"]], body["lhs"])
        elif kind == "SomeIn":
            bind([node for node in (body["key"], body["value"]) if node is not None], body["collection"])
        elif kind == "Every":
            source = reach.module.source
            for span in (body["key"], body["value"]):
                if span is not None:
                    found.setdefault(source[span["start"] : span["end"]].decode(), []).append(body["domain"])
    return found


class _Taint:
    """Whether an expression can hold something of the input. What cannot be told, can."""

    def __init__(self, reach: RuleReach, graph: RuleGraph) -> None:
        self._reach = reach
        self._graph = graph
        self._bindings: dict[str, list[Node]] | None = None
        self._open: set[str] = set()

    def holds(self, node: Node) -> bool:
        kind, body = kind_of(node)
        found = reference(node) if kind in ("Var", "RefDot", "RefBrack") else None
        if found is not None:
            return self._reference_holds(*found)
        if kind == "Call":
            return any(map(self.holds, body["params"])) or self._function_holds(body["fcn"])
        return any(self.holds(child) for child in children(body))

    def _function_holds(self, function: Node) -> bool:
        found = reference(function)
        if found is None:
            return True
        name = ".".join([found[0], *(str(step) for step in found[1])])
        own = (*self._reach.module.package, found[0]) in self._graph.reaches
        return (own or name not in ALLOWED) and self._reference_holds(*found)

    def _reference_holds(self, root: str, steps: list[str | Node]) -> bool:
        prefix = constant_prefix(steps)
        if self._bindings is None:
            self._bindings = bindings(self._reach)
        if root in self._bindings:
            return self._local_holds(root)
        if root == "input":
            return True
        if root == "data":
            return self._stands_on_input(prefix)
        imported = self._reach.module.imports.get(root)
        if imported is not None:
            return imported[0] == "input" or self._stands_on_input(imported[1:] + prefix)
        target = (*self._reach.module.package, root, *prefix)
        return not self._graph.targets(target) or self._stands_on_input(target)

    def _local_holds(self, name: str) -> bool:
        assert self._bindings is not None
        if name in self._open:
            return False
        self._open.add(name)
        try:
            return any(self.holds(source) for source in self._bindings[name])
        finally:
            self._open.discard(name)

    def _stands_on_input(self, ref: Path) -> bool:
        reached = self._graph.closure(self._graph.targets(ref))
        return any(reach.input for path in reached for reach in self._graph.reaches[path])


# --- how often a value is repeated -------------------------------------------------------------------------------


class _Growth:
    """An upper estimate of how often one value of the input stands in a value built from it.

    A constant counts nothing itself, so that a large table of grants is no growth; ``[x, x]`` doubles, and
    ``concat("", [x, x])`` of that doubles again. Comprehensions are left to the instruction limit.
    """

    def __init__(self, graph: RuleGraph) -> None:
        self._graph = graph
        self._rules: dict[int, float] = {}
        self._bindings: dict[int, dict[str, list[Node]]] = {}
        self._locals: dict[tuple[int, str], float] = {}

    def of_rule(self, reach: RuleReach) -> float:
        """The largest growth of any value the rule computes."""
        key = id(reach)
        if key not in self._rules:
            self._rules[key] = 1.0
            self._bindings[key] = bindings(reach)
            values = [node for body in reach.rule.bodies for node in (body.value, reach.rule.key) if node is not None]
            growth = max((self._of(node, reach) for node in values), default=1.0)
            for name in self._bindings[key]:
                growth = max(growth, self._of_name(name, reach))
            self._rules[key] = growth
        return self._rules[key]

    def _of(self, node: Node, reach: RuleReach) -> float:
        kind, body = kind_of(node)
        if kind in SCALARS:
            return 0.0
        if kind in ("Array", "Set"):
            return sum(self._of(item, reach) for item in body["items"])
        if kind == "Object":
            return sum(self._of(key, reach) + self._of(value, reach) for _, key, value in body["fields"])
        if kind in COMPREHENSIONS:
            return sum(self._of(body[part], reach) for part in ("term", "key", "value") if part in body)
        if kind in ("ArithExpr", "BinExpr"):
            return self._of(body["lhs"], reach) + self._of(body["rhs"], reach)
        if kind == "Call":
            return self._of_call(body, reach)
        if kind in ("Var", "RefDot", "RefBrack"):
            found = reference(node)
            return self._of_reference(found[0], found[1], reach) if found else self._of(body["refr"], reach)
        return 1.0

    def _of_reference(self, root: str, steps: list[str | Node], reach: RuleReach) -> float:
        of_root = self._of_name(root, reach) if root in self._bindings[id(reach)] else 1.0
        imported = reach.module.imports.get(root, ("data", *reach.module.package, root))
        prefix = constant_prefix(steps)
        target = prefix if root == "data" else imported[1:] + prefix
        return max([of_root, *(self.of_rule(other) for other in self._reaches_of(target))])

    def _reaches_of(self, target: Path) -> Iterator[RuleReach]:
        for path in self._graph.targets(target):
            yield from self._graph.reaches[path]

    def _of_name(self, name: str, reach: RuleReach) -> float:
        key = (id(reach), name)
        if key not in self._locals:
            self._locals[key] = 1.0
            self._locals[key] = max(self._of(source, reach) for source in self._bindings[id(reach)][name])
        return self._locals[key]

    def _of_call(self, body: Node, reach: RuleReach) -> float:
        args = [self._of(arg, reach) for arg in body["params"]]
        found = reference(body["fcn"])
        name = ".".join([found[0], *(str(step) for step in found[1])]) if found else ""
        if name in _JOINS:
            return sum(args) * _JOINS[name]
        if name in _REPLACES:
            literal = [_string(arg) for arg in body["params"]]
            longest = max((len(text) for text in literal if text is not None), default=1)
            return max(1.0, sum(args)) * max(1, longest)
        if name in ALLOWED or not found:
            return max(args, default=0.0)
        return max(1.0, sum(args)) * max(1.0, self._of_reference(found[0], found[1], reach))
