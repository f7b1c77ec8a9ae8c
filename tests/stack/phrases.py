"""What log queries of a production handoff search for, provoked on a whole installation."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from rig import PASSWORD, Stack, call

WRONG = "planted-wrong-password"


def check_phrases(stack: Stack, read: Callable[[str], dict[str, Any]]) -> None:
    """Provoke ``authentication failed``, ``rate limit exceeded`` and an ``ERROR``; ``read`` parses a line of the log."""
    wrong = {"username": "nobody", "password": WRONG}
    assert call("POST", f"{stack.api}/api/v1/auth/login/local", body=wrong).status == 401
    failed = read(stack.logged("authentication failed", "nobody")[-1])
    assert (failed["level"], failed["event"], failed["username"]) == ("WARNING", "authentication failed", "nobody")

    stack.govern("logged")
    assert stack.admin("PATCH", "/api/v1/applications/logged-agent", {"rate_limit": 1}).status == 200
    assert [stack.mandate("logged-agent", "logged").status for _ in range(4)][-1] == 429
    limited = read(stack.logged("rate limit exceeded")[-1])
    assert (limited["level"], limited["event"]) == ("WARNING", "rate limit exceeded")

    before = stack.parts()["w1"]
    os.kill(before, signal.SIGKILL)
    # other parts may have errors to tell of at the same time
    died = next(told for told in map(read, reversed(stack.logged("ERROR", "w1"))) if told.get("part") == "w1")
    assert died["level"] == "ERROR"
    deadline = time.monotonic() + 30
    while stack.parts().get("w1", before) == before or call("GET", f"{stack.api}/health/ready").status != 200:
        assert time.monotonic() < deadline, "the worker does not come back"
        time.sleep(0.1)

    everything = "".join(path.read_text(errors="replace") for path in (stack.data_dir / "logs").glob("*.log"))
    assert WRONG not in everything and PASSWORD not in everything and stack.token not in everything
