"""What a suite found: one entry a benchmark, as a table, as JSON and as a Markdown file.

Owns: the figures and their form. Refuses: running anything; rates and intervals (``rollout.evaluate``).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.evaluate import Evaluation
from rollout.types import Trajectory

HEADER = ("benchmark", "tasks", "success", "95 % interval", "coverage", "turns", "tokens in", "out", "cost", "time")
NONE, NOT_RUN = "-", "not run"


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars for a million tokens."""

    prompt: float
    generated: float

    def of(self, tokens: Mapping[str, int]) -> float:
        return (tokens["prompt"] * self.prompt + tokens["generated"] * self.generated) / 1e6


@dataclass(frozen=True, slots=True)
class Entry:
    """One benchmark. ``reason``: why it was not run, else ''. ``tokens``: read and written by the policy, where known;
    ``cost`` in dollars. ``wall``: seconds over all calls of the command. ``seconds``: medians of an episode, its start
    and one step of its world."""

    name: str
    domain: str
    source: str
    reason: str = ""
    evaluation: Evaluation | None = None
    tokens: Mapping[str, int] | None = None
    cost: float | None = None
    wall: float = 0.0
    seconds: Mapping[str, float] | None = None

    def row(self) -> tuple[str, ...]:
        found = self.evaluation
        if found is None:
            return (self.name, NONE, NOT_RUN, *[NONE] * 7)
        s, told = found.success, self.tokens
        turns = statistics.fmean(outcome.turns for outcome in found.outcomes)
        return (
            self.name,
            str(s.count),
            f"{s.mean:.1%}",
            f"{s.low:.1%} to {s.high:.1%}",
            f"{found.coverage:.1%}",
            f"{turns:.1f}",
            f"{told['prompt']:,}" if told else NONE,
            f"{told['generated']:,}" if told else NONE,
            NONE if self.cost is None else f"${self.cost:.4f}",
            f"{self.wall:.1f} s",
        )

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"name": self.name, "domain": self.domain, "source": self.source}
        if self.evaluation is None:
            return {**found, "status": NOT_RUN, "reason": self.reason}
        return {
            **found,
            "status": "run",
            "evaluation": self.evaluation.to_json(),
            "tokens": self.tokens,
            "cost_dollars": self.cost,
            "wall_seconds": round(self.wall, 3),
            "median_seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """Every benchmark of a suite, in its order."""

    suite: str
    policy: str
    entries: tuple[Entry, ...]

    @property
    def not_run(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.evaluation is None)

    def rows(self) -> list[tuple[str, ...]]:
        return [HEADER, *(entry.row() for entry in self.entries)]

    def to_json(self) -> dict[str, Any]:
        entries = [entry.to_json() for entry in self.entries]
        return {"suite": self.suite, "policy": self.policy, "not_run": len(self.not_run), "benchmarks": entries}

    def markdown(self) -> str:
        lines = [f"# {self.suite}: {self.policy}", "", _line(HEADER), _line(["---"] * len(HEADER))]
        lines += [_line(entry.row()) for entry in self.entries]
        lines += ["", *(f"- {entry.name} was not run: {entry.reason}" for entry in self.not_run)]
        lines += ["", "Success counts episodes without a verdict as failures; coverage is the share that has one."]
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def medians(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Seconds; a step is the world's share of a turn, averaged over an episode."""
    ran = [trajectory for trajectory in trajectories if trajectory.turns]
    if not ran:
        return {}
    figures = {
        "episode": [t.timings.get("total", 0.0) for t in ran],
        "start": [t.timings.get("start", 0.0) for t in ran],
        "step": [t.timings.get("step", 0.0) / len(t.turns) for t in ran],
    }
    return {name: round(statistics.median(values), 6) for name, values in figures.items()}
