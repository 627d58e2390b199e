"""The contract of every domain: what has a folder under ``worldmodel/domains`` is tested here, and inherits this."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pickle
import random
import subprocess
import sys
import time
from functools import cache, partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.errors import ConfigError
from rollout.spot import replay_actions, success
from rollout.types import Check, Observation, ObservationKind, Predicate, Reference, Task
from worldmodel.domains import DomainKit, RealWorlds, kit, names
from worldmodel.environment import SimulatedEnvironment, SimulationSettings
from worldmodel.episodes import from_json, to_json
from worldmodel.prompt import compact
from worldmodel.replay import ReplayWorldModel
from worldmodel.tasks import BENCHMARK, Split
from worldmodel.traces import record_share, sessions
from worldmodel.trainable import reserved

DOMAINS = names()
# what needs set-up is heavy: make test-domains acts it out (the terminal's set-up gets a benchmark alone)
HEAVY = [name for name in DOMAINS if kit(name).setup and name != "terminal"]
LIVE = [pytest.param(name, marks=[pytest.mark.slow, pytest.mark.domain] if name in HEAVY else []) for name in DOMAINS]
CANARY = "kingfisher-7731"
SECONDS = 60.0  # for one episode
TASKS = 6  # acted out of each domain in the fast suite; a domain's own tests act out more


def here(name: str) -> DomainKit:
    """The kit, where its real environment can be started on this machine."""
    found = kit(name)
    if lacking := found.missing():
        pytest.skip(f"{name}: missing {lacking}")
    return found


def drawn(found: DomainKit, split: Split, count: int, seed: int) -> list[Task]:
    """Tasks, where what they are made of is installed."""
    try:
        return found.generate(split, count, seed)
    except ConfigError as error:
        pytest.skip(str(error))


@cache
def shown(name: str, split: Split) -> tuple[Task, ...]:
    """Sixty tasks of seed 0, every family among them: made once, where several tests look at them."""
    return tuple(drawn(kit(name), split, 60, 0))


def act(task: Task, actions: tuple[str, ...]) -> bool | None:
    """The verdict of the real world on ``actions``."""
    environment = RealWorlds()(task, 1)
    results, _ = asyncio.run(replay_actions(environment, task, actions, time.monotonic() + SECONDS))
    return success(results)


def test_a_domain_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'terminla'; did you mean terminal"):
        kit("terminla")
    assert "terminal" in DOMAINS and kit("terminal").domain.name == "terminal"


@pytest.mark.parametrize("name", DOMAINS)
def test_no_held_out_world_is_a_world_of_training(name: str) -> None:
    """Instructions may return, over other worlds: what to do is then the same, what it does is not."""

    def problem(task: Task) -> str:
        return json.dumps([task.instruction, task.world.state, task.world.secret, task.checks], default=str)

    trained = {problem(task) for task in shown(name, "train")}
    assert len(trained) == 60 and not trained & {problem(task) for task in shown(name, "heldout")}


@pytest.mark.parametrize("name", DOMAINS)
def test_a_folder_loads_without_heavy_packages(name: str) -> None:
    code = (
        "import sys; from worldmodel.domains import kit; kit(sys.argv[1]);"
        "sys.exit(any(n in sys.modules for n in ('torch', 'transformers', 'trl', 'ray', 'playwright', 'mcp')))"
    )
    assert subprocess.run([sys.executable, "-c", code, name], timeout=60).returncode == 0


@pytest.mark.parametrize("name", DOMAINS)
def test_names_agree_and_values_travel(name: str) -> None:
    found = kit(name)
    assert found.domain.name == name and pickle.loads(pickle.dumps(found.domain)) == found.domain
    assert pickle.loads(pickle.dumps(RealWorlds())) == RealWorlds()


@pytest.mark.parametrize("name", DOMAINS)
@given(text=st.one_of(st.text(max_size=300), st.binary(max_size=60).map(lambda raw: raw.decode("latin-1"))))
@settings(max_examples=200, deadline=None)
def test_any_text_is_an_action(name: str, text: str) -> None:
    domain = kit(name).domain
    action = domain.parse(text)
    assert action.text == text and (action.error is None) == bool(action.name)
    assert action.error is None or "\n" not in action.error
    assert isinstance(domain.show(action), str)


@pytest.mark.parametrize("name", DOMAINS)
def test_mangled_actions_never_raise(name: str) -> None:
    """10,000 texts near the grammar: real actions cut, doubled, spliced and with bytes changed."""
    found, rng = kit(name), random.Random(7)
    known = [text for task in drawn(found, "train", 20, 3) for text in task.reference.gold]
    for _ in range(10_000):
        text = list(rng.choice(known))
        for _ in range(rng.randrange(4)):
            place = rng.randrange(len(text) + 1)
            text[place : place + rng.randrange(3)] = rng.choice(
                ['"', "{", "}", "\0", "é", "[", "null", "-1", "1e999", " "]
            )
        if rng.random() < 0.2:
            text = text[: rng.randrange(len(text) + 1)] * rng.randrange(3)
        found.domain.show(found.domain.parse("".join(text)))


@pytest.mark.parametrize("name", DOMAINS)
def test_tasks_are_equal_for_equal_seeds_and_apart_between_splits(name: str) -> None:
    generate = partial(drawn, kit(name))
    train, heldout = shown(name, "train"), shown(name, "heldout")
    assert tuple(generate("train", 30, 0)) == train[:30] != tuple(generate("train", 30, 5))
    assert not {t.id for t in train} & {t.id for t in heldout}
    assert not {t.seed for t in train} & {t.seed for t in heldout}
    for task in (*train, *heldout):
        assert task.domain == name and task.checks and task.reference.gold and task.reference.wrong
        assert all(not kit(name).domain.parse(text).error for text in task.reference.gold)
        assert kit(name).domain.parse(task.reference.gold[-1]).final


@pytest.mark.parametrize("name", DOMAINS)
def test_tasks_do_not_depend_on_the_order_of_a_set(name: str) -> None:
    """Python orders sets of texts anew in each process, so equal seeds must be tried in two."""
    drawn(kit(name), "train", 1, 0)  # skips where what tasks are made of is not installed
    code = (
        "import hashlib, sys; from worldmodel.domains import kit;"
        "tasks = [kit(sys.argv[1]).generate(split, 30, 4) for split in ('train', 'family')];"
        "print(hashlib.sha256(repr(tasks).encode()).hexdigest())"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, name],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2", "5")
    ]
    digests = {process.communicate(timeout=100)[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0] and len(digests) == 1


@pytest.mark.parametrize("name", DOMAINS)
def test_evaluation_data_is_recognised_whatever_its_split_says(name: str) -> None:
    """By id, and a family that is held out by its name: the kit's ``held_out`` names those of the split ``family``."""
    found = kit(name)
    held, seen = shown(name, "family"), shown(name, "train")
    assert {task.family for task in held} <= set(found.held_out()), "the kit's held_out lacks a family"
    assert not {task.family for task in seen} & set(found.held_out())
    assert not any(reserved(t.domain, t.family, t.id, t.split) for t in seen)
    for task in (*held, *shown(name, "heldout")[:20]):
        assert reserved(name, "", task.id), f"ids are FAMILY-SPLIT-SEED-INDEX, not {task.id}"


@pytest.mark.parametrize("name", DOMAINS)
def test_third_party_tasks_are_marked_as_evaluation_data(name: str) -> None:
    for source, tasks in here(name).sources.items():
        try:
            first, more = tasks(2), tasks(5)
        except ConfigError as error:
            assert f"agentworld setup {name}" in str(error)  # the benchmark is not installed, its domain is
            continue
        assert 0 < len(first) <= 2 and more[: len(first)] == first and len({task.id for task in more}) == len(more)
        for task in more:
            assert task.domain == name and task.split == BENCHMARK and task.id.startswith(f"{source}/")
            assert reserved(name, task.family, task.id)


@pytest.mark.parametrize("name", DOMAINS)
def test_nothing_of_checks_or_reference_is_in_a_prompt(name: str) -> None:
    domain = kit(name).domain
    for task in drawn(kit(name), "train", 12, 1):
        marked = dataclasses.replace(
            task,
            checks=(Check(CANARY, (CANARY,), Predicate("equals", CANARY)),),
            reference=Reference((CANARY,), ((CANARY,),)),
        )
        policy = "".join(message.content for message in domain.prompt(marked).messages)
        assert task.instruction in policy and CANARY not in policy
        told = compact(domain.spec(dataclasses.replace(marked, instruction=CANARY).world))
        assert CANARY not in told and domain.spec(task.world).initial_state.strip()
        spec = domain.spec(task.world)
        assert spec.task_description and spec.action_space and spec.simulation_instruction


@pytest.mark.sandbox
@pytest.mark.parametrize("name", LIVE)
def test_gold_succeeds_and_wrong_and_empty_fail(name: str) -> None:
    found = here(name)
    for task in found.generate("heldout", TASKS, 2):
        assert act(task, task.reference.gold) is True, f"gold fails: {task.id}"
        assert act(task, found.empty) is False, f"doing nothing succeeds: {task.id}"
        for wrong in task.reference.wrong[:2]:
            assert act(task, wrong) is False, f"wrong succeeds: {task.id}: {wrong}"


@pytest.mark.parametrize("name", DOMAINS)
def test_sessions_for_traces_do_not_depend_on_how_they_are_shared_out(name: str) -> None:
    drawn(kit(name), "train", 1, 6)
    planned = list(sessions("train", 6, 0, 24, name))
    assert planned[12:20] == list(sessions("train", 6, 12, 8, name))
    for task, session in planned:
        assert task.domain == name and {p for check in task.checks for p in check.probes} <= set(session.probes)
    assert len({session.behaviour for _, session in planned}) >= 3


@pytest.mark.sandbox
@pytest.mark.parametrize("name", LIVE)
def test_recorded_sessions_are_episodes_of_the_domain(name: str) -> None:
    here(name)
    share = record_share("train", 6, 0, 6, name)
    assert not share.lost and len(share.episodes) == 6
    for episode in share.episodes:
        assert episode.domain == name and any(t.probe for t in episode.transitions)
        assert all(t.command_class for t in episode.transitions)
        assert episode.success is not None and (episode.success or episode.behaviour != "gold")
        assert from_json(json.loads(json.dumps(to_json(episode)))).meta == episode.meta


@pytest.mark.sandbox
@pytest.mark.parametrize("name", LIVE)
def test_live_worlds_answer_whatever_is_said(name: str) -> None:
    """Actions out of place and texts that are none: an observation each time, and the verdict afterwards."""
    found, rng = here(name), random.Random(11)
    tasks = found.generate("train", 6, 9)
    actions = [text for task in tasks for text in task.reference.gold if not found.domain.parse(text).final]
    junk = ["", "\0\x1b[2J", "'", "{", "[]", "null", "x" * 5000, "".join(map(chr, range(0x2500, 0x2540)))]

    async def live(task: Task) -> bool | None:
        environment = RealWorlds()(task, 3)
        try:
            await environment.start()
            for _ in range(10):
                text = rng.choice(actions if rng.random() < 0.6 else junk)
                seen = await environment.step(environment.parse(text))
                assert seen.kind is not ObservationKind.WORLD_ERROR, (text, seen.error)
                if seen.done:
                    break
            return success(await environment.verify(task.checks))
        finally:
            await environment.close()

    assert all(asyncio.run(live(task)) is not None for task in tasks)


@pytest.mark.sandbox
@pytest.mark.parametrize("name", LIVE)
def test_what_only_checks_may_ask_is_refused_to_a_policy(name: str) -> None:
    """A probe that the grammar marks reads hidden state: it is no action, in the real world and in a simulated one."""
    found = here(name)
    task = drawn(found, "train", 1, 0)[0]
    action = found.domain.parse(task.checks[0].probes[0])
    if not action.probe:
        pytest.skip(f"{name}: probes are ordinary read-only actions")

    async def asked() -> tuple[Observation, Observation]:
        real = found.real()(task, 0)
        await real.start()
        nobody = ReplayWorldModel((), found.domain.spec)
        simulated = SimulatedEnvironment(task, found.domain, nobody, SimulationSettings())
        answers = await real.step(action), await simulated.step(action)
        await real.close()
        return answers

    for seen in asyncio.run(asked()):
        assert seen.kind is ObservationKind.INVALID_ACTION and seen.text == f"{action.name} is not an action"


@pytest.mark.sandbox
@pytest.mark.parametrize("name", LIVE)
def test_what_the_policy_said_is_told_as_the_real_world_tells_it(name: str) -> None:
    """A simulator replies to such a probe without a world model: only the same reply gives the same verdict."""
    found = here(name)
    asked = [
        (task, check)
        for task in drawn(found, "train", 60, 5)
        for check in task.checks
        if all(found.told((), found.domain.parse(probe)) is not None for probe in check.probes)
    ]
    if not asked:
        pytest.skip(f"{name}: every probe of its own tasks reads the world")
    for task, check in asked[:TASKS]:
        for texts in (task.reference.gold, task.reference.wrong[-1], found.empty):
            environment = RealWorlds()(task, 1)
            results, _ = asyncio.run(replay_actions(environment, task, texts, time.monotonic() + SECONDS))
            real = next(result for result in results if result.name == check.name)
            actions = [found.domain.parse(text) for text in texts]
            told = tuple(found.told(actions, found.domain.parse(probe)) for probe in check.probes)
            assert told == real.replies, (task.id, texts)
