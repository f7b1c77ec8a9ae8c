"""A log exported into a folder, and everything that somebody might do to it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bailiwick_verify.checkpoint import Checkpoint
from bailiwick_verify.cli import main
from bailiwick_verify.log import Folder, Progress, Server, verify_log
from bailiwick_verify.merkle import EMPTY_ROOT, Edge, leaf_hash
from bailiwick_verify.note import Signer
from bailiwick_verify.tiles import ENTRIES, Tile, decode_bundle, encode_bundle, tiles_of

LOG = Signer("log.example/default", Ed25519PrivateKey.from_private_bytes(b"l" * 32))
WITNESS = Signer("witness.example", Ed25519PrivateKey.from_private_bytes(b"w" * 32))
NOW = 1_800_000_000


def entry(n: int) -> bytes:
    return json.dumps({"id": n, "name": "thing.done"}).encode()


def write(folder: Path, size: int, *, moment: int = NOW, signer: Signer = LOG, first: int = 0) -> None:
    """The log of ``size`` entries as a folder."""
    entries = [entry(n + first) for n in range(size)]
    edge = Edge()
    edge.extend([leaf_hash(each) for each in entries])
    levels: list[list[bytes]] = [[leaf_hash(each) for each in entries]]
    whole = Edge()
    for full in whole.extend(levels[0]):
        put(folder, Tile(full.level, full.number), full.data)
    for level, hashes in enumerate(whole.levels):
        if hashes:
            put(folder, Tile(level, (size >> (8 * level)) // 256, len(hashes)), b"".join(hashes))
    for tile in tiles_of(size, entries=True):
        put(folder, tile, encode_bundle(entries[tile.index * 256 : tile.index * 256 + tile.width]))
    note = Checkpoint(signer.key.name, size, edge.root()).signed(signer, moment)
    (folder / "heads").write_bytes(bytes(Checkpoint(signer.key.name, 0, EMPTY_ROOT).signed(signer, moment - 3600)))
    (folder / "checkpoint").write_bytes(bytes(note.with_signatures([WITNESS.cosign(note.text, moment + 1)])))
    (folder / "verifier-keys").write_text(f"{signer.key}\n")


def put(folder: Path, tile: Tile, data: bytes) -> None:
    path = folder / tile.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def change(folder: Path, tile: Tile, do) -> None:
    """Rewrite a bundle of entries."""
    path = folder / tile.path
    entries = decode_bundle(path.read_bytes())
    do(entries)
    path.write_bytes(encode_bundle(entries))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "log"
    write(made, 700)
    return made


def check(folder: Path, **options):
    return verify_log(Folder(folder), [LOG.key], **options)


def test_a_whole_log_passes(folder: Path) -> None:
    report, progress = check(folder, witness_keys=[WITNESS.key.as_cosigner()], quorum=1)
    assert (report.verdict, report.checked, report.size, report.findings) == ("PASS", 700, 700, [])
    assert (report.signed_at, report.witnesses) == (NOW, {"witness.example": NOW + 1})
    assert progress is not None and progress.edge.size == 700


def test_an_empty_log_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    write(tmp_path / "log", 0)
    assert check(tmp_path / "log")[0].verdict == "NO_DATA"


MIDDLE, LAST = Tile(ENTRIES, 1), Tile(ENTRIES, 2, 188)


@pytest.mark.parametrize(
    ("tile", "do", "first_bad"),
    [
        (MIDDLE, lambda e: e.__setitem__(44, e[44] + b" "), 300),
        (LAST, lambda e: e.__setitem__(187, b"{}"), 699),
        (MIDDLE, lambda e: e.reverse(), 256),
        (MIDDLE, lambda e: e.__setitem__(slice(10, 12), [e[11], e[10]]), 266),
        (MIDDLE, lambda e: e.pop(), 511),
        (MIDDLE, lambda e: e.insert(3, b"{}"), 259),
        (MIDDLE, lambda e: (e.pop(5), e.append(b"{}")), 261),
    ],
    ids=["changed", "last changed", "reordered", "swapped", "removed", "inserted", "removed and filled up"],
)
def test_what_was_done_to_the_entries_is_found_at_its_place(folder: Path, tile: Tile, do, first_bad: int) -> None:
    change(folder, tile, do)
    report, progress = check(folder)
    assert (report.verdict, report.first_bad) == ("FAIL", first_bad), report.findings
    assert progress is None


def test_entries_and_hashes_forged_together_are_refused(folder: Path) -> None:
    other = folder.parent / "other"
    write(other, 700, first=1)
    shutil.copytree(other / "tile", folder / "tile", dirs_exist_ok=True)
    report, _ = check(folder)
    assert report.verdict == "FAIL" and "not those that the checkpoint" in report.findings[0]


@pytest.mark.parametrize("gone", ["checkpoint", "tile/entries/001", "tile/entries/002.p/188"])
def test_what_is_missing_is_told(folder: Path, gone: str) -> None:
    (folder / gone).unlink()
    report, _ = check(folder)
    assert report.verdict == "FAIL" and gone in report.findings[0]


def test_bytes_that_are_no_bundle(folder: Path) -> None:
    (folder / "tile/entries/001").write_bytes(b"\xff")
    report, _ = check(folder)
    assert (report.verdict, report.first_bad) == ("FAIL", 256)


def test_a_forged_checkpoint(folder: Path) -> None:
    write(folder, 700, signer=Signer(LOG.key.name, Ed25519PrivateKey.from_private_bytes(b"x" * 32)))
    report, _ = check(folder)
    assert report.verdict == "FAIL" and "not genuine" in report.findings[0]


def test_going_on_from_an_earlier_check_reads_only_what_is_new_and_finds_a_fork(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    write(folder, 300)
    _, known = check(folder)
    assert known is not None
    known = Progress.from_json(known.to_json())
    write(folder, 900)
    report, _ = check(folder, known=known)
    assert (report.verdict, report.checked) == ("PASS", 600)
    write(folder, 900, first=7)  # another history under a genuine signature: only who remembers can tell
    assert check(folder)[0].verdict == "PASS"
    assert check(folder, known=known)[0].verdict == "FAIL"
    write(folder, 200)
    report, _ = check(folder, known=known)
    assert report.verdict == "FAIL" and "cut off" in report.findings[0]


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"origin": "o", "size": 1, "levels": []}', '{"size": 0, "levels": "x"}']
)
def test_what_is_no_state(text: str) -> None:
    with pytest.raises(ValueError):
        Progress.from_json(text)


def test_a_log_that_was_stopped_is_noticed(folder: Path) -> None:
    assert check(folder, not_before=NOW)[0].verdict == "PASS"
    report, _ = check(folder, not_before=NOW + 1)
    assert report.verdict == "FAIL" and "before" in report.findings[0]


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def copyfile(self, source, outputfile) -> None:
            try:
                super().copyfile(source, outputfile)
            except ConnectionError:
                pass  # the verifier has read enough

    made = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()


def test_a_server_is_read_the_same_way(folder: Path, server: str) -> None:
    assert verify_log(Server(server), [LOG.key])[0].verdict == "PASS"
    report, _ = verify_log(Server(server + "/nowhere"), [LOG.key])
    assert report.verdict == "FAIL" and "404" in report.findings[0]
    (folder / "checkpoint").write_bytes(bytes(20 << 20))
    assert "larger" in verify_log(Server(server), [LOG.key])[0].findings[0]
    with pytest.raises(ValueError, match="http"):
        Server("file:///etc")


def test_the_command(folder: Path, server: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    keys = str(folder / "verifier-keys")
    state = tmp_path / "state"
    assert main(["export", str(folder), "--key", keys, "--state", str(state)]) == 0
    assert "PASS" in capsys.readouterr().out and state.exists()
    assert main(["live", server, "--key", str(LOG.key), "--state", str(state), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checked"] == 0
    assert main(["export", str(folder), "--key", keys, "--witness", str(WITNESS.key), "--quorum", "2"]) == 2
    assert main(["export", str(folder), "--key", keys, "--max-age", "5"]) == (1 if time.time() > NOW + 5 else 0)
    assert main(["export", str(folder), "--key", "no+such+key"]) == 2
    assert main(["export", str(folder), "--key", str(tmp_path / "absent")]) == 2
    state.write_text("nonsense")
    assert main(["export", str(folder), "--key", keys, "--state", str(state)]) == 2
    assert main(["receipt", str(tmp_path / "absent"), "--key", keys]) == 2
    (tmp_path / "r").write_bytes(b"nonsense")
    assert main(["receipt", str(tmp_path / "r"), "--key", keys]) == 1
    change(folder, MIDDLE, lambda e: e.pop())
    capsys.readouterr()
    assert main(["export", str(folder), "--key", keys]) == 1
    assert "first bad entry: 511" in capsys.readouterr().out


def test_the_core_imports_neither_the_server_nor_anything_but_cryptography() -> None:
    program = (
        "import sys; before = set(sys.modules); import bailiwick_verify.cli;"
        "print('\\n'.join(sorted({n.split('.')[0] for n in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    foreign = {name for name in done.stdout.split() if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert foreign <= {"bailiwick_verify", "cryptography"}
