"""Looks at what a web server tells browsers, and at how often it lets one ask."""

from __future__ import annotations

import asyncio
from collections import Counter

from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Found, LookFailed
from bailiwick.assurance.probes.web import Answer, Untrusted, fetch, trusted
from bailiwick.assurance.thresholds import Unit
from bailiwick.handover.readiness.checks import CorsCheck, HeadersCheck, RateLimitCheck

_AT_ONCE = 16


async def headers(check: HeadersCheck, means: Means, asked: Asked) -> Found:
    """Every header must be there, and hold what it should."""
    try:
        answer = _served(await fetch(means, check.url, asked.timeout_s, ca=trusted(means, check.ca_file)))
    except Untrusted as error:
        return Found(wrong=str(error))
    lacking = [name for name in check.names if not _header(answer, name).strip()]
    other = [name for name, words in check.holding.items() if words.lower() not in _header(answer, name).lower()]
    wrong = [f"lacks {', '.join(lacking)}"] if lacking else []
    wrong += [f"{name} is another" for name in other if name not in lacking]
    there = len(check.names) - len(lacking)
    return Found(
        float(there), Unit.COUNT, f"{there} of {len(check.names)} headers", answer.output(), wrong="; ".join(wrong),
        holds=not wrong,
    )  # fmt: skip


async def cors(check: CorsCheck, means: Means, asked: Asked) -> Found:
    """Asked by a page of a stranger, before a request and with one: it must not be let in."""
    ca, sent = trusted(means, check.ca_file), {"Origin": check.stranger}
    try:
        answer = _served(await fetch(means, check.url, asked.timeout_s, headers=sent, ca=ca))
        before = await fetch(
            means, check.url, asked.timeout_s, "OPTIONS", {**sent, "Access-Control-Request-Method": "DELETE"}, ca=ca
        )
    except Untrusted as error:
        return Found(wrong=str(error))
    if before.status >= 500:
        raise LookFailed(f"a preflight is answered {before.status}")
    allowed = {
        name: origin
        for name, each in (("an answer", answer), ("a preflight", before))
        if (origin := _header(each, "Access-Control-Allow-Origin")) in (check.stranger, "*", "null")
    }
    wrong = "; ".join(f"{name} lets {origin} in" for name, origin in allowed.items())
    output = answer.output()[:4000] + b"\n--- preflight\n" + before.output()[:4000]
    return Found(detail="a stranger is not let in", output=output, wrong=wrong, holds=not wrong)


async def rate_limit(check: RateLimitCheck, means: Means, asked: Asked) -> Found:
    """Ask until it is refused: at more than the limit within a minute, and not long before.

    Others ask as well, so half of the limit is enough.
    """
    ca = trusted(means, check.ca_file)
    most, answers, refused_at = check.limit + _AT_ONCE, Counter[int](), 0
    try:
        async with asyncio.timeout(asked.timeout_s):
            while sum(answers.values()) < most and not answers[429]:
                part = min(_AT_ONCE, most - sum(answers.values()))
                got = await asyncio.gather(*(fetch(means, check.url, asked.timeout_s, ca=ca) for _ in range(part)))
                answers.update(each.status for each in got)
                refused_at = sum(answers.values()) - answers[429]
    except Untrusted as error:
        return Found(wrong=str(error))
    except TimeoutError:
        raise LookFailed(f"{sum(answers.values())} answers within {asked.timeout_s:g} s, and none a refusal") from None
    told = ", ".join(f"{count} × {status}" for status, count in sorted(answers.items()))
    odd = sorted(status for status in answers if status >= 500)
    if not answers[429]:
        wrong = f"{most} requests and none was refused"
    elif odd:
        wrong = f"it was answered {odd[0]}, which shows no limit"
    else:
        wrong = f"refused after {refused_at} requests already" if refused_at < check.limit // 2 else ""
    return Found(float(refused_at), Unit.COUNT, told, told.encode(), wrong=wrong, holds=not wrong)


def _served(answer: Answer) -> Answer:
    """What the address serves, be it that we are not let in. Raises :class:`LookFailed` for an answer that is not it,
    and so shows nothing of it."""
    if answer.status not in (401, 403) and not 200 <= answer.status < 300:
        raise LookFailed(f"{answer.status} where an answer was to be looked at")
    return answer


def _header(answer: Answer, name: str) -> str:
    return answer.headers.get(name, "")
