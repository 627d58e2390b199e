"""The scheduler: one fate per group, the staleness bound, budgets; also across crashes and resumes."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.errors import BudgetSpent
from rollout.events import Cancel, Event, Fate, FaultKind, GroupClosed, GroupHanded, GroupIssued, Submit
from rollout.scheduler import Outcome, Ready, Scheduler, SchedulerSettings
from rollout.types import Version


def make(**kwargs) -> Scheduler:
    options = {"group_size": 2, "groups_per_batch": 2, **kwargs}
    return Scheduler(SchedulerSettings(**options), seed=0, task_of=lambda n: f"t{n % 5}")


def begin(scheduler: Scheduler, step: int = 0) -> list[Submit]:
    scheduler.publish(Version(1, step))
    scheduler.admit()
    return submits(scheduler)


def submits(scheduler: Scheduler) -> list[Submit]:
    return [command for command in scheduler.drain()[0] if isinstance(command, Submit)]


def good(scheduler: Scheduler, job: Submit, reward: float | None = None) -> bool:
    value = float(job.member % 2) if reward is None else reward
    return scheduler.report(job.group, job.member, job.tries, Outcome(f"{job.group}/{job.member}", value))


def closed(events: list[Event]) -> dict[str, Fate]:
    return {event.group: event.fate for event in events if isinstance(event, GroupClosed)}


def test_nothing_is_issued_before_weights_are_published():
    scheduler = make()
    scheduler.admit()
    assert scheduler.drain() == ([], [])


def test_synchronous_admission_is_one_batch_per_version():
    scheduler = make()
    jobs = begin(scheduler)
    assert len(jobs) == 4
    assert len({job.seed for job in jobs}) == 4
    for job in jobs:
        assert scheduler.take(0) is None
        assert good(scheduler, job)
    batch = scheduler.take(0)
    assert [ready.group for ready in batch] == ["g000000", "g000001"]
    assert batch[0].refs == ("g000000/0", "g000000/1")
    scheduler.admit()
    assert submits(scheduler) == []  # the next version is not there yet
    scheduler.settle(0)
    scheduler.admit()
    assert submits(scheduler) == []
    assert len(begin(scheduler, 1)) == 4
    assert scheduler.fates[Fate.TRAINED] == 2


def test_take_repeats_a_batch_until_it_is_settled():
    scheduler = make()
    for job in begin(scheduler):
        good(scheduler, job)
    assert scheduler.take(0) == scheduler.take(0)
    with pytest.raises(ValueError, match="settled"):
        scheduler.take(1)
    with pytest.raises(ValueError, match="settle\\(7\\)"):
        scheduler.settle(7)


def test_asynchronous_admission_runs_ahead_and_drops_the_stale():
    scheduler = make(max_staleness=1)
    jobs = begin(scheduler)
    assert len(jobs) == 8  # two batches under version 0
    slow = [job for job in jobs if job.group == "g000000"]
    for job in jobs:
        if job not in slow:
            good(scheduler, job)
    batch = scheduler.take(0)
    assert [ready.group for ready in batch] == ["g000001", "g000002"]
    scheduler.settle(0)
    jobs = begin(scheduler, 1)
    assert {job.group for job in jobs} == {"g000004", "g000005"}
    for job in jobs:
        good(scheduler, job)
    batch = scheduler.take(1)
    assert [(ready.group, ready.staleness) for ready in batch] == [("g000003", 1), ("g000004", 0)]
    scheduler.settle(1)
    scheduler.drain()
    scheduler.publish(Version(1, 2))
    commands, events = scheduler.drain()
    assert closed(events) == {"g000000": Fate.STALE}
    assert commands == [Cancel("g000000", (0, 1))]
    assert not good(scheduler, slow[0])


def test_staleness_counts_the_oldest_token():
    scheduler = make(max_staleness=2, groups_per_batch=1)
    jobs = begin(scheduler)
    for job in jobs[:4]:
        good(scheduler, job)
    scheduler.take(0)
    scheduler.settle(0)
    scheduler.publish(Version(1, 1))
    for job in jobs[4:]:  # began under version 0, ended under version 1
        scheduler.report(job.group, job.member, 0, Outcome("r", float(job.member), oldest=Version(1, 0)))
    scheduler.take(1)
    scheduler.settle(1)
    scheduler.publish(Version(1, 2))
    (ready,) = scheduler.take(2)
    assert (ready.group, ready.staleness) == ("g000002", 2)


def test_redundant_members_are_dropped_by_arrival():
    scheduler = make(redundancy=1, groups_per_batch=1)
    jobs = begin(scheduler)
    assert len(jobs) == 3
    good(scheduler, jobs[2], 1.0)
    good(scheduler, jobs[0], 0.0)
    commands, _ = scheduler.drain()
    assert commands == [Cancel("g000000", (1,))]
    assert not good(scheduler, jobs[1])
    (ready,) = scheduler.take(0)
    assert ready.refs == ("g000000/0", "g000000/2")


def test_faulty_members_run_again_with_another_seed():
    scheduler = make(groups_per_batch=1)
    first, second = begin(scheduler)
    good(scheduler, second)
    fault = Outcome(fault=FaultKind.WORLD, cause="box down")
    assert scheduler.report(first.group, 0, 0, fault)
    (again,) = submits(scheduler)
    assert (again.member, again.tries) == (0, 1) and again.seed != first.seed
    assert not scheduler.report(first.group, 0, 0, Outcome("late", 1.0))  # the earlier try
    good(scheduler, again)
    assert len(scheduler.take(0)) == 1


def test_a_member_out_of_retries_is_masked_if_it_left_a_trajectory():
    scheduler = make(groups_per_batch=1, group_size=3, member_retries=0)
    jobs = begin(scheduler)
    scheduler.report(jobs[0].group, 0, 0, Outcome("torn", 1.0, fault=FaultKind.TIMEOUT, cause="slow"))
    good(scheduler, jobs[1])
    good(scheduler, jobs[2])
    (ready,) = scheduler.take(0)
    assert ready.refs == ("torn", "g000000/1", "g000000/2")


def test_a_group_that_cannot_be_complete_fails_and_is_replaced():
    scheduler = make(groups_per_batch=1, member_retries=0)
    jobs = begin(scheduler)
    scheduler.report(jobs[0].group, 0, 0, Outcome(fault=FaultKind.WORKER, cause="killed"))
    commands, events = scheduler.drain()
    assert closed(events) == {"g000000": Fate.FAILED}
    assert commands == [Cancel("g000000", (1,))]
    scheduler.admit()
    assert {job.group for job in submits(scheduler)} == {"g000001"}


def test_a_group_without_two_rewards_fails_and_counts():
    scheduler = make(groups_per_batch=1)
    jobs = begin(scheduler)
    scheduler.report(jobs[0].group, 0, 0, Outcome("a", None))
    scheduler.report(jobs[1].group, 1, 0, Outcome("b", 1.0))
    assert closed(scheduler.drain()[1]) == {"g000000": Fate.FAILED}
    assert scheduler.fault_totals[FaultKind.UNSCORABLE] == 1


def test_zero_variance_groups_are_replaced_up_to_the_limit():
    scheduler = make(groups_per_batch=1, max_filtered=2)
    jobs = begin(scheduler)
    for _ in range(2):
        for job in jobs:
            good(scheduler, job, 0.0)
        assert scheduler.take(0) is None
        scheduler.admit()
        jobs = submits(scheduler)
    for job in jobs:
        good(scheduler, job, 0.0)
    (ready,) = scheduler.take(0)
    assert ready.group == "g000002"
    assert scheduler.fates[Fate.FILTERED] == 2


def test_budget_names_the_kind_and_the_last_causes():
    budgets = dict.fromkeys(FaultKind, 50) | {FaultKind.SAMPLER: 2}
    scheduler = make(groups_per_batch=4, budgets=budgets)
    for number, job in enumerate(begin(scheduler)[:3]):
        scheduler.check_budgets()
        scheduler.report(job.group, job.member, 0, Outcome(fault=FaultKind.SAMPLER, cause=f"server {number} is down"))
    with pytest.raises(BudgetSpent, match=r"sampler faults: 3 .*2 allowed.*server 0 is down.*server 2 is down"):
        scheduler.check_budgets()


def test_old_faults_leave_the_budget_window():
    scheduler = make(groups_per_batch=20, budget_window=10, budgets=dict.fromkeys(FaultKind, 1))
    jobs = begin(scheduler)
    for number, job in enumerate(jobs):
        if number in (0, 20):
            scheduler.report(job.group, job.member, 0, Outcome(fault=FaultKind.WORLD, cause="x"))
        else:
            good(scheduler, job)
        scheduler.check_budgets()
    assert scheduler.fault_totals[FaultKind.WORLD] == 2


def test_no_group_is_issued_beyond_the_run():
    scheduler = make(total_batches=1)
    for job in begin(scheduler):
        good(scheduler, job)
    scheduler.take(0)
    scheduler.settle(0)
    assert begin(scheduler, 1) == []


def test_restore_runs_open_members_again_and_keeps_finished_ones():
    scheduler = make()
    jobs = begin(scheduler)
    for job in jobs[:3]:
        good(scheduler, job)
    state = json.loads(json.dumps(scheduler.snapshot()))
    resumed = make()
    assert resumed.restore(state) == (1, 1)
    assert set(resumed.refs()) == {"g000000/0", "g000000/1", "g000001/0"}
    resumed.admit()
    assert submits(resumed) == []  # workers have no weights yet
    assert begin(resumed, 0) == [jobs[3]]  # same member, same seed
    good(resumed, jobs[3])
    assert [ready.group for ready in resumed.take(0)] == ["g000000", "g000001"]


def test_restore_after_a_handover_hands_the_batch_over_again():
    scheduler = make()
    for job in begin(scheduler):
        good(scheduler, job)
    batch = scheduler.take(0)
    resumed = make()
    resumed.restore(scheduler.snapshot())
    assert begin(resumed, 0) == []
    assert resumed.take(0) == batch


# ------------------------------------------------------------------------------------------------ random schedules


def test_a_group_goes_on_without_its_late_members():
    scheduler = make(group_size=4, groups_per_batch=1, min_viable=2)
    jobs = begin(scheduler)
    good(scheduler, jobs[2], 1.0)
    assert not scheduler.cut("g000000"), "one member is no group"
    good(scheduler, jobs[0], 0.0)
    assert scheduler.take(0) is None and scheduler.cut("g000000") and not scheduler.cut("g000000")
    commands, _ = scheduler.drain()
    assert commands == [Cancel("g000000", (1, 3))]
    (ready,) = scheduler.take(0)
    assert ready.refs == ("g000000/0", "g000000/2")
    assert not good(scheduler, jobs[1]), "what comes later is not waited for any more"
    assert not make().cut("g000000")


@dataclass
class Run:
    """A trainer and a pool around the scheduler, driven by ``rng``: crashes at any point, resumes from a snapshot."""

    rng: random.Random
    settings: SchedulerSettings
    attempt: int = 1
    step: int = 0
    ledger: list[Event] = field(default_factory=list)  # of the lineage
    jobs: dict[tuple[str, int], Submit] = field(default_factory=dict)
    trained: list[tuple[int, tuple[Ready, ...]]] = field(default_factory=list)
    saved: tuple[dict, int, int, int] | None = None  # snapshot, step, ledger length, batches

    def __post_init__(self) -> None:
        self.scheduler = self.fresh()
        self.publish()

    def fresh(self) -> Scheduler:
        return Scheduler(self.settings, 0, lambda n: f"t{n % 3}")

    def publish(self) -> None:
        self.scheduler.publish(Version(self.attempt, self.step))
        self.scheduler.admit()
        self.flush()

    def flush(self) -> None:
        commands, events = self.scheduler.drain()
        self.ledger += events
        for command in commands:
            if isinstance(command, Submit):
                key = (command.group, command.member)
                assert key not in self.jobs, "a member ran twice at once"
                self.jobs[key] = command
            else:
                for member in command.members:
                    del self.jobs[command.group, member]

    def work(self) -> None:
        """One random job comes back."""
        assert self.jobs, "the run is stuck: nothing runs and no batch is ready"
        job = self.jobs.pop(self.rng.choice(sorted(self.jobs)))
        draw = self.rng.random()
        if draw < 0.15:
            kind = self.rng.choice([FaultKind.WORLD, FaultKind.WORKER, FaultKind.TIMEOUT])
            ref = self.rng.choice([None, "partial"]) if kind is not FaultKind.WORKER else None
            outcome = Outcome(ref, None, None, kind, "planted")
        else:
            reward = None if draw < 0.2 else float(self.rng.random() < 0.5)
            outcome = Outcome(f"{self.attempt}/{job.group}/{job.member}/{job.tries}", reward)
        assert self.scheduler.report(job.group, job.member, job.tries, outcome)
        self.scheduler.admit()
        self.flush()

    def batch(self) -> None:
        """take, optimiser step, settle, publish, perhaps a checkpoint; a crash between any two."""
        if self.jobs and self.rng.random() < 0.1:
            self.scheduler.cut(self.rng.choice(sorted(self.jobs))[0])
            self.flush()
        ready = self.scheduler.take(self.step)
        self.scheduler.admit()
        self.flush()
        if ready is None:
            return self.work()
        assert len(ready) == self.settings.groups_per_batch
        least = self.settings.min_viable or self.settings.group_size
        assert all(least <= len(r.refs) <= self.settings.group_size and all(r.refs) for r in ready)
        assert all(0 <= r.staleness <= self.settings.max_staleness for r in ready)
        if self.crash(0.1):
            return None
        self.scheduler.settle(self.step)
        self.trained.append((self.step, ready))
        self.step += 1
        self.flush()
        if self.crash(0.1):
            return None
        first, second = self.rng.sample([self.publish, self.save], 2)
        first()
        if self.rng.random() < 0.5:
            second()
        if first == self.save:
            self.publish()
        return None

    def save(self) -> None:
        under_way = {key for key in self.jobs if self.rng.random() < 0.3}
        state = json.loads(json.dumps(self.scheduler.snapshot(under_way)))
        self.saved = (state, self.step, len(self.ledger), len(self.trained))

    def crash(self, chance: float) -> bool:
        if self.rng.random() >= chance:
            return False
        self.attempt += 1
        self.jobs.clear()
        self.scheduler = self.fresh()
        state, self.step, lines, batches = self.saved or (None, 0, 0, 0)
        del self.ledger[lines:], self.trained[batches:]
        if state is not None:
            self.scheduler.restore(state)
        self.publish()
        return True


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32).map(random.Random),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(1, 3),
    st.sampled_from([None, 2, 3]),
)
def test_every_issued_group_has_exactly_one_fate(
    rng, max_staleness, redundancy, max_filtered, groups_per_batch, min_viable
):
    run = Run(
        rng,
        SchedulerSettings(
            group_size=3,
            groups_per_batch=groups_per_batch,
            redundancy=redundancy,
            max_staleness=max_staleness,
            max_filtered=max_filtered,
            min_viable=min_viable,
            member_retries=1,
        ),
    )
    for _ in range(150):
        run.crash(0.02)
        run.batch()
    run.scheduler.finish()
    run.flush()
    assert not run.jobs, "members still run after the end"
    issued = [event.group for event in run.ledger if isinstance(event, GroupIssued)]
    ended = [event for event in run.ledger if isinstance(event, GroupClosed)]
    assert len(issued) == len(set(issued))
    assert sorted(event.group for event in ended) == sorted(issued)
    in_batches = [ready.group for _, batch in run.trained for ready in batch]
    assert sorted(in_batches) == sorted(event.group for event in ended if event.fate is Fate.TRAINED)
    assert [step for step, _ in run.trained] == list(range(run.step))
    handed = {event.group for event in run.ledger if isinstance(event, GroupHanded)}
    assert set(in_batches) <= handed
