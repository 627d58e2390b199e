"""Episodes cut by a checkpoint go on after their last whole turn, with the ids of the run that was not interrupted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rollout.events import Restored
from rollout.local_pool import LocalPool
from rollout.ray_pool import RayPool
from rollout.reward.checks import ChecksReward
from rollout.samplers.scripted import ScriptedSamplerSpec
from rollout.scheduler import SchedulerSettings
from rollout.source import RolloutSource
from rollout.store import RolloutStore, fates, lineage, read_ledger
from rollout.types import Batch, Session, Version
from rollout.worker import PoolSpec
from tests.fakes import FakeEnvironment, FakeFactory, Faults, make_tasks, save_tokenizer
from tests.source_toys import story, train

TASKS = make_tasks(5)
SETTINGS = SchedulerSettings(group_size=3, groups_per_batch=2, max_staleness=1)
SLOW = {task.id: Faults(hangs={1: 30.0}) for task in TASKS}  # every second turn outlives the test


def dice(context: str, session: Session) -> str:
    """Two turns that depend on their seeds, then done."""
    turn = context.count("<|assistant|>")
    return "done" if turn > 2 else f"set {'abc'[session.seed % 3]} {session.seed % 97}"


@dataclass(frozen=True)
class Unrepeatable:
    """Worlds that cannot go on after given turns."""

    faults: Faults = field(default_factory=Faults)

    def __call__(self, task, seed):
        return _NoWayBack(task, seed, self.faults)


class _NoWayBack(FakeEnvironment):
    async def restore(self, turns) -> bool:
        return False


@contextmanager
def source_in(
    path: Path, world, *, attempt: int = 1, pool=LocalPool, settings=SETTINGS, straggler_seconds: float = 60.0
) -> Iterator[RolloutSource]:
    chat = save_tokenizer(path / "tokenizer")
    spec = PoolSpec(1, 6, {"sim": world}, ScriptedSamplerSpec(chat, dice), chat, ChecksReward())
    store = RolloutStore(path / "rollouts", attempt)
    with pool(spec) as workers:
        yield RolloutSource(workers, TASKS, settings, store, seed=7, straggler_seconds=straggler_seconds)
    store.close()


def cut(source: RolloutSource) -> dict:
    """A snapshot while every slot is in its second turn."""
    source.publish(Version(1, 0), [])
    deadline = time.monotonic() + 20.0
    while len(source.pool.unfinished(5.0)) < source.pool.num_slots:
        assert time.monotonic() < deadline, "the episodes did not get to their second turn"
        time.sleep(0.02)
    return json.loads(json.dumps(source.snapshot()))


@pytest.mark.parametrize("pool", [LocalPool, pytest.param(RayPool, marks=pytest.mark.slow)])
def test_cut_episodes_go_on_as_if_nothing_had_happened(tmp_path: Path, pool, monkeypatch: pytest.MonkeyPatch):
    here = Path(__file__).resolve().parent
    monkeypatch.setenv("PYTHONPATH", f"{here}:{here.parent}")  # Ray workers unpickle script and world by name
    with source_in(tmp_path / "whole", FakeFactory()) as source:
        whole = story(train(source, range(3)))
    with source_in(tmp_path / "cut", FakeFactory(SLOW), pool=pool) as source:
        state = cut(source)
    assert len(state["under_way"]) == 6 and all(len(turns) == 1 for turns in state["under_way"].values())
    with source_in(tmp_path / "cut", FakeFactory(), attempt=2, pool=pool) as source:
        source.restore(state)
        assert "6 of these go on after 6 whole turns" in source.restored
        batches = train(source, range(3), attempt=2)
        source.finish()
    assert story(batches) == whole
    first = [m for g in batches[0].groups for m in g.members]
    assert all(m.timings["turns_restored"] == 1 for m in first)
    assert all(m.turns[0].completion.versions[0] == Version(1, 0) for m in first)  # tokens keep their version
    assert all(m.turns[1].completion.versions[0] == Version(2, 0) for m in first)
    assert batches[0].metrics["rollout/turns_restored"] == 6 and batches[0].metrics["rollout/turns_lost"] == 0
    ledger = read_ledger(tmp_path / "cut/rollouts", 2)
    assert isinstance(ledger[0], Restored) and ledger[0].going_on == 6
    assert all(len(found) == 1 for found in fates(lineage(tmp_path / "cut/rollouts", 2)).values())


def test_a_world_that_cannot_go_on_starts_again_and_is_counted(tmp_path: Path):
    with source_in(tmp_path / "whole", FakeFactory()) as source:
        whole = story(train(source, range(2)))
    with source_in(tmp_path / "cut", FakeFactory(SLOW)) as source:
        state = cut(source)
    with source_in(tmp_path / "cut", Unrepeatable(), attempt=2) as source:
        source.restore(state)
        batches = train(source, range(2), attempt=2)
    assert story(batches) == whole
    assert batches[0].metrics["rollout/turns_lost"] == 6 and batches[0].metrics["rollout/turns_restored"] == 0


def test_a_second_crash_before_they_ran_again_loses_no_turn(tmp_path: Path):
    with source_in(tmp_path, FakeFactory(SLOW)) as source:
        state = cut(source)
    with source_in(tmp_path, FakeFactory(SLOW), attempt=2) as source:
        source.restore(state)
        again = json.loads(json.dumps(source.snapshot()))  # nothing has been published: nothing runs yet
    assert again["under_way"] == state["under_way"]


def test_late_members_are_left_behind_after_the_grace(tmp_path: Path):
    """One of three members hangs in each group; the groups go on with two, and the trainer gets whole batches."""
    settings = SchedulerSettings(group_size=3, groups_per_batch=2, min_viable=2)

    @dataclass(frozen=True)
    class OneSlow:
        def __call__(self, task, seed):
            return _SlowMember(task, seed)

    with source_in(tmp_path, OneSlow(), settings=settings, straggler_seconds=0.3) as source:
        source.publish(Version(1, 0), [])
        batch = source.take(0, timeout=20.0)
        assert isinstance(batch, Batch)
        assert [len(group.members) for group in batch.groups] == [2, 2]
        assert batch.metrics["rollout/groups_cut"] == 2


class _SlowMember(FakeEnvironment):
    """The third of every three worlds takes for ever."""

    built = 0

    async def start(self):
        _SlowMember.built += 1
        if _SlowMember.built % 3 == 0:
            self._faults = Faults(hangs={"verify": 60.0})
        return await super().start()


def test_turns_from_before_the_cut_count_for_staleness(tmp_path: Path):
    """A group that goes on after old turns stays as old as they are."""
    with source_in(tmp_path, FakeFactory(SLOW)) as source:
        state = cut(source)
    state["scheduler"]["batches"] = 2  # as if two batches had been trained since the group was admitted
    with source_in(tmp_path, FakeFactory(), attempt=2) as source:
        source.restore(state)
        source.publish(Version(2, 2), [])
        source.finish()
    closed = fates(lineage(tmp_path / "rollouts", 2))
    assert closed["g000000"] == ["stale"] and closed["g000001"] == ["stale"]
