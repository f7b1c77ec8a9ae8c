"""The matching engine: two tables of text in, differences out, exactly, in bounded memory.

DuckDB does the joining, on disk where memory does not suffice. Amounts are ``DECIMAL(38, 18)`` from the text they
came as; what is no such number is refused and never rounded. Instants are whole microseconds. Rows are grouped by key
on either side first, so that duplicates are one finding and do not multiply the pairs.

``docs/adr/0035-matching-by-duckdb.md`` says why, with what was measured.
"""

# ruff: noqa: S608 - the SQL is made of our own names, of columns that were looked up, and of quoted paths

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from bailiwick.assurance.durations import span
from bailiwick.assurance.reconciliation.spec import FieldSpec, ReconciliationSpec, Side, Type

MEMORY = "320MB"
THREADS = 2
_BATCH = 5_000
_DECIMAL = r"[+-]?[0-9]{1,20}(\.[0-9]{1,18}0*)?"
_FLOATING = frozenset({"FLOAT", "DOUBLE", "REAL"})
_SIDES: tuple[Side, Side] = ("left", "right")


class Unreadable(ValueError):
    """A source holds what cannot be compared exactly: a column that is not there, an amount that is none."""


class NotIndependent(ValueError):
    """The two sources are one and the same, so that their agreement says nothing."""


class Unreachable(ValueError):
    """A source did not answer, or refused us."""


class TooMany(ValueError):
    """A source has more rows than the cap allows; nothing is compared in part."""


@dataclass(frozen=True, slots=True)
class Window:
    """The rows that are judged, from ``since`` up to before ``until``; rows around it are read for their partners."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. ``off``: by how much, where the reconciliation weighs an amount."""

    type: Type
    side: Side
    key: tuple[str, ...]
    detail: Mapping[str, Any] = field(default_factory=dict)
    off: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """What was gone through: rows and keys of either side in the window, and keys both sides have."""

    left_rows: int
    right_rows: int
    left_keys: int
    right_keys: int
    matched: int
    unmatched: int

    def document(self) -> dict[str, int]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


class Matcher:
    """Compares two files in ``scratch``, a directory of this run alone. To be used in a thread, and closed."""

    def __init__(
        self,
        spec: ReconciliationSpec,
        scratch: Path,
        now: datetime,
        window: Window | None = None,
        *,
        memory: str = MEMORY,
        threads: int = THREADS,
    ) -> None:
        self._spec = spec
        self._window = window if spec.time is not None else None
        self._now = _micros(now)
        self._with_parents = False
        config: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": memory,
            "threads": str(threads),
            "temp_directory": str(scratch / "spill"),
            "preserve_insertion_order": "false",
        }
        self._db = duckdb.connect(str(scratch / "match.duckdb"), config=config)
        self._db.execute("SET TimeZone = 'UTC'")

    def close(self) -> None:
        """Let go of everything."""
        self._db.close()

    # --- what is compared

    def load(self, side: Side, path: Path, columns: Mapping[str, str] | None = None) -> int:
        """Take in one side; the number of its rows. ``columns``: wanted name to name in the file.

        Raises :class:`TooMany` and :class:`Unreadable`.
        """
        spec, many = self._spec, self._spec.many == side
        source = _Source(self._db, side, path, columns or {})
        if source.count(spec.cap + 1) > spec.cap:
            raise TooMany(f"the {side} side has more than {spec.cap} rows")
        chosen = [f"{self._key(source, side)} AS k", f"{self._instant(source, side)} AS t"]
        chosen.append(f"{self._optional(source, self._object(side))} AS o")
        chosen.append(f"{self._optional(source, self._parent(side))} AS p")
        chosen.append(f"{self._stale(source, side)} AS s")
        for n, each in enumerate(spec.fields):
            chosen.append(f"{_field(source, each, side)} AS f{n}")
        self._db.execute(f"CREATE TABLE rows_{side} AS SELECT {', '.join(chosen)} FROM {source.sql}")
        if self._window is not None:
            # a row without an instant is in no window, and would be in no finding
            missing = self._one(f"SELECT count(*) FROM rows_{side} WHERE t IS NULL")
            if missing:
                raise Unreadable(f"{missing} rows of the {side} side have no instant")
        self._group(side, many=many)
        return int(self._one(f"SELECT count(*) FROM rows_{side}"))

    def load_parents(self, path: Path, column: str, columns: Mapping[str, str] | None = None) -> int:
        """Take in what rows must belong to; how many there are."""
        source = _Source(self._db, "parents", path, columns or {})
        if source.count(self._spec.cap + 1) > self._spec.cap:
            raise TooMany(f"there are more than {self._spec.cap} parents")
        self._db.execute(f"CREATE TABLE parents AS SELECT DISTINCT {source.text(column)} AS p FROM {source.sql}")
        self._with_parents = True
        return int(self._one("SELECT count(*) FROM parents"))

    def totals(self) -> Totals:
        """What was gone through, within the window. Raises :class:`NotIndependent` where that shows now."""
        pairs = (
            f"SELECT count(*), count(*) FILTER (l.o = r.o) FROM g_left l JOIN g_right r ON l.k = r.k WHERE {self._near}"
        )
        both, same = self._db.execute(pairs).fetchone() or (0, 0)
        if both and both == same:
            raise NotIndependent("every object of the source is called by our own id for it")
        rows = [self._one(f"SELECT count(*) FROM rows_{side} WHERE {self._judged('t')}") for side in _SIDES]
        keys = [self._one(f"SELECT count(*) FROM g_{side} WHERE {self._judged('t')}") for side in _SIDES]
        matched = self._one(
            f"SELECT count(*) FROM g_left l JOIN g_right r ON l.k = r.k WHERE {self._judged('l.t')} AND {self._near}"
        )
        here = self._one(
            f"SELECT count(*) FROM g_left l JOIN g_right r ON l.k = r.k WHERE {self._judged('r.t')} AND {self._near}"
        )
        return Totals(rows[0], rows[1], keys[0], keys[1], matched, keys[0] - matched + keys[1] - here)

    def differences(self) -> Iterator[Difference]:
        """Every difference, type by type."""
        yield from self._alone("left", "right")
        yield from self._alone("right", "left")
        yield from self._mismatches()
        for side in _SIDES:
            yield from self._duplicates(side)
            yield from self._orphans(side)
            yield from self._stale_rows(side)

    # --- each type

    def _alone(self, side: Side, other: Side) -> Iterator[Difference]:
        events = self._spec.compare == "events"
        type_: Type = (
            ("state-without-event" if events else "missing") if side == "left"
            else ("event-without-state" if events else "excess")
        )  # fmt: skip
        rows = self._rows(
            f"SELECT l.k, l.n{self._values('l')} FROM g_{side} l"
            f" WHERE {self._judged('l.t')} AND NOT {self._orphaned('l', side)}"
            f" AND NOT EXISTS (SELECT 1 FROM g_{other} r WHERE r.k = l.k AND {self._near}) ORDER BY l.k"
        )
        for key, count, *values in rows:
            shown = {each: _shown(value) for each, value in zip(self._names(side), values, strict=True)}
            off = values[weighed] if (weighed := self._weighed) is not None else None
            yield Difference(type_, side, self._told(key), {"rows": count, "values": shown}, _size(off))

    def _mismatches(self) -> Iterator[Difference]:
        if not self._spec.fields:
            return
        tests = [self._differs(n, each) for n, each in enumerate(self._spec.fields)]
        single = " AND ".join(
            f"{alias}.n = 1" for alias, side in (("l", "left"), ("r", "right")) if self._spec.many != side
        )
        rows = self._rows(
            f"SELECT l.k, {', '.join(tests)}{self._values('l')}{self._values('r')}"
            f" FROM g_left l JOIN g_right r ON l.k = r.k WHERE {single} AND {self._judged('l.t')} AND {self._near}"
            f" AND NOT {self._orphaned('l', 'left')} AND NOT {self._orphaned('r', 'right')}"
            f" AND ({' OR '.join(tests)}) ORDER BY l.k"
        )
        size = len(tests)
        for key, *rest in rows:
            differs, left, right = rest[:size], rest[size : 2 * size], rest[2 * size :]
            fields = {
                each.left: {"left": _shown(left[n]), "right": _shown(right[n])}
                for n, each in enumerate(self._spec.fields)
                if differs[n]
            }
            off = None
            if (n := self._weighed) is not None:
                off = abs((left[n] or Decimal(0)) - (right[n] or Decimal(0)))
            yield Difference("mismatch", "left", self._told(key), {"fields": fields}, off)

    def _duplicates(self, side: Side) -> Iterator[Difference]:
        if self._spec.many == side:
            return
        rows = self._rows(
            f"SELECT k, n FROM g_{side} l WHERE n > 1 AND {self._judged('l.t')}"
            f" AND NOT {self._orphaned('l', side)} ORDER BY k"
        )
        for key, count in rows:
            yield Difference("duplicate", side, self._told(key), {"rows": count})

    def _orphans(self, side: Side) -> Iterator[Difference]:
        names = "".join(f", f{n}" for n in range(len(self._spec.fields)))
        whole = ", ".join(f"coalesce(f{n}::VARCHAR, '')" for n in range(len(self._spec.fields))) or "''"
        rows = self._rows(
            f"SELECT md5(concat_ws(chr(31), coalesce(t::VARCHAR, ''), {whole})) AS h, count(*){names} FROM rows_{side}"
            f" WHERE k IS NULL AND {self._judged('t')} GROUP BY ALL ORDER BY h"
        )
        for digest, count, *values in rows:
            shown = {each: _shown(value) for each, value in zip(self._names(side), values, strict=True)}
            yield Difference("orphan", side, ("", digest), {"why": "no key", "rows": count, "values": shown})
        if self._with_parents and self._spec.parents is not None and self._spec.parents.side == side:
            found = self._rows(
                f"SELECT k, p FROM g_{side} l WHERE {self._judged('l.t')} AND {self._orphaned('l', side)} ORDER BY k"
            )
            for key, parent in found:
                detail = {"why": f"{self._spec.parents.column} refers to nothing", "parent": parent}
                yield Difference("orphan", side, self._told(key), detail)

    def _stale_rows(self, side: Side) -> Iterator[Difference]:
        stale = self._spec.stale
        if stale is None or stale.side != side:
            return
        before = self._now - _length(span(stale.after))
        rows = self._rows(
            f"SELECT k, s FROM g_{side} l WHERE s < {before} AND {self._judged('l.t')}"
            f" AND NOT {self._orphaned('l', side)} ORDER BY k"
        )
        for key, at in rows:
            yield Difference("stale", side, self._told(key), {stale.column: _instant_of(at)})

    # --- pieces of SQL

    def _group(self, side: Side, *, many: bool) -> None:
        chosen = ["k", "count(*) AS n", "max(t) AS t", "min(o) AS o", "min(p) AS p", "min(s) AS s"]
        for n, each in enumerate(self._spec.fields):
            if each.kind == "decimal":
                chosen.append(f"sum(f{n})::DECIMAL(38, 18) AS f{n}" if many else f"any_value(f{n}) AS f{n}")
            else:
                chosen.append(f"min(f{n}) AS f{n}")
            if many:
                uniform = "" if each.kind == "decimal" else f" AND min(f{n}) IS NOT DISTINCT FROM max(f{n})"
                # some of a group without a value: the rest is not the whole
                chosen.append(f"(count(f{n}) IN (0, count(*)){uniform}) AS u{n}")
            else:
                chosen.append(f"true AS u{n}")
        self._db.execute(
            f"CREATE TABLE g_{side} AS SELECT {', '.join(chosen)} FROM rows_{side} WHERE k IS NOT NULL GROUP BY k"
        )

    def _differs(self, n: int, each: FieldSpec) -> str:
        whole = f"NOT (l.u{n} AND r.u{n})"
        if each.kind == "text":
            return f"({whole} OR l.f{n} IS DISTINCT FROM r.f{n})"
        return (
            f"({whole} OR (l.f{n} IS NULL) <> (r.f{n} IS NULL)"
            f" OR coalesce(abs(l.f{n} - r.f{n}) > {each.tolerance}::DECIMAL(38, 18), false))"
        )

    def _judged(self, column: str) -> str:
        if self._window is None:
            return "true"
        return f"({column} >= {_micros(self._window.since)} AND {column} < {_micros(self._window.until)})"

    @property
    def _near(self) -> str:
        if self._window is None or self._spec.time is None:
            return "true"
        return f"(abs(l.t - r.t) <= {_length(span(self._spec.time.late))})"

    def _orphaned(self, alias: str, side: Side) -> str:
        parents = self._spec.parents
        if not self._with_parents or parents is None or parents.side != side:
            return "false"
        return f"({alias}.p IS NULL OR NOT EXISTS (SELECT 1 FROM parents q WHERE q.p = {alias}.p))"

    def _values(self, alias: str) -> str:
        return "".join(f", {alias}.f{n}" for n in range(len(self._spec.fields)))

    def _names(self, side: Side) -> list[str]:
        return [getattr(each, side) for each in self._spec.fields]

    @property
    def _weighed(self) -> int | None:
        return next((n for n, each in enumerate(self._spec.fields) if each.left == self._spec.weigh), None)

    def _key(self, source: _Source, side: Side) -> str:
        parts = []
        for each in self._spec.keys:
            text = source.text(getattr(each, side))
            parts.append(f"lower({text})" if each.fold else text)
        if len(parts) == 1:
            return f"nullif({parts[0]}, '')"
        absent = " OR ".join(f"{part} IS NULL OR {part} = ''" for part in parts)
        return f"CASE WHEN {absent} THEN NULL ELSE to_json([{', '.join(parts)}])::VARCHAR END"

    def _told(self, key: str) -> tuple[str, ...]:
        return (key,) if len(self._spec.keys) == 1 else tuple(json.loads(key))

    def _instant(self, source: _Source, side: Side) -> str:
        # without a window they are of no account, but must be readable all the same
        return source.micros(getattr(self._spec.time, side)) if self._spec.time is not None else "NULL::BIGINT"

    def _stale(self, source: _Source, side: Side) -> str:
        stale = self._spec.stale
        return source.micros(stale.column) if stale is not None and stale.side == side else "NULL::BIGINT"

    def _object(self, side: Side) -> str | None:
        left, right = self._spec.left.object, self._spec.right.object
        return (left if side == "left" else right) if left is not None and right is not None else None

    def _parent(self, side: Side) -> str | None:
        parents = self._spec.parents
        return parents.column if parents is not None and parents.side == side else None

    @staticmethod
    def _optional(source: _Source, column: str | None) -> str:
        return source.text(column) if column is not None else "NULL::VARCHAR"

    def _one(self, sql: str) -> Any:
        row = self._db.execute(sql).fetchone()
        return row[0] if row else 0

    def _rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        # a cursor of its own: whoever goes through the rows may ask something else in between
        cursor = self._db.cursor()
        try:
            cursor.execute(sql)
            while found := cursor.fetchmany(_BATCH):
                yield from found
        finally:
            cursor.close()


class _Source:
    """A CSV or Parquet file as SQL reads it; every column as text."""

    def __init__(self, db: duckdb.DuckDBPyConnection, name: str, path: Path, columns: Mapping[str, str]) -> None:
        self._db, self._name, self._columns = db, name, columns
        quoted = _quoted(str(path))
        if path.suffix == ".parquet":
            self.sql = f"read_parquet({quoted})"
            try:
                described = db.execute(f"DESCRIBE SELECT * FROM {self.sql}").fetchall()
            except duckdb.Error:
                raise Unreadable(f"{name}: this is no Parquet file") from None
            self._types = {row[0]: row[1] for row in described}
            return
        header = _header(name, path)
        self._types = dict.fromkeys(header, "VARCHAR")
        typed = ", ".join(f"{_quoted(each)}: 'VARCHAR'" for each in header)
        self.sql = (
            f"read_csv({quoted}, auto_detect=false, header=true, delim=',', quote='\"', escape='\"', nullstr='',"
            f" allow_quoted_nulls=false, columns={{{typed}}})"
        )

    def count(self, most: int) -> int:
        """How many rows there are, as far as ``most``."""
        try:
            row = self._db.execute(f"SELECT count(*) FROM (SELECT 1 FROM {self.sql} LIMIT {most})").fetchone()
        except duckdb.Error:
            raise Unreadable(f"{self._name}: the rows cannot be read") from None
        return int(row[0]) if row else 0

    def text(self, column: str) -> str:
        """The column as text. Raises :class:`Unreadable` where there is none."""
        actual = self._columns.get(column, column)
        if actual not in self._types:
            raise Unreadable(f"{self._name}: there is no column {actual!r}")
        return f'"{actual.replace(chr(34), chr(34) * 2)}"::VARCHAR'

    def decimal(self, column: str) -> str:
        """The column as an exact number. Raises :class:`Unreadable` for anything else in it."""
        text = self.text(column)
        if self._types[self._columns.get(column, column)] in _FLOATING:
            raise Unreadable(f"{self._name}: {column!r} is a floating-point number, which holds no exact amount")
        self._refuse(text, f"NOT regexp_full_match({text}, {_quoted(_DECIMAL)})", f"{column!r} holds what is no amount")
        return f"{text}::DECIMAL(38, 18)"

    def micros(self, column: str) -> str:
        """The column's instants in microseconds since 1970. Raises :class:`Unreadable` for anything else in it."""
        text = self.text(column)
        self._refuse(text, f"try_cast({text} AS TIMESTAMPTZ) IS NULL", f"{column!r} holds what is no instant")
        return f"epoch_us({text}::TIMESTAMPTZ)"

    def _refuse(self, text: str, bad: str, told: str) -> None:
        row = self._db.execute(f"SELECT count(*) FROM {self.sql} WHERE {text} IS NOT NULL AND {bad}").fetchone()
        if row and row[0]:
            raise Unreadable(f"{self._name}: {told} in {row[0]} rows")


def _field(source: _Source, each: FieldSpec, side: Side) -> str:
    column = getattr(each, side)
    if each.kind == "decimal":
        return source.decimal(column)
    return f"lower({source.text(column)})" if each.fold else source.text(column)


def _header(name: str, path: Path) -> Sequence[str]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        try:
            header = next(csv.reader(stream), [])
        except (csv.Error, UnicodeDecodeError):
            header = []
    if not header or len(set(header)) != len(header) or not all(header):
        raise Unreadable(f"{name}: the first line does not name every column once")
    return header


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _micros(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000 + at.microsecond


def _length(length: timedelta) -> int:
    return length // timedelta(microseconds=1)


def _instant_of(micros: int) -> str:
    from datetime import UTC

    return (datetime.fromtimestamp(micros // 1_000_000, UTC) + timedelta(microseconds=micros % 1_000_000)).isoformat()


def _shown(value: Any) -> str | None:
    """A value as findings tell it: amounts without the zeros that only fill their scale."""
    if isinstance(value, Decimal):
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return None if value is None else str(value)[:500]


def _size(value: Any) -> Decimal | None:
    return abs(value) if isinstance(value, Decimal) else None
