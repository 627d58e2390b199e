"""A small D-Bus client: many calls go out at once, and their answers come back together.

Owns: the wire format (little-endian, without descriptors) and deadlines. Refuses: signals, serving, knowing AT-SPI.
A screen is some thousand questions; one after another they would take seconds.
"""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_ALIGN = {"y": 1, "b": 4, "n": 2, "q": 2, "i": 4, "u": 4, "x": 8, "t": 8, "d": 8, "s": 4, "o": 4, "g": 1, "a": 4,
          "v": 1, "(": 8, "{": 8, "h": 4}  # fmt: skip
_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}
_METHOD_RETURN, _ERROR = 2, 3
_REPLY_SERIAL, _LONGEST = 5, 1 << 24
_AT_ONCE = 400  # calls under way at a time


class BusError(Exception):
    """The bus is gone, or what it sent is no message."""


@dataclass(frozen=True)
class Call:
    """A method call. ``signature`` may hold basic types only."""

    name: str  # of the one that is asked
    path: str
    interface: str
    member: str
    signature: str = ""
    arguments: tuple[Any, ...] = ()


def one_type(signature: str, at: int) -> int:
    """Where the complete type that begins at ``at`` ends."""
    first = signature[at]
    if first == "a":
        return one_type(signature, at + 1)
    if first not in "({":
        return at + 1
    depth = 0
    for end in range(at, len(signature)):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(signature[end], 0)
        if depth == 0:
            return end + 1
    raise BusError(f"signature {signature!r} does not end")


class Reader:
    """Values out of a message body."""

    def __init__(self, content: bytes, at: int = 0) -> None:
        self._body, self._at = content, at

    def _align(self, size: int) -> None:
        self._at += -self._at % size

    def _unpack(self, form: str) -> Any:
        try:
            (value,) = struct.unpack_from("<" + form, self._body, self._at)
        except struct.error as error:
            raise BusError(f"a message is too short: {error}") from None
        self._at += struct.calcsize(form)
        return value

    def _text(self, length: int) -> str:
        text = self._body[self._at : self._at + length].decode("utf-8", "replace")
        self._at += length + 1
        return text

    def values(self, signature: str) -> list[Any]:
        found, at = [], 0
        while at < len(signature):
            end = one_type(signature, at)
            found.append(self.value(signature[at:end]))
            at = end
        return found

    def value(self, kind: str) -> Any:
        first = kind[0]
        self._align(_ALIGN[first])
        if first in _FIXED:
            return self._unpack(_FIXED[first])
        if first in "so":
            return self._text(self._unpack("I"))
        if first == "g":
            return self._text(self._unpack("B"))
        if first == "v":
            return self.value(self._text(self._unpack("B")))
        if first in "({":
            return tuple(self.values(kind[1:-1]))
        length = self._unpack("I")
        self._align(_ALIGN[kind[1]])
        end, found = self._at + length, []
        while self._at < end:
            found.append(self.value(kind[1:]))
        return found


def packed(signature: str, arguments: Sequence[Any], into: bytearray) -> None:
    """Append basic values to a message whose parts so far end at an 8-byte boundary or in ``into``."""
    for kind, value in zip(signature, arguments, strict=True):
        into += bytes(-len(into) % _ALIGN[kind])
        if kind in "sog":
            raw = str(value).encode()
            into += struct.pack("<B" if kind == "g" else "<I", len(raw)) + raw + b"\0"
        else:
            into += struct.pack("<" + _FIXED[kind], value)


def message(call: Call, serial: int) -> bytes:
    body = bytearray()
    packed(call.signature, call.arguments, body)
    fields = bytearray()
    told = [(1, "o", call.path), (2, "s", call.interface), (3, "s", call.member), (6, "s", call.name)]
    for code, kind, value in [*told, *([(8, "g", call.signature)] if call.signature else [])]:
        fields += bytes(-len(fields) % 8)
        fields += bytes((code, 1)) + kind.encode() + b"\0"
        packed(kind, (value,), fields)
    head = struct.pack("<cBBBIII", b"l", 1, 0, 1, len(body), serial, len(fields))
    return head + bytes(fields) + bytes(-len(fields) % 8) + bytes(body)


class Bus:
    """A connection. ``gather`` answers in the order of its calls; None where there was an error or no answer."""

    def __init__(self, path: str, seconds: float = 5.0) -> None:
        """Raises OSError or BusError where ``path`` is no socket of a bus."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(seconds)
        self._socket.connect(path)
        self._buffer = bytearray()
        self._serial = 0
        self._socket.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        said = self._socket.recv(512)
        if not said.startswith(b"OK"):
            raise BusError(f"the bus refused: {said[:80]!r}")
        self._socket.sendall(b"BEGIN\r\n")
        self._socket.setblocking(False)
        daemon = "org.freedesktop.DBus"
        (hello,) = self.gather([Call(daemon, "/org/freedesktop/DBus", daemon, "Hello")], seconds)
        if hello is None:
            raise BusError("the bus did not answer Hello")

    def fileno(self) -> int:
        return self._socket.fileno()

    def gather(self, calls: Iterable[Call], seconds: float) -> list[tuple[Any, ...] | None]:
        """Raises BusError where the bus is gone."""
        until = time.monotonic() + seconds
        waiting = list(calls)
        answers: list[tuple[Any, ...] | None] = [None] * len(waiting)
        for start in range(0, len(waiting), _AT_ONCE):
            part = waiting[start : start + _AT_ONCE]
            first = self._serial + 1
            self._serial += len(part)
            self._send(b"".join(message(call, first + i) for i, call in enumerate(part)), until)
            missing = len(part)
            while missing:
                found = self._next(until)
                if found is None:
                    return answers
                place = found[0] - first
                if 0 <= place < len(part):
                    missing -= 1
                    answers[start + place] = found[1]
        return answers

    def _send(self, content: bytes, until: float) -> None:
        view = memoryview(content)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                self._wait(select.POLLIN | select.POLLOUT, until)
                self._take()
            except OSError as error:
                raise BusError(f"the bus is gone: {error}") from None

    def _wait(self, events: int, until: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, events)
        left = until - time.monotonic()
        if left <= 0 and events & select.POLLOUT:
            raise BusError("the bus does not read")
        return bool(poll.poll(max(0.0, left * 1000)))

    def _take(self) -> None:
        try:
            part = self._socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError as error:
            raise BusError(f"the bus is gone: {error}") from None
        if not part:
            raise BusError("the bus is gone")
        self._buffer += part

    def _next(self, until: float) -> tuple[int, tuple[Any, ...] | None] | None:
        """(serial, values or None) of the next answer; None at the deadline."""
        while True:
            found = self._parse()
            if found is not None:
                return found
            if not self._wait(select.POLLIN, until):
                return None
            self._take()

    def _parse(self) -> tuple[int, tuple[Any, ...] | None] | None:
        while len(self._buffer) >= 16:
            order, kind, _, _, length, _, fields = struct.unpack_from("<cBBBIII", self._buffer)
            if order != b"l" or length > _LONGEST or fields > _LONGEST:
                raise BusError("a message of an unknown form")
            body = 16 + fields + -fields % 8
            if len(self._buffer) < body + length:
                return None
            raw = bytes(self._buffer[: body + length])
            del self._buffer[: body + length]
            if kind not in (_METHOD_RETURN, _ERROR):
                continue
            head = dict(Reader(raw, 12).value("a(yv)"))
            serial, signature = int(head.get(_REPLY_SERIAL, 0)), str(head.get(8, ""))
            if kind == _ERROR:
                return serial, None
            return serial, tuple(Reader(raw[body:]).values(signature))
        return None


def plain(text: str, longest: int) -> str:
    """One line without control characters, cut after ``longest`` characters."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufffc]", "", text)
    return text if len(text) <= longest else text[:longest] + "..."
