from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from bailiwick.kernel import logging as bw_logging
from bailiwick.kernel import redaction
from bailiwick.kernel.clock import SystemClock
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Unavailable

SECRET = st.text("abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789", min_size=12, max_size=40).map(
    lambda tail: "Zq9" + tail
)


@pytest.fixture
def restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(False)
    logging.getLogger("uvicorn.access").disabled = False
    root.handlers, root.level = handlers, level


def lines(form: str, write: Any, level: str = "debug") -> list[str]:
    stream = io.StringIO()
    bw_logging.configure(form, level, part="serve-1", stream=stream)  # type: ignore[arg-type]
    write(structlog.get_logger("test"))
    return stream.getvalue().splitlines()


def parse_logfmt(line: str) -> dict[str, str]:
    pairs = re.findall(r'([A-Za-z0-9_.-]+)=("(?:[^"\\]|\\.)*"|[^ ]*)', line)
    return {key: json.loads(value) if value.startswith('"') else value for key, value in pairs}


@pytest.mark.usefixtures("restore")
@pytest.mark.parametrize("form", ["json", "logfmt"])
def test_an_error_says_ERROR_and_a_traceback_stays_on_one_line(form: str) -> None:
    def write(log: Any) -> None:
        try:
            raise RuntimeError("first\nlevel=ERROR event=forged")
        except RuntimeError:
            log.exception("it broke", zone="default")

    (line,) = lines(form, write)
    assert ("level=ERROR" if form == "logfmt" else '"level":"ERROR"') in line
    fields = json.loads(line) if form == "json" else parse_logfmt(line)
    assert fields["event"] == "it broke"
    assert fields["part"] == "serve-1"
    assert "RuntimeError: first\nlevel=ERROR" in fields["exception"]


@pytest.mark.usefixtures("restore")
def test_critical_is_found_by_ERROR_too() -> None:
    (line,) = lines("json", lambda log: log.critical("gone"))
    assert json.loads(line)["level"] == "ERROR"
    assert json.loads(line)["severity"] == "CRITICAL"


@pytest.mark.usefixtures("restore")
@pytest.mark.parametrize("form", ["json", "logfmt"])
@given(value=st.text(st.characters(), max_size=60), key=st.text(min_size=1, max_size=20))
def test_no_value_forges_a_line(form: str, value: str, key: str) -> None:
    (line,) = lines(form, lambda log: log.info("seen", **{f"k{key}": value}))
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    if form == "json":
        assert json.loads(line)["event"] == "seen"


@pytest.mark.usefixtures("restore")
def test_logfmt_values_come_back() -> None:
    (line,) = lines(
        "logfmt", lambda log: log.info('a "quoted" \\ thing', path="C:\\x y", empty="", n=3, ok=True, f=1.5)
    )
    fields = parse_logfmt(line)
    assert fields["event"] == 'a "quoted" \\ thing'
    assert fields["path"] == "C:\\x y"
    assert fields["empty"] == ""
    assert (fields["n"], fields["ok"], fields["f"]) == ("3", "true", "1.5")


def jwt_of(secret: str) -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"ES256","typ":"at+jwt"}').rstrip(b"=").decode()
    body = base64.urlsafe_b64encode(json.dumps({"sub": secret}).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{secret}"


PLACES: list[Any] = [
    lambda s: {"password": s},
    lambda s: {"new_password": [s, {"x": s}]},
    lambda s: {"clientSecret": s},
    lambda s: {"headers": {"Authorization": f"Custom {s} {s}", "Set-Cookie": f"sid={s}; Path=/"}},
    lambda s: {"headers": [(b"x", b"y"), ("authorization", f"Bearer {s}")]},
    lambda s: {"text": f"sent {jwt_of(s)} to it"},
    lambda s: {"text": jwt_of(s).encode()},
    lambda s: {"text": f"key bws_{s} shown"},
    lambda s: {"deep": {"a": [{"b": ({"c": f"bearer {s}"},)}]}},
    lambda s: {"text": f"Basic {base64.b64encode(('u:' + s).encode()).decode()}", "s": f"x basic {s}"},
    lambda s: {"url": f"postgresql://app:{s}@db.example:5432/x"},
    lambda s: {"url": f"redis://:{s}@cache/0"},
    lambda s: {"error": ValueError(f"connection failed: password={s} host=db")},
    lambda s: {"error": ValueError(f'{{"client_secret": "{s}", "x": 1}}')},
    lambda s: {"text": f"grant_type=client_credentials&client_secret={s}&scope=read"},
    lambda s: {"text": f"{{'api_key': '{s}'}} X-API-Key: {s}"},
    lambda s: {"text": f"Cookie: a=1; session={s}\nnext"},
    lambda s: {"text": repr([(b"authorization", b"Custom " + s.encode())])},
    lambda s: {"text": f"[SQL: insert]\n[parameters: {{'hash': '{s}'}}]"},
    lambda s: {"text": f"DETAIL:  Failing row contains (1, {s})."},
    lambda s: {"text": f"-----BEGIN PRIVATE KEY-----\n{s}\n-----END PRIVATE KEY-----"},
    lambda s: {"text": f"-----BEGIN EC PRIVATE KEY-----\n{s}"},
    lambda s: {"pair": {"private_key": s, "apiKey": s, "otp": s}},
    lambda s: {f"Bearer {s}": "a key can hold one too"},
    lambda s: {"cls": type("Odd", (), {"__repr__": lambda _self: f"Odd(token={s!r})"})()},
]


@pytest.mark.usefixtures("restore")
@pytest.mark.parametrize("form", ["json", "logfmt"])
@given(secret=SECRET, place=st.sampled_from(PLACES), before=st.text(max_size=10))
def test_a_planted_secret_never_comes_out(form: str, secret: str, place: Any, before: str) -> None:
    def write(log: Any) -> None:
        log.info("with fields", **{f"{key}": value for key, value in place(secret).items()})
        for key, value in place(secret).items():
            if key in {"text", "url", "s"}:
                log.info(f"{before} {key} {value}")
                logging.getLogger("uvicorn.error").warning("foreign %s", value)
                try:
                    raise RuntimeError(f"{before}\n{key} {value}")
                except RuntimeError:
                    log.exception("broke")
        structlog.contextvars.bind_contextvars(bound=place(secret))
        log.warning("with context")
        structlog.contextvars.clear_contextvars()

    written = lines(form, write)
    assert written
    encoded = base64.b64encode(("u:" + secret).encode()).decode().rstrip("=")
    for line in written:
        assert secret not in line
        assert encoded not in line


def test_what_is_about_a_secret_stays_readable() -> None:
    for name in (
        "token_type",
        "token_id",
        "secret_name",
        "password_changed",
        "key",
        "kid",
        "status",
        "max_tokens_count",
    ):
        assert not redaction.is_telling(name), name
    assert redaction.redact_text("server payments-api answered 503") == "server payments-api answered 503"
    assert redaction.redact({"must_change_password": True, "n": 2}) == {"must_change_password": True, "n": 2}


def test_no_text_makes_redaction_slow() -> None:
    for hostile in ("a" * 200_000, "password" * 20_000, "eyJ" * 60_000, "://" * 50_000, "bearer " * 30_000,
                    "-----BEGIN " * 20_000, "token" + " " * 100_000, "cookie=" * 20_000, 'secret="' * 20_000,
                    "secret='\\" * 20_000):  # fmt: skip
        started = time.perf_counter()
        redaction.redact_text(hostile)
        assert time.perf_counter() - started < 20  # a pattern that backtracks takes hours


@pytest.mark.usefixtures("restore")
@pytest.mark.parametrize("form", ["json", "logfmt"])
def test_nested_odd_values_are_written(form: str) -> None:
    loop: list[Any] = []
    loop.append(loop)
    bad = type("Bad", (), {"__repr__": lambda _self: 1 / 0})()
    (line,) = lines(form, lambda log: log.info("odd", a=loop, b=bad, c=float("nan"), d=10**5000, e={1, 2}, f="\ud800"))
    assert "odd" in line
    assert "Bad" in line


@pytest.mark.usefixtures("restore")
def test_foreign_loggers_come_through_the_same_chain() -> None:
    def write(_log: Any) -> None:
        logging.getLogger("uvicorn.error").error("Exception in ASGI application %s", "Bearer abcdefgh")
        logging.getLogger("sqlalchemy.engine.Engine").info("SELECT 1")
        logging.getLogger("alembic.runtime").error("wrong %d", "format")
        logging.getLogger("uvicorn.access").info("never")

    written = [json.loads(line) for line in lines("json", write, "info")]
    assert [line["event"] for line in written] == ["Exception in ASGI application Bearer [redacted]", "wrong %d"]
    assert all(line["level"] == "ERROR" for line in written)


@pytest.mark.usefixtures("restore")
def test_an_ascii_terminal_gets_the_line_and_a_closed_one_hurts_nobody() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    bw_logging.configure("logfmt", "info", stream=stream)
    structlog.get_logger().info("grüß", name="ü")
    assert b"gr\\xfc" in raw.getvalue()
    stream.close()
    structlog.get_logger().info("after")
    assert stream.closed


@pytest.mark.usefixtures("restore")
async def test_slow_queries_are_logged_without_their_parameters(database_url: str) -> None:
    stream = io.StringIO()
    bw_logging.configure("logfmt", "info", stream=stream)
    database = Database(database_url)
    bw_logging.watch_queries(database, SystemClock(), 50)
    async with database.begin() as tx:
        await tx.value("SELECT :planted || pg_sleep(0.06)::text", planted="Zq9planted")
        await tx.value("SELECT 1")
    with pytest.raises(Unavailable):
        async with database.begin() as tx:
            await tx.run("SET LOCAL statement_timeout = 60")
            await tx.run("SELECT pg_sleep(5)")
    await database.close()
    slow, cancelled = stream.getvalue().splitlines()
    assert "slow query" in slow
    duration = parse_logfmt(slow)["duration"]
    assert re.fullmatch(r"0\.\d{3}s", duration)
    assert float(duration[:-1]) >= 0.05
    assert "Zq9planted" not in stream.getvalue()
    assert "pg_sleep(0.06)" in slow
    assert parse_logfmt(cancelled)["failed"] == "true"
    await asyncio.sleep(0)
