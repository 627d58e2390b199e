"""Which group runs when, what became of it, and when to give up: a pure state machine.

Owns: admission within the staleness bound, retries, fault budgets, dropping and filtering, the one fate of every
group, and a snapshot of all that. Refuses: I/O, threads, clocks, Ray, trajectories (it sees only references).

A group's *index* is the number of batches its policy version was trained on; the next batch has index
``batches``. Admission (AReaL, arXiv 2505.24298, eq. 3) keeps live + handed groups within
``(published index + max_staleness + 1) * groups_per_batch``: with ``max_staleness`` 0 a group is admitted only for
the next batch, under the current version.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rollout.errors import BudgetSpent
from rollout.events import (
    Cancel,
    Command,
    Event,
    Fate,
    FaultKind,
    GroupClosed,
    GroupHanded,
    GroupIssued,
    MemberArrived,
    MemberFault,
    Submit,
    VersionMinted,
)
from rollout.groups import GroupRecord, MemberRecord, MemberState, restored, runs
from rollout.seeds import derive_seed
from rollout.types import Version

_NUM_CAUSES = 3


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """``budgets``: faults of a kind allowed within the last ``budget_window`` member results."""

    group_size: int
    groups_per_batch: int
    redundancy: int = 0  # members issued beyond group_size; the last to arrive are dropped, whatever their reward
    max_staleness: int = 0  # batches between sampling and training
    min_viable: int | None = None  # members with which a group may go on when the others are late; None: it waits
    member_retries: int = 2
    max_filtered: int = 0  # zero-variance groups replaced per batch; 0 = keep them
    total_batches: int | None = None  # of the whole run: no group is issued that could not be trained
    budget_window: int = 1000
    budgets: Mapping[FaultKind, int] = field(default_factory=lambda: dict.fromkeys(FaultKind, 50))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of a member came to. ``fault`` None: a whole episode. ``ref``: where its trajectory lies, where
    it has at least one turn."""

    ref: str | None = None
    reward: float | None = None
    oldest: Version | None = None
    fault: FaultKind | None = None
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Ready:
    """A group of a batch: references in member order."""

    group: str
    task_id: str
    refs: tuple[str, ...]  # [G]
    staleness: int


class Scheduler:
    """Call ``publish``, then ``admit``; report every result; ``take`` and ``settle`` batches.

    Methods append to ``commands`` (for the pool) and ``events`` (for the ledger); ``drain`` empties both.
    """

    def __init__(self, settings: SchedulerSettings, seed: int, task_of: Callable[[int], str]) -> None:
        """``task_of(ordinal)`` names the task of the n-th group: pure, so that a snapshot needs only n."""
        self.settings = settings
        self.version: Version | None = None
        self.batches = 0  # settled
        self.fates: dict[Fate, int] = dict.fromkeys(Fate, 0)
        self.fault_totals: dict[FaultKind, int] = dict.fromkeys(FaultKind, 0)
        self._seed = seed
        self._task_of = task_of
        self._next = 0
        self._index = 0  # of the published version
        self._indices: dict[Version, int] = {}
        self._groups: dict[str, GroupRecord] = {}
        self._filtered = 0  # since the last batch
        self._results = 0
        self._faults: dict[FaultKind, list[int]] = {kind: [] for kind in FaultKind}
        self._causes: dict[FaultKind, list[str]] = {kind: [] for kind in FaultKind}
        self._commands: list[Command] = []
        self._events: list[Event] = []

    def drain(self) -> tuple[list[Command], list[Event]]:
        """Commands and events since the last call. Persist the events before acting on the commands."""
        commands, events = self._commands, self._events
        self._commands, self._events = [], []
        return commands, events

    # -- weights and admission

    def publish(self, version: Version) -> None:
        """``version``, trained on every batch handed out so far, is what samplers use from now on."""
        self.version = version
        self._index = self.batches + self._num_handed_batches()
        self._indices[version] = self._index
        floor = self._index - self.settings.max_staleness - 1
        self._indices = {v: i for v, i in self._indices.items() if i >= floor}
        self._events.append(VersionMinted(version))
        self._drop_stale()

    def admit(self) -> None:
        """Submit members that wait for a worker, then issue groups while the staleness bound has room."""
        if self.version is None:
            return
        for group in self._groups.values():
            self._submit(group)
        s = self.settings
        due = self._index + s.max_staleness + 1
        if s.total_batches is not None:
            due = min(due, s.total_batches)
        while self.batches * s.groups_per_batch + len(self._groups) < due * s.groups_per_batch:
            members = [MemberRecord() for _ in range(s.group_size + s.redundancy)]
            group = GroupRecord(self._next, self._task_of(self._next), self._index, members)
            self._next += 1
            self._groups[group.id] = group
            self._events.append(GroupIssued(group.id, group.task_id, self.version))
            self._submit(group)

    # -- results

    def report(self, group_id: str, member: int, tries: int, outcome: Outcome) -> bool:
        """Take in one result; False where nobody waits for it any more (dropped, repeated, of an earlier try)."""
        group = self._groups.get(group_id)
        if group is None or group.chosen is not None:
            return False
        slot = group.members[member]
        if slot.state is not MemberState.PENDING or slot.tries != tries:
            return False
        self._results += 1
        slot.ref, slot.reward = outcome.ref, outcome.reward if outcome.fault is None else None
        slot.index = group.index if outcome.oldest is None else self._indices.get(outcome.oldest, group.index)
        if outcome.fault is None:
            slot.state = MemberState.DONE
            self._events.append(MemberArrived(group_id, member, outcome.ref or "", outcome.reward))
        else:
            self._retry(group, member, outcome)
        self._resolve(group)
        return True

    def count_fault(self, kind: FaultKind, cause: str) -> None:
        """Count a fault outside any member (a world that a spot check could not use)."""
        self.fault_totals[kind] += 1
        self._faults[kind].append(self._results)
        self._causes[kind] = [*self._causes[kind], cause][-_NUM_CAUSES:]

    def check_budgets(self) -> None:
        """Raises ``BudgetSpent`` naming the kind, the limit and the last causes."""
        for kind, at in self._faults.items():
            recent = [n for n in at if n > self._results - self.settings.budget_window]
            self._faults[kind] = recent
            limit = self.settings.budgets[kind]
            if len(recent) > limit:
                causes = "; ".join(dict.fromkeys(self._causes[kind]))
                raise BudgetSpent(
                    f"{kind.value} faults: {len(recent)} within the last {self.settings.budget_window} episodes, "
                    f"{limit} allowed (rollout.budgets.{kind.value}); last causes: {causes}"
                )

    def cut(self, group_id: str) -> bool:
        """The members still running are late: go on with those that have finished, if they are at least ``min_viable``.
        Which ones is decided by arrival alone, whatever their reward. False where nothing changed."""
        group, least = self._groups.get(group_id), self.settings.min_viable
        if group is None or group.chosen is not None or least is None:
            return False
        done = [n for n, member in enumerate(group.members) if member.state is MemberState.DONE]
        if len(done) < least:
            return False
        self._finish(group, done[: self.settings.group_size])
        return True

    # -- batches

    def take(self, step: int) -> tuple[Ready, ...] | None:
        """The groups of batch ``step``, oldest first; None while there are too few. Repeatable until settled."""
        handed = [g for g in self._groups.values() if g.step == step]
        if not handed:
            if self._num_handed_batches() > self.settings.max_staleness:
                raise ValueError(f"batch {step} asked for before the one before it was settled")
            self._drop_stale()
            finished = sorted((g for g in self._groups.values() if self._is_free(g)), key=lambda g: g.ordinal)
            if len(finished) < self.settings.groups_per_batch:
                return None
            handed = finished[: self.settings.groups_per_batch]
            self._hand(handed, step)
        return tuple(self._ready(group) for group in handed)

    def settle(self, step: int) -> None:
        """The optimiser step on batch ``step`` is done: its groups are trained.

        Raises ValueError: that batch was never handed out."""
        handed = [g for g in self._groups.values() if g.step == step]
        if not handed:
            raise ValueError(f"settle({step}): no batch of that step was taken")
        self.batches += 1
        for group in handed:
            self._close(group, Fate.TRAINED, "", step)

    def finish(self) -> None:
        """The run is over: what is still open is closed as stale, so that the ledger is complete."""
        for group in list(self._groups.values()):
            self._close(group, Fate.STALE, "the run ended")

    # -- snapshot

    def snapshot(self, under_way: Collection[tuple[str, int]] = ()) -> dict[str, Any]:
        """JSON-able. A batch handed out but not settled counts as not trained: settle first. ``under_way``: (group,
        member) of episodes whose turns so far are kept beside the snapshot; their groups stay as old as they are."""
        return {
            "next": self._next,
            "batches": self.batches,
            "results": self._results,
            "filtered": self._filtered,
            "fates": {k.value: n for k, n in self.fates.items()},
            "fault_totals": {k.value: n for k, n in self.fault_totals.items()},
            "faults": {k.value: list(v) for k, v in self._faults.items()},
            "causes": {k.value: list(v) for k, v in self._causes.items()},
            "groups": [_row(g, under_way) for g in self._groups.values()],
        }

    def restore(self, state: Mapping[str, Any]) -> tuple[int, int]:
        """Continue from ``snapshot``; nothing runs before the next ``publish``. Finished members are kept, the others
        run again. Returns (groups kept whole, groups with members to run again)."""
        self._next, self.batches = state["next"], state["batches"]
        self._results, self._filtered = state["results"], state["filtered"]
        self.fates = {k: state["fates"].get(k.value, 0) for k in Fate}
        self.fault_totals = {k: state["fault_totals"].get(k.value, 0) for k in FaultKind}
        self._faults = {k: list(state["faults"].get(k.value, ())) for k in FaultKind}
        self._causes = {k: list(state["causes"].get(k.value, ())) for k in FaultKind}
        self.version, self._indices, self._index = None, {}, self.batches
        groups = [restored(row, self.batches) for row in state["groups"]]
        self._groups = {g.id: g for g in groups}
        kept = sum(g.chosen is not None for g in groups)
        return kept, len(groups) - kept

    def refs(self) -> tuple[str, ...]:
        """References of every trajectory that an open group still needs."""
        return tuple(m.ref for g in self._groups.values() for m in g.members if m.ref is not None)

    def waiting(self) -> int:
        """Members submitted and not yet resolved."""
        return sum(runs(m) for g in self._groups.values() if g.chosen is None for m in g.members)

    # -- inner steps

    def _num_handed_batches(self) -> int:
        return len({g.step for g in self._groups.values() if g.step is not None})

    def _is_free(self, group: GroupRecord) -> bool:
        return group.chosen is not None and group.step is None

    def _submit(self, group: GroupRecord) -> None:
        if group.chosen is not None:
            return
        for number, member in enumerate(group.members):
            if member.state is MemberState.PENDING and not member.submitted:
                member.submitted = True
                parts: list[str | int] = [self._seed, group.task_id, group.id, number]
                seed = derive_seed(*parts) if member.tries == 0 else derive_seed(*parts, member.tries)
                self._commands.append(Submit(group.id, group.task_id, number, seed, member.tries))

    def _retry(self, group: GroupRecord, number: int, outcome: Outcome) -> None:
        assert outcome.fault is not None
        member = group.members[number]
        retried = member.tries < self.settings.member_retries
        self.count_fault(outcome.fault, outcome.cause)
        self._events.append(MemberFault(group.id, number, member.tries, outcome.fault, outcome.cause, retried))
        if retried:
            member.tries += 1
            member.submitted = member.under_way = False
            member.ref = member.index = None
        else:
            member.state = MemberState.LOST if member.ref is None else MemberState.MASKED

    def _resolve(self, group: GroupRecord) -> None:
        """Close, finish or keep waiting, once a member of ``group`` has changed."""
        by_state: dict[MemberState, list[int]] = {state: [] for state in MemberState}
        for number, member in enumerate(group.members):
            by_state[member.state].append(number)
        done, masked, pending = (by_state[s] for s in (MemberState.DONE, MemberState.MASKED, MemberState.PENDING))
        size = self.settings.group_size
        if len(done) + len(masked) + len(pending) < size:
            lost = len(by_state[MemberState.LOST])
            self._close(group, Fate.FAILED, f"{lost} of {len(group.members)} members lost after all retries")
        elif len(done) >= size:
            self._finish(group, done)
        elif not pending:
            self._finish(group, sorted([*done, *masked[: size - len(done)]]))
        else:
            self._submit(group)

    def _finish(self, group: GroupRecord, chosen: list[int]) -> None:
        rewards = [r for r in (group.members[n].reward for n in chosen) if r is not None]
        if len(rewards) < min(2, self.settings.group_size):
            reason = f"{len(rewards)} of {len(chosen)} members scorable"
            self.count_fault(FaultKind.UNSCORABLE, f"{group.task_id}: {reason}")
            self._close(group, Fate.FAILED, reason)
        elif len(set(rewards)) == 1 and self._filtered < self.settings.max_filtered:
            self._filtered += 1
            self._close(group, Fate.FILTERED, f"all rewards {rewards[0]:g}")
        else:
            group.chosen = chosen
            self._cancel(group)
            for number, member in enumerate(group.members):
                if number not in chosen:
                    member.ref = member.index = None

    def _hand(self, groups: Sequence[GroupRecord], step: int) -> None:
        self._filtered = 0
        due = self.batches + self._num_handed_batches()
        for group in groups:
            group.step, group.staleness = step, due - group.oldest
            self._events.append(GroupHanded(group.id, step, group.staleness))

    def _ready(self, group: GroupRecord) -> Ready:
        assert group.chosen is not None
        refs = tuple(group.members[n].ref or "" for n in group.chosen)
        return Ready(group.id, group.task_id, refs, group.staleness)

    def _drop_stale(self) -> None:
        due = self.batches + self._num_handed_batches()
        for group in list(self._groups.values()):
            age = due - group.oldest
            if group.step is None and age > self.settings.max_staleness:
                reason = f"{age} batches old, {self.settings.max_staleness} allowed"
                self._close(group, Fate.STALE, reason)

    def _cancel(self, group: GroupRecord) -> None:
        running = tuple(n for n, m in enumerate(group.members) if runs(m))
        for number in running:
            group.members[number].submitted = False
        if running:
            self._commands.append(Cancel(group.id, running))

    def _close(self, group: GroupRecord, fate: Fate, reason: str, step: int | None = None) -> None:
        if group.chosen is None:
            self._cancel(group)
        del self._groups[group.id]
        self.fates[fate] += 1
        self._events.append(GroupClosed(group.id, fate, reason, step))


def _row(group: GroupRecord, under_way: Collection[tuple[str, int]]) -> dict[str, Any]:
    row = asdict(group)
    for number, member in enumerate(row["members"]):
        member["under_way"] = (group.id, number) in under_way
    return row
