"""The terminal domain: one bash command a turn, or keystrokes with durations.

Owns: both action grammars, the policy's prompt, and the world as the simulator reads it.
Refuses: running anything (``real``), tasks (``tasks``).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rollout.types import Action, Message, Prompt, Task, World
from worldmodel.prompt import static_parts
from worldmodel.types import WorldSpec

Form = Literal["plain", "keys"]
FINAL = "done"
MAX_COMMAND = 16 * 1024  # bytes
MAX_KEYS, MAX_DURATION = 32, 60.0
SYSTEM: dict[Form, str] = {
    "plain": "Terminal. Reply with one shell command, or done.",
    "keys": 'Terminal. Reply with a JSON array of {"keystrokes": ..., "duration": seconds}, [] to end, or done.',
}


@dataclass(frozen=True, slots=True)
class TerminalDomain:
    """Implements ``Domain``. ``plain``: the whole text is the command, ``done`` alone ends the episode.
    ``keys``: a JSON array of {keystrokes, duration}; an empty array twice in a row ends it too, in the real world."""

    form: Form = "plain"
    name: str = "terminal"

    def parse(self, text: str) -> Action:
        stripped = text.strip()
        if stripped == FINAL:
            return Action(text, name=FINAL, final=True)
        return _command(text, stripped) if self.form == "plain" else _keys(text, stripped)

    def prompt(self, task: Task) -> Prompt:
        return Prompt((Message("system", SYSTEM[self.form]), Message("user", task.instruction)))

    def spec(self, world: World) -> WorldSpec:
        parts = static_parts(__name__)
        return WorldSpec(
            domain=self.name,
            task_description=parts["task_description"],
            action_space=parts["action_space"] if self.form == "plain" else "Keystrokes; show the whole screen.",
            initial_state=transcript(world.state),
            demonstrations=parts["demonstrations"],
            simulation_instruction=parts["simulation_instruction"],
            secret=world.secret,
        )

    def show(self, action: Action) -> str:
        return str(action.arguments.get("command", action.text.strip()))


def inspection(state: Mapping[str, Any]) -> list[str]:
    """Commands that show the whole initial state: folders, modes, then every file."""
    commands = []
    if state.get("dirs"):
        commands.append("ls -dF " + " ".join(shlex.quote(path.strip("/")) for path in sorted(state["dirs"])))
    if state.get("modes"):
        commands.append("stat -c '%a %n' " + " ".join(shlex.quote(path) for path in sorted(state["modes"])))
    return commands + [f"cat {shlex.quote(path)}" for path in sorted(state.get("files", {}))]


def transcript(state: Mapping[str, Any]) -> str:
    """The initial state as a session that inspects it: what the commands of ``inspection`` really print, so that
    text to be copied is tokenised as it will be printed."""
    files, dirs, modes = state.get("files", {}), state.get("dirs", ()), state.get("modes", {})
    replies = []
    if dirs:
        replies.append("\n".join(f"{path.strip('/')}/" for path in sorted(dirs)))
    if modes:
        replies.append("\n".join(f"{mode.lstrip('0') or '0'} {path}" for path, mode in sorted(modes.items())))
    replies += [files[path] for path in sorted(files)]
    lines = []
    for command, reply in zip(inspection(state), replies, strict=True):
        lines.append(f"$ {command}\n" + (reply if not reply or reply.endswith("\n") else reply + "\n"))
    return "".join(lines) or "$ ls\n"


def _command(text: str, command: str) -> Action:
    if not command:
        return Action(text, error="empty command")
    if "\0" in command or len(command.encode("utf-8", errors="replace")) > MAX_COMMAND:
        return Action(text, error=f"a command is at most {MAX_COMMAND} bytes, without NUL")
    return Action(text, name="run", arguments={"command": command})


def _keys(text: str, stripped: str) -> Action:
    expected = 'expected a JSON array of {"keystrokes": text, "duration": seconds}'
    try:
        value = json.loads(stripped)
    except (ValueError, RecursionError):
        return Action(text, error=expected)
    if not isinstance(value, list) or len(value) > MAX_KEYS or len(stripped) > MAX_COMMAND:
        return Action(text, error=f"{expected} of at most {MAX_KEYS} items")
    keys = []
    for item in value:
        keystrokes = item.get("keystrokes") if isinstance(item, dict) else None
        duration = item.get("duration", 1.0) if isinstance(item, dict) else None
        if not isinstance(keystrokes, str) or isinstance(duration, bool) or not isinstance(duration, int | float):
            return Action(text, error=expected)
        if not 0 <= duration <= MAX_DURATION:
            return Action(text, error=f"a duration is 0 to {MAX_DURATION:g} seconds")
        keys.append({"keystrokes": keystrokes, "duration": float(duration)})
    return Action(text, name="keys" if keys else "confirm", arguments={"keys": keys})


TERMINAL = TerminalDomain("plain")
TERMINAL_KEYS = TerminalDomain("keys")
