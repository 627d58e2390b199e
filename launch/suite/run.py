"""``agentworld eval --suite``: one policy on every benchmark of a suite, in a run directory of its own.

Owns: which benchmarks can run here, the run directory, the order of things, progress. Refuses: episodes (``episodes``),
figures (``result``), policies (``policies``).

Run directory: ``manifest.json`` (what is evaluated; it never changes), ``trajectories/NAME.jsonl`` (an episode a line),
``times.jsonl`` (seconds of each call), and ``result.json``, ``result.md`` once every benchmark was gone through.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.collect import versions
from launch.evaluate import room, write_json
from launch.suite import policies
from launch.suite.config import OWN, Benchmark, SuiteConfig
from launch.suite.episodes import run_missing, tokens
from launch.suite.policies import Policy
from launch.suite.progress import Watch, watch
from launch.suite.result import Entry, Prices, SuiteResult, medians
from launch.worlds import REAL, check_sandbox
from rollout.config import RolloutConfig
from rollout.errors import AgentworldError, BudgetSpent, ConfigError
from rollout.evaluate import evaluate
from rollout.pool import Pool
from rollout.types import Sampling, Task
from worldmodel.domains import RealWorlds, kit, names

MANIFEST, RESULT, TABLE, TIMES = "manifest.json", "result.json", "result.md", "times.jsonl"
HUMAN_SECONDS = 86_400.0
ANSWER = 4096  # tokens of a turn, of a policy that thinks before it acts


@dataclass(frozen=True, slots=True)
class Order:
    """What is evaluated. ``tasks``: at most so many of each benchmark. ``max_tokens`` a turn and ``max_context`` an
    episode; None: what the domains say. ``prices``, ``workers``: no part of the run's identity."""

    suite: str
    config: SuiteConfig
    policy: Policy
    run_dir: Path
    tasks: int | None = None
    max_tokens: int | None = None
    max_context: int | None = None
    workers: int = 1
    prices: Prices | None = None

    def identity(self) -> dict[str, Any]:
        return {
            "suite": self.suite,
            "config": self.config.model_dump(mode="json"),
            "policy": self.policy.identity,
            "tasks": self.tasks,
            "max_tokens": self.max_tokens,
            "max_context": self.max_context,
        }


@dataclass(frozen=True, slots=True)
class Planned:
    """A benchmark with its tasks, or with the reason why it cannot run here."""

    benchmark: Benchmark
    tasks: tuple[Task, ...] = ()
    reason: str = ""


def run_suite(order: Order, say: Callable[[str], None]) -> SuiteResult:
    """Every benchmark that can run here, or goes on where an earlier call stopped. Raises AgentworldError, one line;
    finished episodes are kept."""
    claim(order)
    planned = [plan(benchmark, order.config.seed, order.tasks) for benchmark in order.config.benchmarks]
    for found in planned:
        if found.reason:
            say(f"{found.benchmark.name}: not run: {found.reason}")
    ready = [found for found in planned if not found.reason]
    entries: dict[str, Entry] = {}
    if ready:
        everything = [task for found in ready for task in found.tasks]
        rollout = _rollout(order, ready)
        with policies.pool(order.policy, everything, RealWorlds(), rollout, order.config.seed) as pool:
            live = order.policy.kind != "human"
            with watch([(f.benchmark.name, len(f.tasks)) for f in ready], say, live) as view:
                for found in ready:
                    entries[found.benchmark.name] = _measure(order, found, pool, rollout, view)
    refused = {f.benchmark.name: _not_run(f.benchmark, f.reason) for f in planned if f.reason}
    every = tuple((entries | refused)[benchmark.name] for benchmark in order.config.benchmarks)
    result = SuiteResult(order.suite, " ".join(filter(None, [order.policy.where, order.policy.model])), every)
    (order.run_dir / TABLE).write_text(result.markdown(), encoding="utf-8")
    write_json(order.run_dir / RESULT, result.to_json())
    return result


def claim(order: Order) -> None:
    """The run directory is this evaluation's from now on. Raises ConfigError where it is another one's."""
    file, mine = order.run_dir / MANIFEST, order.identity()
    if file.exists():
        theirs = json.loads(file.read_text(encoding="utf-8"))["evaluation"]
        if differing := [key for key in mine if theirs.get(key) != mine[key]]:
            raise ConfigError(
                f"{order.run_dir} holds an evaluation with another {differing[0]}: choose another --run-dir"
            )
        return
    write_json(file, {"evaluation": mine, "versions": versions()})


def plan(benchmark: Benchmark, seed: int, cap: int | None) -> Planned:
    """The tasks of ``benchmark``, where its domain can run on this machine."""
    if benchmark.domain not in names():
        return Planned(benchmark, reason=f"there is no domain {benchmark.domain}")
    found = kit(benchmark.domain)
    if lacking := found.missing():
        return Planned(benchmark, reason=f"missing {lacking}")
    if benchmark.source != OWN and benchmark.source not in found.sources:
        return Planned(benchmark, reason=f"{benchmark.domain} has no source {benchmark.source}")
    count = min(benchmark.tasks, cap or benchmark.tasks)
    try:
        if found.boxed:
            check_sandbox()
        if benchmark.source != OWN:
            tasks = found.sources[benchmark.source](count)
        else:
            tasks = found.generate(benchmark.split or "heldout", count, seed)
    except AgentworldError as error:
        return Planned(benchmark, reason=str(error))
    return Planned(benchmark, tuple(tasks), "" if tasks else "it has no task")


def _rollout(order: Order, ready: Sequence[Planned]) -> RolloutConfig:
    """Limits of the pool; each job has its own ``max_tokens`` below the pool's."""
    config, human = order.config, order.policy.kind == "human"
    max_tokens = max(_max_tokens(order, found.benchmark) for found in ready)
    if order.policy.kind == "folder":
        domains = [found.benchmark.domain for found in ready]
        max_tokens, max_context = room(order.policy.where, domains, order.max_tokens, order.max_context)
    else:
        max_context = max_tokens + 1  # the policy's server counts tokens, or nobody does
    workers = 1 if human else order.workers
    return RolloutConfig(
        engine="ray" if workers > 1 else "local",
        workers=workers,
        slots=1 if human else max(found.benchmark.slots for found in ready),
        max_tokens=max_tokens,
        max_context=max_context,
        call_timeout=HUMAN_SECONDS if human else config.call_timeout,
        turn_timeout=HUMAN_SECONDS if human else config.turn_timeout,
        episode_timeout=HUMAN_SECONDS if human else config.episode_timeout,
    )


def _max_tokens(order: Order, benchmark: Benchmark) -> int:
    """A served model is given room to think; a model folder what its actions need."""
    own = kit(benchmark.domain).max_tokens
    return order.max_tokens or (max(own, ANSWER) if order.policy.kind == "server" else own)


def _measure(order: Order, found: Planned, pool: Pool, rollout: RolloutConfig, view: Watch) -> Entry:
    benchmark = found.benchmark
    file = order.run_dir / "trajectories" / f"{benchmark.name}.jsonl"
    sampling = Sampling(order.config.temperature, _max_tokens(order, benchmark))
    slots = min(benchmark.slots, rollout.slots) * rollout.workers
    try:
        with _timed(order.run_dir, benchmark.name), view.benchmark(benchmark.name) as tick:
            done = run_missing(pool, found.tasks, file, REAL, sampling, order.config.seed, slots, tick)
    except BudgetSpent as error:
        return _not_run(benchmark, str(error))
    spent = tokens(done, order.policy.kind == "folder")
    return Entry(
        benchmark.name,
        benchmark.domain,
        benchmark.source,
        evaluation=evaluate(done),
        tokens=spent,
        cost=order.prices.of(spent) if order.prices and spent else None,
        wall=_wall(order.run_dir, benchmark.name),
        seconds=medians(done),
    )


def _not_run(benchmark: Benchmark, reason: str) -> Entry:
    return Entry(benchmark.name, benchmark.domain, benchmark.source, reason)


@contextmanager
def _timed(run_dir: Path, name: str) -> Iterator[None]:
    """The block's seconds, in the run's ``times.jsonl`` however it ends."""
    begun = time.monotonic()
    try:
        yield
    finally:
        with (run_dir / TIMES).open("a", encoding="ascii") as stream:
            stream.write(json.dumps({"benchmark": name, "seconds": time.monotonic() - begun}) + "\n")


def _wall(run_dir: Path, name: str) -> float:
    lines = (run_dir / TIMES).read_text(encoding="ascii").splitlines()
    return float(sum(row["seconds"] for row in map(json.loads, lines) if row["benchmark"] == name))
