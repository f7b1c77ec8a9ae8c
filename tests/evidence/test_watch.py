"""The watch over the run itself: it fails a test that breaks a schema, and a run that lets a secret out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import evidence_watch
from evidence_watch import leaks
from unmeasured import unmeasured

_CONFTEST = """
    import evidence_watch

    def pytest_configure(config):
        config.pluginmanager.register(evidence_watch)
"""
_HEAD = """
    from bailiwick.evidence import codes
    from bailiwick.evidence.events import Context, Recorder, encode
    from bailiwick.identity.hashers import Cost
    from bailiwick.identity.passwords import Passwords
    from bailiwick.kernel import outbox
    from bailiwick.kernel.clock import FakeClock
    from bailiwick.kernel.ids import Ids

    class Nowhere:
        async def run(self, *_, **__): ...

    def event(**details):
        return Recorder(FakeClock(), Ids()).make(codes.AUTH_LOGOUT, "success", Context("default"), **details)
"""


def run(directory: Path, tests: str, *options: str) -> tuple[int, str]:
    """The exit code and the output of a run of its own."""
    (directory / "conftest.py").write_text(dedent(_CONFTEST))
    (directory / "test_inner.py").write_text(dedent(_HEAD) + dedent(tests))
    own = str(Path(evidence_watch.__file__).parent)
    path = os.pathsep.join([own, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {name: value for name, value in unmeasured().items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(directory), *options, "."],
        cwd=directory,
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_test_whose_event_breaks_its_schema_fails(tmp_path: Path) -> None:
    code, told = run(
        tmp_path,
        """
        def test_it():
            event(who="jane")

        def test_another():
            event(username="jane")
        """,
    )
    assert code == 1, told
    assert "1 failed, 1 passed" in told
    assert "BW1003 says nothing of username; BW1003 does not declare who" in told


_LEAK = """
    import asyncio, pytest

    @pytest.mark.parametrize("name", [{names}])
    def test_it(name):
        async def lets_out():
            await Passwords(cost=Cost(memory_kib=64, passes=1, lanes=1)).hash("planted horse battery")
            await outbox.put(Nowhere(), "default", encode(event(username=name)))
        asyncio.run(lets_out())
"""


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_a_run_that_lets_a_secret_out_fails(tmp_path: Path, options: tuple[str, ...]) -> None:
    code, told = run(tmp_path, _LEAK.format(names='"jane", "my planted horse battery"'), *options)
    assert "2 passed" in told
    assert code == 1, told
    assert "event holds a password" in told
    assert "planted horse battery" not in told.split("secrets in evidence or logs")[1]


def test_a_run_that_lets_none_out_passes(tmp_path: Path) -> None:
    code, told = run(tmp_path, _LEAK.format(names='"jane", "john"'), "-n", "2")
    assert code == 0, told


_LOG = """
    import io, structlog
    from bailiwick.kernel.logging import configure

    def test_it():
        stream = io.StringIO()
        configure("json", "info", stream=stream)
        word = Ids().secret()
        structlog.get_logger().info({line})
        structlog.reset_defaults()
        assert stream.getvalue()
"""


@pytest.mark.parametrize(("line", "expected"), [('f"made {word}"', 1), ('"made", password=word', 0)])
def test_log_lines_are_searched_as_well(tmp_path: Path, line: str, expected: int) -> None:
    code, told = run(tmp_path, _LOG.format(line=line))
    assert "1 passed" in told
    assert code == expected, told
    assert ("log holds a generated secret" in told) is bool(expected)


@pytest.mark.parametrize(
    "written",
    [
        b"x eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJqYW5lIn0.c2lnbmF0dXJlc2lnbmF0dXJl y",
        b'"value":"bws_0123456789abcdefghijklmnopqrstuvwxyz"',
        b"-----BEGIN PRIVATE KEY-----",
    ],
)
def test_what_has_the_form_of_a_secret_is_found_whoever_made_it(written: bytes) -> None:
    assert len(leaks({}, [b"before", written], "a file")) == 1


def test_a_secret_is_found_in_each_form_it_may_be_written_in() -> None:
    watch = evidence_watch.Watch()
    watch.secret("correct horse battery", "a password")
    watch.key(bytes(range(32)), "a key")
    for written in (
        "said correct horse battery.",
        "Y29ycmVjdCBob3JzZSBiYXR0ZXJ5",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        bytes(range(32)).hex(),
    ):
        assert len(leaks(watch.secrets, [written.encode()], "a file")) == 1, written
    assert leaks(watch.secrets, [b"incorrect horse battery", b"short"], "a file") == []
