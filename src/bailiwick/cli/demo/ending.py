"""Steps 15 and 16: one call ends the agent's authority, and the ledger proves what happened."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import aiohttp

from bailiwick.cli.demo.stage import Stage, Stream
from bailiwick.cli.demo.telling import Deviation, check

CUT_WITHIN_S = 1.0
_CALLS_AFTER = 8


async def revoke(stage: Stage) -> str:
    """One call; after its answer nothing is accepted any more."""
    assert stage.stream is not None
    watching = asyncio.create_task(_until_cut(stage.stream))
    try:
        started = time.perf_counter()
        answer = await stage.http.call(
            "POST",
            stage.api("/api/v1/revocations"),
            201,
            bearer=stage.admin,
            body={"application": stage.application, "reason": "the story's end"},
            show=("revision", "kind", "key", "took_ms", "fenced", "waited_out"),
        )
        seen = len(await stage.seen())
        for bearer in (stage.mandate, stage.delegated):
            await stage.http.call("GET", stage.governed("/payments"), 401, reason="token_revoked", bearer=bearer)
        for _ in range(_CALLS_AFTER):  # so that each worker is asked
            async with stage.http.session.get(
                stage.governed("/payments"), headers={**stage.mandate.headers, "Connection": "close"}
            ) as response:
                check(response.status == 401, "401 after the revocation, always", str(response.status))
        check(len(await stage.seen()) == seen, "an upstream that sees nothing more", "a request that reached it")
        try:
            ended = await asyncio.wait_for(watching, 10)
        except TimeoutError:
            raise Deviation("the stream to be cut within 1 s", "it still runs after 10 s") from None
    finally:
        watching.cancel()
    cut_ms = (ended - started) * 1000
    confirmed = answer["confirmed_by"]
    stage.teller.note(f"confirmed by workers {' and '.join(sorted(worker.partition('-')[0] for worker in confirmed))}")
    stage.teller.note(f"refused as well: {_CALLS_AFTER} more calls on new connections; none reached the upstream")
    stage.teller.note(f"the stream was cut {cut_ms:.0f} ms after the revocation was sent")
    check(len(confirmed) == stage.at.workers, f"confirmation by {stage.at.workers} workers", confirmed)
    check(not answer["fenced"] and not answer["waited_out"], "no worker left behind", answer.text)
    check(cut_ms < CUT_WITHIN_S * 1000, "the stream to be cut within 1 s", f"{cut_ms:.0f} ms")
    stage.figures["revocation_ms"] = round(answer.ms, 1)
    stage.figures["revocation_settled_ms"] = answer["took_ms"]
    stage.figures["revocation_workers"] = len(confirmed)
    stage.figures["cut_ms"] = round(cut_ms)
    return (
        f"Settled on {len(confirmed)} workers in {answer['took_ms']} ms, next call refused,"
        f" stream cut in {cut_ms:.0f} ms."
    )


async def verify_ledger(stage: Stage) -> str:
    """The ledger is whole; a copy with one byte changed is not, and the event is named."""
    from bailiwick.cli import local
    from bailiwick.cli.demo.tampering import tamper

    told = ("verdict", "events", "checked", "heads", "seconds", "findings_total")
    answer = await stage.http.call("POST", stage.api("/api/v1/audit/verify"), 200, bearer=stage.admin, show=told)
    check(answer["verdict"] == "PASS", "verdict PASS", answer.text)
    await _verify_by_command(stage)
    layout = stage.at.layout
    done = await tamper(local.database_url(layout.data_dir), layout.heads, stage.governed_request)
    stage.teller.note(f"a copy of {done.before.checked:,} events elsewhere: {done.before.verdict}")
    check(done.before.verdict == "PASS", "a faithful copy to pass", done.before.to_json())
    stage.teller.note(f"the same with byte {done.offset} of event {done.seq} changed: {done.after.verdict}")
    check(done.after.verdict == "FAIL", "the tampered copy to FAIL", done.after.to_json())
    first = done.after.first_bad
    assert first is not None
    check((first.kind, first.seq) == ("changed", done.seq), f"event {done.seq} named as changed", first.why)
    stage.teller.note(f"event {first.seq} {first.kind}: {first.why}")
    stage.figures["tampered_seq"] = done.seq
    stage.figures["verified_events"] = answer["checked"]
    stage.figures["verification_ms"] = round(done.before.seconds * 1000, 1)
    stage.figures["verified_per_s"] = round(done.before.checked / max(done.before.seconds, 1e-6))
    return "The ledger is whole; one changed byte in a copy is found and named."


async def _verify_by_command(stage: Stage) -> None:
    """The same from the command line, as whoever runs the machine would."""
    command = ["audit", "verify", "--data-dir", str(stage.at.layout.data_dir)]
    stage.teller.note("$ bailiwick audit verify")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bailiwick.cli.main", *command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(os.environ),
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    text = output.decode(errors="replace").strip()
    stage.teller.note(f"{text.splitlines()[0] if text else ''}  (exit {process.returncode})")
    check(process.returncode == 0, "exit 0 of `bailiwick audit verify`", f"{process.returncode}: {text}")


async def _until_cut(stream: Stream) -> float:
    """Read until the stream ends, however it does; when that was."""
    try:
        while chunk := await stream.response.content.readany():
            stream.events += chunk.count(b"\n\n")
    except aiohttp.ClientError:
        pass
    return time.perf_counter()
