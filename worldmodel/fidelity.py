"""How close predicted observations are to real ones.

Owns: the sample, the two ways of asking (teacher-forced: real history; free-running: the model's own), the two
matches and the baseline that copies from the state. Refuses: verdicts (``worldmodel.vetting``) and judges.

Exact: the strings are equal. Normalised: equal after runs of blanks within each line become one space, blanks at
line ends and blank lines at the end are dropped. Words: F1 over the words, for how far off a miss is. The headline is
the macro mean of exact over command classes, teacher-forced, with silent transitions (empty real observation) at most
30 % of the sample. A prediction that never came (``WorldFault``) counts as a miss and in ``faults``.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rollout.errors import WorldFault
from rollout.seeds import derive_seed
from rollout.types import World
from worldmodel.behaviours import FINAL_CLASS
from worldmodel.spans import agrees, determined, open_spans, word_overlap
from worldmodel.types import Episode, Exchange, PredictRequest, Span, Transition, WorldModel, WorldSpec, split_probes

Candidates = Callable[[World, str], Sequence[str]]
SpecOf = Callable[[World], WorldSpec]


@dataclass(frozen=True, slots=True)
class FidelitySettings:
    """``max_transitions`` and ``max_free_episodes`` bound the two passes (None: all). ``temperature`` 0 asks for the
    most likely observation. ``examples`` misses per command class are kept in the result."""

    max_transitions: int | None = None
    max_free_episodes: int | None = None
    max_silent_share: float = 0.3
    concurrency: int = 16
    temperature: float = 0.0
    seed: int = 0
    deadline_seconds: float = 120.0
    examples: int = 3


@dataclass(frozen=True, slots=True)
class Compared:
    """One predicted observation beside the real one. ``predicted`` None: the world model failed."""

    transition: Transition
    predicted: str | None
    baseline: bool
    open: Sequence[Span] = ()
    copied: float = 0.0  # overlap in words of the best copy

    @property
    def exact(self) -> bool:
        return self.predicted is not None and agrees(self.transition.observation, self.open, self.predicted)

    @property
    def normalised(self) -> bool:
        said = self.predicted
        return said is not None and agrees(self.transition.observation, self.open, said, normalise)

    @property
    def words(self) -> float:
        return 0.0 if self.predicted is None else word_overlap(self.transition.observation, self.open, self.predicted)


@dataclass(frozen=True, slots=True)
class Match:
    """Shares over ``n`` transitions; ``words`` and ``copied`` (by the best copy from the state, or of the observation
    before) are mean overlaps in words."""

    n: int
    exact: float
    normalised: float
    baseline: float
    words: float = 0.0
    copied: float = 0.0


@dataclass(frozen=True, slots=True)
class Pass:
    """One way of asking. ``macro`` means over command classes, ``micro`` over transitions; ``by_depth`` holds only
    transitions that depend on at least one state-changing step; ``by_turn`` leaves probes out."""

    macro: Match
    micro: Match
    by_class: Mapping[str, Match]
    by_depth: Mapping[int, Match]
    by_turn: Mapping[int, Match]
    faults: int


@dataclass(frozen=True, slots=True)
class FidelityResult:
    model_id: str
    n_episodes: int
    silent_share: float
    teacher_forced: Pass
    free_running: Pass
    misses: tuple[Mapping[str, str], ...]
    seconds: float
    determined: float = 1.0  # share of the recorded characters that are not marked as open
    undetermined: int = 0  # transitions left out because nothing of them is determined

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def normalise(text: str) -> str:
    lines = [re.sub(r"[ \t]+", " ", line).rstrip() for line in text.splitlines()]
    return "\n".join(lines).rstrip("\n")


def state_candidates(world: World, action: str) -> list[str]:
    """What copying from the initial state could answer: nothing, or any text whose key (a path, or its last
    component) stands in the action; of an entry in a list, any text where another one stands in the action."""
    words = set(re.split(r"[\s'\"|;&<>()]+", action))
    found = [""]
    pending: list[Mapping[str, Any]] = [world.state]
    while pending:
        for key, value in pending.pop().items():
            if isinstance(value, Mapping):
                pending.append(value)
            elif isinstance(value, list | tuple):
                entries = [entry for entry in value if isinstance(entry, Mapping)]
                named = [e for e in entries if any(isinstance(v, str) and v in words for v in e.values())]
                found += [text.rstrip("\n") for entry in named for text in entry.values() if isinstance(text, str)]
                pending += entries
            elif isinstance(value, str) and words & {key, f"./{key}", key.rsplit("/", 1)[-1]}:
                found.append(value.rstrip("\n"))
    return found


def choose(transitions: Sequence[Transition], settings: FidelitySettings) -> list[Transition]:
    """A stable pseudo-random sample with at most ``max_silent_share`` silent transitions."""

    def order(t: Transition) -> bytes:
        return hashlib.sha256(f"{settings.seed}/{t.episode}/{t.turn}/{t.probe}/{t.action}".encode()).digest()

    shuffled = sorted(transitions, key=order)
    speaking = [t for t in shuffled if t.observation]
    silent = [t for t in shuffled if not t.observation]
    share, limit = settings.max_silent_share, settings.max_transitions
    if limit is not None:
        speaking = speaking[: max(limit - int(share * limit), limit - len(silent))]
    room = int(share / (1 - share) * len(speaking)) if share < 1 else len(silent)
    if limit is not None:
        room = min(room, limit - len(speaking))
    return speaking + silent[:room]


async def measure(
    episodes: Iterable[Episode],
    model: WorldModel,
    spec: SpecOf,
    settings: FidelitySettings,
    candidates: Candidates = state_candidates,
) -> FidelityResult:
    """Both passes over recorded ``episodes``; ``spec`` is the domain's. At most ``concurrency`` predictions are in
    flight, so that a batching sampler can fill its batches."""
    started = time.monotonic()
    known = list(episodes)
    spans = {t: found for episode in known for t, found in open_spans(episode).items()}
    steps = [t for episode in known for t in episode.transitions if t.command_class != FINAL_CLASS]
    asked = [t for t in steps if determined(t.observation, spans.get(t, ()))]
    sample = choose(asked, settings)
    asker = _Asker(model, spec, settings, candidates, spans, frozenset(asked))
    forced = await asker.teacher_forced(known, sample)
    free = await asker.free_running(known[: settings.max_free_episodes])
    return FidelityResult(
        model_id=model.model_id,
        n_episodes=len(known),
        silent_share=sum(not t.observation for t in sample) / len(sample) if sample else 0.0,
        teacher_forced=summarise(forced),
        free_running=summarise(free),
        misses=_misses(forced, settings.examples),
        seconds=time.monotonic() - started,
        determined=_share_determined(steps, spans),
        undetermined=len(steps) - len(asked),
    )


def _share_determined(steps: Sequence[Transition], spans: Mapping[Transition, Sequence[Span]]) -> float:
    whole = sum(len(t.observation) for t in steps)
    return (
        sum(len(t.observation) * determined(t.observation, spans.get(t, ())) for t in steps) / whole if whole else 1.0
    )


def summarise(compared: Sequence[Compared]) -> Pass:
    by_class = _by(compared, lambda c: c.transition.command_class)
    return Pass(
        macro=_macro(list(by_class.values()), len(compared)),
        micro=match(compared),
        by_class=by_class,
        by_depth=_by([c for c in compared if c.transition.depth > 0], lambda c: c.transition.depth),
        by_turn=_by([c for c in compared if not c.transition.probe], lambda c: c.transition.turn),
        faults=sum(c.predicted is None for c in compared),
    )


def match(compared: Sequence[Compared]) -> Match:
    n = len(compared)
    if not n:
        return Match(0, 0.0, 0.0, 0.0)
    return Match(
        n,
        sum(c.exact for c in compared) / n,
        sum(c.normalised for c in compared) / n,
        sum(c.baseline for c in compared) / n,
        sum(c.words for c in compared) / n,
        sum(c.copied for c in compared) / n,
    )


def table_rows(result: FidelityResult) -> list[tuple[str, ...]]:
    """Rows of (what, n, exact, normalised, copy baseline, words, copied words, free-running exact), as text, the header
    first."""
    forced, free = result.teacher_forced, result.free_running
    header = ("", "n", "exact", "normalised", "copy baseline", "words", "copied words", "free-running exact")
    rows: list[tuple[str, ...]] = [header]
    rows.append(_row("macro over classes", forced.macro, free.macro))
    rows.append(_row("all transitions", forced.micro, free.micro))
    rows += [_row(name, m, free.by_class.get(name)) for name, m in forced.by_class.items()]
    rows += [_row(f"depth {d}", m, free.by_depth.get(d)) for d, m in forced.by_depth.items()]
    rows += [_row(f"turn {t + 1}", m, free.by_turn.get(t)) for t, m in forced.by_turn.items()]
    return rows


def tables(results: Mapping[str, FidelityResult]) -> list[tuple[str, ...]]:
    """The rows of one domain, or of several: a summary of each, then theirs under their names."""
    if len(results) == 1:
        return table_rows(next(iter(results.values())))
    rows: list[tuple[str, ...]] = []
    for name, result in results.items():
        header, macro, *_ = table_rows(result)
        rows = rows or [(*header, "determined")]
        rows.append((name, *macro[1:], f"{result.determined:.1%}"))
    for name, result in results.items():
        rows += [(f"{name}: {row[0]}", *row[1:], "") for row in table_rows(result)[1:]]
    return rows


class _Asker:
    """Holds one measurement: the model, its slots and its settings; ``asked``: the transitions that are predicted."""

    def __init__(
        self,
        model: WorldModel,
        spec: SpecOf,
        settings: FidelitySettings,
        candidates: Candidates,
        spans: Mapping[Transition, Sequence[Span]],
        asked: frozenset[Transition],
    ) -> None:
        self.model, self.spec, self.settings, self.candidates = model, spec, settings, candidates
        self.spans, self.asked = spans, asked
        self.slots = asyncio.Semaphore(settings.concurrency)

    async def teacher_forced(self, episodes: Sequence[Episode], sample: Sequence[Transition]) -> list[Compared]:
        chosen = set(sample)
        jobs: list[tuple[Episode, tuple[Exchange, ...], Transition]] = []
        for episode in episodes:
            steps, probes = split_probes(episode.transitions)
            history = tuple(Exchange(t.action, t.observation) for t in steps)
            jobs += [(episode, history[:i], t) for i, t in enumerate(steps) if t in chosen]
            jobs += [(episode, history, t) for t in probes if t in chosen]
        jobs.sort(key=lambda job: sum(len(e.action) + len(e.observation) for e in job[1]))  # even batches
        return list(await asyncio.gather(*(self.compare(*job) for job in jobs)))

    async def free_running(self, episodes: Sequence[Episode]) -> list[Compared]:
        results = await asyncio.gather(*(self.run_free(episode) for episode in episodes))
        return [compared for result in results for compared in result]

    async def run_free(self, episode: Episode) -> list[Compared]:
        steps, probes = split_probes(episode.transitions)
        history: tuple[Exchange, ...] = ()
        done = []
        for step in steps:
            if step.command_class == FINAL_CLASS:
                history = (*history, Exchange(step.action, step.observation))
                continue
            compared = await self.compare(episode, history, step)
            if step in self.asked:
                done.append(compared)
            history = (*history, Exchange(step.action, compared.predicted or ""))
        asked = [probe for probe in probes if probe in self.asked]
        return done + list(await asyncio.gather(*(self.compare(episode, history, probe) for probe in asked)))

    async def compare(self, episode: Episode, history: tuple[Exchange, ...], t: Transition) -> Compared:
        spans = self.spans.get(t, ())
        copies = self.candidates(episode.world, t.action)
        baseline = any(agrees(t.observation, spans, text) for text in copies)
        before = [exchange.observation for exchange in history[-1:]]
        copied = max((word_overlap(t.observation, spans, text) for text in (*copies, *before)), default=0.0)
        seed = derive_seed(self.settings.seed, t.episode, t.turn, t.action)
        async with self.slots:
            deadline = time.monotonic() + self.settings.deadline_seconds
            request = PredictRequest(
                self.spec(episode.world), history, t.action, seed, deadline, t.episode, self.settings.temperature
            )
            try:
                return Compared(t, (await self.model.predict(request)).observation, baseline, spans, copied)
            except WorldFault:
                return Compared(t, None, baseline, spans, copied)


def _by(compared: Sequence[Compared], key: Callable[[Compared], Any]) -> dict[Any, Match]:
    groups: dict[Hashable, list[Compared]] = defaultdict(list)
    for item in compared:
        groups[key(item)].append(item)
    return {name: match(groups[name]) for name in sorted(groups)}  # type: ignore[type-var]


def _macro(classes: Sequence[Match], n: int) -> Match:
    if not classes:
        return Match(0, 0.0, 0.0, 0.0)
    k = len(classes)
    return Match(
        n,
        sum(m.exact for m in classes) / k,
        sum(m.normalised for m in classes) / k,
        sum(m.baseline for m in classes) / k,
        sum(m.words for m in classes) / k,
        sum(m.copied for m in classes) / k,
    )


def _misses(compared: Sequence[Compared], per_class: int) -> tuple[Mapping[str, str], ...]:
    kept: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for item in compared:
        t = item.transition
        if not item.exact and item.predicted is not None and len(kept[t.command_class]) < per_class:
            real = {"class": t.command_class, "episode": t.episode, "action": t.action, "real": t.observation}
            kept[t.command_class].append({**real, "predicted": item.predicted})
    return tuple(miss for name in sorted(kept) for miss in kept[name])


def _row(name: str, forced: Match, free: Match | None) -> tuple[str, ...]:
    shares = (forced.exact, forced.normalised, forced.baseline, forced.words, forced.copied)
    cells = [f"{share:.1%}" for share in (*shares, *([free.exact] if free and free.n else []))]
    return (name, str(forced.n), *cells, *["-"] * (6 - len(cells)))
