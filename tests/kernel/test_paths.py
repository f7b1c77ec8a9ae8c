from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from bailiwick.kernel.paths import (
    AlreadyRunning,
    DataDirLock,
    DataDirUnusable,
    Layout,
    default_data_dir,
    write_private,
)

LONG = "a-name-that-goes-on-and-on-with-späces and accents " * 2


@pytest.fixture(autouse=True)
def short_temp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """A temporary directory of our own, short as /tmp is."""
    with tempfile.TemporaryDirectory(prefix="bw", dir="/tmp") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


def test_every_directory_is_private(short_temp: Path) -> None:
    layout = Layout(short_temp / "späces and more")
    layout.create()
    layout.create()
    for directory in (layout.data_dir, layout.pg, layout.run, layout.spool, layout.secrets, layout.logs, layout.envoy):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700, directory
    assert layout.run == layout.data_dir / "run"


def test_a_data_dir_open_to_others_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Layout(tmp_path).create()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_path_too_long_for_sockets_gets_a_run_dir_that_everybody_finds(tmp_path: Path, short_temp: Path) -> None:
    layout = Layout(tmp_path / LONG)
    layout.create()
    assert layout.run.parent == short_temp
    assert stat.S_IMODE(layout.run.stat().st_mode) == 0o700
    assert len(os.fsencode(layout.slot("guard-10").directory / ".s.PGSQL.5432")) <= 107
    tempfile.tempdir = "/var/tmp"  # another shell may have another TMPDIR
    assert Layout(tmp_path / LONG).run == layout.run
    layout.slot("w1").create()
    layout.slot("w1").directory.rmdir()
    layout.envoy.rmdir()
    layout.remove_foreign_run()
    assert not layout.run.exists()


def test_what_is_left_in_a_run_dir_goes_with_it_and_nothing_it_points_to(tmp_path: Path, short_temp: Path) -> None:
    layout = Layout(tmp_path / LONG)
    layout.create()
    kept = short_temp / "kept"
    kept.mkdir()
    (kept / "file").write_text("somebody's")
    (layout.run / "w1").mkdir()
    (layout.run / "w1" / "stale.sock").touch()
    (layout.run / "w1" / "link").symlink_to(kept)
    (layout.run / "limits").touch()
    layout.remove_foreign_run()
    assert not layout.run.exists()
    assert (kept / "file").read_text() == "somebody's"
    layout.remove_foreign_run()
    layout.create()
    assert layout.run.is_dir(), "and it can be made again"


@pytest.mark.parametrize("trap", ["symlink", "foreign", "other name", "inside"])
def test_a_run_dir_that_is_not_ours_is_not_removed(tmp_path: Path, short_temp: Path, trap: str) -> None:
    layout = Layout(tmp_path / ("short" if trap == "inside" else LONG))
    elsewhere = short_temp / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    match trap:
        case "symlink":
            layout.run.symlink_to(elsewhere)
        case "foreign":
            elsewhere.rename(layout.run)
            elsewhere = layout.run
            os.chown(elsewhere, *((65534, 65534) if os.geteuid() == 0 else (-1, -1)))
            if os.geteuid() != 0:
                layout.run = Path("/root")
        case "other name":
            layout.run = elsewhere
        case "inside":
            layout = Layout(short_temp / "data")
            layout.create()
            elsewhere = layout.run
            (elsewhere / "file").touch()
    layout.remove_foreign_run()
    assert (elsewhere / "file").exists()


def test_a_copy_of_a_data_dir_does_not_take_the_run_dir_of_its_original(tmp_path: Path, short_temp: Path) -> None:
    original = Layout(tmp_path / LONG)
    original.create()
    shutil.copytree(original.data_dir, tmp_path / f"{LONG} copy", symlinks=True)
    copy = Layout(tmp_path / f"{LONG} copy")
    assert copy.run != original.run
    copy.create()
    copy.remove_foreign_run()
    assert original.run.is_dir()
    # by another path, or moved, it is the same one
    (tmp_path / "link").symlink_to(original.data_dir)
    assert Layout(tmp_path / "link" / ".." / LONG).run == original.run
    original.data_dir.rename(tmp_path / f"{LONG} moved")
    assert Layout(tmp_path / f"{LONG} moved").run == original.run


@pytest.mark.parametrize("trap", ["file", "symlink", "foreign"])
def test_a_name_somebody_sits_on_is_not_used(tmp_path: Path, short_temp: Path, trap: str) -> None:
    layout = Layout(tmp_path / LONG)
    guessed = layout.run
    match trap:
        case "file":
            guessed.touch()
        case "symlink":
            (short_temp / "elsewhere").mkdir()
            guessed.symlink_to(short_temp / "elsewhere")
        case "foreign":
            guessed.mkdir()
            if os.geteuid() == 0:
                os.chown(guessed, 65534, 65534)
            else:
                guessed.rmdir()
                guessed.touch()
    layout.create()
    assert layout.run != guessed
    assert layout.run.parent == short_temp and layout.run.lstat().st_uid == os.geteuid()
    assert Layout(tmp_path / LONG).run == layout.run


def test_what_stands_in_the_way_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataDirUnusable, match="in the way: it is not a directory"):
            Layout(path).create()
    with pytest.raises(DataDirUnusable):
        Layout("/proc/nowhere").create()
    layout = Layout(tmp_path / "data")
    layout.create()
    with pytest.raises(DataDirUnusable, match=r"not enough space .* MB free, \d+ MB needed"):
        layout.require_space(1 << 60)


def test_one_holder_at_a_time_and_the_refused_one_learns_who(tmp_path: Path) -> None:
    first, second = DataDirLock(tmp_path / "lock"), DataDirLock(tmp_path / "lock")
    first.acquire()
    first.describe({"addresses": {"API": "http://127.0.0.1:1"}})
    with pytest.raises(AlreadyRunning) as refused:
        second.acquire()
    assert refused.value.holder == {"pid": os.getpid(), "addresses": {"API": "http://127.0.0.1:1"}}
    first.release()
    assert not (tmp_path / "lock").exists()
    second.acquire()
    second.release()


def test_a_lock_file_left_by_a_killed_holder_locks_nobody_out(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"pid": 1}, not json any more')
    lock = DataDirLock(tmp_path / "lock")
    lock.acquire()
    lock.release()


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, "one")
    write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


def test_where_data_goes_when_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_data_dir({"BAILIWICK_DATA_DIR": "/srv/x"}) == Path("/srv/x")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir({}) == Path("/var/lib/bailiwick")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_data_dir({"XDG_DATA_HOME": "/home/a/.data"}) == Path("/home/a/.data/bailiwick")
    assert default_data_dir({"XDG_DATA_HOME": "relative"}) == Path.home() / ".local/share/bailiwick"
