"""No text sets a status: nothing that a person sends to the room, and no document of its book, has a place for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel
from stage import room_of

from bailiwick.app.assurance import KINDS, Assurance
from people_fixtures import House

# how a status is called where it is one
WORDS = {
    "verdict", "verdicts", "status", "state", "result", "outcome", "passed", "passes", "pass", "passing", "ok", "green",
    "red", "healthy", "health", "score", "met", "achieved", "done", "ready", "approved", "signed", "held", "resolved",
    "coverage", "compliant", "success", "progress", "percent_done",
}  # fmt: skip
# where a word of these is sent all the same, and why it sets nothing by itself
SENT = {
    ("POST", "/api/v1/registers/{register}/{name}", "state"): "takes an evidence record (test_prose_sets_no_state)",
    ("POST", "/api/v1/overrides/{override_id}/review", "verdict"): "another person's vote, with step-up: one of two",
    (
        "POST",
        "/api/v1/readiness/{environment}/attestations/{attestation_id}/review",
        "outcome",
    ): "another living person's word to what somebody stated; how the item stands is computed from both",
    ("POST", "/api/v1/tasks/{task_id}/done", "outcome"): "what came of it, beside the state; nothing reads it",
}
IN_BOOK = {
    ("Machine", "state"): "the column in which a source tells it",
    ("Probe", "status"): "the HTTP status that is expected",
    ("RolloutPlan", "status"): "the HTTP statuses that are expected",
    ("SLO", "resolved"): "OpenSLO's alertWhenResolved, a yes or no",
}


def models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models within a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_of(field.annotation)
    for inner in get_args(annotation):
        yield from models_of(inner)


@pytest.fixture
def room(house: House, tmp_path: Path) -> Assurance:
    return room_of(house, tmp_path)


def bodies(room: Assurance) -> Iterator[tuple[str, str, type[BaseModel]]]:
    for part in room.parts:
        for router in part.routers():
            for route in router.routes:
                assert isinstance(route, APIRoute)
                for parameter in route.dependant.body_params:
                    for model in models_of(parameter.field_info.annotation):
                        for method in sorted(route.methods):
                            yield method, route.path, model


def test_nothing_that_is_sent_has_a_place_for_a_status(room: Assurance) -> None:
    found = {
        (method, path, field) for method, path, model in bodies(room) for field in model.model_fields if field in WORDS
    }
    assert found == SENT.keys()


def test_what_is_sent_beside_the_known_fields_is_refused(room: Assurance) -> None:
    looked = list(bodies(room))
    assert len(looked) > 30
    loose = {(path, model.__name__) for _, path, model in looked if model.model_config.get("extra") != "forbid"}
    assert loose == set()


def test_no_document_of_the_book_has_a_place_for_a_status() -> None:
    found = {
        (kind.name, field)
        for kind in KINDS
        for model in models_of(kind.spec)
        for field in model.model_fields
        if field in WORDS
    }
    assert found == IN_BOOK.keys()
