"""Where set-up puts what is heavy: one folder per domain in the user's cache, whole or not there.

Owns: the place, and making a folder appear at once. Refuses: what goes in it (each domain's ``setup``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from rollout.errors import ConfigError

Say = Callable[[str], None]


def folder(name: str) -> Path:
    """``AGENTWORLD_CACHE`` or ``~/.cache/agentworld``, then ``name``; it need not be there."""
    return Path(os.environ.get("AGENTWORLD_CACHE") or Path.home() / ".cache" / "agentworld").absolute() / name


def install(name: str, fill: Callable[[Path], None]) -> Path:
    """``folder(name)``, filled beside it by ``fill`` and renamed, where it was not there. ``fill`` raises ConfigError,
    one line; nothing is left then. An OSError of the cache becomes one."""
    target = folder(name)
    if target.is_dir():
        return target
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        fill(partial)
        partial.rename(target)
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def run(argv: Sequence[str], cwd: Path | None = None, seconds: float = 900.0) -> str:
    """Output of a set-up command. Raises ConfigError, one line, where it fails, is not there or takes longer."""
    try:
        done = subprocess.run(
            argv, cwd=cwd, timeout=seconds, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
    except FileNotFoundError:
        raise ConfigError(f"setup: {argv[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"setup: {argv[0]} took longer than {seconds:.0f} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise ConfigError(f"setup: {' '.join(argv[:4])} failed: {said}")
    return done.stdout


def apt_install(packages: Sequence[str], say: Say) -> None:
    """Debian packages, where root or sudo allows it. Raises ConfigError that names the command otherwise."""
    words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if prefix and (not shutil.which("sudo") or subprocess.run([*prefix, "true"], capture_output=True).returncode):
        raise ConfigError(f"setup: run as root: apt-get install {' '.join(packages)}")
    say(f"installing {' '.join(packages)}")
    run([*prefix, "apt-get", "update", "-qq"])
    run([*prefix, "env", "DEBIAN_FRONTEND=noninteractive", *words], seconds=1800.0)
