"""A policy served by vLLM: reading the choice from the config, and the servers a run samples from.

Owns: the ``vllm_*`` options under ``trainer.trl`` (TRL's own names, because that is where users look for them; TRL
itself never sees them) and starting engines where no servers are named. Refuses: sampling, loading weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import ConfigError

if TYPE_CHECKING:
    from launch.config import ExperimentConfig

EXECUTABLE_VARIABLE = "AGENTWORLD_VLLM"  # the vllm program, where it is not on the path


@dataclass(frozen=True, slots=True)
class VLLMOptions:
    """``servers``: URLs of running ones; empty: start an engine for each of ``rollout.workers``."""

    servers: tuple[str, ...] = ()
    tensor_parallel: int = 1
    gpu_memory: float = 0.9
    max_model_len: int | None = None
    start_timeout: float = 900.0


@dataclass(frozen=True, slots=True)
class Served:
    """What a pool needs: where the policy is served, and where its weights are written."""

    servers: tuple[str, ...]
    weights: Path
    api_key: str = field(default="", repr=False)


def vllm_options(trl: Mapping[str, Any]) -> VLLMOptions | None:
    """None unless ``use_vllm``. Raises ConfigError: one line with the key."""
    given = {key: value for key, value in trl.items() if key.startswith("vllm_")}
    if not _typed(trl, "use_vllm", bool, False):
        if stray := next((key for key in given if not key.startswith("vllm_importance")), None):
            raise ConfigError(f"trainer.trl.{stray} does nothing without trainer.trl.use_vllm: true")
        return None
    mode = _typed(given, "vllm_mode", str, "server" if "vllm_server_base_url" in given else "colocate")
    urls = tuple(url.strip() for url in _typed(given, "vllm_server_base_url", str, "").split(",") if url.strip())
    if mode not in ("server", "colocate"):
        raise ConfigError(f"trainer.trl.vllm_mode: {mode!r} is neither server nor colocate")
    if (mode == "server") != bool(urls):
        need = "needs vllm_server_base_url" if mode == "server" else "starts engines: leave out vllm_server_base_url"
        raise ConfigError(f"trainer.trl.vllm_mode: {mode} {need}")
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"trainer.trl.vllm_server_base_url: {url!r} does not start with http://")
    started = ("vllm_tensor_parallel_size", "vllm_gpu_memory_utilization", "vllm_max_model_length")
    if stray := next((key for key in started if urls and key in given), None):
        raise ConfigError(f"trainer.trl.{stray}: the named servers were started by you; give it to vllm serve")
    return VLLMOptions(
        urls,
        _bounded(given, "vllm_tensor_parallel_size", int, 1, 1, 1024),
        _bounded(given, "vllm_gpu_memory_utilization", float, 0.9, 0.01, 1.0),
        _bounded(given, "vllm_max_model_length", int, 0, 0, 2**31) or None,
        _bounded(given, "vllm_server_timeout", float, 900.0, 0.1, 1e6),
    )


@contextmanager
def served(config: ExperimentConfig, run_dir: Path) -> Iterator[Served | None]:
    """The servers of a run while it lasts; None where every worker holds the policy itself."""
    options = vllm_options(config.trainer.trl)
    weights = run_dir / "weights"
    if options is None:
        yield None
    elif options.servers:
        yield Served(options.servers, weights)
    else:
        from rollout.ray_vllm import Engines
        from rollout.samplers.vllm_process import EngineSpec

        spec = EngineSpec(
            config.policy,
            executable=(os.environ.get(EXECUTABLE_VARIABLE, "vllm"),),
            tensor_parallel=options.tensor_parallel,
            gpu_memory=options.gpu_memory,
            max_model_len=options.max_model_len or config.rollout.max_context,
            start_timeout=options.start_timeout,
        )
        with Engines(spec, config.rollout.workers, log_dir=run_dir / "logs") as engines:
            yield Served(engines.servers, weights, engines.api_key)


def _typed(values: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = values.get(key, default)
    wanted = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"trainer.trl.{key}: {value!r} is no {kind.__name__}")
    return value


def _bounded(values: Mapping[str, Any], key: str, kind: type, default: Any, low: float, high: float) -> Any:
    value = _typed(values, key, kind, default)
    if not low <= value <= high:
        raise ConfigError(f"trainer.trl.{key}: {value!r} is not between {low:g} and {high:g}")
    return value
