"""Worlds for a command line: a path or URL becomes a picklable factory, and is tried before anything starts.

Owns: naming worlds (``real``, ``sim``) and the early, one-line refusals. Refuses: running episodes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path

from launch.errors import UserError
from rollout.errors import CheckpointError
from rollout.protocols import EnvFactory
from worldmodel.config import WorldModelConfig
from worldmodel.domains import RealWorlds, kit
from worldmodel.environment import SimulatedFactory
from worldmodel.openai import OpenAIWorldModel, ServerSpec
from worldmodel.sandbox import Machine

REAL, SIM = "real", "sim"
ASKED = "world_model.json"  # beside a model's weights


def world_model_config(where: str, model: str = "", dialect: str | None = None) -> WorldModelConfig:
    """The config of the world model at ``where``: a folder, or the URL of an OpenAI-compatible server. A folder may say
    in ``world_model.json`` how its model wants to be asked (keys of the ``world_model`` section); ``dialect`` is
    stronger. Raises UserError where that file is damaged, pydantic's error where a key is unknown."""
    extra: dict[str, object] = {"dialect": dialect} if dialect else {}
    if where.startswith(("http://", "https://")):
        if not model:
            raise UserError(f"{where}: name the served model with --served-model")
        return WorldModelConfig.model_validate({"kind": "server", "url": where, "model": model, **extra})
    folder = Path(where).resolve()
    return WorldModelConfig.model_validate({**_says(folder / ASKED), "path": str(folder), **extra})


def _says(file: Path) -> dict[str, object]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: no JSON ({error}); write keys of world_model, or remove it") from error
    if not isinstance(found, dict):
        raise UserError(f"{file}: not a JSON object; write keys of world_model, or remove it")
    return found


def simulated(config: WorldModelConfig) -> SimulatedFactory:
    """The simulated worlds of all domains behind ``config``, once the model's folder or server was seen to be there."""
    check_world_model(config)
    return SimulatedFactory(None, config.spec(), config.simulation())


def check_world_model(config: WorldModelConfig) -> None:
    """Raises CheckpointError or WorldFault, one line, where the world model cannot be there."""
    spec = config.spec()
    if isinstance(spec, ServerSpec):
        asyncio.run(check_server(spec))
    else:
        check_model_folder(config.path)


def training_worlds(config: WorldModelConfig | None) -> dict[str, EnvFactory]:
    """The real worlds, and the simulated ones where ``config`` names a world model; nothing is tried."""
    worlds: dict[str, EnvFactory] = {REAL: RealWorlds()}
    if config is not None:
        worlds[SIM] = SimulatedFactory(None, config.spec(), config.simulation())
    return worlds


def real(domains: Iterable[str] = ("terminal",)) -> EnvFactory:
    """The real worlds, once those of ``domains`` were seen to be there. Raises SandboxError where one of them needs a
    box and none starts, UserError where one lacks something else."""
    named = sorted(set(domains))
    if any(kit(name).boxed for name in named):
        check_sandbox()
    check_domains(named)
    return RealWorlds()


def check_domains(names: Iterable[str]) -> None:
    """Raises UserError, one line, where the real world of a domain lacks something on this machine."""
    for name in names:
        if lacking := kit(name).missing():
            raise UserError(f"{name}: missing {lacking}")


def check_sandbox() -> None:
    """Raises SandboxError, one line, where no machine can be had."""
    with Machine({}) as machine:
        machine.run("true")


async def check_server(spec: ServerSpec) -> None:
    """Raises WorldFault, one line, unless the server answers."""
    model = OpenAIWorldModel(spec)
    try:
        await model.check()
    finally:
        await model.close()


def check_model_folder(path: str | Path) -> None:
    """Raises CheckpointError, one line, unless ``path`` looks like a whole Hugging Face model with readable
    weights: config, tokenizer, and every safetensors file the index names with a sound header."""
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such model folder")
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: {name} is missing, so this is no Hugging Face model folder")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        index = folder / "model.safetensors.index.json"
        names = ["model.safetensors"]
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{folder}: config.json or the weights' index is not readable ({error})") from error
    for name in names:
        _check_weights(folder / name)


def positions(path: str | Path) -> int | None:
    """The longest context that the model folder ``path`` says it was made for."""
    config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    found = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    return int(found) if isinstance(found, int) else None


def _check_weights(file: Path) -> None:
    """The header is JSON, and the file is as long as the header says."""
    if not file.is_file():
        raise CheckpointError(f"{file}: the weights are missing")
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > size:
            raise CheckpointError(f"{file}: unreadable weights (truncated header)")
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file}: unreadable weights (damaged header)") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise CheckpointError(f"{file}: unreadable weights ({size} bytes, the header says {expected})")
