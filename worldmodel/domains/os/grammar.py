"""The action grammar of the desktop: a block of Python, or one word that ends the episode.

Owns: what is an action, its longest text, the probes of checks. Refuses: running blocks.
``PROBE`` is no action of a policy: ``PROBE file PATH``, ``PROBE files FOLDER`` and ``PROBE display`` read the final
state.
"""

from __future__ import annotations

import ast
import re
import warnings

from rollout.types import Action

DONE, FAIL = "DONE", "FAIL"
RUN, PROBE = "run", "PROBE"
MAX_ACTION = 16 * 1024  # characters
_FENCED = re.compile(r"\s*```(?:python|py)?[ \t]*\n(.*?)\n?```\s*", re.DOTALL)
_PROBE = re.compile(r"PROBE (?:(file) ([^\n]{1,200})|(files)(?: ([^\n]{1,200}))?|(display))")


def parse(text: str) -> Action:
    """Never raises; ``error`` is one line."""
    if len(text) > MAX_ACTION:
        return Action(text, error=f"an action is at most {MAX_ACTION} characters")
    word = text.strip()
    if word in (DONE, FAIL):
        return Action(text, name=word, final=True)
    probe = _PROBE.fullmatch(word)
    if probe:
        return Action(text, name=PROBE, arguments=_asked(probe), probe=True)
    fenced = _FENCED.fullmatch(text)
    code = (fenced[1] if fenced else text).strip("\n")
    if not code.strip():
        return Action(text, error="expected a block of Python, DONE or FAIL")
    error = fault(code)
    return Action(text, error=error) if error else Action(text, name=RUN, arguments={"code": code})


def _asked(probe: re.Match[str]) -> dict[str, str]:
    verb = probe[1] or probe[3] or probe[5]
    return {"what": verb, "path": (probe[2] or probe[4] or "").strip()}


def fault(code: str) -> str | None:
    """Why ``code`` is no Python, in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)
    except SyntaxError as error:
        said = " ".join(str(error.msg).split())
        return f"SyntaxError: {said} (line {error.lineno})" if error.lineno else f"SyntaxError: {said}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"not Python: {' '.join(str(error).split()) or type(error).__name__}"
    return None


def show(action: Action) -> str:
    """The block without its fence; what is no action stays as it was said."""
    return str(action.arguments["code"]) if action.name == RUN else action.text.strip()


def probe_file(path: str) -> str:
    return f"{PROBE} file {path}"


def probe_files(folder: str = "") -> str:
    return f"{PROBE} files {folder}".strip()


PROBE_DISPLAY = f"{PROBE} display"
