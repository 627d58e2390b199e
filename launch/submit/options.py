"""Where and how big: the options of ``agentworld launch``, beside the experiment and not part of it.

Owns: ``LaunchOptions``, reading it from a YAML file and from ``launch.key=value`` arguments, one-line errors, and the
table of what each target cannot honour. Refuses: the experiment's own keys (``launch.config``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from launch.errors import describe, need_file, one_line
from rollout.errors import ConfigError

PREFIX = "launch."
MAX_HOURS = 24 * 365


class Target(StrEnum):
    """Where a training can be started."""

    local = "local"
    ray = "ray"
    slurm = "slurm"
    k8s = "k8s"
    skypilot = "skypilot"


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\n" in path:
        raise ValueError("an absolute path on the nodes is needed")
    return path.rstrip("/") or "/"


def _one_line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise ValueError("must be a single line")
    return text


NodePath = Annotated[str, AfterValidator(_absolute)]
Line = Annotated[str, AfterValidator(_one_line)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RayOptions(_Section):
    """Ray Jobs."""

    address: Line = Field("http://127.0.0.1:8265", description="dashboard of the cluster: loopback, or token protected")


class SlurmOptions(_Section):
    """SLURM."""

    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    exclusive: bool = Field(True, description="whole nodes: two Rays on one node would share ports")
    extra: tuple[Line, ...] = Field((), description="further #SBATCH directives, such as --mail-type=END")


class K8sOptions(_Section):
    """Kubernetes with the KubeRay operator."""

    namespace: Line = "default"
    claim: Line | None = Field(None, description="PersistentVolumeClaim (ReadWriteMany) mounted at shared_dir; needed")
    service_account: Line | None = None
    node_selector: dict[str, Line] = Field({}, description="labels of the nodes to run on")
    secret: Line | None = Field(None, description="Secret whose keys become environment variables: WANDB_API_KEY, ...")
    privileged: bool = Field(False, description="for the real terminal's sandbox, where pods may not make namespaces")
    ray_version: Line | None = Field(None, description="Ray of the image; null: the version installed here")


class SkypilotOptions(_Section):
    """SkyPilot."""

    infra: Line | None = Field(None, description="such as aws, gcp/us-central1, k8s/context; null: SkyPilot chooses")
    accelerator: Line | None = Field(None, description="name of the GPU, such as H100; needed with gpus_per_node")
    use_spot: bool = False
    disk_gb: Count | None = None
    volumes: dict[NodePath, Line] = Field({}, description="mount path: SkyPilot volume; shared_dir lies in one")
    secrets: tuple[VariableName, ...] = Field((), description="further secrets to ask for, such as WANDB_API_KEY")
    idle_minutes: Count = Field(10, description="the cluster is torn down after so long without a job")


class LaunchOptions(_Section):
    """What a launch needs beside the experiment. Paths are those that the nodes see."""

    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)] = "agentworld"
    nodes: Count = 1
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    cpus_per_node: Count = 8
    memory_gb: Count | None = Field(None, description="memory of each node; null: the target's default")
    hours: Annotated[float, Field(gt=0, le=MAX_HOURS)] = Field(24.0, description="time limit of the whole job")
    start_seconds: Count = Field(600, description="deadline for all nodes to join Ray")
    workdir: NodePath | None = Field(None, description="where nodes find the current directory; null: the same path")
    shared_dir: NodePath | None = Field(None, description="folder all nodes share; the run directory lies in it")
    venv: NodePath | None = Field(None, description="virtual environment on the nodes; null: `agentworld` on PATH")
    image: Line | None = Field(None, description="container image with agentworld installed")
    setup: tuple[Line, ...] = Field(
        (), description="shell lines before anything else on each node, such as module load"
    )
    env: dict[VariableName, Line] = Field({}, description="environment variables, in plain text: no secrets")
    ray: RayOptions = RayOptions()
    slurm: SlurmOptions = SlurmOptions()
    k8s: K8sOptions = K8sOptions()
    skypilot: SkypilotOptions = SkypilotOptions()

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def seconds(self) -> int:
        return max(1, round(self.hours * 3600))


# What a target has no place for is refused when set, never ignored.
_UNUSABLE: Mapping[Target, Mapping[str, str]] = {
    Target.local: {
        "nodes": "local is this machine",
        "gpus_per_node": "local takes what this machine has",
        "cpus_per_node": "local takes what this machine has",
        "memory_gb": "nothing here limits memory",
        "image": "local runs without a container",
    },
    Target.ray: {
        "memory_gb": "the cluster exists already",
        "image": "the cluster exists already; its nodes need agentworld installed",
    },
    Target.slurm: {},
    Target.k8s: {
        "venv": "put agentworld on the PATH of launch.image",
        "setup": "build it into launch.image",
    },
    Target.skypilot: {},
}


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the experiment's overrides, ``launch.`` ones without their prefix)."""
    ours = [item.removeprefix(PREFIX) for item in overrides if item.startswith(PREFIX)]
    return [item for item in overrides if not item.startswith(PREFIX)], ours


def load_options(target: Target, file: Path | None, overrides: Sequence[str] = ()) -> LaunchOptions:
    """Options from ``file`` (a YAML mapping) with ``key=value`` overrides, checked against ``target``.
    Raises ConfigError: one line that names file or argument, key and fix."""
    source = str(file) if file is not None else "launch options"
    options = _validate(_read(file, overrides), source, overrides)
    for key, reason in _UNUSABLE[target].items():
        if getattr(options, key) != LaunchOptions.model_fields[key].get_default():
            raise ConfigError(f"{PREFIX}{key} cannot be used with target {target}: {reason}")
    return options


def _read(file: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    for item in overrides:
        if "=" not in item or item.startswith("="):
            raise ConfigError(f"override '{PREFIX}{item}': write it as key=value, e.g. {PREFIX}nodes=2")
    try:
        base = OmegaConf.load(need_file(file, "options file")) if file is not None else OmegaConf.create({})
        if not isinstance(base, DictConfig):
            raise ConfigError(f"{file}: a mapping of launch options is needed, found a list")
        values = OmegaConf.to_container(OmegaConf.merge(base, OmegaConf.from_dotlist(list(overrides))), resolve=False)
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, OSError, ValueError) as error:
        raise ConfigError(one_line(f"{file or 'launch options'}: {error}")) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _validate(values: dict[str, Any], source: str, overrides: Sequence[str]) -> LaunchOptions:
    try:
        return LaunchOptions.model_validate(_tuples(values))
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        hits = [item for item in overrides if item.startswith((f"{key}=", f"{key}."))]
        where = f"override '{PREFIX}{hits[-1]}'" if key and hits else source
        raise ConfigError(describe(error, LaunchOptions, where)) from error


def _tuples(value: Any) -> Any:
    """YAML's sequences as tuples, which the frozen options hold."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
