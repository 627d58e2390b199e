"""The real search world: a BM25 engine over the corpus, a page reader and a memory.

Owns: what each call prints, the state of one episode (memory and answer), verdicts from probes.
Refuses: ranking and pages (``corpus``), scoring (rollout.reward). It starts no process, opens no network and writes
nothing but the corpus cache: a URL is a key into the corpus and is never fetched. So it needs no box of the sandbox.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rollout.errors import TaskError, WorldFault
from rollout.reward.checks import holds
from rollout.types import Action, Check, CheckResult, Observation, ObservationKind, Prompt, Task, Turn
from worldmodel.domains.search import SEARCH, corpus
from worldmodel.domains.search.corpus import Corpus
from worldmodel.domains.search.grammar import FINAL, MAX_QUERIES, PROBE
from worldmodel.domains.search.pages import RESULTS, listing
from worldmodel.domains.search.scores import answered
from worldmodel.types import refusal

MAX_STORED = 100  # entries of a memory


@dataclass(frozen=True, slots=True)
class State:
    """What an episode can change. ``answer``: the arguments of the ``answer`` call."""

    memory: Mapping[str, str] = field(default_factory=dict)
    answer: Mapping[str, Any] | None = None

    @property
    def digest(self) -> str:
        text = json.dumps([dict(self.memory), self.answer], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class SearchEnvironment:
    """Implements ``Environment``: single use, restorable after any whole turn."""

    world_id = "real:search"
    controls: tuple[str, ...] = ()

    def __init__(self, task: Task) -> None:
        self.world_version = ""
        self._task = task
        self._corpus: Corpus | None = None
        self._state = State()

    async def start(self) -> Prompt:
        """Raises ConfigError where a package is missing, WorldFault where the cache cannot be used."""
        await self._load()
        return SEARCH.prompt(self._task)

    def parse(self, text: str) -> Action:
        return SEARCH.parse(text)

    async def step(self, action: Action) -> Observation:
        anchor = self._state.digest
        if (refused := refusal(action)) is not None:
            return Observation(refused, kind=ObservationKind.INVALID_ACTION, anchor=anchor)
        text, self._state = act(await self._load(), self._state, action)
        return Observation(text, done=action.final, anchor=anchor)

    async def verify(self, checks: Sequence[Check]) -> tuple[CheckResult, ...]:
        """Each probe acts on a copy of the final state that is then dropped."""
        loaded = await self._load()
        return tuple(judge(loaded, self._state, check) for check in checks)

    async def restore(self, turns: Sequence[Turn]) -> bool:
        """Memory and answer follow from the actions; False where a turn was a fault of the world."""
        if any(turn.observation.kind is ObservationKind.WORLD_ERROR for turn in turns):
            return False
        loaded, state = await self._load(), State()
        for turn in turns:
            if refusal(turn.action) is None and turn.action.name in ("dict_memory", FINAL):
                _, state = act(loaded, state, turn.action)
        self._state = state
        return True

    async def close(self) -> None:
        """The corpus is shared by the process's episodes and stays."""

    async def _load(self) -> Corpus:
        if self._corpus is None:
            try:
                self._corpus = await asyncio.to_thread(corpus.load)
            except OSError as error:
                raise WorldFault(f"search: the corpus in {corpus.home()} cannot be used: {error}") from error
            self.world_version = self._corpus.version
        return self._corpus


def act(loaded: Corpus, state: State, action: Action) -> tuple[str, State]:
    """What a valid ``action`` prints, and the state after it."""
    arguments = action.arguments
    match action.name:
        case "web_search":
            queries = arguments.get("queries") or [arguments["query"]]
            found = [page for query in queries[:MAX_QUERIES] for page in loaded.search(query, RESULTS)]
            return listing(found), state
        case "web_extractor":
            page = loaded.urls.get(arguments["url"])
            return page.text if page else f"Error: there is no page at {arguments['url']}", state
        case "dict_memory":
            text, memory = remember(state.memory, arguments)
            return text, replace(state, memory=memory)
        case "answer":
            return "", replace(state, answer=arguments)
        case name if name == PROBE:
            return answered(state.answer), state
        case name:
            raise TaskError(f"search has no call {name!r}")


def remember(memory: Mapping[str, str], arguments: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """What a ``dict_memory`` call prints, and the memory after it."""
    action, key = arguments["action"], arguments.get("key", "")
    match action:
        case "retrieve_all":
            return "\n".join(f"{name}: {value}" for name, value in memory.items()) or "Memory is empty.", memory
        case "remove_all":
            return f"Removed {len(memory)} entries.", {}
        case "add" if key in memory:
            return f"Error: '{key}' is stored already; use update", memory
        case "add" if len(memory) >= MAX_STORED:
            return f"Error: memory is full ({MAX_STORED} entries)", memory
        case "add":
            return f"Stored '{key}'.", {**memory, key: arguments["value"]}
    if key not in memory:
        return f"Error: nothing is stored under '{key}'", memory
    match action:
        case "update":
            return f"Updated '{key}'.", {**memory, key: arguments["value"]}
        case "remove":
            return f"Removed '{key}'.", {name: value for name, value in memory.items() if name != key}
        case _:
            return memory[key], memory


def judge(loaded: Corpus, state: State, check: Check) -> CheckResult:
    """Passed iff every reply satisfies the predicate; no verdict where a probe is no action or ends the episode."""
    replies: list[str] = []
    for probe in check.probes:
        action = SEARCH.parse(probe)
        if action.error is not None or action.final:
            reason = f"probe {probe!r} is not an action: {action.error or 'it ends the episode'}"
            return CheckResult(check.name, None, tuple(replies), reason)
        replies.append(act(loaded, state, action)[0])
    try:
        passed = bool(replies) and all(holds(check.predicate, reply) for reply in replies)
    except TaskError as error:
        return CheckResult(check.name, None, tuple(replies), str(error))
    return CheckResult(check.name, passed, tuple(replies))


@dataclass(frozen=True, slots=True)
class SearchFactory:
    """Picklable ``EnvFactory``."""

    def __call__(self, task: Task, seed: int) -> SearchEnvironment:
        return SearchEnvironment(task)
