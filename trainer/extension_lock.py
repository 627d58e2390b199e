"""Locks of torch's extension builds that a killed process has left behind: whoever builds next would wait for ever.

Owns: telling such a lock from one that is held, and removing it. Refuses: building anything.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

STALE_SECONDS = 30.0  # a younger lock may be held on another machine that shares the folder


def drop_stale_locks(root: Path | None = None, age: float = STALE_SECONDS) -> list[Path]:
    """Remove the locks under ``root`` (torch's build folder) that are older than ``age`` seconds and that no process
    of this machine holds open; returns them. A holder keeps its lock open (``torch.utils.file_baton``)."""
    if root is None:
        from torch.utils.cpp_extension import get_default_build_root

        root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    if not root.is_dir():
        return []
    dropped: list[Path] = []
    with (root / ".agentworld-locks").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # ranks look one after the other
        for lock in root.glob("**/lock"):
            try:
                if time.time() - lock.stat().st_mtime < age or lock.resolve() in set(_open_files()):
                    continue
                lock.unlink()
            except FileNotFoundError:  # released meanwhile
                continue
            logger.warning("removed %s, left behind by a process that was killed", lock)
            dropped.append(lock)
    return dropped


def _open_files() -> Iterator[Path]:
    """Files that processes of this machine have open, as far as we may look."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            yield Path(os.readlink(link))
        except OSError:  # not ours to see, or gone
            continue
