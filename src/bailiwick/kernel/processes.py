"""Child processes on Linux that cannot outlive us, seen through pidfds, optionally as another user.

A pid may be reused the moment its process is reaped; a pidfd (pidfd_open(2)) never names another process. The
parent-death signal (prctl(2), PR_SET_PDEATHSIG) is cleared whenever credentials change, so it is set last.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import pwd
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_SECUREBITS = 28
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_CAPABILITY_VERSION_3 = 0x20080522

CAP_DAC_READ_SEARCH = 2
_CAP_SETPCAP = 8


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapabilityWord(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


@dataclass(frozen=True, slots=True)
class RunAs:
    """Another user to run a child as.

    ``traverse`` leaves it CAP_DAC_READ_SEARCH as its only capability (ambient, capabilities(7)), for when binaries
    or data stand below a directory that user may not pass, such as /root.
    """

    name: str
    uid: int
    gid: int
    traverse: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """What to execute. ``death_signal`` is what the child gets when we die before it."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path | None = None
    run_as: RunAs | None = None
    death_signal: signal.Signals = signal.SIGKILL


def unprivileged_user(names: Sequence[str] = ("bailiwick", "postgres", "nobody")) -> RunAs | None:
    """The first of ``names`` that this machine has and that is not root."""
    for name in names:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return RunAs(name, entry.pw_uid, entry.pw_gid)
    return None


def may_traverse(path: Path, uid: int, gid: int) -> bool:
    """True when the mode bits let (``uid``, ``gid``) pass every directory above ``path``. ACLs are not asked."""
    for directory in path.absolute().parents:
        try:
            found = directory.stat()
        except OSError:
            return False
        if found.st_uid == uid:
            needed = stat.S_IXUSR
        elif found.st_gid == gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not found.st_mode & needed:
            return False
    return True


def may_give_traverse() -> bool:
    """True when this process can start a child with :attr:`RunAs.traverse`."""
    needed = 1 << CAP_DAC_READ_SEARCH | 1 << _CAP_SETPCAP
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16) & needed == needed
    return False


def child_setup(run_as: RunAs | None = None, death_signal: int = signal.SIGKILL) -> Callable[[], None]:
    """A ``preexec_fn``: become ``run_as``, then die with ``death_signal`` when the calling process dies."""
    parent = os.getpid()

    def setup() -> None:
        if run_as is not None:
            _become(run_as)
        die_with(parent, death_signal)

    return setup


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies (PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def belong_to(parent: int, name: str) -> None:
    """As a fresh grandchild of ``parent``, which adopts orphans: become its child, to die when it does.

    ``name`` is shown by ps(1), cut to 15 bytes. Exits when ``parent`` is gone or does not adopt within 5 s.
    """
    os.setsid()
    deadline = time.monotonic() + 5
    while os.getppid() != parent:  # until the process between us has ended
        if time.monotonic() > deadline:
            os._exit(70)
        time.sleep(0.0005)
    die_with(parent)
    _libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)


def die_with(parent: int, death_signal: int = signal.SIGKILL) -> None:
    """In a child of ``parent``: die with ``death_signal`` when it dies, also when that was just now."""
    _prctl(_PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        os._exit(70)


def started_at(pid: int) -> int | None:
    """When ``pid`` started, in clock ticks since boot (field 22 of proc_pid_stat(5)); None when it is gone."""
    found = _stat_fields(pid)
    return None if found is None or found[0] in "ZX" else int(found[19])


def children_of(pid: int) -> list[int]:
    """The direct children of ``pid``."""
    found: list[int] = []
    for task in _entries(Path(f"/proc/{pid}/task")):
        with contextlib.suppress(OSError):
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def process_tree(pid: int) -> list[int]:
    """``pid`` and everything below it."""
    found = [pid]
    for known in found:
        found += children_of(known)
    return found


def memory_of(pid: int) -> int:
    """Bytes of memory that ``pid`` and its descendants hold, shared pages counted once (PSS), or RSS if hidden."""
    total = 0
    for one in process_tree(pid):
        try:
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:"))
        except (OSError, StopIteration):
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


@dataclass(eq=False)
class Child:
    """A running child in a session of its own. Make it with :meth:`spawn` on the thread that outlives it."""

    pid: int
    started: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    stderr: IO[bytes] | None
    _pidfd: int
    _gone: asyncio.Future[int] = field(repr=False)
    _code: int | None = None

    @classmethod
    def spawn(cls, command: Command, *, stdin: int | None = None, stdout: Any = None, stderr: Any = None) -> Child:
        """Start ``command``. The streams are as for :class:`subprocess.Popen`; stdin defaults to nothing.

        Raises :class:`OSError` when it cannot be executed. Needs a running event loop.
        """
        try:
            popen = subprocess.Popen(
                list(command.argv),
                env=dict(command.env),
                cwd=command.cwd,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=child_setup(command.run_as, command.death_signal),
            )
        except subprocess.SubprocessError as error:
            who = command.run_as.name if command.run_as else "ourselves"
            raise PermissionError(errno.EPERM, f"the system does not let it run as {who}") from error
        popen.returncode = 0  # we reap it ourselves, so that its object has nothing left to see to
        return cls.adopt(popen.pid, stdin=popen.stdin, stdout=popen.stdout, stderr=popen.stderr)

    @classmethod
    def adopt(cls, pid: int, *, stdin: Any = None, stdout: Any = None, stderr: Any = None) -> Child:
        """Take charge of ``pid``, a child of ours that leads a session of its own."""
        loop = asyncio.get_running_loop()
        child = cls(pid, started_at(pid) or 0, stdin, stdout, stderr, os.pidfd_open(pid), loop.create_future())
        loop.add_reader(child._pidfd, child._reap, loop)
        return child

    @property
    def returncode(self) -> int | None:
        """The exit code, the negated signal number, or None while it runs."""
        return self._code

    async def wait(self) -> int:
        """Wait until it is gone; its return code."""
        return await asyncio.shield(self._gone)

    async def gone_within(self, seconds: float) -> bool:
        """Wait at most ``seconds``; True when it is gone."""
        done, _ = await asyncio.wait([self._gone], timeout=seconds)
        return bool(done)

    def send(self, number: int) -> None:
        """Send ``number``, never to another process that got the same pid."""
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def stop(self, ladder: Sequence[tuple[signal.Signals, float]]) -> int:
        """Send each signal of ``ladder`` in turn, waiting its seconds, and SIGKILL at the end; the return code."""
        for number, seconds in ladder:
            self.send(number)
            if await self.gone_within(seconds):
                break
        else:
            self.send(signal.SIGKILL)
        return await self.wait()

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        # What it started and left behind goes with it, while the unreaped pid still keeps the group's id from reuse.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        reaped, status = os.waitpid(self.pid, os.WNOHANG)
        if reaped != self.pid:
            return
        self._code = os.waitstatus_to_exitcode(status)
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if not self._gone.done():
            self._gone.set_result(self._code)


async def run_to_end(command: Command, *, input_fd: int | None = None, limit: float = 60) -> tuple[int, str]:
    """Run ``command`` to its end; its return code and what it printed. Killed after ``limit`` seconds."""
    child = Child.spawn(command, stdin=input_fd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert child.stdout is not None
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), child.stdout)
    try:
        async with asyncio.timeout(limit):
            output = await reader.read()
            code = await child.wait()
    except BaseException:
        child.send(signal.SIGKILL)
        await child.wait()
        raise
    finally:
        transport.close()
    return code, output.decode(errors="replace")


async def kill_recorded(pid: int, started: int, *, limit: float = 5) -> bool:
    """SIGKILL ``pid`` if it is still the process that started at ``started`` ticks; True when there was one.

    Raises :class:`TimeoutError` when it does not go within ``limit`` seconds.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if started_at(pid) != started:
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, gone.set)
        try:
            await asyncio.wait_for(gone.wait(), limit)
        finally:
            asyncio.get_running_loop().remove_reader(pidfd)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)


def _become(user: RunAs) -> None:
    if user.traverse:
        # Without this, access(2) looks past the capabilities of any user but root, and initdb and postgres use it
        # to find themselves. It also keeps the capabilities across setresuid; capset below takes the rest away.
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setgroups([user.gid])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    if user.traverse:
        only = 1 << CAP_DAC_READ_SEARCH
        words = (_CapabilityWord * 2)(_CapabilityWord(only, only, only), _CapabilityWord(0, 0, 0))
        header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
        if _libc.capset(ctypes.byref(header), ctypes.byref(words)) != 0:
            raise OSError(ctypes.get_errno(), "capset")
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH)


def _prctl(option: int, first: int, second: int = 0) -> None:
    arguments = [ctypes.c_ulong(value) for value in (first, second, 0, 0)]
    if _libc.prctl(ctypes.c_int(option), *arguments) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the state on; the name before may hold anything, also parentheses."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []
