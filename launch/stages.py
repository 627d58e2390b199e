"""Named stages of a long command: each runs once per run directory, is timed, and is reused when nothing changed.

A stage stands on its own settings and on every stage before it: a changed recipe runs its stage and the later ones.

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
    """``mark`` describes what every stage depends on; it goes on with each stage that is called."""

    run_dir: Path
    mark: str
    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)

    def __call__(self, name: str, run: Callable[[], Any], folder: str = "", settings: object = None) -> Any:
        """The JSON-able result of ``run``, now or from an earlier call under the same ``settings``. ``folder`` (inside
        the run directory) is what the stage fills: an unfinished one is removed before the stage starts again."""
        self.mark = fingerprint(self.mark, name, settings)
        file = self.run_dir / "stages" / f"{name}.json"
        if file.is_file():
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept["fingerprint"] == self.mark:
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
        write_json(file, {"fingerprint": self.mark, "seconds": self.seconds[name], "result": result})
        return result


def fingerprint(*parts: object) -> str:
    """A short stable hash of the ``repr`` of plain settings."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
