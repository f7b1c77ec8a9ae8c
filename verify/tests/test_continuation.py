"""A log that goes on after a loss, as two persons agreed; and everything somebody with its key might pretend instead."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_maker import LOG, WITNESSES, Maker, signer

from bailiwick_verify.check import MAX_GAP_S
from bailiwick_verify.checkpoint import Checkpoint, open_checkpoint
from bailiwick_verify.cli import main
from bailiwick_verify.epochs import Continued, continued_of, keys_of, origin_in, split_origin
from bailiwick_verify.log import verify_log
from bailiwick_verify.merkle import leaf_hash, root_of
from bailiwick_verify.note import NoteError, Signer, parse_note
from bailiwick_verify.report import LogReport, Progress
from bailiwick_verify.source import Folder

KEPT, KNOWN = 300, 400
ORIGIN = LOG.key.name


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class Goes(Maker):
    """A log of 400 entries under heads, restored to 300, that goes on. ``lie`` changes what the statement says."""

    def __init__(self, key: Signer = LOG) -> None:
        super().__init__(key)
        self.lines: tuple[str, ...] = ()
        self.epoch = 1
        self.hour(150).hour(150)
        self.before = [*self.entries]
        self.hour(50)
        self.middle = self.heads[-1][2]
        self.hour(50)
        self.last = self.heads[-1][2]
        self.lost = [*self.entries]

    def restore(self, size: int = KEPT) -> Goes:
        del self.entries[size:]
        self.heads = [head for head in self.heads if head[1] <= size]
        return self

    def sign(self, key: Signer | None = None) -> None:
        if not getattr(self, "lines", ()):
            return super().sign(key)
        leaves = [leaf_hash(entry) for entry in self.entries]
        origin = origin_in(ORIGIN, self.epoch)
        said = Checkpoint(origin, len(leaves), root_of(leaves), self.lines)
        self.heads.append((self.now, len(leaves), bytes(said.signed((key or self.key).under(origin), self.now))))
        return None

    def event(self, code: str, user: str, outcome: str = "success", subject: str = "a1", **details: Any) -> int:
        self.entries.append(
            canonical(
                {
                    "actor": {"user": user}, "at": f"{self.when()[:19]}.000001Z", "code": code, "details": details,
                    "id": len(self.entries), "outcome": outcome, "subject": {"id": subject, "type": "x"},
                    "zone": "default",
                }
            ).encode()
        )  # fmt: skip
        return len(self.entries) - 1

    def when(self) -> str:
        from bailiwick_verify.report import utc

        return utc(self.now)

    def statement(self, **lie: Any) -> dict[str, Any]:
        known = open_checkpoint(self.last, [LOG.key]).checkpoint
        kept = lie.get("kept", KEPT)
        root = root_of([leaf_hash(entry) for entry in self.entries[:kept]])
        return {
            "origin": origin_in(ORIGIN, self.epoch), "log": origin_in(ORIGIN, self.epoch + 1), "epoch": self.epoch + 1,
            "kept": kept, "kept_root": base64.b64encode(root).decode(), "known": known.size,
            "known_root": base64.b64encode(known.root).decode(), "lost_first": kept, "lost_last": known.size - 1,
            "head": self.last.decode(), "ground": "disk lost", "witnesses": [],
        } | lie  # fmt: skip

    def go_on(
        self,
        said: dict[str, Any] | None = None,
        *,
        votes: tuple[str, ...] = ("ben",),
        asked: str = "ana",
        named: tuple[str, ...] | None = None,
        voted_for: str = "",
        refusing: bool = False,
        late: bool = False,
        line: Callable[[Continued], Continued] = lambda line: line,
    ) -> Goes:
        """Somebody asks, others approve, the statement is left, and the next head is that of the next log."""
        said = said if said is not None else self.statement()
        digest = hashlib.sha256(
            canonical({"action": "ledger.continue", "payload": said, "zone": "default"}).encode()
        ).hexdigest()
        told = {"action": "ledger.continue", "requested_by": asked}
        self.event("BW6021", asked, payload=digest, **told)

        def vote() -> None:
            for person in votes:
                outcome = "failure" if refusing else "success"
                self.event("BW6022", person, outcome, payload=voted_for or digest, **told)

        if not late:
            vote()
        at = self.event(
            "BW5043", asked, statement=canonical(said), approval="a1", requested_by=asked, name="ledger.continued",
            approved_by=[*(votes if named is None else named)],
        )  # fmt: skip
        if late:
            vote()
        self.epoch += 1
        made = Continued(
            self.epoch, said["kept"], said["known"], base64.b64decode(said["known_root"]), self.when(), at,
            leaf_hash(self.entries[at]),
        )  # fmt: skip
        self.lines = (*self.lines, str(line(made)))
        self.now += 60
        self.sign()
        return self


@pytest.fixture
def goes() -> Goes:
    return Goes().restore()


def check(log: Maker, tmp_path: Path, **options: Any) -> tuple[LogReport, Progress | None]:
    options.setdefault("max_gap", MAX_GAP_S)
    return verify_log(Folder(log.write(tmp_path / "log")), [LOG.key], [each.key.as_cosigner() for each in WITNESSES],
                      **options)  # fmt: skip


def fails(log: Maker, tmp_path: Path, why: str, at: int, **options: Any) -> None:
    report, progress = check(log, tmp_path, **options)
    assert report.verdict == "FAIL" and progress is None
    assert any(why in finding for finding in report.findings), report.findings
    assert report.first_bad == at, (report.first_bad, report.findings)


# ---------------------------------------------------------------------- what holds


def test_a_continued_log_passes_and_the_loss_is_told(goes: Goes, tmp_path: Path) -> None:
    goes.go_on().hour(200)
    report, _ = check(goes, tmp_path)
    assert report.verdict == "PASS", report.findings
    (loss,) = report.losses
    assert (loss.first, loss.last, loss.persons, loss.ground) == (300, 399, ("ana", "ben"), "disk lost")
    assert loss.log == f"{ORIGIN}/e2" and "entries 300 to 399" in loss.told()[0]


def test_an_hour_without_heads_is_told_where_it_is_that_of_the_loss_and_refused_elsewhere(
    goes: Goes, tmp_path: Path
) -> None:
    goes.now += 5 * 3600
    goes.go_on().hour(20)
    report, _ = check(goes, tmp_path)
    assert report.verdict == "PASS" and any("when the log was continued" in each for each in report.remarks)
    goes.now += 5 * 3600
    goes.hour(1)
    assert check(goes, tmp_path)[0].verdict == "FAIL"


def test_what_others_remember_of_the_lost_is_no_contradiction(goes: Goes, tmp_path: Path) -> None:
    goes.go_on().hour(200)
    old = Goes()
    report, _ = check(goes, tmp_path, remembered=[old.last, old.middle, old.heads[1][2]],
                      against=Folder(old.write(tmp_path / "old")))  # fmt: skip
    assert report.verdict == "PASS", report.findings
    assert "the remembered head, over 350, is of what was lost" in report.remarks


@pytest.mark.parametrize("hours", [1, 2, 3])
def test_an_earlier_check_is_gone_on_from(goes: Goes, tmp_path: Path, hours: int) -> None:
    earlier = Maker()
    earlier.hour(150).hour(150).hour(50)
    earlier.entries, earlier.heads = Goes().lost[: (150, 300, 350)[hours - 1]], earlier.heads[: hours + 1]
    _, known = check(earlier, tmp_path)
    assert known is not None
    report, progress = check(goes.go_on().hour(5), tmp_path, known=Progress.from_json(known.to_json()))
    assert report.verdict == "PASS" and progress is not None, report.findings
    report, _ = check(goes.hour(3), tmp_path, known=progress)
    assert (report.verdict, report.checked, len(report.losses)) == ("PASS", 3, 1), report.findings


def test_two_losses(goes: Goes, tmp_path: Path) -> None:
    goes.go_on().hour(100)
    size = len(goes.entries)
    goes.hour(40)
    goes.last = goes.heads[-1][2]
    goes.restore(size)
    goes.go_on(goes.statement(kept=size)).hour(10)
    report, _ = check(goes, tmp_path)
    assert report.verdict == "PASS", report.findings
    assert [(loss.first, loss.last) for loss in report.losses] == [(300, 399), (size, size + 39)]
    goes.entries[size + 2] += b" "
    assert check(goes, tmp_path)[0].verdict == "FAIL"


# ---------------------------------------------------------------------- forgeries


def test_a_continuation_by_a_stranger(goes: Goes, tmp_path: Path) -> None:
    goes.key = signer(b"x")
    goes.go_on().hour(5)
    report, _ = check(goes, tmp_path)
    assert report.verdict == "FAIL" and "no known key" in report.findings[0]


def test_a_head_that_does_not_tell_of_it(goes: Goes, tmp_path: Path) -> None:
    goes.go_on().hour(5)
    goes.lines = ("something else",)
    goes.hour(5)
    report, _ = check(goes, tmp_path)
    assert report.verdict == "FAIL" and "tells of these continuations: none" in report.findings[0]


def test_a_log_that_goes_on_under_its_old_name(goes: Goes, tmp_path: Path) -> None:
    goes.go_on()
    goes.lines, goes.epoch = (), 1
    del goes.heads[-1]
    goes.hour(200)
    fails(goes, tmp_path, "no head tells of", 302, max_gap=0)
    fails(goes, tmp_path, "a fork", 0, max_gap=0, remembered=[goes.last])


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"votes": ()}, "not agreed to by two persons"),
        ({"votes": ("ana",)}, "not agreed to by two persons"),
        ({"votes": ("Ana",)}, "not agreed to by two persons"),
        ({"asked": "os:root"}, "not agreed to by two persons"),
        ({"refusing": True}, "not agreed to by two persons"),
        ({"late": True}, "not agreed to by two persons"),
        ({"voted_for": "0" * 64}, "not agreed to by two persons"),
        ({"named": ("ben", "cyd")}, "names other persons"),
        ({"named": ()}, "names other persons"),
    ],
)
def test_one_that_nobody_agreed_to(goes: Goes, tmp_path: Path, how: dict[str, Any], why: str) -> None:
    goes.go_on(**how).hour(5)
    line = continued_of(f"{ORIGIN}/e2", goes.lines)[0]
    fails(goes, tmp_path, why, line.entry)


def test_one_that_was_agreed_to_for_something_else(goes: Goes, tmp_path: Path) -> None:
    """Ben approved that 300 of 400 were kept; what is stated is another loss, or another reason."""
    goes.go_on()
    del goes.heads[-1]
    at = len(goes.entries) - 1
    event = json.loads(goes.entries[at])
    event["details"]["statement"] = canonical(goes.statement(ground="nothing happened", epoch=2) | {
        "origin": ORIGIN, "log": f"{ORIGIN}/e2"})  # fmt: skip
    goes.entries[at] = canonical(event).encode()
    (line,) = continued_of(f"{ORIGIN}/e2", goes.lines)
    goes.lines = (str(Continued(2, line.kept, line.known, line.root, line.at, at, leaf_hash(goes.entries[at]))),)
    goes.hour(5)
    fails(goes, tmp_path, "nobody is seen to have asked", at)


def test_one_from_a_wrong_head(goes: Goes, tmp_path: Path) -> None:
    """An older head is named, so that what came after it was never there; who remembers a newer one says so."""
    whole = goes.last
    goes.last = goes.middle
    goes.go_on().hour(5)
    assert check(goes, tmp_path)[0].verdict == "PASS", "nobody else knows"
    fails(goes, tmp_path, "hides more than it tells", 350, remembered=[whole])
    fails(goes, tmp_path, "hides more than it tells", 350, against=Folder(Goes().write(tmp_path / "old")))


def test_one_from_a_head_that_was_never_signed(goes: Goes, tmp_path: Path) -> None:
    forged = bytes(Checkpoint(ORIGIN, KNOWN, bytes(32)).signed(signer(b"x"), goes.now))
    said = goes.statement(known_root=base64.b64encode(bytes(32)).decode(), head=forged.decode())
    goes.go_on(said).hour(5)
    fails(goes, tmp_path, "is not genuine", 302)


def test_one_from_a_head_of_the_same_size_and_another_root(goes: Goes, tmp_path: Path) -> None:
    """The keeper signs a second head over 400 and continues from that."""
    true = goes.last
    goes.last = bytes(Checkpoint(ORIGIN, KNOWN, bytes(32)).signed(LOG, goes.now))
    goes.go_on().hour(5)
    fails(goes, tmp_path, "a fork", 399, remembered=[true])


def test_one_whose_statement_and_line_say_different_things(goes: Goes, tmp_path: Path) -> None:
    def more(line: Continued) -> Continued:
        return Continued(2, 310, line.known, line.root, line.at, 310, line.leaf)

    goes.hour(20)
    goes.restore(320)
    goes.heads = [head for head in goes.heads if head[1] <= KEPT]
    goes.go_on(line=more).hour(5)
    fails(goes, tmp_path, "does not state the continuation", 310)
    again = Goes().restore()
    again.go_on(line=lambda line: Continued(2, 299, line.known, line.root, line.at, line.entry, line.leaf)).hour(5)
    again.heads = [head for head in again.heads if head[1] != KEPT]
    fails(again, tmp_path, "names another head", 302)


def test_one_that_tells_more_lost_than_was(goes: Goes, tmp_path: Path) -> None:
    """Entries 250 to 299 were there and are replaced: the log keeps a head over 300, or else the range does not fit."""
    goes.entries[250:] = [b"replaced"] * 50
    goes.go_on(goes.statement(kept=250)).hour(5)
    fails(goes, tmp_path, "hides more than was lost", 250)
    other = Goes().restore()
    other.go_on(other.statement(lost_first=250)).hour(5)
    fails(other, tmp_path, "the lost range", 250)


def test_what_is_said_to_be_kept_and_differs(goes: Goes, tmp_path: Path) -> None:
    """An old head within what was kept, whoever has it, is met or refused with the position."""
    old = Goes()
    goes.entries[120] = b"another"
    goes.heads = goes.heads[:1]
    goes.go_on().hour(5)
    fails(goes, tmp_path, "is not what was logged", 120, against=Folder(old.write(tmp_path / "old")))
    fails(goes, tmp_path, "a fork", 0, remembered=[old.heads[1][2]])
    _, known = check(old, tmp_path)
    assert known is not None
    fails(goes, tmp_path, "not all are those checked before", 0, known=known)


def test_a_root_that_is_not_that_of_what_was_kept(goes: Goes, tmp_path: Path) -> None:
    goes.go_on(goes.statement(kept_root=base64.b64encode(bytes(32)).decode())).hour(5)
    fails(goes, tmp_path, "does not begin with", 300)


def test_a_second_continuation_from_the_same_point(goes: Goes, tmp_path: Path) -> None:
    """Another statement in the same tree; and another tree with a statement of its own."""
    first = Goes().restore()
    first.go_on().hour(20)
    kept = first.heads[-1][2]
    goes.hour(0)
    goes.heads = [head for head in goes.heads if head[0] < goes.now]
    goes.now -= 1800
    goes.go_on(goes.statement(ground="another story")).hour(20)
    fails(goes, tmp_path, "a fork", 0, remembered=[kept])
    at = len(first.entries) + 2
    first.epoch, lines = 1, first.lines
    first.lines = ()
    first.go_on(first.statement())
    first.lines = lines
    first.heads.pop()
    first.hour(5)
    fails(first, tmp_path, "a second continuation", at)


def test_a_continuation_of_a_log_that_another_one_continues(goes: Goes, tmp_path: Path) -> None:
    """The third log says that it continues the first again, in place of the second."""
    goes.go_on().hour(50)
    said = goes.statement() | {"origin": ORIGIN}
    goes.go_on(said).hour(5)
    report, _ = check(goes, tmp_path)
    assert report.verdict == "FAIL" and report.first_bad >= KEPT, report.findings


def test_a_witnessed_head_of_the_lost_is_no_witness_of_the_log_of_now(goes: Goes, tmp_path: Path) -> None:
    goes.go_on().hour(5)
    note = parse_note(goes.last)
    goes.cosigned = bytes(note.with_signatures(each.cosign(note.text, goes.now) for each in WITNESSES))
    fails(goes, tmp_path, "no witness signed the log of now", 400, quorum=2)
    goes.cosign()
    assert check(goes, tmp_path, quorum=2)[0].verdict == "PASS"


def test_an_entry_altered_behind_it(goes: Goes, tmp_path: Path) -> None:
    goes.go_on().hour(50).hour(50)
    goes.entries[320] += b" "
    assert check(goes, tmp_path)[0].first_bad == 303


def test_the_command_tells_of_it(goes: Goes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    goes.go_on().hour(5)
    assert main(["export", str(goes.write(tmp_path / "log")), "--key", str(LOG.key)]) == 0
    told = capsys.readouterr().out
    assert "lost: entries 300 to 399 of bailiwick/k1/default" in told and "ana, ben" in told and "disk lost" in told


# ---------------------------------------------------------------------- names and lines


def test_names() -> None:
    assert split_origin("bailiwick/k/e2") == ("bailiwick/k/e2", 1), "a zone may be called so"
    assert split_origin("bailiwick/k/e2/e2") == ("bailiwick/k/e2", 2)
    assert split_origin("bailiwick/k/z/e1")[1] == 1
    for epoch in (1, 2, 17):
        assert split_origin(origin_in(ORIGIN, epoch)) == (ORIGIN, epoch)
    (key,) = keys_of(f"{ORIGIN}/e3", [LOG.key])
    assert key.public == LOG.key.public and key.key_id != LOG.key.key_id
    assert keys_of("bailiwick/k2/default/e2", [LOG.key]) == []


@given(st.text(max_size=200))
def test_any_line(line: str) -> None:
    with pytest.raises(NoteError):
        Continued.parse(line)
        raise NoteError


def test_lines_in_their_one_form(goes: Goes) -> None:
    goes.go_on()
    (line,) = goes.lines
    assert str(Continued.parse(line)) == line
    for wrong in (
        line.replace("kept 300", "kept 0300"), line.replace("kept 300 of 400", "kept 400 of 400"), line + " ",
        line.replace(f"entry {Continued.parse(line).entry}", "entry 299"),
    ):  # fmt: skip
        with pytest.raises(NoteError):
            continued_of(f"{ORIGIN}/e2", (wrong,))
    for origin, lines in ((ORIGIN, (line,)), (f"{ORIGIN}/e3", (line,)), (f"{ORIGIN}/e2", (line, line))):
        with pytest.raises(NoteError):
            continued_of(origin, lines)
