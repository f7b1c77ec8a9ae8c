"""The schema of event details is true: of every call in the source, and of every event a test sees."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from textwrap import dedent

import pytest
from call_sites import ROOT, Module, Program, Site, call_sites

from bailiwick.evidence import codes
from bailiwick.evidence.codes import EVENT_TYPES, EventType
from bailiwick.evidence.details import DETAILS, violations
from bailiwick.evidence.events import Context, Recorder
from bailiwick.kernel.clock import FakeClock
from bailiwick.kernel.ids import Ids

# One call tells of both outcomes, and passes this for one of them only.
_OTHER_OUTCOME = {("BW4002", "credential")}
# Calls whose details only the check of every event in every test can judge.
OPAQUE: set[str] = set()


@pytest.fixture(scope="module")
def sites() -> list[Site]:
    return call_sites()


def faults(sites: list[Site]) -> list[str]:
    """Where calls and schema differ."""
    told = []
    for site in sites:
        fields = {field.name: field for field in DETAILS[site.code]}
        for name, type in site.passed.details.items():
            if name not in fields:
                if (site.code.code, name) not in _OTHER_OUTCOME:
                    told.append(f"{site.place} passes {name}, which {site.code.code} does not declare")
            elif type not in (None, fields[name].type):
                told.append(f"{site.place} passes {name} as {type}; {site.code.code} declares {fields[name].type}")
        for field in fields.values():
            if field.required and field.name not in site.passed.details and not site.passed.opaque:
                told.append(f"{site.place} does not pass {field.name}, which {site.code.code} requires")
    return told


def test_every_code_has_a_schema_and_no_schema_is_without_its_code() -> None:
    assert {kind.code for kind in DETAILS} == EVENT_TYPES.keys()


def test_field_names_are_words_and_stand_once() -> None:
    for kind, fields in DETAILS.items():
        names = [field.name for field in fields]
        assert len(set(names)) == len(names), kind
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names), kind


def test_every_call_passes_what_the_schema_declares(sites: list[Site]) -> None:
    assert len(sites) >= 50
    assert not (told := faults(sites)), "\n".join(told)


def test_every_code_is_recorded_somewhere_and_every_declared_detail_passed_somewhere(sites: list[Site]) -> None:
    passed = {(site.code.code, name) for site in sites for name in site.passed.details}
    declared = {(kind.code, field.name) for kind, fields in DETAILS.items() for field in fields}
    opaque = {site.code.code for site in sites if site.passed.opaque}
    assert not (unused := sorted(pair for pair in declared - passed if pair[0] not in opaque)), unused
    assert not (silent := sorted(EVENT_TYPES.keys() - {site.code.code for site in sites})), silent


def test_what_every_call_passes_can_be_read_out_of_the_source(sites: list[Site]) -> None:
    assert {site.place for site in sites if site.passed.opaque} == OPAQUE


def test_a_detail_that_every_call_passes_is_required(sites: list[Site]) -> None:
    for kind, fields in DETAILS.items():
        of_kind = [site for site in sites if site.code == kind]
        for field in fields:
            if not field.required:
                assert not all(
                    field.name in site.passed.details and field.name not in site.passed.sometimes for site in of_kind
                ), f"{kind.code} {field.name} need not be optional"


def test_no_event_is_made_but_through_a_recorder() -> None:
    made = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Event"
    }
    assert made == {"evidence/events.py"}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ('recorder.make(codes.AUTH_LOGOUT, "success", context, username="jane", extra=1)', "passes extra"),
        ('recorder.make(codes.AUTH_LOGOUT, "success", context, username=len(names))', "passes username as int"),
        ('recorder.make(codes.AUTH_LOGOUT, "success", context)', "does not pass username"),
        ('helper(codes.AUTH_LOGOUT, username="jane", more=True)', "passes more"),
        ('recorder.make(codes.AUTH_LOGOUT, "success", context, **built())', "passes elsewhere"),
    ],
)
def test_a_call_that_breaks_the_schema_is_found(call: str, told: str) -> None:
    source = f"""
    def built():
        details = {{"username": "jane"}}
        if late:
            details["elsewhere"] = "x"
        return details
    def helper(kind, **details):
        recorder.make(kind, "success", context, **details)
    def site():
        {call}
        helper(codes.AUTH_LOGOUT, username="jane")
    """
    found = faults(list(Program([Module(Path("made.py"), dedent(source))]).sites()))
    assert len(found) == 1, found
    assert told in found[0]


def test_an_event_that_breaks_its_schema_is_told_in_words(broken_events: list[str]) -> None:
    recorder, context = Recorder(FakeClock(), Ids()), Context("default")
    assert violations(recorder.make(codes.AUTH_LOGOUT, "success", context, username="jane")) == []
    wrong = recorder.make(codes.AUTH_ACCOUNT_LOCKED, "failure", context, failures=True, why="x")
    assert violations(wrong) == [
        "BW1006 says nothing of minutes",
        "BW1006 declares failures as int, not True",
        "BW1006 does not declare why",
    ]
    lists = recorder.make(codes.EVIDENCE_LOSS_ACKNOWLEDGED, "success", context, lost="not a list")
    assert violations(lists) == ["BW5011 declares lost as list[str], not 'not a list'"]
    assert violations(recorder.make(EventType("BW0000", "no.code"), "success", context)) == ["BW0000 has no schema"]
    assert len(broken_events) == 5
    broken_events.clear()
