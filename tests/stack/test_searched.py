"""The search at the end of every installation finds what it is for, wherever it stands."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from searched import Search, take_in

from bailiwick.kernel.paths import Layout
from evidence_watch import WATCH

SECRET = "planted-where-no-secret-may-stand"
KEK = sha256(b"the key of these tests, which nothing else writes").hexdigest()


def installation(directory: Path) -> Layout:
    """The files of one that is down, so that its database is searched in its files too."""
    layout = Layout(directory / "data")
    layout.create()
    (layout.secrets / "kek").write_text(f"k1 {KEK}\n")
    (layout.pg / "18" / "base" / "5").mkdir(parents=True)
    return layout


@pytest.mark.parametrize(
    ("place", "written"),
    [
        ("logs/serve.log", f"signed in with {SECRET}"),
        ("spool/w0/00000001.seg", f'\x00\x01{{"details":{{"query":"{SECRET}"}}}}\x00'),
        ("pg/18/base/5/1234", f"\x00{SECRET}\x00"),
        ("logs/serve.log", f"key {KEK}"),
        ("logs/serve.log", "x" * (5 << 20) + f" {SECRET} "),
    ],
    ids=["log", "spool", "database", "key-encryption key", "deep in a large file"],
)
def test_a_planted_secret_is_found(tmp_path: Path, place: str, written: str) -> None:
    layout = installation(tmp_path)
    take_in({"items": [{"client_secret": SECRET}]})
    path = layout.data_dir / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(written)
    search = Search(layout.data_dir)
    search.read_database()
    known = list(WATCH.leaks)
    with pytest.raises(AssertionError, match=Path(place).name):
        search.finish()
    WATCH.leaks[:] = known


def test_one_that_keeps_its_secrets_passes(tmp_path: Path) -> None:
    layout = installation(tmp_path)
    take_in({"client_secret": SECRET})
    (layout.logs / "serve.log").write_text("client_secret=[redacted]")
    search = Search(layout.data_dir)
    search.read_database()
    search.finish()
    assert SECRET.encode() in WATCH.secrets
