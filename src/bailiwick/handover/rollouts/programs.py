"""Programs of a plan: no shell, an environment of their own, output kept to a bound, the whole group ended in time."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bailiwick.evidence.evidence_records import MOST_READ
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.processes import Child, Command

_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended: its exit code, None where it did not end in time; the beginning of what it wrote, and how
    much there was."""

    code: int | None
    output: bytes
    size: int

    @property
    def told(self) -> str:
        """How it ended, in a few words."""
        if self.code is None:
            return "it did not end in time and was killed"
        return f"ended by signal {-self.code}" if self.code < 0 else f"exit {self.code}"


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs that plans may run, as the machine's operator says, and the directory they run in."""

    allowed: Sequence[Path] = ()
    directory: Path | None = None

    def find(self, name: str) -> Path:
        """A program by its path, or by its name. Raises ``program_not_allowed``."""
        for path in self.allowed:
            if name == str(path) or ("/" not in name and name == path.name):
                return path
        raise BailiwickError(
            f"{name} is not among the programs that plans may run (BAILIWICK_ROLLOUT_PROGRAMS).",
            reason="program_not_allowed",
        )

    def file(self, relative: str) -> Path:
        """A file or folder below the directory; what a link leads to counts. Raises ``program_not_allowed``."""
        if self.directory is not None:
            root = self.directory.resolve()
            real = (root / relative).resolve()
            if real == root or root in real.parents:
                return real
        raise BailiwickError(
            f"{relative} is not below the directory of rollouts (BAILIWICK_ROLLOUT_DIRECTORY).",
            reason="program_not_allowed",
        )

    async def run(self, argv: Sequence[str], timeout_s: float, key: str) -> Ran:
        """Run it to its end, or kill it and what it started. ``key``: by which it can know an attempt again.

        Raises ``program_not_allowed`` for one that is not allowed or cannot be run.
        """
        program = self.find(argv[0])
        if self.directory is None:
            raise BailiwickError("BAILIWICK_ROLLOUT_DIRECTORY is not set.", reason="program_not_allowed")
        try:
            child = Child.spawn(
                Command([str(program), *argv[1:]], self._environment(self.directory, key), self.directory),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise BailiwickError(f"{program} cannot be run: {error.strerror}", reason="program_not_allowed") from None
        kept = _Kept()
        try:
            async with asyncio.timeout(timeout_s):
                await _read(child, kept)
                code: int | None = await child.wait()
        except TimeoutError:
            code = None
        finally:
            if child.returncode is None:
                child.send(signal.SIGKILL)
                await child.wait()
        return Ran(code, bytes(kept.data), kept.size)

    def _environment(self, directory: Path, key: str) -> Mapping[str, str]:
        found = {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "HOME": str(directory),
            "BAILIWICK_ATTEMPT": key,
        }
        if (config := directory / "kubeconfig").is_file():
            found["KUBECONFIG"] = str(config)
        return found


class _Kept:
    def __init__(self) -> None:
        self.data = bytearray()
        self.size = 0


async def _read(child: Child, kept: _Kept) -> None:
    """Keep the beginning of what is written; the rest is read away so that nobody waits."""
    assert child.stdout is not None
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), child.stdout
    )
    try:
        while part := await reader.read(65_536):
            kept.size += len(part)
            kept.data += part[: max(0, MOST_READ - len(kept.data))]
    finally:
        transport.close()
