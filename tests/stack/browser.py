"""A headless Chromium that reaches loopback alone, driven over its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # the tests may run as root, in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--window-size=1280,1400",
    "--remote-debugging-port=0",
)


class Browser:
    """One tab. ``complaints`` are what its console showed as a warning or worse, ``asked`` the URLs it asked for."""

    def __init__(self, devtools: ClientConnection) -> None:
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self._devtools = devtools
        self._last = 0
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; what happens meanwhile is noted."""
        self._last += 1
        self._devtools.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._devtools.recv(timeout=30))
            if message.get("id") == self._last:
                assert "error" not in message, (method, message)
                return dict(message["result"])
            self._note(message.get("method", ""), message.get("params", {}))

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, url: str) -> None:
        self.do("Page.navigate", url=url)

    def until(self, expression: str, within: float = 20) -> Any:
        """The expression's value once it is truthy."""
        deadline = time.monotonic() + within
        while not (value := self.js(expression)):
            assert time.monotonic() < deadline, (expression, self.complaints)
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Click on what ``selector`` finds, once it is there."""
        self.until(f"!!document.querySelector({selector!r})")
        self.js(f"void document.querySelector({selector!r}).click()")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"]))

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in {"warning", "error", "assert"}:
            self.complaints.append(json.dumps(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in {"warning", "error"}:
            self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])
        elif method == "Network.loadingFailed" and not told.get("canceled"):
            self.complaints.append(json.dumps(told))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Chromium with an empty profile, ended and removed afterwards."""
    program = shutil.which("chromium")
    assert program is not None, "chromium is not installed; tools/apt-needs.sh installs it"
    profile = Path(tempfile.mkdtemp(prefix="bw-chromium-", dir="/tmp"))
    process = subprocess.Popen(
        [program, *_ARGUMENTS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port = _devtools_port(profile, process)
        with connect(f"ws://127.0.0.1:{port}/devtools/page/{_page(port)}", max_size=None, proxy=None) as devtools:
            yield Browser(devtools)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(profile, ignore_errors=True)


def _devtools_port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((profile / "DevToolsActivePort").read_text().split()[0])
        assert process.poll() is None and time.monotonic() < deadline, "chromium does not start"
        time.sleep(0.05)


def _page(port: int) -> str:
    from rig import call

    deadline = time.monotonic() + 10
    while True:
        for target in call("GET", f"http://127.0.0.1:{port}/json/list").json:
            if target["type"] == "page":
                return str(target["id"])
        assert time.monotonic() < deadline
        time.sleep(0.05)
