"""What a training will use and where, said before anything starts: ``--dry-run`` of ``train`` and ``launch``.

Owns: processes, placement group, actors, batches, and the memory that follows from the number of parameters. Refuses:
guesses. Activations, logits and caches are not estimated; where the policy cannot be read, memory is not either.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from launch.config import ExperimentConfig
from launch.served import vllm_options
from launch.train import KEEP_CHECKPOINTS, num_batches

GB = 1e9
ADAM = 8  # bytes a parameter: two fp32 moments
MASTER = 4  # fp32 copy that DeepSpeed's optimisers keep


@dataclass(frozen=True, slots=True)
class Place:
    """Machines to train on. ``gpus`` and ``cpus`` per node. ``here``: this one, or the cluster at RAY_ADDRESS."""

    nodes: int
    cpus: int
    gpus: int
    here: bool = True


def this_machine() -> Place:
    return Place(1, os.cpu_count() or 1, _visible_gpus())


def _visible_gpus() -> int:
    """NVIDIA devices that the driver lists and CUDA_VISIBLE_DEVICES leaves; without torch, in no time."""
    try:
        count = len(list(Path("/proc/driver/nvidia/gpus").iterdir()))
    except OSError:
        count = 0
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        count if chosen is None else min(count, sum(1 for name in chosen.split(",") if name.strip() not in ("", "-1")))
    )


def preview(config: ExperimentConfig, place: Place) -> list[str]:
    """One line per fact. Raises ConfigError, one line, on a DeepSpeed file or vLLM options that cannot be used."""
    deepspeed = _deepspeed(config)
    return [
        _where(place),
        *_trainer(config, place, deepspeed),
        *_rollouts(config),
        *_amount(config),
        *_memory(config, place, deepspeed),
    ]


def _where(place: Place) -> str:
    address = os.environ.get("RAY_ADDRESS") if place.here else None
    if address:
        return f"place: the Ray cluster at RAY_ADDRESS={address}; its nodes are not asked in a dry run"
    size = f"{place.cpus} cores and {place.gpus} GPUs"
    return f"place: this machine, {size}" if place.here else f"place: {place.nodes} node(s) of {size}"


def _trainer(config: ExperimentConfig, place: Place, deepspeed: Mapping[str, Any] | None) -> list[str]:
    ranks = config.processes
    zero = f" under DeepSpeed ZeRO-{deepspeed['zero_optimization']['stage']}" if deepspeed else ""
    if ranks == 1 and deepspeed is None:
        return ["trainer: 1 process, the driver itself; no placement group"]
    gpus = place.nodes * place.gpus
    unit, backend = ("GPU", "nccl") if gpus >= ranks else ("CPU", "gloo")
    group = f"placement group: {ranks} x {{{unit}: 1}}, strategy PACK (Ray Train); {backend} between ranks"
    lines = [
        f"trainer: {ranks} process(es){zero}, started by Ray Train; rank 0 owns rollouts, ledger and weights",
        group,
    ]
    if 0 < gpus < ranks:
        lines.append(f"note: {gpus} GPU(s) for {ranks} processes are too few, so all of them train on the CPU")
    free = gpus - (ranks if unit == "GPU" else 0) - _engine_gpus(config)
    if free < 0:
        lines.append(f"note: ranks and vLLM engines need {-free} GPU(s) more than there are: training will refuse")
    idle = unit == "GPU" and free > 0
    return [*lines, *([f"note: {free} GPU(s) hold no trainer rank or vLLM engine"] if idle else [])]


def _engine_gpus(config: ExperimentConfig) -> int:
    options = vllm_options(config.trainer.trl)
    return 0 if options is None or options.servers else config.rollout.workers * options.tensor_parallel


def _policy(config: ExperimentConfig) -> str:
    options = vllm_options(config.trainer.trl)
    if options is None:
        return "policy: a copy in each rollout worker, fp32, sampled by transformers"
    if options.servers:
        served = f"served by vLLM at {', '.join(options.servers)}"
    else:
        bundles = f"{config.rollout.workers} x {{GPU: {options.tensor_parallel}}}, strategy PACK"
        served = f"served by {config.rollout.workers} vLLM engine(s), Ray actors in a placement group of {bundles}"
    return f"policy: {served}; weights travel as files in {config.run_dir}/weights"


def _rollouts(config: ExperimentConfig) -> list[str]:
    rollout, model = config.rollout, config.world_model
    if rollout.engine == "ray":
        where = f"{rollout.workers} Ray actor(s) that reserve nothing, on nodes that Ray picks"
    else:
        where = "in the process of rank 0"
    if config.world == "real":
        world = "the real terminal, a sandbox an episode, on the worker's machine"
    elif model.kind == "server":
        world = f"simulated by {model.model} at {model.url}"
    elif not model.path:
        world = "simulated, but world_model.path is empty: training will refuse"
    else:
        world = f"simulated by {model.path} on {model.device}, {model.dtype}, a copy in each worker"
    episodes = f"{rollout.slots} episodes at once each, {rollout.threads} CPU thread(s) each"
    return [f"rollouts: {where}; {episodes}", _policy(config), f"world: {world}"]


def _amount(config: ExperimentConfig) -> list[str]:
    rollout, trl = config.rollout, config.trainer.trl
    size = rollout.groups_per_batch * rollout.group_size
    batches = num_batches(config)
    if "max_steps" not in trl:
        often = "trainer.trl.max_steps is not set: training will refuse"
    else:
        often = f"{batches} batches, " if batches is not None else ""
        often += f"{trl['max_steps']} optimiser steps"
    stale = f"at most {rollout.max_staleness} batch(es) old" if rollout.max_staleness else "synchronous"
    lines = [
        f"batches: {rollout.groups_per_batch} groups x {rollout.group_size} = {size} episodes, {stale}; {often}",
        f"checkpoints: every {trl.get('save_steps', 500)} steps, the newest {KEEP_CHECKPOINTS} kept,"
        f" in {config.run_dir}",
    ]
    if config.eval_every:
        every = f"every {config.eval_every} steps"
        lines.append(f"evaluation: {config.tasks.heldout} held-out tasks in the real terminal {every}")
    return lines


def _memory(config: ExperimentConfig, place: Place, deepspeed: Mapping[str, Any] | None) -> list[str]:
    count = num_parameters(config.policy)
    if count is None:
        return [f"memory: not estimated, {config.policy} holds no readable safetensors here"]
    cuda = place.nodes * place.gpus >= config.processes
    state = model_state(count, config.processes, deepspeed, bool(config.trainer.trl.get("bf16", cuda)))
    host = f" and {state.host / GB:.2f} GB of host memory" if state.host else ""
    return [
        f"memory: the policy has {count / 1e6:.1f}M parameters; a trainer rank holds at least"
        f" {state.device / GB:.2f} GB{host} (weights, gradients, Adam; activations and logits come on top)",
        f"memory: a rollout worker holds at least {_worker_bytes(config, count) / GB:.2f} GB of weights;"
        " caches come on top",
    ]


def _worker_bytes(config: ExperimentConfig, policy: int) -> int:
    """The policy in fp32 (``launch.pools``) unless it is served, and a local world model in its dtype."""
    local = config.world == "simulated" and config.world_model.kind == "local"
    world = num_parameters(config.world_model.path) if local else 0
    own = 0 if vllm_options(config.trainer.trl) else policy * 4
    return own + (world or 0) * (2 if config.world_model.dtype == "bfloat16" else 4)


@dataclass(frozen=True, slots=True)
class ModelState:
    """Bytes of weights, gradients and optimiser state of one rank: on its device, and offloaded to the host."""

    device: float
    host: float


def model_state(parameters: int, ranks: int, deepspeed: Mapping[str, Any] | None, bf16: bool) -> ModelState:
    """A lower bound for mixed-precision Adam as ZeRO partitions it (Rajbhandari et al. 2020, arXiv:1910.02054,
    section 3.1): weights + gradients + optimiser state, of which ZeRO-1 shares out the last, ZeRO-2 the last two and
    ZeRO-3 all three. Without DeepSpeed weights stay fp32 (bf16 is autocast) and there is no master copy."""
    if deepspeed is None:
        return ModelState(float(parameters) * (4 + 4 + ADAM), 0.0)
    zero = deepspeed["zero_optimization"]
    stage = int(zero["stage"])
    setting = deepspeed.get("bf16", {}).get("enabled", False)
    width = 2 if setting is True or (setting == "auto" and bf16) else 4
    shared = float(parameters) / ranks
    weights = width * (shared if stage == 3 else parameters)
    gradients = width * (shared if stage >= 2 else parameters)
    optimiser = (MASTER + ADAM) * shared
    host = (optimiser if _offloads(zero, "offload_optimizer") else 0.0) + (
        weights if stage == 3 and _offloads(zero, "offload_param") else 0.0
    )
    return ModelState(weights + gradients + optimiser - host, host)


def _offloads(zero: Mapping[str, Any], key: str) -> bool:
    return (zero.get(key) or {}).get("device", "none") == "cpu"


def num_parameters(folder: str) -> int | None:
    """Numbers in the safetensors files of ``folder``, by their headers; None where there are none to read."""
    total = 0
    for file in sorted(Path(folder).glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                if length > file.stat().st_size:
                    return None
                header = json.loads(stream.read(length))
            total += sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
    return total or None


def _deepspeed(config: ExperimentConfig) -> Mapping[str, Any] | None:
    if config.deepspeed is None:
        return None
    from launch.cluster import zero_stage

    zero_stage(config.deepspeed)
    loaded: Mapping[str, Any] = json.loads(Path(config.deepspeed).read_text(encoding="utf-8"))
    return loaded
