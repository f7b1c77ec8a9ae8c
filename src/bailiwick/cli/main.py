"""The ``bailiwick`` command: a table of names; what a command needs is imported when it is called."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


@dataclass(frozen=True, slots=True)
class Entry:
    """A command or group: where its :class:`typer.Typer` is (``module:attribute``), and its line in the help."""

    target: str
    help: str
    hidden: bool = False


COMMANDS: dict[str, Entry] = {
    "up": Entry("bailiwick.cli.up:app", "Start everything on this machine and keep it running."),
    "status": Entry("bailiwick.cli.status:app", "Show the parts, the addresses and the readiness."),
    "down": Entry("bailiwick.cli.down:app", "Drain and stop everything."),
    "logs": Entry("bailiwick.cli.logs:app", "Show the logs of the parts."),
    "workers": Entry("bailiwick.cli.down:workers_app", "Change the number of serve workers while running."),
    "restart": Entry("bailiwick.cli.down:restart_app", "Restart one part in good order."),
    "version": Entry("bailiwick.cli.down:version_app", "Print the version."),
    "audit": Entry("bailiwick.cli.audit:app", "Follow the evidence, look at a request, check the ledger."),
    "ledger": Entry("bailiwick.cli.ledger_continue:app", "Go on with a ledger after a restore that lost events."),
    "evidence": Entry("bailiwick.cli.evidence:app", "Record what a command finds; build packs of evidence."),
    "report": Entry("bailiwick.cli.report:app", "Show who has what, what nobody answers for, who failed to sign in."),
    "rhythm": Entry("bailiwick.cli.rhythm:app", "Show what recurs and what is owed; packs, minutes, signatures."),
    "checkpoint": Entry("bailiwick.cli.checkpoint:app", "Judge what must be so after going live."),
    "register": Entry("bailiwick.cli.register:app", "Show risks, the roadmap, documents under review."),
    "slo": Entry("bailiwick.cli.slo:app", "Show service levels and their error budgets; report on them."),
    "capacity": Entry("bailiwick.cli.capacity:app", "Show what resources use, and when they meet their limits."),
    "kpi": Entry("bailiwick.cli.kpi:app", "Build and show the key figures of a month."),
    "alerts": Entry("bailiwick.cli.alerts:app", "Show what is wrong and who looks at it; page, silence, drill."),
    "notices": Entry("bailiwick.cli.notices:app", "Show what was sent and what did not arrive; try a channel."),
    "siem": Entry("bailiwick.cli.siem:app", "Show where evidence is sent; drain, replay, make sinks."),
    "idp": Entry("bailiwick.cli.idp:app", "Walk through a sign-in by an identity provider."),
    "demo": Entry("bailiwick.cli.demo.command:app", "Take one governed request through everything, and prove it."),
    "demo-handover": Entry("bailiwick.cli.demo_handover.command:app", "Take a release to a signed handover."),
    "db": Entry("bailiwick.cli.db:app", "Show where the schema stands; bring it up to date."),
    "changes": Entry("bailiwick.cli.changes:app", "Show what was changed since a moment."),
    "recon": Entry("bailiwick.cli.recon:app", "Compare what must agree; settle what does not."),
    "stuck": Entry("bailiwick.cli.stuck:app", "Show work that stands still; look again, start it again."),
    "backup": Entry("bailiwick.cli.backup:app", "Back the database up; list, verify and expire backups."),
    "restore": Entry("bailiwick.cli.backup:restore_app", "Restore a backup into a fresh data directory."),
    "drill": Entry("bailiwick.cli.backup:drill_app", "Prove that what must work in a disaster does."),
    "clock": Entry("bailiwick.cli.clock:app", "Show how time runs; let some of it pass, in development mode."),
    "config": Entry("bailiwick.cli.config:app", "Compare the settings with defaults and with what runs."),
    "kek": Entry("bailiwick.cli.kek:app", "Rotate the key that wraps every stored secret."),
    "assurance": Entry(
        "bailiwick.cli.assurance:app", "Show the operating model; plan and apply another; how it stands."
    ),
    "probe": Entry("bailiwick.cli.probe:app", "Run probes; show what they found."),
    "user": Entry("bailiwick.cli.user:app", "Make and list accounts; disable and reset them."),
    "owners": Entry("bailiwick.cli.owners:app", "Show who answers for what; check that somebody does."),
    "oncall": Entry("bailiwick.cli.oncall:app", "Show who is called, now and next; have somebody stand in."),
    "task": Entry("bailiwick.cli.task:app", "Show what is to be done; say that it is."),
    "waiver": Entry("bailiwick.cli.waiver:app", "Ask for, decide and end dated exceptions to controls."),
    "secrets": Entry("bailiwick.cli.secrets:app", "Know every secret by its fingerprint; the gate, scans, rotations."),
    "override": Entry("bailiwick.cli.override:app", "Ask for, agree to, do and review exact operations."),
    "incident": Entry("bailiwick.cli.incident:app", "Open, contain, preserve, recover, review incidents; drill."),
    "environment": Entry("bailiwick.cli.environment:app", "Show how far environments are in changing hands; declare."),
    "validate": Entry("bailiwick.cli.validate:app", "Measure what must be so after going live."),
    "hypercare": Entry("bailiwick.cli.hypercare:app", "Show the watch after going live, slot by slot."),
    "known-issue": Entry("bailiwick.cli.known_issue:app", "Show what is known to be wrong; workarounds, fixes."),
    "documents": Entry("bailiwick.cli.documents:app", "Check that documents are there and were reviewed in time."),
    "announce": Entry("bailiwick.cli.announce:app", "Announce from templates; show who got it."),
    "readiness": Entry("bailiwick.cli.readiness:app", "Whether an environment may go live, and why not."),
    "rollout": Entry("bailiwick.cli.rollout:app", "Plan, sign, start releases; decide at gates; take back."),
    "handover": Entry("bailiwick.cli.handover:app", "Build, sign, accept handovers; the escalation package."),
    "switch": Entry("bailiwick.cli.switch:app", "Switch capabilities off, freeze, make read-only; ask to lift."),
    "canary": Entry("bailiwick.cli.canary:app", "Try a candidate on real traffic; walk the loop of access."),
    "selftest": Entry("bailiwick.cli.selftest:app", "Live a simulated month with faults; is each noticed?"),
    "witness": Entry("bailiwick.cli.witness:app", "Cosign the checkpoints of logs that another party keeps."),
    "prepare": Entry("bailiwick.cli.roles:prepare_app", "Bring the database up to date.", hidden=True),
    "serve": Entry("bailiwick.cli.roles:serve_app", "Run one serve worker.", hidden=True),
    "guard": Entry("bailiwick.cli.roles:guard_app", "Run the stream guard.", hidden=True),
    "work": Entry("bailiwick.cli.roles:work_app", "Run the background work.", hidden=True),
    "nursery": Entry("bailiwick.cli.nursery:app", "Import the application and fork roles off.", hidden=True),
}
"""Every command by name. A room that has commands adds a line here."""


class LazyGroup(TyperGroup):
    """Knows its commands by :data:`COMMANDS` and imports one only when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and build the command; None when there is none by that name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        built = typer.main.get_command(getattr(import_module(module), attribute))
        built.name, built.hidden = cmd_name, entry.hidden
        return built

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of commands in the help, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items() if not entry.hidden])


app = typer.Typer(
    name="bailiwick",
    cls=LazyGroup,
    help="Decides and enforces who may do what under whose authority, and proves it afterwards.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    pass


def main() -> None:
    """Run the command line."""
    app(prog_name="bailiwick")


if __name__ == "__main__":
    main()
