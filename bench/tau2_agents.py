"""Success of the agents without a model on every task of tau2-bench: ``python bench/tau2_agents.py``.

The same programs give the same verdicts as in ``agentworld eval --suite third-party``, but one process in one box plays
all episodes of a domain, one after another, so that nothing is loaded twice: minutes on two cores. Writes
bench/results/tau2_agents.json: for each source and agent the tasks, those solved, and the ids where gold fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.agents import AGENTS, Agent, scripted
from rollout.types import Task
from worldmodel.domains.mcp.tau2 import DOMAINS, KEY, source
from worldmodel.domains.mcp.tau2.install import COMMAND, NAME, machine
from worldmodel.domains.mcp.tau2.real import JUDGE_SECONDS, MAX_ERRORS, ask, parse
from worldmodel.domains.mcp.tau2.tasks import MET, first
from worldmodel.installed import folder
from worldmodel.sandbox import Service
from worldmodel.types import refusal

SEED = 4000037  # of the suite


def solved(service: Service, task: Task, texts: Sequence[str]) -> bool:
    """Whether every part of the reward is earned by saying ``texts``."""
    tools = tuple(tool["name"] for tool in task.world.state["tools"])
    which = {"domain": task.world.state[KEY], "task": task.world.state["task"]}
    calls: list[dict[str, Any]] = []
    answer, begun, errors = None, False, 0
    for text in texts[: task.max_turns]:
        action = parse(text, tools)
        if refusal(action) is not None:
            continue
        if action.final:
            answer = action.arguments["text"]
            break
        if not begun:
            ask(service, JUDGE_SECONDS, op="begin", **which)
            begun = True
        call = {"name": action.name, "arguments": dict(action.arguments)}
        reply = ask(service, JUDGE_SECONDS, op="call", name=call["name"], arguments=call["arguments"])
        calls.append({**call, **reply})
        errors += reply["error"]
        if errors >= MAX_ERRORS:
            break
    reply = ask(service, JUDGE_SECONDS, op="judge", **which, calls=calls, answer=answer)
    return set(reply["verdicts"].values()) == {MET}


def measure(domain: str, count: int, agents: Sequence[Agent]) -> dict[str, Any]:
    tasks = first(domain, count)
    found: dict[str, Any] = {"tasks": len(tasks)}
    with machine(folder(NAME)) as box:
        service = box.serve(COMMAND)
        for agent in agents:
            said = scripted(agent, tasks, SEED)
            begun = time.monotonic()
            results = {t.id: solved(service, t, [*said.actions[t.id], said.last[t.id]]) for t in tasks}
            found[agent] = sum(results.values())
            if agent == "gold":
                found["gold_fails"] = [name for name, good in results.items() if not good]
            print(
                f"{source(domain)} {agent}: {found[agent]} of {len(tasks)}, {time.monotonic() - begun:.0f} s",
                flush=True,
            )
    return found


def main() -> None:
    given = argparse.ArgumentParser()
    given.add_argument("--tasks", type=int, default=999, help="at most so many of each source")
    given.add_argument("--agents", nargs="+", choices=AGENTS, default=AGENTS)
    given.add_argument("--domains", nargs="+", choices=DOMAINS, default=DOMAINS)
    given.add_argument("--out", type=Path, default=Path("bench/results/tau2_agents.json"))
    options = given.parse_args()
    result = {source(domain): measure(domain, options.tasks, options.agents) for domain in options.domains}
    report = {"command": " ".join(["python", *sys.argv]), "seed": SEED, "sources": result}
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
