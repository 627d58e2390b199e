"""Getting the benchmarks: pinned wheels in one folder of the cache, and what AgentDojo's tasks are made of.

Owns: that folder, starting a benchmark's process in a box. Refuses: what it is asked (``real``).

AgentDojo's tasks are code. Set-up lets it describe them once, in a box, into ``agentdojo.json``; BFCL's are data files.
Licences: bfcl-eval is Apache-2.0, agentdojo MIT; both come from the package index and no part of them is kept here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from rollout.errors import ConfigError
from worldmodel.installed import Say, folder, install, run
from worldmodel.sandbox import Limits, Machine, SandboxError, Service

NAME, STAMP, CATALOGUE = "mcp-thirdparty", "stamp", "agentdojo.json"
LACKING = "the third-party benchmarks: agentworld setup mcp"
MIB = 1024 * 1024
LIMITS = Limits(address_space=1024 * MIB, memory=512 * MIB, deadline=20.0, output=8 * MIB)
START_SECONDS = 60.0  # until a process has loaded its packages; a busy machine needs some
INSIDE = Path(__file__).resolve().parent / "inside"
ENV = ("/usr/bin/env", "PYTHONPATH=/opt/bench/python:/opt/world", "PYTHONHASHSEED=0")


def stamp() -> str:
    """Identity of what set-up makes: the pinned packages and the program that describes the tasks."""
    return hashlib.sha256((_requirements() + (INSIDE / "agentdojo_world.py").read_text("utf-8")).encode()).hexdigest()


def _requirements() -> str:
    return resources.files(__package__).joinpath("requirements.txt").read_text(encoding="utf-8")


def current() -> bool:
    """Whether what is installed is what is pinned."""
    path = folder(NAME) / STAMP
    return path.is_file() and path.read_text(encoding="utf-8") == stamp()


def missing() -> str:
    return "" if current() else LACKING


def installed() -> Path:
    """The folder. Raises ConfigError, one line, before set-up."""
    if not current():
        raise ConfigError(f"mcp: missing {LACKING}")
    return folder(NAME)


def setup(say: Say) -> None:
    """Install what lacks. Raises ConfigError, one line."""
    if not current():
        shutil.rmtree(folder(NAME), ignore_errors=True)
        say("installing bfcl-eval and agentdojo")
        install(NAME, _fill)


def _fill(target: Path) -> None:
    wanted, python = target / "requirements.txt", target / "python"
    wanted.write_text(_requirements(), encoding="utf-8")
    version = run(["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
    pinned = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--python-version", version]
    run([sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", *pinned, "--target", str(python),
         "-r", str(wanted)])  # fmt: skip
    run(["/usr/bin/python3", "-m", "compileall", "-q", str(python)])  # boxes cannot write what they compile
    try:
        with machine(target) as box:
            found = ask(serve(box, "agentdojo"), "describe", {}, seconds=5 * START_SECONDS)
    except SandboxError as error:
        raise ConfigError(f"setup: AgentDojo could not be asked for its tasks: {error}") from error
    (target / CATALOGUE).write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    (target / STAMP).write_text(stamp(), encoding="utf-8")


def machine(place: Path) -> Machine:
    """A machine without files, whose boxes read the packages at ``place`` and the programs of ``inside``."""
    return Machine({}, LIMITS, shows={"bench": place, "world": INSIDE}, shell=False)


def serve(running: Machine, benchmark: str, writable: bool = True) -> Service:
    """The process of ``benchmark``. Raises SandboxError."""
    argv = [*ENV, "/usr/bin/python3", "/opt/world/talk.py", f"{benchmark}_world"]
    return running.serve(argv, LIMITS, writable=writable)


def ask(service: Service, do: str, values: Mapping[str, Any], seconds: float | None = None) -> Any:
    """One question to a benchmark's process. Raises SandboxError where it gives no answer, or its code raised."""
    try:
        reply = json.loads(service.ask(json.dumps({"do": do, "with": values}).encode(), seconds))
    except ValueError as error:
        raise SandboxError(f"mcp: the benchmark was not understood: {error}") from error
    if not isinstance(reply, dict) or "value" not in reply:
        why = reply.get("fault", "no value") if isinstance(reply, dict) else "no object"
        raise SandboxError(f"mcp: the benchmark failed: {why}")
    return reply["value"]
