"""What a turn costs beside the model and the world: scripted policy, fake world without latency.

    python bench/rollout_overhead.py [episodes] [turns]

``pool``: episodes through ``run_tasks``. ``source``: the same through scheduler, ledger and store, as training takes
them. Milliseconds of wall-clock per turn, median of three; written to bench/results/rollout_overhead.json.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rollout.local_pool import LocalPool
from rollout.pool import Pool
from rollout.ray_pool import RayPool
from rollout.reward.checks import ChecksReward
from rollout.samplers.scripted import ScriptedSamplerSpec
from rollout.scheduler import SchedulerSettings
from rollout.source import RolloutSource
from rollout.store import RolloutStore
from rollout.types import Batch, Sampling, Session, Version
from rollout.worker import PoolSpec

HERE = Path(__file__).resolve().parent
FAKES = HERE.parent / "tests"
SLOTS = 16
REPEATS = 3


def look(context: str, session: Session) -> str:
    """Always the same harmless command, so that every episode lasts its full number of turns."""
    return "get a"


def build_spec(folder: Path, workers: int) -> PoolSpec:
    import fakes

    chat = fakes.save_tokenizer(folder)
    return PoolSpec(
        num_workers=workers,
        slots=SLOTS // workers,
        env_factories={"sim": fakes.FakeFactory()},
        sampler_factory=ScriptedSamplerSpec(chat, look),
        chat_factory=chat,
        reward=ChecksReward(),
        sampling=Sampling(1.0, 32),
    )


def timed(call: Callable[[], int]) -> float:
    """Milliseconds per turn, median; ``call`` returns the turns it took."""
    call()
    found = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        turns = call()
        found.append(1000 * (time.perf_counter() - begun) / turns)
    return round(statistics.median(found), 3)


def through_pool(pool: Pool, episodes: int, turns: int) -> float:
    import fakes

    tasks = fakes.make_tasks(episodes, max_turns=turns)
    return timed(lambda: sum(len(t.turns) for t in pool.run_tasks(tasks)))


def through_source(pool: Pool, episodes: int, turns: int, folder: Path) -> float:
    import fakes

    tasks = fakes.make_tasks(64, max_turns=turns)
    store = RolloutStore(folder, 1)
    source = RolloutSource(pool, tasks, SchedulerSettings(8, episodes // 8), store, seed=0)
    steps = iter(range(REPEATS + 1))

    def batch() -> int:
        step = next(steps)
        source.publish(Version(1, step), [])
        found = source.take(step, timeout=120.0)
        if not isinstance(found, Batch):
            raise SystemExit(f"no batch: {found}")
        source.settle(step)
        return sum(len(member.turns) for group in found.groups for member in group.members)

    return timed(batch)


def main(episodes: int = 256, turns: int = 8) -> None:
    sys.path.insert(0, str(FAKES))
    os.environ["PYTHONPATH"] = str(FAKES)  # Ray workers import the fake world by name
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pools: list[tuple[str, type[LocalPool] | type[RayPool], int]] = [
            ("local", LocalPool, 1),
            ("ray, 1 worker", RayPool, 1),
            ("ray, 2 workers", RayPool, 2),
        ]
        for title, kind, workers in pools:
            with kind(build_spec(folder / "tokenizer", workers)) as pool:
                rows[title] = {
                    "pool_ms_per_turn": through_pool(pool, episodes, turns),
                    "source_ms_per_turn": through_source(pool, episodes, turns, folder / title),
                }
            print(title, rows[title], flush=True)
    result = {
        "episodes": episodes,
        "turns": turns,
        "slots": SLOTS,
        "cpus": os.cpu_count(),
        "load_average_1m": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "rows": rows,
    }
    (HERE / "results" / "rollout_overhead.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
