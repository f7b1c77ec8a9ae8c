"""People coming in: local sign-ins beside decisions, refreshes, a directory's import by SCIM and its sign-ins."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp

from bench import directory
from bench.common import Stack, cpu_seconds, hey, median, report, stack

PASSWORD = "bench: the password of everybody"
PEOPLE = 8
DECISIONS_PER_S = 2000


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

        async def once(lane: int) -> bool:
            body = {"username": names[lane % len(names)], "password": PASSWORD}
            async with session.post(f"{base}/api/v1/auth/login/local", json=body) as answer:
                await answer.read()
                return answer.status == 200

        return await _spend(seconds, PEOPLE, once)


async def _refreshes(base: str, names: Sequence[str], seconds: float, lanes: int) -> tuple[float, int]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=lanes)) as session:
        tokens = []
        for lane in range(lanes):
            body = {"username": names[lane % len(names)], "password": PASSWORD}
            async with session.post(f"{base}/api/v1/auth/login/local", json=body) as answer:
                tokens.append((await answer.json())["refresh_token"])

        async def once(lane: int) -> bool:
            body = {"refresh_token": tokens[lane]}
            async with session.post(f"{base}/api/v1/auth/refresh", json=body) as answer:
                told = json.loads(await answer.read())
                tokens[lane] = told.get("refresh_token", tokens[lane])
                return answer.status == 200

        return await _spend(seconds, lanes, once)


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
    environment = {"BAILIWICK_RATE_LIMIT_ANONYMOUS": "1000000", "BAILIWICK_MAX_SESSIONS": "100"}
    with stack(environment=environment) as made:
        base = f"http://127.0.0.1:{made.bench_port}"
        names = _people(made)
        question = json.dumps({"user_id": "admin", "resource": "servers", "action": "read"})
        headers = {"Authorization": f"Bearer {made.api.token}", "Content-Type": "application/json"}
        worker = next(pid for name, pid in made.parts().items() if name.startswith("w") and name[1:].isdigit())

        def decide() -> float:
            return hey(f"{base}/api/v1/authz/evaluate", seconds, 16, DECISIONS_PER_S, headers, body=question).p99

        decide()
        quiet, busy, rates, failed, per_core = [], [], [], 0, []
        with ThreadPoolExecutor(1) as pool:
            for _ in range(3):
                quiet.append(decide())
                decided = pool.submit(decide)
                asking = asyncio.run(_logins(base, names, seconds))
                busy.append(decided.result())
                rates.append(asking[0])
                failed += asking[1]
        # alone, by the processor time the worker used
        before = cpu_seconds(worker)
        alone, bad = asyncio.run(_logins(base, names, seconds))
        per_core.append(alone * seconds / (cpu_seconds(worker) - before))
        refreshed, lost = asyncio.run(_refreshes(base, names, seconds, 32))
        key = made.api.call(
            "POST", "/api/v1/api-keys", {"name": "directory", "permissions": ["scim:write"], "rate_limit": 1_000_000}
        )["api_key"]
        took = asyncio.run(_import(base, key, people))
        by_directory = directory.ldap(made, seconds)
    figures: dict[str, Any] = {
        "local_logins_per_s": median(rates),
        "local_logins_per_s_alone": round(alone, 1),
        "local_logins_per_s_per_core": median(per_core),
        "decision_p99_ms_quiet": median(quiet),
        "decision_p99_ms_during_logins": median(busy),
        "decision_p99_ratio_during_logins": round(median(busy) / median(quiet), 3),
        "refresh_rps_per_worker": round(refreshed, 1),
        "scim_users_per_s": round(people / took, 1),
        "scim_import_s": round(took, 1),
        **by_directory,
        "errors": failed + bad + lost,
        "load_average": os.getloadavg()[0],
    }
    report(
        "login",
        figures,
        out,
        path="direct to one worker; the directory's sign-ins through Envoy",
        method=f"{PEOPLE} people signing in over and over beside {DECISIONS_PER_S} decisions/s by hey, three times"
        f" alternated with decisions alone, medians; 32 sessions refreshing; {people} users by SCIM in 16 lanes;"
        " sign-ins by an OpenLDAP of 10,000 people by wrk -t2 -c32, medians of three; limits per network and of the"
        " key raised; development mode, so no second factor",
    )


def main(arguments: list[str]) -> None:
    """``python -m bench login``."""
    parser = argparse.ArgumentParser(prog="python -m bench login")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--people", type=int, default=10_000)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    run(given.seconds, given.people, given.json)
