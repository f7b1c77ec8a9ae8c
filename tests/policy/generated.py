"""Random policies and inputs: small vocabularies, so that rules, data and inputs meet."""

from __future__ import annotations

from random import Random
from typing import Any

DATA: dict[str, Any] = {"d": {"a": [1, 2], "m": {"k": "a"}}}

_REFERENCES = [
    "input.a",
    "input.l",
    "input.o",
    "input.s",
    "input.x",
    "input.b",
    "input.n",
    "input.o.k",
    "input.l[0]",
    "input.nope",
    "input.o.k.z",
    "input.m",
    'input["s"]',
    "data.d.a",
    "data.d.m.k",
    "helper",
    "tag",
    "names.a",
    "one(1)",
    'one("a")',
    "either",
    "leveled",
    "table.k",
    "size",
]
_CONSTANTS = ["1", "2", '"a"', '"b"', "true", "false", "null", '"k"', "[]", "[1]", '{"k": 1}', "0", '""']
_HELPERS = """
helper := 1 if input.b
tag := input.s
names contains x if { some x in input.l }
names contains "a" if { input.x == 1 }
one(q) := true if { q == 1 }
one(q) := true if { q == "a" }
default either := false
either := true if { input.x == 1 }
leveled := "a" if { input.x == 1 } else := "b" if { input.b }
table[k] := true if { some k in ["k", "a"]; k == input.s }
size := count(input.l)
"""
_VALUES: list[Any] = [1, 2, "a", "b", "k", True, False, None, [], [1], ["a", "b"], [1, "a", None], {"k": 1}, {}, "", 0]


def random_policy(chance: Random) -> str:
    """The text of a v1 module, without its package line."""
    return _Writer(chance).policy()


def random_input(chance: Random) -> dict[str, Any]:
    """An input in which most things are there, some of the wrong type."""
    document = {key: chance.choice(_VALUES) for key in "alosxbnm" if chance.random() < 0.75}
    if chance.random() < 0.5:
        document["l"] = chance.choice([["a", "b"], [1, 2], ["k"]])
    if chance.random() < 0.4:
        document["o"] = {"k": {"z": 1}}
    return document


class _Writer:
    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._names = 0

    def policy(self) -> str:
        rules = []
        for head in self._chance.sample(["allow", "allow", 'deny contains "x"', "deny contains", "aux"], 3):
            statements, names = self._body([], self._chance.randint(1, 4), 0)
            if head == "deny contains":
                reason = names[-1] if names else "tag"
                statements.append(f"is_string({reason})")
                head = f"deny contains {reason}"
            rules.append(f"{head} if {{\n\t" + "\n\t".join(statements) + "\n}")
        statements, _ = self._body(["q"], 2, 0)
        rules.append(f"matches(q) if {{ {'; '.join(statements)} }}")
        statements, _ = self._body([], 2, 0)
        rules.append(f"allow if {{ aux; matches(input.x); {'; '.join(statements)} }}\ndefault aux := false")
        return "\n".join(rules) + _HELPERS

    def _name(self) -> str:
        self._names += 1
        return f"v{self._names}"

    def _reference(self, names: list[str]) -> str:
        return self._chance.choice([*_REFERENCES, *names * 3])

    def _expression(self, names: list[str], depth: int) -> str:
        roll = self._chance.random()
        if depth > 2 or roll < 0.45:
            return self._reference(names)
        if roll < 0.6:
            return self._chance.choice(_CONSTANTS)
        inner = self._expression(names, depth + 1)
        if roll < 0.66:
            return f"one({inner})"
        if roll < 0.72:
            return f"[{inner}, {self._expression(names, depth + 1)}]"
        if roll < 0.76:
            return f'{{"k": {inner}}}'
        if roll < 0.84:
            index = self._chance.choice([*names * 4, "0", '"k"', "input.s"])
            return f"{self._chance.choice(_REFERENCES[:12])}[{index}]"
        if roll < 0.92:
            return self._comprehension(names, depth + 1)
        return f"object.get(input, {inner}, 7)" if roll < 0.95 else f"type_name({inner})"

    def _comprehension(self, names: list[str], depth: int) -> str:
        statements, inner = self._body(names, self._chance.randint(1, 3), depth)
        term, query = self._expression(inner, depth + 1), "; ".join(statements)
        return self._chance.choice([f"[{term} | {query}]", f"{{{term} | {query}}}", f"{{{term}: 1 | {query}}}"])

    def _condition(self, names: list[str], depth: int) -> str:
        roll = self._chance.random()
        if roll < 0.35:
            operator = self._chance.choice(["==", "!=", "<", ">", "=="])
            return f"{self._expression(names, depth)} {operator} {self._expression(names, depth)}"
        if roll < 0.5:
            return self._reference(names)
        if roll < 0.6:
            return f"{self._expression(names, depth)} in {self._expression(names, depth)}"
        if roll < 0.7:
            return f"one({self._expression(names, depth)})"
        if roll < 0.8:
            return f"count({self._expression(names, depth)}) {self._chance.choice(['==', '>', '<'])} 1"
        if roll < 0.9:
            return f"{self._chance.choice(_REFERENCES[:12])}[_] == {self._expression(names, depth)}"
        return f"is_string({self._expression(names, depth)})"

    def _body(self, names: list[str], size: int, depth: int) -> tuple[list[str], list[str]]:
        names, statements = list(names), []
        for _ in range(size):
            roll = self._chance.random()
            new, other = self._name(), self._name()
            if roll < 0.2:
                statements.append(f"{new} := {self._expression(names, depth)}")
                names.append(new)
            elif roll < 0.35:
                statements.append(f"some {new} in {self._expression(names, depth)}")
                names.append(new)
            elif roll < 0.42:
                statements.append(f"some {new}, {other} in {self._reference(names)}")
                names += [new, other]
            elif roll < 0.55:
                statements.append(f"not {self._condition(names, depth)}")
            elif roll < 0.65 and depth < 3:
                query, _ = self._body([*names, new], self._chance.randint(1, 2), depth + 1)
                statements.append(f"every {new} in {self._expression(names, depth)} {{ {'; '.join(query)} }}")
            elif roll < 0.7:
                statements.append(f"{self._chance.choice(_REFERENCES[:12])}[{new}] == {self._expression(names, depth)}")
                names.append(new)
            elif roll < 0.74:
                statements.append(f"{new} = {self._expression(names, depth)}")
                names.append(new)
            elif roll < 0.77:
                statements.append(f"[{new}, {other}] := {self._expression(names, depth)}")
                names += [new, other]
            else:
                statements.append(self._condition(names, depth))
        return statements, names
