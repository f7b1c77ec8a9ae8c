"""The documents: ``Checklist``, what must be so; ``ReadinessProfile``, which environment is held to which of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from bailiwick.assurance.book import Book, Kind, canonical
from bailiwick.assurance.durations import Duration, span
from bailiwick.assurance.probes.reading import Limit
from bailiwick.assurance.probes.spec import (
    INSTALLATION_ZONE,
    LONGEST,
    Expectation,
    File,
    Host,
    Ports,
    Url,
    Word,
    of_the_machine,
)
from bailiwick.assurance.thresholds import THRESHOLD, Threshold
from bailiwick.handover.readiness.checks import Address, ObjectName, Unbound, bound, read_check
from bailiwick.kernel.fields import Body, Line, Name, Text

PROBED_FOR = "1h"
ATTESTED_FOR = "90d"

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,58}[a-z0-9])?$")]
FIREWALL_TRIED = ["1-1024", "2375-2380", "3000", "3306", "5432", "6379", "8000-8100", "9090-9100", "10250", "27017"]
"""Ports where what should not be open is found."""
OwnerRole = Literal["ops_owner", "security_owner", "finance_owner", "product_owner"]
Profile = Literal["single", "cluster"]
Reference = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,60}(/[a-z0-9-]{1,60})?$")]
_RUNS = frozenset({"command", "sql"})


class ItemProbe(Body):
    """What is looked at. ``check`` is a check of the probes or of ``docs/how-to/readiness.md``, in which ``${name}``
    stands for what the environment says; what is measured is held against ``threshold`` or ``expect``."""

    check: dict[Line, Any]
    threshold: Name | None = None
    expect: Expectation | None = None
    timeout: Duration = "10s"
    window: Duration | None = None

    @model_validator(mode="after")
    def _coherent(self) -> ItemProbe:
        if self.threshold is not None and self.expect is not None:
            raise ValueError("say either threshold or expect")
        if span(self.timeout) > LONGEST:
            raise ValueError("timeout is at most 5m")
        return self

    def limit(self, thresholds: Mapping[str, Threshold]) -> Limit | None:
        """What the value is held against. Raises :class:`LookupError` where the catalogue lacks it."""
        if self.threshold is not None:
            found = thresholds[self.threshold]
            return Limit(found.value, found.comparison, found.unit, self.threshold)
        if self.expect is not None:
            return Limit(self.expect.value, self.expect.comparison, self.expect.unit)
        return None


class ItemAttestation(Body):
    """What a person states where no probe can look. ``attachment``: a document goes with it, named by its hash."""

    states: Line
    attachment: bool = False


class Item(Body):
    """One item: shown by a probe, by an attestation, or by other items (``requires``: ``checklist``,
    ``checklist/area`` or ``checklist/item``) all being so.

    ``role``: the owner role that answers for it, where it is not the area's. ``life``: how long its evidence counts.
    ``waivable`` false: no waiver lets it pass. ``mend``: what to do where it is not so.
    """

    key: Slug
    title: Line
    role: OwnerRole | None = None
    requirement: Literal["must", "should"] = "must"
    profile: Literal["single", "cluster", "both"] = "both"
    life: Duration | None = None
    probe: ItemProbe | None = None
    attest: ItemAttestation | None = None
    requires: Annotated[list[Reference], Field(min_length=1, max_length=50)] | None = None
    waivable: bool = True
    mend: Text = ""

    @model_validator(mode="after")
    def _one(self) -> Item:
        if sum(each is not None for each in (self.probe, self.attest, self.requires)) != 1:
            raise ValueError(f"{self.key}: an item has one of probe, attest and requires")
        if self.requires is not None and self.life is not None:
            raise ValueError(f"{self.key}: what is computed from other items lives as long as they do")
        return self

    @property
    def lives(self) -> timedelta:
        """How long its evidence counts."""
        return span(self.life or (ATTESTED_FOR if self.attest is not None else PROBED_FOR))


class Area(Body):
    """Items that belong together. ``role``: the owner role that answers for those that name none."""

    key: Slug
    title: Line
    role: OwnerRole
    items: Annotated[list[Item], Field(min_length=1, max_length=100)]


class Checklist(Body):
    """A checklist. ``owner``: the activity whose accountable person keeps it; ``source``: where it comes from."""

    owner: Line
    title: Line
    source: Line = ""
    areas: Annotated[list[Area], Field(min_length=1, max_length=50)]

    @model_validator(mode="after")
    def _named_once(self) -> Checklist:
        keys = [item.key for area in self.areas for item in area.items]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"two items are called {', '.join(twice)}")
        places = [area.key for area in self.areas]
        if len(set(places)) != len(places) or set(places) & set(keys):
            raise ValueError("an area is called as another area or as an item")
        return self


class Values(Body):
    """What an environment is, for probes: addresses, files, names. What is not said cannot be looked at."""

    api_url: Url | None = None
    tls_hosts: Annotated[list[Host], Field(min_length=1, max_length=50)] | None = None
    dns_names: Annotated[list[Host], Field(min_length=1, max_length=50)] | None = None
    dns_server: Host | None = None
    dns_port: Annotated[int, Field(ge=1, le=65535)] = 53
    tls_port: Annotated[int, Field(ge=1, le=65535)] = 443
    load_balancer: Host | None = None
    ca_file: File | None = None
    firewall_host: Host | None = None
    firewall_tried: Annotated[list[Ports], Field(min_length=1, max_length=50)] = Field(default=FIREWALL_TRIED)
    firewall_open: Annotated[list[Annotated[int, Field(ge=1, le=65535)]], Field(max_length=50)] | None = None
    kubernetes_url: Url | None = None
    kubernetes_token_file: File | None = None
    kubernetes_ca_file: File | None = None
    namespace: ObjectName = "production"
    monitoring_namespace: ObjectName = "monitoring"
    workload: ObjectName = "bailiwick"
    prometheus_workload: ObjectName = "prometheus"
    grafana_workload: ObjectName = "grafana"
    prometheus_url: Url | None = None
    alertmanager_url: Url | None = None
    grafana_url: Url | None = None
    grafana_token_file: File | None = None
    loki_url: Url | None = None
    loki_stream: Word = '{app="bailiwick"}'
    redis_url_file: File | None = None
    redis_sentinels: Annotated[list[Address], Field(min_length=1, max_length=20)] | None = None
    redis_master: Line = "main"
    database_url_file: File | None = None
    audit_database_url_file: File | None = None
    image_scan_report: File | None = None
    security_scan_report: File | None = None
    unit_test_report: File | None = None
    coverage_report: File | None = None
    integration_report: File | None = None
    load_report: File | None = None
    chaos_report: File | None = None
    consul_url: Url | None = None


OPTIONAL = frozenset(
    {
        "ca_file",
        "kubernetes_ca_file",
        "dns_server",
        "grafana_token_file",
        "database_url_file",
        "audit_database_url_file",
    }
)
"""Values without which a check is made all the same."""

_EXAMPLES: dict[str, Any] = {
    "tls_hosts": ["api.example.com"],
    "dns_names": ["api.example.com"],
    "firewall_open": [443],
    "redis_sentinels": ["sentinel.example.com:26379"],
}


def example_values() -> dict[str, Any]:
    """A value of every name, to see whether a check would hold with one."""
    found: dict[str, Any] = {}
    for name, field in Values.model_fields.items():
        if name in _EXAMPLES:
            found[name] = _EXAMPLES[name]
        elif field.default is not None:
            found[name] = field.get_default()
        elif name.endswith("_url"):
            found[name] = "https://host.example.com"
        elif name.endswith(("_file", "_report")):
            found[name] = "/srv/evidence/file"
        else:
            found[name] = "host.example.com"
    return found


class ReadinessProfile(Body):
    """An environment, by its name: whether it is one machine or a cluster, which checklists it is held to, and the
    ``values`` that their probes need. ``owner``: the activity whose accountable person answers for it; ``every``: how
    often they are run; only when asked for, without it."""

    owner: Line
    profile: Profile
    checklists: Annotated[list[Name], Field(min_length=1, max_length=50)]
    values: Values = Values()
    every: Duration | None = None

    @model_validator(mode="after")
    def _coherent(self) -> ReadinessProfile:
        if len(set(self.checklists)) != len(self.checklists):
            raise ValueError("a checklist is named twice")
        if self.every is not None and span(self.every) < timedelta(minutes=1):
            raise ValueError("a readiness run is every 1m at most")
        return self


# ---------------------------------------------------------------------- what a book says of an environment


@dataclass(frozen=True, slots=True)
class Placed:
    """An item in its place. ``key`` is ``checklist/item``."""

    checklist: str
    area: Area
    item: Item

    @property
    def key(self) -> str:
        """By what it is called everywhere."""
        return f"{self.checklist}/{self.item.key}"

    @property
    def owner(self) -> str:
        """The role that answers for it."""
        return self.item.role or self.area.role

    @property
    def control(self) -> str:
        """What a waiver of it names."""
        return f"readiness/{self.key}"

    def applies(self, profile: str) -> bool:
        """Whether an installation of ``profile`` is held to it."""
        return self.item.profile in ("both", profile)

    def digest(self, values: Mapping[str, Any]) -> str:
        """What evidence of it must have been of: what it asks, of the environment as it is."""
        told: dict[str, Any] = {"key": self.key, "title": self.item.title}
        if self.item.attest is not None:
            told["attest"] = self.item.attest.model_dump(mode="json")
        if self.item.probe is not None:
            told["probe"] = self.item.probe.model_dump(mode="json")
            try:
                told["check"] = bound(self.item.probe.check, dict(values), OPTIONAL)
            except Unbound as error:
                told["unbound"] = error.names
        return hashlib.sha256(canonical(told)).hexdigest()


def lines_of(book: Book, profile: ReadinessProfile) -> list[Placed]:
    """Every item that an environment is held to, or would be under another profile, in the order of its checklists."""
    checklists = book.of(CHECKLIST)
    return [
        Placed(name, area, item)
        for name in profile.checklists
        if name in checklists
        for area in checklists[name].areas
        for item in area.items
    ]


def referred(reference: str, lines: Iterable[Placed]) -> list[Placed]:
    """The items that a reference of ``requires`` means: of a checklist, of an area of it, or one."""
    checklist, _, rest = reference.partition("/")
    return [
        line for line in lines if line.checklist == checklist and (not rest or rest in (line.area.key, line.item.key))
    ]


# ---------------------------------------------------------------------- what must hold of a book


def _of_checklists(book: Book) -> Iterator[str]:
    thresholds, examples = book.of(THRESHOLD), {**example_values(), "grafana_token_file": None}
    for name, checklist in book.of(CHECKLIST).items():
        if not name.replace("-", "").isalnum() or name != name.lower():
            yield f"Checklist {name}: is called in lower case letters, digits and dashes"
        for area in checklist.areas:
            for item in area.items:
                place = f"Checklist {name}/{item.key}"
                if item.probe is not None:
                    yield from _of_probe(place, item.probe, thresholds, examples, book.zone)
                for reference in item.requires or ():
                    if not _known(reference, book):
                        yield f"{place}: there is nothing called {reference}"
    yield from _circles(book)


def _of_probe(
    place: str, probe: ItemProbe, thresholds: Mapping[str, Threshold], examples: dict[str, Any], zone: str
) -> Iterator[str]:
    if probe.threshold is not None and probe.threshold not in thresholds:
        yield f"{place}: there is no Threshold {probe.threshold!r}"
    try:
        check = read_check(bound(probe.check, examples, OPTIONAL))
    except Unbound as error:
        yield f"{place}: no environment has a value called {error}"
    except ValidationError as error:
        first = error.errors()[0]
        yield f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    else:
        if zone != INSTALLATION_ZONE and of_the_machine(check):
            yield f"{place}: {check.type} is for the zone {INSTALLATION_ZONE} alone"
        if probe.threshold is None and probe.expect is None and not getattr(check, "asks", True):
            yield f"{place}: what is measured needs threshold or expect"


def _known(reference: str, book: Book) -> bool:
    checklist, _, rest = reference.partition("/")
    found = book.of(CHECKLIST).get(checklist)
    if found is None:
        return False
    return not rest or any(rest == area.key or any(rest == each.key for each in area.items) for area in found.areas)


def _circles(book: Book) -> Iterator[str]:
    """What is computed from itself could never become so, or always be."""
    lines = [
        Placed(name, area, item)
        for name, each in book.of(CHECKLIST).items()
        for area in each.areas
        for item in area.items
    ]
    needs = {line.key: {e.key for r in line.item.requires or () for e in referred(r, lines)} for line in lines}
    settled = {key for key, others in needs.items() if not others}
    while grown := {key for key, others in needs.items() if key not in settled and others <= settled}:
        settled |= grown
    for key in sorted(set(needs) - settled):
        yield f"Checklist {key}: is computed from itself"


def _of_profiles(book: Book) -> Iterator[str]:
    checklists = book.of(CHECKLIST)
    for name, profile in book.of(READINESS_PROFILE).items():
        for each in profile.checklists:
            if each not in checklists:
                yield f"ReadinessProfile {name}: there is no Checklist {each}"
        for value in sorted(_files(profile.values)) if book.zone != INSTALLATION_ZONE else ():
            yield f"ReadinessProfile {name}: {value} is for the zone {INSTALLATION_ZONE} alone"


def _files(values: Values) -> set[str]:
    """The files of this machine that an environment names, but for certificates."""
    said = values.model_dump(exclude_none=True)
    return {name for name in said if name.endswith(("_file", "_report")) and not name.endswith("ca_file")}


def _weaker_checklist(before: Checklist | None, after: Checklist | None) -> bool:
    """Whether something may pass that did not, or something is run that was not."""
    old, new = _items(before), _items(after)
    if any(_asks_two(item) and (key not in old or old[key].probe != item.probe) for key, item in new.items()):
        return True
    if before is None:
        return False
    return any(key not in new or _weaker(item, new[key]) for key, item in old.items())


def _weaker(before: Item, after: Item) -> bool:
    return (
        (before.requirement == "must" and after.requirement != "must")
        or before.profile != after.profile
        or after.lives > before.lives
        or (after.waivable and not before.waivable)
        or (before.probe, before.attest, before.requires) != (after.probe, after.attest, after.requires)
    )


def _asks_two(item: Item) -> bool:
    """Whether it runs something, or says itself where a token of this machine is sent."""
    check = item.probe.check if item.probe is not None else {}
    tells_whom = check.get("type") in ("kubernetes", "monitoring") and not {"url", "token_file"}.isdisjoint(check)
    return check.get("type") in _RUNS or tells_whom


def _items(checklist: Checklist | None) -> dict[str, Item]:
    return {item.key: item for area in checklist.areas for item in area.items} if checklist is not None else {}


def _weaker_profile(before: ReadinessProfile | None, after: ReadinessProfile | None) -> bool:
    """Another profile, fewer checklists, or looking elsewhere than before: what is not said is what it is without, and
    our own address is what the installation says. To say what had no value takes one; to send a token takes two."""
    if after is not None and _sends(after) - (_sends(before) if before is not None else set()):
        return True
    if before is None:
        return False
    if after is None or after.profile != before.profile or not set(before.checklists) <= set(after.checklists):
        return True
    was, will = before.values.model_dump(), after.values.model_dump()
    return was["api_url"] != will["api_url"] or any(will[name] != value for name, value in was.items() if value)


def _sends(profile: ReadinessProfile) -> set[tuple[str, str]]:
    """Which token of this machine is sent where."""
    said = profile.values
    pairs = ((said.kubernetes_token_file, said.kubernetes_url), (said.grafana_token_file, said.grafana_url))
    return {(token, url) for token, url in pairs if token is not None and url is not None}


CHECKLIST = Kind("Checklist", Checklist, check=_of_checklists, two_persons=_weaker_checklist)
READINESS_PROFILE = Kind("ReadinessProfile", ReadinessProfile, check=_of_profiles, two_persons=_weaker_profile)
KINDS: tuple[Kind[Any], ...] = (CHECKLIST, READINESS_PROFILE)
