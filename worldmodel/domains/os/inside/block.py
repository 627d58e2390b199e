"""One block of Python: waits for its text with everything imported, runs it, ends.

Owns: the names a block finds, how its failure is printed. Refuses: outliving it.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import sys
import traceback
from importlib import import_module
from typing import Any

from worldmodel.domains.os.inside import place
from worldmodel.domains.os.inside.desk import Desk
from worldmodel.domains.os.inside.documents import content

MODULES = ("json", "os", "subprocess", "time", "pyautogui")
FILE = "<block>"


def names() -> dict[str, Any]:
    """What a block finds without an import."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        found: dict[str, Any] = {name: import_module(name) for name in MODULES}
    found["pyautogui"].PAUSE, found["pyautogui"].FAILSAFE = 0.02, False
    desk = Desk(found["pyautogui"])
    helpers = (desk.open_app, desk.wait_for, desk.find, desk.click, desk.settle, desk.close_window, content)
    return {**found, **{helper.__name__: helper for helper in helpers}, "__name__": "__main__"}


def main() -> None:
    sys.path.insert(0, place.PACKAGES)
    found = names()
    code = sys.stdin.buffer.read().decode("utf-8", "replace")
    linecache.cache[FILE] = (len(code), None, code.splitlines(keepends=True), FILE)
    try:
        exec(compile(code, FILE, "exec"), found)
    except SystemExit:
        raise
    except BaseException as error:  # whatever a block raises is printed as Python would print it
        error.__traceback__ = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(error, file=sys.stdout)
    sys.stdout.flush()
