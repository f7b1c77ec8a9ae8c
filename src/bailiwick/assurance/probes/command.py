"""A look by a program: no shell, an environment of its own, its output kept, its whole group ended when time is up."""

from __future__ import annotations

import asyncio
import signal
import subprocess

from bailiwick.assurance.probes.json_path import number_of
from bailiwick.assurance.probes.means import MOST_ANSWERED, Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.probes.spec import CommandCheck
from bailiwick.kernel.processes import Child, Command

_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"}


async def command(check: CommandCheck, means: Means, asked: Asked) -> Found:
    """Run it; the exit code is the answer, or the number it printed."""
    program = means.runnable(check.argv[0])
    try:
        child = Child.spawn(
            Command([str(program), *check.argv[1:]], _ENVIRONMENT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except OSError as error:
        raise LookFailed(f"{program} cannot be run: {error.strerror}") from None
    try:
        async with asyncio.timeout(asked.timeout_s):
            output, size = await _read(child)
            code = await child.wait()
    except TimeoutError:
        raise LookFailed(f"{program} did not end within {asked.timeout_s:g} s") from None
    finally:
        if child.returncode is None:
            child.send(signal.SIGKILL)
            await child.wait()
    detail = f"exit {code}"
    found = Found(detail=detail, output=output, command=tuple(check.argv), output_size=size)
    if code < 0:
        raise LookFailed(f"{program} was ended by signal {-code}")
    if code == 3:
        return Found(absent=detail, output=output, command=found.command, output_size=size)
    if code != 0:
        return Found(wrong=detail, output=output, command=found.command, output_size=size)
    if check.measure == "exit":
        return Found(detail=detail, output=output, command=found.command, output_size=size, holds=True)
    text = output.decode("utf-8", "replace").strip()
    value = number_of(text)
    absent = "" if value is not None else "it printed no number"
    return Found(
        value, check.unit, f"printed {text[:60]}", output, absent=absent, command=found.command, output_size=size
    )


async def _read(child: Child) -> tuple[bytes, int]:
    """The beginning of what is written, and how much there was; the rest is read away so that nobody waits."""
    assert child.stdout is not None
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), child.stdout
    )
    kept, size = bytearray(), 0
    try:
        while part := await reader.read(65_536):
            size += len(part)
            kept += part[: max(0, MOST_ANSWERED - len(kept))]
    finally:
        transport.close()
    return bytes(kept), size
