"""``bailiwick-verify``: exits 0 when all holds, 1 when something does not, 2 for wrong use, 3 for nothing to check."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bailiwick_verify.log import Folder, LogReport, Progress, Server, verify_log
from bailiwick_verify.note import COSIGNATURE, NoteError, VerifierKey
from bailiwick_verify.pack import PackReport, verify_pack
from bailiwick_verify.receipt import Receipt, ReceiptError

_EXITS = {"PASS": 0, "FAIL": 1, "SIMULATED": 1, "NO_DATA": 3}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; answers its exit code."""
    given = _parser().parse_args(arguments)
    try:
        keys = [key for text in given.key for key in _keys(text)]
        witnesses = [key for text in given.witness for key in _keys(text)]
    except (NoteError, OSError) as error:
        print(f"bailiwick-verify: {error}", file=sys.stderr)
        return 2
    witnesses = [key if key.kind == COSIGNATURE else key.as_cosigner() for key in witnesses]
    if given.verb == "receipt":
        return _receipt(given, keys, witnesses)
    if given.verb == "pack":
        return _pack(given, keys, witnesses)
    return _log(given, keys, witnesses)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bailiwick-verify", description="Checks evidence without trusting who keeps it."
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
    for verb, meaning, what in (
        ("export", "check a log exported into a folder", "folder"),
        ("live", "check a log at its address, for example https://host/evidence/default", "url"),
    ):
        log = verbs.add_parser(verb, parents=[common], help=meaning)
        log.add_argument("place", metavar=what.upper())
        log.add_argument("--state", type=Path, help="go on from the check kept here, and keep this one")
        log.add_argument("--max-age", type=float, metavar="SECONDS", help="how old the newest checkpoint may be")
        if verb == "live":
            log.add_argument("--token", default=os.environ.get("BAILIWICK_TOKEN", ""), help="for reading the entries")
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
        print(f"bailiwick-verify: {given.file}: {error.strerror}", file=sys.stderr)
        return 2
    except ReceiptError as error:
        print(json.dumps({"verdict": "FAIL", "why": str(error)}) if given.json else f"FAIL  {error}")
        return 1
    entry = receipt.entry.decode("utf-8", "replace")
    if given.json:
        told = {"verdict": "PASS", "index": receipt.index, "size": opened.checkpoint.size, "signed_at": opened.time}
        print(json.dumps({**told, "origin": opened.checkpoint.origin, "witnesses": opened.witnesses, "entry": entry}))
    else:
        print(f"PASS  entry {receipt.index} of {opened.checkpoint.size} in {opened.checkpoint.origin}")
        print(f"      signed {_when(opened.time)}; {len(opened.witnesses)} known witnesses")
        print(entry)
    return 0


def _pack(given: argparse.Namespace, keys: list[VerifierKey], witnesses: list[VerifierKey]) -> int:
    try:
        report = verify_pack(given.file, keys, witnesses, quorum=given.quorum)
    except OSError as error:
        print(f"bailiwick-verify: {given.file}: {error.strerror}", file=sys.stderr)
        return 2
    print(json.dumps(report.to_json()) if given.json else _told_of_pack(report))
    return _EXITS[report.verdict]


def _told_of_pack(report: PackReport) -> str:
    lines = [f"{report.verdict:11}pack {report.pack or '?'} of zone {report.zone or '?'}"]
    if report.signed_at:
        lines.append(f"           signed {_when(report.signed_at)} by {report.origin}")
    if report.tree_size:
        lines.append(
            f"           {report.files:,} files; {report.events:,} events of {report.tree_size:,} under a head of "
            f"{_when(report.checkpoint_at)}; {len(report.witnesses)} known witnesses"
        )
    if report.gaps:
        lines.append(f"           {report.gaps:,} events between the first and the last are not of what was asked for")
    if report.verdict == "SIMULATED":
        lines.append("           made under a simulated clock: it proves nothing about the world")
    lines += [f"           {finding}" for finding in report.findings]
    if report.first_bad:
        lines.append(f"           first bad file: {report.first_bad}")
    return "\n".join(lines)


def _log(given: argparse.Namespace, keys: list[VerifierKey], witnesses: list[VerifierKey]) -> int:
    try:
        known = Progress.from_json(given.state.read_text()) if given.state and given.state.exists() else None
        fetch = Server(given.place, given.token) if given.verb == "live" else Folder(Path(given.place))
    except (ValueError, OSError) as error:
        print(f"bailiwick-verify: {error}", file=sys.stderr)
        return 2
    not_before = int(time.time() - given.max_age) if given.max_age is not None else 0
    report, progress = verify_log(fetch, keys, witnesses, quorum=given.quorum, known=known, not_before=not_before)
    if given.state and progress is not None:
        new = given.state.with_name(f".{given.state.name}.new")
        new.write_text(progress.to_json())
        new.replace(given.state)
    print(json.dumps(report.to_json()) if given.json else _told(report))
    return _EXITS[report.verdict]


def _told(report: LogReport) -> str:
    lines = [f"{report.verdict:8}{report.origin or 'unknown log'}"]
    rate = report.checked / report.seconds if report.seconds else 0
    lines.append(f"        {report.checked:,} of {report.size:,} entries read, {rate:,.0f} a second")
    if report.signed_at:
        lines.append(f"        checkpoint of {_when(report.signed_at)}; {len(report.witnesses)} known witnesses")
    lines += [f"        {finding}" for finding in report.findings]
    if report.first_bad >= 0:
        lines.append(f"        first bad entry: {report.first_bad}")
    return "\n".join(lines)


def _when(moment: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment)) if moment else "at an untold time"


def run() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
