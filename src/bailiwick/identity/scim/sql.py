"""Filters and sorting as parametrised SQL. Nothing of a filter but its operators reaches the statement's text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from bailiwick.identity.scim.errors import ScimError
from bailiwick.identity.scim.filters import Attribute, Both, Comparison, Filter, Not, Of, Value
from bailiwick.identity.scim.queries import Query
from bailiwick.kernel.db import Row, Transaction
from bailiwick.kernel.errors import NotFound

Type = Literal["exact", "text", "boolean", "time"]
_ORDERS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


@dataclass(frozen=True, slots=True)
class Column:
    """What an attribute is in SQL. ``text`` compares whatever the letter case, ``exact`` as it is.

    ``of``: the expression holds inside this, ``{}`` being the condition: for attributes with many values in a table.
    """

    expression: str
    type: Type = "text"
    of: str = "{}"


@dataclass(slots=True)
class _Statement:
    columns: Mapping[str, Column]
    urns: frozenset[str]
    values: dict[str, Any] = field(default_factory=dict)

    def bind(self, value: Any) -> str:
        name = f"f{len(self.values)}"
        self.values[name] = value
        return f":{name}"


def condition(found: Filter, columns: Mapping[str, Column], urns: frozenset[str]) -> tuple[str, dict[str, Any]]:
    """A condition and its parameters.

    ``columns`` maps dotted attribute names in lower case; ``urns`` are the schemas whose attributes they are. Raises
    ``ScimError`` (``invalidFilter``) for attributes there are not and comparisons that mean nothing.
    """
    statement = _Statement(columns, urns)
    return _build(statement, found, ""), statement.values


@dataclass(frozen=True, slots=True)
class Table:
    """Where the resources of a kind stand: the table ``name``, which the expressions of ``columns`` call ``alias``.

    ``related`` is a subquery of what belongs to a row, read as ``related`` and shown as the attribute ``related_as``;
    ``by`` sorts where a client says nothing; ``missing`` tells that there is no such row.
    """

    name: str
    alias: str
    urn: str
    columns: Mapping[str, Column]
    by: str
    related: str
    related_as: str
    missing: str

    async def get(self, tx: Transaction, zone: str, identifier: str, *, whole: bool = True) -> Row:
        """One row, without what is related unless ``whole``; raises ``NotFound``."""
        row = await tx.one(
            f"SELECT {self._read(whole=whole)} FROM {self.name} {self.alias}"  # noqa: S608 - all of it is ours
            f" WHERE {self.alias}.zone = :zone AND {self.alias}.id = :id",
            zone=zone,
            id=identifier,
        )
        if row is None:
            raise NotFound(self.missing)
        return row

    async def find(self, tx: Transaction, zone: str, query: Query) -> tuple[Sequence[Row], int]:
        """One page of the rows that ``query`` asks for, and how many there are."""
        urns = frozenset((self.urn.lower(),))
        where, given = condition(query.filter, self.columns, urns) if query.filter else ("true", {})
        by = order(query.sort_by, self.columns, urns) if query.sort_by else self.by
        rows, values = f"{self.name} {self.alias} WHERE {self.alias}.zone = :zone AND {where}", {**given, "zone": zone}
        # none of it is a client's: his values are bound
        total = int(await tx.value(f"SELECT count(*) FROM {rows}", **values))  # noqa: S608
        skipped = query.start - 1
        if not query.count or skipped >= total:
            return (), total
        read, way = self._read(whole=query.shows(self.related_as)), "DESC" if query.descending else "ASC"
        paged = (
            f"SELECT {read} FROM {rows} ORDER BY {by} {way} NULLS LAST, {self.alias}.id OFFSET :skipped LIMIT :shown"  # noqa: S608
        )
        return await tx.all(paged, **values, skipped=skipped, shown=query.count), total

    def _read(self, *, whole: bool) -> str:
        return f"{self.alias}.*, {self.related if whole else 'cast(NULL AS json)'} AS related"


def order(attribute: Attribute, columns: Mapping[str, Column], urns: frozenset[str]) -> str:
    """The expression to sort by; one that there is not, or has many values, sorts by nothing (RFC 7644 §3.4.2.3)."""
    column = columns.get(_name(attribute, ""))
    if column is None or column.of != "{}" or (attribute.urn and attribute.urn not in urns):
        raise ScimError("invalidPath", "It cannot be sorted by that.")
    return f"lower({column.expression})" if column.type == "text" else column.expression


def _build(statement: _Statement, found: Filter, within: str) -> str:
    match found:
        case Both(left, right, either):
            word = "OR" if either else "AND"
            return f"({_build(statement, left, within)} {word} {_build(statement, right, within)})"
        case Not(inner):
            # of a comparison with nothing neither it nor its opposite is true in SQL
            return f"NOT coalesce({_build(statement, inner, within)}, false)"
        case Of(attribute, inner):
            if within or attribute.sub:
                raise ScimError("invalidFilter", "A filter inside a filter's brackets is not offered.")
            _require_schema(statement, attribute)
            return _build(statement, inner, attribute.name)
        case Comparison():
            return _compare(statement, found, within)


def _compare(statement: _Statement, found: Comparison, within: str) -> str:
    _require_schema(statement, found.attribute)
    column = statement.columns.get(_name(found.attribute, within))
    if column is None:
        raise ScimError("invalidFilter", f"There is no attribute {found.attribute.dotted} to filter by.")
    operator, value = found.operator, found.value
    if operator == "pr" or value is None:
        if operator not in ("pr", "eq", "ne"):
            raise ScimError("invalidFilter", "null can only be compared by eq and ne.")
        present = f"{column.expression} IS NOT NULL"
        if column.type in ("text", "exact"):
            present += f" AND {column.expression} <> ''"
        told = column.of.format(f"({present})")
        return f"NOT coalesce({told}, false)" if operator == "eq" else told
    return column.of.format(_COMPARE[column.type](statement, column, operator, value))


def _compare_text(statement: _Statement, column: Column, operator: str, value: Value) -> str:
    if not isinstance(value, str):
        raise ScimError("invalidFilter", "The attribute is a text.")
    left, right = column.expression, f"cast({statement.bind(value)} AS text)"
    if column.type == "text":
        left, right = f"lower({left})", f"lower({right})"
    match operator:
        case "eq":
            return f"({left} = {right})"
        case "ne":
            return f"({left} IS DISTINCT FROM {right})"
        case "co":
            return f"(strpos({left}, {right}) > 0)"
        case "sw":
            return f"(starts_with({left}, {right}))"
        case "ew":
            return f"(right({left}, length({right})) = {right})"
    return f"({left} {_ORDERS[operator]} {right})"


def _compare_boolean(statement: _Statement, column: Column, operator: str, value: Value) -> str:
    if operator not in ("eq", "ne"):
        raise ScimError("invalidFilter", "A truth value can only be compared by eq, ne and pr.")
    if isinstance(value, str) and value.lower() in ("true", "false"):
        value = value.lower() == "true"  # Entra quotes them
    if not isinstance(value, bool):
        raise ScimError("invalidFilter", "The attribute is a truth value.")
    return f"({column.expression} {'=' if operator == 'eq' else '<>'} {statement.bind(value)})"


def _compare_time(statement: _Statement, column: Column, operator: str, value: Value) -> str:
    if operator not in ("eq", "ne", *_ORDERS) or not isinstance(value, str):
        raise ScimError("invalidFilter", "The attribute is a time, compared by eq, ne, gt, ge, lt and le.")
    try:
        at = datetime.fromisoformat(value)
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        at = at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ScimError("invalidFilter", "That is not a time.") from None
    word = {"eq": "=", "ne": "<>"}.get(operator) or _ORDERS[operator]
    # told to the millisecond, so compared so
    return f"(date_trunc('milliseconds', {column.expression}) {word} {statement.bind(at)})"


_COMPARE: Mapping[Type, Callable[[_Statement, Column, str, Value], str]] = {
    "text": _compare_text,
    "exact": _compare_text,
    "boolean": _compare_boolean,
    "time": _compare_time,
}


def _require_schema(statement: _Statement, attribute: Attribute) -> None:
    if attribute.urn and attribute.urn not in statement.urns:
        raise ScimError("invalidFilter", "The filter names a schema that the resource does not have.")


def _name(attribute: Attribute, within: str) -> str:
    return f"{within}.{attribute.dotted}" if within else attribute.dotted
