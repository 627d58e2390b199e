"""Evaluation data is refused wherever something is trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from launch.config import load
from launch.train import training_tasks
from launch.warm import WarmRecipe, demonstrations
from launch.world import training_episodes
from rollout.errors import TaskError
from rollout.types import Task
from tests.fakes import build_chat
from worldmodel import trainable
from worldmodel.domains.terminal.tasks import generate
from worldmodel.episodes import write_episodes
from worldmodel.tasks import BENCHMARK, save
from worldmodel.trainable import check_trainable, reserved
from worldmodel.types import Episode

TRAIN = generate("train", 3, 0)
HELDOUT, FAMILY = generate("heldout", 1, 0)[0], generate("family", 1, 0)[0]


def disguised(task: Task, **changes: str) -> Task:
    return dataclasses.replace(task, split="train", **changes)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (HELDOUT, "split is heldout"),
        (disguised(HELDOUT), "id is of the split heldout"),
        (FAMILY, "split is family"),
        (disguised(FAMILY), "id is of the split family"),
        (disguised(FAMILY, id="mine-1"), "family last_lines is held out"),
        (dataclasses.replace(TRAIN[0], split=BENCHMARK), "split is benchmark"),
        (disguised(TRAIN[0], id="bfcl/3"), "belongs to the benchmark bfcl"),
        (disguised(TRAIN[0], family="bfcl/base"), "belongs to the benchmark bfcl"),
    ],
)
def test_the_training_loader_names_file_line_and_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task, why: str
) -> None:
    monkeypatch.setattr(trainable, "_benchmarks", lambda: ("bfcl",))
    file = tmp_path / "tasks.jsonl"
    save([*TRAIN, task], file)
    (tmp_path / "c.yaml").write_text(f"run_dir: {tmp_path}/run\npolicy: {tmp_path}\ntasks: {{file: {file}}}\n")
    with pytest.raises(TaskError) as caught:
        training_tasks(load(tmp_path / "c.yaml"))
    assert f"{file}:4: task {task.id} is evaluation data" in str(caught.value) and why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_own_training_tasks_and_tasks_of_ones_own_pass(tmp_path: Path) -> None:
    mine = [dataclasses.replace(TRAIN[0], id="smith-family-notes", family="mine", split="mine")]
    check_trainable([*TRAIN, *mine, dataclasses.replace(mine[0], domain="of my own")])
    assert reserved("terminal", "mine", "heldout-1") == ""


def test_no_demonstration_and_no_trace_of_a_held_out_task(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=f"^task {HELDOUT.id} is evaluation data"):
        demonstrations([*TRAIN, HELDOUT], build_chat(), WarmRecipe())
    episodes = [
        Episode(f"e{n}", task.id, task.domain, task.family, "gold", task.world, (), True)
        for n, task in enumerate((TRAIN[0], disguised(HELDOUT)))
    ]
    write_episodes(tmp_path / "good", episodes[:1], {})
    write_episodes(tmp_path / "bad", episodes, {})
    assert training_episodes(tmp_path / "good") == episodes[:1]
    with pytest.raises(TaskError, match=f"bad/episodes.jsonl:2: task {HELDOUT.id} is evaluation data"):
        training_episodes(tmp_path / "bad")
