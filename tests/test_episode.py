"""The episode loop: token bookkeeping, stops, deadlines, faults, resume."""

from __future__ import annotations

import asyncio
import time

import pytest
from fakes import CHATML, COMPACT, FakeEnvironment, Faults, build_chat, gold_script, make_task, wrong_script
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.episode import EpisodeSettings, run_episode
from rollout.errors import SamplerFault
from rollout.reward.checks import ChecksReward
from rollout.samplers.scripted import ScriptedSampler
from rollout.types import Completion, Finish, Message, ObservationKind, Sampling, Stop, Trajectory, Version

CHATS = {name: build_chat(name) for name in (COMPACT, CHATML)}
CHAT = CHATS[COMPACT]
TASK = make_task()
QUICK = EpisodeSettings(call_timeout=5, turn_timeout=5, episode_timeout=10, verify_timeout=5, close_timeout=0.2)


async def play(script, *, task=TASK, environment=None, limits=QUICK, chat=CHAT, sampler=None, **kwargs) -> Trajectory:
    return await run_episode(
        task,
        environment or FakeEnvironment(task),
        sampler or ScriptedSampler(chat, script, logprob=-0.5),
        chat,
        ChecksReward(),
        limits,
        group=kwargs.pop("group", "g"),
        member=kwargs.pop("member", 0),
        seed=kwargs.pop("seed", 0),
        sampling=Sampling(1.0, 256),
        **kwargs,
    )


def replies(*texts: str):
    """A script that counts turns by the replies already in the context."""

    def script(context: str, session) -> str:
        opened = max(context.count("<|assistant|>"), context.count("<|im_start|>assistant"))
        return texts[min(opened, len(texts)) - 1]

    return script


async def test_gold_scores_one_and_wrong_zero() -> None:
    environment = FakeEnvironment(TASK)
    gold = await play(gold_script([TASK]), environment=environment)
    assert (gold.stop, gold.score.reward, gold.error) == (Stop.DONE, 1.0, None)
    assert environment.calls == ["set a 1", "done"] and environment.closed == 1
    assert (gold.world_id, gold.world_version) == ("fake", "fake-1")
    assert {"start", "sample", "step", "verify", "total"} <= gold.timings.keys()
    wrong = await play(wrong_script([TASK]))
    assert (wrong.stop, wrong.score.reward) == (Stop.DONE, 0.0)


words = st.text(max_size=12) | st.sampled_from(["set a 1", "get a", "list", "", "<|end|>", "set a"])


@pytest.mark.parametrize("template", CHATS)
@settings(max_examples=40, deadline=None)
@given(st.lists(words, min_size=1, max_size=4), st.integers(1, 40))
def test_contexts_and_completions_concatenate_to_what_was_read(template: str, texts: list[str], max_tokens) -> None:
    chat = CHATS[template]
    seen: list[tuple[int, ...]] = []
    inner = ScriptedSampler(chat, replies(*texts))

    async def sampler(context_ids, max_tokens, session):
        seen.append(tuple(context_ids))
        return await inner(context_ids, max_tokens, session)

    limits = EpisodeSettings(max_tokens_per_turn=max_tokens, max_context=400)
    trajectory = asyncio.run(play(None, sampler=sampler, chat=chat, limits=limits))
    assert not trajectory.stop.failed and len(seen) == len(trajectory.turns)
    ids: tuple[int, ...] = ()
    for context, turn in zip(seen, trajectory.turns, strict=True):
        ids += turn.context_ids
        assert ids == context and turn.context_ids
        ids += turn.completion.ids
        assert turn.completion.text == turn.action.text == chat.decode(turn.completion.ids)
        assert 1 <= len(turn.completion.ids) <= max_tokens
    assert len(ids) <= 400 and ids[-1] == trajectory.turns[-1].completion.ids[-1]
    # and the whole is what a fresh rendering of the same turns gives
    first, again = chat.prompt(trajectory.prompt.messages), ()
    for number, turn in enumerate(trajectory.turns):
        if number:
            before = trajectory.turns[number - 1]
            finished = before.completion.ids[-1] in chat.stop_ids
            again += chat.extend((Message("user", before.observation.text),), finished)
        again += turn.completion.ids
    assert ids == first + again


async def test_an_invalid_action_is_answered_and_the_episode_goes_on() -> None:
    trajectory = await play(replies("fly", "", "set a 1", "done"))
    kinds = [turn.observation.kind for turn in trajectory.turns]
    assert kinds[:2] == [ObservationKind.INVALID_ACTION] * 2 and kinds[2] is ObservationKind.OK
    assert trajectory.turns[0].action.error and trajectory.score.reward == 1.0


async def test_max_turns_stops_and_is_scored() -> None:
    trajectory = await play(replies("set a 1", "list"), task=make_task(max_turns=3))
    assert (trajectory.stop, len(trajectory.turns), trajectory.score.reward) == (Stop.MAX_TURNS, 3, 1.0)


async def test_a_cut_off_completion_is_still_an_action() -> None:
    limits = EpisodeSettings(max_tokens_per_turn=7)
    trajectory = await play(replies("set a 1", "done"), limits=limits)
    assert trajectory.turns[0].completion.finish is Finish.LENGTH
    assert trajectory.turns[0].action.text == "set a 1" and trajectory.score.reward == 1.0
    assert trajectory.turns[1].context_ids[0] == CHAT.stop_ids[0]  # its end of turn comes as context, unsampled


async def test_a_full_context_stops_on_a_sampled_id() -> None:
    size = len(CHAT.prompt((await FakeEnvironment(TASK).start()).messages))
    limits = EpisodeSettings(max_context=size + 9)
    trajectory = await play(replies("set a 1", "list"), limits=limits)
    assert (trajectory.stop, len(trajectory.turns), trajectory.score.reward) == (Stop.LENGTH, 1, 1.0)
    assert "max_context" in trajectory.error
    none = await play(replies("list"), limits=EpisodeSettings(max_context=size))
    assert (none.stop, none.turns, none.score.reward) == (Stop.LENGTH, (), None)


@pytest.mark.parametrize(
    ("faults", "stop", "words"),
    [
        (Faults(raises={"start": "no box"}), Stop.WORLD_ERROR, "environment.start: no box"),
        (Faults(raises={1: "box died"}), Stop.WORLD_ERROR, "environment.step: box died"),
        (Faults(errors={0: "server 500"}), Stop.WORLD_ERROR, "server 500"),
        (Faults(raises={"verify": "no probe"}), Stop.WORLD_ERROR, "environment.verify: no probe"),
        (Faults(hangs={"start": 9.0}), Stop.TIMEOUT, "for environment.start"),
        (Faults(hangs={1: 9.0}), Stop.TIMEOUT, "for environment.step"),
        (Faults(hangs={"verify": 9.0}), Stop.TIMEOUT, "for environment.verify"),
    ],
)
async def test_world_faults_end_unscored_and_the_world_is_closed(faults: Faults, stop: Stop, words: str) -> None:
    environment = FakeEnvironment(TASK, faults=faults)
    limits = EpisodeSettings(turn_timeout=0.2, episode_timeout=0.4, verify_timeout=0.2)
    trajectory = await play(gold_script([TASK]), environment=environment, limits=limits)
    assert trajectory.stop is stop and words in trajectory.error
    assert trajectory.score.reward is None and words in trajectory.score.reason
    assert environment.closed == 1


async def test_probes_are_tried_again_after_a_fault_but_steps_are_not() -> None:
    once = FakeEnvironment(TASK, faults=Faults(raises={"verify": "hiccup"}, times=1))
    assert (await play(gold_script([TASK]), environment=once)).score.reward == 1.0
    step = FakeEnvironment(TASK, faults=Faults(raises={0: "hiccup"}, times=1))
    assert (await play(gold_script([TASK]), environment=step)).stop is Stop.WORLD_ERROR
    assert step.calls == []


async def test_a_check_without_a_verdict_leaves_the_episode_unscored() -> None:
    environment = FakeEnvironment(TASK, faults=Faults(undecided=("value",)))
    trajectory = await play(gold_script([TASK]), environment=environment)
    assert (trajectory.stop, trajectory.score.reward) == (Stop.DONE, None)
    assert trajectory.score.parts == {"value": None} and "value: split" in trajectory.score.reason


@pytest.mark.parametrize("failures", [1, 2])
async def test_sampler_faults_are_retried_within_the_budget(failures: int) -> None:
    inner, calls = ScriptedSampler(CHAT, gold_script([TASK])), []

    async def sampler(context_ids, max_tokens, session):
        calls.append(session.seed)
        if len(calls) <= failures:
            raise SamplerFault("out of memory")
        return await inner(context_ids, max_tokens, session)

    trajectory = await play(None, sampler=sampler)
    assert calls[0] == calls[1] and trajectory.timings["sampler_faults"] == failures
    if failures == 1:
        assert trajectory.score.reward == 1.0
    else:
        assert trajectory.stop is Stop.SAMPLER_ERROR and trajectory.error == "out of memory"


async def test_a_sampler_that_does_not_answer_or_answers_nonsense() -> None:
    slow = ScriptedSampler(CHAT, replies("done"), latency=5)
    begun = time.monotonic()
    trajectory = await play(None, sampler=slow, limits=EpisodeSettings(call_timeout=0.1))
    assert trajectory.stop is Stop.TIMEOUT and "for the sampler" in trajectory.error
    assert time.monotonic() - begun < 4

    async def empty(context_ids, max_tokens, session):
        return Completion((), (), "", Finish.STOP, ())

    trajectory = await play(None, sampler=empty)
    assert trajectory.stop is Stop.SAMPLER_ERROR and "0 ids" in trajectory.error


async def test_a_world_that_ignores_cancellation_or_does_not_close_delays_nothing() -> None:
    class Stubborn(FakeEnvironment):
        async def step(self, action):
            for _ in range(20):
                try:
                    await asyncio.sleep(0.1)
                except asyncio.CancelledError:
                    continue
            return await super().step(action)

    limits = EpisodeSettings(turn_timeout=0.2, close_timeout=0.2)
    environment = Stubborn(TASK, faults=Faults(hangs={"close": 5.0}))
    trajectory = await play(gold_script([TASK]), environment=environment, limits=limits)
    assert trajectory.stop is Stop.TIMEOUT and environment.calls == []  # the step is still going on


async def test_a_cancelled_episode_closes_its_world() -> None:
    environment = FakeEnvironment(TASK, faults=Faults(hangs={0: 9.0}))
    running = asyncio.create_task(play(gold_script([TASK]), environment=environment))
    await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert environment.closed == 1


async def test_a_bug_in_a_world_propagates_after_the_close() -> None:
    class Buggy(FakeEnvironment):
        async def step(self, action):
            raise KeyError("oops")

    environment = Buggy(TASK)
    with pytest.raises(KeyError):
        await play(gold_script([TASK]), environment=environment)
    assert environment.closed == 1


async def test_seeds_are_a_function_of_task_group_member_and_turn() -> None:
    async def seeds(**kwargs) -> list[int]:
        inner, found = ScriptedSampler(CHAT, gold_script([TASK])), []

        async def sampler(context_ids, max_tokens, session):
            found.append((session.seed, session.id, session.temperature, session.deadline is not None))
            return await inner(context_ids, max_tokens, session)

        await play(None, sampler=sampler, **kwargs)
        assert {entry[2:] for entry in found} == {(1.0, True)} and len({entry[1] for entry in found}) == 1
        return [entry[0] for entry in found]

    base = await seeds()
    assert len(set(base)) == 2 and base == await seeds()
    others = [await seeds(member=1), await seeds(group="h"), await seeds(seed=1), await seeds(task=make_task("u"))]
    assert all(not set(base) & set(other) for other in others)


async def test_an_episode_resumed_after_a_turn_ends_as_if_uninterrupted() -> None:
    script = replies("set b 2", "get b", "set a 1", "done")
    whole = await play(script)
    for kept in range(1, 5):
        environment = FakeEnvironment(TASK)
        resumed = await play(script, environment=environment, resume=whole.turns[:kept])
        assert [t.completion for t in resumed.turns] == [t.completion for t in whole.turns]
        assert [t.context_ids for t in resumed.turns] == [t.context_ids for t in whole.turns]
        assert (resumed.stop, resumed.score.reward) == (Stop.DONE, 1.0)
        assert resumed.timings["turns_restored"] == kept and len(environment.calls) == 4 - kept


async def test_a_world_that_cannot_continue_starts_again() -> None:
    class Real(FakeEnvironment):
        async def restore(self, turns) -> bool:
            return False

    whole = await play(gold_script([TASK]))
    environment = Real(TASK)
    again = await play(gold_script([TASK]), environment=environment, resume=whole.turns[:1])
    assert environment.calls == ["set a 1", "done"] and "turns_restored" not in again.timings
    assert again.score.reward == 1.0


async def test_the_version_of_every_id_is_recorded() -> None:
    sampler = ScriptedSampler(CHAT, gold_script([TASK]), version=Version(1, 7))
    trajectory = await play(None, sampler=sampler)
    assert trajectory.oldest_version == Version(1, 7)
    sampler.update(Version(1, 8), {})
    assert (await play(None, sampler=sampler)).oldest_version == Version(1, 8)
