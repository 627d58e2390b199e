"""The android domain: UI actions on the indexed elements of a phone's screen, in the action set of AndroidWorld.

Owns: the policy's prompt and the world as the simulator reads it. The world behind it here is the reference device, a
user interface written for this project. Refuses: carrying actions out (``engine``, ``real``), tasks (``tasks``).
"""

from __future__ import annotations

from dataclasses import dataclass

from rollout.types import Action, Message, Prompt, Task, World
from worldmodel.domains.android import actions
from worldmodel.domains.android.dump import transcript
from worldmodel.domains.android.engine import boot, render
from worldmodel.prompt import static_parts
from worldmodel.types import WorldSpec

DONE = actions.written(actions.FINAL, goal_status="complete")
SYSTEM = """You operate a phone. Each turn you see the screen as a list of elements with indices. Reply with one JSON \
object, one of:
{"action_type": "click", "index": N} (also double_tap, long_press)
{"action_type": "input_text", "text": "...", "index": N} ("clear_text": true replaces what is there)
{"action_type": "scroll", "direction": "down"} (up, down; swipe left or right on an index moves a slider)
{"action_type": "open_app", "app_name": "..."}
{"action_type": "navigate_back"} (also navigate_home, keyboard_enter, wait)
{"action_type": "answer", "text": "..."} (when a question was asked)
{"action_type": "status", "goal_status": "complete"} (or infeasible; ends the task)"""


@dataclass(frozen=True, slots=True)
class AndroidDomain:
    """Implements ``Domain``. ``status`` ends the episode; ``answer`` is remembered and does not."""

    name: str = "android"

    def parse(self, text: str) -> Action:
        return actions.parse(text)

    def prompt(self, task: Task) -> Prompt:
        return opening(task, render(boot(task.world.state)))

    def spec(self, world: World) -> WorldSpec:
        parts = static_parts(__name__)
        return WorldSpec(
            domain=self.name,
            task_description=parts["task_description"],
            action_space=parts["action_space"],
            initial_state=f"{transcript(world.state)}\nscreen:\n{render(boot(world.state))}",
            demonstrations=parts["demonstrations"],
            simulation_instruction=parts["simulation_instruction"],
            secret=world.secret,
        )

    def show(self, action: Action) -> str:
        return actions.show(action)


def opening(task: Task, screen: str) -> Prompt:
    """The instruction and the first screen: an observation follows actions only."""
    return Prompt((Message("system", SYSTEM), Message("user", f"{task.instruction}\n\n{screen}")))


ANDROID = AndroidDomain()
