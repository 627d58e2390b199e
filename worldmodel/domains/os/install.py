"""Set-up of the desktop: the distribution's programs, and the packages that blocks import.

Owns: what is needed, whether it is there, getting it. Refuses: starting anything.
"""

from __future__ import annotations

import shutil
import sys
from importlib import resources
from pathlib import Path

from worldmodel import installed
from worldmodel.domains.os.inside import place
from worldmodel.installed import Say

DEBIAN = ("bubblewrap", "util-linux", "xvfb", "openbox", "dbus-daemon", "at-spi2-core", "fonts-dejavu-core", "python3",
          "mousepad", "galculator", "thunar", "libreoffice-calc", "libreoffice-writer", "libreoffice-gtk3")  # fmt: skip
PROGRAMS = ("/usr/bin/python3", "/usr/bin/Xvfb", "/usr/bin/openbox", "/usr/bin/dbus-daemon", "/usr/bin/mousepad",
            "/usr/bin/thunar", place.CALCULATOR, place.OFFICE, "/usr/libexec/at-spi2-registryd")  # fmt: skip

REGISTRY = Path("/usr/lib/libreoffice/share/registry")  # what boxes read as ``place.REGISTRY``


def folder() -> Path:
    """What boxes read as ``place.PACKAGES``."""
    return installed.folder("os")


def missing() -> str:
    """'', or one line that says what lacks and how to get it."""
    lacking = [name for name in ("bwrap", "setpriv") if not shutil.which(name)]
    lacking += [Path(path).name for path in PROGRAMS if not Path(path).exists()]
    if not (folder() / "pyautogui").is_dir():
        lacking.append("pyautogui for blocks")
    return f"{', '.join(lacking)}: agentworld setup os" if lacking else ""


def setup(say: Say) -> None:
    """Raises ConfigError. What is there is left alone."""
    if not all(Path(path).exists() for path in PROGRAMS):
        installed.apt_install(DEBIAN, say)
    say(f"packages for blocks in {installed.install('os', _fill)}")


def _fill(target: Path) -> None:
    """Plain Python packages: whichever Python installs them, the box's runs them."""
    wanted = resources.files(__package__).joinpath("packages.txt").read_text(encoding="utf-8")
    listed = target / "packages.txt"
    listed.write_text(wanted, encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    installed.run((*pip, "--no-deps", "--require-hashes", "--target", str(target), "-r", str(listed)))
