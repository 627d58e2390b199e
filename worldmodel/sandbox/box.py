"""One box: bubblewrap around one bash, fed and watched through pipes.

Owns: the bubblewrap arguments, the command protocol, deadlines, flood control, the kill.
Refuses: the workspace's life (machine), reading anything but the box's pipes.

A command goes to the shell's own standard input as ``eval`` with stdin from /dev/null and both outputs on one pipe,
followed by a line that prints a marker, random per command, to a separate descriptor which the command's processes
do not inherit. A command that forges or suppresses its marker only ends its own observation early or late: no
verdict depends on this shell.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import select
import shlex
import signal
import time
from typing import Any

from worldmodel.sandbox import seccomp
from worldmodel.sandbox.limits import ENVIRONMENT, HOME, HOST, UID, Limits, SandboxError
from worldmodel.sandbox.link import Link
from worldmodel.sandbox.screen import End, Screen, render

MARKER_FD = 199
SHELL = ("/bin/bash", "--norc", "--noprofile", "--noediting", "-i")
_SETUP = (
    "exec 2>/dev/null; set +H +o history; unset HISTFILE; PS1='$ '; umask 022; ulimit -SHu {processes}; cd {home}\n"
)
_MASKED = ("keys", "cmdline", "kallsyms", "kcore", "timer_list", "sched_debug", "config.gz", "version", "modules")


def bubblewrap_arguments(workspace: str, base: str, writable: bool) -> list[str]:
    """Everything unshared, an allow-list of host paths, nothing writable but the workspace's two folders."""
    words = ["--unshare-user", "--uid", str(UID), "--gid", str(UID), "--disable-userns", "--unshare-ipc",
             "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try", "--hostname", HOST,
             "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv",
             "--ro-bind", "/usr", "/usr"]  # fmt: skip
    if os.path.isdir("/usr/local"):
        words += ["--ro-bind", f"{base}/empty", "/usr/local"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink(f"/{name}"):
            words += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            words += ["--ro-bind", f"/{name}", f"/{name}"]
    words += ["--perms", "0755", "--dir", "/home"]
    words += ["--ro-bind", f"{base}/etc", "/etc", "--dev", "/dev", "--remount-ro", "/dev", "--proc", "/proc"]
    for name in _MASKED:
        if os.path.exists(f"/proc/{name}"):
            words += ["--ro-bind", f"{base}/blank", f"/proc/{name}"]
    bind = "--bind" if writable else "--ro-bind"
    words += ["--remount-ro", "/proc", bind, f"{workspace}/home", HOME, bind, f"{workspace}/tmp", "/tmp",
              "--remount-ro", "/", "--chdir", HOME]  # fmt: skip
    for name, value in ENVIRONMENT:
        words += ["--setenv", name, value]
    return [*words, "--seccomp", "5", "--info-fd", "4"]


def spawn_request(link: Link, workspace: dict[str, Any], limits: Limits, writable: bool) -> dict[str, Any]:
    return {
        "op": "spawn",
        "workspace": workspace["workspace"],
        "bubblewrap": link.bubblewrap,
        "bwrap": bubblewrap_arguments(workspace["path"], workspace["base"], writable),
        "argv": list(SHELL),
        "seccomp": base64.b64encode(seccomp.program()).decode(),
        "memory": limits.memory,
        "rlimits": {
            "NPROC": limits.processes,
            "AS": limits.address_space,
            "FSIZE": limits.file_size,
            "NOFILE": limits.open_files,
            "CPU": limits.cpu_seconds,
            "CORE": 0,
            "MEMLOCK": 0,
            "MSGQUEUE": 0,
            "SIGPENDING": 64,
        },
    }


class Box:
    """A running shell in its own namespaces. Use from one thread at a time; ``kill`` is safe to call twice."""

    def __init__(self, link: Link, workspace: dict[str, Any], limits: Limits, writable: bool = True) -> None:
        self._limits = limits
        self._status = 0
        self._pidfds: list[int] = []
        in_read, self._in = os.pipe()
        self._out, out_write = os.pipe()
        self._marker, marker_write = os.pipe()
        self._info, info_write = os.pipe()
        given = [in_read, out_write, marker_write, info_write]
        try:
            _, self._pidfds = link.ask(spawn_request(link, workspace, limits, writable), given)
        except SandboxError:
            self._close()
            raise
        finally:
            for fd in given:
                os.close(fd)
        for fd in (self._in, self._out, self._marker, self._info):
            os.set_blocking(fd, False)
        try:
            self._start()
        except BaseException:
            self.kill()
            raise

    def _start(self) -> None:
        deadline = time.monotonic() + self._limits.start_deadline
        token = secrets.token_hex(8)
        setup = _SETUP.format(processes=self._limits.processes, home=HOME)
        self._write(f"{setup}\\builtin printf '%s %d\\n' {token} $? >&{MARKER_FD}\n".encode(), deadline)
        raw, _, end = self._read(token, deadline)
        if end != "ok":
            lines = raw.decode(errors="replace").strip().splitlines()
            reason = lines[0] if lines else f"no shell within {self._limits.start_deadline:g} s"
            raise SandboxError(f"sandbox: cannot start: {reason}")
        info = json.loads(os.read(self._info, 4096))
        self._pidfds.insert(0, os.pidfd_open(info["child-pid"]))

    def run(self, command: str, deadline: float | None = None) -> Screen:
        """Run ``command``; ``deadline`` in seconds. Anything but ``end == "ok"`` has killed the box."""
        until = time.monotonic() + (self._limits.deadline if deadline is None else deadline)
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
        return render(raw, status, end)

    def _write(self, content: bytes, deadline: float) -> None:
        while content:
            try:
                content = content[os.write(self._in, content) :]
            except BlockingIOError:
                if not select.select([], [self._in], [], max(0.0, deadline - time.monotonic()))[1]:
                    return  # the reader is stuck: the wait for the marker reports it
            except BrokenPipeError:
                return  # the shell is gone: so does the wait

    def _read(self, token: str, deadline: float) -> tuple[bytes, int | None, End]:
        """Collect output until the marker, the end of the box, the deadline or the flood limit."""
        output, markers = bytearray(), b""
        poll = select.poll()
        for fd in (self._out, self._marker, self._pidfds[0]):
            poll.register(fd, select.POLLIN)
        watched_out = True
        while True:
            left = deadline - time.monotonic()
            events = dict(poll.poll(max(0, int(left * 1000 + 0.999))))
            if self._marker in events:
                markers += self._take(self._marker, 4096)
                status = _status_in(markers, token)
                if status is not None:
                    self._drain(output)
                    return bytes(output), status, "flood" if len(output) > self._limits.output else "ok"
                markers = markers[-4096:]
            if self._pidfds[0] in events:
                self._drain(output)
                return bytes(output), None, "exit"
            if self._out in events:
                part = self._take(self._out, 65536)
                output += part
                if not part:
                    poll.unregister(self._out)
                    watched_out = False
                if len(output) > self._limits.output:
                    return bytes(output), None, "flood"
            if time.monotonic() >= deadline:
                if watched_out:
                    self._drain(output)
                return bytes(output), None, "timeout"

    @staticmethod
    def _take(fd: int, size: int) -> bytes:
        try:
            return os.read(fd, size)
        except BlockingIOError:
            return b""

    def _drain(self, output: bytearray) -> None:
        """What the pipe holds now: all of it was written before the marker was."""
        while len(output) <= self._limits.output:
            part = self._take(self._out, 65536)
            if not part:
                return
            output += part

    def interrupt(self) -> None:
        """From any thread: SIGKILL to the box; the call that runs then sees it exit."""
        for fd in list(self._pidfds):
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)

    def kill(self) -> None:
        """Kill every process of the box and wait until none is left. Raises SandboxError after 10 s."""
        pidfds, self._pidfds = self._pidfds, []
        for fd in pidfds:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        stuck = [fd for fd in pidfds if not select.select([fd], [], [], 10.0)[0]]
        for fd in pidfds:
            os.close(fd)
        self._close()
        if stuck:
            raise SandboxError("sandbox: a killed box did not end within 10 s")

    def _close(self) -> None:
        for name in ("_in", "_out", "_marker", "_info"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)


def _status_in(markers: bytes, token: str) -> int | None:
    """The exit status on the line that starts with ``token``; lines of other origin are ignored."""
    for line in markers.split(b"\n")[:-1]:
        mark, _, status = line.partition(b" ")
        if mark == token.encode() and status.isdigit():
            return int(status)
    return None
