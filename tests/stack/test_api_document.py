"""The API as its document has it: every operation tried through the real front, what is malformed, and the page."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import browser
from rig import PASSWORD, Stack, call, installation

from unmeasured import unmeasured

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance"
)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with installation(WORKERS="2") as made:
        made.govern("pay")
        yield made


# ---------------------------------------------------------------------- every operation


def walked(
    stack: Stack,
    home: Path,
    *options: str,
    phases: str = "examples,fuzzing",
    examples: int,
    least: int = 600,
    **environment: str,
) -> int:
    """Run schemathesis over the document; how many operations it tried. What it finds fails the test."""
    command = [
        str(Path(sys.executable).parent / "st"), "run", f"{stack.api}/openapi.json", "--checks", CHECKS,
        "--phases", phases, "--max-examples", str(examples), "--workers", "1",
        "--seed", "20261121", "--generation-database", "none", "--suppress-health-check", "all",
        "--warnings", "off", "--request-timeout", "20", "--no-color", *options,
    ]  # fmt: skip
    hooks = {"SCHEMATHESIS_HOOKS": "document_hooks", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent)])}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=home, timeout=1100, env=unmeasured(**hooks, **environment)
    )
    assert done.returncode == 0, re.sub(r"0{40,}", "0…", done.stdout)[-16000:] + done.stderr[-2000:]
    generated = re.search(r"Test cases:\s+([\d,]+) generated", done.stdout)
    assert generated and int(generated[1].replace(",", "")) > least, done.stdout[-3000:]
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested, done.stdout[-3000:]
    return int(tested[1])


def operations(stack: Stack) -> int:
    paths = call("GET", f"{stack.api}/openapi.json").json["paths"]
    return sum(len(item) for item in paths.values())


@pytest.mark.timeout(1200)
def test_every_operation_answers_an_administrator_as_documented(stack: Stack, tmp_path: Path) -> None:
    token = stack.login("admin", PASSWORD)
    # they would end the session that walks, or ask a directory that the walk itself made up
    own = "^/api/v1/auth/(logout|password|oidc/logout|saml/logout|login/ldap)$"
    # every boundary of every member (`make fuzz`) is some ten thousand requests
    phases = os.environ.get("BAILIWICK_WALK", "examples,fuzzing")
    tried = walked(
        stack, tmp_path, "-H", f"Authorization: Bearer {token}", "--exclude-path-regex", own,
        phases=phases, examples=2, WALKERS_TOKEN=token,
    )  # fmt: skip
    assert tried == operations(stack) - 5
    assert call("GET", f"{stack.api}/api/v1/auth/me", token=token).status == 200, "most of it was tried without a token"
    assert call("GET", f"{stack.api}/health/ready").status == 200


@pytest.mark.timeout(1200)
def test_every_operation_answers_a_stranger_as_documented(stack: Stack, tmp_path: Path) -> None:
    # he is refused whatever he sends, so one example of each operation says as much as three
    assert walked(stack, tmp_path, examples=1, least=300) == operations(stack)


def test_the_document_tells_every_refusal_and_nothing_of_the_framework(stack: Stack) -> None:
    document = call("GET", f"{stack.api}/openapi.json").json
    assert "HTTPValidationError" not in json.dumps(document)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for status, response in operation["responses"].items():
                if status == "431":
                    assert "content" not in response, "the proxy says it, in its own words"
                elif status.startswith(("4", "5")) and not path.endswith("/ready"):
                    kinds = ["application/problem+json"]
                    if path.startswith("/oauth/"):
                        kinds = ["application/json"]
                    elif path.startswith("/scim/"):
                        kinds = ["application/scim+json", *kinds]
                    assert list(response["content"]) == kinds, (method, path, status)
            if operation.get("security"):
                assert {"401", "403", "503"} <= operation["responses"].keys(), (method, path)


# ---------------------------------------------------------------------- what is malformed


def exchanged(base: str, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to bytes that no client would send."""
    parts = urlsplit(base)
    answer = b""
    with socket.create_connection((parts.hostname or "", parts.port or 0), 15) as connection:
        connection.sendall(sent)
        while b"\r\n\r\n" not in answer or not _complete(answer):
            received = connection.recv(65536)
            if not received:
                break
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split(" ")[1]), headers, body


def _complete(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return length is not None and len(body) >= int(length[1])


MALFORMED = {
    "a header of 40 KiB": (b"GET /api/v1/users HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * (40 << 10), 431),
    "300 headers": (b"GET /api/v1/users HTTP/1.1\r\nHost: x" + b"".join(b"\r\nX-%d: x" % n for n in range(300)), 431),
    "a byte beyond ASCII in the path": (b"GET /api/v1/us\xffers HTTP/1.1\r\nHost: x", 400),
    "NUL in a header": (b"GET /api/v1/users HTTP/1.1\r\nHost: x\r\nX-Nul: a\0b", 400),
    "no host": (b"GET /api/v1/users HTTP/1.1\r\nX-Any: x", 400),
    "two lengths": (b"POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2", 400),
    "length and chunks": (
        b"POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        400,
    ),
    "NUL in a path parameter": (b"GET /api/v1/users/a%00b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN", 400),
    "half a character in a path parameter": (
        b"GET /api/v1/users/%ff HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN",
        400,
    ),
    "NUL in the query": (
        b"GET /api/v1/audit/events?text=%00 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN",
        400,
    ),
    "half a character in the query": (
        b"GET /api/v1/users?cursor=%ff HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN",
        400,
    ),
    "a token beyond ASCII": (b"GET /api/v1/users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xc3\xa9", 401),
    "a token of 20 KiB": (b"GET /api/v1/users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"x" * (20 << 10), 401),
}


@pytest.mark.parametrize("case", MALFORMED, ids=str)
def test_what_is_malformed_is_told_so(stack: Stack, case: str) -> None:
    sent, status = MALFORMED[case]
    got, headers, body = exchanged(stack.api, sent.replace(b"TOKEN", stack.token.encode()) + b"\r\n\r\n")
    assert got == status, body[:500]
    assert headers["content-type"] == "application/problem+json"
    told = json.loads(body)
    assert told["reason"] and told["status"] == status


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (json.dumps({"username": "x" * (10 << 20)}).encode(), 413, "payload_too_large"),
        (b'{"username": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "invalid_request"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400, "invalid_request"),
        (b'{"username": "\xff\xfe"}', 400, "invalid_request"),
        (b'{"username": "\\ud800", "password": "x"}', 400, "invalid_request"),
        (b'{"username": "a\\u0000b", "password": "x"}', 400, "invalid_request"),
    ],
    ids=["10 MB of JSON", "100,000 lists deep", "100,000 objects deep", "not UTF-8", "half a surrogate", "NUL"],
)
@pytest.mark.parametrize(
    "path", ["/api/v1/users", "/api/v1/auth/login/local", "/api/v1/servers", "/api/v1/revocations"]
)
def test_a_malformed_body_is_told_so(stack: Stack, path: str, body: bytes, status: int, reason: str) -> None:
    got = call("POST", stack.api + path, token=stack.token, body=body)
    assert (got.status, got.reason) == (status, reason), got.text[:500]
    assert got.headers["content-type"] == "application/problem+json"


# ---------------------------------------------------------------------- the page


def test_the_page_shows_every_operation_to_a_browser_without_a_network(stack: Stack, tmp_path: Path) -> None:
    count = operations(stack)
    with browser() as chromium:
        chromium.open(f"{stack.api}/docs")
        chromium.until(f"document.querySelectorAll('.opblock').length === {count}")
        assert "Bailiwick" in chromium.js("document.querySelector('.info .title').innerText")
        # one that is opened shows its body and its refusals
        decide = "#operations-policies-evaluate"
        chromium.click(f"{decide} .opblock-summary-control")
        shown = chromium.until(f"document.querySelector('{decide} .responses-table')?.innerText")
        assert "503" in shown and "problem+json" in shown
        chromium.js(f"document.querySelector('{decide}').scrollIntoView()")
        chromium.screenshot(tmp_path / "docs.png")
        assert (tmp_path / "docs.png").stat().st_size > 20_000
        # and asks for itself
        basic = "[id^=operations-health-basic]"
        for button in (".opblock-summary-control", ".try-out__btn", ".execute"):
            chromium.click(f"{basic} {button}")
        answer = chromium.until(f"document.querySelector('{basic} .live-responses-table')?.innerText")
        assert '"hostname"' in answer
        assert not chromium.complaints
        elsewhere = [url for url in chromium.asked if not url.startswith((stack.api, "data:", "blob:"))]
        assert not elsewhere
