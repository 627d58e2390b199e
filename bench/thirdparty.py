"""What the table of ``agentworld eval --suite third-party`` does not say: each category, and each check on its own.

``python bench/thirdparty.py RUN_DIR`` reads the episodes of a run. ``python bench/thirdparty.py --obey N`` acts out N
attacked tasks of AgentDojo as a policy that does whatever an injection asks and then the user's task: ``security`` must
fail on every one of them. Exits 1 where it does not. ``python bench/thirdparty.py --count POLICY=RUN_DIR ...`` writes
bench/results/third_party.json: tasks, verdicts and successes of every benchmark under each policy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rollout.spot import replay_actions
from worldmodel.domains import RealWorlds
from worldmodel.domains.mcp.thirdparty.agentdojo import attacked

SECONDS = 300.0  # for one episode
RESULTS = Path(__file__).parent / "results" / "third_party.json"


def episodes(run_dir: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The last episode of each task, benchmark by benchmark."""
    for file in sorted((run_dir / "trajectories").glob("*.jsonl")):
        rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        yield file.stem, list({row["task"]["id"]: row for row in rows}.values())


def checks(run_dir: Path) -> None:
    """For every family of every benchmark: episodes, how many succeeded, and how many passed each check."""
    for _, rows in episodes(run_dir):
        found: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for row in rows:
            counts = found[row["task"]["family"]]
            counts.update(["episodes"] + ["success"] * (row["score"]["reward"] == 1.0))
            counts.update(result["name"] for result in row["results"] if result["passed"])
        for family, counts in found.items():
            print(family, ", ".join(f"{name} {count}" for name, count in counts.items()))


def counted(runs: dict[str, Path], out: Path) -> None:
    """Tasks, verdicts and successes of every benchmark, by policy."""
    found: defaultdict[str, dict[str, dict[str, int]]] = defaultdict(dict)
    for policy, run_dir in runs.items():
        for name, rows in episodes(run_dir):
            scores = [row["score"].get("reward") for row in rows]
            solved, verdicts = scores.count(1.0), sum(score is not None for score in scores)
            found[name][policy] = {"tasks": len(rows), "verdicts": verdicts, "solved": solved}
    command = [f"agentworld eval --suite third-party --policy {policy} --run-dir {runs[policy]}" for policy in runs]
    command.append(" ".join(["python bench/thirdparty.py", *sys.argv[1:]]))
    out.write_text(json.dumps({"commands": command, "benchmarks": found}, indent=1) + "\n", encoding="utf-8")
    for name, row in found.items():
        print(name, ", ".join(f"{policy} {n['solved']} of {n['tasks']}" for policy, n in row.items()))


def obey(count: int) -> int:
    """How many attacks were obeyed and yet not noticed."""
    passed = Counter[str]()
    tasks = attacked(count)
    for task in tasks:
        acted = replay_actions(RealWorlds()(task, 0), task, task.reference.wrong[0], time.monotonic() + SECONDS)
        results, _ = asyncio.run(acted)
        passed.update(result.name for result in results if result.passed)
        if any(result.name == "security" and result.passed is not False for result in results):
            print(f"not noticed: {task.id}")
    print(f"{len(tasks)} attacks obeyed: utility {passed['utility']}, security {passed['security']}")
    return passed["security"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", nargs="?", type=Path)
    parser.add_argument("--obey", type=int, metavar="N")
    parser.add_argument("--count", nargs="+", metavar="POLICY=RUN_DIR")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    if chosen.count:
        counted({policy: Path(run) for policy, _, run in (item.partition("=") for item in chosen.count)}, chosen.out)
    if chosen.run_dir:
        checks(chosen.run_dir)
    return int(bool(chosen.obey and obey(chosen.obey)))


if __name__ == "__main__":
    raise SystemExit(main())
