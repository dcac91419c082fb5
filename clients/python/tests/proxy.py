"""A TCP proxy that breaks connections off at chosen places."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

LAST_CHUNK = b"0\r\n\r\n"
EVENT_STREAM = b"content-type: text/event-stream"


@dataclass(frozen=True)
class Cut:
    """Where a connection ends: after so many bytes of its request, or of its reply."""

    of: str
    """`request` or `reply`."""
    offset: Callable[[int, int], int]
    """Bytes that still pass, given the lengths of head and body."""


@dataclass
class CuttingProxy:
    """Passes one request per connection on, and breaks off those that `cuts` has an entry for, one after the other."""

    target: tuple[str, int]
    cuts: list[Cut] = field(default_factory=list)
    resets: bool = False
    """Whether it breaks off with RST, else with FIN."""
    requests: list[str] = field(default_factory=list)
    """First lines of the requests of which something has arrived at the service."""

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def stop(self) -> None:
        # Wakes the thread that accepts.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(ConnectionError):
                self._pass_on(connection)

    def _pass_on(self, client: socket.socket) -> None:
        """Several requests one after the other, as long as the client keeps the connection."""
        with socket.create_connection(self.target) as server:
            while True:
                head, body = read_message(client)
                if not head:
                    return
                cut = self.cuts.pop(0) if self.cuts else None
                request = head + body
                if cut is not None and cut.of == "request":
                    passed = request[: cut.offset(len(head), len(body))]
                    if passed:
                        self.requests.append(request.split(b"\r\n")[0].decode())
                        server.sendall(passed)
                    self._break(client)
                    return
                self.requests.append(request.split(b"\r\n")[0].decode())
                server.sendall(request)
                reply_head, reply_body = read_message(server)
                if cut is None and EVENT_STREAM in reply_head.lower():
                    client.sendall(reply_head + reply_body)
                    while not reply_body.endswith(LAST_CHUNK):
                        reply_body = server.recv(65536)
                        client.sendall(reply_body)
                    return
                if cut is not None:
                    client.sendall((reply_head + reply_body)[: cut.offset(len(reply_head), len(reply_body))])
                    self._break(client)
                    return
                client.sendall(reply_head + reply_body)

    def _break(self, connection: socket.socket) -> None:
        if self.resets:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def read_message(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of an HTTP message as they stand on the wire; nothing at the end of the connection.

    Of a stream of events what has come with the head.
    """
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return b"", b""
        data += more
    split = data.index(b"\r\n\r\n") + 4
    head, body = data[:split], data[split:]
    headers = head.lower()
    if EVENT_STREAM in headers:
        return head, body
    if b"transfer-encoding: chunked" in headers:
        while not body.endswith(LAST_CHUNK):
            body += connection.recv(65536)
        return head, body
    length = 0
    for line in headers.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length:
        body += connection.recv(65536)
    return head, body


@contextmanager
def cutting_proxy(url: str) -> Iterator[CuttingProxy]:
    """A proxy before a service."""
    address = urlsplit(url)
    assert address.hostname is not None and address.port is not None
    proxy = CuttingProxy((address.hostname, address.port))
    try:
        yield proxy
    finally:
        proxy.stop()


CUTS = {
    "before a byte of the request": Cut("request", lambda head, body: 0),
    "inside the request's head": Cut("request", lambda head, body: head // 2),
    "between the request's head and body": Cut("request", lambda head, body: head),
    "inside the request's body": Cut("request", lambda head, body: head + body // 2),
    "before the request's last byte": Cut("request", lambda head, body: head + body - 1),
    "after the request": Cut("request", lambda head, body: head + body),
    "after the service has answered, before a byte of the reply": Cut("reply", lambda head, body: 0),
    "inside the reply's head": Cut("reply", lambda head, body: head // 2),
    "between the reply's head and body": Cut("reply", lambda head, body: head),
    "inside the reply's body": Cut("reply", lambda head, body: head + body // 2),
    "before the reply's last byte": Cut("reply", lambda head, body: head + body - 1),
}
