"""Which of AgentBench's operating-system tasks work here: their own solution must pass, doing nothing must fail.

    python -m bench.agentbench_audit [--only test-14 dev-3] [--all]

Prints a line for each task that does not (``--all``: for each), then counts. What is left out for a reason
(``agentbench.LEFT_OUT``) is tried too, so that the reasons can be checked.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter

from rollout.errors import AgentworldError
from rollout.spot import replay_actions, success
from worldmodel.domains.terminal.agentbench import LEFT_OUT, Exercise, exercises, task
from worldmodel.domains.terminal.agentbench_real import AgentBenchEnvironment

SECONDS = 60.0


def tried(exercise: Exercise, actions: tuple[str, ...]) -> str:
    """``pass``, ``fail``, or the fault."""
    made = task(exercise)
    try:
        results, _ = asyncio.run(replay_actions(AgentBenchEnvironment(made), made, actions, time.monotonic() + SECONDS))
    except AgentworldError as error:
        return f"fault: {error}"
    return {True: "pass", False: "fail", None: "no verdict"}[success(results)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--all", action="store_true")
    chosen = parser.parse_args()
    why = {key: reason for reason, keys in LEFT_OUT.items() for key in keys}
    counts: Counter[str] = Counter()
    for key, exercise in exercises().items():
        if chosen.only and key not in chosen.only:
            continue
        if exercise.lacking:
            gold = empty = f"lacks {exercise.lacking}"
        else:
            gold, empty = tried(exercise, (exercise.solution, "done")), tried(exercise, ("done",))
        works = (gold, empty) == ("pass", "fail")
        counts["of the wheel"] += 1
        counts["its script is not in the wheel"] += bool(exercise.lacking)
        counts["own solution passes"] += gold == "pass"
        counts["doing nothing passes"] += empty == "pass"
        counts["works"] += works
        counts["works and offered"] += works and key not in why
        counts["offered and does not work"] += not works and key not in why and not exercise.lacking
        if chosen.all or not works or key in why:
            print(f"{key}: gold {gold}, empty {empty}" + (f" (left out: {why[key]})" if key in why else ""), flush=True)
    for name, count in counts.items():
        print(f"{count:>4} {name}")


if __name__ == "__main__":
    main()
