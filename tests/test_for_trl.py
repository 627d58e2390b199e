"""Our worlds as TRL's ``environment_factory``: its documented contract, and its real trainer on a tiny model."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rollout.errors import ConfigError
from rollout.types import Task
from tests.fakes import CHATML, FakeFactory, Faults, build_model, build_tokenizer, make_task
from worldmodel.adapters.for_trl import HOW, LOST, OVER, TrlWorlds, WorldTool, checks_pass
from worldmodel.domains import kit


def worlds(*faults: Faults, **kwargs: Any) -> tuple[TrlWorlds, list[Task]]:
    """Fake worlds, the i-th with the i-th faults."""
    tasks = [make_task(f"t{i}", value=str(i)) for i in range(max(2, len(faults)))]
    return TrlWorlds(tasks, FakeFactory({f"t{i}": fault for i, fault in enumerate(faults)}), **kwargs), tasks


def test_tasks_of_a_domain_are_done_through_the_tool_and_scored_by_their_checks() -> None:
    android = kit("android")
    tasks = android.generate("train", 3, 5)
    made = TrlWorlds(tasks)
    rows = made.rows()
    assert [row["task"] for row in rows] == [task.id for task in tasks]
    assert rows[0]["prompt"][-1]["role"] == "user" and tasks[0].instruction in str(rows[0]["prompt"])
    pool = [made(), made(), made()]
    for endings, expected in (("gold", 1.0), ("wrong", 0.0), ("empty", 0.0)):  # the pool is used again and again
        for tool, row, task in zip(pool, rows, tasks, strict=True):
            assert tool.reset(**row) == HOW
            actions = {"gold": task.reference.gold, "wrong": task.reference.wrong[0], "empty": ()}[endings]
            seen = [tool.act(action) for action in actions]
            assert all(seen) and seen[-1:] == [OVER][: len(seen)]
            assert not seen or tool.act(task.reference.gold[0]) == OVER
        assert checks_pass(pool, prompts=[], completions=[]) == [expected] * 3


def test_the_episode_ends_with_its_turns_and_what_is_no_action_is_answered() -> None:
    made, tasks = worlds()
    tool = made()
    tool.reset(**{"task": "t1", "prompt": []})
    assert tool.act("fly") == "fly: not a command" and tool.act(3) == "3: not a command"  # type: ignore[arg-type]
    assert [tool.act("get a"), tool.act("set a 1"), tool.act("get a")] == ["a: not set", OVER, OVER]
    assert tasks[1].max_turns == 4 and checks_pass([tool]) == [1.0] and checks_pass([tool]) == [None]


@pytest.mark.parametrize(
    "faults",
    [
        Faults(raises={"start": "no box"}),
        Faults(raises={0: "lost"}),
        Faults(errors={0: "lost"}),
        Faults(hangs={0: 30.0}),
        Faults(raises={"verify": "lost"}),
        Faults(hangs={"verify": 30.0}),
        Faults(undecided=("value",)),
    ],
)
def test_a_fault_has_no_reward_raises_nothing_and_the_next_episode_is_whole(faults: Faults) -> None:
    made, _ = worlds(faults, seconds=0.3)
    tool = made()
    tool.reset(task="t0")
    seen = tool.act("set a 0")
    assert seen == ("" if {"verify"} & {*faults.raises, *faults.hangs} or faults.undecided else LOST)
    assert checks_pass([tool]) == [None]
    tool.reset(task="t1")
    tool.act("set a 1")
    assert checks_pass([tool]) == [1.0]


def test_before_its_first_task_nothing_happens_and_a_task_that_is_none_is_named() -> None:
    made, _ = worlds()
    tool = made()
    assert tool.act("list") == OVER and checks_pass([tool]) == [None]
    with pytest.raises(ConfigError, match=r"no task is called 't9'; use the rows of TrlWorlds.rows\(\)"):
        tool.reset(task="t9")
    with pytest.raises(ConfigError, match="column task: no task is called ''"):
        tool.reset(prompt=[])
    with pytest.raises(ConfigError, match="trl: tasks is empty"):
        TrlWorlds([])


def test_the_class_is_what_trl_documents() -> None:
    public = [name for name, _ in inspect.getmembers(WorldTool, inspect.isfunction) if not name.startswith("_")]
    assert public == ["act", "reset"]
    pytest.importorskip("torch")
    from transformers.utils import get_json_schema

    function = get_json_schema(worlds()[0]().act)["function"]
    assert function["name"] == "act" and function["parameters"]["required"] == ["action"]
    assert function["parameters"]["properties"]["action"]["type"] == "string"


# ------------------------------------------------------------------------------------------------ the real trainer


def tokenizer() -> Any:
    """The tiny byte tokenizer with a template that TRL knows how to read tool calls from."""
    import trl

    made = build_tokenizer(CHATML)
    made.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
    return made


@pytest.mark.slow
def test_the_real_trainer_plays_our_world_and_takes_a_step(tmp_path: Path) -> None:
    """Two members of one group: the policy's words are given, the loop, the reward and the step are TRL's."""
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    (task,) = [t for t in kit("android").generate("train", 20, 1) if len(t.reference.gold) <= 4][:1]
    made, asked = TrlWorlds([task]), []

    class Given(GRPOTrainer):  # type: ignore[misc]
        def _generate_single_turn(self, prompt_ids: Sequence[list[int]], *args: Any, **kwargs: Any) -> Any:
            words = [self._say(ids, index) for index, ids in enumerate(prompt_ids)]
            ids = [self.processing_class.encode(text + "<|im_end|>") for text in words]
            return ids, None

        def _say(self, ids: list[int], index: int) -> str:
            text = self.processing_class.decode(ids)
            turn = text.count("<tool_response>")
            asked.append(text)
            if turn >= len(task.reference.gold) or (turn == 0 and index == 1):
                return "Done."
            call = {"name": "act", "arguments": {"action": task.reference.gold[turn]}}
            return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"

    model = build_model(vocab_size=260)
    model.config.max_position_embeddings = 32768
    before = {name: value.clone() for name, value in model.state_dict().items()}
    args = GRPOConfig(
        str(tmp_path), max_steps=1, per_device_train_batch_size=2, num_generations=2, learning_rate=1e-2, bf16=False,
        max_completion_length=16384, report_to=[], save_strategy="no", use_cpu=True,
        gradient_checkpointing=False, logging_steps=1,
    )  # fmt: skip
    trainer = Given(
        model=model, args=args, reward_funcs=checks_pass, processing_class=tokenizer(),
        train_dataset=Dataset.from_list(made.rows()), environment_factory=made,
    )  # fmt: skip
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["rewards/checks_pass/mean"] == 0.5 and log["tools/failure_frequency"] == 0.0
    assert task.instruction in asked[0] and HOW.strip() in asked[0]
    assert asked[-1].count("<tool_response>") == len(task.reference.gold)
    after = trainer.model.state_dict()
    assert any(not bool((before[name] == after[name].cpu()).all()) for name in before)
