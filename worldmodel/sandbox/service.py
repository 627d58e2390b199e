"""A long-running program in a box, behind pipes: lines in, lines out.

Owns: the pipes, deadlines, the longest line. Refuses: what the lines mean (a domain), the box itself (box).

For what a domain keeps running during an episode: a tool server, a browser with its driver, a desktop. Its errors
go to /dev/null unless ``errors`` names a file of the workspace. Anything but a whole line within the deadline has
killed the box: what a late line would answer is unknown.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from typing import Any

from worldmodel.sandbox.box import Box, ends, take
from worldmodel.sandbox.limits import HOME, Limits, SandboxError
from worldmodel.sandbox.link import Link

_START = 'ulimit -SHu "$1"; cd "$2"; errors="$3"; shift 3; exec "$@" 2>"$errors"'


class Service(Box):
    """A running program. One thread at a time, except ``interrupt``. ``limits.output`` bounds a line in bytes."""

    def __init__(
        self,
        link: Link,
        workspace: dict[str, Any],
        limits: Limits,
        argv: Sequence[str],
        errors: str = "/dev/null",
        writable: bool = True,
    ) -> None:
        self._buffer = bytearray()
        in_read, self._in = os.pipe()
        self._out, out_write = os.pipe()
        words = ("/bin/bash", "-c", _START, "service", str(limits.processes), HOME, errors, *argv)
        super().__init__(link, workspace, limits, writable, words, (in_read, out_write))
        for fd in (self._in, self._out):
            os.set_blocking(fd, False)
        try:
            self.adopt()
        except BaseException:
            self.kill()
            raise

    def _close(self) -> None:
        super()._close()
        for name in ("_in", "_out"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)

    @property
    def running(self) -> bool:
        """Whether it could be asked now: false also where it died since it was last asked."""
        with self._guard:
            return self._held and not any(ends(fd, 0.0) for fd in self.pidfds)

    @property
    def _held(self) -> bool:
        return bool(self.pidfds) and self._in >= 0

    def ask(self, line: bytes, seconds: float | None = None) -> bytes:
        """``send`` and ``receive`` within ``seconds`` (default ``limits.deadline``)."""
        until = time.monotonic() + (self.limits.deadline if seconds is None else seconds)
        self.send(line, until - time.monotonic())
        return self.receive(until - time.monotonic())

    def send(self, line: bytes, seconds: float | None = None) -> None:
        """One line, without its end. Raises SandboxError where the program is gone or does not read."""
        until = time.monotonic() + (self.limits.deadline if seconds is None else seconds)
        content = line + b"\n"
        while content:
            self._check()
            try:
                content = content[os.write(self._in, content) :]
            except BlockingIOError:
                self._wait(self._in, select.POLLOUT, until, "read")
            except BrokenPipeError:
                self._end("ended")

    def receive(self, seconds: float | None = None) -> bytes:
        """The next line, without its end. Raises SandboxError where none comes."""
        until = time.monotonic() + (self.limits.deadline if seconds is None else seconds)
        while True:
            line, found, rest = self._buffer.partition(b"\n")
            if found:
                self._buffer = rest
                return bytes(line)
            if len(self._buffer) > self.limits.output:
                self._end(f"wrote a line of more than {self.limits.output} bytes")
            self._check()
            self._wait(self._out, select.POLLIN, until, "answer")
            part = take(self._out)
            if not part:
                self._end("ended")
            self._buffer += part

    def _check(self) -> None:
        if not self._held:
            raise SandboxError("sandbox: the service is not running")

    def _wait(self, fd: int, event: int, until: float, verb: str) -> None:
        poll = select.poll()
        poll.register(fd, event)
        if not poll.poll(max(0, int((until - time.monotonic()) * 1000 + 0.999))):
            self._end(f"did not {verb} in time")

    def _end(self, why: str) -> None:
        self.kill()
        raise SandboxError(f"sandbox: the service {why}")
