"""What nothing may be trained on: held-out seeds and families, and third-party benchmarks.

Owns: recognising such tasks by split, id and family, and the one-line refusal. Refuses: reading files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from rollout.errors import TaskError
from rollout.types import Task
from worldmodel.domains import kit, names
from worldmodel.tasks import BENCHMARK

EVALUATION = ("heldout", "family", BENCHMARK)
_OWN_ID = re.compile(r".+-(heldout|family)-\d+-\d+")


def reserved(domain: str, family: str, task_id: str, split: str = "") -> str:
    """Why a task may not be trained on; '' where it may. An edited ``split`` does not hide what id or family say."""
    if split in EVALUATION:
        return f"its split is {split}"
    if found := _OWN_ID.fullmatch(task_id):
        return f"its id is of the split {found[1]}"
    for name in _benchmarks():
        if task_id.startswith(f"{name}/") or family == name or family.startswith(f"{name}/"):
            return f"it belongs to the benchmark {name}"
    if domain in names() and family in kit(domain).held_out():
        return f"the family {family} is held out"
    return ""


def check_trainable(tasks: Iterable[Task], file: Path | None = None) -> None:
    """Raises TaskError naming the first task that is evaluation data: with its line where they are those of ``file``,
    one a line."""
    for number, task in enumerate(tasks, 1):
        if why := reserved(task.domain, task.family, task.id, task.split):
            where = f"{file}:{number}: " if file is not None else ""
            raise TaskError(f"{where}task {task.id} is evaluation data ({why}): nothing may be trained on it")


@cache
def _benchmarks() -> tuple[str, ...]:
    """Names of all domains' third-party sources."""
    return tuple(name for domain in names() for name in kit(domain).sources)
