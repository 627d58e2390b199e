"""Messages between a worker and its keeper: 4 bytes length, carrying descriptors, then JSON.

Owns: framing. Refuses: meaning.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any


def send(link: socket.socket, body: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    raw = json.dumps(body).encode()
    socket.send_fds(link, [struct.pack("=I", len(raw))], list(descriptors))
    link.sendall(raw)


def receive(link: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Raises ConnectionError at the end of the link."""
    head, descriptors, _, _ = socket.recv_fds(link, 4, 8)
    if len(head) < 4:
        raise ConnectionError("connection closed")
    (size,) = struct.unpack("=I", head)
    body = bytearray()
    while len(body) < size:
        part = link.recv(size - len(body))
        if not part:
            raise ConnectionError("connection closed")
        body += part
    return json.loads(body), descriptors
