"""The blocks' box: runs Python blocks on the desktop, each in a process of its own that was started before.

Owns: the deadline of a block, its output, waiting until what it started has come to rest, starting the office suite.
Refuses: being trusted: what a block may do to this process it may do, and no verdict comes from here.

One JSON object a line in and out. ``{"op": "run", "code", "seconds"}`` answers ``{"output", "end", "cut"}``.
``{"op": "put", "files", "documents", "dirs"}`` writes a task's files. ``{"op": "office"}`` starts the office suite.
``{"op": "whole"}``: whether everything that was started before the first block is still up.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from worldmodel.domains.os.inside import documents, place
from worldmodel.domains.os.inside.quiet import pids, rest, up

EPOCH = 1735689600  # 2025-01-01 00:00 UTC, the date of every initial file
MAX_OUTPUT = 64 * 1024
REST, OFFICE = 3.0, 60.0  # seconds
BOOT = "import sys; exec(sys.argv[1]); from worldmodel.domains.os.inside.block import main; main()"
CONFIG = {
    "gtk-3.0/settings.ini": "[Settings]\ngtk-cursor-blink=0\ngtk-enable-animations=0\ngtk-recent-files-enabled=0\n",
    "xfce4/xfconf/xfce-perchannel-xml/thunar.xml": (
        '<?xml version="1.0" encoding="UTF-8"?>\n<channel name="thunar" version="1.0">'
        '<property name="default-view" type="string" value="ThunarDetailsView"/>'
        '<property name="last-details-view-visible-columns" type="string" '
        'value="THUNAR_COLUMN_NAME,THUNAR_COLUMN_SIZE"/></channel>'
    ),
    place.OFFICE_SETTINGS: documents.office_settings(),
}
OFFICE_ARGV = ("/usr/bin/soffice", "--nodefault", "--norestore", "--nologo", "--nolockcheck", "--nofirststartwizard")


class Block:
    """A process that has imported what blocks use and waits for one."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ("/usr/bin/python3", "-s", "-c", BOOT, os.environ["AGENTWORLD_BOOT"]), env=dict(place.ENVIRONMENT),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=place.HOME,
        )  # fmt: skip

    def run(self, code: str, seconds: float) -> dict[str, Any]:
        """Its output until it ends; what it has started goes on."""
        assert self.process.stdin and self.process.stdout
        until, output, seen = time.monotonic() + seconds, bytearray(), 0
        try:
            self.process.stdin.write(code.encode("utf-8", "replace"))
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # somebody ended it: the wait below says so
        stdout, ended = self.process.stdout.fileno(), os.pidfd_open(self.process.pid)
        os.set_blocking(stdout, False)
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        poll.register(ended, select.POLLIN)
        end = "timeout"
        while time.monotonic() < until:
            ready = [fd for fd, _ in poll.poll(max(0.0, (until - time.monotonic()) * 1000))]
            part = _take(stdout)
            seen += len(part)
            output += part[: max(0, MAX_OUTPUT - len(output))]
            if ended in ready and not part:
                end = "ok"
                break
            if stdout in ready and not part:
                poll.unregister(stdout)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        os.close(ended)
        return {"output": output.decode("utf-8", "replace"), "end": end, "cut": seen > len(output)}


def _take(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""


class Blocks:
    """One block at a time; the next process is started while nobody waits."""

    def __init__(self) -> None:
        for name, text in CONFIG.items():
            _write(f"{place.CONFIG}/{name}", text)
        nothing = subprocess.DEVNULL
        self.settings = subprocess.Popen(
            (place.FILES_SETTINGS,), env=dict(place.ENVIRONMENT), stdin=nothing, stdout=nothing, stderr=nothing
        )
        self.spare = Block()
        self.office: list[int] = []

    def whole(self) -> bool:
        return all(map(up, (self.settings.pid, self.spare.process.pid, *self.office)))

    def start_office(self, seconds: float = OFFICE) -> bool:
        """Start the office suite without a window and wait until it waits."""
        nothing = subprocess.DEVNULL
        subprocess.Popen(OFFICE_ARGV, env=dict(place.ENVIRONMENT), stdin=nothing, stdout=nothing, stderr=nothing)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if any(_program(pid) == place.OFFICE for pid in pids()) and rest(2.0):
                self.office = [int(pid) for pid in pids() if _program(pid) == place.OFFICE]
                return True
            time.sleep(0.1)
        return False

    def run(self, code: str, seconds: float) -> dict[str, Any]:
        block = self.spare
        reply = block.run(code, seconds)
        rest(REST)
        return reply

    def prepare(self) -> None:
        if self.spare.process.poll() is not None:
            self.spare = Block()


def put(request: Mapping[str, Any]) -> dict[str, Any]:
    """The files of a task, all of one date."""
    for name in request.get("dirs", ()):
        os.makedirs(f"{place.HOME}/{name}", exist_ok=True)
    for name, text in request.get("files", {}).items():
        _write(f"{place.HOME}/{name}", text)
    for name, content in request.get("documents", {}).items():
        path = f"{place.HOME}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        documents.write(path, content)
    for folder, _, names in os.walk(place.HOME, topdown=False):
        for name in [*(f"{folder}/{name}" for name in names), folder]:
            os.utime(name, (EPOCH, EPOCH))
    return {"done": True}


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as stream:
        stream.write(text)


def _program(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def main() -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    blocks = Blocks()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "run":
            reply = blocks.run(request["code"], float(request["seconds"]))
        elif request["op"] == "put":
            reply = put(request)
        else:
            reply = {"whole": blocks.whole()} if request["op"] == "whole" else {"started": blocks.start_office()}
        print(json.dumps(reply), flush=True)
        blocks.prepare()
    return 0


if __name__ == "__main__":
    sys.exit(main())
