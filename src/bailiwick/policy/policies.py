"""Policies: admitting versions, activating sets of them, going back, and trying one out.

Nothing becomes active without having been admitted as a whole set, outside this process. A change of the set is
prepared without holding a lock and made under one; when the zone's set has changed in between, it is prepared again.

Which sets a rollback may lead to is :mod:`bailiwick.policy.known_good`'s, and what takes two persons
:mod:`bailiwick.policy.agreement`'s: such a change answers the approval that it waits for, and asked for once more when
that is given, it is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec
import structlog

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, InvalidRequest, NotFound, Unavailable
from bailiwick.kernel.modes import Switch, require_on
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Approval, Quorum
from bailiwick.policy import sets
from bailiwick.policy.admission import Admission, AdmissionReport
from bailiwick.policy.agreement import ACTIVATE, Agreements, bound_to, shown_of
from bailiwick.policy.comparison import MAX_PAIRS, Comparison, Pair, Surroundings, compare, read_recent
from bailiwick.policy.engine import MAX_INPUT_BYTES
from bailiwick.policy.known_good import suspect
from bailiwick.policy.library import library_modules, library_tests
from bailiwick.policy.rego_analysis import set_hash
from bailiwick.policy.rego_syntax import Finding, Module
from bailiwick.policy.sandbox import SandboxFailed
from bailiwick.policy.sets import Activation, ActivationKind, DataConflict, Member, PolicyVersion
from bailiwick.policy.trial import Decided, Source, Trials

MAX_FILE_BYTES = 256 * 1024
RESERVED_NAMES = frozenset({"history", "rollback", "test", "cache", "sets"})
"""Names that stand for something else in the paths of the API."""

_ATTEMPTS = 8
_MAX_TOLD = 20
_REMEMBERED_SETS = 256

log = structlog.get_logger(__name__)


class PolicySetRefused(BailiwickError):
    """A policy, or the set it would be part of, was not admitted; ``findings`` say where and why."""

    default_reason = "policy_refused"

    def __init__(self, detail: str, findings: Sequence[Finding]) -> None:
        super().__init__(detail, findings=[msgspec.to_builtins(finding) for finding in findings])
        self.findings = tuple(findings)


class Settle(Protocol):
    """Waits for workers."""

    async def settle(self, revision: int, context: Context) -> object:
        """Return when every worker that can still be reached has applied ``revision`` of the feed."""
        ...


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to be admitted. ``file`` is what findings call it, ``data`` what it brings as ``data`` of the set."""

    name: str
    file: str
    source: bytes
    description: str = ""
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What a change of the zone's set came to. ``changed`` is False where the set was active already."""

    activation: Activation
    changed: bool


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An admitted upload. ``created`` is False for bytes that were admitted before; ``active``: it is in the set.

    ``waits``: for what its activation waits.
    """

    version: PolicyVersion
    created: bool
    active: bool
    change: Change | None
    waits: Approval | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """A set that should become active: its versions and how to call the change."""

    versions: Sequence[PolicyVersion]
    kind: ActivationKind
    target: Activation | None = None

    @property
    def contains(self) -> bool:
        """Whether it returns to what has proven itself, which is never switched off."""
        return self.kind == "rollback" and self.target is not None and self.target.known_good_at is not None

    @property
    def members(self) -> list[Member]:
        """The versions as a set lists them."""
        return [version.member for version in self.versions]


_Planner = Callable[[Transaction, Activation | None], Awaitable[Sequence[_Plan]]]


class Policies:
    """The policies of all zones.

    ``surroundings(zone)`` answers who and what the zone has. Without ``settle`` an activation does not wait for workers
    (the command line, while none runs).
    """

    def __init__(
        self,
        database: Database,
        recorder: Recorder,
        clock: Clock,
        sealer: Sealer,
        admission: Admission,
        trials: Trials,
        quorum: Quorum,
        *,
        settle: Settle | None = None,
        surroundings: Callable[[str], Surroundings] | None = None,
    ) -> None:
        self._database = database
        self._recorder = recorder
        self._clock = clock
        self._sealer = sealer
        self._admission = admission
        self._trials = trials
        self._agreements = Agreements(quorum)
        self._settle = settle
        self._surroundings = surroundings
        self._changing: dict[str, asyncio.Lock] = {}
        self._admitted: dict[str, AdmissionReport] = {}

    def replace_sealer(self, sealer: Sealer) -> None:
        """Use the KEKs as they are after a rotation."""
        self._sealer = sealer

    # --- uploading

    async def upload(self, context: Context, upload: Upload, *, activate: bool = False) -> Uploaded:
        """Admit a file as the next version of its policy, and activate it where asked or where nothing is active.

        It is admitted also where its activation waits for somebody else. Raises :class:`PolicySetRefused` with
        findings.
        """
        if upload.name in RESERVED_NAMES or upload.name.endswith("_test"):
            raise InvalidRequest(f"A policy cannot be called {upload.name}.")
        version, created = await self._admit(context, upload)
        async with self._database.begin() as tx:
            active = await sets.read_active(tx, context.zone)
        done = None
        if activate or active is None or not active.members:
            done = await self.activate(context, version.name, version.version)
        change, waits = (done, None) if isinstance(done, Change) else (None, done)
        active = change.activation if change else active
        return Uploaded(version, created, version.member in active.members if active else False, change, waits)

    async def _admit(self, context: Context, upload: Upload) -> tuple[PolicyVersion, bool]:
        zone, data = context.zone, upload.data or {}
        sha256 = sets.content_digest(upload.source, data)
        async with self._database.begin() as tx:
            same = await sets.read_same(tx, zone, upload.name, sha256)
        if same is not None:
            return same, False
        text, findings = _text_of(upload)
        candidate = PolicyVersion(
            upload.name, 0, sha256, text, data, upload.description, "", {}, _actor(context), self._clock.now()
        )
        if not findings:
            report = await self._judge([candidate.module], data)
            findings = [
                msgspec.structs.replace(each, file=upload.file) if each.file == candidate.module.name else each
                for each in report.findings
            ]
            dialect = report.dialects.get(candidate.module.name, "")
            candidate = replace(candidate, dialect=dialect, report=_report(report))
        if findings:
            await self._refuse(context, upload.name, sha256, findings)
            raise PolicySetRefused(_headline(findings), findings)
        async with self._database.begin() as tx:
            await sets.lock_zone(tx, zone)
            same = await sets.read_same(tx, zone, upload.name, sha256)
            if same is not None:
                return same, False
            version = await sets.add_version(tx, zone, candidate)
            await self._recorder.record(
                tx,
                codes.POLICY_ADMITTED,
                "success",
                context,
                subject=Subject(id=version.name, type="policy"),
                version=version.version,
                sha256=sha256,
                dialect=version.dialect,
            )
        return version, True

    async def _judge(
        self, modules: Sequence[Module], data: Mapping[str, Any], tests: Sequence[Module] = ()
    ) -> AdmissionReport:
        """The verdict on a set; what this process has admitted it need not try again."""
        hash = set_hash(modules, data)
        known = self._admitted.get(hash)
        if known is not None:
            return known
        try:
            report = await self._admission.admit(modules, data, (), tests)
        except OSError as error:
            raise Unavailable("No process could be started to try the policy in.") from error
        if report.accepted:
            while len(self._admitted) >= _REMEMBERED_SETS:
                del self._admitted[next(iter(self._admitted))]
            self._admitted[hash] = report
        return report

    async def _refuse(self, context: Context, name: str, sha256: str, findings: Sequence[Finding]) -> None:
        async with self._database.begin() as tx:
            await self._recorder.record(
                tx,
                codes.POLICY_REFUSED,
                "failure",
                context,
                subject=Subject(id=name, type="policy"),
                reasons=tuple(dict.fromkeys(each.reason for each in findings))[:_MAX_TOLD],
                sha256=sha256,
                findings=[f"{each.file}:{each.line or 0}: {each.reason}" for each in findings[:_MAX_TOLD]],
            )

    # --- what is active

    async def activate(self, context: Context, name: str, version: int | None = None) -> Change | Approval:
        """Put a version (by default the newest) of ``name`` into the set in place of the one there.

        Answers the approval that is waited for, unless it is given or nothing was ever active.
        """

        async def plan(tx: Transaction, active: Activation | None) -> Sequence[_Plan]:
            wanted = await sets.read_version(tx, context.zone, name, version)
            if wanted is None:
                raise NotFound(f"There is no policy {name}" + (f" of version {version}." if version else "."))
            kept = [member for member in (active.members if active else ()) if member.name != name]
            others = await sets.read_members(tx, context.zone, kept)
            return [_Plan([*others, wanted], "activate" if active else "initial")]

        return await self._change(context, plan)

    async def deactivate(self, context: Context, name: str) -> Change | Approval:
        """Take ``name`` out of the set, which takes two as well: it may be what denies. An empty set denies all."""

        async def plan(tx: Transaction, active: Activation | None) -> Sequence[_Plan]:
            if active is None or active.member(name) is None:
                raise NotFound(f"The policy {name} is not active.")
            kept = [member for member in active.members if member.name != name]
            return [_Plan(await sets.read_members(tx, context.zone, kept), "deactivate")]

        return await self._change(context, plan)

    async def rollback(self, context: Context, *, known_good_only: bool = False) -> Change | Approval:
        """Return to the last-known-good set: one call, no argument, one person.

        While none is known good it leads to the set before, which takes two. A target that is no longer admitted is
        passed over for the next one. Raises ``conflict`` where none is left. ``known_good_only`` leaves out sets that
        have not proven themselves.
        """
        return await self._change(context, self._back(context.zone, known_good_only))

    async def roll_back(
        self, context: Context, within: Callable[[Transaction], Awaitable[None]], *, known_good_only: bool = False
    ) -> Change:
        """The same as an override does it. ``within`` is called first in the transaction that does it, and raises
        unless it was agreed to."""
        change = await self._change(context, self._back(context.zone, known_good_only), within)
        assert isinstance(change, Change)  # it holds nothing
        return change

    def _back(self, zone: str, known_good_only: bool) -> _Planner:
        async def plan(tx: Transaction, active: Activation | None) -> Sequence[_Plan]:
            history = await sets.read_history(tx, zone, None, sets.MAX_HISTORY_READ)
            targets = sets.rollback_targets(history)
            if known_good_only and targets:
                targets = [target for target in targets if target.known_good_at]
                if not targets:
                    needed = Permission.POLICIES_WRITE
                    raise Conflict(f"No earlier policy set is known good; returning to another one needs {needed}.")
            if not targets:
                raise Conflict("There is no policy set to go back to.")
            return [_Plan(await sets.read_members(tx, zone, t.members), "rollback", t) for t in targets]

        return plan

    async def _change(
        self,
        context: Context,
        plan: _Planner,
        within: Callable[[Transaction], Awaitable[None]] | None = None,
    ) -> Change | Approval:
        """Prepare and make a change of the zone's set. ``plan`` answers candidates, best first."""
        async with self._changing.setdefault(context.zone, asyncio.Lock()):
            for _ in range(_ATTEMPTS):
                async with self._database.begin() as tx:
                    active = await sets.read_active(tx, context.zone)
                    plans = await plan(tx, active)
                done = await self._attempt(context, active, plans, within)
                if done is not None:
                    return done
        raise Conflict("The active policies are being changed by others; try again.")

    async def _attempt(
        self,
        context: Context,
        active: Activation | None,
        plans: Sequence[_Plan],
        within: Callable[[Transaction], Awaitable[None]] | None = None,
    ) -> Change | Approval | None:
        """The change, or what it waits for; None when the zone's set is no longer the one it was prepared against."""
        chosen, hash, data = await self._first_admitted(context, plans)
        if active is not None and hash == active.hash:
            return Change(active, changed=False)
        found, pairs = await self._compare(context.zone, active, chosen.versions, data)
        async with self._database.begin() as tx:
            await sets.lock_zone(tx, context.zone)
            now_active = await sets.read_active(tx, context.zone)
            if (now_active.id if now_active else None) != (active.id if active else None):
                return None
            if not chosen.contains:
                await require_on(tx, context.zone, Switch.ACTIVATE, Switch.FREEZE, Switch.READ_ONLY)
            approval = None
            if within is not None:
                await within(tx)
            elif active is not None and not chosen.contains:
                bound, members = bound_to(hash, chosen.kind, active), chosen.members
                shown = shown_of(chosen.kind, active, members, found, pairs)
                approval = await self._agreements.given(tx, context, ACTIVATE, bound, shown)
                if approval.state != "executed":
                    return approval
            await self._agreements.end_stale(tx, context)
            activation, revision = await self._make_active(tx, context, active, chosen, hash, found, pairs, approval)
        if pairs or found.status != "complete":
            log.warning(
                "policy newly allows",
                zone=context.zone,
                policy_set=hash,
                comparison=found.status,
                pairs=len(pairs),
                first=[str(pair) for pair in pairs[:_MAX_TOLD]],
            )
        if self._settle is not None:
            await self._settle.settle(revision, context)
        return Change(activation, changed=True)

    async def _first_admitted(self, context: Context, plans: Sequence[_Plan]) -> tuple[_Plan, str, Mapping[str, Any]]:
        """The first plan whose set is admitted as a whole; raises what is wrong with the last."""
        refusal: PolicySetRefused | None = None
        for candidate in plans:
            modules = [version.module for version in candidate.versions]
            try:
                data = sets.merged_data(candidate.versions)
            except DataConflict as conflict:
                findings: Sequence[Finding] = (conflict.finding,)
                hash = ""
            else:
                hash = set_hash(modules, data)
                if not modules:
                    return candidate, hash, data
                findings = (await self._judge(modules, data)).findings
            if not findings:
                return candidate, hash, data
            refusal = PolicySetRefused(f"The policy set as a whole: {_headline(findings)}", findings)
            await self._refuse(context, "set", hash, findings)
        assert refusal is not None
        raise refusal

    async def _compare(
        self, zone: str, active: Activation | None, versions: Sequence[PolicyVersion], data: Mapping[str, Any]
    ) -> tuple[Comparison, list[Pair]]:
        if not versions:
            return Comparison("complete", newly_allowed=0), []
        old = None
        async with self._database.begin() as tx:
            recent = await read_recent(tx, zone, self._clock.now())
            if active is not None and active.members:
                before = await sets.read_members(tx, zone, active.members)
                old = Source([version.module for version in before], sets.merged_data(before))
        new = Source([version.module for version in versions], dict(data))
        around = self._surroundings(zone) if self._surroundings is not None else Surroundings()
        return await compare(self._trials, self._sealer, zone, old, new, recent, around)

    async def _make_active(
        self,
        tx: Transaction,
        context: Context,
        active: Activation | None,
        chosen: _Plan,
        hash: str,
        found: Comparison,
        pairs: Sequence[Pair],
        approval: Approval | None,
    ) -> tuple[Activation, int]:
        if chosen.kind == "rollback" and active is not None:
            await suspect(tx, self._recorder, context, active, "rolled back", self._clock.now())
        activation = await sets.add_activation(
            tx,
            context.zone,
            hash=hash,
            members=chosen.members,
            previous=active,
            kind=chosen.kind,
            newly_allowed=[msgspec.to_builtins(pair) for pair in pairs[:MAX_PAIRS]],
            comparison=msgspec.to_builtins(found),
            by=_actor(context),
            at=self._clock.now(),
            approval=approval.id if approval else None,
        )
        subject = Subject(id=hash, type="policy-set")
        await self._recorder.record(
            tx,
            codes.POLICY_ROLLED_BACK if chosen.kind == "rollback" else codes.POLICY_ACTIVATED,
            "success",
            context,
            subject=subject,
            policy_set=hash,
            change=chosen.kind,
            previous=active.hash if active else "",
            members=[f"{version.name} {version.version}" for version in chosen.versions],
            approval=approval.id if approval is not None else "",
            approved_by=approval.approved_by if approval is not None else [],
        )
        if pairs or found.status != "complete":
            await self._recorder.record(
                tx,
                codes.POLICY_NEWLY_ALLOWED,
                "success" if found.status != "failed" else "error",
                context,
                subject=subject,
                policy_set=hash,
                comparison=found.status,
                pairs=len(pairs),
                first=[str(pair) for pair in pairs[:_MAX_TOLD]],
            )
        return activation, await feed.announce(tx, context.zone, "policy", hash)

    # --- trying, flushing

    async def test(self, context: Context, name: str, document: Mapping[str, Any], version: int | None) -> Decided:
        """What one policy by itself says to an input: its newest admitted version unless another is named."""
        encoded = encode_document(document)
        async with self._database.begin() as tx:
            tested = await sets.read_version(tx, context.zone, name, version)
        if tested is None:
            raise NotFound(f"There is no policy {name}" + (f" of version {version}." if version else "."))
        try:
            decided = await self._trials.decide([tested.module], tested.data, encoded)
        except SandboxFailed as failure:
            decided = Decided(False, ["policy_error"], failure.fault)
        except OSError as error:
            raise Unavailable("No process could be started to try the policy in.") from error
        async with self._database.begin() as tx:
            await self._recorder.record(
                tx,
                codes.POLICY_TESTED,
                "error" if decided.fault else "allow" if decided.allowed else "deny",
                context,
                subject=Subject(id=name, type="policy"),
                version=tested.version,
                sha256=tested.sha256,
            )
        return decided

    async def flush(self, context: Context) -> int:
        """Make every worker forget its remembered decisions; answers the feed revision."""
        async with self._database.begin() as tx:
            subject = Subject(id=context.zone, type="decision-cache")
            await self._recorder.record(tx, codes.POLICY_CACHE_FLUSHED, "success", context, subject=subject)
            revision = await feed.announce(tx, context.zone, "cache", "decisions")
        if self._settle is not None:
            await self._settle.settle(revision, context)
        return revision

    # --- a new zone

    async def load_library(self, tx: Transaction, zone: str, context: Context | None = None) -> Activation:
        """Admit and activate the shipped policies in a zone that never had an active set; else change nothing.

        It announces nothing: the caller, who makes the zone in ``tx``, announces that.
        """
        await sets.lock_zone(tx, zone)
        active = await sets.read_active(tx, zone)
        if active is not None:
            return active
        context = msgspec.structs.replace(context or Context(zone), zone=zone)
        modules = library_modules()
        report = await self._judge(modules, {}, library_tests())
        if not report.accepted:
            raise PolicySetRefused(_headline(report.findings), report.findings)
        versions = []
        for module in modules:
            name, sha256 = module.name.removesuffix(".rego"), sets.content_digest(module.text.encode(), {})
            version = await sets.read_same(tx, zone, name, sha256)
            if version is None:
                dialect, now = report.dialects.get(module.name, ""), self._clock.now()
                candidate = PolicyVersion(
                    name, 0, sha256, module.text, {}, "Shipped", dialect, _report(report), _actor(context), now
                )
                version = await sets.add_version(tx, zone, candidate)
                subject = Subject(id=name, type="policy")
                await self._recorder.record(
                    tx,
                    codes.POLICY_ADMITTED,
                    "success",
                    context,
                    subject=subject,
                    version=version.version,
                    sha256=sha256,
                )
            versions.append(version)
        chosen, hash = _Plan(versions, "initial"), sets.hash_of(versions)
        activation = await sets.add_activation(
            tx,
            zone,
            hash=hash,
            members=[version.member for version in versions],
            previous=None,
            kind=chosen.kind,
            newly_allowed=[],
            comparison=msgspec.to_builtins(Comparison("complete", newly_allowed=0)),
            by=_actor(context),
            at=self._clock.now(),
        )
        await self._recorder.record(
            tx,
            codes.POLICY_ACTIVATED,
            "success",
            context,
            subject=Subject(id=hash, type="policy-set"),
            policy_set=hash,
            change="initial",
            members=[f"{version.name} {version.version}" for version in versions],
        )
        return activation


def encode_document(document: Mapping[str, Any]) -> bytes:
    """An input as JSON; raises ``InvalidRequest`` for what JSON cannot carry or what is too large to be decided on."""
    try:
        encoded = msgspec.json.encode(document)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise InvalidRequest("The input cannot be written as JSON.") from None
    if len(encoded) > MAX_INPUT_BYTES:
        raise BailiwickError(f"An input is at most {MAX_INPUT_BYTES} bytes.", reason="payload_too_large")
    return encoded


def _text_of(upload: Upload) -> tuple[str, list[Finding]]:
    """The file as text, or where it is none."""
    if len(upload.source) > MAX_FILE_BYTES:
        message = f"a policy is at most {MAX_FILE_BYTES} bytes"
        return "", [Finding(upload.file, None, "policy_too_large", message)]
    try:
        text = upload.source.decode("utf-8")
    except UnicodeDecodeError as error:
        line = upload.source.count(b"\n", 0, error.start) + 1
        return "", [Finding(upload.file, line, "policy_syntax_error", "the file is not UTF-8")]
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        return "", [Finding(upload.file, line, "policy_syntax_error", "the file holds a NUL character")]
    return text, []


def _headline(findings: Sequence[Finding]) -> str:
    first = findings[0]
    place = first.file if first.line is None else f"{first.file}:{first.line}"
    return f"{place}: {first.message}"[:500]


def _report(report: AdmissionReport) -> dict[str, Any]:
    return {
        "packages": list(report.packages),
        "input_paths": [list(path) for path in report.input_paths],
        "engine": report.engine,
        "not_compiled_because": report.not_compiled_because,
        "tests_run": report.tests_run,
        "samples_run": report.samples_run,
    }


def _actor(context: Context) -> str:
    return context.actor.user or context.actor.application or "system"
