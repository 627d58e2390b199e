"""Prefixes whose attention states are kept, so that a longer context computes only what is new.

Owns: finding the longest kept prefix of a context, and a byte budget (least recently used goes first).
Refuses: knowing models; states are opaque tensors. Everything is void when the weights change (``clear``).

Contexts are indexed by chained hashes of blocks of ``BLOCK`` ids, and compared id by id after a hit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BLOCK = 16


@dataclass(slots=True, eq=False)
class Prefix:
    """States after reading ``ids``.

    ``kv``: [layers, 2, heads, n, width]; ``states``: one tensor per convolution layer; ``logits``: [vocabulary],
    the prediction after the last id, where it was kept.
    """

    ids: tuple[int, ...]
    keys: tuple[int, ...]
    kv: Any
    states: tuple[Any, ...]
    logits: Any = None

    @property
    def num_bytes(self) -> int:
        tensors = [self.kv, *self.states, *([] if self.logits is None else [self.logits])]
        return sum(t.numel() * t.element_size() for t in tensors)


def block_keys(ids: Sequence[int]) -> tuple[int, ...]:
    """Chained hash after each whole block of ``ids``."""
    keys, last = [], 0
    for end in range(BLOCK, len(ids) + 1, BLOCK):
        last = hash((last, *ids[end - BLOCK : end]))
        keys.append(last)
    return tuple(keys)


class PrefixStore:
    """``divisible``: the states of a prefix contain those of each shorter one (attention does, a convolution's do
    not; then only a whole prefix can be reused)."""

    def __init__(self, budget_bytes: int, divisible: bool) -> None:
        self.divisible = divisible
        self._budget = budget_bytes
        self._used = 0
        self._prefixes: OrderedDict[int, Prefix] = OrderedDict()  # by id(), oldest first
        self._index: dict[int, list[Prefix]] = {}

    def clear(self) -> None:
        self._prefixes.clear()
        self._index.clear()
        self._used = 0

    def find(self, ids: tuple[int, ...], keys: tuple[int, ...]) -> tuple[Prefix | None, int]:
        """The kept prefix that saves most of ``ids``, and how many of its ids can be reused.

        A prefix as long as ``ids`` saves all of it only if it kept its logits; else one id is left to compute.
        """
        best: tuple[Prefix | None, int] = (None, 0)
        for depth in range(len(keys), 0, -1):
            for prefix in self._index.get(keys[depth - 1], ()):
                reusable = self._reusable(prefix, ids)
                if reusable > best[1]:
                    best = (prefix, reusable)
            if best[1]:
                break
        if best[0] is not None:
            self._prefixes.move_to_end(id(best[0]))
        return best

    def put(self, prefix: Prefix, replaces: Prefix | None = None) -> None:
        """Keep ``prefix``; drop ``replaces``, its own beginning, where the longer one serves as well."""
        size = prefix.num_bytes
        if not prefix.keys or size > self._budget:
            return
        if replaces is not None and self.divisible:
            self._drop(replaces)
        while self._used + size > self._budget:
            self._drop(next(iter(self._prefixes.values())))
        self._prefixes[id(prefix)] = prefix
        self._used += size
        for key in self._entries(prefix):
            self._index.setdefault(key, []).insert(0, prefix)

    def _entries(self, prefix: Prefix) -> tuple[int, ...]:
        return prefix.keys if self.divisible else prefix.keys[-1:]

    def _drop(self, prefix: Prefix) -> None:
        if self._prefixes.pop(id(prefix), None) is None:
            return
        self._used -= prefix.num_bytes
        for key in self._entries(prefix):
            held = self._index[key]
            held.remove(prefix)
            if not held:
                del self._index[key]

    def _reusable(self, prefix: Prefix, ids: tuple[int, ...]) -> int:
        common = common_length(prefix.ids, ids)
        if common == len(ids) == len(prefix.ids) and prefix.logits is not None:
            return common
        if self.divisible:
            return min(common, len(ids) - 1)
        return common if common == len(prefix.ids) < len(ids) else 0


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    limit = min(len(a), len(b))
    low = 0
    while low < limit:  # galloping by slices compares in C
        step = min(limit - low, 256)
        if a[low : low + step] == b[low : low + step]:
            low += step
            continue
        return low + next(i for i in range(step) if a[low + i] != b[low + i])
    return low
