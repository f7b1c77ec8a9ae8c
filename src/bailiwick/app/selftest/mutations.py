"""The faults that are put into the life one by one: what is broken, in which chapter, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from bailiwick.app.selftest import life
from bailiwick.app.selftest.ground import Ground
from bailiwick.app.selftest.life import ASK, CHAPTERS, at_end_of, caller, platform
from bailiwick.app.selftest.seen import Seen, look
from bailiwick.app.selftest.world import ZONE, World
from bailiwick.assurance.alerting.drills import StopJob
from bailiwick.assurance.rhythm.minutes import Said
from bailiwick.kernel.http import Caller

Act = Callable[[World], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One fault. ``chapter``: the one that it is put into; ``before``: what is broken at its begin; ``instead``: what
    people do in its place."""

    name: str
    meaning: str
    chapter: int
    before: Act | None = None
    instead: Act | None = None


async def live_with(ground: Ground, mutation: Mutation, healthy: Sequence[Seen]) -> list[str]:
    """Live the chapter again with the fault in it; what turned red. Empty: the fault survived."""
    await ground.back_to(str(mutation.chapter - 1))
    async with at_end_of(ground, mutation.chapter - 1) as world:
        if mutation.before is not None:
            await mutation.before(world)
        await (mutation.instead or CHAPTERS[mutation.chapter].tell)(world)
        return (await look(world)).turned(healthy[mutation.chapter])


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


def waiver(scope: str, *, days: float = 7, approvers: tuple[str, ...] = ("ben", "selma")) -> Act:
    """The first thing of the chapter in which a waiver is asked for, in another way."""

    async def act(world: World) -> None:
        with world.trying("asking for the waiver"):
            await life.waive(world, days=days, scope=scope, approvers=approvers)

    return act


async def _closed_by_a_failure(world: World) -> None:
    with world.trying("closing the waiver"):
        found = await life.proof(world, exit_code=1)
        await world.waivers.close(world.by("olga"), await life.waiver_of(world, "bank-key"), found.id)


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


FORCING, DRILL, FOURTEEN, THIRTY = 4, 5, 6, 9


def on_platform(statement: str) -> Act:
    """Something happens on the platform that is operated."""

    async def act(world: World) -> None:
        await platform(world, statement)

    return act


MUTATIONS: tuple[Mutation, ...] = (
    # --- one person, or the wrong one
    Mutation("own-approval", "who asked for the override agrees to it", FORCING, instead=force(checker="ada")),
    Mutation(
        "second-account", "a second account of the same person agrees", FORCING,
        rows("UPDATE users SET email = 'ada+second@example.com' WHERE username = 'ben'"), force(checker="ben"),
    ),
    Mutation("wrong-role", "somebody without the role agrees", FORCING, instead=force(checker="olga")),
    Mutation("nobody-agrees", "it is done before anybody agreed", FORCING, instead=force(agree=False)),
    Mutation("payload-changed", "another payload is agreed to", FORCING, instead=force(digest="0" * 64)),
    Mutation(
        "target-moved", "the payout is another when it is done", FORCING,
        instead=force(between=on_platform("UPDATE pay.payouts SET amount = 9800 WHERE id LIKE 'held%'")),
    ),
    Mutation(
        "arguments-swapped", "what was agreed to is swapped in its row", FORCING,
        instead=force(between=rows("UPDATE overrides SET arguments = '{\"why\": \"for me\"}'")),
    ),
    Mutation("too-late", "it is done after its time", FORCING, instead=force(between=_hours_later)),
    Mutation(
        "checker-leaves", "who agreed is disabled before it is done", FORCING,
        instead=force(between=rows("UPDATE users SET is_active = false WHERE username = 'frida'")),
    ),
    Mutation("by-a-key", "a key asks for an override", FORCING, before=_by_a_key),
    Mutation("glass-for-money", "glass is broken for money", FORCING, before=_glass_for_money),
    # --- sources and data
    Mutation("statement-lost", "the bank's file is away", FORCING, before=lose_statement),
    Mutation("credential-lost", "the sealed credential is gone", FORCING, before=rows("DELETE FROM credentials")),
    Mutation("payouts-lost", "the payouts may not be read any more", FORCING,
             before=on_platform("REVOKE SELECT ON pay.payouts FROM pay_reader")),
    Mutation("row-missing", "the bank knows a payment less", FORCING,
             before=on_platform("DELETE FROM pay.statement WHERE ref = (SELECT max(ref) FROM pay.statement)")),
    Mutation("row-in-excess", "the bank knows a payment more", FORCING,
             before=on_platform("INSERT INTO pay.statement VALUES ('ghost', 1)")),
    Mutation("unknown-state", "a payout is in a state nobody declared", FORCING,
             before=on_platform("INSERT INTO pay.payouts VALUES ('odd-1', 1, 'lost', '2026-01-15')")),
    Mutation("another-stuck", "another payout stands still", FORCING,
             before=on_platform("INSERT INTO pay.payouts VALUES ('slow-1', 5, 'sent', '2026-01-06')")),
    Mutation("requests-fail", "every request fails", FORCING, before=fail_requests),
    # --- who does the work, and who is told
    Mutation("scheduler-dead", "nobody schedules", FORCING, before=breaking("scheduler")),
    Mutation("job-stopped", "the detector of stuck work is kept from running", FORCING,
             before=stop_job(f"stuck:payouts@{ZONE}")),
    Mutation("chat-muted", "the chat refuses everything", FORCING, before=mute_chat),
    Mutation("mail-muted", "the mail server refuses everything", FORCING, before=mute_mail),
    Mutation("telling-dead", "nobody dispatches alerts", FORCING, before=breaking("telling")),
    Mutation("owner-leaves", "the owner of operations is disabled", FORCING,
             before=rows("UPDATE users SET is_active = false WHERE username = 'opal'")),
    Mutation("operators-leave", "nobody is left to be on call", FORCING,
             before=rows("UPDATE users SET is_active = false WHERE role = 'operator'")),
    # --- the drill
    Mutation("drill-unheard", "the channel is mute while an alarm is tried", DRILL, before=mute_chat),
    # --- checkpoints and what they stand on
    Mutation("runs-deleted", "runs of a reconciliation are deleted", FOURTEEN,
             before=rows("DELETE FROM job_occurrences WHERE job LIKE 'reconciliation:%' AND due_at > '2026-01-15'")),
    Mutation("drill-deleted", "the drill never was", FOURTEEN, before=rows("DELETE FROM alert_drills")),
    Mutation("samples-deleted", "samples of a week are deleted", THIRTY,
             before=rows("DELETE FROM sli_buckets WHERE minute BETWEEN '2026-01-10' AND '2026-01-17'")),
    Mutation("capacity-deleted", "a week of capacity is deleted", THIRTY,
             before=rows("DELETE FROM capacity_points WHERE at < '2026-01-26'")),
    Mutation("unsigned", "nobody signed a report", THIRTY, before=rows("DELETE FROM assurance_report_signatures")),
    Mutation("meeting-without-owner", "the owner is not at the meeting", THIRTY, instead=_meeting_without_owner),
    Mutation("signed-by-writer", "who wrote the minutes signs them", THIRTY, instead=_meeting_signed_by_writer),
    # --- waivers
    Mutation("waiver-own-approval", "who asked for a waiver approves it", 1,
             before=waiver("own", approvers=("olga", "selma"))),
    Mutation("waiver-too-long", "a HIGH waiver of nine days is asked for", 1, before=waiver("long", days=9)),
    Mutation("waiver-end-ignored", "the end of a waiver is moved away", 1,
             before=rows("UPDATE waivers SET valid_until = '2027-01-01' WHERE scope = 'mail-key'")),
    Mutation("closed-by-a-failure", "a waiver is closed with a probe that failed", 3, before=_closed_by_a_failure),
)  # fmt: skip
