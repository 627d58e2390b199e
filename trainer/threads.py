"""CPU threads of a trainer whose rollout workers share its machine.

Owns: how many torch takes. Refuses: priorities, binding to cores, other processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def cores_left(taken: int) -> Iterator[int]:
    """Within the block torch leaves ``taken`` cores to others and keeps one at least; yields its number of threads.

    Where rollouts run while the trainer trains, its OpenMP threads, which wait by spinning, otherwise stop the workers
    (Ray starts these at a lower priority), and the trainer waits for them afterwards. Changes nothing where
    OMP_NUM_THREADS says how many threads there are, or with ``taken`` 0.
    """
    before = torch.get_num_threads()
    if taken and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(before, max(1, len(os.sched_getaffinity(0)) - taken)))
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
