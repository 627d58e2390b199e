"""A bash behind pipes: one command at a time, watched from outside.

Owns: the command protocol, deadlines, flood control. Refuses: a terminal (terminal), the box itself (box).

A command goes to the shell's own standard input as ``eval`` with stdin from /dev/null and both outputs on one pipe,
followed by a line that prints a marker, random per command, to a separate descriptor which the command's processes
do not inherit. A command that forges or suppresses its marker only ends its own observation early or late: no
verdict depends on this shell.
"""

from __future__ import annotations

import os
import re
import secrets
import select
import shlex
import time
from typing import Any

from worldmodel.sandbox.box import MARKER_FD, Box, take
from worldmodel.sandbox.limits import HOME, Limits, SandboxError
from worldmodel.sandbox.link import Link
from worldmodel.sandbox.screen import End, Screen, render

SHELL = ("/bin/bash", "--norc", "--noprofile", "--noediting", "-i")
_SETUP = (
    "exec 2>/dev/null; set +H +o history; history -c; unset HISTFILE; PS1='$ '; umask 022; "
    "ulimit -SHu {processes}; cd {home}\n"
)
# an interactive bash without a terminal says this whenever a signal ends a command
_NOISE = re.compile(rb"^bash: \[\d+: \d+ \(\d+\)\] tcsetattr: Inappropriate ioctl for device\n", re.MULTILINE)


class Shell(Box):
    """A running shell. After anything but ``end == "ok"`` its box has been killed."""

    def __init__(self, link: Link, workspace: dict[str, Any], limits: Limits, writable: bool = True) -> None:
        self._status = 0
        in_read, self._in = os.pipe()
        self._out, out_write = os.pipe()
        super().__init__(link, workspace, limits, writable, SHELL, (in_read, out_write))
        for fd in (self._in, self._out):
            os.set_blocking(fd, False)
        try:
            self._start()
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

    def _start(self) -> None:
        deadline = time.monotonic() + self.limits.start_deadline
        token = secrets.token_hex(8)
        setup = _SETUP.format(processes=self.limits.processes, home=HOME)
        self._write(f"{setup}\\builtin printf '%s %d\\n' {token} $? >&{MARKER_FD}\n".encode(), deadline)
        raw, _, end = self._read(token, deadline)
        if end != "ok":
            lines = raw.decode(errors="replace").strip().splitlines()
            reason = lines[0] if lines else f"no shell within {self.limits.start_deadline:g} s"
            raise SandboxError(f"sandbox: cannot start: {reason}")
        self.adopt()

    def run(self, command: str, deadline: float | None = None) -> Screen:
        """Run ``command``; ``deadline`` in seconds. Anything but ``end == "ok"`` has killed the box."""
        until = time.monotonic() + (self.limits.deadline if deadline is None else deadline)
        token = secrets.token_hex(8)
        restore = {0: "", 1: "! :\n"}.get(self._status, f"(exit {self._status})\n")
        text = (
            f"{restore}\\builtin eval -- {shlex.quote(command)} </dev/null 2>&1 {MARKER_FD}>&-\n"
            f"\\builtin printf '%s %d\\n' {token} $? >&{MARKER_FD}\n"
        )
        self._write(text.encode("utf-8", errors="replace"), until)
        raw, status, end = self._read(token, until)
        if end != "ok":
            self.kill()
        else:
            self._status = status or 0
        return render(_NOISE.sub(b"", raw), status, end)

    def _write(self, content: bytes, deadline: float) -> None:
        while content:
            try:
                content = content[os.write(self._in, content) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._in, select.POLLOUT)
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    return  # the reader is stuck: the wait for the marker reports it
            except BrokenPipeError:
                return  # the shell is gone: so does the wait

    def _read(self, token: str, deadline: float) -> tuple[bytes, int | None, End]:
        """Collect output until the marker, the end of the box, the deadline or the flood limit."""
        output, markers = bytearray(), b""
        poll = select.poll()
        for fd in (self._out, self.marker, self.pidfds[0]):
            poll.register(fd, select.POLLIN)
        watched_out = True
        while True:
            left = deadline - time.monotonic()
            events = dict(poll.poll(max(0, int(left * 1000 + 0.999))))
            if self.marker in events:
                markers += take(self.marker, 4096)
                status = _status_in(markers, token)
                if status is not None:
                    self._drain(output)
                    return bytes(output), status, "flood" if len(output) > self.limits.output else "ok"
                markers = markers[-4096:]
            if self.pidfds[0] in events:
                self._drain(output)
                return bytes(output), None, "exit"
            if self._out in events:
                part = take(self._out, 65536)
                output += part
                if not part:
                    poll.unregister(self._out)
                    watched_out = False
                if len(output) > self.limits.output:
                    return bytes(output), None, "flood"
            if time.monotonic() >= deadline:
                if watched_out:
                    self._drain(output)
                return bytes(output), None, "timeout"

    def _drain(self, output: bytearray) -> None:
        """What the pipe holds now: all of it was written before the marker was."""
        while len(output) <= self.limits.output:
            part = take(self._out, 65536)
            if not part:
                return
            output += part


def _status_in(markers: bytes, token: str) -> int | None:
    """The exit status on the line that starts with ``token``; lines of other origin are ignored."""
    for line in markers.split(b"\n")[:-1]:
        mark, _, status = line.partition(b" ")
        if mark == token.encode() and status.isdigit():
            return int(status)
    return None
