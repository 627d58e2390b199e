"""Getting tau2-bench: pinned packages in a folder of their own, and what they say of themselves.

Owns: that folder (``python``: packages, ``catalogue``: a JSON file a domain), what of it lacks. Refuses: using them.

Third-party code runs in boxes only: the catalogue, too, is written from what a box answers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from rollout.errors import ConfigError
from worldmodel.domains.mcp.tau2 import DOMAINS
from worldmodel.installed import Say, folder, install, run
from worldmodel.sandbox import Limits, Machine, SandboxError
from worldmodel.sandbox.limits import MIB

NAME, STAMP, FORM = "tau2", "stamp", 2  # FORM: of the catalogue
PYTHON = "/usr/bin/python3"
COMMAND = ("/usr/bin/env", "PYTHONPATH=/opt/tau2/python", PYTHON, "/opt/inside/server.py")
LIMITS = Limits(
    deadline=20.0, output=16 * MIB, processes=32, address_space=2048 * MIB, memory=1024 * MIB, cpu_seconds=600
)


def _pinned() -> str:
    return resources.files("worldmodel.domains.mcp.tau2").joinpath("requirements.txt").read_text(encoding="utf-8")


def stamp() -> str:
    """Identity of the pinned packages and of the form of the catalogue."""
    return hashlib.sha256(f"{FORM}\n{_pinned()}".encode()).hexdigest()


def missing() -> str:
    """'', or one line that says how to get what is pinned."""
    path = folder(NAME) / STAMP
    current = path.is_file() and path.read_text(encoding="utf-8") == stamp()
    return "" if current else "tau2-bench: agentworld setup mcp"


def setup(say: Say) -> None:
    """Install it where it lacks. Raises ConfigError, one line."""
    if missing():
        shutil.rmtree(folder(NAME), ignore_errors=True)
        say("installing tau2-bench")
        install(NAME, _fill)


def _fill(target: Path) -> None:
    python, wanted = target / "python", target / "requirements.txt"
    wanted.write_text(_pinned(), encoding="utf-8")
    version = run([PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
    run([
        sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "--require-hashes",
        "--only-binary", ":all:", "--python-version", version, "--target", str(python), "-r", str(wanted),
    ])  # fmt: skip
    for other in (python / "inspect_evals").iterdir():  # a hundred other benchmarks
        if other.name not in ("__init__.py", "tau2"):
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    run([PYTHON, "-m", "compileall", "-q", str(python)])  # boxes cannot write what they compile
    catalogue = target / "catalogue"
    catalogue.mkdir()
    for domain in DOMAINS:
        (catalogue / f"{domain}.json").write_text(json.dumps(_described(target, domain)), encoding="utf-8")
    (target / STAMP).write_text(stamp(), encoding="utf-8")


def machine(installed: Path) -> Machine:
    """A machine whose boxes read the packages below ``installed`` and the programs of ``inside``."""
    shows = {"tau2": installed, "inside": Path(__file__).resolve().with_name("inside")}
    return Machine({}, LIMITS, shows=shows, shell=False)


def _described(installed: Path, domain: str) -> dict[str, Any]:
    try:
        with machine(installed) as box:
            request = json.dumps({"op": "describe", "domain": domain}).encode()
            reply: dict[str, Any] = json.loads(box.serve(COMMAND).ask(request, 300.0))
    except SandboxError as error:
        raise ConfigError(f"setup: tau2 {domain}: {error}") from error
    if "fault" in reply:
        raise ConfigError(f"setup: tau2 {domain}: {reply['fault']}")
    return reply


@cache
def catalogue(domain: str) -> dict[str, Any]:
    """{"policy", "tools", "tasks"} of ``domain``. Raises ConfigError where it is not installed."""
    if lacking := missing():
        raise ConfigError(lacking)
    found: dict[str, Any] = json.loads((folder(NAME) / "catalogue" / f"{domain}.json").read_text(encoding="utf-8"))
    return found
