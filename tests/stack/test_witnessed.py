"""An installation and its witness, which another party runs: a process of its own, over TLS, killed and started again."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rig import CLI, Stack, call, installation

from ports import free_port


def certificate(home: Path) -> tuple[Path, Path]:
    cert, key = home / "cert.pem", home / "key.pem"
    subject = ("-subj", "/CN=witness", "-addext", "subjectAltName=IP:127.0.0.1")
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    subprocess.run([*made, *subject, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


@contextlib.contextmanager
def witness(home: Path, port: int, log: Path) -> Iterator[subprocess.Popen[str]]:
    cert, key = home / "cert.pem", home / "key.pem"
    options = ("--port", str(port), "--log", str(log), "--tls-cert", str(cert), "--tls-key", str(key))
    process = subprocess.Popen(
        [*CLI, "witness", str(home / "witness"), *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() and process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def cosigned(stack: Stack, beyond: int = -1) -> int:
    """The size of the newest cosigned head, once it is above ``beyond``."""
    deadline = time.monotonic() + 60
    while True:
        got = call("GET", f"{stack.api}/evidence/default/cosigned-checkpoint")
        size = int(got.text.split("\n")[1]) if got.status == 200 else -1
        if size > beyond:
            return size
        assert time.monotonic() < deadline, f"nothing beyond {beyond} is cosigned: {got}"
        time.sleep(0.1)


def test_a_witness_cosigns_what_an_installation_signs(tmp_path: Path) -> None:
    cert, _ = certificate(tmp_path)
    port, log = free_port(), tmp_path / "log"
    first = [*CLI, "witness", str(tmp_path / "witness"), "--name", "witness.example", "--show-key"]
    key = subprocess.run(first, capture_output=True, text=True, check=True).stdout.strip()
    settings = {"BAILIWICK_WITNESSES": f"https://127.0.0.1:{port} {key}", "BAILIWICK_WITNESS_CA": str(cert)}
    with installation(**settings) as stack:
        assert call("GET", f"{stack.api}/evidence/default/cosigned-checkpoint").status == 404
        log.write_text(call("GET", f"{stack.api}/evidence/default/verifier-keys").text)
        with witness(tmp_path, port, log) as process:
            size = cosigned(stack)
            process.kill()
        stack.govern("pay")  # events that nobody cosigns yet
        with witness(tmp_path, port, log):
            size = cosigned(stack, size)
            report = verified(stack, log, "--witness", key, "--quorum", "1")
            assert report["verdict"] == "PASS" and report["cosigned_size"] >= size
            metrics = call("GET", f"{stack.api}/metrics").text
            assert 'bailiwick_witness_answers_total{result="cosigned",witness="witness.example"}' in metrics
            assert 'bailiwick_witness_refuses{witness="witness.example",zone="default"} 0.0' in metrics
        export = stack.cli("audit", "export", str(tmp_path / "export"))
        assert export.returncode == 0, export.stderr
        assert (tmp_path / "export" / "cosigned-checkpoint").exists()


def verified(stack: Stack, keys: Path, *more: str) -> Any:
    environment = {"PATH": "/usr/bin:/bin", "BAILIWICK_TOKEN": stack.token, "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-m", "bailiwick_verify.cli", "live", f"{stack.api}/evidence/default"]
    done = subprocess.run(
        [*command, "--key", str(keys), "--json", *more], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)
