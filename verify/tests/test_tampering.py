"""Every way of tampering that an auditor must find, in an exported folder and on a server, and where it begins."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from log_maker import HOUR, LOG, START, WITNESSES, Maker, signer, write_tiles

from bailiwick_verify import check
from bailiwick_verify.cli import main
from bailiwick_verify.receipt import Receipt
from bailiwick_verify.report import Progress
from bailiwick_verify.source import split_notes


@pytest.fixture
def log() -> Maker:
    """Four hours: 300, 600, 900 entries, and an hour in which nothing happened."""
    return Maker().hour(300).hour(300).hour(300).hour(0)


@pytest.fixture
def folder(log: Maker, tmp_path: Path) -> Path:
    return log.write(tmp_path / "log")


@pytest.fixture(params=["export", "live"])
def verify(request: pytest.FixtureRequest, folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable]:
    """Run the command; its exit code and its report."""
    place, server = str(folder), None
    if request.param == "live":

        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_address[1]}"

    def run(*arguments: object, keys: str = str(folder / "verifier-keys")) -> tuple[int, dict]:
        code = main([request.param, place, "--key", keys, "--json", *map(str, arguments)])
        return code, json.loads(capsys.readouterr().out or "{}")

    yield run
    if server is not None:
        server.shutdown()
        server.server_close()


def test_an_honest_log_passes(verify: Callable) -> None:
    code, report = verify()
    assert (code, report["verdict"], report["checked"], report["findings"]) == (0, "PASS", 900, [])
    assert report["heads"] >= 5


def rewrite(folder: Path, log: Maker, do: Callable[[list[bytes]], object], *, hashes_too: bool = False) -> None:
    """Somebody who holds the folder, not the key, rewrites the entries; the hash tiles as well where he is careful."""
    entries = list(log.entries)
    do(entries)
    write_tiles(folder, entries, entries if hashes_too else log.entries)


TAMPERING: list[tuple[str, Callable[[list[bytes]], object], int]] = [
    ("changed", lambda e: e.__setitem__(444, e[444].replace(b"done", b"undone")), 444),
    ("first changed", lambda e: e.__setitem__(0, b"{}"), 0),
    ("last changed", lambda e: e.__setitem__(899, b"{}"), 899),
    ("cut short", lambda e: e.__setitem__(444, e[444][:-3]), 444),
    ("removed", lambda e: (e.pop(444), e.append(b"{}")), 444),
    ("inserted", lambda e: (e.insert(444, b"{}"), e.pop()), 444),
    ("reordered", lambda e: e.__setitem__(slice(444, 446), [e[445], e[444]]), 444),
]


@pytest.mark.parametrize(("do", "first"), [each[1:] for each in TAMPERING], ids=[each[0] for each in TAMPERING])
def test_a_tampered_entry_is_found_at_its_place(verify: Callable, folder: Path, log: Maker, do, first: int) -> None:
    rewrite(folder, log, do)
    code, report = verify()
    assert (code, report["verdict"], report["first_bad"]) == (1, "FAIL", first), report["findings"]


@pytest.mark.parametrize(("do", "first"), [each[1:] for each in TAMPERING], ids=[each[0] for each in TAMPERING])
def test_with_the_hashes_forged_too_the_hour_is_found_and_another_copy_tells_the_entry(
    verify: Callable, folder: Path, log: Maker, tmp_path: Path, do, first: int
) -> None:
    honest = log.copy().write(tmp_path / "honest")
    rewrite(folder, log, do, hashes_too=True)
    code, report = verify()
    hour = first // 300 * 300
    assert (code, report["first_bad"]) == (1, hour), report["findings"]
    assert f"entries {hour} to {hour + 299}" in " ".join(report["findings"])
    code, report = verify("--against", honest)
    assert (code, report["first_bad"]) == (1, first), report["findings"]


def test_entries_cut_off_at_the_end(verify: Callable, folder: Path, log: Maker) -> None:
    (folder / "tile/entries/003.p/132").unlink()
    code, report = verify()
    assert (code, report["verdict"]) == (1, "FAIL") and "cannot be read" in report["findings"][0]


def test_a_log_cut_back_to_an_earlier_head(verify: Callable, folder: Path, log: Maker, tmp_path: Path) -> None:
    """He takes an old genuine checkpoint and the entries under it: only what was kept elsewhere can tell."""
    newest = tmp_path / "newest"
    newest.write_bytes(log.heads[-1][2])
    state = tmp_path / "state"
    assert verify("--state", state)[0] == 0
    short = Maker().hour(300).hour(300)
    short.write(folder)
    assert verify()[0] == 0
    for option in (("--state", state), ("--head", newest)):
        code, report = verify(*option)
        assert (code, report["first_bad"]) == (1, 600), report["findings"]
        assert "cut off" in report["findings"][0]
    (folder / "heads").write_bytes(b"\n".join(note for _, _, note in log.heads))
    code, report = verify()
    assert (code, report["first_bad"]) == (1, 600), "he left a head over more"


def test_a_fork_under_the_genuine_key(verify: Callable, folder: Path, log: Maker, tmp_path: Path) -> None:
    """Whoever holds the key rewrites the past from entry 300 on, heads and all."""
    state, head = tmp_path / "state", tmp_path / "head"
    honest = log.copy().write(tmp_path / "honest")
    assert verify("--state", state)[0] == 0
    head.write_bytes(log.heads[3][2])
    Maker().hour(300).hour(300, "?").hour(300).hour(300).write(folder)
    assert verify()[0] == 0, "within itself it is a perfect log"
    code, report = verify("--against", honest)
    assert (code, report["first_bad"]) == (1, 300) and "a fork" in report["findings"][0]
    assert report["remarks"] == ["the other copy is 300 entries shorter"]
    code, report = verify("--head", head)
    assert code == 1 and "the remembered head" in report["findings"][0]
    code, report = verify("--state", state)
    assert code == 1 and "a fork" in report["findings"][0]
    assert report["first_bad"] == 256, "the first tile of 256 that differs: all that the state remembers"
    assert Progress.from_json(state.read_text()).edge.size == 900, "what was proven is not forgotten"


def test_two_heads_of_one_size(verify: Callable, folder: Path, log: Maker) -> None:
    other = Maker().hour(300).hour(300, "?")
    notes = [note for _, _, note in log.heads] + [other.heads[-1][2]]
    (folder / "heads").write_bytes(b"\n".join(notes))
    code, report = verify()
    assert (code, report["first_bad"]) == (1, 300) and "different trees of 600" in report["findings"][0]


def test_a_forged_head(verify: Callable, folder: Path, log: Maker) -> None:
    forger = Maker(signer(b"x"))
    forger.entries = log.entries[:600]
    forger.sign()
    notes = [*[note for _, _, note in log.heads], forger.heads[-1][2]]
    (folder / "heads").write_bytes(b"\n".join(notes))
    code, report = verify()
    assert (code, report["first_bad"]) == (1, 599) and "a forged head over 600" in report["findings"][0]
    (folder / "checkpoint").write_bytes(forger.heads[-1][2])
    assert "not genuine" in " ".join(verify()[1]["findings"])


def test_a_missing_hour(verify: Callable, folder: Path, log: Maker, tmp_path: Path) -> None:
    kept = [note for moment, _, note in log.heads if moment != START + 2 * HOUR]
    (folder / "heads").write_bytes(b"\n".join(kept))
    code, report = verify()
    assert (code, report["first_bad"]) == (1, 300) and "a missing hour" in report["findings"][0]
    assert verify("--max-gap", 2 * HOUR)[0] == 0
    assert verify("--max-gap", 0)[0] == 0
    (folder / "heads").write_bytes(b"")
    code, report = verify()
    assert code == 1 and "no head was kept" in report["findings"][0]
    (folder / "heads").unlink()
    assert verify()[0] == 1


def test_a_missing_hour_since_the_last_check(verify: Callable, folder: Path, log: Maker, tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert verify("--state", state)[0] == 0
    log.now += HOUR
    log.hour(10).write(folder)
    (folder / "heads").write_bytes(log.heads[-1][2])
    code, report = verify("--state", state)
    assert (code, report["first_bad"]) == (1, 900) and "a missing hour" in report["findings"][0]


def test_a_check_goes_on_where_it_was(verify: Callable, folder: Path, log: Maker, tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert verify("--state", state)[1]["checked"] == 900
    log.hour(77).write(folder)
    code, report = verify("--state", state)
    assert (code, report["checked"], report["size"]) == (0, 77, 977)
    rewrite(folder, log, lambda e: e.__setitem__(950, b"{}"))
    log.hour(0)
    assert verify("--state", state)[0] == 0, "what was read is not read again"


def test_an_unfinished_check_is_gone_on_with_and_proves_nothing_by_itself(
    verify: Callable, folder: Path, log: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    monkeypatch.setattr(check, "_KEEP_S", -1.0)
    bundle = folder / "tile/entries/002"
    content = bundle.read_bytes()
    bundle.unlink()
    kept: list[str] = []
    from bailiwick_verify import cli

    real = cli._State.keep
    monkeypatch.setattr(
        cli._State, "keep", lambda self, progress: (kept.append(progress.to_json()), real(self, progress))
    )
    assert verify("--state", state)[0] == 1
    assert not state.exists(), "nothing of a check that failed is left"
    bundle.write_bytes(content)
    half = kept[-1]
    state.write_text(half)  # as if it had been killed there
    reading = Progress.from_json(half).reading
    assert reading is not None and reading.size == 512
    code, report = verify("--state", state)
    assert (code, report["checked"]) == (0, 388)
    state.write_text(half)
    rewrite(folder, log, lambda e: e.__setitem__(700, b"{}"))
    code, report = verify("--state", state)
    assert (code, report["first_bad"]) == (1, 700)
    assert Progress.from_json(state.read_text()).reading is None


def test_keys_over_time(verify: Callable, folder: Path, tmp_path: Path) -> None:
    """The key was rotated: each head is signed by the key of its time, under the one name of the log."""
    log = Maker().hour(300)
    first, log.key = log.key, signer(b"m")
    log.hour(300).hour(10).write(folder)
    keys = tmp_path / "keys"
    keys.write_text(f"{first.key}\n{log.key.key}\n")
    code, report = verify(keys=str(keys))
    assert (code, report["heads"] >= 4) == (0, True), report["findings"]
    code, report = verify(keys=str(log.key.key))
    assert (code, report["first_bad"]) == (1, 0) and "no known key" in report["findings"][0]
    code, report = verify(keys=str(first.key))
    assert code == 1 and "no known key" in " ".join(report["findings"])


def test_witnesses(verify: Callable, folder: Path, log: Maker) -> None:
    witnesses = [part for each in WITNESSES for part in ("--witness", str(each.key))]
    assert verify(*witnesses, "--quorum", 2)[0] == 1
    log.cosign()
    log.hour(50).write(folder)
    code, report = verify(*witnesses, "--quorum", 2)
    assert (code, report["cosigned_size"], sorted(report["witnesses"])) == (0, 900, ["one.example", "two.example"])
    assert report["remarks"] == ["50 entries wait for their witnesses"]
    log.cosign(WITNESSES[:1])
    log.write(folder)
    assert verify(*witnesses, "--quorum", 2)[0] == 1
    assert verify(*witnesses, "--quorum", 1)[0] == 0
    stranger = signer(b"s", "two.example")
    log.cosign([WITNESSES[0], stranger])
    log.write(folder)
    assert verify(*witnesses, "--quorum", 2)[0] == 1
    other = Maker().hour(300).hour(300, "?").hour(300)
    other.cosign()
    (folder / "cosigned-checkpoint").write_bytes(other.cosigned or b"")
    code, report = verify(*witnesses, "--quorum", 2)
    assert code == 1 and "a fork" in " ".join(report["findings"])


def test_entries_of_a_simulated_clock_are_no_valid_evidence(
    verify: Callable, folder: Path, log: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.hour(10, details={"simulated_clock": True}).write(folder)
    assert verify()[0] == 0, "a detail of that name is another thing"
    log.hour(5, simulated_clock=True).write(folder)
    state = tmp_path / "state"
    code, report = verify("--state", state)
    assert (code, report["verdict"], report["simulated"], report["findings"]) == (1, "SIMULATED", 910, [])
    code, report = verify("--state", state)
    assert (code, report["verdict"], report["checked"]) == (1, "SIMULATED", 0), "it stays so when nothing is read again"
    log.now += 100 * HOUR
    log.hour(5, simulated_clock=True).write(folder)
    code, report = verify()
    assert (code, report["verdict"], len(report["missing_hours"])) == (1, "SIMULATED", 1), (
        "a clock that runs fast has hours of its own"
    )
    rewrite(folder, log, lambda e: e.__setitem__(7, b"{}"))
    assert verify()[1]["verdict"] == "FAIL"


def test_a_receipt_of_a_simulated_clock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Maker().hour(1, simulated_clock=True)
    proof = tmp_path / "x.tlog-proof"
    proof.write_bytes(bytes(Receipt(log.entries[0], 0, (), log.heads[-1][2])))
    assert main(["receipt", str(proof), "--key", str(LOG.key)]) == 1
    assert "SIMULATED" in capsys.readouterr().out


def test_another_log_is_no_other_copy(verify: Callable, tmp_path: Path) -> None:
    foreign = Maker(signer(b"l", "bailiwick/k1/acme")).hour(5)
    there = foreign.write(tmp_path / "foreign")
    keys = tmp_path / "keys"
    keys.write_text(f"{LOG.key}\n{foreign.key.key}\n")
    code, report = verify("--against", there, keys=str(keys))
    assert code == 1 and "another log" in report["findings"][0]
    head = tmp_path / "head"
    head.write_bytes(foreign.heads[-1][2])
    assert "another log" in verify("--head", head, keys=str(keys))[1]["findings"][0]
    assert verify("--against", tmp_path / "nowhere")[0] == 1


def test_a_folder_of_notes() -> None:
    notes = [note for _, _, note in Maker().hour(3).hour(3).heads]
    assert split_notes(b"\n".join(notes)) == notes
    assert split_notes(b"") == []
    with pytest.raises(ValueError):
        split_notes(notes[0] + b"\nmore\n")
