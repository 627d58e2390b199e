"""The rollout source: whole batches, budgets, spot check, resume; everything real but world and policy."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes import FakeEnvironment, FakeFactory, Faults, make_tasks, save_tokenizer
from pydantic import ValidationError

from rollout.config import RolloutConfig
from rollout.errors import CheckpointError, ConfigError
from rollout.events import FaultKind, GroupClosed, MemberArrived, MemberFault, Restored
from rollout.local_pool import LocalPool
from rollout.reward.checks import ChecksReward
from rollout.samplers.scripted import ScriptedSamplerSpec
from rollout.scheduler import SchedulerSettings
from rollout.source import RolloutSource, TaskFeed
from rollout.spot import SpotCheck, SpotSettings, at_least
from rollout.store import RolloutStore, fates, lineage, read_ledger, read_trajectories
from rollout.types import Action, Batch, Failure, Observation, Session, Version
from rollout.worker import PoolSpec
from tests.source_toys import story, train

TASKS = make_tasks(5)
SETTINGS = SchedulerSettings(group_size=3, groups_per_batch=2)


def coin(context: str, session: Session) -> str:
    """Right or wrong by the call's seed, then done."""
    if context.count("<|assistant|>") > 1:
        return "done"
    number = session.id.split("/")[0].removeprefix("t")
    return f"set a {number}" if session.seed % 2 else "set a x"


@dataclass(frozen=True)
class ForgetfulFactory:
    """A world in which nothing that is set stays set."""

    faults: Faults = field(default_factory=Faults)

    def __call__(self, task, seed):
        return ForgetfulWorld(task, seed, self.faults)


class ForgetfulWorld(FakeEnvironment):
    async def step(self, action: Action) -> Observation:
        observation = await super().step(action)
        self.state.clear()
        return observation


@contextmanager
def source_in(
    path: Path, *, attempt: int = 1, tasks=TASKS, settings=SETTINGS, spot=None, seed: int = 0, worlds=None, script=None
) -> Iterator[RolloutSource]:
    chat = save_tokenizer(path / "tokenizer")
    worlds = worlds or {"sim": FakeFactory(), "real": FakeFactory()}
    spec = PoolSpec(1, 4, worlds, ScriptedSamplerSpec(chat, script or coin), chat, ChecksReward())
    store = RolloutStore(path / "rollouts", attempt)
    with LocalPool(spec) as pool:
        yield RolloutSource(pool, tasks, settings, store, seed=seed, spot=spot)
    store.close()


def test_batches_are_whole_and_in_the_store(tmp_path: Path):
    with source_in(tmp_path) as source:
        batches = train(source, range(3))
        source.finish()
    assert [batch.version for batch in batches] == [Version(1, 0), Version(1, 1), Version(1, 2)]
    assert all([m.member for m in g.members] == [0, 1, 2] for b in batches for g in b.groups)
    assert all(m.oldest_version == b.version for b in batches for g in b.groups for m in g.members)
    stored = list(read_trajectories(tmp_path / "rollouts/attempt_001/step_000001.jsonl.gz"))
    trained = [m for g in batches[1].groups for m in g.members]
    assert sorted(stored, key=lambda t: (t.group, t.member)) == trained
    counted = Counter(fate for (fate,) in fates(lineage(tmp_path / "rollouts", 1)).values())
    assert counted == {"trained": 6, "stale": 2}  # the last publication admitted one batch more


def test_metrics_say_what_the_batch_was(tmp_path: Path):
    with source_in(tmp_path) as source:
        (batch,) = train(source, range(1))
    rewards = [m.score.reward for g in batch.groups for m in g.members]
    metrics = batch.metrics
    assert metrics["rollout/reward_mean"] == pytest.approx(sum(rewards) / 6)
    assert 0 < sum(rewards) < 6
    assert metrics["rollout/turns_mean"] == 2.0 and metrics["rollout/stop/done"] == 6
    assert metrics["rollout/generated_tokens"] == sum(
        len(t.completion.ids) for g in batch.groups for m in g.members for t in m.turns
    )
    assert metrics["rollout/scorable_frac"] == 1.0 and metrics["sample/staleness_max"] == 0
    assert metrics["perf/generated_tok_s"] > 0 and metrics["perf/rollout_wait_s"] > 0


def test_take_waits_no_longer_than_told(tmp_path: Path):
    slow = FakeFactory({task.id: Faults(hangs={"start": 0.4}) for task in TASKS})
    with source_in(tmp_path, worlds={"sim": slow}) as source:
        source.publish(Version(1, 0), [])
        assert source.take(0, timeout=0.05) is None
        assert isinstance(source.take(0, timeout=20.0), Batch)


def fails(context: str, session: Session) -> str:
    return "done"


def wait_for_events(source: RolloutSource, kind: type, count: int) -> None:
    """Until the ledger has ``count`` of them, without a call on the source."""
    deadline = time.monotonic() + 20.0
    while sum(isinstance(event, kind) for event in read_ledger(source.store.root, 1)) < count:
        assert time.monotonic() < deadline, "results lie in the pool until the trainer asks"
        time.sleep(0.01)


def test_groups_are_replaced_while_the_trainer_trains(tmp_path: Path):
    """All groups have one reward: two are filtered and replaced although nobody has asked for the batch."""
    settings = SchedulerSettings(3, 2, max_filtered=2)
    with source_in(tmp_path, settings=settings, script=fails) as source:
        source.publish(Version(1, 0), [])
        wait_for_events(source, MemberArrived, 12)
        closed = [event.fate.value for event in read_ledger(tmp_path / "rollouts", 1) if isinstance(event, GroupClosed)]
        assert closed == ["filtered", "filtered"]
        assert isinstance(source.take(0, timeout=0.0), Batch)


def test_a_world_that_is_down_is_not_asked_without_end_while_the_trainer_trains(tmp_path: Path):
    down = FakeFactory({task.id: Faults(raises={"start": "box busy"}) for task in TASKS})
    budgets = dict.fromkeys(FaultKind, 50) | {FaultKind.WORLD: 10}
    with source_in(tmp_path, settings=SchedulerSettings(3, 2, budgets=budgets), worlds={"sim": down}) as source:
        source.publish(Version(1, 0), [])
        wait_for_events(source, MemberFault, 11)
        time.sleep(0.5)
        assert 10 < source.scheduler.fault_totals[FaultKind.WORLD] < 30
        failure = source.take(0, timeout=0.0)
        assert isinstance(failure, Failure) and "box busy" in failure.reason


def test_a_disk_that_takes_no_more_while_the_trainer_trains_ends_the_run(tmp_path: Path, caplog):
    with source_in(tmp_path) as source:
        source.store.add = full_disk  # type: ignore[method-assign]
        source.publish(Version(1, 0), [])
        deadline = time.monotonic() + 20.0
        while (failure := source.take(0, timeout=0.0)) is None:  # which takes in no result itself
            assert time.monotonic() < deadline, "results lie in the pool until the trainer waits"
            time.sleep(0.01)
        assert isinstance(failure, Failure) and "No space left" in failure.reason
    assert "full_disk" in caplog.text, "the log has no traceback"


def full_disk(step, trajectory):
    raise OSError(28, "No space left on device")


def test_weights_come_first(tmp_path: Path):
    with source_in(tmp_path) as source:
        failure = source.take(0, timeout=5.0)
        assert isinstance(failure, Failure) and "no weights were published" in failure.reason


def test_faults_are_retried_and_counted(tmp_path: Path):
    flaky = FakeFactory({"t1": Faults(raises={"start": "box busy"})})
    settings = SchedulerSettings(3, 2, member_retries=1)
    with source_in(tmp_path, settings=settings, worlds={"sim": flaky}) as source:
        batches = train(source, range(2))
        source.finish()
    assert all(g.task_id != "t1" for b in batches for g in b.groups)
    assert source.scheduler.fault_totals[FaultKind.WORLD] >= 4
    failed = [group for group, (fate,) in fates(lineage(tmp_path / "rollouts", 1)).items() if fate == "failed"]
    assert failed


def test_a_spent_budget_ends_the_run_with_its_causes(tmp_path: Path):
    down = FakeFactory({task.id: Faults(errors={0: "connection refused by 127.0.0.1:1"}) for task in TASKS})
    budgets = dict.fromkeys(FaultKind, 50) | {FaultKind.WORLD: 3}
    with source_in(tmp_path, settings=SchedulerSettings(3, 2, budgets=budgets), worlds={"sim": down}) as source:
        source.publish(Version(1, 0), [])
        failure = source.take(0, timeout=20.0)
        assert isinstance(failure, Failure) and not failure.retryable
        assert "world faults" in failure.reason and "connection refused by 127.0.0.1:1" in failure.reason
        assert "\n" not in failure.reason
        assert source.take(0, timeout=0.1) == failure


def test_a_bug_ends_the_run_at_once(tmp_path: Path):
    with source_in(tmp_path, worlds={"sim": broken_factory}) as source:
        source.publish(Version(1, 0), [])
        failure = source.take(0, timeout=20.0)
        assert isinstance(failure, Failure) and "ZeroDivisionError" in failure.reason


def broken_factory(task, seed):
    raise ZeroDivisionError("planted")


def test_honest_simulators_pass_the_spot_check(tmp_path: Path):
    with source_in(tmp_path, spot=SpotSettings(share=1.0, minimum=3)) as source:
        batch = train(source, range(4))[-1]
    assert batch.metrics["world/spot_replays"] > 5
    assert (batch.metrics["world/spot_agreement"], batch.metrics["world/spot_false_positive"]) == (1.0, 0.0)


def test_a_simulator_that_pays_for_failures_ends_the_run(tmp_path: Path):
    worlds = {"sim": FakeFactory(), "real": ForgetfulFactory()}
    with source_in(tmp_path, spot=SpotSettings(share=1.0, minimum=3), worlds=worlds) as source:
        source.publish(Version(1, 0), [])
        found = None
        for step in range(20):
            found = source.take(step, timeout=20.0)
            if isinstance(found, Failure):
                break
            source.settle(step)
            source.publish(Version(1, step + 1), [])
        assert isinstance(found, Failure)
        assert found.where == "spot check" and "(100%, limit 20%, rollout.spot_limit)" in found.reason


def test_a_real_world_that_cannot_start_does_not_pass_in_silence(tmp_path: Path):
    broken = FakeFactory({task.id: Faults(raises={"start": "no bubblewrap"}) for task in TASKS})
    budgets = dict.fromkeys(FaultKind, 50) | {FaultKind.WORLD: 3}
    settings = SchedulerSettings(3, 2, budgets=budgets)
    worlds = {"sim": FakeFactory(), "real": broken}
    with source_in(tmp_path, spot=SpotSettings(share=1.0), settings=settings, worlds=worlds) as source:
        source.publish(Version(1, 0), [])
        found = None
        for step in range(20):
            found = source.take(step, timeout=20.0)
            if isinstance(found, Failure):
                break
            source.settle(step)
            source.publish(Version(1, step + 1), [])
        assert isinstance(found, Failure) and "spot check" in found.reason and "no bubblewrap" in found.reason


def test_the_spot_gate_needs_its_minimum_and_forgets():
    check = SpotCheck(SpotSettings(limit=0.5, minimum=6, window=6))
    for _ in range(5):
        check.add(True, False)
    check.add(None, False)
    check.add(False, False)  # a simulated failure is no false positive
    assert check.over_limit() is None and check.false_positive == 1.0
    check.add(True, False)
    assert "6 of the last 6" in check.over_limit()
    copy = SpotCheck(check.settings)
    copy.restore(json.loads(json.dumps(check.snapshot())))
    assert copy.over_limit() == check.over_limit()
    for _ in range(2):
        check.add(True, True)
    assert check.over_limit() is None


def test_the_spot_gate_waits_for_more_than_chance():
    """At the limit itself, 5 or more failures in 20 come up 37 times in 100; 8 or more, 3 times."""
    for failures, stops in ((5, False), (7, False), (8, True)):
        check = SpotCheck(SpotSettings())
        for number in range(20):
            check.add(True, number >= failures)
        assert (check.over_limit() is not None) == stops, failures
    assert at_least(5, 20, 0.2) == pytest.approx(0.3704, abs=1e-4)
    assert at_least(8, 20, 0.2) == pytest.approx(0.0321, abs=1e-4)


def test_a_resumed_run_tells_the_same_story(tmp_path: Path):
    with source_in(tmp_path / "whole") as source:
        whole = story(train(source, range(6)))
    with source_in(tmp_path / "cut") as source:
        first = train(source, range(3))
        state = json.loads(json.dumps(source.snapshot()))  # groups of step 3 are under way
        train(source, range(3, 5), publish_first=False)  # void: the crash comes before the next checkpoint
    with source_in(tmp_path / "cut", attempt=2) as source:
        source.restore(state)
        second = train(source, range(3, 6), attempt=2)
        source.finish()
    assert story(first) + story(second) == whole
    events = lineage(tmp_path / "cut/rollouts", 2)
    assert Counter(fate for (fate,) in fates(events).values()) == {"trained": 12, "stale": 2}
    assert isinstance(read_ledger(tmp_path / "cut/rollouts", 2)[0], Restored)
    assert len(read_ledger(tmp_path / "cut/rollouts", 1)) > state["ledger_lines"]  # there was something to leave out


def test_finished_groups_come_back_from_the_store(tmp_path: Path):
    with source_in(tmp_path) as source:
        source.publish(Version(1, 0), [])
        batch = source.take(0, timeout=20.0)
        state = source.snapshot()  # handed over, but no optimiser step was made
    with source_in(tmp_path, attempt=2) as source:
        source.restore(state)
        source.publish(Version(2, 0), [])
        again = source.take(0, timeout=0.0)
        assert isinstance(batch, Batch) and isinstance(again, Batch)
        assert again.groups == batch.groups


def test_asynchronous_batches_stay_within_the_bound(tmp_path: Path):
    settings = SchedulerSettings(3, 2, max_staleness=2)
    with source_in(tmp_path, settings=settings) as source:
        batches = train(source, range(8))
        source.finish()
    ages = [b.step - m.oldest_version.step for b in batches for g in b.groups for m in g.members]
    assert max(ages) == 2 and min(ages) >= 0
    assert all(len(found) == 1 for found in fates(lineage(tmp_path / "rollouts", 1)).values())


def test_other_tasks_are_refused_on_resume(tmp_path: Path):
    with source_in(tmp_path) as source:
        state = source.snapshot()
    with (
        source_in(tmp_path, attempt=2, tasks=TASKS[:3]) as source,
        pytest.raises(CheckpointError, match="other training tasks"),
    ):
        source.restore(state)


def test_a_world_that_is_not_there_is_named(tmp_path: Path):
    with (
        pytest.raises(ConfigError, match="no world named 'real' among sim"),
        source_in(tmp_path, spot=SpotSettings(), worlds={"sim": FakeFactory()}),
    ):
        pass


def test_the_feed_visits_every_task_once_per_epoch():
    ids = [f"t{n}" for n in range(7)]
    feed = TaskFeed(ids, seed=3)
    epochs = [[feed(7 * epoch + n) for n in range(7)] for epoch in range(6)]
    assert all(sorted(epoch) == ids for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [TaskFeed(ids, seed=3)(n) for n in (20, 3, 41)] == [feed(n) for n in (20, 3, 41)]
    with pytest.raises(ConfigError, match="no training task"):
        TaskFeed([], 0)
    with pytest.raises(ConfigError, match="the id t0"):
        TaskFeed(["t0", "t1", "t0"], 0)


def test_config_reaches_the_settings():
    config = RolloutConfig(
        max_staleness=2, temperature=1, spot_share=0.5, budgets={"world": 7, "window": 9}, max_turns=2
    )
    scheduler = config.scheduler(total_batches=4)
    assert (scheduler.max_staleness, scheduler.total_batches, scheduler.budget_window) == (2, 4, 9)
    assert scheduler.budgets[FaultKind.WORLD] == 7 and set(scheduler.budgets) == set(FaultKind)
    assert config.sampling.temperature == 1.0 and config.spot.share == 0.5
    assert RolloutConfig(spot_share=0.0).spot is None
    assert [task.max_turns for task in config.capped(TASKS)] == [2] * 5


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"slotz": 3}, "slotz"),
        ({"temperature": 0.0}, "temperature"),
        ({"workers": "two"}, "workers"),
        ({"max_tokens": 2000}, "no room for a prompt"),
        ({"call_timeout": 1e6}, "timeouts must not shrink"),
        ({"budgets": {"wrold": 3}}, "wrold"),
    ],
)
def test_config_refuses(wrong, says):
    with pytest.raises(ValidationError, match=says):
        RolloutConfig(**wrong)


def test_config_and_source_load_without_torch_or_ray():
    code = (
        "import sys, rollout.config, rollout.source, rollout.local_pool, rollout.ray_pool, rollout.store;"
        "sys.exit(', '.join({'torch', 'ray', 'trl', 'transformers'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 0, done.stderr
