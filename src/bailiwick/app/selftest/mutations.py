"""The faults that are put into the life one by one: what is broken, in which chapter, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from bailiwick.app.selftest import life
from bailiwick.app.selftest.ground import Ground
from bailiwick.app.selftest.life import ASK, CHAPTERS, at_end_of, caller, platform
from bailiwick.app.selftest.seen import Red, Seen, look
from bailiwick.app.selftest.world import ZONE, World
from bailiwick.assurance.alerting.drills import StopJob
from bailiwick.assurance.rhythm.minutes import Said
from bailiwick.kernel.http import Caller

Act = Callable[[World], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One fault. ``chapter``: the one that it is put into; ``red``: what has to turn red because of it, all of it;
    ``before``: what is broken at its begin; ``instead``: what people do in its place; ``never``: lines that must not
    be there, where the fault is somebody who tries what he may not; ``last``: the chapter at whose end one looks."""

    name: str
    meaning: str
    chapter: int
    red: Sequence[Red] = ()
    before: Act | None = None
    instead: Act | None = None
    never: Sequence[str] = ()
    last: int | None = None

    @property
    def until(self) -> int:
        """The chapter at whose end one looks."""
        return self.chapter if self.last is None else self.last


async def live_with(ground: Ground, mutation: Mutation) -> Seen:
    """Live on from the chapter before with the fault in it; what there is to see in the end."""
    await ground.back_to(str(mutation.chapter - 1))
    async with at_end_of(ground, mutation.chapter - 1) as world:
        if mutation.before is not None:
            await mutation.before(world)
        await (mutation.instead or CHAPTERS[mutation.chapter].tell)(world)
        for chapter in CHAPTERS[mutation.chapter + 1 : mutation.until + 1]:
            await chapter.tell(world)
        return await look(world)


# ---------------------------------------------------------------------- what is broken


def rows(statement: str) -> Act:
    """Change rows behind everybody's back, where not even a trigger says anything."""

    async def act(world: World) -> None:
        async with world.owner.begin() as tx:
            await tx.run("SET LOCAL search_path TO bailiwick")
            await tx.run("SET LOCAL session_replication_role = replica")
            await tx.run(statement)

    return act


def breaking(*parts: str) -> Act:
    """Leave out a part of every step."""

    async def act(world: World) -> None:
        world.broken |= set(parts)

    return act


async def mute_chat(world: World) -> None:
    world.ground.listener.muted = True


async def mute_mail(world: World) -> None:
    world.ground.mail.muted = True


async def fail_requests(world: World) -> None:
    world.failing = 10


async def lose_statement(world: World) -> None:
    world.broken.add("statement")
    (world.ground.files / "statement.csv").unlink(missing_ok=True)


def stop_job(name: str) -> Act:
    """Take the one place in which a job may run."""

    async def act(world: World) -> None:
        async with world.owner.begin() as tx:
            await tx.run("SET LOCAL search_path TO bailiwick")
            now = world.clock.now() + timedelta(minutes=1)  # an occurrence of this instant there is already
            await StopJob().inject(tx, name, "0", now, now + timedelta(days=30))

    return act


# ---------------------------------------------------------------------- what people do instead


def force(*, checker: str = "frida", digest: str = "", between: Act | None = None, agree: bool = True) -> Act:
    """The override, done in another way than it may be; then the day goes on."""

    async def act(world: World) -> None:
        until = world.clock.now() + timedelta(days=1)
        asked = await life.ask_override(world)
        assert asked is not None
        with world.trying("agreeing to the override"):
            if agree:
                await world.overrides.decide(
                    world.by(checker), caller(checker), asked.id, approves=True,
                    payload_sha256=digest or asked.payload_sha256, comment="",
                )  # fmt: skip
        if between is not None:
            await between(world)
        with world.trying("doing the override"):
            await world.overrides.execute(world.by("ada"), caller("ada"), asked.id, asked.payload_sha256)
        await life.disagree(world)
        await world.live(hours=(until - world.clock.now()) / timedelta(hours=1))

    return act


async def _hours_later(world: World) -> None:
    world.clock.advance(5 * 3600)


async def _glass_for_money(world: World) -> None:
    with world.trying("breaking glass for money"):
        await world.overrides.break_glass(world.by("ada"), caller("ada"), ASK)


async def _by_a_key(world: World) -> None:
    with world.trying("asking with a key"):
        who = Caller(ZONE, "ada", "admin", "", key="key-1")
        await world.overrides.propose(world.by("ada"), who, ASK)


def waiver(scope: str, *, days: float = 7, by: str = "olga", approvers: tuple[str, ...] = ("ben", "selma")) -> Act:
    """The first thing of the chapter in which a waiver is asked for, in another way."""

    async def act(world: World) -> None:
        with world.trying("asking for the waiver"):
            await life.waive(world, days=days, scope=scope, by=by, approvers=approvers)

    return act


async def _meeting_without_owner(world: World) -> None:
    await _meeting(world, ["olga"], "selma")


async def _meeting_signed_by_writer(world: World) -> None:
    await _meeting(world, ["opal", "olga"], "opal")


async def _meeting(world: World, there: list[str], signer: str) -> None:
    await world.live(days=2)
    found = await world.rhythm.desk.list(ZONE, ceremony="ops-health", limit=100)
    newest = max((each for each in found if each.starts_at <= world.clock.now()), key=lambda each: each.starts_at)
    with world.trying("the weekly meeting"):
        minutes = world.rhythm.minutes
        await minutes.write(world.by("opal"), newest.id, Said(there, ["go on"]), by="opal")
        await minutes.hold(world.by("opal"), newest.id, by="opal")
        await minutes.sign(world.by(signer), newest.id, by=signer)


def on_platform(statement: str) -> Act:
    """Something happens on the platform that is operated."""

    async def act(world: World) -> None:
        await platform(world, statement)

    return act


# ---------------------------------------------------------------------- what has to turn red


def tried(what: str, reason: str) -> tuple[Red, Red]:
    """Somebody is refused what he may not do, for that reason, and the ledger keeps that he tried."""
    return Red(f"refused {what}: {reason}"), Red("event override.refused", reason)


AGREEING, DOING = "agreeing to the override", "doing the override"
UNPAID = Red("alert stuck/payouts P0 firing stuck/payouts", "in pending")
"""The payout that was to be forced goes on standing still."""
FORCED = ("override payout.force done",)


def unread(why: str) -> tuple[Red, ...]:
    """The database of the payouts gives no answer, for that reason: neither of its two readers is green."""
    return (
        Red("reconciliation payouts ERROR", why),
        Red("alert reconciliation/payouts P1 firing recon/payouts/error", why),
        Red("stuck payouts ERROR", why),
        Red("alert stuck/payouts P1 firing stuck/payouts/error", why),
    )


def found(kind: str, key: str, severity: str) -> tuple[Red, Red]:
    """A finding of the reconciliation, and its alert."""
    return (
        Red(f"finding payouts {kind} open", f'"{key}"'),
        Red(f"alert reconciliation/payouts {severity} firing recon/payouts/{kind}/*/2026-01-16", key),
    )


def silenced(channel: str, why: str) -> tuple[Red, ...]:
    """Nothing arrives by a channel, and that is an alert."""
    return (
        Red("notice undelivered dead", why),
        Red("event notice.dead"),
        Red(f"alert notices/dead P1 firing notices/dead/{channel}", why),
    )


def unheld(why: str) -> tuple[Red, ...]:
    """The weekly meeting does not count as held, and that is an alert."""
    return (
        Red("ceremony ops-health overdue"),
        Red("alert rhythm.overdue P2 firing rhythm/ops-health/overdue", why),
    )


LAPSE, CLOSING, FORCING, DRILL, FOURTEEN, THIRTY, END = 1, 3, 4, 5, 6, 9, 10

MUTATIONS: tuple[Mutation, ...] = (
    # --- one person, or the wrong one
    Mutation(
        "own-approval", "who asked for the override agrees to it", FORCING,
        (*tried(AGREEING, "approval_own_request"), *tried(DOING, "approval_required"), UNPAID),
        instead=force(checker="ada"), never=FORCED,
    ),
    Mutation(
        "second-account", "a second account of the same person agrees", FORCING,
        (*tried(AGREEING, "approval_same_person"), *tried(DOING, "approval_required"), UNPAID),
        rows("UPDATE users SET email = 'ada+second@example.com' WHERE username = 'ben'"), force(checker="ben"),
        never=FORCED,
    ),
    Mutation(
        "wrong-role", "somebody without the role agrees", FORCING,
        (*tried(AGREEING, "permission_denied"), *tried(DOING, "approval_required"), UNPAID),
        instead=force(checker="olga"), never=FORCED,
    ),
    Mutation(
        "nobody-agrees", "it is done before anybody agreed", FORCING, (*tried(DOING, "approval_required"), UNPAID),
        instead=force(agree=False), never=FORCED,
    ),
    Mutation(
        "payload-changed", "another payload is agreed to", FORCING,
        (*tried(AGREEING, "approval_changed"), *tried(DOING, "approval_required"), UNPAID),
        instead=force(digest="0" * 64), never=FORCED,
    ),
    Mutation(
        "target-moved", "the payout is another when it is done", FORCING,
        (*tried(DOING, "override_stale"), Red("override payout.force stale", "9800/pending"), UNPAID),
        instead=force(between=on_platform("UPDATE pay.payouts SET amount = 9800 WHERE id LIKE 'held%'")), never=FORCED,
    ),
    Mutation(
        "arguments-swapped", "what was agreed to is swapped in its row", FORCING,
        (*tried(DOING, "approval_changed"), UNPAID),
        instead=force(between=rows("UPDATE overrides SET arguments = '{\"why\": \"for me\"}'")), never=FORCED,
    ),
    Mutation(
        "too-late", "it is done after its time", FORCING, (*tried(DOING, "approval_ended"), UNPAID),
        instead=force(between=_hours_later), never=FORCED,
    ),
    Mutation(
        "checker-leaves", "who agreed is disabled before it is done", FORCING,
        (*tried(DOING, "approval_required"), UNPAID),
        instead=force(between=rows("UPDATE users SET is_active = false WHERE username = 'frida'")), never=FORCED,
    ),
    Mutation(
        "by-a-key", "a key asks for an override", FORCING,
        tried("asking with a key", "override_not_signed_in"), before=_by_a_key,
    ),
    Mutation(
        "glass-for-money", "glass is broken for money", FORCING, tried("breaking glass for money", "permission_denied"),
        before=_glass_for_money, never=("override payout.force review_due broken glass",),
    ),
    # --- sources and data
    Mutation(
        "statement-lost", "the bank's file is away", FORCING,
        (
            Red("reconciliation payouts ERROR", "statement.csv"),
            Red("alert reconciliation/payouts P1 firing recon/payouts/error", "statement.csv"),
        ),
        lose_statement,
    ),
    Mutation(
        "credential-lost", "the sealed credential is gone", FORCING, unread("there is no credential core"),
        rows("DELETE FROM credentials"),
    ),
    Mutation(
        "payouts-lost", "the payouts may not be read any more", FORCING, unread("InsufficientPrivilege"),
        on_platform("REVOKE SELECT ON pay.payouts FROM pay_reader"),
    ),
    Mutation(
        "row-missing", "the bank knows a payment less", FORCING, found("missing", "p011500", "P2"),
        on_platform("DELETE FROM pay.statement WHERE ref = (SELECT max(ref) FROM pay.statement WHERE ref LIKE 'p%')"),
    ),
    Mutation(
        "row-in-excess", "the bank knows a payment more", FORCING, found("excess", "zz-ghost", "P1"),
        on_platform("INSERT INTO pay.statement VALUES ('zz-ghost', 1)"),
    ),
    Mutation(
        "unknown-state", "a payout is in a state nobody declared", FORCING,
        (
            Red("work payouts lost unknown", "odd-1"),
            Red("alert stuck/payouts P0 firing stuck/payouts", "1 unknown"),
        ),
        on_platform("INSERT INTO pay.payouts VALUES ('odd-1', 1, 'lost', '2026-01-15')"),
    ),
    Mutation(
        "another-stuck", "another payout stands still", FORCING,
        (
            Red("work payouts sent critical", "slow-1"),
            Red("alert stuck/payouts P0 firing stuck/payouts", "in sent"),
        ),
        on_platform("INSERT INTO pay.payouts VALUES ('slow-1', 5, 'sent', '2026-01-06')"),
    ),
    Mutation(
        "requests-fail", "every request fails", FORCING,
        (
            Red("alert SloBurn P1 firing slo/errors/burn/6h", "100.0 times as fast"),
            Red("alert SloBurn P2 firing slo/errors/burn/1d", "errors burns its error budget"),
            Red("alert SloBurn P3 firing slo/errors/burn/3d", "errors burns its error budget"),
        ),
        fail_requests,
    ),
    # --- who does the work, and who is told
    Mutation(
        "scheduler-dead", "nobody schedules", FORCING,
        (
            Red("alert JobSilent P1 firing scheduler", "not even written down"),
            Red(f"silent stuck:payouts@{ZONE}", "no occurrence was written"),
        ),
        breaking("scheduler"),
    ),
    Mutation(
        "job-stopped", "the detector of stuck work is kept from running", FORCING,
        (
            Red(f"silent stuck:payouts@{ZONE}", "it could not start in time"),
            Red(f"alert JobSilent P2 firing job/stuck:payouts@{ZONE}", "it could not start in time"),
        ),
        stop_job(f"stuck:payouts@{ZONE}"),
    ),
    Mutation(
        "chat-muted", "the chat refuses everything", FORCING, silenced("chat", "404 no_service"), mute_chat,
    ),
    Mutation("mail-muted", "the mail server refuses everything", FORCING, silenced("mail", "550 no"), mute_mail),
    Mutation(
        "telling-dead", "nobody dispatches alerts", FORCING,
        (
            Red("job watch-alerts failed", "LoopStuck"),
            Red("silent watch-alerts", "are due for more than"),
            # it was called out, and in the drill somebody answered all that were
            Red("alert JobSilent P2 acknowledged job/watch-alerts", "are due for more than"),
        ),
        breaking("telling"), last=DRILL,
    ),
    Mutation(
        "owner-leaves", "the owner of operations is disabled", FORCING,
        (
            Red("alert owners-check P2 firing owners/check", "nobody holds ops_owner"),
            Red("task open owners/vacant/role:ops_owner//", "Nobody holds ops_owner"),
        ),
        rows("UPDATE users SET is_active = false WHERE username = 'opal'"),
    ),
    Mutation(
        "operators-leave", "nobody is left to be on call", FORCING,
        (
            Red("alert on-call/nobody P1 firing on-call/nobody/primary", "Nobody is on call as primary"),
            Red("alert owners-check P2 firing owners/check", "nobody holds operator"),
            Red("escalation to primary nobody"),
        ),
        rows("UPDATE users SET is_active = false WHERE role = 'operator'"),
    ),
    # --- the drill
    Mutation(
        "drill-unheard", "the channel is mute while an alarm is tried", DRILL,
        (Red("drill JobSilent missed", "delivered to nobody"), *silenced("chat", "404 no_service")), mute_chat,
    ),
    # --- checkpoints and what they stand on
    Mutation(
        "runs-deleted", "runs of a reconciliation are deleted", FOURTEEN,
        (
            Red("checkpoint T14 v1 FAIL", f"reconciliation:payouts:delta@{ZONE}"),
            Red("alert checkpoint.not-passed P1 firing checkpoint/T14", "FAIL (reconciliation:payouts:delta"),
        ),
        rows("DELETE FROM job_occurrences WHERE job LIKE 'reconciliation:%' AND due_at > '2026-01-15'"),
    ),
    Mutation(
        "drill-deleted", "the drill never was", FOURTEEN,
        (
            Red("checkpoint T14 v1 NO_DATA", "No fault was injected"),
            Red("alert checkpoint.not-passed P2 firing checkpoint/T14", "drill"),
        ),
        rows("DELETE FROM alert_drills"),
    ),
    Mutation(
        "samples-deleted", "samples of a week are deleted", THIRTY,
        (
            Red("checkpoint T30 v1 NO_DATA", "days of valid samples"),
            Red("alert checkpoint.not-passed P2 firing checkpoint/T30", "slo errors"),
        ),
        rows("DELETE FROM sli_buckets WHERE minute BETWEEN '2026-01-10' AND '2026-01-17'"),
    ),
    Mutation(
        "capacity-deleted", "a week of capacity is deleted", THIRTY,
        (
            Red("checkpoint T30 v1 NO_DATA", "weekly points"),
            Red("alert checkpoint.not-passed P2 firing checkpoint/T30", "capacity requests"),
        ),
        rows("DELETE FROM capacity_points WHERE at < '2026-01-26'"),
    ),
    Mutation(
        "unsigned", "nobody signed a report", THIRTY,
        (
            Red("checkpoint T30 v1 FAIL", "no report was published"),
            Red("alert checkpoint.not-passed P1 firing checkpoint/T30", "FAIL"),
        ),
        rows("DELETE FROM assurance_report_signatures"),
    ),
    Mutation(
        "meeting-without-owner", "the owner is not at the meeting", THIRTY,
        (Red("refused the weekly meeting: quorum_missing"), *unheld("it was not held")),
        instead=_meeting_without_owner, last=END,
    ),
    Mutation(
        "signed-by-writer", "who wrote the minutes signs them", THIRTY,
        (Red("refused the weekly meeting: signer_produced"), *unheld("its minutes are not signed")),
        instead=_meeting_signed_by_writer, last=END,
    ),
    # --- waivers
    Mutation(
        "waiver-own-approval", "who asked for a waiver approves it", LAPSE,
        (Red("refused waiver approved by ada: approval_own_request"),),
        waiver("own", by="ada", approvers=("ada", "selma")), never=("waiver own approved",),
    ),
    Mutation(
        "waiver-too-long", "a HIGH waiver of nine days is asked for", LAPSE,
        (Red("refused asking for the waiver: waiver_too_long"),),
        waiver("long", days=9), never=("waiver long draft", "waiver long submitted", "waiver long approved"),
    ),
    Mutation(
        "waiver-end-ignored", "the end of a waiver is moved away", LAPSE,
        (Red("alert WaiverAltered P0 firing waiver/*/altered", "is not what was approved"),),
        rows("UPDATE waivers SET valid_until = '2027-01-01' WHERE scope = 'mail-key'"),
    ),
    Mutation(
        "closed-by-a-failure", "a waiver is closed with a probe that failed", CLOSING,
        (
            Red("refused closing the waiver: conflict"),
            Red("checkpoint T7 v2 FAIL", "secret-rotation: HIGH, open"),
            Red("alert checkpoint.not-passed P1 firing checkpoint/T7", "waiver"),
        ),
        instead=partial(life.closing, exit_code=1),
    ),
)  # fmt: skip

CONTROL = Mutation(
    "nothing", "nothing is broken: this one has to survive", LAPSE, (Red("alert JobSilent P1 firing scheduler"),)
)
"""Shows that the checker checks: a run of it alone fails."""
