"""Decisions over HTTP, directly to one worker: the shipped policy, and one over 200 roles and 2,000 grants."""

from __future__ import annotations

import argparse
import json
from typing import Any

from bench.common import Load, hey, median, report, stack, wrk

ROUNDS = 3
ROLES, GRANTS = 200, 2_000

GRANTS_POLICY = """
package bench.grants

import rego.v1

default allow := false

allow if {
	some role in input.user.roles
	data.bench_grants[role][input.resource][input.action]
}
"""


def grants() -> dict[str, Any]:
    """2,000 grants indexed by role and resource."""
    index: dict[str, Any] = {}
    for number in range(GRANTS):
        role, resource = f"role-{number % ROLES}", f"resource-{number // ROLES}"
        index.setdefault(role, {})[resource] = {"read": True}
    return {"bench_grants": index}


def _script(token: str, body: str, *, full: bool) -> str:
    """wrk's Lua: posts ``body``, an expression over ``n``, with a counter that differs by thread."""
    return f"""
local n = 0
local thread = 0
function setup(t) thread = thread + 1; t:set("offset", thread * 100000000) end
function request()
  n = n + 1
  return wrk.format("POST", nil, headers, {body})
end
headers = {{ ["Authorization"] = "Bearer {token}", ["Content-Type"] = "application/json" }}
"""


def run(seconds: float, connections: int, out: str | None) -> None:
    """Measure and report."""
    environment = {"BAILIWICK_DECISION_CACHE_ENTRIES": "50000"}
    with stack(environment=environment) as made:
        made.activate("grants", GRANTS_POLICY, grants())
        url = f"http://127.0.0.1:{made.bench_port}/api/v1/authz/evaluate"
        token = made.api.token
        seed = json.dumps(json.dumps({"user_id": "admin", "resource": "servers", "action": "read"}))
        question = (
            '\'{"input":{"stage":"evaluate","user":{"id":"u","role":"role-\' .. (n % 200) .. \'",'
            '"roles":["role-\' .. (n % 200) .. \'"]},"action":"read","resource":"resource-\' .. RESOURCE .. \'"}}\''
        )
        scripts = {
            "seed": _script(token, seed, full=False),
            "grants_cached": _script(token, question.replace("RESOURCE", "(n % 5)"), full=True),
            "grants_uncached": _script(token, question.replace("RESOURCE", "(offset + n)"), full=True),
        }
        loads: dict[str, list[Load]] = {name: [] for name in scripts}
        for script in scripts.values():
            wrk(url, 1, connections, script=script)
        for _ in range(ROUNDS):
            for name, script in scripts.items():
                loads[name].append(wrk(url, seconds, connections, script=script))
        rate = median([load.rps for load in loads["seed"]]) / 2
        posted = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        half = hey(url, seconds, 16, rate, posted, body=json.loads(seed))
    report(
        "decision",
        {
            **{f"rps_per_worker_{name}": median([load.rps for load in found]) for name, found in loads.items()},
            "p99_ms": half.p99,
            "half_load_rps": round(half.rps, 1),
            **{f"saturated_p99_ms_{name}": median([load.p99 for load in found]) for name, found in loads.items()},
            "errors": sum(load.errors for found in loads.values() for load in found) + half.errors,
        },
        out,
        path="direct to one worker",
        method=f"wrk -t1 -c{connections}, {seconds:g} s, alternated {ROUNDS} times, medians; evidence on;"
        " p99_ms by hey at half the rate",
    )


def main(arguments: list[str]) -> None:
    """``python -m bench decision``."""
    parser = argparse.ArgumentParser(prog="python -m bench decision")
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--connections", type=int, default=128)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    run(given.seconds, given.connections, given.json)
