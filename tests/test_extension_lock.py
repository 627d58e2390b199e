"""A lock that a killed build left behind is removed, one that is held is not."""

from __future__ import annotations

import os
from pathlib import Path

from trainer.extension_lock import drop_stale_locks


def test_only_locks_that_nobody_holds_and_that_are_old_are_dropped(tmp_path: Path) -> None:
    left, held, young = (tmp_path / "py311" / name / "lock" for name in ("left", "held", "young"))
    for lock in (left, held, young):
        lock.parent.mkdir(parents=True)
        lock.touch()
    for lock in (left, held):
        os.utime(lock, (1.0, 1.0))
    with held.open():
        assert drop_stale_locks(tmp_path) == [left]
    assert held.exists() and young.exists()
    assert drop_stale_locks(tmp_path) == [held]
    assert drop_stale_locks(tmp_path, age=0.0) == [young]
    assert drop_stale_locks(tmp_path / "absent") == []
