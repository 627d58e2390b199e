"""The warm start: demonstrations of mixed quality, acted out in the real world."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from launch.warm import WarmRecipe, demonstrations, shown, warm_start
from rollout.chat import load_chat
from trainer.stages import load_model
from worldmodel.domains.terminal.tasks import generate

SHIPPED = Path(__file__).parents[1] / "worldmodel" / "weights" / "terminal"


@pytest.mark.parametrize("gold", [0.0, 0.4, 1.0])
def test_the_recipe_sets_the_share_of_gold(gold: float) -> None:
    tasks = generate("train", 400, 3)
    right = sum(shown(task, WarmRecipe(gold=gold)) == task.reference.gold for task in tasks)
    assert abs(right / len(tasks) - gold) < 0.08
    assert all(shown(t, WarmRecipe(gold=gold)) in (t.reference.gold, *t.reference.wrong) for t in tasks)


@pytest.mark.sandbox
def test_a_demonstration_trains_on_actions_and_reads_real_observations() -> None:
    chat = load_chat(SHIPPED)
    tasks = generate("train", 4, 0, ["find_delete"])
    recipe = WarmRecipe(gold=1.0)
    for task, (ids, mask) in zip(tasks, demonstrations(tasks, chat, recipe), strict=True):
        assert len(ids) == len(mask)
        trained = chat.decode([i for i, m in zip(ids, mask, strict=True) if m])
        read = chat.decode([i for i, m in zip(ids, mask, strict=True) if not m])
        assert all(action in trained and f"<|assistant|>{action}" not in read for action in task.reference.gold)
        assert task.instruction in read


@pytest.mark.sandbox
def test_a_demonstration_that_is_too_long_to_train_on_is_left_out() -> None:
    chat, tasks = load_chat(SHIPPED), generate("train", 6, 0, ["find_delete"])
    every = demonstrations(tasks, chat, WarmRecipe(gold=1.0))
    middle = sorted(len(ids) for ids, _ in every)[2]
    kept = demonstrations(tasks, chat, WarmRecipe(gold=1.0, max_length=middle))
    assert kept == [row for row in every if len(row[0]) <= middle] and 3 <= len(kept) < 6


@pytest.mark.sandbox
def test_a_policy_may_begin_with_the_weights_of_its_world_model(tmp_path: Path) -> None:
    recipe = WarmRecipe(epochs=0.1, learning_rate=1e-9, from_world=True)
    warm_start(SHIPPED, generate("train", 4, 0, ["find_delete"]), tmp_path / "warm", recipe, lambda text: None)
    theirs, ours = load_model(SHIPPED).state_dict(), load_model(tmp_path / "warm").state_dict()
    assert all(torch.allclose(theirs[name], ours[name], atol=1e-6) for name in theirs)
