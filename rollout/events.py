"""What the scheduler says: commands to a pool and the events of the ledger, as plain data.

Owns: the vocabulary of fates, faults, commands and events. Refuses: deciding, persisting.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rollout.types import Version


class Fate(StrEnum):
    """How an issued group ended; in the lineage of the final weights each has exactly one."""

    TRAINED = "trained"
    FILTERED = "filtered"  # all rewards equal: no gradient
    STALE = "stale"  # older than the staleness bound, or not needed when the run ended
    FAILED = "failed"  # too many members lost, or too few scorable


class FaultKind(StrEnum):
    """Whose fault it was; each kind has its own budget."""

    WORLD = "world"
    SAMPLER = "sampler"
    TIMEOUT = "timeout"
    WORKER = "worker"
    UNSCORABLE = "unscorable"  # counted per group: fewer than two of its members have a reward


@dataclass(frozen=True, slots=True)
class Submit:
    """Command: run one member. ``tries`` counts earlier attempts of the same member."""

    group: str
    task_id: str
    member: int
    seed: int
    tries: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Command: stop these members; whatever they still return is ignored."""

    group: str
    members: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GroupIssued:
    group: str
    task_id: str
    version: Version


@dataclass(frozen=True, slots=True)
class MemberArrived:
    group: str
    member: int
    ref: str
    reward: float | None


@dataclass(frozen=True, slots=True)
class MemberFault:
    group: str
    member: int
    tries: int
    kind: FaultKind
    cause: str
    retried: bool


@dataclass(frozen=True, slots=True)
class GroupHanded:
    """The group went into the batch of ``step``: not yet a fate, the optimiser step may never happen."""

    group: str
    step: int
    staleness: int


@dataclass(frozen=True, slots=True)
class GroupClosed:
    group: str
    fate: Fate
    reason: str
    step: int | None = None


@dataclass(frozen=True, slots=True)
class VersionMinted:
    """Written before the weights are published (decision 4)."""

    version: Version


@dataclass(frozen=True, slots=True)
class Restored:
    """This attempt continues ``attempt`` after the first ``ledger_lines`` lines of its ledger; later lines are void."""

    attempt: int
    ledger_lines: int
    kept: int  # groups kept with all their trajectories
    reissued: int  # groups of which at least one member runs again
    going_on: int = 0  # members among these that go on after turns they had


Command = Submit | Cancel
Event = GroupIssued | MemberArrived | MemberFault | GroupHanded | GroupClosed | VersionMinted | Restored
EVENTS: tuple[type, ...] = (
    GroupIssued,
    MemberArrived,
    MemberFault,
    GroupHanded,
    GroupClosed,
    VersionMinted,
    Restored,
)
