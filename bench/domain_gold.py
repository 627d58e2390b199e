"""Scripted policies on a domain's own tasks in its real environment: does gold succeed, and does nothing else?

Run: ``python -m bench.domain_gold DOMAIN [--tasks N] [--policy gold|wrong|empty|random]``. Tasks come from the three
splits in turn. Two tasks with the same instruction and the same known solution are one, whatever else differs: they are
drawn until N are distinct, and what was left out is counted. The first tasks are the same for every N.

``gold``: the task's known solution. ``wrong``: one of its plausible wrong ways, in turn. ``empty``: what the kit says
that doing nothing is. ``random``: up to a full episode of actions from the solutions of other tasks, half of them with
a slip, ended as another task ends.

Writes bench/results/domain_gold-DOMAIN.json, which holds all policies and every episode; the same command goes on where
it stopped, unless the domain's folder has changed since: then that policy begins again (``--keep`` says otherwise).
``--again`` repeats the episodes without a verdict. Exits 1 where a bar is missed: gold 98 %, others at most 2 %.
An episode whose world failed has no verdict: it counts as no success of gold, and is listed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import random
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args

from rollout.errors import WorldFault
from rollout.seeds import derive_seed
from rollout.spot import replay_actions, success
from rollout.types import Task
from worldmodel.behaviours import typo
from worldmodel.domains import DomainKit, RealWorlds, kit
from worldmodel.tasks import Split

BARS = {"gold": 0.98, "wrong": 0.02, "empty": 0.02, "random": 0.02}
SPLITS: tuple[Split, ...] = get_args(Split)
SECONDS = 300.0  # for one episode
OTHERS = 16  # tasks that the random policy borrows from
SAVE_SECONDS = 10.0
Row = list[Any]  # verdict, seconds, note


def same(task: Task) -> str:
    """Equal for tasks that ask the same and are solved by the same."""
    return json.dumps([task.instruction, task.reference.gold])


def content(task: Task) -> str:
    """Equal for tasks that agree in all but id and seed."""
    return json.dumps([task.instruction, asdict(task.world), [asdict(check) for check in task.checks]], sort_keys=True)


def draw(found: DomainKit, count: int, seed: int) -> tuple[list[Task], dict[str, Any]]:
    """``count`` distinct tasks, or as many as there are, and what was counted meanwhile."""
    each = -(-count // len(SPLITS))
    while True:
        lists = [found.generate(split, each, seed) for split in SPLITS]
        drawn: list[Task] = []
        kept: dict[str, Task] = {}
        for task in (task for group in zip_longest(*lists) for task in group if task is not None):
            if len(kept) < count:
                drawn.append(task)
                kept.setdefault(same(task), task)
        if len(kept) == count or each > 16 * count:
            return list(kept.values()), counts(drawn, len(kept))
        each += each // 4 + 1


def counts(drawn: Sequence[Task], kept: int) -> dict[str, Any]:
    trained = {same(task) for task in drawn if task.split == "train"}
    copies = Counter(same(task) for task in drawn)
    first = {same(task): task.family for task in reversed(drawn)}
    repeated = Counter(dict.fromkeys(first.values(), 0))
    for key, times in copies.items():
        repeated[first[key]] += times - 1
    return {
        "drawn": len(drawn),
        "distinct": kept,
        "duplicates_left_out": len(drawn) - kept,
        "duplicates_by_family": {family: times for family, times in sorted(repeated.items()) if times},
        "distinct_in_any_content": len({content(task) for task in drawn}),
        "distinct_instructions": len({task.instruction for task in drawn}),
        "heldout_drawn_that_occur_in_train": sum(task.split == "heldout" and same(task) in trained for task in drawn),
        "by_split": dict(Counter(task.split for task in drawn)),
        "families": len({task.family for task in drawn}),
    }


def behave(policy: str, found: DomainKit, tasks: Sequence[Task], index: int) -> tuple[Sequence[str], str]:
    """What ``policy`` says on task ``index``, and a note where it chose."""
    task = tasks[index]
    if policy == "gold":
        return task.reference.gold, ""
    if policy == "empty":
        return found.empty, ""
    if policy == "wrong":
        way = index // len({other.family for other in tasks[:200]}) % max(1, len(task.reference.wrong))
        return task.reference.wrong[way], f"way {way}"
    rng = random.Random(derive_seed("domain_gold", task.id))
    first = max(0, min(index - OTHERS // 2, len(tasks) - OTHERS - 1))
    others = [other for other in tasks[first : first + OTHERS + 1] if other is not task]
    steps = []
    for _ in range(rng.randint(1, max(1, task.max_turns - 1))):
        text = rng.choice(rng.choice(others).reference.gold[:-1] or ("",))
        steps.append(typo(text, rng) if rng.random() < 0.5 else text)
    return (*steps, rng.choice(others).reference.gold[-1]), f"{len(steps)} steps"


async def episode(worlds: RealWorlds, task: Task, steps: Sequence[str]) -> tuple[bool | None, float, str]:
    begun = time.monotonic()
    try:
        results, _ = await replay_actions(worlds(task, 1), task, steps, begun + SECONDS)
    except WorldFault as error:
        return None, time.monotonic() - begun, f"{type(error).__name__}: {error}"
    verdict = success(results)
    failed = next((r for r in results if r.passed is not True), None)
    why = "" if verdict or failed is None else f"{failed.name}: {failed.reason or ' | '.join(failed.replies)[-200:]!r}"
    return verdict, time.monotonic() - begun, why


async def run(policy: str, found: DomainKit, tasks: Sequence[Task], rows: dict[str, Row]) -> AsyncIterator[None]:
    """Fill ``rows`` with what is not in it; control comes back after each episode."""
    worlds = RealWorlds()
    for index, task in enumerate(tasks):
        if task.id not in rows:
            steps, note = behave(policy, found, tasks, index)
            verdict, seconds, why = await episode(worlds, task, steps)
            told = why if verdict is None or verdict != (policy == "gold") else ""
            rows[task.id] = [verdict, round(seconds, 3), *filter(None, (f"{note} {told}".strip(),))]
            yield


def summary(policy: str, tasks: Sequence[Task], rows: dict[str, Row]) -> dict[str, Any]:
    done = [task for task in tasks if task.id in rows]
    verdicts = {task.id: rows[task.id][0] for task in done}
    passed = sum(verdict is True for verdict in verdicts.values())
    families: dict[str, dict[str, Any]] = defaultdict(lambda: {"episodes": 0, "passed": 0, "unexpected": []})
    for task in done:
        family = families[task.family]
        family["episodes"] += 1
        family["passed"] += verdicts[task.id] is True
        if verdicts[task.id] is not (policy == "gold"):
            family["unexpected"].append(task.id)
    seconds = [rows[task.id][1] for task in done]
    return {
        "asked_for": len(tasks),
        "episodes": len(done),
        "passed": passed,
        "share": round(passed / len(done), 4) if done else None,
        "no_verdict": sum(verdict is None for verdict in verdicts.values()),
        "bar": BARS[policy],
        "met": bool(done) and (passed / len(done) >= BARS[policy] if policy == "gold" else
                               passed / len(done) <= BARS[policy]),
        "seconds": {
            "total": round(sum(seconds), 1),
            "median": round(statistics.median(seconds), 3) if seconds else None,
            "p95": round(statistics.quantiles(seconds, n=20)[-1], 3) if len(seconds) > 1 else None,
        },
        "families": dict(sorted(families.items())),
    }  # fmt: skip


def code(domain: str) -> str:
    """Identity of the domain's folder."""
    folder = Path(__file__).resolve().parents[1] / "worldmodel" / "domains" / domain
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    parts = [f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def write(path: Path, result: dict[str, Any]) -> None:
    """Whole or not; an episode is one line."""
    plain = json.dumps({**result, "rows": 0}, indent=2)
    rows = ",\n".join(
        f'    "{policy}": {{\n' + ",\n".join(f"      {json.dumps(k)}: {json.dumps(row)}" for k, row in found.items())
        + "\n    }"
        for policy, found in result["rows"].items()
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(plain.replace('"rows": 0', '"rows": {\n' + rows + "\n  }") + "\n", encoding="utf-8")
    partial.replace(path)


async def measure(options: argparse.Namespace, found: DomainKit) -> dict[str, Any]:
    tasks, counted = draw(found, options.tasks, options.seed)
    result: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    policy, now = options.policy, code(options.domain)
    before = result.setdefault("policies", {}).get(policy, {})
    rows: dict[str, dict[str, Row]] = result.pop("rows", {})
    goes_on = before.get("seed") == options.seed and (options.keep or before.get("code") == now)
    mine = rows.get(policy, {}) if goes_on else {}
    if options.again:
        mine = {name: row for name, row in mine.items() if row[0] is not None}
    earlier = before.get("wall_seconds", 0.0) if goes_on else 0.0
    result |= {"domain": options.domain, "cpus": os.cpu_count(), "kernel": platform.release()}
    begun = saved = time.monotonic()

    def save() -> dict[str, Any]:
        found_now = summary(policy, tasks, mine)
        wall = round(earlier + time.monotonic() - begun, 1)
        facts = {"command": " ".join(["python -m bench.domain_gold", *sys.argv[1:]]), "seed": options.seed, "code": now,
                 "wall_seconds": wall, "load_average": round(os.getloadavg()[2], 1), "tasks": counted}  # fmt: skip
        result["policies"][policy] = {**facts, **found_now}
        write(options.out, {**result, "rows": {**rows, policy: mine}})
        return found_now

    try:
        async for _ in run(policy, found, tasks, mine):
            if options.minutes is not None and time.monotonic() - begun > 60 * options.minutes:
                break
            if time.monotonic() - saved > SAVE_SECONDS:
                saved = time.monotonic()
                save()
    finally:
        last = save()
    return last


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("domain")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--policy", choices=list(BARS), default="gold")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="stop then; the same command goes on")
    parser.add_argument("--keep", action="store_true", help="go on although the domain's folder has changed")
    parser.add_argument("--again", action="store_true", help="repeat episodes that have no verdict")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.out = options.out or Path(__file__).parent / "results" / f"domain_gold-{options.domain}.json"
    found = kit(options.domain)
    if lacking := found.missing():
        print(f"{options.domain}: missing {lacking}")
        return 2
    done = asyncio.run(measure(options, found))
    unexpected = {family: row["unexpected"] for family, row in done["families"].items() if row["unexpected"]}
    print(f"{options.domain} {options.policy}: {done['passed']} of {done['episodes']} succeed of "
          f"{done['asked_for']} asked for, "
          f"{done['no_verdict']} without a verdict, bar {done['bar']:.0%} {'met' if done['met'] else 'missed'}; "
          f"{done['seconds']}")  # fmt: skip
    for family, ids in unexpected.items():
        print(f"  {family}: {len(ids)}: {' '.join(ids[:5])}")
    return 0 if done["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
