"""Which values the next trial gets: Optuna's TPE on the trials it knows.

Owns: the search space as Optuna sees it, and a proposal as a pure function of (sweep, number, known trials).
Refuses: a study that lives on: it is made anew for each proposal, so that a resumed sweep asks the same question.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Sequence
from typing import Any

from launch.sweep.config import Parameter, SweepConfig, Values
from launch.sweep.ledger import Trial
from launch.sweep.plan import known, mean_at
from rollout.errors import ConfigError
from rollout.seeds import derive_seed

TRIES = 200  # of proposing values that were not proposed before


def propose(config: SweepConfig, trials: Sequence[Trial]) -> Values | None:
    """Values of trial ``len(trials)``, different from those of every earlier one; None where none are left to try
    (or none were met in ``TRIES`` random draws)."""
    seen = {_key(config, trial.values) for trial in trials}
    if len(seen) >= size(config):
        return None
    number = len(trials)
    for attempt in range(TRIES):
        values = _ask(config, trials, number, attempt)
        if _key(config, values) not in seen:
            return values
    return None


def size(config: SweepConfig) -> float:
    """Number of different trials; infinite with a continuous parameter."""
    return math.prod(_options(parameter) for parameter in config.parameters.values())


def _options(parameter: Parameter) -> float:
    if parameter.choice is not None:
        return len({json.dumps(option, sort_keys=True) for option in parameter.choice})
    if parameter.integer is not None:
        return parameter.integer[1] - parameter.integer[0] + 1
    return math.inf


def _ask(config: SweepConfig, trials: Sequence[Trial], number: int, attempt: int) -> dict[str, Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = derive_seed(config.seed, "sweep", number, attempt) % 2**32
    told = known(config, trials, number)
    informative = sum(trial.fate in ("finished", "pruned") for trial in told)
    if config.sampler == "random" or informative < config.startup or attempt > TRIES // 2:
        sampler: Any = optuna.samplers.RandomSampler(seed=seed)
    else:
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = {name: _distribution(parameter) for name, parameter in config.parameters.items()}
    for trial in trials:
        study.add_trial(_as_optuna(config, trial, space, trial.number < len(told)))
    asked = study.ask(space).params
    return {name: _value(parameter, asked[name]) for name, parameter in config.parameters.items()}


def _distribution(parameter: Parameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.choice is not None:
        return CategoricalDistribution(range(len(parameter.choice)))
    if parameter.integer is not None:
        return IntDistribution(*parameter.integer)
    if parameter.loguniform is not None:
        return FloatDistribution(*parameter.loguniform, log=True)
    assert parameter.uniform is not None
    return FloatDistribution(*parameter.uniform)


def _as_optuna(config: SweepConfig, trial: Trial, space: dict[str, Any], told: bool) -> Any:
    """The trial as Optuna's. One that is not ``told`` counts as running, whatever has become of it. A failed one is
    pruned before its first step, which TPE ranks last: ignored, it would be proposed again and again next door."""
    from optuna.trial import TrialState, create_trial

    params = {name: _raw(config.parameters[name], value) for name, value in trial.values.items()}
    common: dict[str, Any] = {"params": params, "distributions": space}
    if not told:
        return create_trial(state=TrialState.RUNNING, **common)
    if trial.fate == "failed":
        return create_trial(state=TrialState.PRUNED, **common)
    value = mean_at(config, trial, trial.step)
    if trial.fate == "pruned":
        return create_trial(state=TrialState.PRUNED, intermediate_values={trial.step: value}, **common)
    return create_trial(state=TrialState.COMPLETE, value=value, **common)


def _value(parameter: Parameter, raw: Any) -> Any:
    return parameter.choice[raw] if parameter.choice is not None else raw


def _raw(parameter: Parameter, value: Any) -> Any:
    """The inverse of ``_value``: options are told by their place, since Optuna knows plain values only."""
    if parameter.choice is None:
        return value
    texts = [json.dumps(option, sort_keys=True) for option in parameter.choice]
    return texts.index(json.dumps(value, sort_keys=True))


def _key(config: SweepConfig, values: Values) -> str:
    return json.dumps(dict(values), sort_keys=True)


def need_optuna() -> None:
    """Raises ConfigError where Optuna is not installed (it is no part of ``ray[tune]``)."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("optuna is not installed: pip install 'agentworld-trainer[train]'")
