"""Events as Parquet: typed columns that compress well, from which the exact bytes of every event are told again.

An event is canonical JSON, so its bytes follow from its values. A part stores the values, and :data:`BODY` is the SQL
that writes the bytes again; whoever has DuckDB and this one expression needs nothing of ours. Where the bytes do not
come out (a string that JSON escapes, a field that is not ours, an id that is no UUID) the row keeps them verbatim in
``body``. Nothing is taken on trust: the writer compares what it can rebuild, row by row, with the leaf hash of the
tree, and the finished file is read again and compared once more before anybody relies on it.

DuckDB reads and writes; its Parquet and JSON parts are built in, and it may load nothing at run time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import msgspec

from bailiwick.evidence.codes import DECISIONS
from bailiwick.evidence.events import decode, encode

ROWS = 250_000
"""Most events of one part: about 20 MB, and as much as fits into the memory of a background process at once."""

_FETCH = 5000
_LEVEL = 9
_GROUP = 122_880

_EVENT = (
    'STRUCT(actor STRUCT(application VARCHAR, delegation VARCHAR, mandate VARCHAR, session VARCHAR, "user" VARCHAR),'
    ' "at" VARCHAR, client_request_id VARCHAR, code VARCHAR, details JSON, id VARCHAR,'
    " name VARCHAR, network STRUCT(ip VARCHAR, user_agent VARCHAR), outcome VARCHAR, policy_set VARCHAR, reasons JSON,"
    " request_id VARCHAR, server VARCHAR, simulated_clock BOOLEAN, subject STRUCT(id VARCHAR, type VARCHAR),"
    " trace_id VARCHAR, v INTEGER, zone VARCHAR)"
)
_HEX64 = "regexp_full_match(e.details ->> 'input', '[0-9a-f]{64}')"


def _or_text(column: str) -> str:
    """An id that is a UUID nearly always: 16 bytes then, its text otherwise."""
    value = f"e.actor.{column}"
    uuid = f"try_cast({value} AS UUID)"
    return f"{uuid} AS {column}, CASE WHEN {uuid} IS NULL THEN {value} END AS {column}_text"


_COLUMNS = f"""
  seq, coalesce(try_cast(e."at" AS TIMESTAMP), CAST(recorded AS TIMESTAMP)) AS "at",
  CAST(recorded AS TIMESTAMP) AS recorded_at,
  try_cast(e.id AS UUID) AS id, try_cast(e.request_id AS UUID) AS request_id,
  e.code, e.name, e.outcome, e.zone, e.v,
  e.actor."user" AS "user", e.actor.application AS application,
  {_or_text("session")}, {_or_text("mandate")}, {_or_text("delegation")},
  e.server, e.network IS NOT NULL AS network, e.network.ip AS ip, e.network.user_agent AS user_agent, e.policy_set,
  nullif(CAST(e.reasons AS VARCHAR), 'null') AS reasons,
  e.subject.id AS subject_id, e.subject.type AS subject_type, try(unhex(e.trace_id)) AS trace_id,
  e.client_request_id, e.simulated_clock,
  CASE WHEN {_HEX64} THEN unhex(e.details ->> 'input') END AS input,
  CASE WHEN {_HEX64} THEN replace(CAST(e.details AS VARCHAR), e.details ->> 'input', '~')
       ELSE nullif(CAST(e.details AS VARCHAR), 'null') END AS details,
  leaf, body
"""


_READ_LINES = f"""CREATE TABLE source AS SELECT * FROM read_json($lines, format = 'newline_delimited',
  columns = {{seq: 'BIGINT', recorded: 'VARCHAR', leaf: 'VARCHAR', e: '{_EVENT}', body: 'VARCHAR'}})"""  # noqa: S608
_KEPT = """* EXCLUDE (leaf, body, details, input, reasons), CASE WHEN body IS NULL THEN details END AS details,
  CASE WHEN body IS NULL THEN input END AS input, CASE WHEN body IS NULL THEN reasons END AS reasons, body"""
_FORM = f"FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, COMPRESSION_LEVEL {_LEVEL}, ROW_GROUP_SIZE {_GROUP}"


def _text(key: str, column: str) -> str:
    return f"""'"{key}":"' || replace(replace({column}, '\\', '\\\\'), '"', '\\"') || '"'"""


def _plain(key: str, column: str) -> str:
    """A value in which JSON has nothing to escape."""
    return f"""'"{key}":"' || {column} || '"'"""


def _id(key: str, column: str) -> str:
    return _text(key, f"coalesce(CAST({column} AS VARCHAR), {column}_text)")


_AT = """strftime("at", '%Y-%m-%dT%H:%M:%S.%fZ')"""
_ACTOR = ", ".join(
    [
        _text("application", "application"),
        _id("delegation", "delegation"),
        _id("mandate", "mandate"),
        _id("session", "session"),
        _text("user", '"user"'),
    ]
)
_DETAILS = """CASE WHEN input IS NULL THEN details
  ELSE replace(details, '"input":"~"', '"input":"' || lower(hex(input)) || '"') END"""
# in the order of their names, as RFC 8785 has them; concat_ws leaves out what is NULL
_MEMBERS = ",\n".join(
    [
        f"""'"actor":{{' || concat_ws(',', {_ACTOR}) || '}}'""",
        _plain("at", _AT),
        _text("client_request_id", "client_request_id"),
        _plain("code", "code"),
        f"""'"details":' || {_DETAILS}""",
        _plain("id", "CAST(id AS VARCHAR)"),
        _plain("name", "name"),
        f"""CASE WHEN network THEN
  '"network":{{' || concat_ws(',', {_text("ip", "ip")}, {_text("user_agent", "user_agent")}) || '}}' END""",
        _plain("outcome", "outcome"),
        _text("policy_set", "policy_set"),
        """'"reasons":' || reasons""",
        _plain("request_id", "CAST(request_id AS VARCHAR)"),
        _text("server", "server"),
        """CASE WHEN simulated_clock THEN '"simulated_clock":true' END""",
        f"""CASE WHEN subject_id IS NOT NULL OR subject_type IS NOT NULL THEN
  '"subject":{{' || concat_ws(',', {_text("id", "subject_id")}, {_text("type", "subject_type")}) || '}}' END""",
        _plain("trace_id", "lower(hex(trace_id))"),
        """'"v":' || CAST(v AS VARCHAR)""",
        _plain("zone", "zone"),
    ]
)
REBUILT = f"'{{' || concat_ws(',', {_MEMBERS}) || '}}'"
"""The bytes of an event from its columns. What is NULL leaves no trace, as RFC 8785 and our encoder have it."""

BODY = f"coalesce(body, {REBUILT})"
"""SQL: the event's canonical bytes as text."""

_LEAF = f"sha256('\\x00'::BLOB || encode({BODY}))"

_DECISIONS = ", ".join(f"'{code}'" for code in DECISIONS)
HOT_COLUMNS = f"""seq, id, "at", recorded_at, code, outcome, coalesce("user", application) AS principal, server,
  request_id, CASE WHEN code IN ({_DECISIONS}) THEN id END AS decision_id, encode({BODY}) AS body"""
"""SQL: what a row of ``ledger.events`` has, from a part. Times are UTC without a zone; ``body`` is a BLOB."""


class PartError(Exception):
    """A part cannot be written or read as what it should be."""


@dataclass(frozen=True, slots=True)
class Row:
    """An event on its way into a part, with its place in the ledger."""

    seq: int
    recorded_at: datetime
    body: bytes

    def line(self, leaf: bytes) -> bytes:
        """The row as the line of JSON that DuckDB reads. ``leaf``: the hash that the tree has for it."""
        head = b'{"seq":%d,"recorded":"%s","leaf":"%s"' % (
            self.seq,
            self.recorded_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f").encode(),
            leaf.hex().encode(),
        )
        if b"\\" not in self.body:
            return head + b',"e":' + self.body + b"}\n"
        # escapes have more than one form: what another wrote is kept as it is, and its values go on in a form we know
        event = encode(decode(self.body))
        if event == self.body:
            return head + b',"e":' + event + b"}\n"
        return head + b',"e":' + event + b',"body":' + msgspec.json.encode(self.body.decode()) + b"}\n"


@dataclass(frozen=True, slots=True)
class Written:
    """A part on disk. ``verbatim``: how many rows keep their bytes as they are."""

    events: int
    first_seq: int
    last_seq: int
    first_at: datetime
    last_at: datetime
    verbatim: int


def connect(*directories: Path, memory: str = "1GB", threads: int = 2) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that reads and writes below ``directories`` alone and loads no extension."""
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": memory,
            "threads": str(threads),
            "temp_directory": "",
        }
    )
    if directories:
        # there is no parameter for these; a quote in a path is doubled as SQL has it
        listed = ", ".join("'" + str(directory).replace("'", "''") + "/'" for directory in directories)
        connection.execute(f"SET allowed_directories = [{listed}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def write(lines: Path, target: Path) -> Written:
    """Make the part ``target`` from ``lines`` (:meth:`Row.line`), in order; raises :class:`PartError`.

    What cannot be told again from its columns is found here and kept verbatim.
    """
    connection = connect(lines.parent, target.parent)
    try:
        connection.execute(_READ_LINES, {"lines": str(lines)})
        connection.execute(f"CREATE TABLE part AS SELECT {_COLUMNS} FROM source")  # noqa: S608 - fixed parts
        connection.execute("DROP TABLE source")
        wrong = {
            row[0]
            for row in connection.execute(
                f"SELECT seq FROM part WHERE body IS NULL AND leaf IS DISTINCT FROM {_LEAF}"  # noqa: S608 - fixed parts
            ).fetchall()
        }
        if wrong:
            _keep_verbatim(connection, lines, wrong)
        quoted = str(target).replace("'", "''")  # COPY takes no parameters
        connection.execute(f"COPY (SELECT {_KEPT} FROM part ORDER BY seq) TO '{quoted}' ({_FORM})")  # noqa: S608
        row = connection.execute(
            'SELECT count(*), min(seq), max(seq), min("at"), max("at"), count(body) FROM part'
        ).fetchone()
    except duckdb.Error as error:
        raise PartError(f"the part could not be written: {_line(error)}") from error
    finally:
        connection.close()
    assert row is not None
    if not row[0]:
        raise PartError("there is nothing to write")
    events, first, last, first_at, last_at, verbatim = row
    return Written(events, first, last, _utc(first_at), _utc(last_at), verbatim)


def leaves(part: Path) -> Iterator[tuple[Any, ...]]:
    """Position and leaf hash (hexadecimal) of every event of a part, as rebuilt; raises :class:`PartError`."""
    yield from _select(part, f"seq, {_LEAF}")


def rows(part: Path) -> Iterator[Row]:
    """Every event of a part with its exact bytes, in order; raises :class:`PartError`."""
    for seq, recorded_at, body in _select(part, f"seq, recorded_at, {BODY}"):
        yield Row(seq, _utc(recorded_at), body.encode())


def bodies(part: Path, first: int, end: int) -> dict[int, bytes]:
    """The exact bytes of the events ``first`` to ``end - 1`` of a part; raises :class:`PartError`."""
    where = f"seq >= {int(first)} AND seq < {int(end)}"
    return {seq: body.encode() for seq, body in _select(part, f"seq, {BODY}", where)}


def find(parts: Sequence[Path], event_id: UUID) -> Row | None:
    """The event by that id, None where no part has it; raises :class:`PartError`."""
    for seq, recorded_at, body in _select(parts, f"seq, recorded_at, {BODY}", f"id = '{event_id}'::UUID"):
        return Row(seq, _utc(recorded_at), body.encode())
    return None


def relation(connection: duckdb.DuckDBPyConnection, parts: Sequence[Path]) -> duckdb.DuckDBPyRelation:
    """The events of several parts with the columns of the hot table (:data:`HOT_COLUMNS`)."""
    return connection.read_parquet([str(part) for part in parts]).project(HOT_COLUMNS)


def _select(parts: Path | Sequence[Path], what: str, where: str = "true") -> Iterator[tuple[Any, ...]]:
    listed = [parts] if isinstance(parts, Path) else parts
    connection = connect(*{part.parent for part in listed})
    try:
        found = connection.execute(
            f"SELECT {what} FROM read_parquet($parts) WHERE {where} ORDER BY seq",  # noqa: S608 - fixed parts
            {"parts": [str(part) for part in listed]},
        )
        while portion := found.fetchmany(_FETCH):
            yield from portion
    except duckdb.Error as error:
        raise PartError(f"the part cannot be read: {_line(error)}") from error
    finally:
        connection.close()


def _keep_verbatim(connection: duckdb.DuckDBPyConnection, lines: Path, wrong: set[int]) -> None:
    kept = []
    with lines.open("rb") as stream:
        for line in stream:
            seq = int(line[7 : line.index(b",")])
            if seq in wrong:
                kept.append((line[line.index(b',"e":') + 5 : -2].decode(), seq))
    connection.executemany("UPDATE part SET body = ? WHERE seq = ?", kept)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)


def _line(error: duckdb.Error) -> str:
    return str(error).splitlines()[0]
