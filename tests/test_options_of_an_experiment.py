"""Every option of an experiment, walked: changing it changes what the parts of a run are given, or is refused; and
every setting of a part is read by somebody. The trainer's own are walked in test_options_of_the_trainer.py."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import launch.served
import launch.train
import rollout.local_pool
import rollout.ray_pool
import rollout.ray_vllm
import rollout.source
from launch.cluster import ClusterSettings, Ranks
from launch.config import ExperimentConfig, load
from launch.errors import leaf_keys
from launch.served import VLLMOptions
from launch.sweep.config import SweepConfig
from rollout.config import FaultBudgets, RolloutConfig
from rollout.episode import EpisodeSettings
from rollout.errors import AgentworldError
from rollout.events import FaultKind
from rollout.samplers.hf import HFSamplerSpec
from rollout.samplers.vllm import VLLMSamplerSpec
from rollout.samplers.vllm_process import EngineSpec
from rollout.scheduler import SchedulerSettings
from rollout.spot import SpotSettings
from rollout.types import Sampling
from rollout.worker import PoolSpec
from tests.fakes import save_policy
from trainer.attempts import Start
from trainer.config import SFTConfig, TrainerConfig, build_grpo_config
from trainer.options import SAMPLER
from worldmodel.config import WorldModelConfig
from worldmodel.environment import SimulationSettings
from worldmodel.language import LocalModelSpec
from worldmodel.openai import ServerSpec

ROOT = Path(__file__).resolve().parent.parent
STAGE2 = str(ROOT / "configs/deepspeed_zero2.json")
STAGE3 = str(ROOT / "configs/deepspeed_zero3.json")
SERVER = [f"world_model.{item}" for item in ("kind=server", "url=http://127.0.0.1:9", "model=m", "path=''")]
BASE = """
run_dir: {folder}/run
policy: {folder}/policy
eval_every: 1
tasks: {{train: 4, heldout: 2}}
world_model: {{path: "{folder}/policy", threads: 1}}
rollout: {{group_size: 2, groups_per_batch: 2, redundancy: 1}}
trainer: {{trl: {{max_steps: 2, per_device_train_batch_size: 4, save_strategy: "no", bf16: false}}}}
"""
OTHER: Mapping[str, tuple[Any, list[str]]] = {  # key -> another value, and what must be set for it to matter
    "run_dir": ("{folder}/elsewhere", []),
    "seed": (1, []),
    "policy": ("{folder}/other_policy", []),
    "world": ("real", []),
    "control": ("permuted_rewards", []),
    "eval_every": (2, []),
    "processes": (2, [f"deepspeed={STAGE2}"]),
    "deepspeed": (STAGE3, [f"deepspeed={STAGE2}"]),
    "tasks.file": ("{folder}/tasks.jsonl", []),
    "tasks.train": (5, []),
    "tasks.heldout": (3, []),
    "world_model.kind": ("server", []),
    "world_model.path": ("{folder}/other_policy", []),
    "world_model.url": ("http://127.0.0.1:10", SERVER),
    "world_model.model": ("other", SERVER),
    "world_model.dialect": ("reference", []),
    "world_model.temperature": (0.5, []),
    "world_model.max_tokens": (100, []),
    "world_model.max_context": (500, []),
    "world_model.verdict_samples": (5, []),
    "world_model.deadline_seconds": (9.0, []),
    "world_model.retries": (5, []),
    "world_model.concurrency": (3, []),
    "world_model.dtype": ("float32", []),
    "world_model.device": ("cuda:0", []),
    "world_model.threads": (2, []),
    "rollout.engine": ("ray", []),
    "rollout.workers": (2, []),
    "rollout.slots": (3, []),
    "rollout.threads": (2, []),
    "rollout.group_size": (4, []),
    "rollout.groups_per_batch": (4, []),
    "rollout.redundancy": (2, []),
    "rollout.min_viable": (2, []),
    "rollout.max_staleness": (1, []),
    "rollout.max_filtered": (3, []),
    "rollout.temperature": (0.5, []),
    "rollout.max_tokens": (32, []),
    "rollout.max_context": (512, []),
    "rollout.max_turns": (1, []),
    "rollout.call_timeout": (30.0, []),
    "rollout.turn_timeout": (90.0, []),
    "rollout.episode_timeout": (300.0, []),
    "rollout.member_retries": (1, []),
    "rollout.budgets.world": (7, []),
    "rollout.budgets.sampler": (7, []),
    "rollout.budgets.timeout": (7, []),
    "rollout.budgets.worker": (7, []),
    "rollout.budgets.unscorable": (7, []),
    "rollout.budgets.window": (77, []),
    "rollout.spot_share": (0.5, []),
    "rollout.spot_limit": (0.5, []),
}
SERVED = ["trainer.trl.use_vllm=true"]
ADDRESS = ["trainer.trl.use_vllm=true", "trainer.trl.vllm_mode=server", "trainer.trl.vllm_server_base_url=http://a:1"]
VLLM: Mapping[str, tuple[Any, list[str]]] = {
    "use_vllm": (True, []),
    "vllm_mode": ("colocate", ADDRESS),
    "vllm_server_base_url": ("http://a:1,http://b:2", ADDRESS),
    "vllm_server_timeout": (77.0, SERVED),
    "vllm_tensor_parallel_size": (2, SERVED),
    "vllm_gpu_memory_utilization": (0.5, SERVED),
    "vllm_max_model_length": (300, SERVED),
}


# ------------------------------------------------------------------------------------------------ what the parts get


def told(value: Any) -> Any:
    """``value`` as plain data, without addresses."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__name__} | {f.name: told(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, functools.partial):
        return [told(value.func), told(value.args), told(value.keywords)]
    if isinstance(value, Mapping):
        return {str(key): told(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [told(item) for item in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Path):
        return str(value)
    if inspect.isroutine(value) or isinstance(value, type):
        return value.__qualname__
    assert not isinstance(value, BaseModel), "a part that is given the config itself would hide what it reads"
    return type(value).__name__


class Parts:
    """Stands for every part that ``train`` starts, and keeps what each was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: list[Any] = []
        put = monkeypatch.setattr
        put(launch.train, "check_sandbox", lambda: None)
        put(launch.train, "check_world_model", lambda _: None)
        put(launch.train, "supervise", self.supervise)
        put(launch.train, "EvaluatingSink", self.part("evaluation"))
        put(rollout.local_pool, "LocalPool", self.part("local pool"))
        put(rollout.ray_pool, "RayPool", self.part("ray pool"))
        put(rollout.ray_vllm, "Engines", self.part("engines"))
        put(rollout.source, "RolloutSource", self.part("source"))
        put("trainer.stages.policy_rl", self.policy_rl)

    def part(self, name: str) -> Callable[..., Any]:
        class Stand:
            servers, api_key, restored, pool = ("http://started:1",), "", "", None

            def __init__(inner, *args: Any, **kwargs: Any) -> None:
                self.given.append([name, told(args), told(kwargs)])

            def __enter__(inner) -> Any:
                return inner

            def __exit__(inner, *_: object) -> None: ...
            def finish(inner) -> None: ...
            def spared(inner) -> set[int]:
                return set()

        return Stand

    def supervise(self, train: Any, config: ExperimentConfig, run_dir: str, settings: ClusterSettings, **_: Any) -> Any:
        self.given.append(["supervisor", str(run_dir), told(settings)])
        start = Start(1, None, (), ())
        ranks = Ranks(Path(run_dir), start, settings.layout, settings.deepspeed, use_gpu=False)
        return train(ranks, config)

    def policy_rl(
        self, policy: str, tokenizer: Any, out: Path, config: TrainerConfig, source: Any, sink: Any, **kwargs: Any
    ) -> Path:
        fixed = {k: v for k, v in kwargs.items() if k not in ("callbacks", "on_ready", "attempt", "resume_from")}
        world = fixed.pop("world_size")
        fixed.pop("deepspeed", None)  # starts a process group; it is among the supervisor's settings
        if world == 1:
            options = {k: v for k, v in vars(build_grpo_config(config, out, **fixed)).items() if not k.startswith("_")}
            self.given.append(["trainer", {k: repr(v) for k, v in options.items() if k != "logging_dir"}])
        self.given.append(["trainer", str(policy), str(out), world, type(source).__name__, type(sink).__name__, fixed])
        return out


def what_parts_get(folder: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str]) -> Any:
    """Everything that the parts of ``agentworld train`` are given, or the refusal."""
    with monkeypatch.context() as inner:
        parts = Parts(inner)
        try:
            launch.train.run(
                load(folder / "c.yaml", [item.replace("{folder}", str(folder)) for item in overrides]), lambda _: None
            )
        except AgentworldError as error:
            return {"refused": str(error)}
        finally:
            for name in ("run", "elsewhere"):
                shutil.rmtree(folder / name, ignore_errors=True)
        return parts.given


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from worldmodel.domains.terminal.tasks import generate
    from worldmodel.tasks import save

    folder = tmp_path_factory.mktemp("options")
    save_policy(folder / "policy")
    save_policy(folder / "other_policy")
    save(generate("train", 3, 9), folder / "tasks.jsonl")
    (folder / "c.yaml").write_text(BASE.format(folder=folder))
    return folder


def test_the_walk_leaves_nothing_out() -> None:
    ours = {key for key in leaf_keys(ExperimentConfig) if not key.startswith("trainer.")}
    assert set(OTHER) == ours and set(VLLM) == SAMPLER


def test_the_parts_get_the_same_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (what_parts_get(folder, monkeypatch, []) for _ in range(2))
    assert first == second and {part[0] for part in first} == {
        "supervisor", "local pool", "source", "evaluation", "trainer",
    }  # fmt: skip


@pytest.mark.parametrize("key", [*OTHER, *VLLM])
def test_an_option_changes_what_parts_get_or_is_refused(
    key: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, given = OTHER[key] if key in OTHER else VLLM[key]
    name = key if key in OTHER else f"trainer.trl.{key}"
    before = what_parts_get(folder, monkeypatch, given)
    after = what_parts_get(folder, monkeypatch, [*given, f"{name}={yaml.safe_dump(value).split(chr(10))[0]}"])
    assert "refused" not in before, before
    assert after != before


# ------------------------------------------------------------------------------------------------ who reads them

SETTINGS = (
    ExperimentConfig, RolloutConfig, TrainerConfig, SFTConfig, WorldModelConfig, SweepConfig, VLLMOptions,
    ClusterSettings, EpisodeSettings, SchedulerSettings, SpotSettings, SimulationSettings, Sampling, PoolSpec,
    LocalModelSpec, ServerSpec, HFSamplerSpec, VLLMSamplerSpec, EngineSpec,
)  # fmt: skip


def names_read() -> set[str]:
    """Every attribute that the code of the packages reads."""
    found = set()
    for package in ("rollout", "trainer", "worldmodel", "launch"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    found.add(node.attr)
    return found


def test_no_setting_is_read_nowhere() -> None:
    read = names_read()
    for settings in SETTINGS:
        names = (
            settings.model_fields
            if issubclass(settings, BaseModel)
            else [field.name for field in dataclasses.fields(settings)]
        )
        assert set(names) <= read, f"{settings.__name__}: {sorted(set(names) - read)} is read nowhere"
    assert set(FaultBudgets.model_fields) - {"window"} == {kind.value for kind in FaultKind}, "read by kind"
