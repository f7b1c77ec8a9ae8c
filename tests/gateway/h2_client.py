"""An HTTP/2 client that sends the headers it is given, however wrong they are."""

from __future__ import annotations

import socket
import ssl

import h2.config
import h2.connection
import h2.events
from raw_http import Answer


class H2Reset(Exception):
    """The server reset the stream or ended the connection."""


class H2:
    """One connection, prior knowledge (h2c) or over TLS."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="gateway.test")
            assert self.socket.selected_alpn_protocol() == "h2"
        config = h2.config.H2Configuration(
            validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding="latin-1"
        )
        self.connection = h2.connection.H2Connection(config)
        self.connection.initiate_connection()
        self._flush()

    def __enter__(self) -> H2:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def start(
        self, path: str, *headers: tuple[str, str], method: str = "GET", authority: str = "gateway", end: bool = True
    ) -> int:
        stream = self.connection.get_next_available_stream_id()
        pseudo = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path)]
        self.connection.send_headers(stream, [*pseudo, *headers], end_stream=end)
        self._flush()
        return stream

    def ask(
        self,
        path: str,
        *headers: tuple[str, str],
        body: bytes = b"",
        trailers: list[tuple[str, str]] | None = None,
        **more: str,
    ) -> Answer:
        stream = self.start(path, *headers, end=not body and not trailers, **more)
        if body:
            self.connection.send_data(stream, body, end_stream=not trailers)
        if trailers:
            self.connection.send_headers(stream, trailers, end_stream=True)
        self._flush()
        return self.answer(stream)

    def answer(self, stream: int) -> Answer:
        found = Answer(0, [], b"")
        while True:
            data = self.socket.recv(65536)
            if not data:
                raise H2Reset("connection ended")
            for event in self.connection.receive_data(data):
                if isinstance(event, h2.events.ConnectionTerminated):
                    raise H2Reset("connection ended")
                if getattr(event, "stream_id", None) != stream:
                    continue
                if isinstance(event, h2.events.StreamReset):
                    raise H2Reset("stream reset")
                if isinstance(event, h2.events.ResponseReceived):
                    found.headers = [(str(name), str(value)) for name, value in event.headers]
                    found.status = int(found.get(":status") or 0)
                if isinstance(event, h2.events.DataReceived):
                    found.body += event.data
                    self.connection.acknowledge_received_data(event.flow_controlled_length, stream)
                if isinstance(event, h2.events.StreamEnded):
                    self._flush()
                    return found
            self._flush()

    def offers_websockets(self) -> bool:
        """Whether the server's settings offer extended CONNECT (RFC 8441). Ask after the first answer."""
        return bool(self.connection.remote_settings.enable_connect_protocol)

    def _flush(self) -> None:
        self.socket.sendall(self.connection.data_to_send())
