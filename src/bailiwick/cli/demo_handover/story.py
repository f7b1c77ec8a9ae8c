"""The story: its steps in order, and how it ends."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bailiwick.cli.demo.children import OwnInstallation, remove_run
from bailiwick.cli.demo.exchange import Exchange
from bailiwick.cli.demo.story import Result
from bailiwick.cli.demo.telling import Deviation, Teller
from bailiwick.cli.demo_handover import alarming, burning, closing, handing_over, preparing, readying, releasing, weeks
from bailiwick.cli.demo_handover.arms import Arms, Hook
from bailiwick.cli.demo_handover.stage import ESCROW_KEY, KEY_HEADER, Stage
from bailiwick.kernel.paths import Layout

WORKERS = 2


@dataclass(frozen=True, slots=True)
class Step:
    """A numbered part of the story. ``run`` answers in one sentence what was shown."""

    title: str
    run: Callable[[Stage], Awaitable[str]]


STEPS: Sequence[Step] = (
    Step("People, each with a second factor", preparing.bring_people),
    Step("The operating model is planned, agreed to, applied", preparing.apply_book),
    Step("The payments API is put behind the gateway", preparing.register),
    Step("Is it ready? No", readying.find_out),
    Step("What is missing is mended, one by one", readying.mend),
    Step("An alarm rings, and is answered", alarming.ring),
    Step("The database is killed, and comes back", alarming.fail_over),
    Step("The first candidate is bad", releasing.refuse_bad),
    Step("The second goes out", releasing.release_good),
    Step("A policy suddenly allows too much", burning.break_policy),
    Step("Contained, preserved, recovered", burning.contain),
    Step("Reviewed and closed", burning.review),
    Step("A week passes", weeks.let_pass),
    Step("Hypercare and validation", weeks.hypercare),
    Step("The checkpoint T+7", weeks.checkpoint),
    Step("What the week left to be done", closing.close_week),
    Step("What the pack asks for is done", handing_over.prepare),
    Step("The pack is built", handing_over.build),
    Step("Four teams sign", handing_over.sign),
    Step("Operations accept", handing_over.accept),
    Step("Anybody can check it, and a tampered copy is refused", handing_over.verify),
)


async def tell(teller: Teller, echo: Callable[[str], None], *, until: int = 0, keep: bool = False) -> Result:
    """Tell it on an installation of its own, to its end or the first deviation. ``until``: only so many steps."""
    started = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="bailiwick-handover-"))
    settings = _settings(directory)
    installation = OwnInstallation(Layout(directory / "data"), WORKERS, settings)
    connector = aiohttp.TCPConnector(limit=0)
    arms, hooks = Arms(f"pk_{secrets.token_urlsafe(18)}", KEY_HEADER), {}
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        try:
            for name in ("stable", "baseline", "good", "bad"):
                await arms.open(name)
            hooks = {name: await Hook().open() for name in ("makers", "operations")}
            teller.conceal(arms.key)
            await installation.start(echo)
            stage = Stage(installation, directory, settings, teller, Exchange(session, teller), arms, hooks=hooks)
            teller.call({stage.base: "api", stage.gateway: "gateway"})
            result = await _run(stage, STEPS[: until or len(STEPS)])
        finally:
            await installation.stop()
            await arms.close()
            for hook in hooks.values():
                await hook.close()
            if not keep:
                remove_run(installation.layout)
                shutil.rmtree(directory, ignore_errors=True)
    result.seconds = round(time.monotonic() - started, 1)
    return result


def _settings(directory: Path) -> dict[str, str]:
    """How the installation is set up beside what development mode says: where backups go, what rollouts may run."""
    from bailiwick.handover.backups.escrow import make_pair

    programs = directory / "programs"
    programs.mkdir()
    for name, prints in (("render", "upstream: candidate"), ("migrations", ""), ("smoke", "12 passed")):
        path = programs / f"preflight-{name}"
        path.write_text(f"#!/bin/sh\n{f'echo {prints!r}' if prints else 'true'}\n")
        path.chmod(0o755)
    (directory / "backups").mkdir()
    (directory / "release").mkdir()
    private, public = make_pair()
    (directory / ESCROW_KEY).write_text(f"{private}\n")
    return {
        "BAILIWICK_BACKUP_ESCROW_KEY": public,
        "BAILIWICK_BACKUP_URL": f"file://{directory}/backups",
        "BAILIWICK_ROLLOUT_PROGRAMS": ",".join(str(path) for path in sorted(programs.iterdir())),
        "BAILIWICK_ROLLOUT_DIRECTORY": str(directory / "release"),
        "BAILIWICK_RATE_LIMIT_ANONYMOUS": "100000",
        "BAILIWICK_RATE_LIMIT_AUTHENTICATED": "100000",
        "BAILIWICK_RATE_LIMIT_SIGN_IN": "100000",
    }


async def _run(stage: Stage, steps: Sequence[Step]) -> Result:
    result = Result(len(steps), 0, 0.0, stage.figures)
    for number, step in enumerate(steps, 1):
        stage.teller.step(number, step.title)
        started = time.perf_counter()
        try:
            shown = await step.run(stage)
            stage.teller.passed(shown, (time.perf_counter() - started) * 1000)
        except (Deviation, aiohttp.ClientError, TimeoutError) as error:
            known = error if isinstance(error, Deviation) else Deviation("an answer", f"{type(error).__name__} {error}")
            stage.teller.failed(known)
            masked = {"expected": stage.teller.masked(known.expected), "got": stage.teller.masked(known.got)}
            result.failure = {"step": number, "title": step.title, **masked}
            return result
        result.passed += 1
    return result
