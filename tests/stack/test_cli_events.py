"""Every command is known to this walk: it leaves the event of what it changed or read, or it is declared to do neither."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from rig import Stack, installation

from bailiwick.assurance.book import read_text
from bailiwick.cli.main import COMMANDS
from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.spool import latch_loss
from bailiwick.kernel.embedded_postgres import EmbeddedPostgres
from bailiwick.kernel.paths import Layout

# Commands that change nothing and read nothing of the evidence, each with the reason.
READ_ONLY = {
    "status": "asks the supervisor",
    "logs": "shows files of the machine",
    "version": "knows it by itself",
    "config diff": "compares settings",
    "clock show": "what time it is",
    "db status": "shows the schema's revision",
    "audit queries list": "names of kept searches, no events",
    "audit queries show": "a kept search, no events",
    "audit archive status": "what is sealed, no events",
    "slo list": "figures, no events",
    "slo show": "figures, no events",
    "slo burn": "figures, no events",
    "slo rules": "what is promised, as rules",
    "capacity report": "figures, no events; with --make it leaves that of the report",
    "kpi show": "figures, no events; with --report it leaves that of the report",
    "siem status": "how far sinks are, no events",
    "siem dead-letters": "numbers of events and why they were refused",
    "siem repeats": "runs of numbers",
    "siem sinks list": "where evidence goes, none of it",
    "siem sinks show": "where evidence goes, none of it",
    "owners list": "who answers for what",
    "owners show": "who answers for one thing",
    "oncall now": "who is called",
    "oncall next": "who is called then",
    "oncall list": "shifts",
    "oncall overrides": "who stands in",
    "oncall calendar": "shifts",
    "task list": "what is to be done",
    "assurance plan": "compares documents with the book, changes nothing",
    "assurance show": "documents in force, no evidence",
    "assurance history": "versions of a document, no evidence",
    "assurance schema": "writes what the program knows by itself",
    "assurance thresholds": "documents in force, no evidence",
    "assurance status": "verdicts of probes, none of their evidence",
    "probe list": "verdicts of probes, none of their evidence",
    "probe runs": "verdicts of runs, none of their evidence",
    "alerts list": "what is wrong, no events",
    "alerts show": "an alert's own timeline, no events",
    "alerts figures": "computed from alerts, no events",
    "notices list": "receipts, no events",
    "notices channels": "the book and which secrets there are, no events",
    "user list": "shows accounts",
    "user show": "shows an account",
    "user sessions": "shows an account's sessions",
    "rhythm list": "dates, no events",
    "rhythm show": "one date, no events",
    "rhythm actions": "what is to be done, no events",
    "rhythm calendar": "dates, no events",
    "checkpoint list": "results, no events",
    "checkpoint show": "results, no events",
    "incident list": "what goes on, no events",
    "incident metrics": "computed from incidents, no events",
    "incident actions": "knows it by itself",
    "switch list": "what is switched off, no events",
    "environment list": "how far environments are, no events",
    "environment show": "how far one is, no events",
    "validate show": "verdicts of reports, none of their evidence",
    "hypercare show": "verdicts of slots, none of their evidence",
    "known-issue list": "documents in force, no events",
    "known-issue show": "a document in force, no events",
    "documents list": "how documents stand, no events",
    "announce templates": "documents in force, no events",
    "announce preview": "a document in force, no events",
    "announce list": "receipts, no events",
    "announce show": "receipts, no events",
    "rollout list": "what goes on, no events",
    "rollout plans": "documents in force, no evidence",
    "rollout show": "steps and who signed, no events",
    "register list": "how items stand, no events",
    "register show": "how an item stands, no events",
}
# Commands that act through something whose events are proven elsewhere.
THROUGH_OTHERS = {
    "recon accept": "needs an active waiver; tests/assurance prove its event",
    "demo": "calls the API",
    "demo-handover": "calls the API",
    "idp test": "needs a provider; tests/stack/test_directory.py proves its event",
    "idp apply": "needs a provider; tests/stack/test_directory.py proves its events",
    "witness": "another party's process, which has no ledger",
    "selftest mutate": "lives in a database of its own and touches no installation",
    "audit archive restore": "needs a week's evidence; tests/archive prove its event",
    "ledger continue": "needs a loss; tests/stack/test_continued_ledger.py proves its events",
    "audit archive purge": "needs a year's evidence; tests/archive prove its events",
    "clock advance": "needs shifted time; tests/stack/test_shifted_time.py proves its event",
    "siem sinks enable": "as disable; tests/evidence_siem prove its event",
    "oncall override": "needs a rota; tests/assurance/test_owners_cli.py proves its event",
    "oncall withdraw": "as override",
    "oncall swap": "as override",
    "task done": "needs a task; tests/assurance/test_owners_cli.py proves its event",
    "task reassign": "as done",
    "rhythm pack": "needs a meeting; tests/assurance/test_rhythm_cli.py proves its event",
    "rhythm minutes": "needs a meeting; tests/assurance/test_rhythm_cli.py proves its event",
    "rhythm hold": "needs a meeting; tests/assurance/test_rhythm_cli.py proves its refusal",
    "rhythm sign": "needs a meeting; tests/assurance/test_rhythm_cli.py proves its event",
    "checkpoint eval": "needs a platform that is live; tests/assurance/test_rhythm_cli.py proves its event",
    "register move": "needs an item; tests/assurance/test_rhythm_cli.py proves its event",
    "waiver request": "needs a control that may be waived; tests/assurance prove its events",
    "waiver approve": "calls the API",
    "waiver reject": "calls the API",
    "waiver close": "needs an active waiver; tests/assurance prove its event",
    "waiver revoke": "as close",
    "waiver renew": "needs an expired waiver; tests/assurance prove its events",
    "secrets rotate": "calls the API",
    "readiness attest": "calls the API; tests/handover prove its event",
    "readiness review": "calls the API; tests/handover prove its event",
    "readiness attachment": "needs a document; tests/handover prove its event",
    "override show": "needs an override, which takes two persons; as list",
    "override propose": "calls the API",
    "override break-glass": "calls the API",
    "override approve": "calls the API",
    "override reject": "calls the API",
    "override execute": "calls the API",
    "override review": "calls the API",
    **{
        f"rollout {name}": "calls the API; tests/handover prove its events"
        for name in ("plan", "check", "go", "no-go", "start", "confirm", "decide", "rollback", "abandon")
    },
    **{
        f"incident {name}": "calls the API; tests/handover prove its events"
        for name in (
            "show",
            "open",
            "ack",
            "tell",
            "change",
            "preview",
            "contain",
            "contained",
            "preserve",
            "judge",
            "recover",
            "review",
            "action-done",
            "action-verify",
            "close",
            "drill",
            "drills",
            "runbooks",
            "runbook",
            "step",
        )
    },
    "handover build": "needs a HandoverPlan; tests/handover prove its event",
    "handover show": "needs a pack; as list",
    "handover statement": "needs a pack; as list",
    "handover pack": "needs a pack; as evidence pack",
    "handover sign": "calls the API",
    "handover refuse": "calls the API",
    "handover accept": "calls the API",
    "switch throw": "calls the API",
    "validate run": "needs what is live; tests/handover prove its event",
    "known-issue fixed": "needs evidence newer than the issue; tests/handover prove its event",
    "switch lift": "calls the API",
    "canary show": "needs a canary; tests/stack/test_canary_on_traffic.py runs it",
    "canary start": "calls the API",
    "canary promote": "calls the API",
    "canary withdraw": "calls the API",
    "canary standing": "calls the API",
    "canary loop": "calls the API",
    "notices retry": "needs a notice that did not arrive; tests/assurance prove its event",
    "notices test": "needs a channel; tests/assurance prove its event",
    "backup expire": "needs a month's backups; tests/handover prove its event",
    "backup redis": "needs a Redis; tests/handover prove the snapshot",
    "restore": "makes another installation, in whose ledger its event stands; tests/handover prove it",
    "prepare": "what `up` begins with; leaves its events",
    "serve": "a process of `up`",
    "guard": "a process of `up`",
    "work": "a process of `up`",
    "nursery": "a process of `up`",
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(WORKERS="1") as made:
        yield made


def known(stack: Stack, kind: EventType) -> list[dict[str, Any]]:
    """The events of a code, newest first."""
    got = stack.admin("GET", f"/api/v1/audit/events?code={kind.code}&limit=100")
    assert got.status == 200, got
    return [entry["event"] for entry in got.json["events"]]


def signed_event(stack: Stack) -> str:
    """The id of the oldest event, which a signed head covers by now."""
    got = stack.admin("GET", "/api/v1/audit/events?order=oldest&limit=1")
    return str(got.json["events"][0]["event"]["id"])


def dead_letter(stack: Stack) -> str:
    """The number of a dead letter that can be put into the ledger after all."""
    layout = Layout(stack.data_dir)
    got = stack.admin("GET", "/api/v1/audit/events?order=oldest&limit=1").json["events"][0]["event"]
    body = json.dumps({**got, "id": "01981f00-0000-7000-8000-00000000dead"}, sort_keys=True, separators=(",", ":"))
    with psycopg.connect(EmbeddedPostgres(layout).url(), autocommit=True) as connection:
        row = connection.execute(
            "INSERT INTO ledger.dead_letters (source, segment, position, zone, reason, size, frame, at)"
            " VALUES ('w1-test', 1, 1, 'default', 'wrong_zone: planted', %s, %s, now()) RETURNING id",
            (len(body), body.encode()),
        ).fetchone()
    assert row is not None
    return str(row[0])


def record_of(stack: Stack) -> str:
    """The id of an evidence record."""
    return str(stack.admin("GET", "/api/v1/evidence/records").json["records"][0]["id"])


def lost_evidence(stack: Stack) -> None:
    latch_loss(Layout(stack.data_dir).spool, "w1-test: planted for the walk")


def sink(stack: Stack, tmp: Path) -> list[str]:
    """A document of a sink that nobody listens at."""
    document = {
        "name": "walk", "kind": "splunk", "start": "now", "secrets": {"token": "planted-token-of-the-walk"},
        "options": {"url": stack.upstream.url},
    }  # fmt: skip
    (tmp / "sink.json").write_text(json.dumps(document))
    return [str(tmp / "sink.json")]


def book_with_one_more(stack: Stack, tmp: Path) -> str:
    """A folder of all documents in force and another threshold, which takes nobody else's approval."""
    folder = tmp / "book"
    folder.mkdir()
    documents = json.loads(stack.cli("assurance", "show", "--json").stdout)
    spec = {"value": 1, "unit": "h", "comparison": "<", "meaning": "walked", "owner": "uptime"}
    documents.append({**documents[0], "kind": "Threshold", "metadata": {"name": "walked"}, "spec": spec})
    for number, each in enumerate(documents):
        kept = {name: each[name] for name in ("apiVersion", "kind", "metadata", "spec")}
        (folder / f"{number}.yaml").write_text(json.dumps(kept))
    return str(folder)


_BOOK = """
apiVersion: bailiwick/v1
kind: Connection
metadata: {{name: desk}}
spec: {{kind: files, directory: {0}}}
---
apiVersion: bailiwick/v1
kind: Reconciliation
metadata: {{name: walk}}
spec:
  owner: reconciliation
  left: {{connection: desk, file: left.csv}}
  right: {{connection: desk, file: right.csv}}
  keys: [{{left: item, right: item}}]
---
apiVersion: bailiwick/v1
kind: Machine
metadata: {{name: walk}}
spec:
  owner: reconciliation
  source: {{connection: desk, file: left.csv}}
  states: {{open: {{limit: 1h}}}}
"""


def applied(stack: Stack, tmp: Path) -> str:
    """The name of a reconciliation, and of a machine, that the book of the zone has from then on."""
    (tmp / "left.csv").write_text("item,state\na,open\nb,open\n")
    (tmp / "right.csv").write_text("item\nb\n")
    layout = Layout(stack.data_dir)
    documents = read_text(_BOOK.format(tmp), "walk.yaml")
    with psycopg.connect(EmbeddedPostgres(layout).url(), autocommit=True) as connection:
        for each in documents:
            connection.execute(
                "INSERT INTO bailiwick.assurance_documents (zone, kind, name, version, revision, spec, sha256, in_force,"
                " applied_at, applied_by) VALUES ('default', %s, %s, 1, 1000, %s, %s, true, now(), 'walk')",
                (each.kind, each.name, json.dumps(each.spec), each.sha256),
            )
    return "walk"


def finding(stack: Stack) -> str:
    """The id of the finding that the reconciliation of the walk made."""
    return str(stack.admin("GET", "/api/v1/findings?reconciliation=walk").json["items"][0]["id"])


PAGE = [
    "it walks", "--description", "as walks do", "--owner", "uptime", "--service", "walk", "--team", "ops", "--runbook",
    "none",
]  # fmt: skip


ISSUE = [
    "walked", "--title", "it walks", "--severity", "P3", "--impact", "none", "--workaround", "none", "--fix", "none",
    "--target", "9", "--owner", "uptime",
]  # fmt: skip
HANDOVER = ("platform", "environment", "team", "at", "on_call", "pack")


def alert(stack: Stack) -> str:
    """The id of an alert that is open."""
    page = {
        "summary": "it walks", "description": "as walks do", "severity": "P3", "owner": "uptime", "service": "walk",
        "team": "ops", "runbook": "none",
    }  # fmt: skip
    return str(stack.admin("POST", "/api/v1/alerts", page).json["id"])


def secret_file(tmp: Path) -> str:
    (tmp / "secret").write_text("planted-secret-of-the-walk")
    return str(tmp / "secret")


Prepare = Callable[[Stack, Path], list[str]]

# Command → what it is called with, and the event it leaves.
LEAVES: dict[str, tuple[Prepare, EventType]] = {
    "workers": (lambda stack, tmp: ["2"], codes.WORKERS_CHANGED),
    "restart": (lambda stack, tmp: ["guard"], codes.PART_RESTARTED),
    "kek rotate": (lambda stack, tmp: [], codes.KEK_ROTATED),
    "db upgrade": (lambda stack, tmp: [], codes.SCHEMA_UPGRADED),
    "db reader": (lambda stack, tmp: ["bailiwick_readonly"], codes.READER_ADDED),
    "user create": (lambda stack, tmp: ["walker", "--email", "walker@example.com"], codes.USER_CREATED),
    "user disable": (lambda stack, tmp: ["walker"], codes.USER_DISABLED),
    "user enable": (lambda stack, tmp: ["walker"], codes.APPROVAL_REQUESTED),
    "user reset-mfa": (lambda stack, tmp: ["walker"], codes.USER_MFA_RESET),
    "user reset-password": (lambda stack, tmp: ["walker"], codes.USER_PASSWORD_RESET),
    "user unlock": (lambda stack, tmp: ["walker"], codes.OVERRIDE_REFUSED),
    "owners check": (lambda stack, tmp: [], codes.OWNERS_CHECKED),
    "alerts raise": (lambda stack, tmp: PAGE, codes.ALERT_RAISED),
    "alerts ack": (lambda stack, tmp: [alert(stack)], codes.ALERT_ACKNOWLEDGED),
    "alerts close": (lambda stack, tmp: [alert(stack), "--as", "false"], codes.ALERT_CLOSED),
    "alerts silence": (lambda stack, tmp: ["service=walk", "--for", "1h", "--reason", "walk"], codes.ALERT_SILENCED),
    "alerts drill": (lambda stack, tmp: ["kill-part", "guard", "--rule", "Walk"], codes.ALERT_DRILL_STARTED),
    "environment declare": (
        lambda stack, tmp: ["production", "--at", "2026-01-05T08:00:00Z", "--reason", "it runs"],
        codes.APPROVAL_REQUESTED,
    ),
    "known-issue add": (lambda stack, tmp: ISSUE, codes.ASSURANCE_DOCUMENT_CHANGED),
    "documents check": (lambda stack, tmp: [], codes.DOCUMENTS_CHECKED),
    "documents review": (
        lambda stack, tmp: ["incidents", "--statement", "read on a walk, as it is"],
        codes.REGISTER_CHANGED,
    ),
    "announce send": (
        lambda stack, tmp: ["handover", *(word for name in HANDOVER for word in ("--set", f"{name}=x"))],
        codes.ANNOUNCEMENT_SENT,
    ),
    "notices secret": (lambda stack, tmp: ["walk", "--file", secret_file(tmp)], codes.CHANNEL_SECRET_SET),
    "changes": (lambda stack, tmp: [], codes.AUDIT_READ),
    "report orphans": (lambda stack, tmp: [], codes.AUDIT_READ),
    "report access": (lambda stack, tmp: [], codes.AUDIT_READ),
    "report failed-logins": (lambda stack, tmp: [], codes.AUDIT_READ),
    "audit tail": (lambda stack, tmp: [], codes.AUDIT_READ),
    "audit show": (lambda stack, tmp: ["0"], codes.AUDIT_READ),
    "audit verify": (lambda stack, tmp: [], codes.AUDIT_VERIFIED),
    "audit receipt": (lambda stack, tmp: [signed_event(stack), "--out", str(tmp / "r")], codes.AUDIT_READ),
    "audit export": (lambda stack, tmp: [str(tmp / "export")], codes.AUDIT_EXPORTED),
    "audit replay": (lambda stack, tmp: [dead_letter(stack)], codes.EVIDENCE_REPLAYED),
    "audit dead-letters": (lambda stack, tmp: [], codes.AUDIT_READ),
    "audit acknowledge-loss": (lambda stack, tmp: lost_evidence(stack) or [], codes.EVIDENCE_LOSS_ACKNOWLEDGED),
    "audit search": (lambda stack, tmp: ["--name", "user.*"], codes.AUDIT_READ),
    "audit timeline": (lambda stack, tmp: ["user", "admin"], codes.AUDIT_READ),
    "audit queries save": (lambda stack, tmp: ["walk", "--code", "BW6003"], codes.AUDIT_QUERY_SAVED),
    "audit queries run": (lambda stack, tmp: ["walk"], codes.AUDIT_READ),
    "audit queries delete": (lambda stack, tmp: ["walk"], codes.AUDIT_QUERY_DELETED),
    "audit archive seal": (lambda stack, tmp: [], codes.ARCHIVE_ASKED),
    "audit archive verify": (lambda stack, tmp: [], codes.ARCHIVE_VERIFIED),
    "audit archive hold": (lambda stack, tmp: ["--place", "--reason", "walk"], codes.ARCHIVE_HOLD_PLACED),
    "recon run": (lambda stack, tmp: [applied(stack, tmp)], codes.RECONCILIATION_RUN),
    "recon list": (lambda stack, tmp: [], codes.AUDIT_READ),
    "recon report": (lambda stack, tmp: ["walk"], codes.AUDIT_READ),
    "recon findings": (lambda stack, tmp: ["walk"], codes.AUDIT_READ),
    "recon ack": (lambda stack, tmp: [finding(stack)], codes.FINDING_MOVED),
    "recon snooze": (lambda stack, tmp: [finding(stack)], codes.FINDING_MOVED),
    "recon resolve": (lambda stack, tmp: [finding(stack), "--change", "CHG-1"], codes.FINDING_MOVED),
    "stuck detect": (lambda stack, tmp: [], codes.STUCK_RUN),
    "stuck list": (lambda stack, tmp: [], codes.AUDIT_READ),
    "stuck act": (lambda stack, tmp: ["walk", "a", "recheck"], codes.STUCK_ACTED),
    "evidence record": (lambda stack, tmp: ["--check", "walk", "--attest", "it was walked"], codes.EVIDENCE_RECORDED),
    "evidence list": (lambda stack, tmp: [], codes.AUDIT_READ),
    "evidence show": (lambda stack, tmp: [record_of(stack)], codes.AUDIT_READ),
    "evidence pack": (
        lambda stack, tmp: ["--window", "1h..now", "-o", str(tmp / "pack.zip")],
        codes.EVIDENCE_PACK_BUILT,
    ),
    "assurance apply": (lambda stack, tmp: [book_with_one_more(stack, tmp)], codes.ASSURANCE_DOCUMENT_CHANGED),
    "probe run": (lambda stack, tmp: ["database-answers"], codes.PROBE_ASKED),
    "readiness run": (lambda stack, tmp: [], codes.READINESS_RUN),
    "readiness show": (lambda stack, tmp: [], codes.READINESS_READ),
    "readiness explain": (lambda stack, tmp: ["bailiwick/disk"], codes.READINESS_READ),
    "checkpoint go-live": (
        lambda stack, tmp: ["walk", "--at", datetime.now(UTC).isoformat(), "--reason", "walk"],
        codes.GO_LIVE_RECORDED,
    ),
    "siem sinks add": (sink, codes.SIEM_SINK_CREATED),
    "siem drain": (lambda stack, tmp: ["walk", "--timeout", "0"], codes.SIEM_DRAINED),
    "siem replay": (lambda stack, tmp: ["walk", "--from", "1h"], codes.SIEM_REPLAYED),
    "siem sinks disable": (lambda stack, tmp: ["walk"], codes.SIEM_SINK_CHANGED),
    "siem sinks remove": (lambda stack, tmp: ["walk"], codes.SIEM_SINK_DELETED),
    "slo report": (lambda stack, tmp: [], codes.REPORT_PRODUCED),
    "kpi build": (lambda stack, tmp: [], codes.KPI_BUILT),
    "waiver list": (lambda stack, tmp: [], codes.AUDIT_READ),
    "waiver check": (lambda stack, tmp: ["--control", "secret-class", "--scope", "walk"], codes.AUDIT_READ),
    "waiver burndown": (lambda stack, tmp: [], codes.AUDIT_READ),
    "handover list": (lambda stack, tmp: [], codes.HANDOVER_READ),
    "handover escalation": (lambda stack, tmp: ["-o", str(tmp / "escalation.json")], codes.HANDOVER_ESCALATED),
    "secrets list": (lambda stack, tmp: [], codes.AUDIT_READ),
    "secrets check": (lambda stack, tmp: [], codes.SECRETS_CHECKED),
    "secrets scan": (lambda stack, tmp: [str(tmp / "secret")], codes.SECRETS_SCANNED),
    "secrets review": (lambda stack, tmp: [], codes.AUDIT_READ),
    "override list": (lambda stack, tmp: [], codes.AUDIT_READ),
    "canary list": (lambda stack, tmp: [], codes.CANARY_READ),
    "backup run": (lambda stack, tmp: ["--place", f"file://{tmp}/backups"], codes.BACKUP_TAKEN),
    "backup list": (lambda stack, tmp: ["--place", f"file://{tmp}/backups"], codes.BACKUP_READ),
    "backup verify": (lambda stack, tmp: ["--place", f"file://{tmp}/backups"], codes.BACKUP_VERIFIED),
    "backup escrow-key": (lambda stack, tmp: [str(tmp / "escrow")], codes.ESCROW_KEY_MADE),
    "drill restore": (lambda stack, tmp: ["--place", f"file://{tmp}/backups"], codes.BACKUP_DRILLED),
    "drill failover": (lambda stack, tmp: ["w1"], codes.BACKUP_DRILLED),
    "drill list": (lambda stack, tmp: [], codes.BACKUP_READ),
    "down": (lambda stack, tmp: [], codes.INSTALLATION_STOPPED),
    "up": (lambda stack, tmp: [*stack.start, "--detach"], codes.INSTALLATION_STARTED),
}


# nothing is sealed yet, waived, overridden or listed as unused, which is no data and no failure
ENDS = {
    "documents check": {3},  # nobody has reviewed them yet
    "user enable": {3},  # waits for others
    **{
        name: {3}
        for name in (
            "audit archive verify",
            "waiver list",
            "override list",
            "secrets review",
            "canary list",
            "handover list",
        )
    },
    **{name: {3} for name in ("slo report", "kpi build")},  # nothing was measured yet
    "drill restore": {1},  # without its log in the store, what a loss would cost is not known
    "owners check": {1, 3},  # nobody was made an owner yet
    "handover escalation": {0, 1},  # 1 where a guarantee is degraded, as the walk itself makes some
    "secrets scan": {1},  # it finds one
    "waiver check": {1},
    "user unlock": {1},  # two persons do it
    **{name: {0, 1, 3} for name in ("recon run", "recon report", "recon findings")},
    "readiness run": {1},  # an installation of a test is not ready
    "readiness show": {1, 3},
    "readiness explain": {0, 1, 3},
}


def commands() -> set[str]:
    """Every command there is, with its group."""
    found = set()
    for name, entry in COMMANDS.items():
        module, _, attribute = entry.target.partition(":")
        command = typer.main.get_command(getattr(import_module(module), attribute))
        found |= set(named(name, command))
    return found


def named(name: str, command: Any) -> Iterator[str]:
    """The names of a command, or of all in a group of any depth."""
    inner = getattr(command, "commands", None)
    if not inner:
        yield name
        return
    for word, each in inner.items():
        yield from named(f"{name} {word}", each)


def test_every_command_is_known_to_this_walk() -> None:
    assert commands() == LEAVES.keys() | READ_ONLY.keys() | THROUGH_OTHERS.keys()


def test_every_command_that_changes_or_reads_something_leaves_its_event(stack: Stack, tmp_path: Path) -> None:
    """In the order of the table: the last two stop the installation and start it again."""
    for name, (prepare, kind) in LEAVES.items():
        before = [] if name == "up" else [event["id"] for event in known(stack, kind)]
        done = stack.cli(*name.split(), *prepare(stack, tmp_path))
        assert done.returncode in ENDS.get(name, {0}), (name, done.stdout + done.stderr)
        if name == "down":
            stopped = before
            continue
        if name == "up":
            before = [known(stack, kind)[-1]["id"]]  # of the first start
            assert_new(stack, codes.INSTALLATION_STOPPED, stopped, "down")
        assert_new(stack, kind, before, name)


def assert_new(stack: Stack, kind: EventType, before: list[str], name: str) -> None:
    by = None if name == "up" else f"os:{getpass.getuser()}"  # `up` is of the supervisor, nobody in particular
    deadline = time.monotonic() + 20
    # looking for an event of reading leaves one more, of the administrator's
    while not [
        event for event in known(stack, kind) if event["id"] not in before and by in {None, event["actor"].get("user")}
    ]:
        assert time.monotonic() < deadline, f"`bailiwick {name}` leaves no {kind.name} of {by}"
        time.sleep(0.1)
