"""An android task on a real device through ``adb``: a second backend behind ``Environment``.

**Not run on a device**: no Android system was at hand. Its commands and its reading of replies are tested against a
stand-in for ``adb`` that follows the known forms; expect to adapt them. The tasks of ``tasks`` describe the data of the
reference device, which nothing here installs: bring tasks of your own, and ``DeviceSettings.reset``.

Owns: one episode on one device at a time, what an action does there, the few probes a device can answer.
Refuses: restoring, resetting by itself, and verdicts without a probe (None, never a guess).
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rollout.errors import WorldFault
from rollout.types import Action, Check, CheckResult, Observation, ObservationKind, Prompt, Task, Turn
from worldmodel.domains.android import ANDROID, opening
from worldmodel.domains.android.actions import PROBE
from worldmodel.domains.android.adb import KEYS, Command, DeviceSettings, call, clearing, swipe, touch, typing
from worldmodel.domains.android.dump import ANSWER, EMPTY
from worldmodel.domains.android.real import judge
from worldmodel.domains.android.ui import quoted
from worldmodel.domains.android.uiautomator import Hierarchy, Node, read, render
from worldmodel.types import refusal

TRIES = 3  # dumps of a screen that does not come to rest
OPPOSITE = {"up": "down", "down": "up", "left": "right", "right": "left"}
SWITCHES = {"Wi-Fi": "wifi_on", "Bluetooth": "bluetooth_on", "Airplane mode": "airplane_mode_on"}
PHONES = ("content", "query", "--uri", "content://com.android.contacts/data/phones")
_ROW = re.compile(r"^Row: \d+ display_name=(.*), data1=(.*)$", re.MULTILINE)
_FOCUS = re.compile(r"mCurrentFocus=.*?(?:/([\w.$]+))?\}")


class DeviceEnvironment:
    """Implements ``Environment``: single use, not restorable. A second episode on a busy device is refused."""

    world_version = ""
    controls: tuple[str, ...] = ()

    def __init__(self, task: Task, settings: DeviceSettings) -> None:
        self.world_id = f"real:android:{settings.serial}"
        self._task = task
        self._settings = settings
        self._screen: Hierarchy | None = None
        self._answer = ""
        self._anchor = ""
        self._lock: IO[str] | None = None

    async def start(self) -> Prompt:
        """Raises WorldFault: the device is busy, absent or shows nothing."""
        self._lock = _hold(self._settings.serial)
        for command in self._settings.reset:
            await self._adb(command)
        if (state := (await self._adb(("get-state",))).strip()) != "device":
            raise WorldFault(f"adb {self._settings.serial}: the device is {state!r}")
        await self._adb(("shell", "input", "keyevent", KEYS["navigate_home"]))
        return opening(self._task, await self._look())

    def parse(self, text: str) -> Action:
        return ANDROID.parse(text)

    async def step(self, action: Action) -> Observation:
        """The screen after the action has settled. What this device cannot be asked for is an invalid action."""
        anchor = self._anchor
        if error := refusal(action) or self._impossible(action):
            return Observation(error, kind=ObservationKind.INVALID_ACTION, anchor=anchor)
        if action.final:
            return Observation("", done=True, anchor=anchor)
        try:
            for command in self._commands(action):
                await self._adb(command)
            text = await self._look()
        except WorldFault as error:
            return Observation("", kind=ObservationKind.WORLD_ERROR, anchor=anchor, error=str(error))
        if action.name == ANSWER:
            self._answer = str(action.arguments["text"])
        return Observation(text, anchor=anchor)

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """No verdict where a device has no such probe. Raises WorldFault."""
        return tuple([judge(check, [await self._probe(probe) for probe in check.probes]) for check in checks])

    async def restore(self, turns: Sequence[Turn]) -> bool:
        return False

    async def close(self) -> None:
        """Lets the next episode have the device; safe to call twice."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _adb(self, command: Command) -> str:
        return await call(self._settings, *command)

    def _impossible(self, action: Action) -> str:
        if action.name == "input_text" and not str(action.arguments["text"]).isascii():
            return "this device types ASCII only"
        if action.name == "open_app" and action.arguments["app_name"] not in self._settings.apps:
            return "no app has this name"
        return ""

    def _commands(self, action: Action) -> list[Command]:
        """What the action is on this device; nothing where its element is not on the screen."""
        arguments, node = action.arguments, self._node(action.arguments.get("index"))
        if "index" in arguments and node is None:
            return []
        if action.name in KEYS:
            return [("shell", "input", "keyevent", KEYS[action.name])]
        if action.name == "open_app":
            package = self._settings.apps[arguments["app_name"]]
            return [("shell", "monkey", "-p", package, "-c", "android.intent.category.LAUNCHER", "1")]
        if action.name in ("scroll", "swipe"):
            direction = OPPOSITE[arguments["direction"]] if action.name == "scroll" else arguments["direction"]
            width, height = self._screen.size if self._screen else (0, 0)
            return [swipe(direction, node.bounds if node else (0, 0, width, height))]
        if action.name == "input_text":
            before = touch("click", node) if node else []
            clear = clearing(node.text) if node and arguments.get("clear_text") else []
            return [*before, *clear, *typing(arguments["text"])]
        return touch(action.name, node) if node else []

    def _node(self, index: int | None) -> Node | None:
        nodes = self._screen.nodes if self._screen else ()
        return nodes[index] if index is not None and index < len(nodes) else None

    async def _look(self) -> str:
        """The screen as text, once it has come to rest."""
        await asyncio.sleep(self._settings.settle_seconds)
        problem = ""
        for _ in range(TRIES):
            try:
                self._screen = read(await self._adb(("exec-out", "uiautomator", "dump", "/dev/tty")))
                break
            except ValueError as error:
                problem = str(error)
        else:
            raise WorldFault(f"adb {self._settings.serial}: {problem}")
        focus = _FOCUS.search(await self._adb(("shell", "dumpsys", "window")))
        keyboard = "mInputShown=true" in await self._adb(("shell", "dumpsys", "input_method"))
        text = render(self._screen, (focus and focus.group(1)) or "", keyboard)
        self._anchor = hashlib.sha256(f"{self._anchor}\n{text}".encode()).hexdigest()[:32]
        return text

    async def _probe(self, probe: str) -> str | None:
        """The reply in the form of ``dump``; None where this device has no way to tell."""
        action = ANDROID.parse(probe)
        table, _, key = str(action.arguments.get("what", "")).partition("/")
        if action.name != PROBE:
            return None
        if table == ANSWER:
            return quoted(self._answer)
        if table == "settings" and key in SWITCHES:
            value = (await self._adb(("shell", "settings", "get", "global", SWITCHES[key]))).strip()
            return f"{quoted(key)} {'off' if value == '0' else 'on'}" if value.isdigit() else None
        if table == "contacts":
            rows = _ROW.findall(await self._adb(("shell", *PHONES, "--projection", "display_name:data1")))
            lines = [f"{quoted(name)} {quoted(phone)}" for name, phone in sorted(rows) if not key or name == key]
            return "\n".join(lines) or EMPTY
        return None


def _hold(serial: str) -> IO[str]:
    """A lock on the device among the processes of this machine, freed at the latest when the process ends."""
    name = hashlib.sha256(serial.encode()).hexdigest()[:16]
    file = (Path(tempfile.gettempdir()) / f"agentworld-device-{name}.lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise WorldFault(f"adb {serial}: another episode is using the device") from error
    return file


@dataclass(frozen=True, slots=True)
class DeviceFactory:
    """Picklable ``EnvFactory``."""

    settings: DeviceSettings

    def __call__(self, task: Task, seed: int) -> DeviceEnvironment:
        return DeviceEnvironment(task, self.settings)
