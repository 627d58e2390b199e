"""Config of the world model: which one, where, and how it is asked.

Owns: typed keys with units and a way to the picklable specs. Refuses: loading a model.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from worldmodel.dialects import DialectName
from worldmodel.environment import SimulationSettings, WorldModelSpec
from worldmodel.language import LocalModelSpec
from worldmodel.openai import ServerSpec


class WorldModelConfig(BaseModel):
    """The ``world_model`` section. ``kind: local`` reads ``path``; ``kind: server`` reads ``url`` and ``model``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["local", "server"] = "local"
    path: str = Field("", description="local: folder of a Hugging Face model")
    url: str = Field("", description="server: root of an OpenAI-compatible server")
    model: str = Field("", description="server: name of the model to ask for")
    dialect: DialectName = Field("transcript", description="wire format the model was trained on")
    temperature: float = Field(1.0, ge=0.0, description="sampling temperature of steps")
    max_tokens: int = Field(256, ge=1, description="longest predicted observation, in tokens")
    max_context: int | None = Field(None, ge=8, description="local: context limit in tokens; null: the model's own")
    verdict_samples: int = Field(3, ge=1, description="predictions per probe; where they disagree: no verdict")
    deadline_seconds: float = Field(60.0, gt=0.0, description="longest wait for one prediction")
    retries: int = Field(2, ge=0, description="further attempts per prediction, over faults of any kind")
    concurrency: int = Field(16, ge=1, description="local: largest batch; server: calls in flight per worker")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="local: weights in memory")
    device: str = Field("cpu", description="local: torch device, such as cpu or cuda:0")
    threads: int | None = Field(None, ge=1, description="local: CPU threads of torch; null: torch's default")

    @model_validator(mode="after")
    def _complete(self) -> WorldModelConfig:
        if self.kind == "server" and not (self.url and self.model):
            raise ValueError("world_model.kind is server: set world_model.url and world_model.model")
        if self.kind == "server" and self.path:
            raise ValueError("world_model.path belongs to kind local: remove it or set kind: local")
        if self.kind == "local" and (self.url or self.model):
            raise ValueError("world_model.url and .model belong to kind server: remove them or set kind: server")
        return self

    def spec(self) -> WorldModelSpec:
        """A picklable recipe, called once per worker process."""
        if self.kind == "server":
            return ServerSpec(
                url=self.url,
                model=self.model,
                dialect=self.dialect,
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                concurrency=self.concurrency,
                retries=self.retries,
                call_timeout=self.deadline_seconds,
            )
        return LocalModelSpec(
            path=self.path,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            dtype=self.dtype,
            max_batch=self.concurrency,
            threads=self.threads,
            max_context=self.max_context,
            retries=self.retries,
            dialect=self.dialect,
            device=self.device,
        )

    def simulation(self) -> SimulationSettings:
        return SimulationSettings(
            temperature=self.temperature,
            verdict_samples=self.verdict_samples,
            deadline_seconds=self.deadline_seconds,
        )
