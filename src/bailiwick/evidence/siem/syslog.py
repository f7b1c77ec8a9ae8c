"""Syslog (RFC 5424) over TLS (RFC 5425), octet-counted.

Syslog has no acknowledgement. What can be had is this: each batch has a connection of its own, at whose end we close
our side and wait until the receiver, having read everything, closes his. A receiver that dies or turns us away with
bytes unread resets the connection, and the batch is sent again. With TLS 1.3 our handshake is over before he has looked
at our certificate, so an end of his alone says nothing: every byte must have been acknowledged, and he must not have
ended before we did. What he read and lost afterwards is his; let him queue to disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import socket
import ssl
import struct
import termios
import time
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints, model_validator

from bailiwick.evidence.events import rfc3339
from bailiwick.evidence.siem.destination import Batch, Item, Retry, Stop, severity
from bailiwick.evidence.siem.options import Certificates, Host, Timeout
from bailiwick.evidence.siem.outgoing import Means, reached, tls_context
from bailiwick.kernel.fields import Body

_SEVERITY = {"info": 6, "warning": 4, "error": 3}  # RFC 5424 table 2
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")
_TCP_CLOSE = 7  # tcp(7): TCP_INFO's first byte is the state

AppName = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,48}$")]
SdId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,20}@[0-9.]{1,11}$")]


class SyslogOptions(Body):
    """Where the receiver is. ``certificate``: ours, where he asks for one. ``server_name``: what his must name."""

    host: Host
    port: Annotated[int, Field(ge=1, le=65535)] = 6514
    server_name: Host | None = None
    ca: Certificates = ""
    certificate: Certificates = ""
    facility: Annotated[int, Field(ge=0, le=23, description="13 is log audit")] = 13
    app_name: AppName = "bailiwick"
    hostname: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{0,255}$")] = ""
    sd_id: SdId = Field("bailiwick@32473", description="Name of the structured data; 32473 is the number of examples")
    timeout_s: Timeout = 30.0

    @property
    def leads_to(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port


class SyslogSecrets(Body):
    """The private key of our certificate (PEM), where the receiver asks for one."""

    key: Annotated[SecretStr, Field(max_length=20_000)] | None = None

    @model_validator(mode="after")
    def _pem(self) -> SyslogSecrets:
        if self.key is not None and "PRIVATE KEY-----" not in self.key.get_secret_value():
            raise ValueError("must be a private key in PEM")
        return self


class Syslog:
    """One sink's receiver."""

    max_bytes = 4 << 20
    max_events = 10_000
    window = 1

    def __init__(self, options: SyslogOptions, secrets: SyslogSecrets, means: Means) -> None:
        self._options = options
        self._means = means
        self._host = _UNPRINTABLE.sub("-", options.hostname or means.host)[:255] or "-"
        self._context = tls_context(options.ca)
        if options.certificate and secrets.key is not None:
            _load(self._context, options.certificate, secrets.key.get_secret_value())

    async def send(self, batch: Batch) -> None:
        """See :class:`~bailiwick.evidence.siem.destination.Destination`."""
        options = self._options
        addresses = await reached(self._means.reach, options.host, options.port)
        await asyncio.to_thread(self._deliver, addresses, b"".join(map(self._frame, batch.items)))

    async def close(self) -> None:
        """Nothing is held between batches."""

    def _deliver(self, addresses: Sequence[str], frames: bytes) -> None:
        options = self._options
        where = f"{options.host}:{options.port}"
        try:
            raw = _connect(addresses, options.port, min(10.0, options.timeout_s))
            raw.settimeout(options.timeout_s)
            with self._context.wrap_socket(raw, server_hostname=options.server_name or options.host) as secured:
                secured.sendall(frames)
                _finish(secured, options.timeout_s)
        except ssl.SSLCertVerificationError as error:
            raise Stop(f"the certificate of {where} is not trusted: {error.verify_message}") from None
        except ssl.SSLError as error:
            reason = error.reason or ""
            if "ALERT" in reason and ("CERT" in reason or "UNKNOWN_CA" in reason):
                raise Stop(f"{where} does not accept our certificate: {reason}") from None
            raise Retry(f"{where}: {reason or error}") from None
        except TimeoutError:
            raise Retry(f"{where}: no answer in time") from None
        except OSError as error:
            raise Retry(f"{where}: {error.strerror or error}") from None

    def _frame(self, item: Item) -> bytes:
        priority = self._options.facility * 8 + _SEVERITY[severity(item.outcome)]
        values = {"id": item.id, "zone": item.zone, "seq": item.seq, "name": item.name, "outcome": item.outcome}
        data = " ".join(f'{name}="{_escaped(str(value))}"' for name, value in values.items())
        head = (
            f"<{priority}>1 {rfc3339(item.at)} {self._host} {self._options.app_name} - {item.code or '-'}"
            f" [{self._options.sd_id} {data}] "
        )
        message = head.encode() + item.body
        return str(len(message)).encode() + b" " + message


def _connect(addresses: Sequence[str], port: int, timeout_s: float) -> socket.socket:
    failure: OSError = OSError("there is no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout_s)
        except OSError as error:
            failure = error
    raise failure


def _finish(secured: ssl.SSLSocket, timeout_s: float) -> None:
    """Say that no more comes and wait until the receiver has read it all; raises ``OSError`` when he did not."""
    _all_acknowledged(secured, timeout_s)
    if _ended(secured):
        raise ConnectionError("the receiver closed before everything was sent")
    try:
        secured.unwrap()
    except ssl.SSLEOFError:
        pass  # many close without TLS's own farewell
    _all_acknowledged(secured, timeout_s)


def _ended(secured: ssl.SSLSocket) -> bool:
    """Whether the receiver has closed already. What he says otherwise (session tickets) is read and forgotten."""
    timeout = secured.gettimeout()
    secured.settimeout(0)
    try:
        return not secured.recv(1)
    except ssl.SSLWantReadError:
        return False
    finally:
        secured.settimeout(timeout)


def _all_acknowledged(connection: socket.socket, timeout_s: float) -> None:
    """Wait until his kernel has every byte; raises ``OSError`` when the connection was reset before."""
    deadline = time.monotonic() + timeout_s
    while True:
        waiting = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state == _TCP_CLOSE:
            raise ConnectionResetError("the receiver closed without having read everything")
        if waiting == 0:
            return
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.001)


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    # the library reads files only; this one has no name and is gone with the descriptor
    fd = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(fd, f"{key.strip()}\n{certificate.strip()}\n".encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _escaped(value: str) -> str:
    return re.sub(r'(["\\\]])', r"\\\1", value)
