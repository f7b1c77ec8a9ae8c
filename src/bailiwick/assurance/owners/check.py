"""``owners check``: does everything there is have one living person who answers for it, now.

Everything is found by walking: whatever document of the book, of whichever kind, says ``owner`` anywhere; what parts
keep beside the book; every job there is. What names no owner must be covered by an activity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.oncall.rota import LEVELS, ROTA, Override, Roster, Rota, everybody
from bailiwick.assurance.owners.activities import ACTIVITY, Activity, answers, answers_for, covering, of_activity
from bailiwick.assurance.owners.contacts import CONTACT, Contact
from bailiwick.assurance.owners.parties import is_placeholder, party, reaches_nobody
from bailiwick.assurance.owners.people import People
from bailiwick.assurance.ports import Owned
from bailiwick.kernel.verdicts import Verdict

AHEAD = timedelta(weeks=8)
"""How far ahead nobody may be missing from a rota."""
MOST_TOLD = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. ``thing`` is ``Kind/name``, ``job/…``; ``value`` what stands there."""

    thing: str
    place: str
    value: str
    problem: str

    def document(self) -> dict[str, str]:
        """The JSON form."""
        return {"thing": self.thing, "field": self.place, "value": self.value, "problem": self.problem}


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found among ``things``."""

    at: datetime
    things: int
    findings: Sequence[Finding]

    @property
    def verdict(self) -> Verdict:
        """FAIL for any finding; nothing at all to own proves nothing."""
        if self.findings:
            return Verdict.FAIL
        return Verdict.PASS if self.things else Verdict.NO_DATA

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "at": self.at,
            "verdict": self.verdict,
            "checked": self.things,
            "failed": len(self.findings),
            "findings": [each.document() for each in self.findings[:MOST_TOLD]],
        }


@dataclass(frozen=True, slots=True)
class Estate:
    """Everything there is to answer for: the ``book``, ``owned`` beside it, and who stands in on call."""

    book: Book
    kinds: Mapping[str, Kind[Any]]
    owned: Sequence[Owned] = ()
    overrides: Sequence[Override] = ()

    def activities(self) -> dict[str, Activity]:
        """The RACI."""
        return self.book.of(ACTIVITY)

    def rotas(self) -> dict[str, Rota]:
        """The rotas."""
        return self.book.of(ROTA)

    def declared(self) -> list[tuple[str, str, str]]:
        """Thing, place and owner of everything that says ``owner``; place and owner are empty where none is said."""
        found: list[tuple[str, str, str]] = []
        for (kind_name, name), document in sorted(self.book.documents.items()):
            if kind_name == ACTIVITY.name or kind_name not in self.kinds:
                continue
            spec = self.kinds[kind_name].read(document.spec).model_dump(mode="json", by_alias=True)
            owners = list(_owners(spec, "spec"))
            found += [(f"{kind_name}/{name}", place, owner) for place, owner in owners or [("", "")]]
        return found + [(each.thing, "owner" if each.owner else "", each.owner) for each in self.owned]

    def named(self) -> list[str]:
        """Everybody named anywhere."""
        found = [owner for _, _, owner in self.declared() if owner]
        for activity in self.activities().values():
            found += of_activity(activity)
        return found + everybody(self.rotas(), self.overrides)


def judge(estate: Estate, people: People, at: datetime) -> Checked:
    """The findings at ``at``. ``people`` must know everybody of :meth:`Estate.named`."""
    activities, contacts, rotas = estate.activities(), estate.book.of(CONTACT), estate.rotas()
    declared = estate.declared()
    findings: list[Finding] = []
    for name, activity in activities.items():
        findings += _of_activity(name, activity, activities, contacts, rotas, people, at)
    for thing, place, owner in declared:
        findings += _of_thing(thing, place, owner, activities, people, at)
    for name, contact in contacts.items():
        findings += _of_contact(name, contact)
    for name, rota in rotas.items():
        findings += _of_rota(name, rota, [each for each in estate.overrides if each.rota == name], people, at)
    if activities and not rotas:
        findings.append(Finding("oncall", "", "", "there is no rota: nobody is on call"))
    return Checked(at, len(activities) + len({thing for thing, _, _ in declared}), findings)


def _owners(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every ``owner`` in a spec, however deep."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "owner" and not isinstance(inner, (Mapping, list)):
                yield f"{place}.owner", str(inner or "")
            else:
                yield from _owners(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _owners(inner, f"{place}.{index}")


def _of_activity(
    name: str,
    activity: Activity,
    activities: Mapping[str, Activity],
    contacts: Mapping[str, Contact],
    rotas: Mapping[str, Rota],
    people: People,
    at: datetime,
) -> Iterator[Finding]:
    thing = f"Activity/{name}"
    answer = answers_for(activity, people, at)
    if not answer.sound:
        yield Finding(thing, "spec.accountable", activity.accountable, answer.problem)
    for role, named in (
        ("responsible", activity.responsible),
        ("consulted", activity.consulted),
        ("informed", activity.informed),
    ):
        for index, text in enumerate(named):
            if problem := _party_problem(text, activities, contacts, rotas, people, at):
                yield Finding(thing, f"spec.{role}.{index}", text, problem)
    for index, deputy in enumerate(activity.deputies):
        text = f"person:{deputy.person.removeprefix('person:')}"
        if problem := answers(text, activities, people, at).problem:
            yield Finding(thing, f"spec.deputies.{index}", deputy.person, problem)


def _party_problem(
    text: str,
    activities: Mapping[str, Activity],
    contacts: Mapping[str, Contact],
    rotas: Mapping[str, Rota],
    people: People,
    at: datetime,
) -> str:
    if is_placeholder(text):
        return "a placeholder"
    named = party(text)
    if named.kind == "contact":
        return "" if named.name in contacts else f"there is no contact {named.name!r}"
    if named.kind == "rota":
        rota = rotas.get(named.name)
        if rota is None:
            return f"there is no rota {named.name!r}"
        return "" if named.level in rota.levels else f"the rota has no level {named.level!r}"
    return answers(text, activities, people, at).problem


def _of_thing(
    thing: str, place: str, owner: str, activities: Mapping[str, Activity], people: People, at: datetime
) -> Iterator[Finding]:
    if place:
        if problem := answers(owner, activities, people, at).problem:
            yield Finding(thing, place, owner, problem)
        return
    covered = covering(thing, activities)
    if covered is None:
        yield Finding(thing, "owner", "", "names no owner, and no activity covers it")
    elif problem := answers_for(activities[covered], people, at).problem:
        yield Finding(thing, "owner", f"activity:{covered}", problem)


def _of_contact(name: str, contact: Contact) -> Iterator[Finding]:
    thing = f"Contact/{name}"
    if is_placeholder(contact.full_name):
        yield Finding(thing, "spec.name", contact.full_name, "a placeholder")
    if not contact.reach:
        yield Finding(thing, "spec.reach", "", "there is no way to reach it")
    for index, reach in enumerate(contact.reach):
        if reaches_nobody(reach):
            yield Finding(thing, f"spec.reach.{index}", reach, "a placeholder: it reaches nobody")
    if is_placeholder(contact.hours):
        yield Finding(thing, "spec.hours", contact.hours, "a placeholder: when does it answer?")
    if is_placeholder(contact.contract) and (contact.contract or contact.kind == "vendor"):
        yield Finding(thing, "spec.contract", contact.contract, "a placeholder: a vendor answers by a contract")


def _of_rota(name: str, rota: Rota, overrides: Sequence[Override], people: People, at: datetime) -> Iterator[Finding]:
    thing = f"Rota/{name}"
    for level, spec in rota.levels.items():
        for index, text in enumerate(spec.people):
            person = text.strip().removeprefix("person:")
            if is_placeholder(text):
                yield Finding(thing, f"spec.levels.{level}.people.{index}", text, "a placeholder")
            elif people.active(person) is None:
                there = "is not active" if person in people.known else "is nobody here"
                yield Finding(thing, f"spec.levels.{level}.people.{index}", text, f"{person} {there}")
        if spec.role is not None and not people.holders(spec.role):
            yield Finding(thing, f"spec.levels.{level}.role", spec.role, f"nobody holds {spec.role}")
    try:
        roster = Roster(rota, overrides, people)
    except LookupError as error:
        yield Finding(thing, "spec.time_zone", rota.time_zone, str(error))
        return
    for level in LEVELS:
        if level in rota.levels:
            yield from _gaps(thing, roster, level, at)


def _gaps(thing: str, roster: Roster, level: Any, at: datetime) -> Iterator[Finding]:
    for shift in roster.shifts(level, at, at + AHEAD):
        if shift.duty.person is None and shift.duty.why != "declared gap":
            window = f"{shift.begins:%Y-%m-%d %H:%M} to {shift.ends:%Y-%m-%d %H:%M} UTC"
            yield Finding(thing, f"spec.levels.{level}", window, f"nobody is on call: {shift.duty.why}")
            return


def told(findings: Iterable[Finding]) -> str:
    """The findings as plain text, a line each."""
    return "\n".join(f"{each.thing} {each.place} {each.value!r}: {each.problem}" for each in findings)
