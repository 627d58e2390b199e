"""Terminal tasks: equal for equal seeds, apart between splits, and provable in the real world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rollout.errors import TaskError
from rollout.reward.checks import holds
from rollout.types import Task
from worldmodel.domains.terminal import TERMINAL
from worldmodel.domains.terminal.families import FAMILIES, HELD_OUT, TRAIN
from worldmodel.domains.terminal.tasks import generate, make
from worldmodel.sandbox import Machine
from worldmodel.tasks import load, save


def test_enough_families_and_some_held_out_whole() -> None:
    assert len(TRAIN) >= 14
    assert len(HELD_OUT) >= 3
    assert not TRAIN.keys() & HELD_OUT.keys()


def test_same_arguments_same_tasks_and_splits_share_nothing() -> None:
    assert generate("train", 60, 3) == generate("train", 60, 3)
    train, heldout = generate("train", 400, 0), generate("heldout", 400, 0)
    assert not {t.seed for t in train} & {t.seed for t in heldout}
    assert not {t.id for t in train} & {t.id for t in heldout}
    assert {t.family for t in generate("family", 40, 0)} == set(HELD_OUT)


def test_no_training_task_is_a_held_out_task() -> None:
    """Same instruction and same files: that would be the same exercise under another id."""
    seen = {(t.instruction, json.dumps(t.world.state)) for t in generate("train", 2000, 0)}
    assert not [t for t in generate("heldout", 400, 1_000_003) if (t.instruction, json.dumps(t.world.state)) in seen]


def test_unknown_family_and_split_are_named() -> None:
    with pytest.raises(TaskError, match="unknown terminal family 'nope'"):
        make("nope", "train", 0, 0)
    with pytest.raises(TaskError, match="unknown split 'test'"):
        make("dedupe", "test", 0, 0)  # type: ignore[arg-type]


def test_tasks_survive_their_file(tmp_path: Path) -> None:
    tasks = generate("heldout", 48, 5)
    save(tasks, tmp_path / "tasks.jsonl")
    assert load(tmp_path / "tasks.jsonl") == tasks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row["checks"][0]["predicate"].update(kind="close"), r"checks\[0\].predicate.kind 'close'"),
        (lambda row: row["checks"][0]["predicate"].update(kind="regex", value="("), "not a regular expression"),
        (lambda row: row["checks"][0].update(probes=[]), r"checks\[0\].probes"),
        (lambda row: row.update(checks=[]), "at least one check"),
        (lambda row: row.pop("instruction"), "missing field 'instruction'"),
    ],
)
def test_a_broken_task_is_one_line_with_file_line_and_field(tmp_path: Path, change: object, message: str) -> None:
    file = tmp_path / "tasks.jsonl"
    save(generate("train", 2, 0), file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    change(rows[1])  # type: ignore[operator]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(TaskError, match=message) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}:2: ")


@pytest.mark.sandbox
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_gold_passes_and_wrong_and_empty_fail_for_real(family: str) -> None:
    split = "family" if family in HELD_OUT else "train"
    for index in range(3):
        task = make(family, split, 11, index)
        assert passes(task, task.reference.gold), f"gold fails: {task}"
        assert not passes(task, ()), f"doing nothing passes: {task}"
        for wrong in task.reference.wrong:
            assert not passes(task, wrong), f"{wrong} passes: {task}"


def passes(task: Task, actions: tuple[str, ...]) -> bool:
    with Machine(task.world.state) as machine:
        for action in actions:
            if not TERMINAL.parse(action).final:
                machine.run(action)
        return all(
            holds(check.predicate, screen.text) for check in task.checks for screen in machine.probe(check.probes)
        )
