"""A handover of a whole installation, signed through its front door: by a passkey, in a browser; and checked offline."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import Browser, browser
from rig import Stack, call, installation
from test_passkeys_in_a_browser import Authenticator

from bailiwick.assurance.shipped import shipped
from bailiwick_verify.cli import main as verify

PASSWORD = "long enough for all"
KEPT = frozenset({"Activity", "Threshold", "WaiverControl", "WaiverTier", "OverrideRule", "HypercarePlan"})
BOOK = """
apiVersion: bailiwick/v1
kind: Channel
metadata: {name: makers}
spec: {slack: {}, secret_name: hook-makers}
---
apiVersion: bailiwick/v1
kind: Route
metadata: {name: everything}
spec: {channels: [makers]}
---
apiVersion: bailiwick/v1
kind: Environment
metadata: {name: production}
spec: {title: Production, purpose: production, profile: single, has: []}
---
apiVersion: bailiwick/v1
kind: Checklist
metadata: {name: go-live}
spec:
  owner: uptime
  title: What must be so
  areas:
    - key: operations
      title: Operations
      role: ops_owner
      items:
        - {key: database, title: The database answers, probe: {check: {type: internal, what: database}}}
---
apiVersion: bailiwick/v1
kind: ReadinessProfile
metadata: {name: production}
spec: {owner: uptime, profile: single, checklists: [go-live]}
---
apiVersion: bailiwick/v1
kind: Rota
metadata: {name: default}
spec:
  start: "2026-01-01"
  levels: {primary: {people: [eve]}, secondary: {people: [otto]}}
---
apiVersion: bailiwick/v1
kind: HandoverPlan
metadata: {name: bau}
spec:
  environment: production
  from: The makers
  to: Operations
  teams:
    engineering: {people: [eve]}
    operations: {people: [otto]}
    security: {people: [sam]}
    management: {people: [mia]}
  receives: {people: [otto]}
  activities:
    uptime: {accountable: "person:otto"}
  rotas:
    default: {levels: {primary: {people: [otto]}}}
  routes:
    everything: {channels: [makers]}
"""
_SHOWN = "document.querySelector('h1')?.innerText"
TITLE = "Handover of production: The makers to Operations"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(WORKERS="1", BAILIWICK_PUBLIC_URL="http://localhost:{api_port}") as made:
        green_pack(made)
        yield made


def told(stack: Stack, method: str, path: str, body: Any = None, *, token: str = "", expect: int = 200) -> Any:
    got = call(method, f"{stack.api}/api/v1{path}", token=token or stack.token, body=body)
    assert got.status == expect, (path, got)
    return got.json


def green_pack(stack: Stack) -> None:
    """A pack that may be signed: whatever of a new installation is not PASS is waived by name."""
    for name in ("eve", "otto", "sam", "mia"):
        person = {"username": name, "email": f"{name}@example.com", "role": "operator", "password": PASSWORD}
        told(stack, "POST", "/users", {**person, "mfa_enabled": name == "sam"}, expect=201)
    kept = [
        {"apiVersion": each.api_version, "kind": each.kind, "metadata": {"name": each.name}, "spec": dict(each.spec)}
        for each in shipped("default")
        if each.kind in KEPT
    ]
    documents = [*kept, *yaml.safe_load_all(BOOK)]
    planned = told(stack, "POST", "/assurance/plan", {"documents": documents})
    applied = stack.agreed("POST", "/api/v1/assurance/apply", {"documents": documents, "sha256": planned["sha256"]})
    assert applied.status == 200, applied
    told(stack, "POST", "/readiness/production/runs", expect=202)
    deadline = time.monotonic() + 30
    while (stands := told(stack, "GET", "/readiness/production"))["verdict"] != "PASS":
        assert time.monotonic() < deadline, stands
        time.sleep(0.2)
    for _ in range(3):
        made = told(stack, "POST", "/handovers", {"plan": "bau"}, expect=201)
        found = told(stack, "GET", f"/handovers/{made['id']}")
        red = [
            f"{chapter['name']}/{each['name']}"
            for chapter in found["document"]["chapters"]
            for each in chapter["statements"]
            if each["verdict"] != "PASS" and not each["waiver"]
        ]
        if not red:
            return
        for scope in red:
            asked = {
                "control": "handover-statement", "scope": f"production/{scope}", "reason": "it is new", "risk": "LOW",
                "compensating": "a look at it", "owner": "uptime", "plan": "it will be shown",
                "valid_until": (datetime.now(UTC) + timedelta(days=10)).isoformat(),
            }  # fmt: skip
            waiver = told(stack, "POST", "/waivers", asked, expect=201)
            told(stack, "POST", f"/waivers/{waiver['id']}/approve", {}, token=stack.second())
    raise AssertionError(red)


def enrol(chromium: Browser, here: str) -> None:
    """sam signs in for the first time, and makes a passkey on the way."""
    chromium.open(f"{here}/console/handovers")
    chromium.until("document.getElementById('first')?.checkVisibility()")
    for name, value in (("username", "sam"), ("password", PASSWORD)):
        chromium.js(f"void (document.getElementById({name!r}).value = {value!r})")
    chromium.click("#by-password button")
    chromium.until("document.getElementById('enrol').checkVisibility()")
    chromium.click("#make-passkey")
    chromium.until("document.getElementById('codes').checkVisibility()")
    chromium.click("#codes a.button")
    chromium.until(f"{_SHOWN} === 'Handovers' && document.readyState === 'complete'")


def test_from_the_front_door_to_a_signature_that_holds_offline(stack: Stack, tmp_path: Path) -> None:
    here = stack.api.replace("127.0.0.1", "localhost")
    with browser() as chromium:
        chromium.open(f"{here}/console")
        Authenticator(chromium)
        enrol(chromium, here)
        # a pack names the keys that there are when it is built
        built = told(stack, "POST", "/handovers", {"plan": "bau"}, expect=201)
        # signed out, and in again by the passkey alone
        chromium.open(f"{here}/console/handovers")
        chromium.until(f"{_SHOWN} === 'Handovers' && document.readyState === 'complete'")
        chromium.click("#sign-out")
        chromium.until("document.getElementById('first')?.checkVisibility()")
        chromium.click("#passkey")
        chromium.until(f"{_SHOWN} === 'Handovers' && document.readyState === 'complete'")
        assert "you sign for security" in chromium.js("document.querySelector('main').innerText")
        chromium.click("section a")
        chromium.until(f"{_SHOWN} === {TITLE!r} && document.readyState === 'complete'")
        assert built["sha256"] in chromium.js("document.querySelector('.hash').innerText")
        chromium.click("#by-passkey")
        chromium.until("document.getElementById('told')?.innerText === 'You signed for security, by a passkey.'")
        assert not [each for each in chromium.complaints if "status of 401" not in each], chromium.complaints
        assert all(each.startswith((f"{here}/", "data:")) for each in chromium.asked), chromium.asked
    found = told(stack, "GET", f"/handovers/{built['id']}")
    (signed,) = found["signatures"]
    assert (signed["team"], signed["person"], signed["how"]) == ("security", "sam", "webauthn")

    # whoever has the log's key sees that a passkey gave it, over this pack
    out, key = tmp_path / "handover.zip", tmp_path / "key"
    key.write_text(call("GET", f"{stack.api}/evidence/default/verifier-keys").text)
    stack.environment["BAILIWICK_TOKEN"] = stack.token
    packed = stack.cli("handover", "pack", built["id"], "-o", str(out))
    assert packed.returncode == 0, packed.stdout + packed.stderr
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = verify(["pack", str(out), "--key", str(key)])
    assert code == 0 and "by a WebAuthn key over the SHA-256" in said.getvalue(), said.getvalue()


def session_cookie(stack: Stack, here: str) -> str:
    """eve's, as a browser keeps it."""
    connection = http.client.HTTPConnection(stack.api.partition("//")[2], timeout=30)
    body = json.dumps({"username": "eve", "password": PASSWORD})
    sent = {"X-Bailiwick-Session": "cookie", "Origin": here, "Content-Type": "application/json"}
    with contextlib.closing(connection):
        connection.request("POST", "/api/v1/auth/login/local", body, sent)
        given = connection.getresponse().headers.get_all("set-cookie") or []
    return next(each.partition(";")[0] for each in given if "_session=" in each)


def test_the_front_door_lets_nobody_frame_or_forge_it(stack: Stack) -> None:
    for path in ("/console/sign-in", "/console/handovers", "/z/default/console/handovers"):
        got = call("GET", f"{stack.api}{path}")
        assert got.status == (200 if path.endswith("sign-in") else 303), got
        policy = got.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
        assert got.headers["x-frame-options"] == "DENY" and got.headers["cache-control"] == "no-store"
    here = stack.api.replace("127.0.0.1", "localhost")
    cookie = session_cookie(stack, here)
    got = call("GET", f"{stack.api}/console/handovers", headers={"Cookie": cookie})
    assert got.status == 200 and "Signed in as" in got.text, got
    found = told(stack, "GET", "/handovers")["handovers"][0]
    said = json.dumps({"team": "engineering", "sha256": found["sha256"]}).encode()
    for more in ({}, {"Origin": "https://evil.example.com"}, {"Origin": here, "X-CSRF-Token": "a" * 43}):
        sent = {"Cookie": cookie, "Content-Type": "application/json", **more}
        got = call("POST", f"{stack.api}/api/v1/handovers/{found['id']}/sign", body=said, headers=sent)
        assert (got.status, got.reason) == (403, "csrf_refused"), more
