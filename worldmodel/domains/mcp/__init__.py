"""The tool domain: calls to real Model Context Protocol servers; state and answer are what counts.

Owns: the policy's prompt, and the world as the simulator reads it.
Refuses: tools (``catalogue``), the grammar, servers (``servers``, ``client``), acting (``real``), tasks (``tasks``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rollout.errors import TaskError
from rollout.types import Action, Message, Prompt, Task, World
from worldmodel.domains.mcp import grammar, tau2
from worldmodel.domains.mcp.catalogue import FILES, REPO, SOURCES, TOOLS, signature
from worldmodel.domains.mcp.thirdparty import grammar as thirdparty
from worldmodel.domains.mcp.transcript import transcript
from worldmodel.prompt import static_parts
from worldmodel.types import WorldSpec

HEAD = """\
You act through tools. Reply with one JSON object, one call a turn: {"name": "...", "arguments": {...}}
Tools ("?" marks what may be left out):"""
TAIL = """\
answer(text: string): ends the task; give the bare value that was asked for (several: separated by semicolons), \
or done."""
PLACES = {"filesystem": f"Files are below {FILES}.", "git": f"The repository is {REPO}, its files below src.",
          "both": f"Its files can be edited below {SOURCES}."}  # fmt: skip


@dataclass(frozen=True, slots=True)
class McpDomain:
    """Implements ``Domain``. Every action is one JSON call; ``answer`` ends the episode."""

    name: str = "mcp"

    def parse(self, text: str) -> Action:
        return grammar.parse(text)

    def prompt(self, task: Task) -> Prompt:
        if tau2.KEY in task.world.state:
            return tau2.prompt(task)
        if thirdparty.is_benchmark(task.world):
            return thirdparty.prompt(task)
        servers = task.world.state["servers"]
        system = "\n".join([HEAD, *tools(servers, helped=True), TAIL, *places(servers)])
        return Prompt((Message("system", system), Message("user", task.instruction)))

    def spec(self, world: World) -> WorldSpec:
        if tau2.KEY in world.state:
            raise TaskError("tau2 tasks have a real world only")
        if thirdparty.is_benchmark(world):
            raise TaskError(f"mcp: the benchmark {world.state['benchmark']} is evaluated in its real world alone")
        parts = static_parts(__name__)
        servers = world.state["servers"]
        return WorldSpec(
            domain=self.name,
            task_description=parts["task_description"],
            action_space="\n".join([parts["action_space"], *tools(servers, helped=False)]),
            initial_state=transcript(world.state),
            demonstrations="\n".join(parts[f"demonstrations_{server}"] for server in servers),
            simulation_instruction=parts["simulation_instruction"],
            secret=world.secret,
        )

    def show(self, action: Action) -> str:
        return action.text.strip() if action.error else grammar.written(action.name, action.arguments)


def tools(servers: Sequence[str], helped: bool) -> list[str]:
    """A line for each tool of ``servers``."""
    found = {name: tool for name, tool in TOOLS.items() if tool.server in servers}
    return [f"{signature(name)}: {tool.help}" if helped else signature(name) for name, tool in found.items()]


def places(servers: Sequence[str]) -> list[str]:
    known = [*servers, *(["both"] if {"filesystem", "git"} <= set(servers) else [])]
    return [PLACES[name] for name in known if name in PLACES]


MCP = McpDomain()
