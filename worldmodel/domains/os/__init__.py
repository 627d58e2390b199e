"""The os domain: a desktop with an editor, a calculator, a file manager and an office suite, driven by Python blocks.

Owns: the policy's prompt and the world as the simulator reads it. Refuses: carrying blocks out (``desktop``, ``real``),
tasks (``tasks``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollout.types import Action, Message, Prompt, Task, World
from worldmodel.domains.os import grammar
from worldmodel.prompt import static_parts
from worldmodel.types import WorldSpec

SYSTEM = """You operate a desktop of 1024 x 768. Each turn, reply with one block of Python; it is run, and you see \
what it printed and then the screen as an accessibility tree with [left,top][right,bottom] of each element.
Imported already: pyautogui, os, subprocess, time, json. Also there: open_app(name, *files) with name editor, \
calculator, files, calc or writer; click(name), find(name), wait_for(name), settle(), close_window(), and \
content(path), which returns the text of a file or document.
The working directory is the home folder. Reply DONE when the task is done, FAIL when it cannot be done."""


@dataclass(frozen=True, slots=True)
class OsDomain:
    """Implements ``Domain``. DONE and FAIL end the episode."""

    name: str = "os"

    def parse(self, text: str) -> Action:
        return grammar.parse(text)

    def prompt(self, task: Task) -> Prompt:
        return opening(task, "calculator" if task.world.state.get("calculator") else "")

    def spec(self, world: World) -> WorldSpec:
        parts = static_parts(__name__)
        return WorldSpec(
            domain=self.name,
            task_description=parts["task_description"],
            action_space=parts["action_space"],
            initial_state=transcript(world.state),
            demonstrations=parts["demonstrations"],
            simulation_instruction=parts["simulation_instruction"],
            secret=world.secret,
        )

    def show(self, action: Action) -> str:
        return grammar.show(action)


def opening(task: Task, open_from_the_beginning: str) -> Prompt:
    shown = f"The {open_from_the_beginning} is open." if open_from_the_beginning else "No window is open."
    return Prompt((Message("system", SYSTEM), Message("user", f"{task.instruction}\n\n{shown}")))


def transcript(state: Mapping[str, Any]) -> str:
    """The initial files as text, in the form that ``content`` and the checks print them, and what is open."""
    parts = [f"open: {'calculator' if state.get('calculator') else 'nothing'}"]
    parts += [f"folder {name}" for name in sorted(state.get("dirs", ()))]
    parts += [f"file {name}\n{text.rstrip()}" for name, text in sorted(state.get("files", {}).items())]
    for name, data in sorted(state.get("documents", {}).items()):
        parts.append(f"file {name}\n{as_text(data)}")
    return "\n".join(parts)


def as_text(data: Any) -> str:
    """A document's data as ``content`` prints it."""
    from worldmodel.domains.os.inside.documents import column

    if isinstance(data, Mapping):
        lines = []
        for sheet, rows in data.items():
            lines.append(f"[{sheet}]")
            lines += [
                f"{column(j)}{i}: {format(value, '.10g') if isinstance(value, (int, float)) else value}"
                for i, row in enumerate(rows, 1)
                for j, value in enumerate(row)
                if value != ""
            ]
        return "\n".join(lines)
    return "\n".join(data)


OS = OsDomain()
