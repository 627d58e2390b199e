"""Agents without a model on the own swe tasks, in the real environment: who passes, of every bug of the catalogue.

Run after ``agentworld setup swe``: ``python bench/swe_gold.py`` (gold on every bug), then
``python bench/swe_gold.py --agents empty random wrong --count 150``. Each episode is appended to
bench/results/swe_episodes.jsonl, in an order that does not depend on the package, and is not acted out again: a run
that was cut off goes on. bench/results/swe_gold.json sums up all of them. Exits 1 where a bar is missed: gold 98 %, any
other agent 2 %.

``wrong`` is the repair that looks plausible where the bug has one; what never got a verdict is counted as ``faults``.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.agents import random_actions
from rollout.errors import WorldFault
from rollout.seeds import derive_seed
from rollout.spot import replay_actions, success
from rollout.types import Task
from worldmodel.domains.swe.kit import KIT
from worldmodel.domains.swe.real import SweEnvironment
from worldmodel.domains.swe.tasks import families, generate

AGENTS = ("gold", "empty", "random", "wrong")
BARS = {"gold": 0.98}  # at least; the others: at most OTHERS
OTHERS = 0.02
SECONDS = 400.0  # of one episode
RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def digest(task: Task) -> str:
    """Of the bug, so that a row stays where a catalogue grows."""
    state = task.world.state
    return hashlib.sha256(json.dumps([state["package"], state["version"], state["bug"]]).encode()).hexdigest()[:12]


def every_bug() -> list[Task]:
    """One task a bug, shuffled."""
    found = [
        task
        for split in ("train", "heldout", "family")
        for task in generate(split, sum(map(len, families(split).values())), 0)
    ]
    return sorted(found, key=digest)


def said(agent: str, task: Task, known: Sequence[str]) -> tuple[str, ...] | None:
    """The actions of ``agent``, or None where the task has none of this kind."""
    if agent == "gold":
        return task.reference.gold
    if agent == "empty":
        return KIT.empty
    if agent == "wrong":
        return task.reference.wrong[0] if len(task.reference.wrong) > 1 else None  # the last one deletes the test
    rng = random.Random(derive_seed(0, "random agent", task.id))
    return (*random_actions(known, rng, task.max_turns), *KIT.empty)


async def episode(agent: str, task: Task, actions: Sequence[str]) -> Row:
    begun = time.monotonic()
    why, passed = "", None
    try:
        results, _ = await replay_actions(SweEnvironment(task), task, actions, begun + SECONDS)
        passed = success(results)
        why = "; ".join(reply for result in results for reply in result.replies)
    except WorldFault as error:
        why = f"{type(error).__name__}: {error}"
    row = {"bug": digest(task), "family": task.family, "split": task.split, "agent": agent, "passed": passed}
    row["seconds"] = round(time.monotonic() - begun, 1)
    return row if passed is (agent == "gold") else {**row, "why": why[:400]}


async def act_out(wanted: Iterable[tuple[str, Task, Sequence[str]]], at_once: int, until: float, raw: Path) -> None:
    """Each of ``wanted``, ``at_once`` together, until the clock reaches ``until``."""
    source = iter(wanted)

    async def worker() -> None:
        for agent, task, actions in source:
            if time.monotonic() > until:
                return
            row = await episode(agent, task, actions)
            with raw.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")

    await asyncio.gather(*(worker() for _ in range(at_once)))


def to_do(
    tasks: Sequence[Task], agents: Sequence[str], count: int, done: set[tuple[str, str]]
) -> Iterator[tuple[str, Task, Sequence[str]]]:
    known = [text for task in generate("train", 20, 0) for text in task.reference.gold]
    for agent in agents:
        able = [(task, actions) for task in tasks if (actions := said(agent, task, known)) is not None]
        for task, actions in able[:count]:
            if (agent, digest(task)) not in done:
                yield agent, task, actions


def read(raw: Path, bugs: set[str]) -> list[Row]:
    """The last row of each bug and agent; rows of bugs that the catalogue has no more are left out, and so are faults:
    they are acted out again."""
    rows = [json.loads(line) for line in raw.read_text(encoding="utf-8").splitlines()] if raw.exists() else []
    return list({(row["agent"], row["bug"]): row for row in rows if row["bug"] in bugs}.values())


def summary(rows: Sequence[Row], tasks: int) -> dict[str, Any]:
    found: dict[str, Any] = {"tasks": tasks, "agents": {}, "missed": []}
    for agent in AGENTS:
        mine = [row for row in rows if row["agent"] == agent]
        judged = [row for row in mine if row["passed"] is not None]
        if not judged:
            continue
        passed = sum(row["passed"] for row in judged)
        rate = passed / len(judged)
        by_family: dict[str, list[int]] = {}
        for row in judged:
            counts = by_family.setdefault(row["family"], [0, 0])
            counts[0] += row["passed"]
            counts[1] += 1
        found["agents"][agent] = {
            "episodes": len(mine), "faults": len(mine) - len(judged), "passed": passed, "rate": round(rate, 4),
            "passed_of_by_family": {name: by_family[name] for name in sorted(by_family)},
            "surprises": [row for row in mine if row["passed"] is not (agent == "gold")][:40],
        }  # fmt: skip
        if rate < BARS[agent] if agent in BARS else rate > OTHERS:
            found["missed"].append(agent)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=["gold"])
    parser.add_argument("--count", type=int, default=1_000_000, help="tasks for each agent")
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1e6, help="after these no new episode is begun")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    tasks = every_bug()
    bugs = {digest(task) for task in tasks}
    raw = options.out / "swe_episodes.jsonl"
    raw.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["agent"], row["bug"]) for row in read(raw, bugs) if row["passed"] is not None}
    wanted = to_do(tasks, options.agents, options.count, done)
    asyncio.run(act_out(wanted, options.at_once, time.monotonic() + options.minutes * 60, raw))
    result = {
        "command": " ".join(["python", "bench/swe_gold.py", *sys.argv[1:]]),
        **summary(read(raw, bugs), len(bugs)),
    }
    (options.out / "swe_gold.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({agent: found["rate"] for agent, found in result["agents"].items()}), "missed:", result["missed"])
    return 1 if result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
