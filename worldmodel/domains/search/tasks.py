"""Search tasks: seeded generation, the split, and the candidate pages that the simulator is shown.

Owns: ids, seeds, which questions belong to which split. Refuses: running tasks, and questions (``families``).

``train`` and ``heldout`` share families but no question: what is asked about decides the side, so that no wording and
no seed carries a question over. The families of ``family`` occur in neither.

``world.secret`` stays empty: every fact is on the pages shown, and a simulator that holds the answer could print it
for the probe that asks what the policy answered.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import zip_longest
from typing import Any, get_args

from rollout.errors import ConfigError, TaskError
from rollout.seeds import derive_seed
from rollout.types import Check, Predicate, Reference, Task, World
from worldmodel.domains.search import corpus
from worldmodel.domains.search.atlas import Answer, Atlas, Draft
from worldmodel.domains.search.corpus import Corpus
from worldmodel.domains.search.families import FAMILIES, HELD_OUT, TRAIN
from worldmodel.domains.search.grammar import FINAL, MAX_QUERIES, PROBE, call
from worldmodel.domains.search.pages import Page
from worldmodel.domains.search.scores import NO_ANSWER, answered
from worldmodel.tasks import Split

MAX_TURNS = 12
CANDIDATES = 8  # pages in a world's state, those of the answer included
HELD_SHARE = 5  # every fifth question is held out
DRAWS = 1000


def generate(split: Split, count: int, seed: int, families: Sequence[str] | None = None) -> list[Task]:
    """``count`` tasks, families in rotation. Equal arguments and packages give equal tasks; splits share no seed.
    Raises ConfigError where a package is missing."""
    names = list(families or (family.__name__ for family in (HELD_OUT if split == "family" else TRAIN)))
    return [make(names[i % len(names)], split, seed, i) for i in range(count)]


def make(family: str, split: Split, seed: int, index: int) -> Task:
    """One task. Raises TaskError for an unknown family, ConfigError without packages or a usable cache."""
    if family not in FAMILIES:
        raise TaskError(f"unknown search family '{family}'; known: {', '.join(sorted(FAMILIES))}")
    if split not in get_args(Split):
        raise TaskError(f"unknown split '{split}'; known: {', '.join(get_args(Split))}")
    loaded = _load()
    task_seed = derive_seed("search", split, seed, family, index)
    rng = random.Random(task_seed)
    for _ in range(DRAWS):
        draft = FAMILIES[family](rng, _atlas(loaded.version))
        if draft is None or not belongs(family, draft, split) or not _wrong(draft):
            continue
        if (pages := candidates(draft, loaded)) is not None:
            return _task(draft, family, split, task_seed, f"{family}-{split}-{seed}-{index}", pages)
    raise TaskError(f"search family '{family}' found no question for split '{split}' in {DRAWS} draws")


def _load() -> Corpus:
    try:
        return corpus.load()
    except OSError as error:
        raise ConfigError(f"search: {corpus.home()} cannot be used ({error}): set AGENTWORLD_CACHE") from error


@lru_cache(maxsize=1)
def _atlas(version: str) -> Atlas:
    """Of the loaded corpus, which ``version`` names."""
    return Atlas(_load().facts)


def belongs(family: str, draft: Draft, split: str) -> bool:
    """Whether the question of ``draft`` may be asked in ``split``."""
    held = zlib.crc32(f"{family} {draft.key}".encode()) % HELD_SHARE == 0
    return split == "family" or held == (split == "heldout")


def candidates(draft: Draft, loaded: Corpus) -> list[Page] | None:
    """The pages of the answer, then the best others that its searches find, in turns. None where a search does not
    show the page that is to be opened."""
    needed, found = [], []
    for query, url in (hop for stage in draft.stages for hop in stage):
        results = loaded.search(query)
        if url not in {page.url for page in results}:
            return None
        needed.append(loaded.urls[url])
        found.append(results)
    others = [page for rank in zip_longest(*found) for page in rank if page is not None]
    return list(dict.fromkeys([*needed, *others]))[: max(CANDIDATES, len(needed))]


def solution(draft: Draft, answer: Answer) -> tuple[str, ...]:
    """Calls that read the pages of ``draft`` and then give ``answer``."""
    calls = []
    for stage in draft.stages:
        for start in range(0, len(stage), MAX_QUERIES):
            queries = [query for query, _ in stage[start : start + MAX_QUERIES]]
            one = len(queries) == 1
            calls.append(call("web_search", query=queries[0]) if one else call("web_search", queries=queries))
        calls += [call("web_extractor", url=url) for _, url in stage]
    return (*calls, call(FINAL, **_arguments(answer)))


def _wrong(draft: Draft) -> list[Answer]:
    """The wrong answers that are no other way to write the right one, nor empty."""
    right = answered(_arguments(draft.answer))
    return [wrong for wrong in draft.wrong if wrong and answered(_arguments(wrong)) not in (right, NO_ANSWER)]


def _arguments(answer: Answer) -> dict[str, Any]:
    return {"text": answer} if isinstance(answer, str) else {"rows": [dict(row) for row in answer]}


def _task(draft: Draft, family: str, split: str, seed: int, name: str, pages: Sequence[Page]) -> Task:
    # Sorted, so that a page's place does not tell whether the answer needs it.
    state = {"pages": [asdict(page) for page in sorted(pages, key=lambda page: page.url)]}
    check = Check("answer", (call(PROBE),), Predicate("equals", answered(_arguments(draft.answer))))
    reference = Reference(solution(draft, draft.answer), tuple(solution(draft, wrong) for wrong in _wrong(draft)))
    return Task(
        id=name, domain="search", family=family, split=split, instruction=draft.instruction, world=World(state),
        checks=(check,), reference=reference, max_turns=MAX_TURNS, seed=seed,
    )  # fmt: skip
