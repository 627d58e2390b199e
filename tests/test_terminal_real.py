"""The real terminal behind the Environment protocol."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pickle
import signal
import time

import pytest

from rollout.errors import WorldFault
from rollout.protocols import EnvFactory, Environment
from rollout.types import Check, ObservationKind, Predicate, Reference, Task, World
from worldmodel.domains.terminal.real import CONFIRM, TerminalEnvironment, TerminalFactory
from worldmodel.sandbox import Limits
from worldmodel.sandbox.link import keeper

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(60)]

TASK = Task(
    id="t", domain="terminal", family="sort", split="train", instruction="Sort a.txt into b.txt.",
    world=World({"files": {"a.txt": "b\na\n"}}),
    checks=(
        Check("sorted", ("cat b.txt",), Predicate("equals", "a\nb")),
        Check("kept", ("cat a.txt", "cat ./a.txt"), Predicate("contains", "b\na")),
    ),
    reference=Reference(), max_turns=3, seed=0,
)  # fmt: skip


async def play(environment: Environment, *texts: str) -> list[str]:
    await environment.start()
    return [(await environment.step(environment.parse(text))).text for text in texts]


async def outcome(*texts: str, task: Task = TASK, limits: Limits | None = None) -> list[bool | None]:
    environment = TerminalEnvironment(task, limits=limits)
    try:
        await play(environment, *texts)
        return [result.passed for result in await environment.verify(task.checks)]
    finally:
        await environment.close()


async def test_gold_passes_wrong_and_empty_fail() -> None:
    assert await outcome("sort a.txt > b.txt", "done") == [True, True]
    assert await outcome("sort -r a.txt > b.txt") == [False, True]
    assert await outcome("sort -o a.txt a.txt; cp a.txt b.txt") == [True, False]
    assert await outcome() == [False, True]


async def test_an_episode_through_the_protocol() -> None:
    factory: EnvFactory = pickle.loads(pickle.dumps(TerminalFactory(limits=Limits(deadline=3.0))))
    environment = factory(TASK, 7)
    prompt = await environment.start()
    assert prompt.messages[1].content == TASK.instruction
    first = await environment.step(environment.parse("cat a.txt"))
    second = await environment.step(environment.parse("cat a.txt"))
    assert (first.text, first.kind, first.done) == ("b\na", ObservationKind.OK, False)
    assert first.anchor and second.anchor and first.anchor != second.anchor
    invalid = await environment.step(environment.parse(""))
    assert (invalid.kind, invalid.done, invalid.text) == (ObservationKind.INVALID_ACTION, False, "empty command")
    assert invalid.anchor == (await environment.step(environment.parse("done"))).anchor
    final = await environment.step(environment.parse("done"))
    assert (final.done, final.text) == (True, "")
    assert await environment.restore(()) is False
    await environment.close()
    await environment.close()


async def test_what_the_action_brought_on_itself_is_scorable() -> None:
    environment = TerminalEnvironment(TASK, limits=Limits(deadline=0.5))
    texts = await play(environment, "echo a; sleep 9", "yes", "exit", "cat a.txt")
    assert texts[0] == "a\n[timed out]" and texts[1].endswith("y\n[too much output]")
    assert texts[2].endswith("[shell exited]") and texts[3] == "b\na"
    await environment.close()


async def test_a_probe_that_hangs_fails_its_check_even_where_nothing_is_expected() -> None:
    lacks = Check("clean", ("cat b.txt",), Predicate("lacks", "secret"))
    empty = Check("empty", ("cat b.txt",), Predicate("equals", "[timed out]"))
    flood = Check("flood", ("cat c",), Predicate("contains", ""))
    task = dataclasses.replace(TASK, checks=(lacks, empty, flood))
    limits = Limits(deadline=0.6)
    assert await outcome("mkfifo b.txt; ln -s /dev/zero c", task=task, limits=limits) == [False, False, False]


async def test_an_unusable_predicate_is_no_verdict() -> None:
    task = dataclasses.replace(TASK, checks=(Check("bad", ("cat a.txt",), Predicate("regex", "(")),))
    assert await outcome(task=task) == [None]


async def test_a_fault_of_the_sandbox_is_a_world_error_and_never_a_verdict() -> None:
    environment = TerminalEnvironment(TASK)
    await environment.start()
    os.kill(keeper().pid, signal.SIGKILL)
    await asyncio.sleep(0.5)  # its boxes die with it
    observation = await environment.step(environment.parse("cat a.txt"))
    assert observation.kind is ObservationKind.WORLD_ERROR and observation.error
    assert not observation.done and observation.text == ""
    with pytest.raises(WorldFault):
        await environment.verify(TASK.checks)
    await environment.close()
    assert await outcome("sort a.txt > b.txt") == [True, True]


async def test_a_broken_world_is_a_fault_at_the_start() -> None:
    task = dataclasses.replace(TASK, world=World({"files": {"a": "", "a/b": ""}}))
    environment = TerminalEnvironment(task)
    with pytest.raises(WorldFault, match="workspace"):
        await environment.start()
    await environment.close()


async def test_episodes_run_side_by_side_without_blocking_the_loop() -> None:
    environments = [TerminalEnvironment(TASK) for _ in range(8)]
    begun = time.monotonic()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    texts = await asyncio.gather(*(play(e, f"echo {i} > n", "sleep 1; cat n") for i, e in enumerate(environments)))
    ticker.cancel()
    assert [text[1] for text in texts] == [str(i) for i in range(8)]
    assert time.monotonic() - begun < 6 and ticks > 20
    await asyncio.gather(*(environment.close() for environment in environments))


async def test_a_cancelled_step_can_be_closed_at_once() -> None:
    environment = TerminalEnvironment(TASK, limits=Limits(deadline=30.0))
    await environment.start()
    step = asyncio.create_task(environment.step(environment.parse("sleep 29")))
    await asyncio.sleep(0.2)
    step.cancel()
    begun = time.monotonic()
    await environment.close()
    assert time.monotonic() - begun < 5


async def test_keystrokes_and_the_question_before_the_end() -> None:
    environment = TerminalFactory(form="keys")(TASK, 0)
    send = '[{"keystrokes": "sort a.txt > b.txt\\n", "duration": 0.5}]'
    await environment.start()
    assert (await environment.step(environment.parse(send))).text == "$ sort a.txt > b.txt\n$"
    first = await environment.step(environment.parse("[]"))
    assert (first.text, first.done) == (CONFIRM, False)
    assert not (await environment.step(environment.parse('[{"keystrokes": "", "duration": 0}]'))).done
    asked = [await environment.step(environment.parse("[]")) for _ in range(2)]
    assert [observation.done for observation in asked] == [False, True]
    assert [result.passed for result in await environment.verify(TASK.checks)] == [True, True]
    await environment.close()
