"""What the web domain needs on a machine: Chromium from Debian; playwright and miniwob for the interpreter in the box.

Owns: which packages, their checksums (``requirements.txt``), where they go. Refuses: using them (``browser``).
"""

from __future__ import annotations

import sys
from pathlib import Path

from rollout.errors import ConfigError
from worldmodel import installed
from worldmodel.installed import Say

CHROMIUM = ("/usr/lib/chromium/chromium-headless-shell", "/usr/lib/chromium/chromium")
PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core", "python3")  # Debian's
PYTHON = "/usr/bin/python3"


def folder() -> Path:
    return installed.folder("web")


def executable() -> str:
    """The browser's program, or ''."""
    return next((path for path in CHROMIUM if Path(path).is_file()), "")


def missing() -> str:
    """'' or one line: what is not here and how to get it."""
    wanted = {"chromium": bool(executable()), PYTHON: Path(PYTHON).exists(), "playwright": folder().is_dir()}
    lacking = [name for name, there in wanted.items() if not there]
    return f"{', '.join(lacking)}: run `agentworld setup web`" if lacking else ""


def setup(say: Say) -> None:
    """Raises ConfigError, one line."""
    if not executable() or not Path(PYTHON).exists():
        installed.apt_install(PACKAGES, say)
    if not executable():
        raise ConfigError(f"setup: no Chromium at {' or '.join(CHROMIUM)} after installing {', '.join(PACKAGES)}")
    say(f"installing playwright and miniwob into {folder()}")
    installed.install("web", _fill)


def _fill(target: Path) -> None:
    """Wheels for the box's interpreter, checked against their hashes."""
    version = installed.run([PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
    installed.run([
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--require-hashes",
        "--only-binary", ":all:", "--implementation", "cp", "--python-version", version, "--target", str(target),
        "--requirement", str(Path(__file__).with_name("requirements.txt")),
    ])  # fmt: skip
