"""Where an installation keeps its things: one data directory, one private run directory, one lock.

A unix socket's path holds at most 107 bytes (``sun_path`` of unix(7)), less than many data directories need. Where
``<data_dir>/run`` would be too long, the run directory is a private one under the temporary directory, named by a
hash of the data directory and remembered in it, so that every later command finds the same sockets.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOCKET_PATH_LIMIT = 107
"""Bytes a unix socket path may have on Linux, without the closing NUL."""

_LONGEST_BELOW_RUN = 32
"""Bytes kept for ``/<slot>/<name>.sock`` and ``/pg/.s.PGSQL.5432`` below the run directory."""

_REMEMBERED = "run.path"
_FOREIGN_PREFIX = "bailiwick-"


class DataDirUnusable(Exception):
    """The data directory cannot be used; the text is one sentence for the operator."""


class AlreadyRunning(Exception):
    """Another process holds the data directory. ``holder`` is what it wrote: at least ``pid``, often ``addresses``."""

    def __init__(self, data_dir: Path, holder: dict[str, Any]) -> None:
        self.data_dir = data_dir
        self.holder = holder
        super().__init__(f"{data_dir} is in use by pid {holder.get('pid', 'unknown')}")


def default_data_dir(environment: dict[str, str] | os._Environ[str] | None = None) -> Path:
    """``$BAILIWICK_DATA_DIR``; else ``/var/lib/bailiwick`` for root and the XDG data directory for anybody else."""
    known = os.environ if environment is None else environment
    if chosen := known.get("BAILIWICK_DATA_DIR"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/bailiwick")
    base = known.get("XDG_DATA_HOME") or ""
    # the XDG specification says to ignore a relative value
    return (Path(base) if base.startswith("/") else Path.home() / ".local/share") / "bailiwick"


@dataclass(frozen=True, slots=True)
class SlotPaths:
    """The sockets of one process of the installation, in a directory of its own."""

    directory: Path

    @property
    def api(self) -> Path:
        """The API, console and token endpoints; also the health answers the supervisor probes."""
        return self.directory / "api.sock"

    @property
    def check(self) -> Path:
        """Envoy's check, whose answers carry upstream credentials."""
        return self.directory / "check.sock"

    def create(self) -> None:
        """Make the directory, 0700, without sockets left by an earlier process."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self.clear()

    def clear(self) -> None:
        """Remove every socket below the directory."""
        if not self.directory.is_dir():
            return
        for entry in self.directory.iterdir():
            if stat.S_ISSOCK(entry.lstat().st_mode):
                entry.unlink(missing_ok=True)


class Layout:
    """The directories and files below ``data_dir``. Constructing it changes nothing; :meth:`create` makes them."""

    def __init__(self, data_dir: Path | str) -> None:
        self.data_dir = Path(os.path.abspath(Path(data_dir).expanduser()))  # noqa: PTH100 - keeps symlinks as given
        self.pg = self.data_dir / "pg"
        self.spool = self.data_dir / "spool"
        self.secrets = self.data_dir / "secrets"
        self.logs = self.data_dir / "logs"
        self.metrics = self.data_dir / "metrics"
        self.lock = self.data_dir / "lock"
        self.run = self._find_run()

    @property
    def administrator_password(self) -> Path:
        """The first administrator's one-time password, until he has changed it."""
        return self.secrets / "administrator-password"

    @property
    def settings_file(self) -> Path:
        """The settings the installation was last started with, secrets left out."""
        return self.run / "settings.json"

    @property
    def clock_file(self) -> Path:
        """How time runs here, where it ever was sped up."""
        return self.data_dir / "clock"

    @property
    def heads(self) -> Path:
        """The newest signed head of every zone's ledger, kept apart from the database."""
        return self.data_dir / "heads"

    @property
    def packs(self) -> Path:
        """Evidence packs that were asked for over the API, until they expire."""
        return self.data_dir / "packs"

    @property
    def counts(self) -> Path:
        """How many verdicts the gateway's workers gave, as far as that is not in the database yet."""
        return self.data_dir / "counts"

    @property
    def archive(self) -> Path:
        """Sealed evidence, unless a setting puts it elsewhere."""
        return self.data_dir / "archive"

    def __repr__(self) -> str:
        return f"Layout({str(self.data_dir)!r})"

    @property
    def envoy(self) -> Path:
        """Envoy's configuration and its admin socket; made anew at each start."""
        return self.run / "envoy"

    @property
    def canary_lease(self) -> Path:
        """Until when the candidates of canaries may keep their traffic."""
        return self.envoy / "canary-lease"

    @property
    def control_socket(self) -> Path:
        """The supervisor's control socket."""
        return self.run / "control.sock"

    @property
    def status_file(self) -> Path:
        """What the supervisor last knew of its parts, replaced whole on every change."""
        return self.run / "status.json"

    def slot(self, name: str) -> SlotPaths:
        """The sockets of the process called ``name`` (``w1``, ``guard``, ``work``)."""
        return SlotPaths(self.run / name)

    def log(self, part: str) -> Path:
        """The current log file of ``part``."""
        return self.logs / f"{part}.log"

    def create(self) -> None:
        """Make every directory, mode 0700. Raises :class:`DataDirUnusable` with the reason."""
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            own = os.geteuid()
            held = self.data_dir.stat()
            if held.st_uid == own and stat.S_IMODE(held.st_mode) & 0o067:
                # 0710 is kept: it is how another user may reach a cluster of his own below it
                self.data_dir.chmod(0o700)
            for directory in (self.pg, self.spool, self.secrets, self.logs, self.metrics, self.heads):
                directory.mkdir(mode=0o700, exist_ok=True)
            self._create_run()
            self.envoy.mkdir(mode=0o700, exist_ok=True)
            probe = self.data_dir / ".writable"
            probe.write_bytes(b"\0" * 4096)
            probe.unlink()
        except OSError as error:
            raise DataDirUnusable(_explain(self.data_dir, error)) from error

    def require_space(self, needed: int) -> None:
        """Raise :class:`DataDirUnusable` when fewer than ``needed`` bytes are free where the data directory lives."""
        found = os.statvfs(self.data_dir)
        free = found.f_bavail * found.f_frsize
        if free < needed:
            raise DataDirUnusable(
                f"not enough space for {self.data_dir}: {free >> 20} MB free, {needed >> 20} MB needed"
            )

    def remove_foreign_run(self) -> None:
        """Remove the run directory, with what is left in it, when it lives outside the data directory.

        To be called by whoever holds the data directory's lock, once nothing runs any more: then its owner is gone.
        What is not a directory of ours is left alone, and nothing is followed out of it.
        """
        if self.run.parent == self.data_dir or not self.run.name.startswith(_FOREIGN_PREFIX):
            return
        try:
            held = self.run.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(held.st_mode) or held.st_uid != os.geteuid():
            return
        shutil.rmtree(self.run, ignore_errors=True)
        (self.data_dir / _REMEMBERED).unlink(missing_ok=True)

    def _find_run(self) -> Path:
        inside = self.data_dir / "run"
        if _fits(inside):
            return inside
        try:
            noted, _, of = (self.data_dir / _REMEMBERED).read_bytes().partition(b"\0")
            # in a copy of a data directory the note is the original's, and so is the directory it names
            known = of == self._identity()
        except OSError:
            return self._foreign_run()
        remembered = Path(os.fsdecode(noted))
        return remembered if known and remembered.is_absolute() else self._foreign_run()

    def _identity(self) -> bytes:
        """Tells the data directory from a copy of it, whatever path it is reached by."""
        held = self.data_dir.stat()
        return f"{held.st_dev}:{held.st_ino}".encode()

    def _foreign_run(self) -> Path:
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        name = f"{_FOREIGN_PREFIX}{os.geteuid()}-{digest}"
        chosen = Path(tempfile.gettempdir()) / name
        return chosen if _fits(chosen) else Path("/tmp") / name  # noqa: S108 - private directory, owner checked

    def _create_run(self) -> None:
        if self.run.parent == self.data_dir:
            self.run.mkdir(mode=0o700, exist_ok=True)
            return
        if not _make_private(self.run):
            # somebody else sits on the name: take one that nobody can have guessed
            base = Path(tempfile.gettempdir())
            if not _fits(base / f"{_FOREIGN_PREFIX}12345678"):
                base = Path("/tmp")  # noqa: S108
            self.run = Path(tempfile.mkdtemp(prefix=_FOREIGN_PREFIX, dir=base))
        note = self.data_dir / f"{_REMEMBERED}.new"
        note.write_bytes(os.fsencode(self.run) + b"\0" + self._identity())
        note.replace(self.data_dir / _REMEMBERED)


class DataDirLock:
    """The right to run on a data directory: an exclusive flock, released by the kernel when its holder dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self, layout_dir: Path | None = None) -> None:
        """Take the lock without waiting. Raises :class:`AlreadyRunning` naming the holder."""
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read_holder(fd)
                os.close(fd)
                raise AlreadyRunning(layout_dir or self.path.parent, holder) from None
            if self._is_current(fd):
                self._fd = fd
                self.describe({})
                return
            os.close(fd)  # its last holder removed it between our open and our lock

    def describe(self, facts: dict[str, Any]) -> None:
        """Write who holds the lock, for whoever is refused."""
        assert self._fd is not None
        content = json.dumps({"pid": os.getpid(), **facts}).encode()
        os.pwrite(self._fd, content, 0)
        os.ftruncate(self._fd, len(content))

    def release(self) -> None:
        """Remove the file and let go. Safe to call twice."""
        if self._fd is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = None

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self.path.stat())
        except FileNotFoundError:
            return False


def write_private(path: Path, content: bytes | str, *, owner: tuple[int, int] | None = None) -> None:
    """Write a 0600 file whole: readers see the old content or the new. ``owner`` is (uid, gid) to give it to."""
    data = content.encode() if isinstance(content, str) else content
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if owner is not None:
            os.fchown(fd, *owner)
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    new.replace(path)


def _fits(run: Path) -> bool:
    return len(os.fsencode(run)) + _LONGEST_BELOW_RUN <= SOCKET_PATH_LIMIT


def _make_private(directory: Path) -> bool:
    """Make ``directory`` ours alone; False when something that is not ours is there."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        held = directory.lstat()
        if not stat.S_ISDIR(held.st_mode) or held.st_uid != os.geteuid():
            return False
        directory.chmod(0o700)
    return True


def _read_holder(fd: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(fd, 65536, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _explain(data_dir: Path, error: OSError) -> str:
    where = error.filename or data_dir
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return f"no permission to write {where}"
        case errno.ENOSPC | errno.EDQUOT:
            return f"no space left for {data_dir}"
        case errno.EROFS:
            return f"{where} is on a read-only file system"
        case errno.ENOTDIR | errno.EEXIST:
            return f"{where} is in the way: it is not a directory"
        case _:
            return f"cannot use {where}: {error.strerror}"
