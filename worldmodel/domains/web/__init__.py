"""The web domain: a real browser on made sites of several pages, seen as an accessibility tree with ids.

Owns: the policy's prompt and the world as the simulator reads it. Refuses: the grammar (``grammar``), the sites
(``inside``), the browser (``browser``, ``real``), tasks (``tasks``).
"""

from __future__ import annotations

from dataclasses import dataclass

from rollout.types import Action, Message, Prompt, Task, World
from worldmodel.domains.web import grammar
from worldmodel.domains.web.dump import transcript
from worldmodel.domains.web.visit import Visit
from worldmodel.prompt import static_parts
from worldmodel.types import WorldSpec

DONE = grammar.call(grammar.MESSAGE, text="done")
SYSTEM = """You use a web browser. Each turn you see the page as a tree; what you can act on has a [bid=N]. Reply with \
one JSON object, one of:
{"name": "click", "arguments": {"bid": N}} (also hover)
{"name": "fill", "arguments": {"bid": N, "value": "..."}}
{"name": "select_option", "arguments": {"bid": N, "options": "..."}}
{"name": "goto", "arguments": {"url": "http://..."}} (only pages of this site)
{"name": "go_back", "arguments": {}} (also go_forward, new_tab, tab_close; tab_focus with "index")
{"name": "keyboard_press", "arguments": {"key": "Enter"}} (keyboard_type with "text")
{"name": "scroll", "arguments": {"delta_x": 0, "delta_y": 300}} (noop with "wait_ms"; mouse_move, mouse_click, \
mouse_dblclick, mouse_down, mouse_up with "x" and "y")
{"name": "send_msg_to_user", "arguments": {"text": "..."}} ends the task: the bare answer to a question, else "done"
{"name": "report_infeasible", "arguments": {"reason": "..."}} ends the task, which cannot be done"""


@dataclass(frozen=True, slots=True)
class WebDomain:
    """Implements ``Domain``. A message to the user, or a report, ends the episode."""

    name: str = "web"

    def parse(self, text: str) -> Action:
        return grammar.parse(text)

    def prompt(self, task: Task) -> Prompt:
        return opening(task.instruction, first_screen(task.world))

    def spec(self, world: World) -> WorldSpec:
        parts = static_parts(__name__)
        return WorldSpec(
            domain=self.name,
            task_description=parts["task_description"],
            action_space=parts["action_space"],
            initial_state=f"{transcript(world.state)}\nscreen:\n{first_screen(world)}",
            demonstrations=parts["demonstrations"],
            simulation_instruction=parts["simulation_instruction"],
            secret=world.secret,
        )

    def show(self, action: Action) -> str:
        return grammar.show(action)


def first_screen(world: World) -> str:
    """The home page of a made site; '' for a page that only a browser can show."""
    return Visit(world.state).screen() if "tables" in world.state else ""


def opening(instruction: str, screen: str) -> Prompt:
    """The instruction and the first screen: an observation follows actions only."""
    return Prompt((Message("system", SYSTEM), Message("user", f"{instruction}\n\n{screen}")))


WEB = WebDomain()
