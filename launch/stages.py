"""Named stages of a long command: each runs once per run directory, is timed, and is reused when nothing changed.

Owns: ``stages/<name>.json`` (fingerprint, seconds, result), written last. Refuses: knowing what a stage does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.evaluate import write_json


@dataclass(slots=True)
class Stages:
    """``fingerprint`` describes everything earlier results depend on; another one runs every stage again."""

    run_dir: Path
    fingerprint: str
    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)

    def __call__(self, name: str, run: Callable[[], Any], folder: str = "") -> Any:
        """The JSON-able result of ``run``, now or from an earlier call. ``folder`` (inside the run directory) is what
        the stage fills: an unfinished one is removed before the stage starts again."""
        file = self.run_dir / "stages" / f"{name}.json"
        if file.is_file():
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept["fingerprint"] == self.fingerprint:
                self.seconds[name] = kept["seconds"]
                self.reused.append(name)
                return kept["result"]
            file.unlink()
        if folder and (self.run_dir / folder).exists():
            shutil.rmtree(self.run_dir / folder)
        return self._run(name, run, file)

    def _run(self, name: str, run: Callable[[], Any], file: Path) -> Any:
        self.say(f"[{name}] ...")
        began = time.monotonic()
        result = run()
        self.seconds[name] = round(time.monotonic() - began, 1)
        self.say(f"[{name}] done in {self.seconds[name]:.0f} s")
        write_json(file, {"fingerprint": self.fingerprint, "seconds": self.seconds[name], "result": result})
        return result


def fingerprint(*parts: object) -> str:
    """A short stable hash of the ``repr`` of plain settings."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
