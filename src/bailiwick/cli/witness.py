"""``bailiwick witness``: cosign the checkpoints of logs that another party keeps. Needs no installation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bailiwick.cli.failure import FAILED, USAGE, CommandFailed, command
from bailiwick.cli.options import small_app

if TYPE_CHECKING:
    import socket

    from bailiwick.evidence.witness.service import Witness
    from bailiwick_verify.note import VerifierKey

app = small_app()


@app.command()
@command
def witness(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Its key and what it saw; made if need be.")],
    logs: Annotated[
        list[str] | None,
        typer.Option("--log", metavar="VKEY|FILE", help="Verifier key of a log to follow, or a file of them; repeat."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="The witness's name, for ever; such as witness.example.")] = "",
    host: Annotated[str, typer.Option("--host", help="Address to listen on; beyond loopback only with TLS.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8090,
    prefix: Annotated[str, typer.Option("--prefix", help="Path before /add-checkpoint.")] = "",
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="PEM certificate chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="PEM private key of the certificate.")] = None,
    show_key: Annotated[bool, typer.Option("--show-key", help="Print the verifier key and end.")] = False,
) -> int:
    """Run a witness: cosign each checkpoint of the given logs that continues the one seen before (C2SP tlog-witness).

    The first start makes the key. Standard output: the verifier key, which whoever trusts this witness needs, and the
    address, one a line.
    """
    import ssl
    import sys

    from bailiwick.evidence.witness.memory import Memory, MemoryUnusable, OtherName
    from bailiwick.evidence.witness.service import Witness
    from bailiwick.kernel import logging
    from bailiwick.kernel.clock import SystemClock
    from bailiwick.kernel.settings import LOOPBACK
    from bailiwick_verify.note import NoteError

    if (tls_cert is None) != (tls_key is None):
        raise CommandFailed(USAGE, "--tls-cert and --tls-key go together")
    if host not in LOOPBACK and tls_cert is None:
        raise CommandFailed(USAGE, "listening beyond loopback needs TLS (--tls-cert and --tls-key)")
    if tls_cert is not None and tls_key is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(tls_cert, tls_key)
        except (OSError, ssl.SSLError) as error:
            raise CommandFailed(USAGE, f"--tls-cert and --tls-key cannot be used: {error}") from None
    try:
        keys = _logs(logs or [])
    except (NoteError, OSError) as error:
        raise CommandFailed(USAGE, f"--log: {error}") from None
    if not keys and not show_key:
        raise CommandFailed(USAGE, "a witness needs at least one --log")
    logging.configure("json", "info", part="witness", stream=sys.stderr)
    memory = Memory(directory)
    try:
        signer = memory.open(name)
    except NoteError as error:
        raise CommandFailed(USAGE, f"--name: {error}") from None
    except OtherName as error:
        raise CommandFailed(USAGE, f"--name: {error}") from None
    except MemoryUnusable as error:
        raise CommandFailed(FAILED, str(error)) from None
    try:
        made = Witness(memory, signer, keys, SystemClock())
        print(made.key, flush=True)
        if show_key:
            return 0
        tls = (tls_cert, tls_key) if tls_cert is not None and tls_key is not None else None
        return _serve(made, _listen(host, port), prefix, tls)
    finally:
        memory.close()


def _serve(witness: Witness, listening: socket.socket, prefix: str, tls: tuple[Path, Path] | None) -> int:
    import asyncio
    import signal

    from bailiwick.evidence.witness.server import WitnessApp, serve

    async def run() -> None:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        bound, port = listening.getsockname()[:2]
        named = f"[{bound}]" if ":" in bound else bound
        print(f"{'https' if tls else 'http'}://{named}:{port}{prefix.rstrip('/')}", flush=True)
        await serve(WitnessApp(witness, prefix=prefix), listening, stopping, tls=tls)

    asyncio.run(run())
    return 0


def _listen(host: str, port: int) -> socket.socket:
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(("127.0.0.1" if host == "localhost" else host, port))
    except OSError as error:
        raise CommandFailed(FAILED, f"cannot listen on {host}:{port}: {error.strerror}") from None
    made.listen(128)
    return made


def _logs(given: list[str]) -> list[VerifierKey]:
    from bailiwick_verify.note import VerifierKey

    keys = []
    for text in given:
        path = Path(text)
        lines = [text] if "+" in text and not path.exists() else path.read_text().splitlines()
        keys += [VerifierKey.parse(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    return keys
