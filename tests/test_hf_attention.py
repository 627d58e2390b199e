"""One new id a row in half precision on a CPU: our attention against torch's in float32."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fakes import build_model

torch = pytest.importorskip("torch")
from rollout.samplers import hf_attention  # noqa: E402
from rollout.samplers.hf import HFSampler  # noqa: E402
from rollout.types import Sampling, Session  # noqa: E402

torch.set_num_threads(1)
attention = torch.nn.functional.scaled_dot_product_attention


def states(rows: int, heads: int, shared: int, seen: int, dtype: Any) -> tuple[Any, Any, Any]:
    """Query, and keys and values that are windows of a larger buffer, as ``hf_rows`` shows them."""
    draw = torch.Generator().manual_seed(rows * seen + shared)
    query = torch.randn(rows, 1, heads * shared, 16, generator=draw).transpose(1, 2)
    kv = torch.randn(2, rows, heads, seen + 9, 16, generator=draw)
    return query.to(dtype), kv[0, :, :, 4 : seen + 4].to(dtype), kv[1, :, :, 4 : seen + 4].to(dtype)


@pytest.mark.parametrize("dtype", hf_attention.HALVES)
@pytest.mark.parametrize("boolean", [False, True])
@pytest.mark.parametrize("piece", [1, hf_attention.PIECE])
@pytest.mark.parametrize(("rows", "heads", "shared", "seen"), [(1, 2, 1, 1), (3, 4, 1, 77), (5, 2, 3, 40)])
def test_one_query_equals_torch_in_float32(rows, heads, shared, seen, piece, boolean, dtype, monkeypatch) -> None:
    monkeypatch.setattr(hf_attention, "PIECE", piece)
    query, key, value = states(rows, heads, shared, seen, dtype)
    shown = torch.arange(seen) >= torch.arange(rows)[:, None] % seen
    mask = shown[:, None, None]
    if not boolean:
        mask = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, float("-inf"))
    wide = [tensor.float().repeat_interleave(shared, 1) for tensor in (key, value)]
    for scaling in (None, 0.5):
        expected = attention(query.float(), *wide, attn_mask=shown[:, None, None], scale=scaling)
        ours = hf_attention.one_query(query, key, value, mask, scaling)
        assert ours.dtype == dtype and ours.shape == expected.shape
        assert torch.allclose(ours.float(), expected, atol=0.02, rtol=0.02)
    unmasked = hf_attention.one_query(query, key, value, None).float()
    assert torch.allclose(unmasked, attention(query.float(), *wide), atol=0.02, rtol=0.02)


def test_hidden_columns_do_not_count() -> None:
    query, key, value = states(2, 2, 1, 30, torch.bfloat16)
    mask = (torch.arange(30) >= 11).expand(2, 1, 1, 30)
    before = hf_attention.one_query(query, key, value, mask)
    key[:, :, :11], value[:, :, :11] = 50.0, -50.0
    assert torch.equal(before, hf_attention.one_query(query, key, value, mask))


@pytest.mark.parametrize(("dtype", "used"), [("bfloat16", True), ("float32", False)])
async def test_a_sampler_decodes_with_it_in_half_precision_alone(dtype: str, used: bool, monkeypatch) -> None:
    calls, ours = [], hf_attention.one_query
    monkeypatch.setattr(hf_attention, "one_query", lambda *args: calls.append(args[0].shape) or ours(*args))
    net = build_model(layers=2, seed=3)
    reference = build_model(layers=2, seed=3)  # float32, and attends as transformers made it
    sampler = HFSampler(net, pad_id=0, stop_ids=(), sampling=Sampling(0.0), dtype=dtype)
    try:
        contexts = [tuple(range(8, 8 + length)) for length in (5, 19, 33)]
        answers = await asyncio.gather(*(sampler(ids, 6, Session("s", seed=0)) for ids in contexts))
    finally:
        sampler.close()
    assert bool(calls) is used and all(shape[2] == 1 for shape in calls)
    for ids, answer in zip(contexts, answers, strict=True):
        with torch.inference_mode():
            logits = reference(input_ids=torch.tensor([[*ids, *answer.ids]])).logits[0, len(ids) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(answer.ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(answer.logprobs), expected, atol=0.2 if used else 1e-4)


def test_other_implementations_stay_as_they_are() -> None:
    net = build_model(layers=1)
    net.set_attn_implementation("eager")
    hf_attention.use(net)
    assert net.config._attn_implementation == "eager"
