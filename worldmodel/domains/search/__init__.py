"""The search domain: a search engine, a page reader and a small memory; the final answer is what counts.

Owns: the policy's prompt, and the world as the simulator reads it.
Refuses: the grammar (``grammar``), pages and their index (``pages``, ``corpus``), acting (``real``), tasks (``tasks``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollout.types import Action, Message, Prompt, Task, World
from worldmodel.domains.search import grammar
from worldmodel.domains.search.pages import Page, listing
from worldmodel.prompt import static_parts
from worldmodel.types import WorldSpec

SYSTEM = """\
You answer questions from the pages of a search engine. Reply with one JSON object, one call a turn:
{"name": "web_search", "arguments": {"query": "..."}} or {"queries": ["...", "..."]} (at most 5)
{"name": "web_extractor", "arguments": {"url": "..."}} prints a page that a search has found
{"name": "dict_memory", "arguments": {"action": "add", "key": "...", "value": "..."}} (add, update, retrieve, \
retrieve_all, remove, remove_all)
{"name": "answer", "arguments": {"text": "..."}} or {"rows": [{"column": "value"}]} ends the task.
Answer with the bare value; separate several by semicolons."""


@dataclass(frozen=True, slots=True)
class SearchDomain:
    """Implements ``Domain``. Every action is one JSON call; ``answer`` ends the episode."""

    name: str = "search"

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
            secret=f"{parts['secret_instruction']}\n{world.secret}" if world.secret else "",
        )

    def show(self, action: Action) -> str:
        return action.text.strip() if action.error else grammar.call(action.name, **action.arguments)


def transcript(state: Mapping[str, Any]) -> str:
    """The candidate pages as they will be printed: first as one list of results, then each as it is opened."""
    pages = [Page(**page) for page in state.get("pages", ())]
    opened = [f"{grammar.call('web_extractor', url=page.url)}\n{page.text}" for page in pages]
    return "\n".join([listing(pages), *opened])


SEARCH = SearchDomain()
