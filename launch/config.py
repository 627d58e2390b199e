"""The experiment's config: one strict YAML file, composed of each package's own section.

Owns: ``ExperimentConfig``, reading it with ``key=value`` overrides, one-line errors with the nearest valid key, and
the resolved copy in the run directory. Refuses: defaults hidden in code paths, inheritance and interpolation
between files, and loading torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from launch.errors import describe, need_file, one_line
from rollout.config import RolloutConfig
from rollout.errors import ConfigError
from trainer.config import TrainerConfig
from worldmodel.config import WorldModelConfig

RESOLVED = "config.resolved.yaml"


class TasksConfig(BaseModel):
    """Which tasks. Without a ``file`` they are generated from the experiment's seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None = Field(None, description="JSONL task file to train on; null: all training families, generated")
    train: int = Field(1000, ge=1, description="distinct training tasks; they repeat in order")
    heldout: int = Field(200, ge=1, description="tasks of each evaluation, from seeds never trained on")


class ExperimentConfig(BaseModel):
    """Everything ``agentworld train`` reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_dir: str = Field(description="where the run lives; an existing run is continued")
    seed: int = Field(0, ge=0, description="decides tasks, sampling and training")
    policy: str = Field(description="folder of the Hugging Face model to start from")
    world: Literal["simulated", "real"] = Field("simulated", description="world to train in")
    control: Literal["none", "permuted_rewards"] = Field("none", description="train on rewards shuffled in each group")
    eval_every: int = Field(0, ge=0, description="optimiser steps between real evaluations; 0: none")
    processes: int = Field(1, ge=1, description="trainer ranks; several start through Ray Train")
    deepspeed: str | None = Field(None, description="DeepSpeed JSON file, relative to this YAML's folder")
    tasks: TasksConfig = TasksConfig()
    world_model: WorldModelConfig = WorldModelConfig()
    rollout: RolloutConfig = RolloutConfig()
    trainer: TrainerConfig = TrainerConfig()


def load(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read ``path``, apply ``a.b=c`` overrides, validate, make every path absolute (Ray changes each rank's working
    directory). Raises ConfigError: one line with file, key and nearest valid key."""
    return build(read_mapping(path), path, overrides)


def read_mapping(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file with ``a.b=c`` overrides applied, not yet validated. Raises ConfigError, one line."""
    return _merge(_read(need_file(path, "config file")), overrides)


def build(raw: dict[str, Any], path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """``load`` for a mapping that was read from ``path`` before."""
    path = Path(path)
    return _absolute(_validate(_merge(raw, overrides), path, overrides), path.resolve().parent)


def dump(config: ExperimentConfig) -> str:
    """The whole config, defaults written out, as YAML that ``load`` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def save_resolved(config: ExperimentConfig, run_dir: str | Path) -> Path:
    """``config.resolved.yaml`` in ``run_dir``, whole or not at all; ``load`` reads it back."""
    target = Path(run_dir) / RESOLVED
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{RESOLVED}.{os.getpid()}")
    partial.write_text(dump(config), encoding="utf-8")
    partial.replace(target)
    return target


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except yaml.YAMLError as error:
        raise ConfigError(one_line(f"{path}: not valid YAML: {error}")) from error
    except (OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise ConfigError(one_line(f"{path}: {error}")) from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: a mapping of keys is needed, found {type(loaded).__name__}")
    return {str(key): value for key, value in loaded.items()}


def _merge(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for item in overrides:
        if "=" not in item or item.startswith("="):
            raise ConfigError(f"override '{item}': write it as key=value, e.g. trainer.trl.max_steps=10")
    try:
        merged = OmegaConf.merge(OmegaConf.create(raw), OmegaConf.from_dotlist(list(overrides)))
        container = OmegaConf.to_container(merged, resolve=False)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError(one_line(f"overrides {' '.join(overrides)}: {error}")) from error
    assert isinstance(container, dict)
    _refuse_interpolation(container, "")
    return {str(key): value for key, value in container.items()}


def _refuse_interpolation(value: Any, key: str) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_interpolation(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            _refuse_interpolation(item, key)
    elif isinstance(value, str) and "${" in value:
        raise ConfigError(f"key '{key}': interpolation is not supported: write the value out")


def _validate(values: dict[str, Any], path: Path, overrides: Sequence[str]) -> ExperimentConfig:
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ConfigError(describe(error, ExperimentConfig, _source(key, path, overrides))) from error
    except ConfigError as error:
        raise ConfigError(f"{_source('', path, overrides)}: {error}") from error


def _source(key: str, path: Path, overrides: Sequence[str]) -> str:
    """Where ``key`` was written: an override if one sets it, else the file."""
    hits = [item for item in overrides if key and item.startswith((f"{key}=", f"{key}."))]
    return f"override '{hits[-1]}'" if hits else str(path)


def _absolute(config: ExperimentConfig, folder: Path) -> ExperimentConfig:
    """Paths that name a run or a model are relative to the working directory, ``deepspeed`` to the YAML's folder."""
    model = config.world_model
    updates: dict[str, Any] = {
        "run_dir": str(Path(config.run_dir).resolve()),
        "policy": str(Path(config.policy).resolve()),
        "deepspeed": str((folder / config.deepspeed).resolve()) if config.deepspeed else None,
        "world_model": model.model_copy(update={"path": str(Path(model.path).resolve())}) if model.path else model,
    }
    if config.tasks.file:
        updates["tasks"] = config.tasks.model_copy(update={"file": str(Path(config.tasks.file).resolve())})
    return config.model_copy(update=updates)
