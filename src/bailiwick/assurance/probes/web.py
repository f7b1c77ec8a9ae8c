"""Looks over HTTP: a server's answer, a value out of JSON, an instant query at a Prometheus.

One client with the house's rules for addresses: they are checked where the connection is made, also those of a
redirect; no proxy is taken from the environment; certificates are always checked; answers are read to a bound.
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

import aiohttp
from yarl import URL

from bailiwick.assurance.probes.json_path import Absent, number_of, value_at
from bailiwick.assurance.probes.means import MOST_ANSWERED, Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.probes.spec import HttpCheck, JsonPathCheck, PrometheusCheck
from bailiwick.assurance.thresholds import Unit
from bailiwick.evidence.siem.destination import Refused, Retry, Stop
from bailiwick.evidence.siem.outgoing import CheckedResolver, reached, tls_context

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered, whole, and in how many milliseconds."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    took_ms: float

    def output(self) -> bytes:
        """What is kept as evidence."""
        head = "".join(f"{name}: {value}\n" for name, value in self.headers.items())
        return f"{self.status}\n{head}\n".encode() + self.body


class Untrusted(Exception):
    """The server's certificate does not hold, which is a finding and no accident."""


async def http(check: HttpCheck, means: Means, asked: Asked) -> Found:
    """Ask a web server and hold its answer against what the check wants."""
    try:
        answer = await fetch(
            means,
            check.url,
            asked.timeout_s,
            check.method,
            check.send,
            follow=check.follow,
            ca=trusted(means, check.ca_file),
        )
    except Untrusted as error:
        return Found(wrong=str(error))
    found = Found(detail=f"{answer.status} in {answer.took_ms:.0f} ms", output=answer.output(), holds=True)
    if check.measure == "time":
        found = _but(found, value=answer.took_ms, unit=Unit.MILLISECONDS)
    if answer.status not in check.status:
        return _but(found, wrong=f"the status is {answer.status}")
    for name, wanted in check.headers.items():
        got = answer.headers.get(name)
        if got is None or wanted not in got:
            return _but(found, wrong=f"the header {name} is {'not there' if got is None else 'another'}")
    if check.phrase is not None and check.phrase.encode() not in answer.body:
        return _but(found, wrong="the phrase is not in the answer")
    if check.json_path is None:
        return found
    try:
        value = value_at(_json(answer.body), check.json_path)
    except Absent as error:
        return _but(found, absent=str(error))
    if check.json_equals is not None and not same(value, check.json_equals):
        return _but(found, wrong=f"{check.json_path} is {shown(value)}")
    return _but(found, value=number_of(value), unit=Unit.NONE) if check.measure == "json" else found


async def json_at(check: JsonPathCheck, means: Means, asked: Asked) -> Found:
    """A value out of the JSON at an address."""
    assert check.url is not None
    try:
        answer = await fetch(means, check.url, asked.timeout_s, ca=trusted(means, check.ca_file))
    except Untrusted as error:
        return Found(wrong=str(error))
    if answer.status != 200:
        return Found(wrong=f"the status is {answer.status}", output=answer.output())
    return from_json(check, answer.body)


def from_json(check: JsonPathCheck, text: bytes) -> Found:
    """The value that the check names in a JSON text."""
    try:
        value = value_at(_json(text), check.path)
    except Absent as error:
        return Found(absent=str(error), output=text)
    detail = f"{check.path} is {shown(value)}"
    if check.equals is not None:
        return Found(number_of(value), check.unit, detail, text, holds=same(value, check.equals))
    holds = value if isinstance(value, bool) else None
    return Found(number_of(value), check.unit, detail, text, holds=holds)


async def prometheus(check: PrometheusCheck, means: Means, asked: Asked) -> Found:
    """An instant query. No series, or one that is no number, is nothing to judge by."""
    url = str(URL(f"{check.url.rstrip('/')}/api/v1/query").with_query(query=check.query))
    try:
        answer = await fetch(means, url, asked.timeout_s, ca=trusted(means, check.ca_file))
    except Untrusted as error:
        return Found(wrong=str(error))
    document = _json(answer.body)
    if not isinstance(document, dict) or answer.status != 200 or document.get("status") != "success":
        told = document.get("error") if isinstance(document, dict) else None
        raise LookFailed(f"the Prometheus answers {answer.status}: {shown(told)}")
    try:
        values = _samples(document["data"])
    except (KeyError, TypeError, ValueError, IndexError):
        raise LookFailed("the answer is not what a Prometheus answers") from None
    if not values:
        return Found(absent="there is no series", output=answer.body)
    if any(not math.isfinite(value) for value in values):
        return Found(absent="a series has no number (NaN or Inf)", output=answer.body)
    if check.reduce == "only" and len(values) > 1:
        raise LookFailed(f"there are {len(values)} series; say how they are one number (reduce)")
    reduced = sum(values) if check.reduce == "sum" else min(values) if check.reduce == "min" else max(values)
    return Found(reduced, check.unit, f"{reduced:g} of {len(values)} series", answer.body)


def _samples(data: Mapping[str, Any]) -> list[float]:
    match data["resultType"]:
        case "vector":
            return [float(series["value"][1]) for series in data["result"]]
        case "scalar":
            return [float(data["result"][1])]
    raise ValueError("only instant values are measured")


async def fetch(
    means: Means,
    url: str,
    timeout_s: float,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    *,
    follow: int = 0,
    ca: str = "",
) -> Answer:
    """One answer, after at most ``follow`` redirects. Raises :class:`LookFailed`, :class:`Untrusted`."""
    target = URL(url)
    # a context of our own takes a while to make, which many looks at once would feel; True checks certificates too
    context: ssl.SSLContext | bool = tls_context(ca) if ca or follow or target.scheme != "http" else True
    connector = aiohttp.TCPConnector(resolver=CheckedResolver(means.reach), use_dns_cache=False, ssl=context)
    sent = {"User-Agent": "bailiwick-probe", "Accept-Encoding": "identity", **(headers or {})}
    began = time.perf_counter()
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()) as session,
        ):
            for _ in range(follow + 1):
                await _refuse_literal(means, target)
                async with session.request(
                    method, target, headers=sent, allow_redirects=False, auto_decompress=False
                ) as answer:
                    if follow and answer.status in _REDIRECTS and (location := answer.headers.get("Location")):
                        target = _next(target, location)
                        continue
                    body = await _body(answer)
                    took = (time.perf_counter() - began) * 1000
                    return Answer(answer.status, answer.headers.copy(), body, took)
            raise LookFailed(f"more than {follow} redirects")
    except aiohttp.ClientConnectorCertificateError as error:
        raise Untrusted(f"the certificate of {error.host} is not trusted: {error.certificate_error}") from None
    except (Stop, Retry, Refused) as error:
        raise LookFailed(str(error)) from None
    except TimeoutError:
        raise LookFailed(f"no answer within {timeout_s:g} s") from None
    except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:
        raise LookFailed(f"{target.host}: {type(error).__name__}: {error}"[:300]) from None


async def _refuse_literal(means: Means, target: URL) -> None:
    """An address written as one never comes to the resolver, so it is checked here."""
    try:
        ip_address(target.host or "")
    except ValueError:
        return
    await reached(means.reach, target.host or "", target.port or 0)


def _next(target: URL, location: str) -> URL:
    following = target.join(URL(location))
    if following.scheme not in {"http", "https"} or (target.scheme == "https" and following.scheme == "http"):
        raise LookFailed(f"a redirect leads to {following.scheme}")
    return following


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    found = bytearray()
    async for part in answer.content.iter_chunked(65_536):
        found += part
        if len(found) > MOST_ANSWERED:
            answer.close()
            raise LookFailed(f"the answer is larger than {MOST_ANSWERED} bytes")
    return bytes(found)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise LookFailed("the answer is no JSON") from None


def trusted(means: Means, path: str | None) -> str:
    """The certificates (PEM) of the file that a check names; empty for the system's. Raises :class:`LookFailed`."""
    if path is None:
        return ""
    try:
        return means.readable(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise LookFailed(f"{path}: {error}") from None


def same(value: Any, wanted: str | float | bool) -> bool:
    """Whether a JSON value is the one wanted; true is not 1."""
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted


def shown(value: Any) -> str:
    """A value for a line of text."""
    text = json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else value
    return text if len(text) <= 120 else f"{text[:119]}…"


def _but(found: Found, **changed: Any) -> Found:
    return replace(found, **changed)
