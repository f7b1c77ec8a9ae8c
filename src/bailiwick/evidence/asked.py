"""What callers may ask a search for: the parameters of its routes, and of saved queries."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from bailiwick.evidence.query import INSTANT_PATTERN, Filter, Order, instant
from bailiwick.kernel.http import MAX_PAGE


def _plain(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain NUL")
    return value


Word = Annotated[str, StringConstraints(max_length=200), AfterValidator(_plain)]
Moment = Annotated[str, StringConstraints(pattern=INSTANT_PATTERN.replace("^(", "^(|", 1), max_length=40)]
Title = Annotated[
    str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f\x80-\x9f\u2028\u2029]+$")
]
_MOMENT = "RFC 3339 with an offset, `now`, or relative: `-90m`, `-24h`, `-7d` (s, m, h, d, w)"


class FilterParams(BaseModel):
    """The parts of a filter; what is not given does not restrict. A parameter that is none of these is refused."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    code: Word = Field("", description="Code of the event, `BW4002`")
    name: Word = Field("", description="Name of the event; may end in `*`")
    outcome: Literal["", "success", "failure", "allow", "deny", "error"] = ""
    principal: Word = Field("", description="Whom the event is filed under: the user, else the application")
    user: Word = Field("", description="The user who acted")
    application: Word = Field("", description="The application that acted, by its id")
    session: Word = Field("", description="The session in which it happened")
    delegation: Word = Field("", description="The delegation under which it happened")
    mandate: Word = Field("", description="The mandate under which it happened, by its `jti`")
    subject_type: Word = Field("", description="Kind of what was acted upon: `user`, `server`, `policy` …")
    subject_id: Word = Field("", description="What was acted upon")
    server: Word = ""
    ip: Word = Field("", description="Where the request came from")
    reason: Word = Field("", description="One of the event's reason codes")
    request_id: UUID | None = None
    decision_id: UUID | None = None
    client_request_id: Word = Field("", description="The id the caller gave the request")
    trace_id: Word = ""
    since: Moment = Field("", description=f"Not before; {_MOMENT}")
    until: Moment = Field("", description=f"Before; {_MOMENT}")
    text: Word = Field("", description="Anywhere in the event, whatever its case")

    def filter(self, now: datetime) -> Filter:
        """The filter, relative moments counted from ``now``; raises ``invalid_request``."""
        parts = {name: getattr(self, name) for name in FilterParams.model_fields if name not in {"since", "until"}}
        return Filter(
            since=instant(self.since, now) if self.since else None,
            until=instant(self.until, now) if self.until else None,
            **parts,
        )

    def given(self) -> dict[str, Any]:
        """What was given, as plain values."""
        return {
            name: str(value) for name in FilterParams.model_fields if (value := getattr(self, name)) not in ("", None)
        }


class PageParams(BaseModel):
    """Which page."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    limit: int = Field(100, ge=1, le=MAX_PAGE, description="Most events answered at once")
    cursor: str | None = Field(None, max_length=500, description="`next` of the page before")


class SearchParams(FilterParams, PageParams):
    """A page of a search."""

    order: Order = "newest"
    facets: Annotated[str, StringConstraints(pattern=r"^((code|outcome|server|principal)(,|$)){0,4}$")] = Field(
        "", description="Count by these as well: `code,outcome,server,principal`"
    )


class TimelineParams(PageParams):
    """A page of a timeline."""

    order: Order = "oldest"
    since: Moment = Field("", description=f"Not before; {_MOMENT}")
    until: Moment = Field("", description=f"Before; {_MOMENT}")


class ExportParams(FilterParams):
    """An export."""

    order: Order = "oldest"
    format: Literal["jsonl", "csv", "parquet"] = Field(
        "jsonl", description="`jsonl`: the canonical bytes of each event, verbatim"
    )


class TailParams(FilterParams):
    """A tail."""

    seconds: float | None = Field(None, ge=0, le=86_400, description="End after so long; without it, when cut or left")


class SavedParams(BaseModel):
    """A query to be kept."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: Title = Field(examples=["Refusals of the week"])
    shared: bool = Field(False, description="Whether the other auditors of the zone see it")
    query: FilterParams = Field(description="A filter; relative moments are counted from when it is run")
