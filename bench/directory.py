"""Signing in by a directory: a part of ``bench login``.

The directory is a real OpenLDAP of 10,000 people under TLS, as the tests start it. Everybody signs in once before it is
measured, so that what is measured is a day's sign-ins and not the making of users.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import aiohttp

from bench.common import Load, Stack, cpu_seconds, median, wrk

ROUNDS = 3
CONNECTIONS = 32
PEOPLE = 300  # of the directory's that sign in, again and again


def ldap(made: Stack, seconds: float) -> dict[str, float]:
    """Sign-ins by a directory: search, bind, groups, session; LDAPS, verified."""
    tests = Path(__file__).parent.parent / "tests"
    sys.path[:0] = [str(tests), str(tests / "identity")]
    import slapd  # type: ignore[import-not-found]  # the server that the tests sign in at

    with slapd.running() as directory:
        options = {
            "urls": [f"ldaps://127.0.0.1:{directory.ldaps_port}"],
            "ca": directory.authority.pem,
            "bind_dn": slapd.READER,
            "base_dn": slapd.BASE,
            "roles": {slapd.cn(f"team{n}"): "viewer" for n in range(100)},
            "pool_size": 16,
        }
        secrets = {"bind_password": slapd.READER_WORD}
        body = {"name": "bench", "kind": "ldap", "options": options, "secrets": secrets}
        made.api.call("POST", "/api/v1/identity-providers", body)
        url = f"http://127.0.0.1:{made.api_port}/api/v1/auth/login/ldap"
        script = f"""
local n = 0
local thread = 0
function setup(t) thread = thread + 1; t:set("offset", thread * {PEOPLE // 2}) end
function request()
  n = n + 1
  local who = string.format("user%05d", (offset + n) % {PEOPLE})
  local body = '{{"username":"' .. who .. '","password":"{slapd.WORD}"}}'
  return wrk.format("POST", nil, {{ ["Content-Type"] = "application/json" }}, body)
end
"""
        first = asyncio.run(_first(url, slapd.WORD))
        workers = [pid for part, pid in made.parts().items() if part.startswith("w") and part[1:].isdigit()]
        spent = sum(map(cpu_seconds, workers))
        loads: list[Load] = [wrk(url, seconds, CONNECTIONS, threads=2, script=script) for _ in range(ROUNDS)]
        spent = sum(map(cpu_seconds, workers)) - spent
    return {
        "ldap_logins_per_s": median([load.rps for load in loads]),
        "ldap_login_p99_ms": median([load.p99 for load in loads]),
        "ldap_first_logins_per_s": round(first, 1),
        "ldap_login_worker_cpu_ms": round(1000 * spent / max(1, sum(load.requests for load in loads)), 2),
        "ldap_errors": sum(load.errors for load in loads),
    }


async def _first(url: str, word: str) -> float:
    """Sign everybody in once, in as many lanes as later; how many a second. Each of them makes a user."""
    waiting = iter(range(PEOPLE))
    async with aiohttp.ClientSession() as session:

        async def lane() -> None:
            for number in waiting:
                body = {"username": f"user{number:05d}", "password": word}
                async with session.post(url, json=body) as answer:
                    if answer.status != 200:
                        raise RuntimeError(await answer.text())

        started = time.monotonic()
        await asyncio.gather(*(lane() for _ in range(CONNECTIONS)))
        return PEOPLE / (time.monotonic() - started)
