"""Running a package's tests in a box of their own.

Owns: the bounds of such a box, talking to the program in it (``box_tests``), and which tests pass where nothing is
wrong. Refuses: what a result means (verdict).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from rollout.errors import ConfigError
from worldmodel.domains.swe.packages import PACKAGES, PYTHON, Package, baseline_file, site, tree
from worldmodel.installed import Say
from worldmodel.sandbox import Limits, Machine, SandboxError, Service

HOME = "/home/user"
MIB = 1024 * 1024
LIMITS = Limits(
    deadline=30.0,
    start_deadline=30.0,
    output=16 * MIB,
    workspace=64 * MIB,
    inodes=8192,
    processes=64,
    address_space=8192 * MIB,  # reserved by threads, not used
    data=1024 * MIB,
    memory=1024 * MIB,
    cpu_seconds=120,
)
SECONDS, CPU_SECONDS = 100.0, 60  # for the tests of one verdict: by the clock, and of processor time
BASELINE_SECONDS = 600.0


@cache
def program(name: str) -> str:
    """The text of a program that boxes are given."""
    return resources.files(__package__).joinpath(f"{name}.py").read_text(encoding="utf-8")


class Bench:
    """A machine that holds one package's files and runs its tests. Blocks its thread; a context manager."""

    def __init__(self, package: Package, files: Mapping[str, str], limits: Limits = LIMITS) -> None:
        self._package = package
        self._root = f"{HOME}/{package.name}"
        state = {"files": {f"{package.name}/{path}": text for path, text in files.items()}}
        self._machine = Machine(state, limits, shows={"site": site()}, shell=False)
        self._service: Service | None = None

    def __enter__(self) -> Bench:
        self._machine.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._machine.close()

    def interrupt(self) -> None:
        """From any thread."""
        self._machine.interrupt()

    def run(self, tests: list[str], seconds: float = SECONDS, **options: Any) -> dict[str, Any]:
        """The reply of ``box_tests``; ``end`` is "died" too where the tests took its process with them. Raises
        SandboxError where no box can be had."""
        if self._service is None or not self._service.running:
            self._service = self._machine.serve([PYTHON, "-I", "-S", "-B", "-c", program("box_tests")])
        request = {
            "root": self._root,
            "paths": list(self._package.paths),
            "tests": tests,
            "seconds": seconds,
            **options,
        }
        try:
            self._service.send(json.dumps(request).encode(), 30.0)
            reply: dict[str, Any] = json.loads(self._service.receive(seconds + 30.0))
        except (SandboxError, ValueError):
            self._machine.serve([PYTHON, "-c", ""]).kill()  # raises where the machine is the cause
            return {"end": "died"}
        return reply


def measure(say: Say) -> None:
    """Write which tests of each package pass twice in a row. Raises ConfigError where a package has none."""
    if baseline_file().is_file():
        return
    found = {}
    for package in PACKAGES.values():
        say(f"running the tests of {package.name}")
        with Bench(package, tree(package.name)) as bench:
            runs = [bench.run(list(package.tests), BASELINE_SECONDS).get("outcomes", {}) for _ in range(2)]
        found[package.name] = [name for name, seen in runs[0].items() if seen == runs[1].get(name) == "passed"]
        if not found[package.name]:
            raise ConfigError(f"swe: no test of {package.name} passes on this machine")
    partial = baseline_file().with_suffix(f".partial-{os.getpid()}")
    partial.write_text(json.dumps(found), encoding="utf-8")
    partial.replace(baseline_file())
    baseline.cache_clear()


@cache
def baseline(name: str) -> frozenset[str]:
    """Ids of the tests that pass. Raises ConfigError before set-up."""
    try:
        found: dict[str, list[str]] = json.loads(baseline_file().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"swe: {baseline_file()} cannot be read ({error}): agentworld setup swe") from error
    return frozenset(found[name])
