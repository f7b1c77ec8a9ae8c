"""Is a TCP port free, and if not, who has it; and ports for servers that are to have any."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"
_FIRST, _LAST = 10_240, 61_000
_KERNELS_OWN = Path("/proc/sys/net/ipv4/ip_local_port_range")


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that listens on a port."""

    pid: int
    command: str


def complaint(host: str, port: int, flag: str) -> str | None:
    """Why ``host:port`` cannot be listened on, in one sentence naming the owner; None when it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        # not SO_REUSEPORT: the proxy uses it, and would silently share a port with another proxy of the same user
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
            trial.listen(1)
        except OSError as error:
            return _explain(host, port, flag, error)
    return None


def quiet_ports() -> range:
    """The ports that the kernel gives to no outgoing connection; where it gives nearly all of them, all."""
    first = int(_KERNELS_OWN.read_text().split()[0])
    return range(_FIRST, first if first > _FIRST + 4096 else _LAST)


def free_ports(count: int) -> list[int]:
    """So many different ports of loopback that nobody listens on, and that no connection is given meanwhile."""
    found: list[int] = []
    for port in random.sample(quiet_ports(), k=1000):
        if complaint("127.0.0.1", port, "") is None:
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(errno.EADDRINUSE, "a thousand ports in a row are taken")


def owner_of(port: int) -> Owner | None:
    """The process that listens on ``port``; None when the kernel does not show it to us."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor) in wanted:  # noqa: PTH115 - the target is no path
                        return Owner(int(process.name), _command(process))
    return None


def _explain(host: str, port: int, flag: str, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            owner = owner_of(port)
            whose = f"pid {owner.pid} ({owner.command})" if owner else "a process whose owner is not visible"
            return f"port {port} ({flag}) is in use by {whose}"
        case errno.EACCES:
            return f"port {port} ({flag}) needs privileges this user does not have"
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine"
        case _:
            return f"cannot listen on {host} port {port} ({flag}): {error.strerror}"


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def _command(process: Path) -> str:
    words = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    text = " ".join(word.decode(errors="replace") for word in words)
    # an argument may be anything, also a terminal's escape sequence
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
