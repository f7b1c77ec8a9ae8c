"""Every code in OCSF and ECS: as the golden files say, and as the two schemas demand."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest
from golden_events import FORMS, GOLDEN, golden_event, written

from bailiwick.evidence import codes, ecs, ocsf
from bailiwick.evidence.codes import EVENT_TYPES, EventType
from bailiwick.evidence.events import Actor, Event, Network, Outcome
from bailiwick.evidence.mapping import MAPPING, to_ecs, to_ocsf

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
KINDS = list(EVENT_TYPES.values())

# From https://schema.ocsf.io/1.7.0/: base_event, each class, and the objects they need. A path is required as far as
# its parent stands; of the groups at least one attribute stands.
_BASE = {
    "activity_id",
    "category_uid",
    "class_uid",
    "metadata",
    "metadata.product",
    "metadata.version",
    "severity_id",
    "time",
    "type_uid",
}
_REQUIRED = {
    3001: {"user"},
    3002: {"user"},
    3003: {"user"},
    3004: {"entity"},
    2004: {"finding_info", "finding_info.uid", "finding_info.title"},
    6003: {"actor", "api", "api.operation", "src_endpoint"},
}
_AT_LEAST_ONE = {
    3002: [{"service", "dst_endpoint"}],
    3003: [{"privileges", "group"}],
    3004: [{"entity.name", "entity.uid"}],
}
_OF_OBJECTS = {
    "actor": {"process", "user", "invoked_by", "session", "app_name", "app_uid"},
    "src_endpoint": {"ip", "uid", "name", "hostname", "svc_name", "instance_uid", "interface_uid", "interface_name"},
    "dst_endpoint": {"ip", "uid", "name", "hostname", "svc_name", "instance_uid", "interface_uid", "interface_name"},
    "user": {"account", "name", "uid"},
    "metadata.product": {"name", "uid"},
    "service": {"name", "uid"},
}
_ACTIVITIES = {3001: 12, 3002: 7, 3003: 2, 3004: 13, 2004: 3, 6003: 4}
_CATEGORIES = {2: "Findings", 3: "Identity & Access Management", 6: "Application Activity"}

# From https://www.elastic.co/docs/reference/ecs/ecs-category-field-values-reference
_ECS_KINDS = {"alert", "asset", "enrichment", "event", "metric", "state", "pipeline_error", "signal"}
_ECS_OUTCOMES = {"success", "failure", "unknown"}


def at(document: Any, path: str) -> Any:
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def bare(kind: EventType, outcome: Outcome) -> Event:
    """The least an event of ``kind`` may hold: no details, nobody, from nowhere, about nothing."""
    return msgspec.structs.replace(
        golden_event(kind),
        actor=Actor(),
        details={},
        network=Network(),
        outcome=outcome,
        reasons=(),
        request_id="",
        server="",
        subject=None,
    )


def assert_ocsf(made: dict[str, Any]) -> None:
    uid = made["class_uid"]
    for path in _BASE | _REQUIRED[uid]:
        assert at(made, path) not in (None, "", [], {}), path
    for group in _AT_LEAST_ONE.get(uid, []):
        assert any(at(made, path) for path in group), group
    for path, attributes in _OF_OBJECTS.items():
        if at(made, path) is not None:
            assert attributes & at(made, path).keys(), path
    assert made["category_uid"] == uid // 1000
    assert made["category_name"] == _CATEGORIES[uid // 1000]
    assert made["type_uid"] == uid * 100 + made["activity_id"]
    assert made["activity_id"] in {*range(1, _ACTIVITIES[uid] + 1), 99}
    assert made["severity_id"] in range(1, 6)
    assert made["status_id"] in ({1, 4} if uid == 2004 else {1, 2, 99})
    assert isinstance(made["time"], int)


def assert_ecs(made: dict[str, Any]) -> None:
    event = made["event"]
    assert made["@timestamp"].endswith("Z")
    assert made["ecs"] == {"version": ecs.VERSION}
    assert event["kind"] in _ECS_KINDS
    assert event["outcome"] in _ECS_OUTCOMES
    assert event["category"]
    assert event["type"]
    allowed = frozenset[str]().union(*(ecs.CATEGORIES[category] for category in event["category"]))
    assert set(event["type"]) <= allowed, event
    assert all(isinstance(event[name], str) for name in ("id", "code", "action"))


def test_every_code_is_mapped_and_nothing_else() -> None:
    assert {kind.code for kind in MAPPING} == EVENT_TYPES.keys()


@pytest.mark.parametrize("form", FORMS)
def test_the_golden_files_are_what_the_program_says(form: str) -> None:
    files = {path.stem: path.read_text() for path in (GOLDEN / form).glob("*.json")}
    assert files.keys() == EVENT_TYPES.keys()
    stale = [kind.code for kind in KINDS if files[kind.code] != written(form, kind)]
    assert not stale, f"{stale}: look at the difference, then python tests/evidence/golden_events.py --write"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_the_schemas_are_met_by_a_full_event_and_by_a_bare_one(kind: EventType) -> None:
    for event in (golden_event(kind), *(bare(kind, outcome) for outcome in OUTCOMES)):
        assert_ocsf(to_ocsf(event))
        assert_ecs(to_ecs(event))


def test_every_activity_is_one_of_its_class_or_other_on_purpose() -> None:
    """A caption the class does not know becomes Other, which a misspelling must not."""
    others = {
        (kind.code, mapped.activity)
        for kind, mapped in MAPPING.items()
        if mapped.activity not in {*mapped.ocsf.activities, ocsf.BY_METHOD}
    }
    assert others == {
        ("BW1102", "Update"),
        ("BW2101", "Evaluate"),
        ("BW4003", "Cut"),
        ("BW6101", "Other"),
    }


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE", "PROPFIND", ""])
def test_a_request_is_the_activity_its_method_stands_for(method: str) -> None:
    event = golden_event(codes.GATEWAY_DENIED)
    made = to_ocsf(msgspec.structs.replace(event, details={**event.details, "method": method}))
    expected = {"GET": "Read", "POST": "Create", "PATCH": "Update", "DELETE": "Delete"}.get(method, "Other")
    assert made["activity_name"] == expected
    assert_ocsf(made)


def test_what_the_other_language_has_no_word_for_is_not_lost() -> None:
    for kind in KINDS:
        event = golden_event(kind)
        for name, value in event.details.items():
            assert to_ocsf(event)["unmapped"][name] == value
            assert to_ecs(event)["bailiwick"]["details"][name] == value
        assert event.id == to_ocsf(event)["metadata"]["uid"] == to_ecs(event)["event"]["id"]


def test_a_tampered_ledger_is_critical_and_an_alert() -> None:
    failed = golden_event(codes.AUDIT_VERIFIED)
    assert to_ocsf(failed)["severity"] == "Critical"
    assert to_ecs(failed)["event"]["kind"] == "alert"
    passed = msgspec.structs.replace(failed, outcome="success", reasons=())
    assert to_ocsf(passed)["severity"] == "Informational"
    assert to_ecs(passed)["event"]["kind"] == "event"


def test_a_simulated_clock_is_told() -> None:
    simulated = msgspec.structs.replace(golden_event(codes.AUTH_LOGOUT), simulated_clock=True)
    assert to_ocsf(simulated)["metadata"]["labels"] == ["simulated_clock"]
    assert to_ecs(simulated)["bailiwick"]["simulated_clock"] is True


def test_what_is_made_is_plain_json() -> None:
    for kind in KINDS:
        for made in (to_ocsf(golden_event(kind)), to_ecs(golden_event(kind))):
            assert json.loads(json.dumps(made)) == made


def test_an_unknown_code_is_told_apart() -> None:
    event = msgspec.structs.replace(golden_event(codes.AUTH_LOGOUT), code="BW9999")
    for form in (to_ocsf, to_ecs):
        with pytest.raises(KeyError):
            form(event)
