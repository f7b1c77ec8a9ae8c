"""The documents of reconciliation: ``Connection`` (where rows come from) and ``Reconciliation`` (what must agree)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from croniter import croniter  # type: ignore[import-untyped]
from pydantic import Field, StringConstraints, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.durations import Duration
from bailiwick.assurance.reconciliation.own import OWN
from bailiwick.identity.directories import Dn, GroupFilter
from bailiwick.kernel.fields import Body, Line, Name
from bailiwick.kernel.severity import Severity

Type = Literal[
    "missing", "excess", "orphan", "mismatch", "duplicate", "stale", "state-without-event", "event-without-state"
]
TYPES: tuple[Type, ...] = get_args(Type)
ActionName = Literal["auto-retry", "manual-review", "escalate"]
Side = Literal["left", "right"]

MOST_ROWS = 10_000_000

Column = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"), Field(examples=["reference"])]
Amount = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,20}(\.[0-9]{1,18})?$"), Field(examples=["0.01"])]
Cron = Annotated[str, StringConstraints(pattern=r"^[0-9*/,\- ]{9,100}$"), Field(examples=["0 2 * * *"])]
Sql = Annotated[str, StringConstraints(min_length=7, max_length=8000, pattern=r"^[^\x00;]*$")]
FilePath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./{}-]{0,299}$")]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s@]{1,500}$")]
JsonPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_$:.\-]{0,200}$")]


class ConnectionSpec(Body):
    """A system that rows are read from. ``credential`` names a sealed credential of the zone; none stands in here.

    ``postgresql``: ``host``, ``port`` and ``database``, the credential is of kind ``basic``. ``http``: ``url``, which
    addresses of sources stand under. ``files``: ``directory``, an absolute path on the machines that work.
    """

    kind: Literal["postgresql", "http", "files"]
    host: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:_/-]{1,253}$")] = ""
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    database: Name | None = None
    url: Url | None = None
    directory: Annotated[str, StringConstraints(pattern=r"^/[^\x00]{1,300}$")] | None = None
    credential: Name | None = None
    owner: Line = "reconciliation"

    @model_validator(mode="after")
    def _whole(self) -> ConnectionSpec:
        needed = {"postgresql": bool(self.host and self.database), "http": bool(self.url), "files": self.directory}
        if not needed[self.kind]:
            raise ValueError(f"a connection of kind {self.kind} does not say where it leads")
        if self.kind == "postgresql" and self.credential is None:
            raise ValueError("a connection to a database names its credential")
        return self

    @property
    def place(self) -> str:
        """Where it leads, in a form by which two connections are to the same place."""
        match self.kind:
            case "postgresql":
                return f"postgresql://{self.host.lower()}:{self.port}/{self.database}"
            case "http":
                return (self.url or "").rstrip("/").lower()
        return (self.directory or "").rstrip("/")


class Paging(Body):
    """How a list of several pages is read: ``cursor`` and ``page`` ask with ``parameter``; ``link`` follows ``next``.

    ``next``: where in an answer the next cursor or address is; ``cursor`` and ``link`` end where it is missing, empty
    or null. ``page`` counts from ``first`` in steps of ``step`` and ends with a page that has no items.
    """

    kind: Literal["cursor", "page", "link"]
    parameter: Name | None = None
    next: JsonPath = "next"
    first: Annotated[int, Field(ge=0, le=1)] = 1
    step: Annotated[int, Field(ge=1, le=10_000)] = 1

    @model_validator(mode="after")
    def _whole(self) -> Paging:
        if self.kind != "link" and self.parameter is None:
            raise ValueError("paging by cursor or page names its parameter")
        return self


class LdapSpec(Body):
    """A directory that people sign in by: the identity provider ``provider``, or every enabled one of kind ``ldap``.

    Where it is, its TLS, who searches it and how groups in groups are followed is said by the provider.
    ``members``: a row for everybody in a group (``provider``, ``group``, ``group_dn``, ``member``, ``member_dn``,
    ``direct``) below ``base``; ``roles``: a row for everybody to whom his groups give a role here (``provider``,
    ``member``, ``role``). ``known``: of both only people, and groups, that are known here.
    """

    provider: Name | None = None
    rows: Literal["members", "roles"] = "members"
    base: Dn | None = Field(None, description="Groups below it; without it where the provider has its groups")
    group_filter: GroupFilter | None = None
    known: bool = False
    timeout: Duration = "2m"

    @model_validator(mode="after")
    def _whole(self) -> LdapSpec:
        if self.rows == "roles" and (self.base or self.group_filter):
            raise ValueError("roles are given by the groups of the provider, wherever they are")
        return self


class SourceSpec(Body):
    """Where the rows of one side come from: exactly one of ``sql``, ``file``, ``path`` (HTTP), ``ldap`` and ``own``.

    ``:since`` and ``:until`` in ``sql`` and ``path`` stand for the window that is read; ``{date}`` in ``file`` for a
    day that is judged, whose file holds what comes late too. ``items`` is where in an answer the rows are, ``each`` a
    list within a row of which every entry is a row (``{"item": the row, "each": the entry}``).
    ``columns`` renames: wanted name to name (or path, for JSON) in the source.
    """

    connection: Name | None = None
    sql: Sql | None = None
    file: FilePath | None = None
    path: Annotated[str, StringConstraints(pattern=r"^/[^\s]{0,500}$")] | None = None
    ldap: LdapSpec | None = None
    own: Name | None = None
    items: JsonPath = ""
    each: JsonPath = ""
    columns: Annotated[dict[Column, JsonPath], Field(max_length=64)] = Field(default_factory=dict)
    paging: Paging | None = None
    object: Column | None = None

    @model_validator(mode="after")
    def _one(self) -> SourceSpec:
        given = [name for name in ("sql", "file", "path", "ldap", "own") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("a source is one of sql, file, path, ldap and own")
        if (self.connection is None) != (given[0] in ("ldap", "own")):
            raise ValueError("sql, file and path name their connection, and a directory and our own have none")
        if self.file is not None and (".." in self.file.split("/") or not self.file.endswith((".csv", ".parquet"))):
            raise ValueError("a file is .csv or .parquet below the directory of its connection")
        return self

    @property
    def takes(self) -> str:
        """The kind of connection that can serve it."""
        return "postgresql" if self.sql is not None else "files" if self.file is not None else "http"

    @property
    def called(self) -> str:
        """What reports call it."""
        if self.ldap is not None:
            return f"ldap:{self.ldap.provider or '*'}"
        return self.connection or f"own:{self.own}"

    @property
    def asked(self) -> str:
        """What is asked of the connection, in a form by which two sources ask the same."""
        if self.ldap is not None:
            return self.ldap.model_dump_json(exclude={"timeout", "known"}).lower()
        return " ".join((self.sql or self.file or self.path or self.own or "").split()).lower()


class KeySpec(Body):
    """One column of the key: its name on either side. ``fold`` compares without regard to case."""

    left: Column
    right: Column
    fold: bool = False


class FieldSpec(Body):
    """A field that must agree. ``decimal`` is exact; ``tolerance`` is how far two amounts may be apart."""

    left: Column
    right: Column
    kind: Literal["text", "decimal"] = "text"
    tolerance: Amount = "0"
    fold: bool = False

    @model_validator(mode="after")
    def _whole(self) -> FieldSpec:
        if self.kind == "text" and self.tolerance != "0":
            raise ValueError("only a decimal has a tolerance")
        return self


class TimeSpec(Body):
    """Columns with an instant (RFC 3339, UTC where it has no zone). A pair is at most ``late`` apart.

    Rows are judged once ``late`` has gone by, so that what arrives late is no difference.
    """

    left: Column
    right: Column
    late: Duration = "1h"


class StaleSpec(Body):
    """A row whose ``column`` of ``side`` is older than ``after`` is stale."""

    side: Side = "right"
    column: Column
    after: Duration


class ParentSpec(Body):
    """What rows of ``side`` must belong to: ``column`` is looked up among ``key`` of ``source``."""

    side: Side = "right"
    column: Column
    source: SourceSpec
    key: Column


class WeightSpec(Body):
    """A line of the table that gives a finding its severity and what is best done; the first that fits counts.

    ``at_least`` compares with how far the field ``weigh`` of the reconciliation is off, or its amount where one side
    alone has the row.
    """

    type: Type
    at_least: Amount = "0"
    severity: Severity
    action: ActionName


DEFAULT_TABLE: tuple[WeightSpec, ...] = tuple(
    WeightSpec.model_validate({"type": type_, "severity": severity, "action": action})
    for type_, severity, action in (
        ("missing", "P2", "manual-review"),
        ("excess", "P1", "escalate"),
        ("orphan", "P1", "escalate"),
        ("mismatch", "P2", "manual-review"),
        ("duplicate", "P1", "manual-review"),
        ("stale", "P3", "auto-retry"),
        ("state-without-event", "P1", "escalate"),
        ("event-without-state", "P2", "auto-retry"),
    )
)
"""What holds where a reconciliation's own table says nothing of a type."""


class ScheduleSpec(Body):
    """When it runs, in UTC: every ``delta`` over the day before, every ``full`` over the last ``reach``."""

    delta: Cron = "0 2 * * *"
    full: Cron = "0 4 * * 0"
    reach: Duration = "35d"


class ReconciliationSpec(Body):
    """Two independent sources that must agree.

    ``left`` is what ought to be, ``right`` what is seen elsewhere. ``compare: events`` says that left rows are states
    and right rows the events that led to them. ``many``: the side of which several rows, their decimals added up,
    stand against one. Without ``time`` all rows are compared at every run, as they are then.
    """

    description: Line = ""
    owner: Line
    runbook: Line = ""
    left: SourceSpec
    right: SourceSpec
    keys: Annotated[list[KeySpec], Field(min_length=1, max_length=8)]
    fields: Annotated[list[FieldSpec], Field(max_length=16)] = Field(default_factory=list)
    compare: Literal["rows", "events"] = "rows"
    many: Side | None = None
    time: TimeSpec | None = None
    stale: StaleSpec | None = None
    parents: ParentSpec | None = None
    weigh: Column | None = None
    table: Annotated[list[WeightSpec], Field(max_length=64)] = Field(default_factory=list)
    cap: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 2_000_000
    storm: Annotated[int, Field(ge=1, le=10_000)] = 50
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec)
    enabled: bool = Field(True, description="Whether it runs by itself; by hand it always does")

    @model_validator(mode="after")
    def _whole(self) -> ReconciliationSpec:
        if self.weigh is not None and self.weigh not in {each.left for each in self.fields if each.kind == "decimal"}:
            raise ValueError("weigh names the left column of a decimal field")
        for name in ("left", "right"):
            if len({getattr(each, name) for each in self.fields}) != len(self.fields):
                raise ValueError(f"a {name} column is compared twice")
        return self

    def weight(self, type_: Type, off: Decimal | None) -> WeightSpec:
        """The line of the table for a finding of ``type_`` that is ``off`` by so much (None: not known)."""
        for line in self.table:
            if line.type == type_ and (off is None or off >= Decimal(line.at_least)):
                return line
        return next(line for line in DEFAULT_TABLE if line.type == type_)


CONNECTION = Kind("Connection", ConnectionSpec)


def not_independent(spec: ReconciliationSpec, connections: Mapping[str, ConnectionSpec]) -> str | None:
    """Why the two sources are one and the same; None where nothing shows it."""
    left, right = spec.left, spec.right
    if left.asked != right.asked:
        return None
    places = [connections[each.connection].place if each.connection else each.called for each in (left, right)]
    return f"both sides ask the same of {places[0]}" if places[0] == places[1] else None


def _check(book: Book) -> Iterator[str]:
    connections = book.of(CONNECTION)
    for name, spec in book.of(RECONCILIATION).items():
        sources = [spec.left, spec.right, *([spec.parents.source] if spec.parents else [])]
        yield from (f"Reconciliation {name}: {told}" for source in sources for told in _told(source, connections))
        for cron in (spec.schedule.delta, spec.schedule.full):
            if len(cron.split()) != 5 or not croniter.is_valid(cron):
                yield f"Reconciliation {name}: {cron!r} is no cron text of five fields"


def _told(source: SourceSpec, connections: Mapping[str, ConnectionSpec]) -> Iterator[str]:
    if source.ldap is not None:
        return
    if source.own is not None:
        if source.own not in OWN:
            yield f"there is nothing of our own called {source.own!r}; there are {', '.join(OWN)}"
    elif source.connection not in connections:
        yield f"there is no Connection {source.connection!r}"
    elif connections[source.connection or ""].kind != source.takes:
        yield f"Connection {source.connection} is not of kind {source.takes}"


RECONCILIATION: Kind[ReconciliationSpec] = Kind("Reconciliation", ReconciliationSpec, check=_check)


def document(spec: Body) -> dict[str, Any]:
    """The JSON form of a spec, without what it leaves as it is by default."""
    return spec.model_dump(mode="json", exclude_defaults=True)
