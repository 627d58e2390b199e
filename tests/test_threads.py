"""A trainer beside rollout workers leaves them their cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from launch.config import load
from launch.train import cores_beside
from trainer.threads import cores_left

CONFIG = Path(__file__).resolve().parents[1] / "configs/quickstart.yaml"
CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def all_cores(monkeypatch: pytest.MonkeyPatch):
    """torch as it starts where nobody says how many threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(CORES)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("taken", [0, 1, CORES, CORES + 3])
def test_cores_are_left_and_one_kept(all_cores, taken: int):
    with cores_left(taken) as threads:
        assert threads == torch.get_num_threads() == max(1, CORES - taken)
    assert torch.get_num_threads() == CORES


def test_what_the_user_says_stands(all_cores, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", str(CORES))
    with cores_left(1) as threads:
        assert threads == CORES


@pytest.mark.parametrize(
    ("options", "cores"),
    [
        ([], 0),
        (["rollout.max_staleness=1"], 2),
        (["rollout.max_staleness=2", "rollout.workers=3", "rollout.threads=2"], 6),
        (["rollout.max_staleness=1", "rollout.engine=local"], 0),
    ],
)
def test_only_workers_that_run_while_the_trainer_trains_take_cores(options: list[str], cores: int):
    assert cores_beside(load(CONFIG, options)) == cores
