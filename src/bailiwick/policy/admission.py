"""Admission: a policy is first compiled and run in a process that may die of it.

The process has its own limits of memory, processor and wall time, no environment and nothing open but its pipes.
What it reports, or how it ended, is the verdict: accepted, or refused with file, line and reason.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import msgspec
import regorus

import bailiwick
from bailiwick.policy.admission_worker import Line, Request, Verdict
from bailiwick.policy.rego_analysis import set_hash
from bailiwick.policy.rego_syntax import Dialect, Finding, Module, Path

_BOOTSTRAP = "import sys;sys.path[:0]=sys.argv[3:];from bailiwick.policy.admission_worker import main;main()"
_MIB = 1024 * 1024
_ENVIRONMENT = {"MIMALLOC_ARENA_RESERVE": "16MiB"}
"""Nothing of ours. The engine's allocator would otherwise reserve a gigabyte and crash where the limit refuses it."""


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """What one admission may use. ``memory`` is address space in bytes, times are seconds."""

    wall_seconds: float = 10.0
    cpu_seconds: int = 4
    memory: int = 768 * _MIB
    request_bytes: int = 32 * _MIB


@dataclass(frozen=True, slots=True)
class AdmissionReport:
    """The verdict on an upload. ``engine`` names the machine of regorus that will run it, compiled or interpreted."""

    accepted: bool
    sha256: str
    findings: tuple[Finding, ...] = ()
    dialects: Mapping[str, Dialect] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    input_paths: tuple[Path, ...] = ()
    engine: str = "interpreted"
    not_compiled_because: str | None = None
    tests_run: int = 0
    samples_run: int = 0
    seconds: float = 0.0


class Admission:
    """Admits policy sets. ``limits`` hold for each; at most ``at_once`` run at the same time."""

    def __init__(self, limits: AdmissionLimits | None = None, *, at_once: int = 2) -> None:
        self._limits = limits or AdmissionLimits()
        self._slots = asyncio.Semaphore(at_once)

    async def admit(
        self,
        modules: Sequence[Module],
        data: Mapping[str, Any],
        samples: Sequence[Mapping[str, Any]] = (),
        tests: Sequence[Module] = (),
    ) -> AdmissionReport:
        """Compiles and tries a set. Never raises for what the set does; a refusal is a report with findings.

        ``samples`` are inputs on which it must answer; a set of usual and odd ones is always tried. Rules named
        ``test_…`` in ``modules`` and ``tests`` must hold.
        """
        started = time.perf_counter()
        request = Request(list(modules), dict(data), [dict(sample) for sample in samples], list(tests))
        encoded = msgspec.json.encode(request)
        name = modules[0].name if modules else "policy"
        if len(encoded) > self._limits.request_bytes:
            message = f"the upload is larger than {self._limits.request_bytes} bytes"
            verdict = Verdict([Finding(name, None, "policy_too_large", message)])
        else:
            async with self._slots:
                verdict = await self._judge(name, encoded)
        return AdmissionReport(
            accepted=not verdict.findings,
            sha256=verdict.sha256 or set_hash(modules, data),
            findings=tuple(verdict.findings),
            dialects=verdict.dialects,
            packages=tuple(verdict.packages),
            input_paths=tuple(tuple(path) for path in verdict.input_paths),
            engine=verdict.engine,
            not_compiled_because=verdict.not_compiled_because,
            tests_run=verdict.tests_run,
            samples_run=verdict.samples_run,
            seconds=time.perf_counter() - started,
        )

    async def _judge(self, name: str, encoded: bytes) -> Verdict:
        limits = self._limits
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            # isolated and without site: no environment, no user packages, half the start-up time
            *("-I", "-S", "-c", _BOOTSTRAP, str(limits.memory), str(limits.cpu_seconds), *_import_roots()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
        timed_out = False
        communication = asyncio.ensure_future(process.communicate(encoded))
        try:
            done, _ = await asyncio.wait({communication}, timeout=limits.wall_seconds)
            timed_out = not done
        finally:
            if process.returncode is None and (timed_out or not communication.done()):
                process.kill()
        out, err = await communication
        return _verdict(name, out, err, process.returncode or 0, timed_out)


def _verdict(name: str, out: bytes, err: bytes, code: int, timed_out: bool) -> Verdict:
    """The worker's verdict, or what its end says."""
    last = Line(at=name)
    for text in out.splitlines():
        try:
            line = msgspec.json.decode(text, type=Line)
        except msgspec.DecodeError:
            continue
        if line.verdict is not None and code == 0:
            return line.verdict
        if line.at:
            last = line
    if timed_out or code in (-signal.SIGXCPU, -signal.SIGKILL):
        reason, message = "policy_timeout", "the policy did not finish"
    elif b"memory allocation of" in err or b"MemoryError" in err or b"capacity overflow" in err:
        reason, message = "policy_out_of_memory", "the policy needed too much memory"
    else:
        reason, message = "policy_engine_crashed", f"the engine ended with {_end(code)}"
    doing = f" ({last.doing})" if last.doing else ""
    return Verdict([Finding(last.at or name, None, reason, message + doing)])


def _end(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


def _import_roots() -> list[str]:
    """Where the worker finds this package, the engine and msgspec, since it reads no site configuration."""
    files = (bailiwick.__file__, regorus.__file__, msgspec.__file__)
    return list(dict.fromkeys(str(FilePath(file).resolve().parent.parent) for file in files if file))
