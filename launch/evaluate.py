"""``agentworld eval`` and ``fidelity``: a policy, or a world model, measured on held-out data.

Owns: putting policy, tasks, worlds and pool together; printing and files.
Refuses: the statistics (``rollout.evaluate``, ``rollout.transfer``, ``worldmodel.fidelity``).
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch.counting import counting
from launch.errors import UserError, need_file
from launch.pools import REPLAY_SECONDS, bearable, policy_pool, replay_pool
from launch.served import Served
from launch.worlds import REAL, check_model_folder, positions, real, simulated, world_model_config
from rollout.config import RolloutConfig
from rollout.evaluate import Evaluation, evaluate
from rollout.protocols import EnvFactory
from rollout.seeds import derive_seed
from rollout.spot import success
from rollout.transfer import Transfer, compare
from rollout.types import Prompt, Sampling, Score, Stop, Task, Trajectory
from rollout.worker import ReplayOutcome
from worldmodel.config import WorldModelConfig
from worldmodel.domains import kit
from worldmodel.episodes import read_episodes
from worldmodel.fidelity import FidelityResult, FidelitySettings, measure
from worldmodel.mixture import generate, parse
from worldmodel.tasks import Split, load
from worldmodel.types import Episode

REFERENCES = ("gold", "empty")
SLOTS = 32  # episodes at once
MAX_CONTEXT = 1 << 20  # of a model that names no limit


@dataclass(frozen=True, slots=True)
class Evaluand:
    """What is evaluated and how. ``policy``: a model folder, ``gold`` or ``empty``; ``world_model``: folder or URL.
    ``vllm``: URLs, with commas, of vLLM servers that were started on that model folder. ``max_tokens`` a turn and
    ``max_context`` an episode; None: as the tasks' domains say."""

    policy: str
    world_model: str = ""
    served_model: str = ""
    dialect: str | None = None
    temperature: float = 0.0
    seed: int = 0
    workers: int = 1
    vllm: str = ""
    max_tokens: int | None = None
    max_context: int | None = None


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Success by world; ``transfer`` where both were asked for."""

    worlds: Mapping[str, Evaluation]
    transfer: Transfer | None

    def rows(self) -> list[tuple[str, ...]]:
        """The table a command prints, header first."""
        table: list[tuple[str, ...]] = [("", "tasks", "success", "95 % interval", "coverage")]
        for name, found in self.worlds.items():
            s = found.success
            table.append((name, str(s.count), f"{s.mean:.1%}", f"{s.low:.1%} to {s.high:.1%}", f"{found.coverage:.1%}"))
        first = next(iter(self.worlds.values()))
        for family, s in first.families.items():
            table.append((f"  {family}", str(s.count), f"{s.mean:.1%}", f"{s.low:.1%} to {s.high:.1%}", ""))
        if self.transfer is not None:
            g = self.transfer.gap
            table.append(("sim - real", str(g.count), f"{g.mean:+.1%}", f"{g.low:+.1%} to {g.high:+.1%}", ""))
        return table

    def to_json(self) -> dict[str, Any]:
        gap = self.transfer.gap if self.transfer else None
        return {
            "worlds": {name: found.to_json() for name, found in self.worlds.items()},
            "gap": None if gap is None else {"mean": gap.mean, "low": gap.low, "high": gap.high, "count": gap.count},
            "agreement": self.transfer.agreement if self.transfer else None,
        }


def load_tasks(file: Path | None, split: Split, count: int, seed: int, domain: str = "terminal") -> list[Task]:
    """The tasks of ``file``, else generated ones of ``domain``: a name, several with commas, or all. Raises TaskError
    naming file, line and field; ConfigError where there is no such domain."""
    return load(need_file(file, "task file")) if file is not None else generate(parse(domain), split, count, seed)


def evaluate_policy(what: Evaluand, tasks: Sequence[Task], names: Sequence[str]) -> Evaluated:
    """``what`` on ``tasks`` in each named world, paired by seed. Every part is tried before an episode starts."""
    if what.policy not in REFERENCES:
        check_model_folder(what.policy)
    worlds: dict[str, EnvFactory] = {}
    for name in names:
        if name == REAL:
            worlds[name] = real({task.domain for task in tasks})
        else:
            worlds[name] = simulated(world_model_config(what.world_model, what.served_model, what.dialect))
    if what.vllm and what.policy in REFERENCES:
        raise UserError(f"--vllm samples for a model folder, --policy is {what.policy}")
    run = _run_reference if what.policy in REFERENCES else _run_policy
    runs = run(what, tasks, worlds)
    found = {name: evaluate(trajectories) for name, trajectories in runs.items()}
    both = compare(runs["sim"], runs[REAL]) if len(runs) == 2 else None
    return Evaluated(found, both)


def _run_policy(what: Evaluand, tasks: Sequence[Task], worlds: Mapping[str, EnvFactory]) -> dict[str, list[Trajectory]]:
    max_tokens, max_context = room(what.policy, {task.domain for task in tasks}, what.max_tokens, what.max_context)
    rollout = RolloutConfig(
        engine="ray" if what.workers > 1 else "local",
        workers=what.workers,
        slots=_slots(tasks, worlds),
        max_tokens=max_tokens,
        max_context=max_context,
    )
    sampling = Sampling(what.temperature, rollout.max_tokens)
    served, folder = _served(what), str(Path(what.policy).resolve())
    with policy_pool(folder, worlds, rollout, next(iter(worlds)), served) as pool, counting(pool, "evaluation"):
        return {name: pool.run_tasks(tasks, env=name, sampling=sampling, seed=what.seed) for name in worlds}


def _slots(tasks: Sequence[Task], worlds: Mapping[str, EnvFactory]) -> int:
    return bearable({task.domain for task in tasks}, SLOTS) if REAL in worlds else SLOTS


def room(policy: str, domains: Iterable[str], tokens: int | None = None, context: int | None = None) -> tuple[int, int]:
    """Tokens of a turn and of an episode: as asked for, else the most that one of ``domains`` needs and the model in
    folder ``policy`` was made for. Raises UserError where the one leaves no room in the other."""
    kits = [kit(name) for name in domains]
    tokens = tokens or max(found.max_tokens for found in kits)
    context = context or min(max(found.max_context for found in kits), positions(policy) or MAX_CONTEXT)
    if tokens >= context:
        raise UserError(f"--max-tokens {tokens} leaves no room for a prompt in --max-context {context}")
    return tokens, context


def _served(what: Evaluand) -> Served | None:
    """The servers that sample, with the weights they were started on: nothing is published to them."""
    urls = tuple(url.strip() for url in what.vllm.split(",") if url.strip())
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"--vllm: {url!r} does not start with http://")
    return Served(urls, Path()) if urls else None


def _run_reference(
    what: Evaluand, tasks: Sequence[Task], worlds: Mapping[str, EnvFactory]
) -> dict[str, list[Trajectory]]:
    runs = {}
    with replay_pool(worlds, what.workers, _slots(tasks, worlds)) as pool, counting(pool, "evaluation"):
        for name in worlds:
            actions = [task.reference.gold if what.policy == "gold" else kit(task.domain).empty for task in tasks]
            seeds = [derive_seed(what.seed, "eval", task.id) for task in tasks]
            jobs = [(t, a, name, s) for t, a, s in zip(tasks, actions, seeds, strict=True)]
            outcomes = pool.replay(jobs, timeout=REPLAY_SECONDS)
            runs[name] = [replayed(task, name, o) for task, o in zip(tasks, outcomes, strict=True)]
    return runs


def replayed(task: Task, world: str, outcome: ReplayOutcome) -> Trajectory:
    """A replay as an episode without tokens: a fault or a missing verdict is unscorable."""
    verdict = None if outcome.fault else success(outcome.results)
    return Trajectory(
        task=task,
        group="replay",
        member=0,
        prompt=Prompt(()),
        turns=(),
        stop=Stop.WORLD_ERROR if outcome.fault else Stop.DONE,
        score=Score(None if verdict is None else float(verdict), reason=outcome.fault or ""),
        results=outcome.results,
        world_id=world,
        error=outcome.fault,
    )


def measure_fidelity(
    config: WorldModelConfig, episodes: Path | Sequence[Episode], limit: int, free: int
) -> dict[str, FidelityResult]:
    """The world model behind ``config`` on recorded ``episodes`` or a folder of them, by domain; ``limit`` and ``free``
    are of each. Raises ConfigError, CheckpointError or WorldFault before the first prediction where one of the two is
    not there."""
    recorded: dict[str, list[Episode]] = {}
    for episode in read_episodes(episodes) if isinstance(episodes, Path) else episodes:
        recorded.setdefault(episode.domain, []).append(episode)
    specs = {name: kit(name).domain.spec for name in recorded}
    factory = simulated(config.model_copy(update={"threads": os.cpu_count()}))  # alone here, unlike in a worker
    settings = FidelitySettings(max_transitions=limit, max_free_episodes=free, concurrency=config.concurrency)
    settings = replace(settings, deadline_seconds=max(settings.deadline_seconds, config.deadline_seconds))

    async def run() -> dict[str, FidelityResult]:
        try:
            return {name: await measure(recorded[name], factory.model, specs[name], settings) for name in recorded}
        finally:
            await factory.close()

    return asyncio.run(run())


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
