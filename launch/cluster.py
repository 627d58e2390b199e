"""Starts the trainer's ranks: in this process for one, through Ray Train for more.

Owns: ranks, their process group, environment, logs and deadlines; the Ray connection of a launcher.
Refuses: restarting (``launch.supervisor``), building models, sources or trainers (that is ``train_fn``).

``train_fn(ranks, payload)`` is an importable function; ``payload`` is picklable. Every rank calls it. Rank 0, and
only rank 0, builds the batch source from a picklable factory inside ``payload``: there it is an ordinary Ray
client of the same cluster, so the rollout actors it creates belong to it and die with it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch.watchdog import Watchdog
from rollout.errors import AgentworldError, ConfigError
from rollout.ray_address import check_reachable
from trainer.attempts import Start
from trainer.checkpoint import Layout, write_atomic

Result = Mapping[str, Any]


class RankFailure(AgentworldError):
    """A rank was lost (killed, out of memory, stuck, unexpected exception): another attempt may succeed."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """What a rank knows about its launch. All paths are absolute: Ray Train changes the working directory."""

    run_dir: Path
    start: Start
    layout: Layout
    deepspeed: str | None  # path of the DeepSpeed JSON, for the Trainer's ``deepspeed`` argument
    use_gpu: bool
    rank: int = 0
    beat: Callable[[], None] = lambda: None  # tells the watchdog that training moves

    @property
    def log_dir(self) -> Path:
        return self.run_dir / "logs" / f"attempt_{self.start.attempt}"


TrainFn = Callable[[Ranks, Any], Result]

START_TRIES = 5  # of bringing all ranks up; Ray Train gives each 60 s
ABANDONED = "abandoned"  # in an attempt's log folder: nobody waits for its ranks any more


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """``stuck_seconds``: longest time without an optimiser micro-step before a rank ends itself; it must exceed the
    deadline of one batch of rollouts. ``collective_seconds``: deadline of one collective, below torch's 1800 s.
    ``start_seconds``: deadline for all ranks to come up."""

    num_processes: int = 1
    deepspeed: str | None = None
    address: str | None = None
    stuck_seconds: float = 2400.0
    collective_seconds: int = 600
    start_seconds: float = 300.0

    @property
    def layout(self) -> Layout:
        return Layout(self.num_processes, zero_stage(self.deepspeed) if self.deepspeed else 0)


def zero_stage(path: str) -> int:
    """The ZeRO stage of a DeepSpeed config file. Raises ConfigError, one line."""
    try:
        stage = json.loads(Path(path).read_text(encoding="utf-8"))["zero_optimization"]["stage"]
    except OSError as error:
        raise ConfigError(f"deepspeed config {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"deepspeed config {path}: no zero_optimization.stage in valid JSON") from error
    if stage not in (1, 2, 3):
        raise ConfigError(f"deepspeed config {path}: zero_optimization.stage is {stage!r}, use 1, 2 or 3")
    return int(stage)


def run_ranks(train_fn: TrainFn, payload: Any, run_dir: Path, start: Start, settings: ClusterSettings) -> Result:
    """Run ``train_fn`` on every rank and return rank 0's result.

    Raises RankFailure when a rank is lost, and the user-facing AgentworldError of the first rank that had one.
    """
    if settings.num_processes < 1:
        raise ConfigError(f"num_processes is {settings.num_processes}, use 1 or more")
    ranks = Ranks(
        run_dir=run_dir.resolve(),
        start=start,
        layout=settings.layout,
        deepspeed=str(Path(settings.deepspeed).resolve()) if settings.deepspeed else None,
        use_gpu=False,
    )
    ranks.log_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(ranks.log_dir / "start.txt", f"{start}\n")
    if settings.num_processes == 1 and settings.deepspeed is None:
        return train_fn(ranks, payload)
    with connected(settings.address):
        return _run_ray_train(train_fn, payload, ranks, settings)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A Ray connection for the block; one that exists already is used and left open. Raises AgentworldError."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    check_reachable(address)
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises plain Exception when a node does not come up in time
        where = f"Ray at {address} could not be reached" if address else "Ray could not be started here"
        raise AgentworldError(f"{where}: {' '.join(str(error).split())}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _run_ray_train(train_fn: TrainFn, payload: Any, ranks: Ranks, settings: ClusterSettings) -> Result:
    import ray
    from ray.exceptions import RayActorError
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    count = settings.num_processes
    resources = ray.cluster_resources()
    use_gpu = resources.get("GPU", 0) >= count
    if resources.get("CPU", 0) < count:
        raise ConfigError(f"{count} processes need {count} CPUs, this Ray cluster has {resources.get('CPU', 0):.0f}")
    trainer = TorchTrainer(
        _rank_main,
        train_loop_config={
            "train_fn": train_fn,
            "payload": payload,
            "ranks": replace(ranks, use_gpu=use_gpu),
            "stuck_seconds": settings.stuck_seconds,
        },
        scaling_config=ScalingConfig(num_workers=count, use_gpu=use_gpu),
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=settings.collective_seconds),
        run_config=RunConfig(
            name="ray_train",
            storage_path=str(ranks.log_dir),
            worker_runtime_env={"env_vars": rank_environment(use_gpu)},
            # restarting is the supervisor's: a rank restarted by Ray Train would reuse its attempt's number
            failure_config=FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=START_TRIES - 1
            ),
        ),
    )
    try:
        result = _fit(trainer.fit, ranks.log_dir, count, settings.start_seconds)
    except (TrainingFailedError, RayActorError) as error:  # the second: Ray Train's own controller was lost
        raise _failure(ranks.log_dir, error) from error
    return dict(result.return_value or {})


def _fit(fit: Callable[[], Any], log_dir: Path, count: int, start_seconds: float) -> Any:
    """``fit`` in a thread, with a deadline for the ranks to come up. Off the main thread Ray Train leaves SIGINT
    alone, so that an interrupt ends the launcher instead of waiting for an actor that may be gone."""
    answer: list[Any] = []

    def work() -> None:
        try:
            answer.append(fit())
        except Exception as error:  # crosses the thread, raised below
            answer.append(error)

    thread = threading.Thread(target=work, name="ray-train", daemon=True)
    thread.start()
    deadline = time.monotonic() + start_seconds
    while thread.is_alive():
        thread.join(0.5)
        up = len(list(log_dir.glob("rank_*.pid")))
        if up < count and time.monotonic() > deadline and not answer:
            (log_dir / ABANDONED).touch()
            raise RankFailure(f"{up} of {count} ranks came up within {start_seconds:.0f} s: Ray lacks CPUs or memory")
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


def rank_environment(use_gpu: bool) -> dict[str, str]:
    """Environment of a rank. One OpenMP thread each: two processes on few cores stall otherwise."""
    common = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RAY_USAGE_STATS_ENABLED": "0"}
    return common if use_gpu else {**common, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def _rank_main(config: dict[str, Any]) -> Result:
    """Runs on each Ray Train worker. Output goes to the attempt's own log file, failures to one beside it."""
    from trainer.saving import assert_world_size, join_deepspeed, world

    rank, size = world()
    ranks: Ranks = config["ranks"]
    _redirect_output(ranks.log_dir / f"rank_{rank}.log")
    (ranks.log_dir / f"rank_{rank}.pid").write_text(f"{os.getpid()}\n", encoding="utf-8")
    try:
        if (ranks.log_dir / ABANDONED).exists():
            raise RuntimeError("this rank came up after its launcher had given up")
        assert_world_size(ranks.layout.world_size, trainer_says=size)
        if ranks.deepspeed:
            join_deepspeed()
        with Watchdog(config["stuck_seconds"]) as watchdog:
            return dict(config["train_fn"](replace(ranks, rank=rank, beat=watchdog.beat), config["payload"]))
    except Exception as error:  # the process boundary: recorded once, then raised for Ray Train to tear the group down
        traceback.print_exc()
        record = {"user": isinstance(error, AgentworldError), "kind": type(error).__name__, "message": str(error)}
        write_atomic(ranks.log_dir / f"rank_{rank}.failure.json", json.dumps(record))
        # a plain error travels: an exception class of ours, or its arguments, may not survive pickling
        raise RuntimeError(f"{record['kind']}: {record['message']}") from None


def _redirect_output(path: Path) -> None:
    """Send this process's stdout and stderr, those of C libraries included, to ``path``."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _failure(log_dir: Path, error: Exception) -> AgentworldError:
    """The one line a user sees: a rank's own user-facing error, else who was lost, else the first exception."""
    records: dict[int, Mapping[str, Any]] = {}
    for file in sorted(log_dir.glob("rank_*.failure.json")):
        records[int(file.name.split(".")[0].removeprefix("rank_"))] = json.loads(file.read_text(encoding="utf-8"))
    for record in records.values():
        if record["user"]:
            return AgentworldError(record["message"])
    killed = sorted(set(getattr(error, "worker_failures", {})) - set(records))
    if killed:
        what = f"rank {', '.join(map(str, killed))} was killed or lost"
    elif records:
        rank, record = next(iter(records.items()))
        what = f"rank {rank} failed with {record['kind']}: {' '.join(record['message'].split())}"
    else:
        what = f"Ray Train gave up: {' '.join(str(error).split())}"
    return RankFailure(f"{what}; see {log_dir}")
