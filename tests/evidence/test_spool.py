from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import textwrap
import time
from collections import deque
from pathlib import Path

import pytest
from ledger_world import SMALL_SEGMENT
from prometheus_client import CollectorRegistry

from bailiwick.app.serve import spool_shower
from bailiwick.evidence.frames import MAX_PAYLOAD, Frame, Kind, read
from bailiwick.evidence.spool import (
    LOST_NAME,
    Files,
    Spool,
    abandoned_births,
    acknowledge_loss,
    latch_loss,
    loss_of,
    owner_alive,
)
from bailiwick.kernel.errors import BailiwickError, Unavailable
from bailiwick.kernel.metrics import Metrics


class Broken(Files):
    """Fails when told to, and remembers which file descriptors were synced after they had failed."""

    def __init__(self) -> None:
        self.fail_sync = self.fail_write = self.fail_create = False
        self.failed_fds: set[int] = set()
        self.synced = 0

    def create(self, path: Path) -> int:
        if self.fail_create:
            raise OSError(errno.ENOSPC, "No space left on device")
        fd = super().create(path)
        self.failed_fds.discard(fd)
        return fd

    def write(self, fd: int, data: bytes, offset: int) -> None:
        if self.fail_write:
            raise OSError(errno.EIO, "Input/output error")
        super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        assert fd not in self.failed_fds, "a file descriptor whose sync failed was synced again"
        if self.fail_sync:
            self.failed_fds.add(fd)
            raise OSError(errno.EIO, "Input/output error")
        self.synced += 1
        super().sync(fd)


async def opened(root: Path, files: Files | None = None, **options: int) -> Spool:
    spool = Spool(root, "w0", "boot", segment_bytes=SMALL_SEGMENT, files=files, **options)
    await spool.start()
    return spool


def payloads(spool: Spool) -> list[bytes]:
    found: list[Frame] = []
    for path in sorted(spool.directory.glob("*.seg")):
        with path.open("rb") as stream:
            place = 0
            while True:
                reading = read(stream.fileno(), place, final=True)
                assert not reading.damage
                found += reading.frames
                place = reading.end
                if reading.tail != "more":
                    break
    assert [frame.sequence for frame in found] == list(range(len(found)))
    return [frame.payload for frame in found if frame.kind != Kind.OPEN]


async def until(condition: object, limit: float = 10.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def test_appended_frames_are_on_disk_when_the_future_is_done(tmp_path: Path) -> None:
    spool = await opened(tmp_path)
    await asyncio.gather(*[spool.append(Kind.EVENT, "default", b"event %d" % n) for n in range(500)])
    await spool.append_many([(Kind.INPUT, "acme", b"one"), (Kind.EVENT, "acme", b"two")])
    assert payloads(spool) == [*(b"event %d" % n for n in range(500)), b"one", b"two"]
    assert spool.appended == 502
    assert spool.queued_bytes == 0
    await spool.close()


async def test_one_sync_serves_all_that_wait(tmp_path: Path) -> None:
    spool = await opened(tmp_path)
    await asyncio.gather(*[spool.append(Kind.EVENT, "default", b"x" * 500) for _ in range(1000)])
    assert spool.syncs <= 20
    await spool.close()


async def test_segments_follow_one_another(tmp_path: Path) -> None:
    spool = await opened(tmp_path)
    written = [os.urandom(200_000) for _ in range(20)]
    for payload in written:
        await spool.append(Kind.INPUT, "default", payload)
    assert len(list(spool.directory.glob("*.seg"))) >= 4
    assert payloads(spool) == written
    await spool.close()


async def test_the_owner_is_alive_until_it_closes(tmp_path: Path) -> None:
    spool = await opened(tmp_path)
    assert owner_alive(spool.directory)
    await spool.close()
    assert not owner_alive(spool.directory)
    with pytest.raises(Unavailable):
        spool.append(Kind.EVENT, "default", b"late")


async def test_a_failed_sync_condemns_the_segment_and_a_new_one_takes_over(tmp_path: Path) -> None:
    files = Broken()
    spool = await opened(tmp_path, files)
    await spool.append(Kind.EVENT, "default", b"before")
    files.fail_sync = True
    with pytest.raises(Unavailable) as refused:
        await spool.append(Kind.EVENT, "default", b"during")
    assert refused.value.reason == "evidence_unavailable"
    with pytest.raises(Unavailable):
        spool.append(Kind.EVENT, "default", b"after")
    files.fail_sync = False
    await until(lambda: spool.refusal is None)
    await spool.append(Kind.EVENT, "default", b"again")
    assert b"again" in payloads(spool)
    assert (spool.directory / "00000001.seg").exists()
    await spool.close()


@pytest.mark.parametrize("what", ["fail_write", "fail_create"])
async def test_everything_that_waits_fails_when_writing_fails(tmp_path: Path, what: str) -> None:
    files = Broken()
    spool = await opened(tmp_path, files)
    setattr(files, what, True)
    outcomes = await asyncio.gather(
        *[spool.append(Kind.EVENT, "default", b"x" * 200_000) for _ in range(30)], return_exceptions=True
    )
    assert isinstance(outcomes[-1], Unavailable)
    acknowledged = sum(outcome is None for outcome in outcomes)
    assert len(payloads(spool)) >= acknowledged
    assert spool.queued_bytes == 0
    await spool.close()


async def test_the_queue_is_bounded(tmp_path: Path) -> None:
    spool = await opened(tmp_path, queue_bytes=10_000)
    waiting = [spool.append(Kind.EVENT, "default", b"x" * 1000) for _ in range(10)]
    with pytest.raises(Unavailable) as refused:
        spool.append(Kind.EVENT, "default", b"x" * 1000)
    assert refused.value.reason == "evidence_unavailable"
    await asyncio.gather(*waiting)
    await spool.append(Kind.EVENT, "default", b"x" * 1000)
    await spool.close()


async def test_an_event_too_large_is_refused(tmp_path: Path) -> None:
    spool = await opened(tmp_path)
    with pytest.raises(BailiwickError) as refused:
        spool.append(Kind.EVENT, "default", b"x" * (MAX_PAYLOAD + 1))
    assert refused.value.reason == "payload_too_large"
    await spool.close()


async def test_lost_evidence_latches_every_spool_until_somebody_looked(tmp_path: Path) -> None:
    spool = await opened(tmp_path)
    latch_loss(tmp_path, "frames 3 to 5")
    await until(lambda: spool.evidence_lost)
    with pytest.raises(Unavailable):
        spool.append(Kind.EVENT, "default", b"x")
    assert loss_of(tmp_path) == ["frames 3 to 5"]
    acknowledge_loss(tmp_path)
    assert loss_of(tmp_path) == []
    await until(lambda: spool.refusal is None)
    await spool.append(Kind.EVENT, "default", b"x")
    assert list(tmp_path.glob(f"{LOST_NAME}.acknowledged-*"))
    await spool.close()


async def test_a_spool_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    files = Broken()
    files.fail_create = True
    with pytest.raises(Unavailable):
        await opened(tmp_path, files)
    assert not owner_alive(tmp_path / ".new-w0.boot")


async def test_births_cut_short_are_found(tmp_path: Path) -> None:
    (tmp_path / ".new-w0.x").mkdir()
    assert abandoned_births(tmp_path) == []
    os.utime(tmp_path / ".new-w0.x", (time.time() - 600,) * 2)
    assert abandoned_births(tmp_path) == [tmp_path / ".new-w0.x"]


FULL_DISK = textwrap.dedent(
    """
    import asyncio, resource, signal, sys
    from pathlib import Path
    from bailiwick.evidence.spool import Spool
    from bailiwick.kernel.errors import Unavailable

    async def main():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        spool = Spool(Path(sys.argv[1]), "w0", "boot", segment_bytes=int(sys.argv[2]))
        await spool.start()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        acknowledged = refused = 0
        while not refused:
            try:
                await spool.append(1, "default", b"x" * 1000)
                acknowledged += 1
            except Unavailable as error:
                assert error.reason == "evidence_unavailable", error
                refused += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        async with asyncio.timeout(10):
            while spool.refusal:
                await asyncio.sleep(0.02)
        await spool.append(1, "default", b"y" * 1000)
        await spool.close()
        print(acknowledged)

    asyncio.run(main())
    """
)


async def test_the_kernel_refusing_to_write_is_a_refusal_and_heals(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the kernel itself fail the write, as a full disk does."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(SMALL_SEGMENT)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    spool = Spool(tmp_path, "w0", "boot", segment_bytes=SMALL_SEGMENT)
    found = payloads_of(spool)
    assert found.count(b"x" * 1000) >= int(done.stdout.splitlines()[-1])
    assert found[-1] == b"y" * 1000


def payloads_of(spool: Spool) -> list[bytes]:
    found = []
    for path in sorted(spool.directory.glob("*.seg")):
        with path.open("rb") as stream:
            found += [frame.payload for frame in read(stream.fileno(), 0, limit=8 << 20, final=True).frames]
    return [payload for payload in found if len(payload) == 1000]


async def test_a_scrape_shows_what_the_spool_does(tmp_path: Path) -> None:
    files, syncs, metrics = Broken(), deque[float](), Metrics(CollectorRegistry())
    spool = Spool(tmp_path, "w0", "boot", segment_bytes=SMALL_SEGMENT, files=files, on_sync=syncs.append)
    metrics.before_flush(spool_shower(metrics, spool, syncs))
    await spool.start()

    def figure(name: str) -> float:
        lines = metrics.collect_text().decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"bailiwick_spool_{name} "))

    names = (
        "events_total",
        "bytes_total",
        "fsync_duration_seconds_count",
        "fsync_duration_seconds_sum",
        "failures_total",
    )
    assert [figure(name) for name in names] == [0] * 5
    await asyncio.gather(*[spool.append(Kind.EVENT, "default", b"x" * 100) for _ in range(20)])
    assert figure("events_total") == 20
    assert figure("bytes_total") > 2000
    assert 1 <= figure("fsync_duration_seconds_count") <= 20
    assert figure("fsync_duration_seconds_sum") > 0
    assert figure("backlog_bytes") == 0
    before = [figure(name) for name in names]
    assert [figure(name) for name in names] == before, "a scrape carries nothing over twice"

    files.fail_sync = files.fail_create = True
    with pytest.raises(Unavailable):
        await spool.append(Kind.EVENT, "default", b"lost")
    await until(lambda: spool.refusal)
    with pytest.raises(Unavailable):
        spool.append(Kind.EVENT, "default", b"refused")
    assert figure("failures_total") >= 1
    assert figure("events_total") == 20
    files.fail_sync = files.fail_create = False
    await spool.close()
