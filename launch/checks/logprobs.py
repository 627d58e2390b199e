"""Which distribution a sampler's logprobs belong to.

Owns: the comparison, and running it on a model folder. Refuses: choosing a mode: off-policy correction divides the
trainer's probabilities, which have the temperature applied, by the sampler's; those of the plain model would make
every importance weight wrong without an error anywhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np

from launch.checks.finding import Problem
from rollout.types import Completion, Message, Sampling, Session

TEMPERATURE = 0.7  # not 1, or the modes could not be told apart
TOKENS, TOLERANCE, SECONDS = 16, 2e-2, 120.0


class Mode(StrEnum):
    """``sampled``: of the distribution sampled from. ``plain``: of the model at temperature 1."""

    sampled = "sampled"
    plain = "plain"
    neither = "neither"


def mode(
    logprobs_T: Sequence[float], logits_TV: np.ndarray, ids_T: Sequence[int], temperature: float
) -> tuple[Mode, float]:
    """Whose logprobs these are, and the largest difference (nats) from those of the distribution sampled from."""
    index = np.arange(len(ids_T)), np.asarray(ids_T)
    reported = np.asarray(logprobs_T, dtype=np.float64)

    def furthest(scale: float) -> float:
        scaled = logits_TV.astype(np.float64) / scale
        scaled -= scaled.max(axis=-1, keepdims=True)
        own = scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))
        return float(np.abs(own[index] - reported).max())

    sampled, plain = furthest(temperature), furthest(1.0)
    if not sampled <= TOLERANCE:
        return (Mode.plain if plain <= TOLERANCE else Mode.neither), sampled
    return Mode.sampled, sampled


def sampler_logprobs(model: Path) -> str:
    """Samples from the model folder with our own sampler and compares with a forward pass. Raises Problem."""
    from rollout.chat import load_chat

    prompt = load_chat(model).prompt((Message("system", "Terminal."), Message("user", "List the files.")))
    completion = asyncio.run(_sample(model, prompt))
    logits = _logits(model, prompt, completion.ids)
    seen, difference = mode(completion.logprobs, logits, completion.ids, TEMPERATURE)
    if seen is not Mode.sampled:
        whose = "the model at temperature 1" if seen is Mode.plain else "no temperature that was asked for"
        raise Problem(f"logprobs are those of {whose} ({difference:.2g} nats off): importance weights would be wrong")
    return f"logprobs are those of the distribution sampled from, at most {difference:.1e} nats off"


async def _sample(model: Path, prompt: tuple[int, ...]) -> Completion:
    from rollout.samplers.hf import HFSamplerSpec

    sampler = HFSamplerSpec(str(model), Sampling(TEMPERATURE, TOKENS), max_batch=1, dtype="float32")()
    try:
        async with asyncio.timeout(SECONDS):
            return await sampler(prompt, TOKENS, Session("doctor", seed=1, deadline=time.monotonic() + SECONDS))
    except TimeoutError as error:
        raise Problem(f"the sampler gave nothing within {SECONDS:.0f} s") from error
    finally:
        sampler.close()


def _logits(model: Path, prompt: Sequence[int], ids: Sequence[int]) -> np.ndarray:
    """(T, V) logits that predicted ``ids``, from one forward pass in fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32, local_files_only=True).eval()
    with torch.inference_mode():
        logits = loaded(torch.tensor([[*prompt, *ids]])).logits[0]
    found: np.ndarray = logits[len(prompt) - 1 : -1].numpy()
    return found
