"""People coming in: local sign-ins beside decisions, refreshes, a directory's import by SCIM and its sign-ins."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp

from bailiwick.identity.passwords import COST
from bailiwick.kernel.processes import process_tree
from bench import directory
from bench.common import Load, Stack, cpu_seconds, hey, median, report, stack, wrk

PASSWORD = "bench: the password of everybody"
LANES = 8
# nobody signs in so often that a session of his has to end for the next: that is another operation
PEOPLE = 160
DECISIONS_PER_S = 2000
PAIRS = 5
ROUNDS = 3
SESSIONS = 32
# the library alone, with nothing of ours around it
_BARE = f"""
import time
from argon2.low_level import Type, hash_secret
def one():
    hash_secret(b"{PASSWORD}", b"sixteen bytes ok", {COST.passes}, {COST.memory_kib}, {COST.lanes}, 32, Type.ID)
one()
ends, spent, done = time.perf_counter() + 1.5, time.process_time(), 0
while time.perf_counter() < ends:
    one()
    done += 1
print((time.process_time() - spent) / done * 1000)
"""
# every session by its own refresh token, the newest each time; the first call is wrk's own look at what we send
_REFRESH = """
local tokens, first, looked = { %s }, 1, false
local last = #tokens
function request()
  local token = tokens[first]
  if looked then tokens[first], first = nil, first + 1 else looked = true end
  return wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, '{"refresh_token":"' .. token .. '"}')
end
function response(status, headers, body)
  last = last + 1
  tokens[last] = body:match('"refresh_token":"([^"]+)"') or "lost"
end
"""


async def _spend(seconds: float, lanes: int, once: Callable[[int], Awaitable[bool]]) -> tuple[float, int]:
    """Do ``once(lane)`` over and over in so many lanes; how many a second went well, and how many did not."""
    good = bad = 0
    ends = time.monotonic() + seconds

    async def lane(number: int) -> None:
        nonlocal good, bad
        while time.monotonic() < ends:
            if await once(number):
                good += 1
            else:
                bad += 1

    started = time.monotonic()
    await asyncio.gather(*(lane(number) for number in range(lanes)))
    return good / (time.monotonic() - started), bad


def _people(made: Stack) -> list[str]:
    names = [f"person-{number}" for number in range(PEOPLE)]
    for name in names:
        body = {"username": name, "email": f"{name}@example.com", "role": "viewer", "password": PASSWORD}
        made.api.call("POST", "/api/v1/users", body)
    return names


async def _logins(base: str, names: Sequence[str], seconds: float) -> tuple[float, int]:
    async with aiohttp.ClientSession() as session:
        coming = itertools.cycle(names)

        async def once(_lane: int) -> bool:
            body = {"username": next(coming), "password": PASSWORD}
            async with session.post(f"{base}/api/v1/auth/login/local", json=body) as answer:
                await answer.read()
                return answer.status == 200

        return await _spend(seconds, LANES, once)


async def _tokens(base: str, names: Sequence[str], count: int) -> list[str]:
    """Refresh tokens of so many sessions, just begun."""
    tokens = []
    async with aiohttp.ClientSession() as session:
        for number in range(count):
            body = {"username": names[number % len(names)], "password": PASSWORD}
            async with session.post(f"{base}/api/v1/auth/login/local", json=body) as answer:
                tokens.append((await answer.json())["refresh_token"])
    return tokens


def _refreshes(base: str, names: Sequence[str], seconds: float) -> Load:
    tokens = asyncio.run(_tokens(base, names, SESSIONS))
    script = _REFRESH % ", ".join(f'"{token}"' for token in tokens)
    return wrk(f"{base}/api/v1/auth/refresh", seconds, SESSIONS, script=script)


def _bare_hashes(at_once: int) -> float:
    """Milliseconds of a processor that argon2 takes alone, so many at once."""
    started = [subprocess.Popen([sys.executable, "-c", _BARE], stdout=subprocess.PIPE) for _ in range(at_once)]
    return median([float(process.communicate(timeout=60)[0]) for process in started])


def _spent(worker: int) -> float:
    """Processor time of a worker and of the processes that hash for it."""
    return sum(map(cpu_seconds, process_tree(worker)))


async def _import(base: str, key: str, people: int) -> float:
    """Seconds until ``people`` users are there."""
    waiting = iter(range(people))
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:

        async def lane() -> None:
            for number in waiting:
                body = {
                    "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
                    "userName": f"import-{number}@example.com",
                    "externalId": f"e-{number}",
                    "name": {"givenName": "Given", "familyName": f"Family {number}"},
                    "emails": [{"value": f"import-{number}@example.com", "primary": True}],
                    "active": True,
                }
                async with session.post(f"{base}/scim/v2/Users", json=body) as answer:
                    if answer.status != 201:
                        raise RuntimeError(await answer.text())

        started = time.monotonic()
        await asyncio.gather(*(lane() for _ in range(16)))
        return time.monotonic() - started


def run(seconds: float, people: int, out: str | None) -> None:
    """Measure and report."""
    bare, bare_everywhere = _bare_hashes(1), _bare_hashes(len(os.sched_getaffinity(0)))
    environment = {
        "BAILIWICK_RATE_LIMIT_ANONYMOUS": "1000000",
        "BAILIWICK_RATE_LIMIT_SIGN_IN": "1000000",
        "BAILIWICK_MAX_SESSIONS": "100",
    }
    with stack(environment=environment) as made:
        base = f"http://127.0.0.1:{made.bench_port}"
        names = _people(made)
        worker = next(pid for name, pid in made.parts().items() if name.startswith("w") and name[1:].isdigit())
        asyncio.run(_logins(base, names, 1))
        figures: dict[str, Any] = _beside_decisions(made, base, names, seconds)
        before, loop = _spent(worker), cpu_seconds(worker)
        alone, bad = asyncio.run(_logins(base, names, seconds))
        logins, each, loop = alone * seconds, _spent(worker) - before, cpu_seconds(worker) - loop
        figures |= {
            "local_logins_per_s_alone": round(alone, 1),
            "local_logins_per_s_per_core": round(logins / each, 1),
            "local_login_cpu_ms": round(1000 * each / logins, 2),
            "local_login_worker_cpu_ms": round(1000 * loop / logins, 2),
            "argon2_cpu_ms": bare,
            "argon2_cpu_ms_on_every_core": bare_everywhere,
        }
        _refreshes(base, names, 1)
        before = cpu_seconds(worker)
        refreshes = [_refreshes(base, names, seconds) for _ in range(ROUNDS)]
        spent = cpu_seconds(worker) - before
        figures |= {
            "refresh_rps_per_worker": median([load.rps for load in refreshes]),
            "refresh_rps_per_worker_least": round(min(load.rps for load in refreshes), 1),
            "refresh_p99_ms": median([load.p99 for load in refreshes]),
            "refresh_worker_cpu_ms": round(1000 * spent / sum(load.requests for load in refreshes), 3),
        }
        key = made.api.call(
            "POST", "/api/v1/api-keys", {"name": "directory", "permissions": ["scim:write"], "rate_limit": 1_000_000}
        )["api_key"]
        took = asyncio.run(_import(base, key, people))
        figures |= {"scim_users_per_s": round(people / took, 1), "scim_import_s": round(took, 1)}
        figures |= directory.ldap(made, seconds)
    figures["errors"] += bad + sum(load.errors for load in refreshes)
    report(
        "login",
        {**figures, "load_average": os.getloadavg()[0]},
        out,
        argon2=f"m={COST.memory_kib},t={COST.passes},p={COST.lanes}",
        path="direct to one worker; the directory's sign-ins through Envoy",
        method=f"{PEOPLE} people signing in over and over, {LANES} at once, beside {DECISIONS_PER_S} decisions/s by"
        f" hey, {PAIRS} times"
        " alternated with decisions alone, medians, and of the ratios of neighbours;"
        f" {SESSIONS} sessions refreshing by"
        f" wrk, {ROUNDS} times; {people} users by SCIM in 16 lanes;"
        " sign-ins by an OpenLDAP of 10,000 people by wrk -t2 -c32, medians of three; limits per network and of the"
        " key raised; development mode, so no second factor; per core: of the processor time that the worker and the"
        " processes that hash for it used",
    )


def _beside_decisions(made: Stack, base: str, names: Sequence[str], seconds: float) -> dict[str, Any]:
    """Sign-ins beside decisions, alternated with decisions alone."""
    question = json.dumps({"user_id": "admin", "resource": "servers", "action": "read"})
    headers = {"Authorization": f"Bearer {made.api.token}", "Content-Type": "application/json"}

    def decide() -> Load:
        return hey(f"{base}/api/v1/authz/evaluate", seconds, 16, DECISIONS_PER_S, headers, body=question)

    decide()
    quiet, busy, rates, failed = [], [], [], 0
    with ThreadPoolExecutor(1) as pool:
        for _ in range(PAIRS):
            quiet.append(decide())
            decided = pool.submit(decide)
            rate, bad = asyncio.run(_logins(base, names, seconds))
            busy.append(decided.result())
            rates.append(rate)
            failed += bad
    ratios = [during.p99 / without.p99 for during, without in zip(busy, quiet, strict=True)]
    return {
        "local_logins_per_s": median(rates),
        "decision_p50_ms_quiet": median([load.p50 for load in quiet]),
        "decision_p50_ms_during_logins": median([load.p50 for load in busy]),
        "decision_p99_ms_quiet": median([load.p99 for load in quiet]),
        "decision_p99_ms_during_logins": median([load.p99 for load in busy]),
        "decision_p99_ratio_during_logins": median(ratios),
        "decision_p99_ratios": sorted(round(ratio, 2) for ratio in ratios),
        "decisions_per_s_quiet": median([load.rps for load in quiet]),
        "decisions_per_s_during_logins": median([load.rps for load in busy]),
        "errors": failed + sum(load.errors for load in [*quiet, *busy]),
    }


def main(arguments: list[str]) -> None:
    """``python -m bench login``."""
    parser = argparse.ArgumentParser(prog="python -m bench login")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--people", type=int, default=10_000)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    run(given.seconds, given.people, given.json)
