"""The swe domain: a bug in a checkout of a real Python package, to be found and mended with a shell and file tools.

Owns: the policy's prompt, and the world as the simulator reads it.
Refuses: the grammar (``grammar``), packages (``packages``), acting (``real``), verdicts
(``verdict``), tasks (``tasks``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollout.types import Action, Message, Prompt, Task, World
from worldmodel.domains.swe import grammar
from worldmodel.prompt import static_parts
from worldmodel.types import WorldSpec

SYSTEM = """\
You mend bugs in a Python package. Reply with one JSON object, one call a turn; paths are relative to the checkout.
{"name": "shell", "arguments": {"command": "python3 -m pytest -q tests"}} runs in one bash that starts in the checkout
{"name": "read", "arguments": {"path": "...", "start": 1, "end": 80}} (start and end are optional)
{"name": "edit", "arguments": {"path": "...", "old": "...", "new": "..."}} old occurs once; an empty old makes a file
{"name": "list", "arguments": {"path": "..."}} and {"name": "search", "arguments": {"pattern": "...", "path": "..."}}
{"name": "todo", "arguments": {"items": [{"text": "...", "status": "pending"}]}} (pending, in_progress, done)
{"name": "finish", "arguments": {}} ends the task.
Only the package's source counts: its tests are run as they were."""


@dataclass(frozen=True, slots=True)
class SweDomain:
    """Implements ``Domain``. Every action is one JSON call; ``finish`` ends the episode."""

    name: str = "swe"

    def parse(self, text: str) -> Action:
        return grammar.parse(text)

    def prompt(self, task: Task) -> Prompt:
        return Prompt((Message("system", SYSTEM), Message("user", task.instruction)))

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


def transcript(state: Mapping[str, Any]) -> str:
    """The checkout as its tools will print it: where it is, its files, and the parts that matter. Never the bug's
    origin: ``state["bug"]`` is for the real world alone."""
    root = f"/home/user/{state.get('package', '')}"
    lines = [f"Checkout of {state.get('package', '')} {state.get('version', '')} in {root}, one commit."]
    lines += [f"{path}: {count} lines" for path, count in state.get("files", {}).items()]
    for part in state.get("shown", ()):
        lines.append(grammar.call("read", path=part["path"], start=part["start"], end=part["end"]))
        lines.append(part["text"])
    return "\n".join(lines)


SWE = SweDomain()
