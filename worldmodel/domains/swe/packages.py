"""The packages that are repaired: which, where they are kept, and their pristine trees.

Owns: pinned source distributions (name, version, SHA-256), where code and tests lie in each, getting and unpacking
them, and reading a tree once a process. Refuses: running any of their code (boxes do), and committing it.

Downloading a source distribution lets pip ask its build backend for metadata; pip checks the hash before that.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath

from rollout.errors import ConfigError
from worldmodel import installed

NAME = "swe"
PYTHON = "/usr/bin/python3"  # of the boxes
KEPT = (".py", ".md", ".rst", ".txt", ".toml", ".cfg", ".sql", ".json", ".typed", ".pyi")
LEFT_OUT = ("docs", "examples", "benchmark", "benchmarks", "tools", "requirements")
MAX_FILE = 400_000  # bytes
PYTEST_INI = "[pytest]\naddopts = -p no:cacheprovider\n"  # the first file that pytest looks for


@dataclass(frozen=True, slots=True)
class Package:
    """``code``: folders of its source; ``tests``: files or folders of its tests; ``paths``: what goes on sys.path."""

    name: str
    version: str
    sha256: str
    code: tuple[str, ...]
    tests: tuple[str, ...] = ("tests",)
    paths: tuple[str, ...] = ("",)

    def is_test(self, path: str) -> bool:
        return any(path == test or path.startswith(f"{test}/") for test in self.tests)

    def is_code(self, path: str) -> bool:
        """Whether a verdict takes ``path`` from the episode."""
        inside = any(path.startswith(f"{folder}/") for folder in self.code)
        return inside and path.endswith(".py") and not self.is_test(path) and not path.endswith("/conftest.py")


# Licences: BSD-3-Clause (sqlparse, toolz), MIT (the others).
PACKAGES: dict[str, Package] = {
    package.name: package
    for package in (
        Package("cachetools", "8.0.2", "30ac523adfc118b51d2b2e7bad8a0ddb31370dfe2700c7f10ca224f36ccf81e0",
                ("src/cachetools",), paths=("src", "")),
        Package("humanize", "4.17.0", "1d6a36c453dbfbb3f0b34601d2e0b4ce5d48d780305cd45714843f0068fde6ac",
                ("src/humanize",), paths=("src", "")),
        Package("inflection", "0.5.1", "1a29730d366e996aaacffb2f1f1cb9593dc38e2ddd30c91250c6dde09ea9b417",
                ("inflection",), ("test_inflection.py",)),
        Package("more-itertools", "11.2.1", "cbf08fd0af284dc69718b9b76a8e6203df624d70209ea511e4219d350c856f63",
                ("more_itertools",), ("tests/test_more.py",)),
        Package("python-slugify", "9.2.0", "cee32948083476013804de1667724fb1362dacb71e47b1d5d92adf8db6ee3298",
                ("slugify",)),
        Package("sqlparse", "0.6.1", "ca722573f848ff2d30e40ea30f53a104b7dea7635ea9285891263eb2c58fb6e7",
                ("sqlparse",)),
        Package("tabulate", "0.10.0", "e2cfde8f79420f6deeffdeda9aaec3b6bc5abce947655d17ac662b126e48a60d",
                ("tabulate",), ("test",)),
        Package("toolz", "1.2.0", "9667a038e9d6ecba37995e26cb2f59ec6420b6ad8dd9677de59db9b956b08490",
                ("toolz",), ("toolz/tests",)),
    )
}  # fmt: skip


def missing() -> str:
    """'' where everything is there, or what lacks and how to get it."""
    lacking = [name for name in ("bwrap", "setpriv", "git") if not shutil.which(name)]
    if lacking:
        return f"{', '.join(lacking)}: apt-get install bubblewrap util-linux git"
    if not Path(PYTHON).exists() or not Path("/usr/bin/git").exists():
        return f"{PYTHON} or /usr/bin/git, which boxes use: apt-get install python3 git"
    return "" if _complete() and baseline_file().is_file() else "packages with tests: agentworld setup swe"


def _complete() -> bool:
    """Of exactly these versions: a folder left by other ones is made again."""
    try:
        kept: object = json.loads((home() / "versions.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return kept == _versions()


def _versions() -> dict[str, str]:
    return {package.name: package.sha256 for package in PACKAGES.values()}


def home() -> Path:
    return installed.folder(NAME)


def baseline_file() -> Path:
    """Which tests pass on this machine where nothing is wrong (``testing.measure``)."""
    return home() / "baseline.json"


def site() -> Path:
    """pytest and what tests import, for the Python of the boxes."""
    return home() / "site"


def setup(say: installed.Say) -> None:
    """Download, check, unpack. Raises ConfigError."""
    if home().is_dir() and not _complete():
        shutil.rmtree(home())
        _trees.cache_clear()
    installed.install(NAME, lambda folder: _fill(folder, say))


def _fill(folder: Path, say: installed.Say) -> None:
    say(f"downloading {len(PACKAGES)} source distributions")
    pins = "".join(f"{p.name}=={p.version} --hash=sha256:{p.sha256}\n" for p in PACKAGES.values())
    (folder / "packages.txt").write_text(pins, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    sources = folder / "sdists"
    only = ",".join(PACKAGES)  # not :all:, which would also build every build backend from source
    wanted = ["--no-deps", "--no-binary", only, "--require-hashes", "-r", str(folder / "packages.txt")]
    installed.run([*pip, "download", *wanted, "-d", str(sources)])
    for package in PACKAGES.values():
        archive = next(iter(sources.glob(f"{package.name.replace('-', '_')}-{package.version}.tar.gz")), None)
        archive = archive or next(iter(sources.glob(f"{package.name}-{package.version}.tar.gz")))
        unpack(archive, folder / "trees" / package.name)
    say("installing pytest for the boxes")
    with resources.as_file(resources.files(__package__).joinpath("site.txt")) as lock:
        target = ["--target", str(folder / "site"), "--python-version", _python(), "--only-binary", ":all:"]
        installed.run([*pip, "install", *target, "--no-deps", "--no-compile", "--require-hashes", "-r", str(lock)])
    installed.run([PYTHON, "-m", "compileall", "-q", str(folder / "site")])
    (folder / "versions.json").write_text(json.dumps(_versions()), encoding="utf-8")


def _python() -> str:
    """Version of the boxes' Python, like 3.11."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def unpack(archive: Path, target: Path) -> None:
    """The files of a source distribution that matter, as plain text files: no links, no modes, no way out."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts[1:]
            if not member.isfile() or not parts or not kept(PurePosixPath(*parts), member.size):
                continue
            stream = tar.extractfile(member)
            content = stream.read() if stream else b""
            try:
                content.decode("utf-8")
            except UnicodeDecodeError:
                continue
            place = target.joinpath(*parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)


def kept(path: PurePosixPath, size: int) -> bool:
    name = path.as_posix()
    if size > MAX_FILE or ".." in path.parts or path.parts[0] in LEFT_OUT or ".egg-info" in name:
        return False
    licence = path.name.upper().startswith(("LICENSE", "LICENCE"))
    return licence or (path.suffix in KEPT and not any(part.startswith(".") for part in path.parts))


@cache
def _trees(home: Path) -> dict[str, dict[str, str]]:
    return {name: _read(home / "trees" / name) for name in PACKAGES}


def _read(root: Path) -> dict[str, str]:
    files = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as stream:
                files[path.relative_to(root).as_posix()] = stream.read()
    return {**files, "pytest.ini": PYTEST_INI}


def tree(name: str) -> Mapping[str, str]:
    """Path -> text of a pristine package. Raises ConfigError where it is not installed."""
    if not _complete():
        raise ConfigError(f"swe: missing {missing() or 'packages with tests: agentworld setup swe'}")
    return _trees(home())[name]
