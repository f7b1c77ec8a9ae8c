"""What a handover is of: from whom to whom, who signs for each team, and what changes hands to whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.notices.channels import CHANNEL
from bailiwick.assurance.notices.routes import ROUTE
from bailiwick.assurance.oncall.rota import ROTA, LevelSpec
from bailiwick.assurance.owners.activities import ACTIVITY, Parties
from bailiwick.assurance.ports import Level
from bailiwick.kernel.fields import Body, Line, Name, UserName
from bailiwick.kernel.permissions import Role

Team = Literal["engineering", "operations", "security", "management"]
TEAMS: tuple[Team, ...] = get_args(Team)
"""Who signs: the four of the production handoff's sign-off."""

Filled = Annotated[Line, Field(min_length=1)]


class Who(Body):
    """Whoever holds ``role``, or one of ``people``."""

    role: Role | None = None
    people: Annotated[list[UserName], Field(max_length=20)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_of_both(self) -> Who:
        if bool(self.people) == (self.role is not None):
            raise ValueError("give people or role, and not both")
        return self

    def told(self) -> dict[str, object]:
        """As a pack says it."""
        return {"role": str(self.role) if self.role else "", "people": sorted(self.people)}


class NewActivity(Body):
    """Who is accountable for an activity from then on, and whatever else of its RACI becomes another."""

    accountable: Filled = Field(examples=["role:ops_owner"])
    responsible: Parties | None = None
    consulted: Parties | None = None
    informed: Parties | None = None


class NewRota(Body):
    """Who takes turns on the levels of a rota from then on; levels that are not named stay."""

    levels: Annotated[dict[Level, LevelSpec], Field(min_length=1)]
    owner: Filled | None = None


class NewRoute(Body):
    """Whereto the alerts of a route go from then on."""

    channels: Annotated[list[Name], Field(min_length=1, max_length=10)]


class HandoverPlan(Body):
    """A handover of ``environment`` from one team to another. ``window_days``: how far back the pack looks."""

    platform: Name = "default"
    environment: Name
    begins: Filled = Field(alias="from", description="The team that hands over")
    to: Filled = Field(description="The team that receives")
    window_days: Annotated[int, Field(ge=1, le=90)] = 30
    teams: dict[Team, Who] = Field(description="Who signs for each of the four teams")
    receives: Who = Field(description="Who accepts for the team that receives")
    activities: Annotated[dict[Name, NewActivity], Field(min_length=1, max_length=100)]
    rotas: Annotated[dict[Name, NewRota], Field(min_length=1, max_length=20)]
    routes: Annotated[dict[Name, NewRoute], Field(max_length=50)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _four_teams(self) -> HandoverPlan:
        if missing := [team for team in TEAMS if team not in self.teams]:
            raise ValueError(f"teams lacks {', '.join(missing)}")
        return self


def speaks(who: Mapping[str, object], name: str, roles: Iterable[str]) -> bool:
    """Whether somebody of ``roles`` called ``name`` is meant by what :meth:`Who.told` answered."""
    people, role = who["people"], who["role"]
    assert isinstance(people, Sequence)
    return name.casefold() in {str(each).casefold() for each in people} or bool(role and role in set(roles))


def _check(book: Book) -> Iterable[str]:
    there = {kind.name: book.of(kind) for kind in (ACTIVITY, ROTA, ROUTE)}
    channels = book.of(CHANNEL)
    for name, plan in book.of(PLAN).items():
        for kind, changes in (("Activity", plan.activities), ("Rota", plan.rotas), ("Route", plan.routes)):
            yield from (
                f"HandoverPlan {name}: there is no {kind} {each}" for each in changes if each not in there[kind]
            )
        for route, change in plan.routes.items():
            missing = [each for each in change.channels if each not in channels]
            yield from (f"HandoverPlan {name}: route {route} names no channel {each!r}" for each in missing)
        if there["Route"] and not plan.routes:
            yield f"HandoverPlan {name}: alerts have routes, and it says of none to whom they go"


PLAN = Kind("HandoverPlan", HandoverPlan, check=_check, two_persons=lambda before, after: True)
KINDS = (PLAN,)
