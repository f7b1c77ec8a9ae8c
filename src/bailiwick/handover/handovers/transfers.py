"""What changes hands: the documents of the book as they are to be, and whether they are still what was signed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bailiwick.assurance.book import Book, Document
from bailiwick.assurance.books import Plan
from bailiwick.handover.handovers.plan import HandoverPlan
from bailiwick.kernel.errors import Conflict


def wanted(book: Book, plan: HandoverPlan) -> list[Document]:
    """Every document of ``book``, those of the plan's activities, rotas and routes as the plan says.

    Raises KeyError for a name that the book has not; its check has seen to that there is none.
    """
    changed: dict[tuple[str, str], Mapping[str, Any]] = {}
    for name, activity in plan.activities.items():
        changed["Activity", name] = activity.model_dump(mode="json", exclude_none=True)
    for name, rota in plan.rotas.items():
        turns = rota.model_dump(mode="json", exclude_unset=True)
        levels = {**book.documents["Rota", name].spec.get("levels", {}), **turns.pop("levels")}
        changed["Rota", name] = {**turns, "levels": levels}
    for name, route in plan.routes.items():
        changed["Route", name] = {"channels": list(route.channels)}
    documents: dict[tuple[str, str], Document] = dict(book.documents)
    for key, said in changed.items():
        documents[key] = replace(documents[key], spec={**documents[key].spec, **said})
    return list(documents.values())


def require_one(planned: Plan) -> Plan:
    """``planned`` again. Raises ``handover_takes_two`` where it would wait for a second person.

    Acceptance is at once or not at all: an approval that it asked for would be gone with it.
    """
    if two := [f"{each.kind}/{each.name}" for each in planned.differences if each.two_persons]:
        raise Conflict(reason="handover_takes_two", documents=two[:50])
    return planned


def moved(signed: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is changed in another way now than it was when the pack was built: kind and name of each."""
    then = {(each["kind"], each["name"]): each for each in signed}
    today = {(each["kind"], each["name"]): each for each in now}
    return sorted(
        f"{kind}/{name}" for kind, name in {*then, *today} if then.get((kind, name)) != today.get((kind, name))
    )
