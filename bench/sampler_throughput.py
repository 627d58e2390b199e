"""Tokens per second of the HF sampler for a 5M-parameter Qwen3, alone on one thread.

    python bench/sampler_throughput.py [rows] [prompt] [new] [turns]

Prints new ids per second including prefill: independent prompts, then episodes whose contexts grow turn by turn.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rollout.samplers.hf import HFSampler
from rollout.types import Sampling, Session

VOCABULARY = 2048


def build() -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)


async def one_turn(
    sampler: HFSampler, contexts: list[tuple[int, ...]], new: int
) -> tuple[float, list[tuple[int, ...]]]:
    """Seconds, and the contexts with what was sampled after them."""
    begun = time.perf_counter()
    answers = await asyncio.gather(
        *(sampler(ids, new, Session(str(row), seed=row)) for row, ids in enumerate(contexts))
    )
    seconds = time.perf_counter() - begun
    return seconds, [ids + answer.ids for ids, answer in zip(contexts, answers, strict=True)]


async def main(rows: int = 32, prompt: int = 128, new: int = 64, turns: int = 4) -> None:
    torch.set_num_threads(1)
    draw = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(2, VOCABULARY) for _ in range(count))

    sampler = HFSampler(build(), pad_id=0, stop_ids=(1,), sampling=Sampling(1.0), max_batch=rows)
    await one_turn(sampler, [ids(prompt) for _ in range(rows)], 4)
    seconds, _ = await one_turn(sampler, [ids(prompt) for _ in range(rows)], new)
    print(f"independent prompts: {rows} rows, {prompt} + {new} ids: {rows * new / seconds:.0f} ids/s")
    contexts, spent = [ids(prompt)] * rows, 0.0
    for _ in range(turns):
        seconds, contexts = await one_turn(sampler, contexts, new)
        contexts = [seen + ids(30) for seen in contexts]
        spent += seconds
    print(f"one group, {turns} turns of {new} ids + 30 observed: {rows * new * turns / spent:.0f} ids/s")
    sampler.close()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
