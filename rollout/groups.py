"""The scheduler's records of groups and members.

Owns: their fields and how they come back from a snapshot. Refuses: transitions (``scheduler`` makes them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class MemberState(StrEnum):
    PENDING = "pending"
    DONE = "done"
    MASKED = "masked"  # retries spent, but there is a trajectory: trained with score None
    LOST = "lost"


@dataclass(slots=True)
class MemberRecord:
    state: MemberState = MemberState.PENDING
    tries: int = 0
    ref: str | None = None
    reward: float | None = None
    index: int | None = None
    submitted: bool = False
    under_way: bool = False  # goes on after whole turns that were sampled before the snapshot


@dataclass(slots=True)
class GroupRecord:
    ordinal: int
    task_id: str
    index: int
    members: list[MemberRecord]
    chosen: list[int] | None = None  # members of the finished group
    step: int | None = None  # the batch it was handed to
    staleness: int = 0  # when it was handed

    @property
    def id(self) -> str:
        return group_id(self.ordinal)

    @property
    def oldest(self) -> int:
        return min([self.index, *(m.index for m in self.members if m.index is not None)])


def group_id(ordinal: int) -> str:
    return f"g{ordinal:06d}"


def runs(member: MemberRecord) -> bool:
    return member.state is MemberState.PENDING and member.submitted


def restored(row: Mapping[str, Any], index: int) -> GroupRecord:
    """``index``: of the version under which members without a result will run again."""
    members = [MemberRecord(**{**m, "state": MemberState(m["state"]), "submitted": False}) for m in row["members"]]
    oldest = row["index"] if any(m.index is not None or m.under_way for m in members) else index
    return GroupRecord(row["ordinal"], row["task_id"], oldest, members, row["chosen"])
