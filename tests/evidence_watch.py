"""Watches a whole run, as a plugin of pytest: every event keeps its schema, and no secret gets into evidence or logs.

In the tests' own process it listens where secrets are handled (passwords, credentials, what is generated, the keys of
sealers), where events are made or made durable, and where log lines are written. A test whose events break their
schema fails. At the end of each process everything written is searched for every secret met; the rig of the stack
tests does the same with the files and the database of each installation. One occurrence fails the run.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

import msgspec
import pytest

LEAST = 8
"""Shorter words are too likely to stand somewhere by chance."""

# What has the form of a secret is one, whoever made it: a JWT with its signature, a secret of ours, a private key.
FORMS = re.compile(
    rb"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{16,}|\bbw[a-z]{1,2}_[\w-]{24,}|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----"
)
# Tests of refusals use these as passwords; they are words of the language besides.
COMMON = frozenset({b"password", b"passwords", b"a secret", b"something", b"whatever", b"unchanged"})
_WORD = re.compile(rb"[\w-]{8,}")
_BASE64 = re.compile(rb"[\w+/-]{8,}")
# Ids and times differ from event to event and hold nothing of a caller's; without them most events are the same.
_OWN = re.compile(rb'"(?:at|id|request_id|decision_id)":"[0-9a-fTZ:.-]{20,40}",?')


class Watch:
    """What a process has met: secrets, what was written, and events that broke their schema."""

    def __init__(self) -> None:
        self.secrets: dict[bytes, str] = {}
        self.written: dict[str, set[bytes]] = {"event": set(), "log": set()}
        self.violations: list[str] = []
        self.leaks: list[str] = []

    def secret(self, value: str | bytes | None, what: str) -> None:
        """Take a secret in, in each form in which it could be written."""
        if not value or len(value) < LEAST:
            return
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        if data not in COMMON:
            self.secrets.setdefault(data, what)
            self.secrets.setdefault(base64.b64encode(data).rstrip(b"="), f"{what}, in base64")

    def key(self, value: bytes, what: str) -> None:
        """Take binary key material in, as it would be written; zeros are also how a hash of nothing is written."""
        if not any(value):
            return
        for form in (base64.b64encode(value), base64.urlsafe_b64encode(value)):
            self.secrets.setdefault(form.rstrip(b"="), what)
        self.secrets.setdefault(value.hex().encode(), what)

    def event(self, body: bytes) -> None:
        """Take an event's bytes in."""
        self.written["event"].add(_OWN.sub(b"", body))

    def line(self, text: str) -> None:
        """Take a log line in."""
        self.written["log"].add(text.encode("utf-8", "surrogatepass"))

    def search(self) -> list[str]:
        """Where in what was written a secret stands."""
        return [leak for kind, items in self.written.items() for leak in leaks(self.secrets, items, kind)]


def leaks(secrets: Mapping[bytes, str], written: Iterable[bytes], where: str) -> list[str]:
    """One line for each secret that stands in ``written``, with its surroundings and without itself."""
    text = b"\n".join(written)
    words, base64_words = set(_WORD.findall(text)), set(_BASE64.findall(text))
    told = []
    for secret, what in secrets.items():
        # a word may be part of a longer one by chance; a secret that was written stands by itself
        if _WORD.fullmatch(secret):
            found = secret in words
        elif _BASE64.fullmatch(secret):
            found = secret in base64_words
        else:
            found = secret in text and re.search(rb"(?<![\w-])" + re.escape(secret) + rb"(?![\w-])", text) is not None
        if found:
            at = text.find(secret)
            told.append(_told(text, at, at + len(secret), what, where))
    told += [_told(text, *found.span(), "the form of a secret", where) for found in FORMS.finditer(text)]
    return told[:50]


def _told(text: bytes, start: int, end: int, what: str, where: str) -> str:
    before = text[max(0, start - 160) : start].decode("utf-8", "replace")
    after = text[end : end + 60].decode("utf-8", "replace")
    return f"{where} holds {what}: …{before}[HERE]{after}…"


WATCH = Watch()


# --- listening


def _listen(watch: Watch) -> None:
    from bailiwick.evidence.details import violations
    from bailiwick.evidence.events import Event, Recorder, decode
    from bailiwick.evidence.frames import Kind
    from bailiwick.evidence.spool import Spool
    from bailiwick.identity.passwords import Passwords
    from bailiwick.inventory import credentials
    from bailiwick.kernel import outbox
    from bailiwick.kernel.crypto import Sealer
    from bailiwick.kernel.ids import Ids
    from bailiwick.kernel.logging import _LineWriter

    def event(made: Event) -> None:
        watch.violations += violations(made)

    def frames(spool: Any, frames: Iterable[tuple[int, str, bytes]], done: Any) -> None:
        for kind, _, payload in frames:
            if kind == Kind.EVENT:
                watch.event(payload)
                try:
                    event(decode(payload))
                except msgspec.MsgspecError:
                    pass  # tests of dead letters write what is no event

    def values(sealer: Any, zone: str, identifier: str, secret: Any) -> None:
        for name, value in secret.values.items():
            if name != "username":
                watch.secret(value, "a credential")

    def keys(sealer: Any, keks: Mapping[str, bytes], active: str) -> None:
        for value in keks.values():
            watch.key(value, "a key-encryption key")

    _after(Recorder, "make", lambda made, *_: event(made))
    _before(Spool, "append_then", frames)
    _before(outbox, "put", lambda tx, zone, body: watch.event(body))
    _before(Passwords, "hash", lambda self, password: watch.secret(password, "a password"))
    _before(Passwords, "verify", lambda self, stored, password: watch.secret(password, "a password"))
    _before(credentials, "seal", values)
    _before(Sealer, "__init__", keys)
    _after(Ids, "secret", lambda made, *_: watch.secret(made, "a generated secret"))
    for name in ("msg", "debug", "info", "warning", "warn", "error", "critical", "exception", "fatal", "log", "_write"):
        _before(_LineWriter, name, lambda self, line: watch.line(line))


def _before(owner: Any, name: str, look: Callable[..., None]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def watched(*arguments: Any, **more: Any) -> Any:
        look(*arguments, **more)
        return original(*arguments, **more)

    setattr(owner, name, watched)


def _after(owner: Any, name: str, look: Callable[..., None]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def watched(*arguments: Any, **more: Any) -> Any:
        made = original(*arguments, **more)
        look(made, *arguments)
        return made

    setattr(owner, name, watched)


# --- the plugin


def pytest_sessionstart(session: pytest.Session) -> None:
    _listen(WATCH)


@pytest.fixture
def broken_events() -> list[str]:
    """How events made so far broke their schema; a test that breaks one on purpose clears it."""
    return WATCH.violations


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "made_up_events: details of these tests' events are invented, to be found by")


def _fail_for_violations(item: pytest.Item) -> None:
    if item.get_closest_marker("made_up_events") is not None:
        WATCH.violations.clear()
    if told := WATCH.violations[:10]:
        WATCH.violations.clear()
        pytest.fail("events break their schema: " + "; ".join(dict.fromkeys(told)), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    result = yield
    _fail_for_violations(item)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    result = yield
    _fail_for_violations(item)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    WATCH.leaks += WATCH.search()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["leaks"] = WATCH.leaks
    elif WATCH.leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    WATCH.leaks += getattr(node, "workeroutput", {}).get("leaks", [])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if WATCH.leaks:
        terminalreporter.section("secrets in evidence or logs", red=True)
        for leak in dict.fromkeys(WATCH.leaks):
            terminalreporter.line(leak)
