"""The soak in its short form: every process is killed once under load, and the client's own log is held against it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from bench.soak import Proof, _compare, _event_ids

from unmeasured import unmeasured

ROOT = Path(__file__).parent.parent.parent
SHORT = ["--seconds", "20", "--pause", "0.5", "--peak-seconds", "2", "--most-rate", "600", "--connections", "16"]


def test_nothing_acknowledged_is_lost_or_doubled_while_every_process_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "soak", *SHORT, "--json", str(tmp_path / "soak.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=unmeasured())
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "soak.json").read_text())
    figures = told["figures"]
    assert figures["acknowledged"] == figures["ledgered"] > 500
    assert (figures["missing"], figures["doubled"], figures["out_of_order"]) == (0, 0, 0)
    assert figures["undelivered"] == 0 and told["verify"] == "PASS"
    assert all(told["answers"]["acknowledged"][kind] > 50 for kind in "gdw")
    every = {"w1", "w2", "w3", "work", "guard", "gateway", "postgres", "postgres stopped", "supervisor"}
    assert every <= set(told["killed"]) <= every | {"sink"} and not told["not_back"]


@pytest.mark.parametrize(
    ("log", "places", "wrong"),
    [
        ("g 1.1 a\nw 1.1 b\n", {"request a": [0], "decision b": [1]}, ([], [], [])),
        ("g 1.1 a\ng 1.1 b\n", {"request a": [0]}, (["b"], [], [])),
        ("g 1.1 a\nd 1.1 a\n", {"request a": [0]}, (["a"], [], [])),
        ("g 1.1 a\n", {"request a": [0, 1]}, ([], ["a"], [])),
        ("w 1.1 a\nw 1.1 b\n", {"decision a": [1], "decision b": [0]}, ([], [], ["b"])),
        ("w 1.1 a\nw 1.2 b\n", {"decision a": [1], "decision b": [0]}, ([], [], [])),
        ("d 1.1 a\nd 1.1 b\n", {"decision a": [1], "decision b": [0]}, ([], [], [])),
        ("g 1.1 a\ng 1.1 torn", {"request a": [0]}, ([], [], [])),
    ],
    ids=["whole", "missing", "other kind", "doubled", "order", "two lives", "any worker", "unfinished line"],
)
def test_the_proof_finds_what_is_wrong(
    tmp_path: Path, log: str, places: dict[str, list[int]], wrong: tuple[list[str], list[str], list[str]]
) -> None:
    (tmp_path / "log").write_text(log)
    proof = Proof(verify="PASS")
    _compare(proof, tmp_path / "log", places)
    assert (proof.missing, proof.doubled, proof.disordered) == wrong
    assert proof.holds is (wrong == ([], [], []))


def test_the_receiver_finds_event_ids_in_what_siems_are_sent() -> None:
    event = {"id": "one", "code": "BW4001", "details": {"id": "no"}}
    hec = json.dumps({"time": 1, "event": event}) + json.dumps({"event": {**event, "id": "two"}})
    assert list(_event_ids(hec.encode())) == ["one", "two"]
    assert list(_event_ids(json.dumps([{"message": "x"}, event]).encode())) == ["one"]
