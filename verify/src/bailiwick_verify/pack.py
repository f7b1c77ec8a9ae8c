"""Evidence packs: a ZIP file whose signed manifest names every file, with events, their tree and its signed head.

``manifest.json`` lists each file with its SHA-256; ``manifest.note`` is a signed note (C2SP) over this text:

    bailiwick-evidence-pack/v1
    <origin of the log>
    <SHA-256 of manifest.json, hex>
    <its bytes>

Nothing in a pack is believed for standing there: the key comes from elsewhere, the manifest is what the key signed,
every file is what the manifest names, and each event's hash leads to the root of a checkpoint that the key signed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bailiwick_verify.archive import Archive, ArchiveError
from bailiwick_verify.continuation import Loss
from bailiwick_verify.epochs import keys_of
from bailiwick_verify.handover import check_handover
from bailiwick_verify.note import Note, NoteError, Signer, VerifierKey, parse_note
from bailiwick_verify.pack_evidence import Evidence, EvidenceError

Verdict = Literal["PASS", "FAIL", "NO_DATA", "SIMULATED"]
FORMAT = "bailiwick-evidence-pack/v1"
MANIFEST, NOTE = "manifest.json", "manifest.note"
_MOST_MANIFEST = 256 << 20
_MOST_NOTE = 64 << 10
_MOST_FINDINGS = 50


@dataclass(frozen=True, slots=True)
class PackStatement:
    """What the log's key signs of a pack."""

    origin: str
    sha256: str
    size: int

    @classmethod
    def of(cls, origin: str, manifest: bytes) -> PackStatement:
        """The statement over a manifest."""
        return cls(origin, hashlib.sha256(manifest).hexdigest(), len(manifest))

    def text(self) -> str:
        """The note text. Its first line is no origin and its second no number, so that no checkpoint reads so."""
        return f"{FORMAT}\n{self.origin}\n{self.sha256}\n{self.size}\n"

    def signed(self, signer: Signer, moment: int) -> Note:
        """The statement as a note signed at ``moment`` (POSIX seconds)."""
        text = self.text()
        return Note(text, (signer.sign(text), signer.cosign(text, moment)))

    @classmethod
    def parse(cls, text: str) -> PackStatement:
        """Read a note text; raises :class:`NoteError`."""
        lines = text.split("\n")
        if len(lines) != 5 or lines[0] != FORMAT or lines[4] or not lines[3].isdecimal() or len(lines[3]) > 12:
            raise NoteError("not the statement of an evidence pack")
        statement = cls(lines[1], lines[2], int(lines[3]))
        if statement.text() != text:
            raise NoteError("not the statement of an evidence pack in its one form")
        return statement


@dataclass(slots=True)
class PackReport:
    """What was found. ``first_bad`` is the first file that is not what it should be, '' for none.

    SIMULATED: all holds, but the clock that the pack or an event of it was made under was not the world's.
    """

    verdict: Verdict = "PASS"
    pack: str = ""
    zone: str = ""
    origin: str = ""
    built_at: str = ""
    signed_at: int = 0
    checkpoint_at: int = 0
    witnesses: dict[str, int] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    events: int = 0
    gaps: int = 0
    tree_size: int = 0
    losses: list[Loss] = field(default_factory=list)  # where the log was continued after a restore
    handover: dict[str, Any] | None = None  # where the pack is of one: who signed it and how
    first_bad: str = ""
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def fail(self, file: str, why: str) -> None:
        """Note what is wrong with a file."""
        self.verdict = "FAIL"
        self.first_bad = self.first_bad or file or "(the archive)"
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(f"{file}: {why}" if file else why)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "losses": [loss.to_json() for loss in self.losses]}


def verify_pack(
    path: Path, keys: Sequence[VerifierKey], witness_keys: Sequence[VerifierKey] = (), *, quorum: int = 0
) -> PackReport:
    """Check the pack at ``path`` offline. ``keys``: the log's, trusted from elsewhere. Raises OSError."""
    report, started = PackReport(), time.monotonic()
    try:
        with Archive(path) as archive:
            manifest = _opened(report, archive, keys)
            if manifest is not None and _whole(report, archive, manifest):
                _hold(report, archive, manifest, keys, witness_keys, quorum)
    except ArchiveError as error:
        report.fail(error.file, str(error))
    if report.verdict == "PASS" and not report.events:
        report.verdict = "NO_DATA"
    report.seconds = time.monotonic() - started
    return report


def _opened(report: PackReport, archive: Archive, keys: Sequence[VerifierKey]) -> dict[str, Any] | None:
    """The manifest, if a known key signed it."""
    try:
        note = parse_note(archive.read(NOTE, _MOST_NOTE))
        statement = PackStatement.parse(note.text)
        known = keys_of(statement.origin, keys)
        if not [key for key in known if key.signed(note)]:
            raise NoteError(f"no known key of {statement.origin} signed the pack")
        times = [moment for key in known if (moment := key.as_cosigner().time_signed(note)) is not None]
        if len(note.signatures) != 2 or not times:
            raise NoteError("it does not carry the log's two signatures, without and with the time, and nothing else")
    except NoteError as error:
        report.fail(NOTE, str(error))
        return None
    report.origin, report.signed_at = statement.origin, max(times, default=0)
    if statement.size > _MOST_MANIFEST:
        report.fail(MANIFEST, "it is larger than any manifest")
        return None
    data = archive.read(MANIFEST, statement.size)
    if PackStatement.of(statement.origin, data) != statement:
        report.fail(MANIFEST, "it is not the manifest that was signed")
        return None
    try:
        manifest = json.loads(data)
        if manifest["format"] != FORMAT:
            raise ValueError(f"it is of the form {str(manifest['format'])[:80]!r}")
        report.pack, report.zone = str(manifest["pack"]), str(manifest["zone"])
        report.built_at = str(manifest["built_at"])
        if manifest["simulated_clock"] is not False:
            report.verdict = "SIMULATED"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        report.fail(MANIFEST, f"it cannot be read: {error}")
        return None
    return dict(manifest)


def _whole(report: PackReport, archive: Archive, manifest: dict[str, Any]) -> bool:
    """Whether the archive holds exactly the files of the manifest, each as it was."""
    try:
        listed = {str(each["path"]): (str(each["sha256"]), int(each["size"])) for each in manifest["files"]}
        if len(listed) != len(manifest["files"]):
            raise ValueError("it names a file twice")
    except (KeyError, TypeError, ValueError) as error:
        report.fail(MANIFEST, f"its list of files cannot be read: {error}")
        return False
    for name in archive.names:
        if name not in listed and name not in (MANIFEST, NOTE):
            report.fail(name, "the manifest does not name it")
    for name, (sha256, size) in listed.items():
        try:
            if archive.digest(name, size) != sha256:
                report.fail(name, "it is not the file that was packed")
            report.bytes += size
        except ArchiveError as error:
            report.fail(name, str(error))
    report.files = len(listed)
    return report.verdict != "FAIL"


def _hold(
    report: PackReport,
    archive: Archive,
    manifest: dict[str, Any],
    keys: Sequence[VerifierKey],
    witness_keys: Sequence[VerifierKey],
    quorum: int,
) -> None:
    """Hold the evidence against the tree, and the tree against its signed head."""
    try:
        evidence = Evidence(archive, manifest, report.origin, keys)
        opened = evidence.open_head(witness_keys, quorum)
        report.tree_size, report.checkpoint_at = opened.checkpoint.size, opened.time
        report.witnesses = opened.witnesses
        evidence.check_tree()
        report.events, report.gaps, simulated = evidence.check_events()
        evidence.check_heads()
        report.losses = evidence.check_continued(witness_keys)
        evidence.check_receipts(witness_keys, quorum)
        evidence.check_records()
        evidence.check_inputs()
        handover = check_handover(archive, manifest, report.origin, keys, witness_keys, quorum=quorum)
    except EvidenceError as error:
        report.fail(error.file, str(error))
        return
    if handover is not None:
        report.handover = handover.to_json()
        simulated = simulated or handover.simulated
    if simulated and report.verdict == "PASS":
        report.verdict = "SIMULATED"
