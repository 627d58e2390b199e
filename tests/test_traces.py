"""Collector behaviours and recorded traces."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.types import Check, Completion, Finish, Predicate, Prompt, Score, Stop, Trajectory, Turn, Version
from worldmodel.behaviours import verdict
from worldmodel.domains.terminal.behaviours import MIX, Ledger, Session, known, plan, slip, typo
from worldmodel.domains.terminal.real import TerminalEnvironment
from worldmodel.domains.terminal.tasks import generate
from worldmodel.traces import as_episode, collect_share, record, sessions


def test_sessions_do_not_depend_on_how_they_are_shared_out() -> None:
    whole = list(sessions("train", 3, 0, 30))
    assert whole[10:20] == list(sessions("train", 3, 10, 10))


def test_every_behaviour_appears_in_its_share_and_probes_cover_the_checks() -> None:
    found = list(sessions("train", 0, 0, 800))
    counts = Counter(session.behaviour for _, session in found)
    for name, share in MIX.items():
        assert abs(counts[name] / len(found) - share) < 0.06
    for task, session in found:
        assert {p for check in task.checks for p in check.probes} <= set(session.probes)


def test_slips_are_mistakes() -> None:
    rng, changed = random.Random(0), 0
    for task in generate("train", 200, 1):
        session = plan(task, rng)
        command = task.reference.gold[0]
        changed += slip(command, known(task), rng) != command
        assert all(step.strip() for step in session.steps)
    assert changed > 150


def test_ledger_names_classes_and_depth() -> None:
    task = generate("train", 1, 0, ["sort_lines"])[0]
    name = next(iter(task.world.state["files"]))
    ledger = Ledger(task)
    assert ledger.classify(f"cat {name}", "x") == ("copy", 0)
    assert ledger.classify(f"sort {name}", "x") == ("derive", 0)
    assert ledger.classify("ls", "x") == ("list", 0)
    assert ledger.classify("cat nope.txt", "cat: nope.txt: No such file or directory") == ("error", 0)
    steps = [f"sort {name} > one.txt", "head -n 1 one.txt > two.txt"]
    for step in steps:
        assert ledger.classify(step, "")[0] == "silent"
        ledger.note(step, failed=False)
    assert ledger.classify("cat one.txt", "x") == ("readback", 1)
    assert ledger.classify("cat two.txt", "x") == ("readback", 2)
    assert ledger.classify("ls", "x") == ("readback", 2)


def test_a_verdict_needs_its_probes_and_tests_each_reply() -> None:
    check = Check("c", ("cat a", "cat b"), Predicate("equals", "x"))
    assert verdict([check], {"cat a": "x", "cat b": "x"}) is True
    assert verdict([check], {"cat a": "x", "cat b": "y"}) is False
    assert verdict([check], {"cat a": "x"}) is None


def shared(one: str, two: str) -> int:
    """Length of the common beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


@given(command=st.text("ab.tx >/'*$", max_size=30), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_typo_is_one_small_change(command: str, seed: int) -> None:
    wrong = typo(command, random.Random(seed))
    assert abs(len(wrong) - len(command)) <= 4
    kept = shared(wrong, command) + shared(wrong[::-1], command[::-1])
    assert kept >= len(command) - 4


@pytest.mark.sandbox
def test_recorded_sessions_hold_what_a_world_model_needs() -> None:
    episodes = collect_share("train", 0, 0, 60)
    again = collect_share("train", 0, 0, 5)
    assert episodes[:5] == again, "the sandbox does not repeat itself"
    classes = Counter(t.command_class for e in episodes for t in e.transitions)
    assert {"silent", "error", "copy", "derive", "readback", "list"} == set(classes)
    assert sum(e.success is False for e in episodes) >= 0.4 * len(episodes)
    for episode in episodes:
        if episode.behaviour == "gold":
            assert episode.success
        probes = [t for t in episode.transitions if t.probe]
        assert probes and all(t.turn == len(episode.transitions) - len(probes) for t in probes)


@pytest.mark.sandbox
async def test_a_policy_s_trajectory_is_an_episode_like_a_recorded_one() -> None:
    task = generate("train", 1, 0, ["make_tree"])[0]
    machine = TerminalEnvironment(task)
    await machine.start()
    turns = []
    for text in (*task.reference.gold[:-1], "", "done"):
        action = machine.parse(text)
        said = Completion((2,), (0.0,), text, Finish.STOP, (Version(0, 0),))
        turns.append(Turn((1,), said, action, await machine.step(action)))
    results = await machine.verify(task.checks)
    await machine.close()
    trajectory = Trajectory(task, "g", 0, Prompt(()), tuple(turns), Stop.DONE, Score(1.0), tuple(results))
    episode = as_episode(trajectory)
    assert episode is not None and episode.success is True
    alike = record(task, Session("gold", task.reference.gold[:-1], tuple(p for c in task.checks for p in c.probes)))
    assert [dataclasses.replace(t, episode="") for t in episode.transitions] == [
        dataclasses.replace(t, episode="") for t in alike.transitions
    ]
