"""A sweep's own YAML file: typed, strict, checked against the experiment before anything starts.

Owns: ``SweepConfig``, reading it, and turning proposed values into whole experiments. Refuses: proposing, deciding,
running; keys that would make runs incomparable (``FIXED``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from launch.config import ExperimentConfig, build, read_mapping
from launch.errors import describe, leaf_keys, nearest
from launch.train import batch_steps
from rollout.errors import AgentworldError, ConfigError
from trainer.options import FORWARDED, HONOURED, check_trl_options

TRL = "trainer.trl."
FIXED = {
    "run_dir": "each run gets a folder of its own inside sweep_dir",
    "seed": "list experiment seeds under 'seeds'",
    "eval_every": "every run must be measured at the same steps: set it under 'overrides'",
    "tasks.heldout": "every run must be measured on as many tasks: set it under 'overrides'",
    "trainer.trl.max_steps": "runs of different length cannot be compared: set it under 'overrides'",
}
Values = Mapping[str, Any]  # what was proposed, by parameter name


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Parameter(_Strict):
    """One dimension: exactly one of the four kinds."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1, description="one of these values, or of these mappings")
    uniform: tuple[float, float] | None = Field(None, description="[low, high]")
    loguniform: tuple[float, float] | None = Field(None, description="[low, high], even in the logarithm")
    integer: tuple[int, int] | None = Field(None, alias="int", description="[low, high], both included")

    @model_validator(mode="after")
    def _one_kind(self) -> Parameter:
        if sum(kind is not None for kind in (self.choice, self.uniform, self.loguniform, self.integer)) != 1:
            raise ValueError("give exactly one of choice, uniform, loguniform, int")
        low, high = self.uniform or self.loguniform or self.integer or (0, 1)
        if not low < high:
            raise ValueError(f"[{low}, {high}]: low must be below high")
        if self.loguniform and low <= 0:
            raise ValueError(f"[{low}, {high}]: a logarithm needs low above 0")
        return self

    @property
    def joint(self) -> bool:
        """Whether each option sets several keys at once."""
        return bool(self.choice) and all(isinstance(option, Mapping) for option in self.choice or ())

    def examples(self) -> tuple[Any, ...]:
        """Every option, or both ends: what is tried on the experiment before anything starts."""
        return self.choice or self.uniform or self.loguniform or self.integer or ()


class Budget(_Strict):
    """Whichever is spent first. No trial is proposed afterwards; those under way are finished."""

    trials: int | None = Field(None, ge=1)
    hours: float | None = Field(None, gt=0, description="of wall clock, over all sessions of the sweep")
    tokens: int | None = Field(None, ge=1, description="prompt and sampled tokens that were trained on (num_tokens)")

    @model_validator(mode="after")
    def _some(self) -> Budget:
        if self.trials is None and self.hours is None and self.tokens is None:
            raise ValueError("give trials, hours or tokens")
        return self


class Asha(_Strict):
    """Asynchronous successive halving (Li et al., 2018, arXiv:1810.05934), stopping variant."""

    grace: int = Field(ge=1, description="optimiser steps before the first look")
    factor: int = Field(3, ge=2, description="one in so many goes on to so many times the steps")


class Resources(_Strict):
    """What one run holds on the cluster while it runs; its rollout workers and ranks follow the experiment."""

    cpu: float = Field(1.0, ge=0)
    gpu: float = Field(0.0, ge=0)


class SweepConfig(_Strict):
    """Everything ``agentworld sweep`` reads."""

    experiment: str = Field(description="base experiment, relative to this file's folder")
    sweep_dir: str = Field(description="where the sweep lives; an existing one is continued")
    overrides: dict[str, Any] = Field({}, description="dotted keys of the experiment, the same for every run")
    parameters: dict[str, Parameter] = Field(min_length=1, description="dotted keys of the experiment, or a name")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0, 1), min_length=1, description="experiment seeds")
    metric: Literal["success", "success_scored"] = Field("success", description="of the real held-out evaluation")
    budget: Budget
    asha: Asha | None = Field(None, description="null: every trial runs to its end")
    sampler: Literal["tpe", "random"] = "tpe"
    startup: int = Field(5, ge=1, description="trials proposed at random before TPE has something to go by")
    parallel: int = Field(1, ge=1, description="trials under way at once; each knows all but the last so many")
    seed: int = Field(0, ge=0, description="of the proposals")
    resources: Resources = Resources()
    retries: int = Field(1, ge=0, description="times a run goes on after its process was lost")
    max_failed: int = Field(3, ge=0, description="failed trials that are borne")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("seeds must differ from each other")
        return seeds


@dataclass(frozen=True, slots=True)
class Sweep:
    """A checked sweep. ``base``: the experiment with the overrides, ``raw`` its file as read; ``folder`` absolute;
    ``rungs``: optimiser steps at which trials are compared, the last one their end."""

    config: SweepConfig
    file: Path
    raw: dict[str, Any]
    base: ExperimentConfig
    rungs: tuple[int, ...]

    @property
    def folder(self) -> Path:
        return Path(self.config.sweep_dir)

    def run_dir(self, trial: int, seed: int) -> Path:
        return self.folder / "trials" / f"{trial:04d}" / f"seed_{seed}"

    def experiment(self, values: Values, trial: int, seed: int) -> ExperimentConfig:
        """The whole config of one run. Raises ConfigError where the values do not go together."""
        mine = {"run_dir": str(self.run_dir(trial, seed)), "seed": seed}
        config = _experiment(self.config, self.file, self.raw, {**flat(self.config, values), **mine})
        check_steps(config, self.rungs, str(self.file))
        return config


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read and check ``path`` with ``a.b=c`` overrides of its own keys. Raises ConfigError or UserError, one line."""
    path = Path(path)
    raw = read_mapping(path, overrides)
    _check_parameters(raw.get("parameters"), path)
    try:
        config = SweepConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(describe(error, SweepConfig, str(path))) from error
    for key in config.overrides:
        _check_key(key, path, ("run_dir", "seed"))
    config = config.model_copy(update={"sweep_dir": str(Path(config.sweep_dir).resolve())})
    file = path.parent / config.experiment
    experiment = read_mapping(file)
    base = _experiment(config, file, experiment, {})
    sweep = Sweep(config, file, experiment, base, rungs(config, base, str(path)))
    _try_values(sweep, path)
    return sweep


def rungs(config: SweepConfig, base: ExperimentConfig, source: str) -> tuple[int, ...]:
    """Steps at which trials are compared: grace, grace x factor, ..., and the end. Raises ConfigError."""
    end = base.trainer.trl.get("max_steps")
    if not isinstance(end, int) or end < 1:
        raise ConfigError(f"{source}: the experiment needs trainer.trl.max_steps")
    steps: list[int] = []
    if config.asha is not None:
        step = config.asha.grace
        if step >= end:
            raise ConfigError(f"{source}: asha.grace {step} must be below trainer.trl.max_steps {end}")
        while step < end:
            steps.append(step)
            step *= config.asha.factor
    found = (*steps, end)
    check_steps(base, found, source)
    return found


def check_steps(config: ExperimentConfig, steps: Sequence[int], source: str) -> None:
    """Raises ConfigError unless an evaluation and a checkpoint can be had at each of ``steps``."""
    every = config.eval_every
    if every < 1:
        raise ConfigError(f"{source}: eval_every is 0, so nothing is measured: set it under 'overrides'")
    period = max(1, batch_steps(config))
    for step in steps:
        if step % every or step % period:
            raise ConfigError(
                f"{source}: step {step} (asha.grace, max_steps) must be a multiple of eval_every {every} and of the"
                f" {period} optimiser steps of one generation batch"
            )
    if every % period:
        raise ConfigError(f"{source}: eval_every {every} must be a multiple of {period}, one generation batch")


def flat(config: SweepConfig, values: Values) -> dict[str, Any]:
    """Proposed values by dotted key: an option that sets several keys is spread out."""
    keys: dict[str, Any] = {}
    for name, value in values.items():
        keys.update(value if config.parameters[name].joint else {name: value})
    return keys


def text_of(config: SweepConfig, values: Values) -> str:
    """Proposed values in a line, by the last part of each key."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]} {_short(value)}" for key, value in flat(config, values).items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _experiment(config: SweepConfig, file: Path, raw: dict[str, Any], values: Mapping[str, Any]) -> ExperimentConfig:
    keys = {"run_dir": config.sweep_dir, **config.overrides, **values}
    return build(raw, file, [f"{key}={json.dumps(value)}" for key, value in keys.items()])


def _check_parameters(raw: Any, path: Path) -> None:
    """Names the parameter and key at fault; pydantic alone would not look inside a mapping's values."""
    if not isinstance(raw, Mapping):
        return
    names: set[str] = set()
    for name, value in raw.items():
        try:
            parameter = Parameter.model_validate(value)
        except ValidationError as error:
            raise ConfigError(describe(error, Parameter, f"{path}: parameters: {name}")) from error
        keys = [key for option in parameter.choice or () for key in option] if parameter.joint else [str(name)]
        for key in dict.fromkeys(map(str, keys)):
            _check_key(key, path, FIXED)
            if key in names:
                raise ConfigError(f"{path}: parameters: '{key}' is set by two parameters")
            names.add(key)


def _check_key(key: str, path: Path, refused: Iterable[str]) -> None:
    if key in refused:
        raise ConfigError(f"{path}: '{key}' cannot be set here: {FIXED[key]}")
    valid = [name for name in leaf_keys(ExperimentConfig) if name != "trainer.trl"]
    if key in valid:
        return
    if key.startswith(TRL):
        try:
            check_trl_options([key.removeprefix(TRL)])
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        return
    options = [*valid, *(f"{TRL}{name}" for name in sorted(HONOURED | FORWARDED))]
    by_leaf = [name for name in options if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    close = by_leaf[0] if by_leaf else nearest(key, options)
    hint = f"; did you mean '{close}'?" if close else ""
    raise ConfigError(f"{path}: '{key}' is no key of an experiment{hint}")


def _try_values(sweep: Sweep, path: Path) -> None:
    """Each option and each end by itself, on the experiment. What only fails in combination fails as a trial."""
    for name, parameter in sweep.config.parameters.items():
        for value in parameter.examples():
            keys = value if parameter.joint else {name: value}
            try:
                _experiment(sweep.config, sweep.file, sweep.raw, keys)
            except AgentworldError as error:
                raise ConfigError(f"{path}: parameters: {name}: {error}") from error
