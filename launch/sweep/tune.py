"""Ray Tune as the hands of a sweep: each Tune trial is one unit, on whatever node has room for it.

Owns: the Ray connection, the mapping between Tune's trials and units, deadlines of neither. Refuses: Tune's own
memory. Its searchers, schedulers and ``Tuner.restore`` act in the order in which results arrive, and restore what
was last pickled, not what has happened: a sweep killed half way would go on differently. Here Tune is started
afresh by each session and asks our ledger what to do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.search import Searcher

from launch.cluster import connected
from launch.config import ExperimentConfig
from launch.errors import one_line
from launch.sweep.config import Resources
from launch.sweep.control import Control
from launch.sweep.ledger import Unit
from launch.sweep.unit import Measured, Outcome, TrainFn, run_unit
from rollout.errors import AgentworldError, ConfigError

# Read by Tune when it starts: no loggers of its own choice, and an interrupt ends the driver, which can take it.
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def run_units(control: Control, train: TrainFn, address: str | None = None) -> None:
    """Run what ``control`` hands out until it is over. Raises ConfigError where the cluster is too small."""
    sweep = control.sweep
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with connected(address):
        _check_room(sweep.config.resources, sweep.base.processes)
        resources = {key: value for key, value in sweep.config.resources.model_dump().items() if value}
        tune.Tuner(
            tune.with_resources(_trainable(train), resources or {"cpu": 0}),
            tune_config=tune.TuneConfig(
                search_alg=_Units(control),
                num_samples=-1,
                reuse_actors=False,  # a fresh process for each unit: nothing global is left from another
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name=f"session_{control.state.sessions}",
                storage_path=str(sweep.folder / "tune"),
                failure_config=tune.FailureConfig(max_failures=0),  # going on after a loss is the ledger's
                callbacks=[JsonLoggerCallback()],  # Tune reads these files once more at the end
                verbose=0,
            ),
        ).fit()


def _trainable(train: TrainFn) -> Callable[[Mapping[str, str]], dict[str, str]]:
    """Job and outcome travel as JSON: Tune would look for search spaces inside the one and flatten the other."""

    def unit(config: Mapping[str, str]) -> dict[str, str]:
        job = json.loads(config["job"])
        experiment = ExperimentConfig.model_validate(job["experiment"])
        return {"outcome": json.dumps(asdict(run_unit(experiment, job["until"], job["metric"], job["name"], train)))}

    return unit


class _Units(Searcher):
    """What Tune asks for trials. Its trial ids are kept for as long as the unit is under way."""

    def __init__(self, control: Control) -> None:
        super().__init__()
        self._control = control
        self._units: dict[str, Unit] = {}
        self._broken: Exception | None = None

    def suggest(self, trial_id: str) -> dict[str, str] | str | None:
        if self._broken is not None:
            raise self._broken
        unit = self._control.next_unit()
        if unit is None:
            return str(Searcher.FINISHED) if self._control.over else None
        self._units[trial_id] = unit
        return {"job": json.dumps(_job(self._control, unit))}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        unit = self._units.pop(trial_id, None)
        if unit is None:
            return
        try:
            self._tell(unit, result, error)
        except (AgentworldError, OSError) as problem:  # Tune would only log it: raised when it asks again
            self._broken = problem

    def _tell(self, unit: Unit, result: Mapping[str, Any] | None, error: bool) -> None:
        if error or not result or "outcome" not in result:
            self._control.lost(unit, "killed, out of memory, or its node left" if error else "it left no result")
            return
        told = json.loads(result["outcome"])
        found = Measured(**told["measured"]) if told["measured"] else None
        self._control.done(unit, Outcome(found, told["seconds"], told["error"]))

    def __getstate__(self) -> dict[str, Any]:
        """What Tune pickles beside its own state: nothing, and nothing of it is read again."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is on disk already."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise ConfigError("a sweep goes on from its ledger: run `agentworld sweep` again")

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        self.restore("")


def _job(control: Control, unit: Unit) -> dict[str, Any]:
    sweep, values, run = control.sweep, control.state.trials[unit.trial].values, f"{unit.trial:04d}-seed{unit.seed}"
    return {
        "experiment": sweep.experiment(values, unit.trial, unit.seed).model_dump(mode="json"),
        "until": unit.until,
        "metric": sweep.config.metric,
        # one W&B run per run directory, however often it is continued; all of them in one group
        "name": {
            "WANDB_RUN_GROUP": sweep.folder.name,
            "WANDB_NAME": run,
            "WANDB_RUN_ID": f"{control.state.id}-{run}",
            "WANDB_RESUME": "allow",
        },
    }


def _name(trial: Any) -> str:
    return one_line(f"{trial.trial_id}")


def _check_room(resources: Resources, processes: int) -> None:
    import ray

    there = ray.cluster_resources()
    for name, wanted in (("CPU", resources.cpu + (processes if processes > 1 else 0)), ("GPU", resources.gpu)):
        if wanted > there.get(name, 0):
            raise ConfigError(f"resources: a run needs {wanted:g} {name}s, this Ray cluster has {there.get(name, 0):g}")
