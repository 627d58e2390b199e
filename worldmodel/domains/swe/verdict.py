"""Whether a repair holds: the package's own tests, on the episode's source, in a machine of their own.

Owns: what is taken from an episode (its source files, nothing else), what a repair may not name, the reply of the
``run_tests`` probe. Refuses: running an episode (``real``).

How a verdict is kept honest. The episode's processes are dead by then. The tests run in a fresh machine that holds the
pristine package (tests, conftest files, configuration), with only the ``.py`` files of its source folders taken from
the episode. Code under test shares a process with pytest, so three more things hold: the process that reports is not
the one that runs it; every test that passes in the pristine package must be reported as passed; and among the tests
is one that must fail, under a random name at a random place. Before all that, source that newly names the test runner,
the interpreter's insides or an equality of its own is refused: no repair of these bugs needs them.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import PurePosixPath

from worldmodel.domains.swe.box_tests import names_in
from worldmodel.domains.swe.packages import Package, tree
from worldmodel.domains.swe.testing import CPU_SECONDS, SECONDS, Bench, baseline
from worldmodel.sandbox import SandboxError

PASSED = "passed"
MAX_NAMED = 5
BUSY = 0.4  # of a deadline spent waiting for a processor: the deadline is the machine's doing
SUSPECT = frozenset(
    """
    pytest _pytest pluggy unittest doctest conftest gc inspect ctypes _ctypes _getframe modules meta_path path_hooks
    settrace setprofile monitoring excepthook displayhook builtins __builtins__ __import__ importlib import_module exec
    eval compile os posix subprocess signal threading _thread multiprocessing atexit sys socket pathlib io open mmap
    _exit exit quit fork kill SystemExit KeyboardInterrupt BaseException GeneratorExit SkipTest f_back f_locals
    f_globals tb_frame gi_frame __globals__ __code__ __closure__ __subclasses__ __bases__ __mro__ __class__ __dict__
    __eq__ __ne__
    __lt__ __le__ __gt__ __ge__ __contains__ __instancecheck__ __subclasscheck__ __getattribute__ __getattr__ __bool__
    __hash__ __loader__ __spec__ getattr setattr delattr vars globals locals breakpoint codecs pickle marshal
    traceback warnings weakref faulthandler linecache runpy code types
    """.split()
)


@cache
def forbidden(package: Package) -> tuple[str, ...]:
    """Suspect names that no source file of the pristine package mentions."""
    known: set[str] = set()
    for path, text in tree(package.name).items():
        if package.is_code(path):
            known |= names_in(text)
    return tuple(sorted(SUSPECT - known))


def merged(package: Package, found: Mapping[str, str]) -> dict[str, str]:
    """The pristine package with its source replaced by ``found``. What cannot lie there is left out."""
    files = {path: text for path, text in tree(package.name).items() if not package.is_code(path)}
    for path, text in found.items():
        parts = PurePosixPath(path).parts
        parents = {str(parent) for parent in PurePosixPath(path).parents}
        plain = path.isprintable() and "/".join(parts) == path and ".." not in parts
        if plain and package.is_code(path) and not parents & set(files):
            files[path] = text
    return files


def required(package: Package, files: Sequence[str]) -> list[str]:
    """Every test of ``files`` that passes in the pristine package."""
    return sorted(name for name in baseline(package.name) if name.partition("::")[0] in files)


def verdict(bench: Bench, package: Package, files: Sequence[str], failing: Sequence[str]) -> str:
    """``passed``, or ``failed`` and why in a second line. Raises SandboxError where no box can be had, or the machine
    was too busy for the tests to end: that says nothing about the repair."""
    return judged(bench, package, files, {*required(package, files), *failing}, forbidden(package))


def judged(bench: Bench, package: Package, files: Sequence[str], wanted: Collection[str], names: Sequence[str]) -> str:
    """The verdict where all tests ``wanted`` of ``files`` must pass and the source may not mention ``names``."""
    places = list(files)
    canary = f"{PurePosixPath(files[0]).parent}/test_{secrets.token_hex(6)}.py".removeprefix("./")
    places.insert(random.randrange(len(places) + 1), canary)
    screen = {"below": list(package.code), "except": list(package.tests), "names": list(names)}
    reply = bench.run(places, SECONDS, canary=canary, screen=screen, cpu=CPU_SECONDS)
    match reply["end"]:
        case "screened":
            return f"failed\nthe source names {reply['name']}, which no repair needs"
        case "deadline" if reply["waited"] > SECONDS * BUSY:
            raise SandboxError(f"swe: the tests waited {reply['waited']:.0f} of {SECONDS:g} s for a processor")
        case "deadline":
            return f"failed\nthe tests did not end within {SECONDS:g} s"
        case "died":
            return "failed\nthe tests ended without a report"
    outcomes = reply["outcomes"]
    if (outcomes.get(f"{canary}::test_true"), outcomes.get(f"{canary}::test_false")) != ("passed", "failed"):
        return "failed\nthe test runner was tampered with"
    lost = sorted(name for name in wanted if outcomes.get(name) != "passed")
    if lost:
        return f"failed\n{len(lost)} of {len(wanted)}: {', '.join(lost[:MAX_NAMED])}"
    return PASSED
