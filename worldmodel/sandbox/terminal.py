"""A bash on a pseudo-terminal: keystrokes in, an 80x40 screen out.

Owns: key names, waiting while reading, the screen emulation (pyte). Refuses: knowing when a command is done: a
keystroke waits its duration and the screen is what it is then.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Any

from worldmodel.sandbox.box import MARKER_FD, Box, take
from worldmodel.sandbox.limits import COLUMNS, HOME, ROWS, Limits, SandboxError
from worldmodel.sandbox.link import Link
from worldmodel.sandbox.screen import NOTES, End, Screen, clean

_NAMED = {
    "Enter": "\r", "Tab": "\t", "Escape": "\x1b", "BSpace": "\x7f", "Space": " ", "Up": "\x1b[A", "Down": "\x1b[B",
    "Right": "\x1b[C", "Left": "\x1b[D", "Home": "\x1b[1~", "End": "\x1b[4~", "DC": "\x1b[3~", "PageUp": "\x1b[5~",
    "PageDown": "\x1b[6~", "PPage": "\x1b[5~", "NPage": "\x1b[6~",
}  # fmt: skip
_CONTROL = re.compile(r"C-([a-z@\[\\\]^_])\Z")
_FEED = 64 * 1024  # bytes of one action that the emulator is given at most


def encode(keystrokes: str) -> bytes:
    """What the keys send. Only a text made of key names alone (``C-c``, ``Up``, ``C-a C-k``) is read as keys;
    anything else is typed as it is, newline as Enter."""
    words = keystrokes.split()
    keys = [_key(word) for word in words]
    if words and all(key is not None for key in keys):
        return "".join(key for key in keys if key is not None).encode()
    return keystrokes.replace("\r\n", "\r").replace("\n", "\r").encode("utf-8", errors="replace")


def _key(word: str) -> str | None:
    control = _CONTROL.match(word)
    return chr(ord(control[1].upper()) & 0x1F) if control else _NAMED.get(word)


class Terminal(Box):
    """A running terminal. After a flood or the shell's exit its box has been killed."""

    def __init__(self, link: Link, workspace: dict[str, Any], limits: Limits) -> None:
        try:
            import pyte
        except ImportError:
            raise SandboxError("sandbox: the keystroke form needs pyte; install it with: pip install pyte") from None
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        script = (
            f"cd {HOME}; umask 022; ulimit -SHu {limits.processes}; export PS1='$ ' TERM=linux; unset HISTFILE; "
            f"echo >&{MARKER_FD}; exec setsid -c -w bash --norc --noprofile -i {MARKER_FD}>&-"
        )
        super().__init__(link, workspace, limits, True, ("/bin/bash", "-c", script), (slave, slave))
        os.set_blocking(self._master, False)
        try:
            self._start()
        except BaseException:
            self.kill()
            raise

    def _close(self) -> None:
        super()._close()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _start(self) -> None:
        deadline = time.monotonic() + self.limits.start_deadline
        started, seen = False, b""
        while not (started and b"$ " in seen):
            part, end = self._collect(min(0.02, max(0.0, deadline - time.monotonic())), stop_early=True)
            seen += part
            started = started or bool(take(self.marker))
            if end == "exit" or time.monotonic() >= deadline:
                reason = clean(seen.decode(errors="replace")).strip().split("\n")[0] or "no prompt"
                raise SandboxError(f"sandbox: cannot start: {reason}")
        self._stream.feed(seen)
        self.adopt()

    def press(self, keys: Sequence[Mapping[str, Any]]) -> Screen:
        """Send each ``keystrokes`` and wait its ``duration`` in seconds, then look at the screen."""
        end: End = "ok"
        budget = self.limits.output
        for key in keys:
            self._send(encode(str(key["keystrokes"])))
            output, end = self._collect(float(key["duration"]), budget=budget)
            budget -= len(output)
            self._stream.feed(output[-_FEED:])
            if end != "ok":
                break
        if end != "ok":
            self.kill()
        lines = [line.rstrip() for line in self._screen.display]
        text = clean("\n".join(lines)).rstrip("\n")
        if end != "ok":
            text = "\n".join([*text.split("\n"), NOTES[end]][-ROWS:])
        return Screen(text, None, end)

    def _send(self, content: bytes) -> None:
        deadline = time.monotonic() + self.limits.deadline
        while content and time.monotonic() < deadline:
            try:
                content = content[os.write(self._master, content) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._master, select.POLLOUT)
                poll.poll(50)
            except OSError:
                return  # the terminal is gone: the wait that follows reports it

    def _collect(self, seconds: float, budget: int | None = None, stop_early: bool = False) -> tuple[bytes, End]:
        """Read for ``seconds`` (or, with ``stop_early``, until something came)."""
        until = time.monotonic() + seconds
        budget = self.limits.output if budget is None else budget
        output = bytearray()
        poll = select.poll()
        for fd in (self._master, self.pidfds[0]):
            poll.register(fd, select.POLLIN)
        while True:
            left = until - time.monotonic()
            ready = {fd for fd, _ in poll.poll(max(0.0, left) * 1000)}
            if self._master in ready:
                part = take(self._master)
                output += part
                if not part:
                    poll.unregister(self._master)
                if len(output) > budget:
                    return bytes(output), "flood"
            elif self.pidfds[0] in ready:
                return bytes(output), "exit"
            if left <= 0 or (stop_early and output):
                return bytes(output), "ok"
