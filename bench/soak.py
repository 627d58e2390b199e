"""Soak: episodes in the real worlds of all domains, a share of which lose a process, and what is left behind.

    python -m bench.soak [--episodes 500] [--seed 0] [--out bench/results/soak.jsonl] [--alone]

Behaviours are gold, wrong and random in turn. In about a third of the episodes of a domain that has processes one is
killed or stopped (SIGSTOP) at a random moment: the keeper, or any process of a box. Only descendants of this process
are touched. The episode after such a one is gold in the same domain and must succeed. Bars, per episode: gold succeeds
and wrong fails where nothing was done to them; a death never turns a failure into a success, the episode ends in time,
and what is no verdict is a typed fault. A process inside a box that dies is the action's doing (a command may kill its
shell), so such an episode may end in a failure; one that lost its keeper may not. At the end: no process, mount, port,
cgroup, temporary file or descriptor is left. Rows are kept: the same command goes on where it stopped.

A domain whose real world lacks something on this machine is left out, by name. ``--alone`` (nothing else runs here)
also counts every new file in /tmp, /var/tmp and /dev/shm.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.leaks import Traces, Watch, leaks, traces
from rollout.errors import ConfigError, WorldFault
from rollout.protocols import Environment
from rollout.spot import success
from rollout.types import ObservationKind, Task
from worldmodel.domains import RealWorlds, kit, names
from worldmodel.sandbox import stop_keeper

ROOT = Path(__file__).resolve().parents[1]
SECONDS, CLOSE_SECONDS = 180.0, 30.0  # for one episode, and to close it
TASKS = 20  # of each domain, used again and again
DEATHS = {"kill": 5, "stop": 3, "keeper": 2, "keeper-stop": 1}  # and how often; a stopped keeper costs 30 s
JUNK = ("", "\0\x1b[2J", "'", "{", "[]", "null", "x" * 5000)


@dataclass(frozen=True, slots=True)
class Plan:
    """``death``: '' or what is done to a process; ``at``: the share of the episode's calls before it; ``during``: the
    call is under way then."""

    episode: int
    domain: str
    task: int
    behaviour: str
    death: str = ""
    at: float = 0.0
    during: bool = False


@dataclass(slots=True)
class Row:
    """What became of a plan. ``outcome``: success, failure, undecided, fault or late. ``struck``: the process."""

    plan: Plan
    struck: str = ""
    outcome: str = ""
    error: str = ""
    seconds: float = 0.0
    problem: str = ""


def plans(episodes: int, domains: list[str], seed: int) -> list[Plan]:
    """Equal arguments give equal plans, and fewer episodes the beginning of more."""
    made: list[Plan] = []
    for episode in range(episodes):
        rng = random.Random(f"{seed}-{episode}")
        domain, behaviour = domains[episode % len(domains)], rng.choice(("gold", "gold", "wrong", "random"))
        death = rng.choices([*DEATHS], [*DEATHS.values()])[0] if rng.random() < 0.5 else ""
        if made and made[-1].death:
            domain, behaviour, death = made[-1].domain, "gold", ""
        made.append(Plan(episode, domain, rng.randrange(TASKS), behaviour, death, rng.random(), rng.random() < 0.5))
    return made


# ------------------------------------------------------------------------------------------------ one episode


def actions_of(plan: Plan, task: Task, others: list[Task], rng: random.Random) -> tuple[str, ...]:
    if plan.behaviour == "gold":
        return task.reference.gold
    if plan.behaviour == "wrong":
        return rng.choice(task.reference.wrong)
    known = [text for other in others if other.id != task.id for text in other.reference.gold]
    return tuple(rng.choice(known if rng.random() < 0.7 else JUNK) for _ in range(rng.randint(1, 6)))


async def act(environment: Environment, task: Task, actions: tuple[str, ...], row: Row, watch: Watch) -> None:
    """The episode, with the death of its plan."""
    plan, rng = row.plan, random.Random(f"strike-{row.plan.episode}")
    turn = min(len(actions), int(plan.at * (len(actions) + 1)))  # the last is the verdict

    async def call(work: Any, number: int) -> Any:
        if not plan.death or row.struck or number < turn:
            return await work
        under_way = asyncio.ensure_future(work)
        if plan.during:
            await asyncio.sleep(rng.uniform(0.0, 0.02))
        while not row.struck and not under_way.done():
            row.struck = watch.strike(plan.death, rng)
            await asyncio.sleep(0.002)
        return await under_way

    await environment.start()
    watch.family()
    for number, text in enumerate(actions):
        action = environment.parse(text)
        seen = await call(environment.step(action), number)
        if seen.kind is ObservationKind.WORLD_ERROR:
            raise WorldFault(seen.error or "no reason given")
        if seen.done or action.final:
            break
    verdict = success(await call(environment.verify(task.checks), len(actions)))
    row.outcome = {True: "success", False: "failure", None: "undecided"}[verdict]


async def run(plan: Plan, tasks: list[Task], worlds: RealWorlds, watch: Watch) -> Row:
    row, rng = Row(plan), random.Random(f"actions-{plan.episode}")
    task = tasks[plan.task % len(tasks)]
    began, environment = time.monotonic(), worlds(task, plan.episode)
    try:
        async with asyncio.timeout(SECONDS):
            await act(environment, task, actions_of(plan, task, tasks, rng), row, watch)
    except WorldFault as fault:
        row.outcome, row.error = "fault", str(fault)
    except TimeoutError:
        row.outcome, row.error = "late", f"no end within {SECONDS:.0f} s"
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await environment.close()
    except WorldFault as fault:
        row.error = row.error or f"close: {fault}"
    except TimeoutError:
        row.problem = f"it was not closed within {CLOSE_SECONDS:.0f} s"
    row.seconds = round(time.monotonic() - began, 3)
    row.problem = row.problem or judge(row)
    return row


def judge(row: Row) -> str:
    """What is wrong, or ''."""
    plan, outcome = row.plan, row.outcome
    if outcome == "late":
        return "it did not end in time"
    if "\n" in row.error:
        return "its fault is more than one line"
    if outcome == "success" and plan.behaviour == "wrong":
        return "a wrong solution passed"
    if row.struck:
        lost = plan.death.startswith("keeper") and plan.behaviour == "gold" and outcome == "failure"
        return "its keeper was lost, and that is called a failure" if lost else ""
    expected = {"gold": ("success",), "wrong": ("failure",), "random": ("success", "failure")}[plan.behaviour]
    return "" if outcome in expected else f"{plan.behaviour} ended in {outcome} {row.error}".strip()


# ------------------------------------------------------------------------------------------------ the command


def usable(wanted: list[str]) -> list[str]:
    """The domains that can be run here; the others are named."""
    found = []
    for name in wanted or names():
        if lacking := kit(name).missing():
            print(f"left out: {name}: {lacking}", flush=True)
        else:
            found.append(name)
    if not found:
        raise ConfigError("soak: no domain can be run on this machine")
    return found


def soak(episodes: int, seed: int, out: Path, alone: bool, wanted: list[str]) -> int:
    """The rows that are missing, and the leaks of this start; 1 where there is a problem."""
    domains = usable(wanted)
    planned = plans(episodes, domains, seed)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = [row for row in rows if "plan" in row]
    if [row["plan"] for row in done] != [asdict(plan) for plan in planned[: len(done)]]:
        raise ConfigError(f"{out}: its rows are of other domains or another seed; name another file with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    started = len(done)
    tasks = {name: kit(name).generate("heldout", TASKS, seed) for name in domains}
    watch = Watch()
    with tempfile.TemporaryDirectory() as name:
        tempfile.tempdir = name
        try:
            problems, before = asyncio.run(episodes_of(planned[len(done) :], tasks, watch, out, done))
            stop_keeper()
            left = leaks(before, watch, Path(name), alone)
        finally:
            tempfile.tempdir = None
    append(out, {"leaks": left, "episodes": len(planned) - started, "alone": alone})
    return report(done, problems, left)


async def episodes_of(
    planned: list[Plan], tasks: dict[str, list[Task]], watch: Watch, out: Path, done: list[dict[str, Any]]
) -> tuple[list[str], Traces]:
    """Act them out, each written down at once. Returns (what was wrong while warming up, what was there after it)."""
    worlds = RealWorlds()
    warm = [await run(Plan(-1, domain, 0, "gold"), tasks[domain], worlds, watch) for domain in tasks]
    before = traces()
    for plan in planned:
        row = await run(plan, tasks[plan.domain], worlds, watch)
        done.append(asdict(row))
        append(out, done[-1])
        print(told(row), flush=True)
    return [f"{row.plan.domain}, warming up: {row.problem}" for row in warm if row.problem], before


def append(out: Path, row: dict[str, Any]) -> None:
    with out.open("a") as file:
        file.write(json.dumps(row) + "\n")


def told(row: Row) -> str:
    plan = row.plan
    death = f", {plan.death} {row.struck or 'nobody'}" if plan.death else ""
    return f"{plan.episode} {plan.domain} {plan.behaviour}{death}: {row.outcome} {row.seconds:.1f} s {row.problem}"


def report(done: list[dict[str, Any]], problems: list[str], left: list[str]) -> int:
    bad = [f"episode {row['plan']['episode']}: {row['problem']}" for row in done if row["problem"]]
    struck = [row for row in done if row["struck"]]
    outcomes = Counter(row["outcome"] for row in struck)
    print(f"{len(done)} episodes, {len(struck)} with a death ({dict(outcomes)}), {len(bad)} with a problem")
    for line in (*problems, *bad, *(f"left: {item}" for item in left)):
        print(line)
    return 1 if problems or bad or left else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/soak.jsonl")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("domains", nargs="*")
    options = parser.parse_args()
    try:
        return soak(options.episodes, options.seed, options.out, options.alone, options.domains)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
