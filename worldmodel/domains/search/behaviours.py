"""How traces of the search domain are collected: among the candidate pages, and what the simulator cannot know.

Owns: what an exploring session does instead of borrowing other tasks' searches, whose pages the simulator has never
seen, and the spans of pages that are no candidates. Refuses: everything else (``worldmodel.behaviours`` has it).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from rollout.types import Reference, Task, World
from worldmodel.behaviours import Behaviours, Session, default
from worldmodel.domains.search import SEARCH
from worldmodel.domains.search.grammar import FINAL, call
from worldmodel.types import Span

_ENTRY = re.compile(r"Title: .*\n   URL: (.*)\n   Snippet: .*\n   Date: .*")
KEYS = ("capital", "area", "first", "population", "answer", "code")


def search_behaviours(empty: Sequence[str]) -> Behaviours:
    usual = default(SEARCH, empty)

    def plan(task: Task, others: Sequence[Task], rng: random.Random) -> Session:
        return usual.plan(task, [elsewhere(task, rng)], rng)

    return replace(usual, plan=plan, open=unknown)


def elsewhere(task: Task, rng: random.Random) -> Task:
    """``task`` as if its solution were to look around: opened and searched candidates, notes, forgotten ones too."""
    pages = rng.sample(task.world.state["pages"], min(4, len(task.world.state["pages"])))
    look = [call("web_extractor", url=page["url"]) for page in pages]
    look += [call("web_search", query=page["title"]) for page in pages[:2]]
    look.append(call("web_search", queries=[page["title"] for page in pages]))
    notes = []
    for action in ("add", "add", "update", "retrieve", "retrieve", "remove"):
        value = {"value": rng.choice(pages)["title"]} if action in ("add", "update") else {}
        notes.append(call("dict_memory", action=action, key=rng.choice(KEYS), **value))
    notes += [call("dict_memory", action=action) for action in ("retrieve_all", "remove_all")]
    gold = (*look, *notes, call(FINAL, text=rng.choice(pages)["title"]))
    return replace(task, reference=Reference(gold, (gold,)))


def unknown(world: World, action: str, observation: str) -> list[Span]:
    """What is told of pages that are no candidates: entries of a list, or a whole page."""
    urls = {page["url"] for page in world.state.get("pages", ())}
    said = SEARCH.parse(action)
    if said.name == "web_search":
        return [found.span() for found in _ENTRY.finditer(observation) if found[1] not in urls]
    page = said.name == "web_extractor" and said.arguments.get("url") not in urls
    return [(0, len(observation))] if page and not observation.startswith("Error:") else []
