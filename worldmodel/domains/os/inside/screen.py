"""The screen's box: display, bus, window manager, the calculator, and reading what is shown.

Owns: starting them, one JSON object a line in and out. Refuses: running anything that a block says: blocks live in a
box of their own (``blocks``), so that they can neither end nor change what reads the screen. Nothing here reads a
file that a block can write once blocks run.

``{"op": "look"}``: the text of the screen once it has come to rest. ``{"op": "calculator"}``: start it.
``{"op": "display"}``: what the calculator that was started here shows, read from the process itself.
``{"op": "whole"}``: whether everything that was started at the beginning is still up.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from worldmodel.domains.os.inside import place, tree
from worldmodel.domains.os.inside.bus import Bus, BusError, Call
from worldmodel.domains.os.inside.quiet import rest, up

START, LOOK, REST = 20.0, 4.0, 1.5  # seconds
SCREEN = f"{place.WIDTH}x{place.HEIGHT}x24"
DISPLAY_ARGV = ("/usr/bin/Xvfb", place.DISPLAY, "-screen", "0", SCREEN, "-nolisten", "tcp", "-ac", "-noreset",
                "-extension", "MIT-SHM")  # fmt: skip
BUS_ARGV = ("/usr/bin/dbus-daemon", f"--config-file={place.PROGRAMS}/bus.txt", "--nofork", "--nopidfile", "--nosyslog")
OTHERS = (
    ("/usr/libexec/at-spi2-registryd",),
    ("/usr/bin/openbox", "--config-file", f"{place.PROGRAMS}/windows.txt", "--sm-disable"),
)


def launch(argv: tuple[str, ...], settings: Mapping[str, str] = place.ENVIRONMENT) -> subprocess.Popen[bytes]:
    nothing = subprocess.DEVNULL
    return subprocess.Popen(argv, env=dict(settings), stdin=nothing, stdout=nothing, stderr=nothing)


def listening(path: str, until: float) -> bool:
    """Whether something accepts connections there before ``until``."""
    while time.monotonic() < until:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
                return True
            except OSError:
                time.sleep(0.01)
    return False


class Screen:
    """Everything that is started in this box."""

    def __init__(self) -> None:
        """Raises BusError where display or bus do not come up."""
        until = time.monotonic() + START
        for folder in (place.ENVIRONMENT["XDG_RUNTIME_DIR"], os.path.dirname(place.DISPLAY_SOCKET)):
            os.makedirs(folder, 0o700, exist_ok=True)
        self.display, self.daemon = launch(DISPLAY_ARGV), launch(BUS_ARGV)
        for path in (place.BUS, place.DISPLAY_SOCKET):
            if not listening(path, until):
                raise BusError(f"nothing listens on {path}")
        self.bus = Bus(place.BUS)
        self.others = [launch(argv) for argv in OTHERS]
        self.calculator: subprocess.Popen[bytes] | None = None
        wanted = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "NameHasOwner", "s")
        while self.bus.gather([Call(*wanted, (tree.ROOT[0],))], 2.0)[0] != (1,):
            if time.monotonic() > until:
                raise BusError("the accessibility registry did not start")
            time.sleep(0.02)

    def whole(self) -> bool:
        return all(up(process.pid) for process in (self.display, self.daemon, *self.others))

    def look(self, seconds: float) -> str:
        """The text of the screen, once it is the same twice."""
        until = time.monotonic() + seconds
        rest(min(REST, seconds))
        text = tree.render(tree.walk(self.bus, seconds))
        while time.monotonic() < until:
            before, text = text, tree.render(tree.walk(self.bus, max(0.2, until - time.monotonic())))
            if before == text:
                break
            time.sleep(0.03)
        return text

    def start_calculator(self) -> bool:
        """Its settings lie where no block can write them."""
        self.calculator = launch((place.CALCULATOR,), {**place.ENVIRONMENT, "XDG_CONFIG_HOME": "/opt/inside"})
        until = time.monotonic() + START
        while time.monotonic() < until:
            if self.shown() is not None:
                return True
            time.sleep(0.03)
        return False

    def shown(self) -> str | None:
        """The calculator's display, or None where its process is gone or is not what was started."""
        if self.calculator is None or self.calculator.poll() is not None or not genuine(self.calculator.pid):
            return None
        apps = tree.applications(self.bus, LOOK)
        daemon = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetConnectionUnixProcessID")
        owners = self.bus.gather([Call(*daemon, "s", (node.name,)) for node in apps], LOOK)
        ours = [node for node, owner in zip(apps, owners, strict=True) if owner == (self.calculator.pid,)]
        for node in tree.walk(self.bus, LOOK, ours):
            for below in tree.descendants(node):
                if below.role == "text" and below.text:
                    return below.text
        return None


def genuine(pid: int) -> bool:
    """Whether the process runs the calculator and has loaded code from the system's folder alone."""
    try:
        if os.readlink(f"/proc/{pid}/exe") != place.CALCULATOR:
            return False
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as stream:
            rows = [line.split(None, 5) for line in stream]
    except OSError:
        return False
    loaded = [row[5].strip() for row in rows if len(row) == 6 and "x" in row[1]]
    return all(re.match(r"/usr/(?!local/)|\[(vdso|vsyscall)\]$", name) for name in loaded)


def answer(screen: Screen, request: Mapping[str, Any]) -> dict[str, Any]:
    if request["op"] == "look":
        if screen.display.poll() is not None:
            return {"text": "(the display has ended)"}
        return {"text": screen.look(float(request.get("seconds", LOOK)))}
    if request["op"] == "calculator":
        return {"started": screen.start_calculator()}
    if request["op"] == "whole":
        return {"whole": screen.whole()}
    return {"value": screen.shown()}


def main() -> int:
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    try:
        screen = Screen()
    except (BusError, OSError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        try:
            reply = answer(screen, json.loads(line))
        except BusError as error:
            reply = {"text": f"(the screen cannot be read: {error})", "value": None}
        print(json.dumps(reply), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
