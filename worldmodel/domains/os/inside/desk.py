"""What blocks may call beside pyautogui: start an application, find what is shown, click on it.

Owns: finding by name and role. Refuses: anything that a mouse and a keyboard cannot do.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from typing import Any

from worldmodel.domains.os.inside import place, tree
from worldmodel.domains.os.inside.bus import Bus
from worldmodel.domains.os.inside.quiet import rest

APPS = {
    "editor": ("/usr/bin/mousepad", "--disable-server"),
    "calculator": (place.CALCULATOR,),
    "files": ("/usr/bin/thunar",),
    "calc": ("/usr/bin/soffice", "--nologo", "--norestore", "--nolockcheck", "--calc"),
    "writer": ("/usr/bin/soffice", "--nologo", "--norestore", "--nolockcheck", "--writer"),
}
WINDOWS = {"frame", "dialog", "alert", "file chooser", "window"}
WAIT = 15.0  # seconds


class Desk:
    """``mouse``: the pyautogui module."""

    def __init__(self, mouse: Any) -> None:
        self._mouse = mouse
        self._connected: Bus | None = None

    def _shown(self) -> list[tree.Node]:
        if self._connected is None:
            self._connected = Bus(place.BUS)
        found = tree.walk(self._connected, 8.0)
        return [node for app in found for node in tree.descendants(app) if tree.SHOWING in node.states]

    def _windows(self, shown: Iterable[tree.Node]) -> list[tuple[str, str]]:
        return [(node.name, node.path) for node in shown if node.role in WINDOWS]

    def open_app(self, name: str, *paths: str) -> None:
        """Start editor, calculator, files, calc or writer, with files, and wait for its window."""
        if name not in APPS:
            raise ValueError(f"there is no app {name!r}; there are {', '.join(APPS)}")
        before = self._windows(self._shown())
        nothing = subprocess.DEVNULL
        subprocess.Popen([*APPS[name], *paths], cwd=place.HOME, stdin=nothing, stdout=nothing, stderr=nothing)
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            if [window for window in self._windows(self._shown()) if window not in before]:
                rest(2.0)
                return
            time.sleep(0.05)
        raise TimeoutError(f"{name} showed no window")

    def find(self, name: str, role: str = "") -> tuple[int, int] | None:
        """The centre of the first thing shown whose name, or else part of it, is ``name``."""
        shown = [node for node in self._shown() if role in ("", node.role) and node.box[2] > 0 and node.box[3] > 0]
        for node in [*(n for n in shown if n.label == name), *(n for n in shown if name in n.label)]:
            left, top, width, height = node.box
            return left + width // 2, top + height // 2
        return None

    def wait_for(self, name: str, role: str = "", seconds: float = WAIT) -> tuple[int, int]:
        """``find``, as soon as it is there. Raises TimeoutError."""
        until = time.monotonic() + seconds
        while True:
            found = self.find(name, role)
            if found is not None:
                return found
            if time.monotonic() > until:
                raise TimeoutError(f"nothing called {name!r} is shown")
            time.sleep(0.05)

    def click(self, name: str, role: str = "", seconds: float = 10.0) -> None:
        """Click on the centre of what ``wait_for`` finds."""
        self._mouse.click(*self.wait_for(name, role, seconds))
        rest(1.0)

    def settle(self, seconds: float = 3.0) -> None:
        """Wait until the applications have come to rest: keys that move and text that is typed may overtake."""
        time.sleep(0.2)  # the office suite puts off what a key does, without working meanwhile
        rest(seconds)

    def close_window(self) -> None:
        """Alt+F4."""
        self._mouse.hotkey("alt", "f4")
        rest(1.0)
