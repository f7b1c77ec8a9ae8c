"""``bailiwick-verify``: exits 0 when all holds, 1 when something does not, 2 for wrong use, 3 for nothing to check.

Where a simulated clock made entries it is 1 as well: nothing contradicts, but valid evidence it is not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bailiwick_verify.check import MAX_GAP_S, simulated
from bailiwick_verify.continuation import Loss, losses_told
from bailiwick_verify.db import NoDriver, verify_database
from bailiwick_verify.epochs import split_origin
from bailiwick_verify.log import verify_log
from bailiwick_verify.note import COSIGNATURE, NoteError, VerifierKey
from bailiwick_verify.pack import PackReport, verify_pack
from bailiwick_verify.receipt import Receipt, ReceiptError
from bailiwick_verify.report import LogReport, Progress
from bailiwick_verify.source import Folder, Server, Source

EXITS = {"PASS": 0, "FAIL": 1, "SIMULATED": 1, "NO_DATA": 3}
_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; answers its exit code."""
    given = _parser().parse_args(arguments)
    try:
        keys = [key for text in given.key for key in _keys(text)]
        witnesses = [key for text in given.witness for key in _keys(text)]
    except (NoteError, OSError) as error:
        return _misused(error)
    witnesses = [key if key.kind == COSIGNATURE else key.as_cosigner() for key in witnesses]
    if given.quorum > len({key.name for key in witnesses}):
        return _misused(f"--quorum {given.quorum} needs as many --witness keys")
    if given.verb == "receipt":
        return _receipt(given, keys, witnesses)
    if given.verb == "pack":
        return _pack(given, keys, witnesses)
    return _log(given, keys, witnesses)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bailiwick-verify",
        description="Checks evidence without trusting who keeps it.",
        epilog="Exits 0 when all holds, 1 when something does not or a simulated clock made entries, 2 for wrong use,"
        " 3 for nothing to check.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--key", action="append", required=True, metavar="KEY|FILE", help="the log's verifier key(s)")
    common.add_argument("--witness", action="append", default=[], metavar="KEY|FILE", help="witnesses' verifier key(s)")
    common.add_argument("--quorum", type=int, default=0, help="how many of them must have signed")
    common.add_argument("--json", action="store_true", help="the report as JSON")
    verbs = parser.add_subparsers(dest="verb", required=True)
    receipt = verbs.add_parser("receipt", parents=[common], help="check one event's receipt (.tlog-proof)")
    receipt.add_argument("file", type=Path)
    pack = verbs.add_parser("pack", parents=[common], help="check an evidence pack (.zip)")
    pack.add_argument("file", type=Path)
    pack.add_argument(
        "--accepted", action="store_true", help="it must be of a handover that four teams signed and one accepted"
    )
    for verb, meaning, what in (
        ("export", "check a log exported into a folder", "folder"),
        ("live", "check a log at its address, for example https://host/evidence/default", "url"),
        ("db", "check a copy of the database, by its address (libpq); reads only", "dsn"),
    ):
        log = verbs.add_parser(verb, parents=[common], help=meaning)
        log.add_argument("place", metavar=what.upper())
        log.add_argument("--state", type=Path, help="go on from the check kept here, and keep this one")
        log.add_argument(
            "--head", action="append", default=[], type=Path, metavar="FILE", help="a signed head to be contained"
        )
        log.add_argument("--against", metavar="FOLDER|URL", help="another copy of the log, to find a fork")
        log.add_argument(
            "--max-age",
            type=float,
            default=MAX_GAP_S if verb == "live" else 0,
            metavar="SECONDS",
            help="how old the newest head may be, 0 for any; default: %(default)s",
        )
        log.add_argument(
            "--max-gap",
            type=float,
            default=MAX_GAP_S,
            metavar="SECONDS",
            help="how long nothing may have been signed, 0 for any; default: %(default)s",
        )
        log.add_argument("--token", default=os.environ.get("BAILIWICK_TOKEN", ""), help="for reading entries at a URL")
        if verb == "db":
            log.add_argument(
                "--archived",
                action="store_true",
                help="rows said to be in the archive may be absent; they are not read",
            )
            log.add_argument("--zone", default="", help="default: the one the key's name ends in")
    return parser


def _keys(text: str) -> list[VerifierKey]:
    """The keys of an argument: one in text form, or a file with one a line."""
    path = Path(text)
    if "+" in text and not path.exists():
        return [VerifierKey.parse(text)]
    return [VerifierKey.parse(line) for line in path.read_text().splitlines() if line.strip()]


def _receipt(given: argparse.Namespace, keys: list[VerifierKey], witnesses: list[VerifierKey]) -> int:
    try:
        receipt = Receipt.parse(given.file.read_bytes())
        opened = receipt.verify(keys, witnesses, quorum=given.quorum)
    except OSError as error:
        return _misused(f"{given.file}: {error.strerror}")
    except ReceiptError as error:
        print(json.dumps({"verdict": "FAIL", "why": str(error)}) if given.json else f"FAIL  {error}")
        return EXITS["FAIL"]
    verdict = "SIMULATED" if simulated(receipt.entry) else "PASS"
    entry = receipt.entry.decode("utf-8", "replace")
    losses = losses_told(opened.checkpoint.continued, split_origin(opened.checkpoint.origin)[0])
    if given.json:
        told: dict[str, Any] = {
            "verdict": verdict,
            "index": receipt.index,
            "size": opened.checkpoint.size,
            "signed_at": opened.time,
        }
        told["losses"] = [loss.to_json() for loss in losses]
        print(json.dumps({**told, "origin": opened.checkpoint.origin, "witnesses": opened.witnesses, "entry": entry}))
    else:
        print(f"{verdict}  entry {receipt.index} of {opened.checkpoint.size} in {opened.checkpoint.origin}")
        print(f"      signed {_when(opened.time)}; {len(opened.witnesses)} known witnesses")
        print("".join(f"      {line}\n" for line in _told_of_losses(losses)), end="")
        print(_printable(entry))
    return EXITS[verdict]


def _pack(given: argparse.Namespace, keys: list[VerifierKey], witnesses: list[VerifierKey]) -> int:
    try:
        report = verify_pack(given.file, keys, witnesses, quorum=given.quorum)
    except OSError as error:
        print(f"bailiwick-verify: {given.file}: {error.strerror}", file=sys.stderr)
        return 2
    if given.accepted and (report.handover or {}).get("state") != "accepted":
        report.fail("", "no handover in it was accepted")
    print(json.dumps(report.to_json()) if given.json else _told_of_pack(report))
    return EXITS[report.verdict]


def _told_of_pack(report: PackReport) -> str:
    lines = [f"{report.verdict:11}pack {report.pack or '?'} of zone {report.zone or '?'}"]
    if report.signed_at:
        lines.append(f"           signed {_when(report.signed_at)} by {report.origin}")
    if report.tree_size:
        lines.append(
            f"           {report.files:,} files; {report.events:,} events of {report.tree_size:,} under a head of "
            f"{_when(report.checkpoint_at)}; {len(report.witnesses)} known witnesses"
        )
    lines += [_printable(f"           {line}") for line in _told_of_losses(report.losses)]
    if report.gaps:
        lines.append(f"           {report.gaps:,} events between the first and the last are not of what was asked for")
    lines += _told_of_handover(report.handover) if report.handover else []
    if report.verdict == "SIMULATED":
        lines.append("           made under a simulated clock: it proves nothing about the world")
    lines += [f"           {finding}" for finding in report.findings]
    if report.first_bad:
        lines.append(f"           first bad file: {report.first_bad}")
    return "\n".join(lines)


def _told_of_handover(handover: dict[str, Any]) -> list[str]:
    lines = [
        f"           handover of {handover['environment']}: {handover['state']}; {handover['statements']} statements,"
        f" {handover['verdict']}",
        f"           SHA-256 {handover['sha256']}",
    ]
    for each in handover["signatures"]:
        if each["how"] == "webauthn":
            verified = ", user verified" if each["user_verified"] else ""
            how = f"by a WebAuthn key over the SHA-256{verified}"
        else:
            how = "by step-up: a receipt in the ledger, no signature of a key"
        lines.append(_printable(f"           {each['team']:11} {each['person']} {how}"))
    lines += [f"           {team:11} has not signed" for team in handover["missing"]]
    if handover["refused"]:
        lines.append(_printable(f"           refused by {handover['refused']}"))
    if handover["accepted_by"]:
        lines.append(_printable(f"           accepted by {handover['accepted_by']} at {handover['accepted_at']}"))
    return lines


def _log(given: argparse.Namespace, keys: list[VerifierKey], witnesses: list[VerifierKey]) -> int:
    state = _State(given.state)
    options: dict[str, Any] = {
        "quorum": given.quorum,
        "not_before": int(time.time() - given.max_age) if given.max_age else 0,
        "max_gap": given.max_gap,
        "keep": state.keep,
    }
    try:
        options["known"] = state.load()
        options["remembered"] = [path.read_bytes() for path in given.head]
        options["against"] = _source(given.against, given.token) if given.against else None
        if given.verb == "db":
            options["zone"], options["archived"] = given.zone, given.archived
            report, progress = verify_database(given.place, keys, witnesses, **options)
        else:
            source = Server(given.place, given.token) if given.verb == "live" else Folder(Path(given.place))
            report, progress = verify_log(source, keys, witnesses, **options)
    except (ValueError, OSError, NoDriver) as error:
        return _misused(error)
    state.conclude(progress)
    print(json.dumps(report.to_json()) if given.json else _told(report))
    return EXITS[report.verdict]


def _source(place: str, token: str) -> Source:
    return Server(place, token) if "://" in place else Folder(Path(place))


class _State:
    """The file that an earlier check is kept in."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: Progress | None = None

    def load(self) -> Progress | None:
        """The earlier check; raises ValueError for what is none, and OSError."""
        if self._path is not None and self._path.exists():
            self._known = Progress.from_json(self._path.read_text())
        return self._known

    def keep(self, progress: Progress) -> None:
        """Replace the file."""
        if self._path is not None:
            new = self._path.with_name(f".{self._path.name}.new")
            new.write_text(progress.to_json())
            new.replace(self._path)

    def conclude(self, progress: Progress | None) -> None:
        """Keep what held. After what did not, nothing of it: only what was proven before is gone on from."""
        if progress is not None:
            self.keep(progress)
        elif self._known is not None:
            self._known.reading = None
            self.keep(self._known)
        elif self._path is not None:
            self._path.unlink(missing_ok=True)


def _told(report: LogReport) -> str:
    lines = [f"{report.verdict:<9} {report.origin or 'unknown log'}"]
    rate = report.checked / report.seconds if report.seconds else 0
    lines.append(f"          {report.checked:,} of {report.size:,} entries read, {rate:,.0f} a second")
    if report.signed_at:
        when, known = _when(report.signed_at), len(report.witnesses)
        lines.append(f"          signed {when}; {known} known witnesses; {report.heads:,} heads")
    lines += [f"          {line}" for line in _told_of_losses(report.losses)]
    if report.simulated >= 0:
        lines.append(f"          a simulated clock made entry {report.simulated}: this is no valid evidence")
    lines += [f"          {finding}" for finding in [*report.findings, *report.remarks]]
    if report.findings_total > len(report.findings):
        lines.append(f"          and {report.findings_total - len(report.findings):,} more")
    if report.first_bad >= 0:
        lines.append(f"          first bad entry: {report.first_bad}")
    return "\n".join(map(_printable, lines))


def _told_of_losses(losses: Sequence[Loss]) -> list[str]:
    """What was lost and left out where a log was continued; the last known head's time where it is known."""
    lines = []
    for loss in losses:
        lines += loss.told()
        if loss.known_at:
            seen = f", which {loss.witnesses} known witnesses signed" if loss.witnesses else ""
            lines.append(f"      its last known head is of {_when(loss.known_at)}{seen}")
    return lines


def _misused(why: object) -> int:
    print(f"bailiwick-verify: {why}", file=sys.stderr)
    return _USAGE


def _printable(text: str) -> str:
    """What was logged came from anybody: no control character of theirs reaches the terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _when(moment: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment)) if moment else "at an untold time"


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
