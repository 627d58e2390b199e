"""Commands of the Android debug bridge: one process a command, with a deadline.

Owns: running ``adb`` for one serial, how actions become ``input`` commands, faults. Refuses: what a screen means
(``uiautomator``), episodes (``device``). Not run on a device: tested against a stand-in for ``adb``.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from rollout.errors import WorldFault
from worldmodel.domains.android.ui import clean
from worldmodel.domains.android.uiautomator import Bounds, Node

KEYS = {"keyboard_enter": "KEYCODE_ENTER", "navigate_back": "KEYCODE_BACK", "navigate_home": "KEYCODE_HOME"}
HOLD_MS, SWIPE_MS = 1000, 300
Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """``apps``: packages by the name a policy uses. ``reset``: adb arguments that bring the device into the state a
    task expects, such as loading a snapshot. Seconds bound one command, and how long a screen gets to settle."""

    serial: str
    adb: str = "adb"
    apps: Mapping[str, str] = field(default_factory=dict)
    reset: tuple[Command, ...] = ()
    call_seconds: float = 20.0
    settle_seconds: float = 1.0


async def call(settings: DeviceSettings, *arguments: str) -> str:
    """What ``adb`` printed. Raises WorldFault: it cannot be run, failed, or missed its deadline (it is killed)."""
    shown = f"adb {settings.serial}: {' '.join(arguments)[:60]}"
    try:
        process = await asyncio.create_subprocess_exec(
            settings.adb, "-s", settings.serial, *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        raise WorldFault(f"{settings.adb}: {error.strerror}") from error
    try:
        async with asyncio.timeout(settings.call_seconds):
            out, err = await process.communicate()
    except TimeoutError as error:
        raise WorldFault(f"{shown}: no answer in {settings.call_seconds:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise WorldFault(f"{shown}: {clean((err or out).decode(errors='replace').strip())[:120]}")
    return out.decode(errors="replace")


def touch(name: str, node: Node) -> list[Command]:
    """The commands of click, double_tap and long_press."""
    x, y = map(str, node.centre)
    if name == "long_press":
        return [("shell", "input", "swipe", x, y, x, y, str(HOLD_MS))]
    tap = ("input", "tap", x, y)
    return [("shell", *tap, "&&", *tap) if name == "double_tap" else ("shell", *tap)]


def swipe(direction: str, bounds: Bounds) -> Command:
    """A finger's movement inside ``bounds``, over half of their length."""
    left, top, right, bottom = bounds
    x, y = (left + right) // 2, (top + bottom) // 2
    dx, dy = (right - left) // 4, (bottom - top) // 4
    sx, sy = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}[direction]
    ends = (x - sx * dx, y - sy * dy, x + sx * dx, y + sy * dy)
    return ("shell", "input", "swipe", *map(str, ends), str(SWIPE_MS))


def typing(text: str) -> list[Command]:
    """``input text`` reads %s as a space, so that a literal %s is typed in two parts. ASCII only."""
    parts = text.replace("%s", "%\0s").split("\0")
    return [("shell", "input", "text", shlex.quote(part.replace(" ", "%s"))) for part in parts if part]


def clearing(text: str) -> list[Command]:
    """Delete ``text`` from the end of the field in focus."""
    keys = ["KEYCODE_MOVE_END", *["KEYCODE_DEL"] * len(text)]
    return [("shell", "input", "keyevent", *keys)]
