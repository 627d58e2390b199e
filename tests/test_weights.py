"""Weights as raw tensors: exact round trips, tied parameters once, gathers entered by every rank."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_toys import tiny_model

from trainer.weights import RawTensor, load_tensors, named_tensors, to_raw, to_torch

torch = pytest.importorskip("torch")
DTYPES = ["float32", "bfloat16", "float16", "float64", "int64", "int32", "uint8", "bool"]


@given(dtype=st.sampled_from(DTYPES), shape=st.lists(st.integers(0, 4), max_size=3), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_a_tensor_survives_the_trip_bit_by_bit(dtype: str, shape: list[int], seed: int) -> None:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(3).to(getattr(torch, dtype))
    raw = pickle.loads(pickle.dumps(to_raw(made)))
    back = to_torch(raw)
    assert raw.dtype == dtype and back.dtype == made.dtype and tuple(back.shape) == tuple(shape)
    assert torch.equal(back, made)


def test_views_are_copied_in_order_and_cast_only_if_floating() -> None:
    made = torch.arange(12.0).reshape(3, 4)
    assert torch.equal(to_torch(to_raw(made.T)), made.T)
    assert to_raw(made, "bfloat16").dtype == "bfloat16" and to_raw(torch.arange(3), "bfloat16").dtype == "int64"


def test_bytes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not hold"):
        to_torch(RawTensor(b"\0" * 7, "float32", (2,)))


def test_a_model_can_be_rebuilt_from_its_tensors() -> None:
    source, target = tiny_model(0), tiny_model(1)
    items = dict(named_tensors(source))
    assert "lm_head.weight" not in items and "model.embed_tokens.weight" in items  # tied: sent once
    load_tensors(target, items)
    ids = torch.arange(6).reshape(1, 6)
    assert torch.equal(source(ids).logits, target(ids).logits)
    items.pop("model.norm.weight")
    with pytest.raises(KeyError, match=r"model\.norm\.weight"):
        load_tensors(target, items)
    with pytest.raises(ValueError, match="shape"):
        load_tensors(target, {**dict(named_tensors(source)), "model.norm.weight": to_raw(torch.zeros(3))})


def test_every_rank_enters_every_gather_in_the_same_order() -> None:
    model = tiny_model()
    entered: dict[bool, list[int]] = {True: [], False: []}
    yielded: dict[bool, list[str]] = {}
    for sender in (True, False):

        @contextmanager
        def gather(parameters: list[Any], sender: bool = sender) -> Iterator[None]:
            entered[sender] += [id(p) for p in parameters]
            yield

        yielded[sender] = [name for name, _ in named_tensors(model, gather=gather, sender=sender)]
    assert entered[True] == entered[False] == [id(p) for p in model.parameters()]
    assert yielded[False] == [] and len(yielded[True]) >= len(entered[True])


def test_a_worker_can_unpickle_weights_without_torch() -> None:
    data = pickle.dumps(RawTensor(b"\0\0", "bfloat16", (1,)))
    code = f"import pickle, sys; raw = pickle.loads({data!r}); sys.exit('torch' in sys.modules or raw.shape != (1,))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
