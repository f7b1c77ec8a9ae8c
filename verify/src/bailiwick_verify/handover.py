"""The handover in a pack: what was signed, by whom and how, and the evidence of every statement.

The pack of a handover is ``handover/handover.json``, canonical JSON; its SHA-256 is what four teams sign. The event of
its building holds that hash, so it stands in the ledger; each statement names an evidence record, which is here, with
its output and the receipt of its event. A signature is a WebAuthn assertion over the hash by a key that the pack itself
names (so it was fixed before anybody signed), or a step-up whose only proof is the receipt: the report says which.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bailiwick_verify.archive import Archive, ArchiveError
from bailiwick_verify.epochs import split_origin
from bailiwick_verify.note import VerifierKey
from bailiwick_verify.pack_evidence import EvidenceError
from bailiwick_verify.receipt import Receipt, ReceiptError
from bailiwick_verify.tiles import MAX_ENTRY_BYTES
from bailiwick_verify.webauthn import BadAssertion, RelyingParty, decoded, verify_assertion

FOLDER = "handover/"
DOCUMENT, SIGNATURES, RECORDS = FOLDER + "handover.json", FOLDER + "signatures.json", FOLDER + "records.jsonl"
OUTPUTS, RECEIPTS, ATTACHMENTS = FOLDER + "outputs/", FOLDER + "receipts/", FOLDER + "attachments/"
SHOWN = (FOLDER + "handover.html", FOLDER + "handover.pdf")
_FILES = (DOCUMENT, SIGNATURES, RECORDS, *SHOWN)
FORMAT = "bailiwick-handover/v1"
TEAMS = ("engineering", "operations", "security", "management")
STATEMENT = (
    "The platform has been successfully handed over to the BAU operating model. Ownerships are assigned, the"
    " operational rhythm is established, and control points are defined. Open risks will be tracked and closed via the"
    " roadmap and waiver register."
)
BUILT, SIGNED, REFUSED, ACCEPTED, STATED = "BW8701", "BW8702", "BW8703", "BW8704", "BW8705"
WAIVED = "BW7403"
RECORDED = "evidence.recorded"
_MOST_DOCUMENT, _MOST_SIGNATURES, _MOST_RECORD, _MOST_OUTPUT = 64 << 20, 1 << 20, 4 << 20, 1 << 20
_MOST_ATTACHED = 10 << 20
_OWN = "bailiwick handover build"
_NEVER_WAIVED = ("canary", "release")
_KEPT = ("check", "exit", "expires_at", "inputs", "kind", "output", "producer", "since", "until")
_WORST_FIRST = ("FAIL", "ERROR", "NO_DATA", "STALE", "NOT_DUE", "PASS")


@dataclass(slots=True)
class Handover:
    """What was found. ``signatures``: who signed for each team, and how.

    ``simulated``: some clock was not the world's.
    """

    id: str = ""
    environment: str = ""
    sha256: str = ""
    verdict: str = ""
    state: str = ""
    statements: int = 0
    signatures: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    refused: str = ""
    accepted_by: str = ""
    accepted_at: str = ""
    simulated: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def check_handover(
    archive: Archive,
    manifest: Mapping[str, Any],
    origin: str,
    keys: Sequence[VerifierKey],
    witness_keys: Sequence[VerifierKey] = (),
    *,
    quorum: int = 0,
) -> Handover | None:
    """Hold the handover of a pack against its evidence; None of a pack that is of none. Raises EvidenceError."""
    subject = str(manifest.get("selection", {}).get("subject", ""))
    if not subject.startswith(FOLDER) and not any(name.startswith(FOLDER) for name in archive.names):
        return None
    try:
        return _Check(archive, manifest, origin, keys, witness_keys, quorum, subject).run()
    except (EvidenceError, ArchiveError):
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise EvidenceError(DOCUMENT, f"it cannot be read: {type(error).__name__}") from None


def _attached(record: Mapping[str, Any]) -> str:
    """The hash of the document that an attestation of readiness rests on; empty of any other record."""
    if record["kind"] != "attestation" or not str(record["check"]).startswith("readiness."):
        return ""
    told = str((record.get("inputs") or {}).get("attachment_sha256", ""))
    return told if re.fullmatch(r"[0-9a-f]{64}", told) else ""


class _Check:
    """One check, from the document out to everything that it names."""

    def __init__(
        self,
        archive: Archive,
        manifest: Mapping[str, Any],
        origin: str,
        keys: Sequence[VerifierKey],
        witness_keys: Sequence[VerifierKey],
        quorum: int,
        subject: str,
    ) -> None:
        self._archive = archive
        self._manifest = manifest
        self._origin = origin
        self._keys = keys
        self._witnesses = witness_keys
        self._quorum = quorum
        self._subject = subject
        self._found = Handover()
        self._events: dict[str, dict[str, Any]] = {}
        self._document: dict[str, Any] = {}
        self._used: set[str] = set()
        self._waivers: dict[str, tuple[str, str]] = {}

    def run(self) -> Handover:
        """The whole check."""
        self._read_document()
        self._read_receipts()
        self._check_built()
        self._check_waivers()
        self._check_statements(self._read_records())
        self._check_signatures(self._object(SIGNATURES, _MOST_SIGNATURES))
        if left := sorted(self._events.keys() - self._used):
            raise EvidenceError(f"{RECEIPTS}{left[0]}.tlog-proof", "nothing in the pack is what it tells of")
        return self._found

    # ------------------------------------------------------------------ the document

    def _read_document(self) -> None:
        data = self._archive.read(DOCUMENT, _MOST_DOCUMENT)
        document = self._object(DOCUMENT, _MOST_DOCUMENT)
        if _canonical(document) != data:
            raise EvidenceError(DOCUMENT, "it is not in its one form")
        try:
            told = {name: str(document[name]) for name in ("format", "handover", "zone", "environment", "verdict")}
            moments = [_moment(document[name]) for name in ("since", "until", "built_at", "good_until")]
            simulated = document["simulated_clock"]
        except (KeyError, TypeError, ValueError) as error:
            raise EvidenceError(DOCUMENT, f"it cannot be read: {error}") from None
        if told["format"] != FORMAT:
            raise EvidenceError(DOCUMENT, f"it is of the form {told['format'][:80]!r}")
        if self._subject != FOLDER + told["handover"] or told["zone"] != self._manifest.get("zone"):
            raise EvidenceError(DOCUMENT, "it is of another handover than the pack")
        if not moments[0] <= moments[1] <= moments[2] < moments[3]:
            raise EvidenceError(DOCUMENT, "its times are in no order")
        self._document = document
        found = self._found
        found.id, found.environment, found.verdict = told["handover"], told["environment"], told["verdict"]
        found.sha256, found.simulated = hashlib.sha256(data).hexdigest(), simulated is not False

    # ------------------------------------------------------------------ the ledger

    def _read_receipts(self) -> None:
        """Every event that the pack holds a receipt of, by its id."""
        for name in self._archive.names:
            if name.startswith(RECEIPTS):
                try:
                    receipt = Receipt.parse(self._archive.read(name, 4 * MAX_ENTRY_BYTES))
                    opened = receipt.verify(self._keys, self._witnesses, quorum=self._quorum)
                    event = json.loads(receipt.entry)
                    identifier, zone = str(event["id"]), event["zone"]
                except ReceiptError as error:
                    raise EvidenceError(name, str(error)) from None
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise EvidenceError(name, "its event cannot be read") from None
                of = split_origin(opened.checkpoint.origin)[0]  # a receipt may be of before a continuation
                if of != split_origin(self._origin)[0] or zone != self._document["zone"]:
                    raise EvidenceError(name, "it is of another log or zone")
                if name != f"{RECEIPTS}{identifier}.tlog-proof":
                    raise EvidenceError(name, "it is not of the event that its name says")
                self._events[identifier] = event
                self._found.simulated |= bool(event.get("simulated_clock"))
            elif name.startswith(FOLDER) and not name.startswith((OUTPUTS, ATTACHMENTS)) and name not in _FILES:
                raise EvidenceError(name, "a handover has no such file")

    def _event(self, file: str, identifier: Any, code: str, **details: Any) -> dict[str, Any]:
        """The event by that id, which must tell of this handover and say ``details``; raises EvidenceError."""
        event = self._events.get(str(identifier))
        if event is None:
            raise EvidenceError(file, f"there is no receipt of event {str(identifier)[:80]}")
        self._used.add(str(identifier))
        told = event.get("details") or {}
        wanted = {"environment": self._found.environment, "sha256": self._found.sha256, **details}
        subject = (event.get("subject") or {}).get("id")
        if event.get("code") != code or event.get("outcome") != "success" or subject != self._found.id:
            raise EvidenceError(file, f"event {identifier} tells of something else")
        for name, value in wanted.items():
            if told.get(name) != value:
                raise EvidenceError(file, f"event {identifier} says another {name}")
        return event

    def _check_built(self) -> None:
        for identifier, event in self._events.items():
            if event.get("code") == BUILT:
                statements = sum(len(each.get("statements", ())) for each in self._document.get("chapters", ()))
                self._event(DOCUMENT, identifier, BUILT, verdict=self._document["verdict"], statements=statements)
                return
        raise EvidenceError(DOCUMENT, "the ledger does not say that it was built: there is no receipt of that")

    # ------------------------------------------------------------------ statements

    def _check_waivers(self) -> None:
        """Each waiver that the pack names was approved for what it says, and was to last beyond the building."""
        try:
            built = _moment(self._document["built_at"])
            for each in self._document["waivers"]:
                where, event = f"waiver {str(each['waiver'])[:80]}", self._events.get(str(each["event"]), {})
                told, subject = event.get("details") or {}, (event.get("subject") or {}).get("id")
                if event.get("code") != WAIVED or event.get("outcome") != "success" or subject != each["waiver"]:
                    raise EvidenceError(DOCUMENT, f"{where}: there is no receipt of its approval")
                if any(told.get(name) != each[name] for name in ("control", "scope", "until")):
                    raise EvidenceError(DOCUMENT, f"{where}: another one was approved")
                if not _moment(event["at"]) <= built < _moment(each["until"]):
                    raise EvidenceError(DOCUMENT, f"{where}: it was not in force when the pack was built")
                if each["waiver"] in self._waivers:
                    raise EvidenceError(DOCUMENT, f"{where}: it is named twice")
                self._used.add(str(each["event"]))
                self._waivers[each["waiver"]] = (each["control"], each["scope"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EvidenceError(DOCUMENT, f"its waivers cannot be read: {error}") from None

    def _read_records(self) -> dict[str, dict[str, Any]]:
        """The records that statements name, by their id. Of an output no more is kept than that it was held against its
        hash: one may be a megabyte, and many records may name it."""
        named = self._named()
        found: dict[str, dict[str, Any]] = {}
        outputs: set[str] = set()
        for number, line in enumerate(self._archive.lines(RECORDS, _MOST_RECORD)):
            try:
                told = json.loads(line)
                identifier, body = str(told["id"]), str(told["body"]).encode()
                record = json.loads(body)
                sha256, kind, zone = str(record["output"]["sha256"]), record["kind"], record["zone"]
                kept = {name: record[name] for name in _KEPT if name in record}
            except (ValueError, KeyError, TypeError, RecursionError):
                raise EvidenceError(RECORDS, f"record {number} cannot be read") from None
            if hashlib.sha256(body).hexdigest() != identifier:
                raise EvidenceError(RECORDS, f"record {number} is not what its id says")
            if zone != self._document["zone"] or kind not in ("probe", "attestation"):
                raise EvidenceError(RECORDS, f"record {number} is of another zone or of no kind")
            if identifier in found or identifier not in named:
                raise EvidenceError(RECORDS, f"record {number} stands there twice, or no statement names it")
            name = f"{OUTPUTS}{sha256}.txt"
            if name not in outputs:
                if hashlib.sha256(self._archive.read(name, _MOST_OUTPUT)).hexdigest() != sha256:
                    raise EvidenceError(name, "it is not the output that the record names")
                outputs.add(name)
            if attached := _attached(record):
                name = f"{ATTACHMENTS}{attached}"
                if name not in outputs:
                    if hashlib.sha256(self._archive.read(name, _MOST_ATTACHED)).hexdigest() != attached:
                        raise EvidenceError(name, "it is not the document that the record names")
                    outputs.add(name)
            found[identifier] = kept
            self._found.simulated |= bool(record.get("simulated_clock"))
        for name in self._archive.names:
            if name.startswith((OUTPUTS, ATTACHMENTS)) and name not in outputs:
                raise EvidenceError(name, "no record names it")
        return found

    def _named(self) -> set[str]:
        """The records that the statements of the pack name."""
        try:
            statements = [each for chapter in self._document["chapters"] for each in chapter["statements"]]
            return {str(record) for each in statements for record in (each["record"], *each["beside"])}
        except (KeyError, TypeError) as error:
            raise EvidenceError(DOCUMENT, f"its statements cannot be read: {error}") from None

    def _check_statements(self, records: dict[str, dict[str, Any]]) -> None:
        """Each statement says no better than its record, whose event is in the ledger; all amount to the verdict."""
        receipts = {
            str((event.get("details") or {}).get("record")): identifier
            for identifier, event in self._events.items()
            if event.get("name") == RECORDED
        }
        waived: set[str] = set()
        verdicts: list[str] = []
        try:
            producers = set(self._document["producers"])
            for chapter in self._document["chapters"]:
                for statement in chapter["statements"]:
                    where = f"statement {chapter['name']}/{statement['name']}"
                    for name in (statement["record"], *statement["beside"]):
                        if name not in records:
                            raise EvidenceError(DOCUMENT, f"{where}: its evidence record is not in the pack")
                        if name not in receipts:
                            raise EvidenceError(RECORDS, f"{where}: there is no receipt of its record")
                        self._used.add(receipts[name])
                    record = records[statement["record"]]
                    beside = [records[name] for name in statement["beside"]]
                    self._check_statement(where, str(chapter["name"]), statement, record, beside)
                    if not {statement["producer"], record["producer"]["name"]} - {""} <= producers:
                        raise EvidenceError(DOCUMENT, f"{where}: who produced it is not among the producers")
                    if statement["waiver"]:
                        self._check_waiver(where, str(chapter["name"]), statement)
                        waived.add(statement["waiver"])
                    verdicts.append("PASS" if statement["waiver"] else str(statement["verdict"]))
            readiness = self._document["readiness"]
            verdict, blockers = str(readiness["verdict"]), [str(each["verdict"]) for each in readiness["blockers"]]
            passes = verdict == "PASS" and not blockers
            if readiness["passes"] is not passes:
                raise EvidenceError(DOCUMENT, "that readiness passes, or not, is not what its verdict and blockers say")
        except (KeyError, TypeError, AttributeError) as error:
            raise EvidenceError(DOCUMENT, f"its statements cannot be read: {error}") from None
        if unused := sorted(self._waivers.keys() - waived):
            raise EvidenceError(DOCUMENT, f"no statement passes by waiver {str(unused[0])[:80]}")
        statements = len(verdicts)
        if not passes:
            worst = _worst([verdict, *blockers])
            verdicts.append("FAIL" if worst == "PASS" else worst)
        if (_worst(verdicts) if statements else "NO_DATA") != self._found.verdict:
            raise EvidenceError(DOCUMENT, "its verdict is not what its statements amount to")
        self._found.statements = statements

    def _check_waiver(self, where: str, chapter: str, statement: Mapping[str, Any]) -> None:
        """The waiver of a statement is one of it, in this environment, or of what it is about."""
        waiver, name, environment = statement["waiver"], str(statement["name"]), self._found.environment
        allowed = {("handover-statement", f"{environment}/{chapter}/{name}")}
        if chapter == "readiness":
            allowed = {*allowed, (f"readiness/{name}", environment)}
        if chapter == "validation" and name.startswith("validation-"):
            allowed = {*allowed, ("validation", f"{environment}/{name.removeprefix('validation-')}")}
        if chapter == "validation" and name.startswith("slot-"):
            allowed = {*allowed, ("hypercare-slot", f"{environment}/{name.removeprefix('slot-')}")}
        if self._waivers.get(waiver) not in allowed:
            raise EvidenceError(DOCUMENT, f"{where}: its waiver is of something else")
        if statement["verdict"] == "PASS" or (chapter, name) == _NEVER_WAIVED:
            raise EvidenceError(DOCUMENT, f"{where}: it passes by itself, or no waiver can let it pass")

    def _check_statement(
        self,
        where: str,
        chapter: str,
        statement: Mapping[str, Any],
        record: Mapping[str, Any],
        beside: Sequence[Mapping[str, Any]],
    ) -> None:
        if statement["verdict"] not in _WORST_FIRST:
            raise EvidenceError(DOCUMENT, f"{where}: there is no verdict {str(statement['verdict'])[:20]}")
        own = record["producer"]["program"] == _OWN
        check = _check_of(self._found.environment, chapter, str(statement["name"]), own)
        if check and record["check"] != check:
            raise EvidenceError(DOCUMENT, f"{where}: its record is of {str(record['check'])[:128]}")
        # canonical records leave out what is as usual: an attestation has no exit code
        if statement["verdict"] == "PASS":
            if record["kind"] == "probe" and record.get("exit") != 0:
                raise EvidenceError(DOCUMENT, f"{where}: it says PASS and its record does not")
            if record["kind"] == "attestation" and chapter == "readiness":
                self._check_attested(where, statement, record, beside)
            read = (record.get("inputs") or {}).get("sha256")
            if chapter == "documents" and not own and read != statement["figures"].get("sha256"):
                raise EvidenceError(DOCUMENT, f"{where}: another document was read than it names")
            for each in (record, *beside):
                expires = each.get("expires_at")
                if expires and _moment(expires) <= _moment(self._document["built_at"]):
                    raise EvidenceError(DOCUMENT, f"{where}: its record had expired")
        if not own:
            return
        said = _canonical({"told": statement["told"], "figures": statement["figures"]})
        window = (record["since"], record["until"], record["producer"]["name"])
        if hashlib.sha256(said).hexdigest() != record["output"]["sha256"] or window != (
            statement["since"], statement["until"], statement["producer"][:200] or "bailiwick"
        ):  # fmt: skip
            raise EvidenceError(DOCUMENT, f"{where}: it is not what its record holds")
        exits = {"PASS": 0, "NO_DATA": 3, "NOT_DUE": 3}
        if record.get("exit") != exits.get(statement["verdict"], 1):
            raise EvidenceError(DOCUMENT, f"{where}: its verdict is not that of its record")

    def _check_attested(
        self,
        where: str,
        statement: Mapping[str, Any],
        record: Mapping[str, Any],
        beside: Sequence[Mapping[str, Any]],
    ) -> None:
        """What a person states of readiness counts by the review of another, of this item in this environment."""
        inputs, author = record.get("inputs") or {}, str(record["producer"]["name"]).casefold()
        agreed = [
            each
            for each in beside
            if (each.get("inputs") or {}).get("attestation") == statement["record"]
            and (each["kind"], each["check"], each["inputs"].get("outcome"))
            == ("attestation", record["check"], "accepted")
            and str(each["producer"]["name"]).casefold() != author
        ]
        if not agreed or inputs.get("environment") != self._found.environment:
            raise EvidenceError(DOCUMENT, f"{where}: nobody else agreed to what its record states")

    # ------------------------------------------------------------------ signatures

    def _check_signatures(self, told: dict[str, Any]) -> None:
        try:
            if told["sha256"] != self._found.sha256 or told["handover"] != self._found.id:
                raise EvidenceError(SIGNATURES, "they are of another pack: it was changed, and they are void")
            self._event(SIGNATURES, told["event"], BUILT)
            for each in told["signatures"]:
                self._check_signature(each)
            self._check_end(told)
        except (EvidenceError, ArchiveError):
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EvidenceError(SIGNATURES, f"they cannot be read: {error}") from None
        signed = [each["team"] for each in self._found.signatures]
        self._found.missing = [team for team in TEAMS if team not in signed]

    def _check_signature(self, each: Mapping[str, Any]) -> None:
        team, person, how = each["team"], str(each["person"]), each["how"]
        where = f"the signature of {str(team)[:40]}"
        before = self._found.signatures
        if team not in TEAMS or any(team == other["team"] for other in before):
            raise EvidenceError(SIGNATURES, f"{where}: there is no such team, or it signed twice")
        if any(person.casefold() == other["person"].casefold() or each["account"] == other["account"]
               for other in before):  # fmt: skip
            raise EvidenceError(SIGNATURES, f"{where}: {person} signed for another team")
        # a producer may say what he was, as in "person:alice"
        if person.casefold() in {str(name).rpartition(":")[2].casefold() for name in self._document["producers"]}:
            raise EvidenceError(SIGNATURES, f"{where}: {person} produced what is signed")
        if self._found.verdict != "PASS":
            raise EvidenceError(SIGNATURES, f"{where}: the pack is {self._found.verdict}, which nobody can sign")
        asked = self._document["teams"][team]
        if asked["people"] and person.casefold() not in {str(name).casefold() for name in asked["people"]}:
            raise EvidenceError(SIGNATURES, f"{where}: {person} does not speak for it")
        assertion = each["assertion"]
        digest = hashlib.sha256(_canonical(assertion)).hexdigest() if assertion is not None else ""
        event = self._event(SIGNATURES, each["event"], SIGNED, team=team, how=how, assertion=digest)
        if (event.get("actor") or {}).get("user") != person:
            raise EvidenceError(SIGNATURES, f"{where}: the ledger says that somebody else gave it")
        at = _moment(event["at"])
        if not _moment(self._document["built_at"]) <= at < _moment(self._document["good_until"]):
            raise EvidenceError(SIGNATURES, f"{where}: it was given at another time than the pack was good for")
        if abs((at - _moment(each["at"])).total_seconds()) > 1:
            raise EvidenceError(SIGNATURES, f"{where}: the ledger says another time")
        verified = False
        if how == "webauthn":
            verified = self._check_assertion(where, person, asked, assertion)
        elif how != "step-up" or assertion is not None:
            raise EvidenceError(SIGNATURES, f"{where}: it is of no known kind")
        before.append({"team": team, "person": person, "account": each["account"], "how": how,
                       "at": event["at"], "user_verified": verified})  # fmt: skip

    def _check_assertion(self, where: str, person: str, asked: Mapping[str, Any], assertion: Mapping[str, str]) -> bool:
        party = self._document["relying_party"]
        public = [key["public"] for key in asked["keys"] if key["key"] == assertion["key"] and key["person"] == person]
        if not public or party is None:
            raise EvidenceError(SIGNATURES, f"{where}: the pack does not name its key as one of {person}")
        try:
            return verify_assertion(
                RelyingParty(party["id"], party["origin"]),
                base64.b64decode(public[0], validate=True),
                bytes.fromhex(self._found.sha256),
                decoded(assertion["client_data"]),
                decoded(assertion["authenticator_data"]),
                decoded(assertion["signature"]),
            )
        except (BadAssertion, binascii.Error) as error:
            raise EvidenceError(SIGNATURES, f"{where}: {error}") from None

    def _check_end(self, told: Mapping[str, Any]) -> None:
        """How it ended is what the ledger says, and acceptance stands on four signatures."""
        state, refusal, acceptance = told["state"], told["refusal"], told["acceptance"]
        self._found.state = str(state)
        complete = len(self._found.signatures) == len(TEAMS)
        if (state == "refused") != (refusal is not None) or (state == "accepted") != (acceptance is not None):
            raise EvidenceError(SIGNATURES, f"it is said to be {str(state)[:20]}, and how it ended is something else")
        if state not in ("proposed", "signed", "refused", "superseded", "accepted"):
            raise EvidenceError(SIGNATURES, f"there is no state {str(state)[:20]}")
        if (state == "proposed" and complete) or (state == "signed" and not complete):
            raise EvidenceError(SIGNATURES, f"it is said to be {state} with {len(self._found.signatures)} signatures")
        if refusal is not None:
            event = self._event(SIGNATURES, refusal["event"], REFUSED, team=refusal["team"], reason=refusal["reason"])
            if (event.get("actor") or {}).get("user") != refusal["person"]:
                raise EvidenceError(SIGNATURES, "the ledger says that somebody else refused it")
            self._found.refused = f"{refusal['team']}: {refusal['reason']}"
        if acceptance is None:
            if told["statement"] is not None or told["statement_event"]:
                raise EvidenceError(SIGNATURES, "there is a handover statement, and nobody accepted")
            return
        if not complete:
            raise EvidenceError(SIGNATURES, "it was accepted without four signatures")
        transfer = self._document["transfer"]
        changed = {"differences": transfer["differences"]}
        if hashlib.sha256(_canonical(changed)).hexdigest() != transfer["sha256"]:
            raise EvidenceError(DOCUMENT, "what changes hands is not what its SHA-256 says")
        event = self._event(
            SIGNATURES, acceptance["event"], ACCEPTED, transfer=transfer["sha256"], revision=acceptance["revision"]
        )
        statement = told["statement"]
        self._event(
            SIGNATURES,
            told["statement_event"],
            STATED,
            statement=hashlib.sha256(_canonical(statement)).hexdigest(),
        )
        if statement["text"] != STATEMENT or statement["sha256"] != self._found.sha256:
            raise EvidenceError(SIGNATURES, "the handover statement is not the one that is made")
        person = str((event.get("actor") or {}).get("user"))
        if person != acceptance["person"] or statement["accepted_by"] != person:
            raise EvidenceError(SIGNATURES, "the ledger says that somebody else accepted it")
        if abs((_moment(event["at"]) - _moment(acceptance["at"])).total_seconds()) > 1:
            raise EvidenceError(SIGNATURES, "the ledger says that it was accepted at another time")
        receives, builder = self._document["receives"], str(self._document["built_by"])
        if receives["people"] and person.casefold() not in {str(name).casefold() for name in receives["people"]}:
            raise EvidenceError(SIGNATURES, f"{person} does not speak for the team that receives")
        if person.casefold() == builder.rpartition(":")[2].casefold():
            raise EvidenceError(SIGNATURES, f"{person} built what he accepted")
        if any(_moment(event["at"]) < _moment(each["at"]) for each in self._found.signatures):
            raise EvidenceError(SIGNATURES, "it was accepted before it was signed")
        if _moment(event["at"]) >= _moment(self._document["good_until"]):
            raise EvidenceError(SIGNATURES, "it was accepted when the pack was good no more")
        self._found.accepted_by, self._found.accepted_at = person, event["at"]

    def _object(self, name: str, most: int) -> dict[str, Any]:
        try:
            told = json.loads(self._archive.read(name, most))
        except (ValueError, RecursionError) as error:
            raise EvidenceError(name, f"it cannot be read: {error}") from None
        if not isinstance(told, dict):
            raise EvidenceError(name, "it is no object")
        return told


def _check_of(environment: str, chapter: str, name: str, own: bool) -> str:
    """What the record of a statement has to be of, as the program names it; empty where that is not known."""
    if own:
        slugs = [
            re.sub(r"[^a-z0-9._-]+", "-", part.lower()).strip("-.") or "x" for part in (environment, chapter, name)
        ]
        return "/".join(["handover", *slugs])[:128].rstrip("/")
    place = environment.lower()
    if chapter == "readiness":
        item = name if "/" in name else "all"
        return re.sub(r"[^a-z0-9._/-]", "-", f"readiness.{place}/{item}")[:128]
    if chapter == "validation":
        return f"hypercare.{place}" if name.startswith("slot-") else f"validation.{place}.{name[11:].lower()}"
    if chapter == "backups":
        return "backup.failover-drill" if name == "failover-drill" else "backup.restore-drill"
    return ""


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "backslashreplace"
    )


def _worst(verdicts: Sequence[str]) -> str:
    return next((verdict for verdict in _WORST_FIRST if verdict in verdicts), "FAIL" if verdicts else "NO_DATA")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment
