"""``agentworld doctor``: what this machine can do, one line each, before a run finds out the hard way.

Owns: the checks and their remedies. Refuses: mending anything.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rollout.errors import AgentworldError

MIN_DISK_GB, MIN_MEMORY_GB = 8.0, 4.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. ``needed`` False: only some features miss it."""

    name: str
    ok: bool
    detail: str
    needed: bool = True


class Problem(Exception):
    """A check's negative result; the message says what to do."""


def diagnose(run_dir: Path, model: Path | None = None, url: str | None = None) -> list[Finding]:
    """Every check that applies; ``model`` adds its chat template, ``url`` a world-model server."""
    found = [
        _check("python", _python),
        _check("packages", _packages),
        _check("training stack", _stack),
        _check("compiler", _compiler, needed=False),
        _check("sandbox", _sandbox),
        _check("resources", lambda: _resources(run_dir), needed=False),
        _check("run directory", lambda: _writable(run_dir)),
        _check("accelerator", _accelerator, needed=False),
    ]
    if model is not None:
        found.append(_check("chat template", lambda: _chat(model)))
    if url is not None:
        found.append(_check("world-model server", lambda: _server(url)))
    return found


def _check(name: str, check: Callable[[], str], needed: bool = True) -> Finding:
    try:
        return Finding(name, True, check(), needed)
    except (Problem, AgentworldError) as error:
        return Finding(name, False, str(error), needed)


def _python() -> str:
    if not (3, 11) <= sys.version_info < (3, 14):
        raise Problem(f"{sys.version.split()[0]}: Python 3.11 to 3.13 is needed")
    return sys.version.split()[0]


def _packages() -> str:
    """The four packages have generic names: they must be ours."""
    from rollout.worker import code_fingerprint

    return f"rollout, worldmodel, trainer, launch from {Path(__file__).parent.parent} ({code_fingerprint()})"


def _stack() -> str:
    names = ("torch", "transformers", "trl", "accelerate", "deepspeed", "ray", "datasets", "wandb")
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise Problem(f"missing {', '.join(missing)}: pip install 'agentworld-trainer[train]'")
    return ", ".join(found)


def _compiler() -> str:
    """DeepSpeed compiles a helper on its first use."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    missing = [] if shutil.which("g++") else ["g++"]
    missing += [] if header.exists() else ["python3-dev"]
    if missing:
        raise Problem(f"missing {', '.join(missing)}: several processes under DeepSpeed need it")
    return "g++ and Python.h"


def _sandbox() -> str:
    from worldmodel.sandbox import Machine

    missing = [name for name in ("bwrap", "setpriv") if not shutil.which(name)]
    if missing:
        raise Problem(f"missing {', '.join(missing)}: apt-get install bubblewrap util-linux")
    with Machine({"files": {"probe.txt": "ready\n"}}) as machine:
        screen = machine.run("cat probe.txt && id -u")
    if not screen.text.startswith("ready"):
        raise Problem(f"a box started but answered {screen.text!r}")
    return "a box starts, answers and is cleaned up"


def _resources(run_dir: Path) -> str:
    place = next(p for p in (run_dir.resolve(), *run_dir.resolve().parents) if p.exists())
    disk = shutil.disk_usage(place).free / 1e9
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 1e9
    text = f"{os.cpu_count()} cores, {memory:.1f} GB memory free, {disk:.0f} GB disk free"
    if disk < MIN_DISK_GB or memory < MIN_MEMORY_GB:
        raise Problem(f"{text}; {MIN_DISK_GB:.0f} GB disk and {MIN_MEMORY_GB:.0f} GB memory are advised")
    return text


def _writable(run_dir: Path) -> str:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=run_dir) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise Problem(f"{run_dir}: {error.strerror}") from error
    return str(run_dir.resolve())


def _accelerator() -> str:
    try:
        import torch
    except ImportError as error:
        raise Problem("torch is not installed") from error
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return "none, training on the CPU"


def _chat(model: Path) -> str:
    from rollout.chat import load_chat

    load_chat(model)
    return f"{model}: append-only, every reply is a prefix of the next prompt"


def _server(url: str) -> str:
    from launch.worlds import check_server
    from worldmodel.openai import ServerSpec

    asyncio.run(check_server(ServerSpec(url, "")))
    return f"{url} answers"
