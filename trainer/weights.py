"""Policy weights as named raw tensors, on the way to the samplers (decision 22).

Owns: bytes + dtype + shape, the walk over a model's parameters (tied weights once, ZeRO-3 gathered one by one, LoRA
merged on the way out).
Refuses: transport (a ``WeightSink``) and versions (``trainer.grpo`` mints them). Importing it loads no torch, so a
worker can unpickle a ``RawTensor`` cheaply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.adapters import BASE, lora_layers, merged_weight, plain_model

if TYPE_CHECKING:
    import torch

Gather = Callable[[list["torch.Tensor"]], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class RawTensor:
    """Contiguous bytes in native byte order; ``dtype`` is torch's name without ``torch.`` (numpy has no bf16)."""

    data: bytes
    dtype: str
    shape: tuple[int, ...]


def to_raw(tensor: torch.Tensor, dtype: str | None = None) -> RawTensor:
    """Copy a tensor to bytes; floating tensors are cast to ``dtype`` first where one is given."""
    import torch

    value = tensor.detach()
    if dtype is not None and value.is_floating_point():
        value = value.to(getattr(torch, dtype))
    value = value.cpu().contiguous()
    name = str(value.dtype).removeprefix("torch.")
    return RawTensor(value.reshape(-1).view(torch.uint8).numpy().tobytes(), name, tuple(value.shape))


def to_torch(raw: RawTensor) -> torch.Tensor:
    """The tensor again, on the CPU, owning its memory. Raises ValueError if the bytes do not fit the shape."""
    import torch

    dtype = getattr(torch, raw.dtype)
    count = 1
    for size in raw.shape:
        count *= size
    if count * dtype.itemsize != len(raw.data):
        raise ValueError(f"{len(raw.data)} bytes do not hold a {raw.dtype} tensor of shape {raw.shape}")
    if count == 0:
        return torch.empty(raw.shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw.data), dtype=dtype).reshape(raw.shape)


def named_tensors(
    model: torch.nn.Module,
    *,
    gather: Gather | None = None,
    sender: bool = True,
    dtype: str | None = None,
) -> Iterator[tuple[str, RawTensor]]:
    """Yield (name, tensor) for every parameter and persistent buffer; tied parameters once, under their first name.

    A model with LoRA adapters yields the plain model it amounts to, one merged layer at a time and untouched itself.
    ``gather`` (ZeRO-3) must be entered by every rank in the same order, so every rank has to exhaust the iterator;
    ranks with ``sender`` False enter the gathers and yield nothing.
    """
    enter: Gather = gather or (lambda _: nullcontext())
    layers = dict(lora_layers(model))
    adapters = {f"{name}{BASE}weight": layer for name, layer in layers.items()}
    plain = plain_model(model)
    for name, parameter in plain.named_parameters():
        if name.rpartition(".lora_")[0] in layers:
            continue
        layer = adapters.get(name)
        with enter([parameter] if layer is None else list(layer.parameters())):
            if not sender:
                continue
            wanted = dtype or str(parameter.dtype).removeprefix("torch.")
            raw = to_raw(parameter, dtype) if layer is None else to_raw(merged_weight(layer), wanted)
        yield name.replace(BASE, "."), raw
    if sender:
        kept = plain.state_dict().keys()
        for name, buffer in plain.named_buffers():
            if name in kept:
                yield name.replace(BASE, "."), to_raw(buffer, dtype)


def load_tensors(model: torch.nn.Module, tensors: Mapping[str, RawTensor] | Iterable[tuple[str, RawTensor]]) -> None:
    """Write tensors into a model of the same architecture, casting to its dtypes. Raises KeyError on a name that
    is unknown or missing, ValueError on a wrong shape."""
    import torch

    items = dict(tensors.items() if isinstance(tensors, Mapping) else tensors)
    kept = model.state_dict().keys()
    targets = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in kept}
    if items.keys() != targets.keys():
        raise KeyError(f"weights do not fit the model: {sorted(items.keys() ^ targets.keys())[:4]} differ")
    with torch.no_grad():
        for name, raw in items.items():
            if tuple(targets[name].shape) != raw.shape:
                raise ValueError(f"{name}: shape {raw.shape} does not fit {tuple(targets[name].shape)}")
            targets[name].copy_(to_torch(raw))
