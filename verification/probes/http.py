"""HTTPS from outside, to the address under test under the name that is served there."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .tls import TIMEOUT


@dataclass(frozen=True)
class Response:
    """An HTTP response. `headers` has lower-case names; of repeated ones the last."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Connection(http.client.HTTPConnection):
    """Connects to one address while it asks for another name; encrypted when it has a context."""

    def __init__(self, name: str, address: str, port: int, context: ssl.SSLContext | None) -> None:
        super().__init__(name, timeout=TIMEOUT)
        self._endpoint = (address, port)
        self._context = context

    def connect(self) -> None:
        self.sock = socket.create_connection(self._endpoint, TIMEOUT)
        if self._context:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)


def request(
    address: str,
    port: int,
    name: str,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    ca_file: Path | None = None,
) -> Response:
    """Ask for `path` at `address`:`port` as host `name`; over TLS, verified, when a `ca_file` is given.

    Raises OSError (ssl.SSLError included), http.client.HTTPException.
    """
    context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None
    connection = _Connection(name, address, port, context)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        fields = {key.lower(): value for key, value in response.getheaders()}
        return Response(response.status, fields, response.read())
    finally:
        connection.close()
