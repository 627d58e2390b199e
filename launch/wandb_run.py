"""One Weights & Biases run for each run directory, however often it is continued, and none that is left open.

Owns: the run's id in ``wandb_run_id``, the environment while training lasts. Refuses: what the user's environment says
already, and logging (that is the Trainer's).
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ID_FILE = "wandb_run_id"


@contextmanager
def wandb_run(run_dir: Path) -> Iterator[None]:
    """What W&B starts inside belongs to ``run_dir`` and ends with the block. A run that was open before is used and
    left open."""
    before = _current()
    own = {"WANDB_DIR": str(run_dir)}
    if "WANDB_RUN_ID" not in os.environ:
        own |= {"WANDB_RUN_ID": _id(run_dir), "WANDB_RESUME": "allow", "WANDB_NAME": run_dir.name}
    added = {name: value for name, value in own.items() if name not in os.environ}
    os.environ.update(added)
    failed = True
    try:
        yield
        failed = False
    finally:
        for name in added:
            os.environ.pop(name, None)
        if before is None and (run := _current()) is not None:
            run.finish(exit_code=int(failed))
            sys.modules["wandb"].teardown()  # it read the environment once, and would keep this run's id


def _id(run_dir: Path) -> str:
    file = run_dir / ID_FILE
    if not file.is_file():
        run_dir.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{uuid.uuid4().hex[:12]}\n", encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def _current() -> Any:
    """W&B's open run, where the package was imported at all."""
    return getattr(sys.modules.get("wandb"), "run", None)
