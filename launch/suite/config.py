"""A suite's YAML file: which benchmarks, how many tasks of each, how long an episode may take.

Owns: ``SuiteConfig``, finding and reading it. Refuses: whether a benchmark can run on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from launch.config import read_mapping
from launch.errors import describe, nearest
from rollout.errors import ConfigError

OWN = "own"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Benchmark(_Strict):
    """Tasks of one domain. ``slots``: episodes at once per worker, as many as the domain's processes allow."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="of its trajectories file and its row")
    domain: str = Field(description="a folder of worldmodel/domains")
    source: str = Field(OWN, description="own: the domain's generated tasks; else one of its third-party sources")
    split: Literal["heldout", "family"] | None = Field("heldout", description="of own tasks; null with a source")
    tasks: int = Field(ge=1)
    slots: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _one_kind(self) -> Benchmark:
        if (self.source == OWN) != (self.split is not None):
            raise ValueError("split belongs to own tasks, and to no others")
        return self


class SuiteConfig(_Strict):
    """Everything a suite says. Timeouts in seconds: of one answer of the policy, of a turn, of an episode."""

    seed: int = Field(ge=0)
    temperature: float = Field(ge=0)
    call_timeout: float = Field(gt=0)
    turn_timeout: float = Field(gt=0)
    episode_timeout: float = Field(gt=0)
    benchmarks: tuple[Benchmark, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> SuiteConfig:
        names = [benchmark.name for benchmark in self.benchmarks]
        if len(set(names)) != len(names):
            raise ValueError("two benchmarks have the same name")
        if not self.call_timeout <= self.turn_timeout <= self.episode_timeout:
            raise ValueError("timeouts must not shrink: call_timeout <= turn_timeout <= episode_timeout")
        return self


def folder() -> Path:
    """``configs/suites``: inside ``launch`` when installed, else beside the packages of a checkout."""
    installed = Path(str(resources.files("launch"))) / "configs" / "suites"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "configs" / "suites"


def load_suite(name: str) -> tuple[str, SuiteConfig]:
    """(name, suite) of a YAML file, or of a name in ``configs/suites``. Raises ConfigError or UserError, one line."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = folder() / f"{name}.yaml"
        if not path.is_file():
            raise ConfigError(f"--suite: no suite is called {name!r}{_hint(name, _known())}")
    try:
        return path.stem, SuiteConfig.model_validate(read_mapping(path))
    except ValidationError as error:
        raise ConfigError(describe(error, SuiteConfig, str(path))) from error


def _known() -> list[str]:
    return sorted(path.stem for path in folder().glob("*.yaml"))


def _hint(name: str, known: Sequence[str]) -> str:
    close = nearest(name, known)
    return f"; did you mean {close}?" if close else f"; there are {', '.join(known)}, or give a YAML file"
