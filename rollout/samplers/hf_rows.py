"""The rows of one running batch: attention states, prefill, one decoding step. Nothing here knows about requests.

Owns: the layout of the states and the calls of the model. Refuses: models whose layers are not full attention or
short convolutions (sliding windows, recurrent states), with a ``ConfigError`` that names the layer.

Layout: rows are aligned to the right. Row i occupies columns ``start[i] .. column``, all rows end at the same
``column``, and what lies left of ``start[i]`` is masked. So a position is ``column - start``, one mask serves all
layers, and batches of different age are joined by shifting columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionLayer

from rollout.errors import ConfigError
from rollout.samplers.hf_prefix import Prefix

PREFILL_TOKENS = 8192  # of one forward: more gains nothing and costs memory


@dataclass(frozen=True, slots=True)
class Shape:
    """What one id leaves behind in this model. ``attention`` and ``convolution`` are layer numbers."""

    attention: tuple[int, ...]
    convolution: tuple[int, ...]
    heads: int
    width: int
    state: tuple[int, int]  # channels, length of a convolution's state
    vocabulary: int
    dtype: torch.dtype
    device: torch.device


def probe(model: Any) -> Shape:
    """Reads two ids to learn the states of ``model``."""
    device = next(model.parameters()).device
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        ids = torch.tensor([[0, 1]], device=device)
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    attention, convolution = [], []
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            attention.append(number)
        elif type(layer) is LinearAttentionLayer and not any(layer.is_recurrent_states_initialized.values()):
            convolution.append(number)
        else:
            raise ConfigError(
                f"model type {model.config.model_type}: layer {number} keeps {type(layer).__name__}; "
                "use a model of full-attention and short-convolution layers"
            )
    keys = {tuple(cache.layers[number].keys.shape) for number in attention}
    states = {tuple(cache.layers[number].conv_states[0].shape[1:]) for number in convolution}
    if len(keys) != 1 or len(states) > 1:
        raise ConfigError(f"model type {model.config.model_type}: layers of unequal shape are not supported")
    ((_, heads, _, width),) = keys
    return Shape(
        attention=tuple(attention),
        convolution=tuple(convolution),
        heads=heads,
        width=width,
        state=states.pop() if states else (0, 0),
        vocabulary=logits.shape[-1],
        dtype=cache.layers[attention[0]].keys.dtype,
        device=device,
    )


class _Attention(DynamicLayer):
    """Writes new columns in place and shows columns ``first .. end`` of preallocated states."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.is_initialized = True
        self._all = (keys, values)  # [B, heads, capacity, width]
        self.window = (0, 0, 0)  # first column shown, first and last column written
        self.real: Tensor | None = None  # [B, 1, new, 1]; False keeps the old state (padding over a prefix)
        self.keys, self.values = keys[:, :, :0], values[:, :, :0]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        first, begin, end = self.window
        for states, new in zip(self._all, (key_states, value_states), strict=True):
            old = states[:, :, begin:end]
            old.copy_(new if self.real is None else torch.where(self.real, new, old))
        self.keys, self.values = (states[:, :, first:end] for states in self._all)
        return self.keys, self.values


class _Convolution(LinearAttentionLayer):
    """A short convolution's last inputs. Padding is on the left: the state is laid over its last columns, so that
    each row's first real input follows what that row has read before."""

    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self.conv_states[0] = state  # [B, channels, length], changed in place
        self.is_conv_states_initialized[0] = True
        self.has_previous_state[0] = True
        self.padding: Tensor | None = None  # [B]

    def update_conv_state(self, conv_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
        state = self.conv_states[0]
        full = torch.cat([state, conv_states], dim=-1)
        if self.padding is not None:
            columns = self.padding[:, None] + torch.arange(state.shape[-1], device=state.device)
            full.scatter_(2, columns[:, None].expand_as(state), state)
        state.copy_(full[..., -state.shape[-1] :])
        return full


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """States of B rows that all end at ``column``."""

    kv: Tensor  # [layers, 2, B, heads, capacity, width]
    states: tuple[Tensor, ...]  # per convolution layer [B, channels, length]
    start: Tensor  # [B]
    column: int
    logits: Tensor  # [B, vocabulary], the prediction after the last id

    @property
    def size(self) -> int:
        return self.start.shape[0]

    def select(self, indices: Tensor) -> Rows:
        """Only the rows ``indices``; columns that none of them uses are given back."""
        start = self.start[indices]
        first = int(start.min())
        return Rows(
            kv=self.kv[..., first:, :].index_select(2, indices),
            states=tuple(state.index_select(0, indices) for state in self.states),
            start=start - first,
            column=self.column - first,
            logits=self.logits.index_select(0, indices),
        )

    def prefix(self, row: int, ids: tuple[int, ...], keys: tuple[int, ...], with_logits: bool = False) -> Prefix:
        """A copy of everything row ``row`` has read, which must be ``ids``."""
        kv = self.kv[:, :, row, :, self.column - len(ids) : self.column].clone()
        states = tuple(state[row].clone() for state in self.states)
        return Prefix(ids, keys, kv, states, self.logits[row].clone() if with_logits else None)


def join(a: Rows, b: Rows, room: int) -> Rows:
    """The rows of ``a`` then those of ``b``, with ``room`` columns free for new ids."""
    column = max(a.column, b.column)
    layers, two, _, heads, _, width = a.kv.shape
    kv = a.kv.new_empty(layers, two, a.size + b.size, heads, column + room, width)
    kv[..., :column, :].zero_()
    kv[:, :, : a.size, :, column - a.column : column] = a.kv[..., : a.column, :]
    kv[:, :, a.size :, :, column - b.column : column] = b.kv[..., : b.column, :]
    return Rows(
        kv=kv,
        states=tuple(torch.cat(pair) for pair in zip(a.states, b.states, strict=True)),
        start=torch.cat([a.start + column - a.column, b.start + column - b.column]),
        column=column,
        logits=torch.cat([a.logits, b.logits]),
    )


def prefill(
    model: Any,
    shape: Shape,
    contexts: Sequence[tuple[int, ...]],
    known: Sequence[tuple[Prefix | None, int]],
    room: int,
    pad_id: int,
) -> tuple[Rows, list[int]]:
    """Reads ``contexts``, taking the first ``known[i][1]`` ids of each from a kept prefix, and leaves ``room``
    columns for new ids. Rows of similar work share a forward: returns the rows and which context each one is."""
    new = [len(ids) - count for ids, (_, count) in zip(contexts, known, strict=True)]
    order = sorted(range(len(contexts)), key=lambda i: (new[i], len(contexts[i])), reverse=True)
    rows = _loaded(shape, [contexts[i] for i in order], [known[i] for i in order], room)
    first = 0
    while first < len(order) and new[order[first]]:
        widest = new[order[first]]
        last = first + 1
        while last < len(order) and _together(new[order[last]], widest, last + 1 - first):
            last += 1
        _read(model, shape, rows, first, [contexts[i][known[i][1] :] for i in order[first:last]], pad_id)
        first = last
    return rows, order


def _together(new: int, widest: int, count: int) -> bool:
    """Whether a row with ``new`` ids to read may be padded to ``widest``, as the ``count``-th row of a forward."""
    return new > 0 and (2 * new >= widest or widest <= 32) and count * widest <= PREFILL_TOKENS


def _loaded(
    shape: Shape, contexts: Sequence[tuple[int, ...]], known: Sequence[tuple[Prefix | None, int]], room: int
) -> Rows:
    """Rows whose known prefixes are in place and whose new columns are still empty."""
    options: dict[str, Any] = {"dtype": shape.dtype, "device": shape.device}
    column = max(map(len, contexts))
    size = len(contexts)
    kv = torch.empty(len(shape.attention), 2, size, shape.heads, column + room, shape.width, **options)
    kv[..., :column, :].zero_()
    states = tuple(torch.zeros(size, *shape.state, **options) for _ in shape.convolution)
    logits = torch.zeros(size, shape.vocabulary, **options)
    for row, (ids, (prefix, count)) in enumerate(zip(contexts, known, strict=True)):
        if prefix is None:
            continue
        begin = column - len(ids)
        kv[:, :, row, :, begin : begin + count] = prefix.kv[..., :count, :]
        for state, kept in zip(states, prefix.states, strict=True):
            state[row] = kept
        if count == len(ids):
            logits[row] = prefix.logits
    start = torch.tensor([column - len(ids) for ids in contexts], device=shape.device)
    return Rows(kv, states, start, column, logits)


def _read(model: Any, shape: Shape, rows: Rows, first: int, suffixes: Sequence[tuple[int, ...]], pad_id: int) -> None:
    """One forward over the ``suffixes`` of consecutive rows from ``first``: fills their columns, states, logits."""
    here = slice(first, first + len(suffixes))
    widest = max(map(len, suffixes))
    start = rows.start[here]
    left, begin = int(start.min()), rows.column - widest
    padding = torch.tensor([widest - len(suffix) for suffix in suffixes], device=shape.device)
    ids = [[pad_id] * (widest - len(suffix)) + list(suffix) for suffix in suffixes]
    queries = torch.arange(begin, rows.column, device=shape.device)
    keys = torch.arange(left, rows.column, device=shape.device)
    mask = (keys <= queries[:, None]) & (keys >= start[:, None, None])  # [B, new, seen]
    mask |= keys == queries[:, None]  # a padding query sees itself, else its softmax is undefined
    cache = _cache(shape, replace(rows, kv=rows.kv[:, :, here], states=tuple(s[here] for s in rows.states)))
    padded = bool(padding.any())
    for layer in cache.layers:
        if isinstance(layer, _Attention):
            layer.window = (left, begin, rows.column)
            layer.real = (queries >= (begin + padding)[:, None])[:, None, :, None] if padded else None
        elif padded:
            layer.padding = padding
    output = model(
        input_ids=torch.tensor(ids, device=shape.device),
        attention_mask=mask[:, None],
        position_ids=(queries - start[:, None]).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    rows.logits[here] = output.logits[:, -1]


def _cache(shape: Shape, rows: Rows) -> Cache:
    layers: list[Any] = [None] * (len(shape.attention) + len(shape.convolution))
    for slot, number in enumerate(shape.attention):
        layers[number] = _Attention(rows.kv[slot, 0], rows.kv[slot, 1])
    for slot, number in enumerate(shape.convolution):
        layers[number] = _Convolution(rows.states[slot])
    return Cache(layers=layers)


class Decoder:
    """Feeds one id per row and step; built anew when the rows change."""

    def __init__(self, model: Any, shape: Shape, rows: Rows) -> None:
        self._model = model
        self._cache = _cache(shape, rows)
        self._attention = [layer for layer in self._cache.layers if isinstance(layer, _Attention)]
        self.rows = rows
        columns = torch.arange(rows.kv.shape[-2], device=shape.device)
        hidden = columns < rows.start[:, None]
        self._bias = torch.zeros(hidden.shape, dtype=shape.dtype, device=shape.device)
        self._bias = self._bias.masked_fill_(hidden, float("-inf"))[:, None, None]  # [B, 1, 1, capacity]

    def step(self, tokens: Tensor) -> None:
        """Feeds ``tokens`` [B]; ``rows.logits`` then predict what follows them."""
        rows = self.rows
        end = rows.column + 1
        for layer in self._attention:
            layer.window = (0, rows.column, end)
        output = self._model(
            input_ids=tokens[:, None],
            attention_mask=self._bias[..., :end],
            position_ids=(rows.column - rows.start)[:, None],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.rows = replace(rows, column=end, logits=output.logits[:, -1])
